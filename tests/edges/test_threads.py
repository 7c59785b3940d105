"""Threads of the engine: what is done at the same time, and cores that are counted."""

import threading
import time
from functools import partial
from pathlib import Path

import pytest

from worker.edges import threads
from worker.edges.threads import ThreadExecutor, threads_for, usable_cores


@pytest.mark.parametrize("count", [2, 3])
def test_so_many_tasks_are_done_at_the_same_time(count: int) -> None:
    """Each thread has one when all meet, and the caller goes on meanwhile."""
    barrier, names = threading.Barrier(count + 1), set[str]()

    def meet() -> None:
        names.add(threading.current_thread().name)
        barrier.wait(10)

    with ThreadExecutor(count) as executor:
        for _ in range(count):
            executor.submit(meet)
        barrier.wait(10)
    assert len(names) == count
    assert threading.current_thread().name not in names


def test_one_thread_is_that_of_the_caller() -> None:
    """What is submitted is done at once."""
    names: list[str] = []
    with ThreadExecutor(1) as executor:
        executor.submit(lambda: names.append(threading.current_thread().name))
        assert names == [threading.current_thread().name]


def test_what_was_submitted_is_done_at_the_end() -> None:
    """Nobody works on a shard any more while the process ends."""
    done: list[int] = []

    def task(number: int) -> None:
        time.sleep(0.01 * (number == 0))
        done.append(number)

    with ThreadExecutor(2) as executor:
        for number in range(50):
            executor.submit(partial(task, number))
    assert sorted(done) == list(range(50))


@pytest.mark.parametrize(
    ("limit", "cores"), [("max 100000", 8), ("200000 100000", 2), ("50000 100000", 1), ("nonsense", 8), (None, 8)]
)
def test_the_limit_of_a_container_counts(
    limit: str | None, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sees all cores of the machine, but may use only so much of them."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    path = tmp_path / "cpu.max"
    if limit is not None:
        path.write_text(limit, encoding="ascii")
    assert usable_cores(path) == cores


@pytest.mark.parametrize(
    ("wanted", "processes", "given"), [(0, 1, 4), (0, 2, 3), (0, 6, 1), (0, 9, 1), (1, 1, 1), (7, 3, 7)]
)
def test_processes_share_the_cores(wanted: int, processes: int, given: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said for each process holds."""
    monkeypatch.setattr(threads, "usable_cores", lambda: 6)
    assert threads_for(wanted, processes) == given
