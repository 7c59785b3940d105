"""Surprisal of categories: the naive twin, batch cuts, and probabilities that sum to one."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from worker.core.kernels.arrays import F64, I64
from worker.core.kernels.surprisal import replace_by_surprisal

N_CODES = 4
IS_CATEGORICAL = np.array([True, False, True])
CELLS = hnp.arrays(
    np.float64,
    st.tuples(st.integers(0, 30), st.just(3)),
    elements=st.one_of(st.integers(0, N_CODES - 1).map(float), st.just(math.nan)),
)


def naive_surprisals(codes: list[float]) -> list[float]:
    """The naive twin for one column: a Counter and the formula."""
    counts: Counter[float] = Counter()
    surprisals = []
    for code in codes:
        if math.isnan(code):
            surprisals.append(math.nan)
            continue
        p = (counts[code] + 0.5) / (counts.total() + 0.5 * (len(+counts) + 1))
        surprisals.append(-math.log(p) if counts.total() else math.nan)
        counts[code] += 1
    return surprisals


def replaced(parts: list[F64]) -> tuple[F64, I64]:
    """The kernel over copies of the parts of a stream."""
    totals = np.zeros((3, N_CODES), dtype=np.int64)
    copies = [part.copy() for part in parts]
    for copy in copies:
        replace_by_surprisal(copy, IS_CATEGORICAL, totals)
    return np.concatenate(copies), totals


@given(CELLS)
@settings(max_examples=100, deadline=None)
def test_equals_its_naive_twin(cells: F64) -> None:
    """Categorical columns become surprisals, and their counts are kept; other columns stay as they are."""
    rows, totals = replaced([cells])
    for column in (0, 2):
        np.testing.assert_allclose(rows[:, column], naive_surprisals(cells[:, column].tolist()), rtol=1e-15)
        known = cells[~np.isnan(cells[:, column]), column].astype(int)
        np.testing.assert_array_equal(totals[column], np.bincount(known, minlength=N_CODES))
    np.testing.assert_array_equal(rows[:, 1], cells[:, 1])
    assert not totals[1].any()


@given(CELLS, st.lists(st.integers(0, 30), max_size=4))
@settings(max_examples=60, deadline=None)
def test_batch_cuts_change_nothing(cells: F64, cuts: list[int]) -> None:
    """However the stream is cut into batches, surprisals and counts have the same bits."""
    whole, totals = replaced([cells])
    rows, totals_of_parts = replaced(np.split(cells, sorted(min(cut, len(cells)) for cut in cuts)))
    assert rows.tobytes() == whole.tobytes()
    np.testing.assert_array_equal(totals, totals_of_parts)


def test_probabilities_sum_to_one() -> None:
    """The codes seen so far, and all that was not seen as one class, share a probability of one."""
    known = np.array([[5, 0, 2, 0]])
    probabilities = []
    for code in (0.0, 2.0, 1.0):
        rows = np.array([[code]])
        replace_by_surprisal(rows, np.array([True]), known.copy())
        probabilities.append(math.exp(-rows[0, 0]))
    assert sum(probabilities) == pytest.approx(1.0, rel=1e-12)


def test_the_first_value_has_no_surprisal() -> None:
    """Before anything was seen there is nothing to be surprised by: NaN, not 0."""
    rows, _ = replaced([np.array([[1.0, 0.0, np.nan], [1.0, 0.0, 2.0]])])
    assert np.isnan(rows[0, 0])
    assert np.isnan(rows[1, 2])
    assert rows[1, 0] > 0.0


def test_codes_out_of_range_count_as_other() -> None:
    """No code reads or writes out of bounds: what is not 0 to K - 1 is code 0."""
    totals = np.zeros((1, N_CODES), dtype=np.int64)
    replace_by_surprisal(np.array([[-1.0], [4.0], [1e300], [np.inf], [3.0]]), np.array([True]), totals)
    np.testing.assert_array_equal(totals, [[4, 0, 0, 1]])
