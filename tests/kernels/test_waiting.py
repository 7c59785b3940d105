"""What is written of predictions that wait, against NumPy on whole columns."""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.kernels.waiting import count_panes, fill_rows

ROWS = st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=30)


@given(rows=ROWS, pane_ms=st.integers(1, 20))
@settings(max_examples=200, deadline=None)
def test_panes_are_counted_in_rising_order(rows: list[tuple[int, bool]], pane_ms: int) -> None:
    """As `np.unique` does, without the duplicates."""
    times = np.array([time for time, _ in rows], dtype=np.int64)
    slots = np.array([7 if used else -1 for _, used in rows], dtype=np.int64)
    panes, counts = np.empty(len(rows), dtype=np.int64), np.empty(len(rows), dtype=np.int64)
    found = count_panes(times, slots, pane_ms, panes, counts)
    expected = np.unique(times[slots >= 0] // pane_ms, return_counts=True)
    assert (panes[:found].tolist(), counts[:found].tolist()) == (expected[0].tolist(), expected[1].tolist())


@given(used=st.lists(st.booleans(), max_size=8), seed=st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_rows_are_written_where_they_wait(used: list[bool], seed: int) -> None:
    """Rows of duplicates write nothing; a row that was left by another prediction keeps nothing of it."""
    rng = np.random.default_rng(seed)
    count, capacity = len(used), 10
    slots = np.where(used, rng.permutation(capacity)[:count], -1)
    told: list[Any] = [
        rng.integers(0, 99, count),
        rng.random(count),
        rng.integers(0, 3, count).astype(np.int8),
        rng.integers(0, 9, (count, 2)).astype(np.int32),
        rng.integers(0, 99, count),
    ]
    offset, prediction, kind, segments, number = (np.full((capacity, *each.shape[1:]), 5, each.dtype) for each in told)
    lag, blocks = np.full(capacity, 5, dtype=np.int16), np.full((capacity, 3), 5, dtype=np.int32)
    waiting: list[Any] = [offset, prediction, kind, segments, number]
    expected = [each.copy() for each in (*waiting, lag, blocks)]
    arguments: list[Any] = [slots, *told, -1, *waiting, lag, blocks]
    fill_rows(*arguments)
    places = slots[slots >= 0]
    for column, values in zip(expected, (*told, np.zeros(count), np.full((count, 3), -1)), strict=True):
        column[places] = values[slots >= 0]
    for column, values in zip((*waiting, lag, blocks), expected, strict=True):
        np.testing.assert_array_equal(column, values)
