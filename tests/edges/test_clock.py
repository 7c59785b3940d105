"""The meters of work: they count what lies between begin and end."""

import threading
import time

import pytest

from worker.edges.clock import WorkEffort, WorkMeter


def _work(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def test_a_meter_counts_what_lies_between_begin_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing outside."""
    now = iter([10.0, 10.5, 100.0, 102.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    meter = WorkMeter()
    for _ in range(2):
        meter.begin()
        meter.end()
    assert meter.seconds == 2.5


def test_an_effort_tells_all_parts() -> None:
    """The engine's, of it that for maintenance, and what other processes say."""
    meter = WorkMeter()
    effort = WorkEffort(meter, lambda: 7.5)
    effort.begin()
    _work(0.01)
    meter.begin()
    _work(0.01)
    meter.end()
    effort.end()
    spent = effort.spent()
    assert spent.engine_s >= 0.02
    assert 0.01 <= spent.maintenance_s < spent.engine_s
    assert spent.children_s == 7.5


def test_a_meter_loses_nothing_of_threads_that_work_at_the_same_time() -> None:
    """Each has its own begin, and what all have measured is added up."""
    meter, count = WorkMeter(), 4
    barrier = threading.Barrier(count)

    def work(number: int) -> None:
        meter.begin()
        barrier.wait(10)
        time.sleep(0.02 * number)
        meter.end()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert meter.seconds >= 0.02 * (1 + 2 + 3)
