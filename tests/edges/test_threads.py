"""Threads of the engine: results in order, errors that surface, cores that are counted."""

import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from worker.edges import threads
from worker.edges.threads import ThreadExecutor, threads_for, usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable


def _meeting(barrier: threading.Barrier, number: int) -> tuple[int, str]:
    barrier.wait(10)
    return number, threading.current_thread().name


@pytest.mark.parametrize("count", [1, 2, 3])
def test_tasks_are_done_at_the_same_time_and_told_in_their_order(count: int) -> None:
    """Each of so many threads has one when all meet; the thread of the caller is one of them."""
    barrier = threading.Barrier(count)
    with ThreadExecutor(count) as executor:
        for _ in range(3):
            done = executor.run([partial(_meeting, barrier, number) for number in range(count)])
            assert [number for number, _ in done] == list(range(count))
            assert threading.current_thread().name in {name for _, name in done}
            assert len({name for _, name in done}) == count


def test_more_tasks_than_threads_are_all_done_once() -> None:
    """The quick thread takes what the slow one has not begun."""
    done: list[int] = []

    def task(number: int) -> int:
        time.sleep(0.01 * (number == 0))
        done.append(number)
        return number

    with ThreadExecutor(2) as executor:
        assert executor.run([partial(task, number) for number in range(50)]) == list(range(50))
        assert executor.run([]) == []
    assert sorted(done) == list(range(50))


def test_the_first_error_is_raised_when_all_others_have_finished() -> None:
    """Nobody works on a shard any more while the process ends."""
    barrier, finished = threading.Barrier(2), threading.Event()

    def late() -> None:
        barrier.wait(10)
        time.sleep(0.05)
        finished.set()

    def fails(text: str, barrier: threading.Barrier | None = None) -> None:
        if barrier is not None:
            barrier.wait(10)
        raise ValueError(text)

    tasks: list[Callable[[], None]] = [late, partial(fails, "first", barrier), partial(fails, "second")]
    with ThreadExecutor(2) as executor, pytest.raises(ValueError, match="first"):
        executor.run(tasks)
    assert finished.is_set()


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
