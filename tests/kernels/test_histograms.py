"""Sums over histograms, beside the same in numpy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.kernels import histograms as h

COUNTS = st.lists(st.integers(0, 50), min_size=1, max_size=40)


@settings(deadline=None)
@given(COUNTS, st.sampled_from([0.05, 0.5, 0.95]), st.sampled_from([1.0, 1.96]))
def test_places_of_a_quantile_and_its_limits(counts: list[int], share: float, z: float) -> None:
    """Where one of all values, in order, has that rank, counted from 1 and at least 1."""
    places, n = np.full(3, -7, dtype=np.int64), sum(counts)
    assert h.quantile_places(np.array(counts, dtype=np.float64), share, z, places) == n
    if not n:
        assert places.tolist() == [-7] * 3
        return
    values = np.repeat(np.arange(len(counts)), counts)
    spread = z * math.sqrt(n * share * (1.0 - share))
    ranks = [min(max(rank, 1e-9), n) for rank in (share * n, share * n - spread, share * n + spread)]
    assert places.tolist() == [values[math.ceil(rank) - 1] for rank in ranks]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=30))
def test_sums_of_scores(bins: list[tuple[int, int]]) -> None:
    """Of bins of equal width."""
    negatives, positives = np.array(bins, dtype=np.float64).T.copy()
    bounds = np.linspace(0.0, 1.0, len(bins) + 1)
    middles, halves = (bounds[1:] + bounds[:-1]) / 2.0, (bounds[1:] - bounds[:-1]) / 2.0
    sums = np.full(h.SCORE_SUMS, np.nan)
    h.score_sums(negatives, positives, middles, halves, sums)
    events = negatives + positives
    assert sums[[h.NEGATIVES, h.POSITIVES]].tolist() == [negatives.sum(), positives.sum()]
    assert sums[h.SCORES] == pytest.approx(events @ middles)
    assert sums[h.HALVES] == pytest.approx(events @ halves)
    assert sums[h.SQUARES] == pytest.approx(negatives @ middles**2 + positives @ (1.0 - middles) ** 2)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=3, max_size=3), min_size=1, max_size=8), st.data())
def test_rows_are_added(rows: list[list[int]], data: st.DataObject) -> None:
    """Those asked for, also twice, to what is there; a total may be beyond 32 bits."""
    counts = np.array(rows, dtype=np.int32)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8))
    total = np.ones(3)
    h.add_rows(counts, np.array(chosen, dtype=np.int64), total)
    assert total.tolist() == [1 + sum(rows[row][column] for row in chosen) for column in range(3)]
