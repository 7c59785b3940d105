"""Half-space trees: the laws of the kernel, parity with River, restoring, and the limits that scale their input."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from river.anomaly import HalfSpaceTrees as RiverHalfSpaceTrees

from worker.core.detectors.half_space import HalfSpaceTrees
from worker.core.detectors.scaling import RobustLimits
from worker.core.kernels.arrays import F64


def events(n_rows: int, n_features: int, missing: float, seed: int = 7) -> F64:
    """Rows in [0, 1], some of them far out, with the given share of missing values."""
    generator = np.random.default_rng(seed)
    rows = np.clip(generator.normal(0.5, 0.12, size=(n_rows, n_features)), 0.0, 1.0)
    rows[generator.random(n_rows) < 0.02] = generator.random(n_features)
    rows[generator.random(rows.shape) < missing] = np.nan
    return rows


def river_scores(rows: F64, *, n_trees: int, height: int, window_size: int, seed: int) -> F64:
    """What River says, row by row: the naive twin. NaN where its first window is not complete."""
    names = [f"{column:03d}" for column in range(rows.shape[1])]
    forest: Any = RiverHalfSpaceTrees(n_trees=n_trees, height=height, window_size=window_size, seed=seed)
    forest.learn_one(dict.fromkeys(names, 0.5))
    # Only the trees of that event are wanted, not its masses.
    for nodes in forest._tree_nodes:
        for node in nodes:
            node.l_mass = node.r_mass = 0
    forest.counter = 0
    forest._first_window = True
    scores = np.full(len(rows), np.nan)
    for i, row in enumerate(rows):
        event = {name: value for name, value in zip(names, row.tolist(), strict=True) if not math.isnan(value)}
        if not forest._first_window:
            scores[i] = forest.score_one(event)
        forest.learn_one(event)
    return scores


def test_equals_river_over_a_long_stream_with_missing_values() -> None:
    """Over 20,000 events with 5 % missing features, every score is River's to the last bit."""
    rows = events(20_000, 10, 0.05)
    expected = river_scores(rows, n_trees=10, height=8, window_size=250, seed=3)
    scores = HalfSpaceTrees(10, seed=3).score_and_learn(rows)
    np.testing.assert_array_equal(np.isnan(scores), np.isnan(expected))
    assert np.nanmax(np.abs(scores - expected)) == 0.0


