"""The longest pauses of each week, beside a naive twin."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.kernels.pauses import note_pauses

WEEK = 10
TIMES = st.lists(st.integers(0, 60), min_size=1, max_size=30)


def longest_by_week(times: list[int], weeks: int) -> list[list[int]]:
    """Return the two longest pauses of the last weeks with a record: a pause is of the week that it ends in."""
    found: list[list[int]] = [[0, 0]]
    for before, time in pairwise(times):
        if time // WEEK > before // WEEK:
            found.insert(0, [0, 0])
        found[0] = sorted([*found[0], max(time - before, 0)], reverse=True)[:2]
    return (found + [[0, 0]] * weeks)[:weeks]


@settings(deadline=None)
@given(TIMES, st.integers(1, 3), st.data())
def test_equals_its_naive_twin_in_any_cut(times: list[int], weeks: int, data: st.DataObject) -> None:
    """Whatever the times, some of them set back, and wherever a batch ends."""
    cuts = sorted(data.draw(st.lists(st.integers(1, len(times)), max_size=3)))
    longest = np.zeros((weeks, 2), dtype=np.int64)
    last = times[0]
    for begin, end in pairwise([0, *cuts, len(times)]):
        note_pauses(last, np.array(times[begin:end], dtype=np.int64), WEEK, longest)
        last = times[end - 1] if end else last
    assert longest.tolist() == longest_by_week([times[0], *times], weeks)
