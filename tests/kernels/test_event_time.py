"""Assigning events to panes, beside a naive twin."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from worker.core.kernels.event_time import NO_PANE, OLDEST, WATERMARK, assign_panes

PANE, GRACE = 100, 30


def naive(times: list[int]) -> tuple[list[tuple[int, bool]], list[tuple[int, int]]]:
    """Return pane and lateness of each event, and the closings as (row, pane), one event after the other."""
    watermark = 0
    open_panes: set[int] = set()
    assigned: list[tuple[int, bool]] = []
    closings: list[tuple[int, int]] = []
    for row, time in enumerate(times):
        watermark = max(watermark, time)
        for pane in sorted(open_panes):
            if watermark >= (pane + 1) * PANE + GRACE:
                closings.append((row, pane))
                open_panes.remove(pane)
        own = time // PANE
        late = (own + 1) * PANE + GRACE <= watermark
        pane = watermark // PANE if late else own
        open_panes.add(pane)
        assert len(open_panes) <= 2
        assigned.append((pane, late))
    return assigned, closings


def compiled(times: list[int], cuts: list[int]) -> tuple[list[tuple[int, bool]], list[tuple[int, int]]]:
    """Do the same with the kernel, in calls that end at the cuts, closing panes as the monitor does."""
    count = len(times)
    panes, marks, late = np.empty(count, np.int64), np.empty(count, np.int64), np.zeros(count, np.bool)
    clock = np.array([0, NO_PANE, 0], dtype=np.int64)
    closings: list[tuple[int, int]] = []
    open_panes: set[int] = set()
    begin = 0
    for stop in [*sorted(cuts), count]:
        while begin < stop:
            end = assign_panes(np.array(times), begin, stop, clock, PANE, GRACE, 10**9, panes, marks, late)
            open_panes.update(panes[begin:end].tolist())
            if end < stop:
                oldest = min(open_panes)
                assert oldest == clock[OLDEST]
                closings.append((end, oldest))
                open_panes.remove(oldest)
                clock[OLDEST] = min(open_panes, default=NO_PANE)
            begin = end
    assert clock[WATERMARK] == max(times, default=0)
    return list(zip(panes.tolist(), late.tolist(), strict=True)), closings


@given(
    st.lists(st.integers(0, 1000) | st.integers(400, 600), max_size=60),
    st.lists(st.integers(0, 60), max_size=5),
)
def test_panes_are_those_of_the_naive_twin(times: list[int], cuts: list[int]) -> None:
    """Panes, lateness and closings are equal, and at most two panes are open at any time."""
    assert compiled(times, [cut for cut in cuts if cut < len(times)]) == naive(times)


def test_one_wrong_clock_does_not_make_a_model_late_for_ever() -> None:
    """An event far ahead moves the watermark; after three events far behind it, the watermark is set back."""
    times = np.array([1000, 1010, 9_000_000, 1020, 1030, 1040, 1050, 1150], dtype=np.int64)
    panes, marks, late = np.empty(8, np.int64), np.empty(8, np.int64), np.zeros(8, np.bool)
    clock = np.array([0, NO_PANE, 0], dtype=np.int64)
    begin = 0
    while begin < len(times):
        begin = assign_panes(times, begin, len(times), clock, PANE, GRACE, 3600, panes, marks, late)
        clock[OLDEST] = NO_PANE if begin < len(times) else clock[OLDEST]  # the monitor closes panes here
    assert panes.tolist() == [10, 10, 90_000, 90_000, 90_000, 10, 10, 11]
    assert late.tolist() == [False, False, False, True, True, False, False, False]
    assert clock[WATERMARK] == 1150
