"""The refit pool: the same bytes as a fit in place, whatever becomes of the processes, and none is left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest

from worker.core.detectors.forest_fit import InlineRefits
from worker.core.detectors.refit import ForestRequest, RefitRequest, SvmRequest
from worker.edges.refit_pool import ProcessRefitPool, RefitFailedError

_WAIT_MAX_S = 15.0


def _request(seed: int, rows: int = 300, trees: int = 5) -> RefitRequest:
    table = np.random.default_rng(seed).normal(size=(rows, 3)).astype(np.float32)
    table[::7, 1] = np.nan
    return ForestRequest(table, trees, 64, seed)


def _svm_request(seed: int) -> RefitRequest:
    return SvmRequest(np.random.default_rng(seed).normal(size=(100, 3)).astype(np.float32), 0.5, 0.3)


def _kill_children() -> None:
    for child in active_children():
        child.kill()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # In a container without an init, one who has left stays in the list as a zombie.
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text(encoding="ascii").rpartition(")")[2].split()[0] == "Z")


def _becomes(reached: Callable[[], bool]) -> bool:
    end = time.monotonic() + _WAIT_MAX_S
    while not reached() and time.monotonic() < end:
        time.sleep(0.02)
    return reached()


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessRefitPool]:
    """One warm pool for the tests that leave it alive."""
    with ProcessRefitPool(1) as pool:
        pool.warm()
        yield pool


def test_a_fit_in_a_process_gives_the_same_bytes(pool: ProcessRefitPool) -> None:
    """A request determines its forest or its SVM; rows that change after `submit` change nothing."""
    inline = InlineRefits()
    requests = [request for seed in range(3) for request in (_request(seed), _svm_request(seed))]
    expected = [inline.submit(request).result().to_bytes() for request in requests]
    tickets = [pool.submit(request) for request in requests]
    for request in requests:
        request.rows[:] = 0.0
    assert [ticket.result().to_bytes() for ticket in tickets] == expected


def test_fits_go_on_when_their_process_dies(pool: ProcessRefitPool) -> None:
    """Those under way and those in the queue are asked for again; nobody notices but the clock."""
    pool.submit(_request(0)).result()
    requests = [_request(seed, rows=2000, trees=100) for seed in range(3)]
    tickets = [pool.submit(request) for request in requests]
    _kill_children()
    expected = [InlineRefits().submit(request).result().to_bytes() for request in requests]
    assert [ticket.result().to_bytes() for ticket in tickets] == expected


def test_the_time_that_events_wait_is_told() -> None:
    """Somebody counts the seconds for which a takeover held up the stream."""
    waits: list[float] = []
    with ProcessRefitPool(1, waits.append) as pool:
        pool.submit(_request(1)).result()
    assert len(waits) == 1
    assert waits[0] > 0.0


def test_a_process_that_always_dies_is_given_up() -> None:
    """Endless death (out of memory, say) becomes one clear error."""
    with ProcessRefitPool(1) as pool:
        ticket = pool.submit(_request(1))
        original = pool.start

        def start_and_kill(payload: bytes) -> object:
            future = original(payload)
            _kill_children()
            return future

        pool.start = start_and_kill  # type: ignore[method-assign, assignment] # a process that cannot live
        _kill_children()
        with pytest.raises(RefitFailedError, match="died 3 times"):
            ticket.result()


def test_closing_leaves_no_process() -> None:
    """After `close` there is no child, also when it was closed in the midst of a fit."""
    others = {child.pid for child in active_children()}
    pool = ProcessRefitPool(2)
    for seed in range(4):
        pool.submit(_request(seed, rows=2000, trees=100))
    pids = {child.pid for child in active_children()} - others
    assert len(pids) == 2
    pool.close()
    assert not any(_lives(pid) for pid in pids if pid is not None)


def test_no_child_survives_a_parent_that_is_killed() -> None:
    """Kill -9 leaves no time to clean up: the child notices by itself, and Ctrl-C alone does not end it."""
    script = """
        import numpy as np
        from multiprocessing import active_children
        from worker.core.detectors.refit import ForestRequest
        from worker.edges.refit_pool import ProcessRefitPool
        import time
        if __name__ == "__main__":
            pool = ProcessRefitPool(1)
            pool.submit(ForestRequest(np.ones((20, 2), dtype=np.float32), 1, 16, 0)).result()
            print(*(child.pid for child in active_children()), flush=True)
            time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, signal.SIGINT)
        time.sleep(0.2)
        assert _lives(child)
        parent.kill()
        assert _becomes(lambda: not _lives(child))
