"""Counts and errors by group and block: naive sums as the twin, and rows that leave no trace."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.kernels import group_tally as k
from worker.core.kernels.exact_sum import LOWEST_BIT, exact_value

GROUPS, RING, CELLS = 3, 4, 5
ROW = st.tuples(
    st.integers(-1, GROUPS - 1),
    st.integers(-1, GROUPS - 1),
    st.integers(-1, RING - 1),
    st.sampled_from([-1, 1]),
    st.integers(0, CELLS - 1),
)
NUMBERS = st.one_of(st.floats(-1e3, 1e3), st.sampled_from([0.0, 1e300, -1e300, 1.7e308]))


@given(st.lists(ROW, max_size=40))
@settings(max_examples=100, deadline=None)
def test_cells_are_counted_for_each_group(rows: list[tuple[int, int, int, int, int]]) -> None:
    """An event counts once in each of its groups, in its place of the ring; without a place it does not."""
    table = np.array(rows, dtype=np.int64).reshape(-1, 5)
    counts = np.zeros((GROUPS, RING, CELLS), dtype=np.int32)
    k.add_cells(counts, table[:, :2].copy(), table[:, 2].copy(), table[:, 3].astype(np.int8), table[:, 4].copy())
    expected = np.zeros_like(counts)
    for one, other, place, sign, cell in rows:
        for group in (one, other):
            if group >= 0 and place >= 0:
                expected[group, place, cell] += sign
    assert (counts == expected).all()


@given(st.lists(st.tuples(NUMBERS, NUMBERS, st.integers(-1, GROUPS - 1), st.integers(-1, RING - 1)), max_size=30))
@settings(max_examples=100, deadline=None)
def test_errors_are_summed_exactly_and_taken_away_without_a_trace(rows: list[tuple[float, float, int, int]]) -> None:
    """Sums are those of fractions, to the bits that are kept; the same rows with a minus leave zeros."""
    unit = 4.0
    labels, predictions = (np.array([row[i] for row in rows]) for i in (0, 1))
    groups = np.array([row[2] for row in rows], dtype=np.int64).reshape(-1, 1)
    places = np.array([row[3] for row in rows], dtype=np.int64)
    sums = np.zeros((GROUPS, RING, k.ERROR_SUMS, k.ERROR_LANES), dtype=np.int64)
    ones = np.ones(len(rows), dtype=np.int8)
    k.add_errors(sums, groups, places, ones, labels, predictions, unit)
    with np.errstate(over="ignore"):
        errors = np.clip((predictions - labels) / unit, -(2.0**60), 2.0**60)
    for group in range(GROUPS):
        for place in range(RING):
            mine = errors[(groups[:, 0] == group) & (places == place)].tolist()
            terms = [mine, [abs(e) for e in mine], [e * e for e in mine]]
            for term, lanes in zip(terms, sums[group, place], strict=True):
                wanted = sum((Fraction(each) for each in term), Fraction(0))
                slack = len(term) * 2.0**LOWEST_BIT
                assert exact_value(lanes.tolist()) == pytest.approx(float(wanted), rel=1e-15, abs=slack)
    k.add_errors(sums, groups, places, -ones, labels, predictions, unit)
    assert not sums.any()
