"""Nearest neighbours: the kernel beside a naive twin, the choice of the nearest, and missing values."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from worker.core.detectors.gate import Gate
from worker.core.kernels import knn
from worker.core.kernels.arrays import F32, F64


def naive_score(row: F32, kept: F32, features: int, neighbours: int, use_mean: int) -> float:
    """The naive twin: all distances in double precision, sorted."""
    known = ~np.isnan(row)
    if len(kept) < 2 * neighbours:
        return math.nan
    if not known.any():
        return 0.0
    squares = ((row[known].astype(np.float64) - kept[:, known]) ** 2).sum(axis=1) * features / known.sum()
    nearest = np.sqrt(np.sort(squares))[:neighbours]
    return float(nearest.mean() if use_mean else nearest[-1])


def kept_rows(count: int, features: int, seed: int) -> F32:
    """Rows as they are kept: scaled, none missing."""
    return np.random.default_rng(seed).uniform(-1.0, 2.0, size=(count, features)).astype(np.float32)


@pytest.mark.parametrize("use_mean", [0, 1])
@given(
    count=st.sampled_from([1, 9, 19, 20, 63, 64, 65, 200, 500]),
    features=st.integers(1, 9),
    neighbours=st.integers(1, 16),
    missing=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_scores_are_those_of_the_naive_twin(
    use_mean: int, count: int, features: int, neighbours: int, missing: float, seed: int
) -> None:
    """Any number of kept rows, features, neighbours and missing values gives the twin's distance."""
    rng = np.random.default_rng(seed)
    kept, rows = kept_rows(count, features, seed), kept_rows(8, features, seed + 1)
    rows[rng.random(rows.shape) < missing] = np.nan
    store = np.zeros((features, 512), dtype=np.float32)
    store[:, :count] = kept.T
    scores = np.empty(len(rows))
    knn.score(rows, features, neighbours, use_mean, store, np.array([count, 0]), scores)
    expected = [naive_score(row, kept, features, neighbours, use_mean) for row in rows]
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)


@given(
    distances=hnp.arrays(np.float32, st.sampled_from([64, 128, 512]), elements=st.floats(0, 100, width=32)),
    neighbours=st.integers(1, 16),
    unused=st.integers(0, 40),
)
@settings(max_examples=200, deadline=None)
def test_the_nearest_are_found_whatever_the_distances(distances: F32, neighbours: int, unused: int) -> None:
    """Ties, zeros and places without a row (infinite) are sorted as Python sorts them."""
    distances[len(distances) - unused :] = np.inf
    _, minima, lanes, candidates, nearest, _ = knn._space(len(distances), 1, neighbours)
    knn._smallest(distances.view(np.int32), minima, lanes, candidates, nearest)
    np.testing.assert_array_equal(nearest.view(np.float32), np.sort(distances)[:neighbours])


def learn(parts: list[F64], memory: int, settle: int, quantile: float) -> tuple[F64, F32, list[int]]:
    """Run the kernel over a stream cut into parts: scores, kept rows, counters."""
    features = parts[0].shape[1]
    store, counters = np.zeros((features, 40), dtype=np.float32), np.zeros(2, dtype=np.int64)
    random_state, gate = np.full(1, 3, dtype=np.uint64), Gate(quantile, 4).for_kernel
    centre, out = np.full(features, 0.5), []
    for part in parts:
        scores, rows = np.empty(len(part)), part.astype(np.float32)
        knn.score_and_learn(rows, centre, features, 3, 0, settle, memory, store, counters, random_state, scores, gate)
        out.append(scores)
    return np.concatenate(out), store, counters.tolist()


@given(cuts=st.lists(st.integers(0, 600), max_size=6), memory=st.sampled_from([0, 100]))
@settings(max_examples=20, deadline=None)
def test_cuts_change_nothing(cuts: list[int], memory: int) -> None:
    """Scores, kept rows and counters do not depend on how the rows come in calls."""
    rows = np.random.default_rng(1).normal(size=(600, 3))
    rows[::7, 1] = np.nan
    scores, store, counters = learn(np.split(rows, sorted(cuts)), memory, 50, 0.95)
    expected, expected_store, expected_counters = learn([rows], memory, 50, 0.95)
    np.testing.assert_array_equal(scores, expected)
    np.testing.assert_array_equal(store, expected_store)
    assert counters == expected_counters


def test_each_row_is_scored_by_the_rows_before_it() -> None:
    """While the store is not full, the score of row i is the distance to the first i rows."""
    rows = np.random.default_rng(2).normal(size=(40, 2))
    scores, _, _ = learn([rows], 0, 1000, 0.95)
    expected = [naive_score(row.astype(np.float32), rows[:i].astype(np.float32), 2, 3, 0) for i, row in enumerate(rows)]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_anomalies_are_not_kept() -> None:
    """Rows far from all others stay out of the store, although there are dozens of them, and count as passed over."""
    rows = np.random.default_rng(3).normal(size=(5000, 2))
    rows[1000::50] = 50.0
    _, store, (_, passed) = learn([rows], 0, 100, 0.95)
    assert store.max() < 10.0
    assert passed >= 80


def test_missing_values_are_kept_as_the_centre() -> None:
    """A kept row has no missing values: they are where the median is."""
    rows = np.full((30, 2), 0.25)
    rows[:, 1] = np.nan
    _, store, _ = learn([rows], 0, 0, 1.0)
    np.testing.assert_array_equal(store[:, :30], np.repeat([[0.25], [0.5]], 30, axis=1))
