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
from worker.core.maintenance.challengers import (
    BoostedRequest,
    ChallengerPool,
    LabelledRows,
    LinearRequest,
)
from worker.core.maintenance.halving import HalvingRequest
from worker.core.options.maintenance import BoostedOptions, LinearOptions
from worker.edges.refit_pool import ProcessRefitPool, RefitFailedError, challenger_lane

pytestmark = pytest.mark.xdist_group("refit pool")
"""All in one process: each other one would start a pool of its own, whose processes load scikit-learn."""
_WAIT_MAX_S = 15.0


def _request(seed: int, rows: int = 300, trees: int = 5) -> RefitRequest:
    table = np.random.default_rng(seed).normal(size=(rows, 3)).astype(np.float32)
    table[::7, 1] = np.nan
    return ForestRequest(table, trees, 64, seed)


def _svm_request(seed: int, rows: int = 100) -> SvmRequest:
    return SvmRequest(np.random.default_rng(seed).normal(size=(rows, 3)).astype(np.float32), 0.5, 0.3)


def _labelled(seed: int, rows: int = 300, n_classes: int = 0) -> LabelledRows:
    random = np.random.default_rng(seed)
    table = random.normal(size=(rows, 3)).astype(np.float32)
    table[::7, 1] = np.nan
    targets = table[:, 0] + random.normal(size=rows)
    if n_classes:
        targets = np.floor(np.clip(targets + 1.0, 0.0, n_classes - 1.0))
    return LabelledRows(table, targets.astype(np.float64), n_classes)


_SMALL = BoostedOptions(iterations=5, leaves_max=4)


def _challenger_requests() -> list[BoostedRequest | LinearRequest | HalvingRequest]:
    """One of each kind, and of each form that rows, labels and weights may have."""
    classes, numbers = _labelled(1, n_classes=3), _labelled(2)
    doubles = np.random.default_rng(2).normal(size=(300, 3))
    weighted = numbers._replace(rows=doubles, weights=np.linspace(0.5, 2.0, 300))
    candidates = (_SMALL, BoostedOptions(iterations=10, leaves_max=3))
    return [
        BoostedRequest(classes, _SMALL, 5),
        BoostedRequest(weighted, _SMALL, 5),
        LinearRequest(classes, LinearOptions(penalty=2.0)),
        LinearRequest(weighted, LinearOptions()),
        HalvingRequest(_labelled(3, rows=400, n_classes=2), candidates, 1),
    ]


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