@given(
    n_features=st.integers(1, 12),
    n_trees=st.integers(1, 5),
    height=st.integers(1, 6),
    window_size=st.integers(1, 40),
    missing=st.sampled_from([0.0, 0.1, 0.9]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=25, deadline=None)
def test_equals_river_for_any_shape(
    n_features: int, n_trees: int, height: int, window_size: int, missing: float, seed: int
) -> None:
    """Odd and even numbers of trees, small windows and many missing values give River's bits as well."""
    rows = events(90, n_features, missing, seed % 1000)
    options = {"n_trees": n_trees, "height": height, "window_size": window_size, "seed": seed}
    scores = HalfSpaceTrees(n_features, **options).score_and_learn(rows)
    np.testing.assert_array_equal(scores, river_scores(rows, **options))


def test_scores_nothing_before_a_window_is_complete() -> None:
    """Not enough data is NaN, never 0; the first event after the first window gets a score."""
    detector = HalfSpaceTrees(3, window_size=50, seed=1)
    scores = detector.score_and_learn(events(60, 3, 0.0))
    assert np.isnan(scores[:50]).all()
    assert ((scores[50:] >= 0.0) & (scores[50:] <= 1.0)).all()


@given(cuts=st.lists(st.integers(0, 700), max_size=12), n_trees=st.sampled_from([4, 5]))
@settings(max_examples=30, deadline=None)
def test_batch_cuts_change_nothing(cuts: list[int], n_trees: int) -> None:
    """However the stream is cut into batches, scores and state have the same bits."""
    rows = events(700, 4, 0.1)
    whole = HalfSpaceTrees(4, n_trees=n_trees, height=5, window_size=60, seed=5)
    parts = HalfSpaceTrees(4, n_trees=n_trees, height=5, window_size=60, seed=5)
    scores = np.concatenate([parts.score_and_learn(part) for part in np.split(rows, sorted(cuts))])
    np.testing.assert_array_equal(scores, whole.score_and_learn(rows))
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(array, parts.arrays()[name])


def test_score_alone_learns_nothing() -> None:
    """`score` gives what `score_and_learn` would say to each row as the next one, and leaves the state alone."""
    detector = HalfSpaceTrees(4, n_trees=5, height=5, window_size=40, seed=2)
    detector.score_and_learn(events(100, 4, 0.1))
    before = {name: array.copy() for name, array in detector.arrays().items()}
    new = events(20, 4, 0.2, seed=9)
    scores = detector.score(new)
    for name, array in before.items():
        np.testing.assert_array_equal(array, detector.arrays()[name])
    for row, score in zip(new, scores, strict=True):
        twin = HalfSpaceTrees(4, n_trees=5, height=5, window_size=40, seed=2)
        twin.restore(before)
        assert twin.score_and_learn(row[np.newaxis])[0] == score


def test_restored_detector_goes_on_with_the_same_bits() -> None:
    """A detector restored in the middle of a window says what the original says from there on."""
    original = HalfSpaceTrees(4, window_size=60, seed=5)
    original.score_and_learn(events(150, 4, 0.1))
    restored = HalfSpaceTrees(4, window_size=60, seed=5)
    restored.restore({name: array.copy() for name, array in original.arrays().items()})
    later = events(200, 4, 0.1, seed=8)
    np.testing.assert_array_equal(restored.score_and_learn(later), original.score_and_learn(later))


def corruptions() -> dict[str, Callable[[dict[str, Any]], object]]:
    """Ways to break the arrays of a detector with 4 features and a window of 60, by name."""

    def set_item(name: str, value: int) -> Callable[[dict[str, Any]], object]:
        return lambda arrays: arrays[name].__setitem__((0,) * arrays[name].ndim, value)

    return {
        "missing": lambda arrays: arrays.pop("position"),
        "other dtype": lambda arrays: arrays.update(learned_mass=arrays["learned_mass"].astype(np.int64)),
        "other shape": lambda arrays: arrays.update(learned_mass=arrays["learned_mass"][:-1]),
        "other trees": lambda arrays: arrays.update(trees=arrays["trees"] ^ 1),
        "full window": set_item("position", 60),
        "negative position": set_item("position", -1),
        "too much mass": set_item("learned_mass", 59),
        "negative mass": set_item("reference_mass", -1),
    }


@pytest.mark.parametrize("corruption", corruptions())
def test_restore_refuses_what_cannot_be(corruption: str) -> None:
    """Arrays that no such detector can have are refused, and the detector stays as it was."""
    source = HalfSpaceTrees(4, window_size=60, seed=5)
    source.score_and_learn(events(150, 4, 0.1))
    arrays = {name: array.copy() for name, array in source.arrays().items()}
    corruptions()[corruption](arrays)
    target = HalfSpaceTrees(4, window_size=60, seed=5)
    with pytest.raises(ValueError, match="half-space state"):
        target.restore(arrays)
    assert not target.arrays()["learned_mass"].any()


def test_refuses_impossible_options_and_rows() -> None:
    """Sizes under one, sums that would not be exact, and rows with other columns raise ValueError."""
    with pytest.raises(ValueError, match="at least one"):
        HalfSpaceTrees(0, seed=1)
    with pytest.raises(ValueError, match="too many"):
        HalfSpaceTrees(1, window_size=2**50, seed=1)
    with pytest.raises(ValueError, match="columns"):
        HalfSpaceTrees(2, n_trees=1, height=1, seed=1).score_and_learn(np.zeros((3, 4)))


def test_limits_are_the_quantiles_moved_out_by_half_of_their_distance() -> None:
    """For 0..100 the quantiles are 2 and 98: the limits are -46 and 146, and 50 lies in the middle."""
    limits = RobustLimits.from_rows(np.arange(101.0)[:, np.newaxis])
    np.testing.assert_allclose([limits.low[0], limits.high[0]], [-46.0, 146.0])
    scaled = limits.transform(np.array([[50.0], [-46.0], [146.0], [1e9], [-1e9], [np.nan]]))
    np.testing.assert_allclose(scaled[:, 0], [0.5, 0.0, 1.0, 1.0, 0.0, np.nan])


def test_limits_of_constant_and_empty_columns() -> None:
    """A constant column knows its value, less and more; a column never seen knows only that a value is there."""
    limits = RobustLimits.from_rows(np.array([[3.0, np.nan], [3.0, np.nan], [np.nan, np.nan]]))
    scaled = limits.transform(np.array([[3.0, 9.0], [2.9, -9.0], [3.1, 0.0], [np.nan, np.nan]]))
    np.testing.assert_array_equal(scaled, [[0.5, 0.5], [0.0, 0.5], [1.0, 0.5], [np.nan, np.nan]])


@given(
    known=hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=6)),
    scale=st.sampled_from([1.0, 1e-320, 1e300]),
)
@settings(max_examples=100, deadline=None)
@pytest.mark.filterwarnings("error")
def test_limits_take_any_finite_value(known: F64, scale: float) -> None:
    """Whatever was seen, however huge or tiny, every finite value lands in [0, 1] and only missing stays NaN."""
    known = np.where(np.isinf(known), 1.7e308, known)
    limits = RobustLimits.from_rows(known)
    probes = np.array([0.0, 1.0, -1.0, 5e-324, 1.7e308, -1.7e308, 1.0 / 3.0, np.nan]) * min(scale, 1.0)
    rows = np.repeat(probes[:, np.newaxis], known.shape[1], axis=1)
    scaled = limits.transform(rows)
    np.testing.assert_array_equal(np.isnan(scaled), np.isnan(rows))
    assert ((scaled >= 0.0) & (scaled <= 1.0) | np.isnan(scaled)).all()