def _ignores_interrupts(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return _lives(pid)
    # Who dies of it takes seconds to do so.
    ignored = int(status.read_text(encoding="ascii").partition("SigIgn:")[2].split()[0], 16)
    return bool(ignored >> (signal.SIGINT - 1) & 1)


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


def test_what_a_fit_of_a_detector_cost_and_how_long_events_waited_is_told(
    pool: ProcessRefitPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for each fit: CPU seconds of the fit, wherever it ran, and the time that `result` took."""
    costs: list[float] = []
    waits: list[float] = []
    monkeypatch.setattr(pool, "fitted", costs.append)
    monkeypatch.setattr(pool, "waited", waits.append)
    tickets = [pool.submit(_request(seed, rows=2_000, trees=50)) for seed in range(2)]
    begun = time.monotonic()
    for ticket in tickets:
        ticket.result()
    assert sum(waits) <= time.monotonic() - begun
    assert len(costs) == len(waits) == 2
    assert min(costs) > 0.0


def test_a_fit_in_a_process_gives_the_same_bytes(pool: ProcessRefitPool) -> None:
    """A request determines its forest or its SVM; rows that change after `submit` change nothing."""
    inline = InlineRefits()
    requests = [request for seed in range(3) for request in (_request(seed), _svm_request(seed))]
    expected = [inline.submit(request).result().to_bytes() for request in requests]
    tickets = [pool.submit(request) for request in requests]
    for request in requests:
        request.rows[:] = 0.0
    assert [ticket.result().to_bytes() for ticket in tickets] == expected


def test_a_challenger_in_a_process_has_the_same_bytes(pool: ProcessRefitPool) -> None:
    """Models and searches alike are determined by their requests; rows that change afterwards change nothing."""
    inline: ChallengerPool = InlineRefits()
    other: ChallengerPool = pool
    requests = _challenger_requests()
    expected = [inline.fit_challenger(request).result().to_bytes() for request in requests]
    # One after the other: what still waits would be done here instead.
    found = [other.fit_challenger(request).result().to_bytes() for request in _challenger_requests()]
    assert found == expected
    tickets = [other.fit_challenger(request) for request in requests]
    for request in requests:
        request.labelled.rows[:] = 0.0
        request.labelled.targets[:] = 0.0
    assert [ticket.result().to_bytes() for ticket in tickets] == expected


def test_detectors_do_not_wait_for_challengers(pool: ProcessRefitPool) -> None:
    """While a search of seconds is under way, a detector's refit is there at once."""
    pool.submit(_svm_request(0)).result()
    before_s = pool.challenger_cpu_s
    search = HalvingRequest(_labelled(1, rows=4000), (BoostedOptions(), BoostedOptions(iterations=300)), 0)
    ticket = pool.fit_challenger(search)
    pool.submit(_svm_request(1)).result()
    pool.submit(_request(1)).result()
    assert pool.challenger_cpu_s == before_s
    ticket.result()
    assert pool.challenger_cpu_s > before_s


def test_a_challenger_that_waits_is_fitted_here(pool: ProcessRefitPool) -> None:
    """Whoever needs the last one of a queue does not wait for the others, and its CPU seconds count all the same."""
    before, before_s, children_s = pool.cpu_s, pool.challenger_cpu_s, pool.challenger_children_cpu_s
    search = pool.fit_challenger(HalvingRequest(_labelled(1, rows=4000), (BoostedOptions(), _SMALL), 0))
    request = LinearRequest(_labelled(2), LinearOptions())
    pool.fit_challenger(BoostedRequest(_labelled(3), _SMALL, 0))
    last = pool.fit_challenger(request)
    assert last.result().to_bytes() == request.fit().to_bytes()
    assert pool.challenger_children_cpu_s == children_s
    linear_s = pool.cpu_s["linear"] - before.get("linear", 0.0)
    assert 0.0 < linear_s == pytest.approx(pool.challenger_cpu_s - before_s)
    search.result()
    assert pool.challenger_children_cpu_s > children_s


def test_a_search_lets_models_pass(pool: ProcessRefitPool) -> None:
    """A fit that is asked for after a search is done before it, as it takes less time."""
    before = pool.cpu_s
    labelled = _labelled(1, rows=4000)
    searches = [pool.fit_challenger(HalvingRequest(labelled, (BoostedOptions(), _SMALL), seed)) for seed in range(2)]
    pool.fit_challenger(LinearRequest(_labelled(2), LinearOptions()))
    searches[0].result()
    first_s = pool.cpu_s["halving"]
    assert _becomes(lambda: pool.cpu_s.get("linear", 0.0) > before.get("linear", 0.0))
    assert pool.cpu_s["halving"] == first_s
    searches[1].result()


def test_a_request_beyond_the_limits_is_refused_alike(pool: ProcessRefitPool) -> None:
    """The sentence is the same wherever the fit was tried, and the process lives on."""
    request = LinearRequest(_labelled(1, rows=1), LinearOptions())
    with pytest.raises(ValueError, match="is not 2 to") as refused:
        pool.fit_challenger(request).result()
    with pytest.raises(ValueError, match="is not 2 to") as refused_here:
        request.fit()
    assert str(refused.value) == str(refused_here.value)
    pool.fit_challenger(request._replace(labelled=_labelled(1))).result()


def test_fits_go_on_when_their_process_dies(pool: ProcessRefitPool) -> None:
    """Those under way and those in the queue are asked for again; nobody notices but the clock."""
    pool.submit(_svm_request(0)).result()
    requests = [_svm_request(seed, rows=2000) for seed in range(3)]
    tickets = [pool.submit(request) for request in requests]
    search = HalvingRequest(_labelled(1, rows=2000), (BoostedOptions(), _SMALL), 0)
    searching = pool.fit_challenger(search)
    _kill_children()
    expected = [InlineRefits().submit(request).result().to_bytes() for request in requests]
    assert [ticket.result().to_bytes() for ticket in tickets] == expected
    assert searching.result() == search.fit()


def test_forests_need_no_process() -> None:
    """Each is the one that is grown in place; what waits for the thread is grown by whoever needs it."""
    others = set(active_children())
    requests = [_request(seed, rows=2000, trees=100) for seed in range(8)]
    with ProcessRefitPool(1) as pool:
        tickets = [pool.submit(request) for request in requests]
        found = [ticket.result().to_bytes() for ticket in reversed(tickets)]
        assert set(active_children()) == others
        assert pool.cpu_s["forest"] > 0.0
    assert found[::-1] == [InlineRefits().submit(request).result().to_bytes() for request in requests]


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
        ticket = pool.submit(_svm_request(1))
        original = pool.start

        def start_and_kill(payload: bytes) -> object:
            future = original(payload)
            _kill_children()
            return future

        pool.start = start_and_kill  # type: ignore[method-assign, assignment] # a process that cannot live
        _kill_children()
        with pytest.raises(RefitFailedError, match="died 3 times"):
            ticket.result()


def test_a_process_of_challengers_that_always_dies_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same error for them."""
    monkeypatch.setattr(challenger_lane, "answer_challengers", os._exit)  # with a pipe for an exit code it dies of it
    with ProcessRefitPool(1) as pool:
        ticket = pool.fit_challenger(LinearRequest(_labelled(1), LinearOptions()))
        assert _becomes(lambda: bool(active_children()))
        with pytest.raises(RefitFailedError, match="died 3 times"):
            ticket.result()


def test_closing_leaves_no_process() -> None:
    """After `close` there is no child, also when it was closed in the midst of a fit; a challenger's is given up."""
    others = {child.pid for child in active_children()}
    pool = ProcessRefitPool(2)
    for seed in range(4):
        pool.submit(_svm_request(seed, rows=2000))
        pool.submit(_request(seed, rows=2000, trees=100))
        pool.fit_challenger(HalvingRequest(_labelled(seed, rows=4000), (BoostedOptions(), BoostedOptions()), 0))
    assert _becomes(lambda: len({child.pid for child in active_children()} - others) == 3)
    pids = {child.pid for child in active_children()} - others
    pool.close()
    assert pool.challenger_cpu_s == 0.0
    assert not any(_lives(pid) for pid in pids if pid is not None)


def test_no_child_survives_a_parent_that_is_killed() -> None:
    """Kill -9 leaves no time to clean up: the child notices by itself, and Ctrl-C alone does not end it."""
    script = """
        import numpy as np
        from multiprocessing import active_children
        from worker.core.detectors.refit import SvmRequest
        from worker.core.maintenance.challengers import LabelledRows, LinearRequest
        from worker.core.options.maintenance import LinearOptions
        from worker.edges.refit_pool import ProcessRefitPool
        import time
        if __name__ == "__main__":
            pool = ProcessRefitPool(1)
            rows = np.ones((20, 2), dtype=np.float32)
            challenger = pool.fit_challenger(LinearRequest(LabelledRows(rows, np.ones(20), 0), LinearOptions()))
            pool.submit(SvmRequest(rows, 0.5, 0.3)).result()
            challenger.result()
            print(*(child.pid for child in active_children()), flush=True)
            time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 2
        for child in children:
            os.kill(child, signal.SIGINT)
        time.sleep(0.2)
        assert all(map(_lives, children))
        assert all(map(_ignores_interrupts, children))
        parent.kill()
        assert _becomes(lambda: not any(map(_lives, children)))
