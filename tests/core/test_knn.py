"""Nearest neighbours as a detector: local anomalies, missing values, bursts, new regimes, and broken state."""

import numpy as np
import pytest
from msgspec.structs import replace

from worker.core.detectors.knn import NearestNeighbours
from worker.core.kernels.arrays import F64
from worker.core.options import NeighboursOptions

OPTIONS = NeighboursOptions(rows_max=200, memory_events=0)


def detector_of(rows: F64, options: NeighboursOptions = OPTIONS) -> NearestNeighbours:
    """A detector that has learned rows, the first 100 as its warm-up."""
    detector = NearestNeighbours(rows.shape[1], options, 100, seed=1)
    detector.fit(rows[:100])
    detector.score_and_learn(rows)
    return detector


def on_a_ring(count: int, seed: int) -> F64:
    """Rows on a ring: its middle is ordinary in each feature, and no row has ever been there."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, size=count)
    return np.column_stack([np.cos(angle), np.sin(angle)]) * rng.normal(100.0, 2.0, size=(count, 1))


def test_a_local_anomaly_stands_out() -> None:
    """The middle of a ring is farther from the kept rows than nearly all rows are."""
    detector = detector_of(on_a_ring(3000, 1))
    usual = np.quantile(detector.score(on_a_ring(1000, 2)), 0.999)
    assert detector.score(np.zeros((1, 2)))[0] > 2 * usual


def test_features_of_any_unit_count_the_same() -> None:
    """A million times as large or small, a feature says what it said."""
    rows = on_a_ring(1000, 3)
    units = np.array([1e6, 1e-6])
    np.testing.assert_allclose(
        detector_of(rows * units).score(rows * units), detector_of(rows).score(rows), rtol=1e-3, atol=1e-4
    )


def test_a_missing_value_makes_an_event_neither_near_nor_far() -> None:
    """Without one of six independent features, scores are as large as with all of them, on average."""
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(2000, 6))
    detector, probes = detector_of(rows), rng.normal(size=(500, 6))
    whole, partial = detector.score(probes), probes.copy()
    partial[np.arange(500), rng.integers(0, 6, size=500)] = np.nan
    assert np.median(detector.score(partial)) == pytest.approx(np.median(whole), rel=0.15)


def test_an_event_without_values_says_nothing() -> None:
    """All missing: at no distance from anything."""
    assert detector_of(on_a_ring(500, 5)).score(np.full((1, 2), np.nan))[0] == 0.0


def test_an_unknown_feature_is_ignored() -> None:
    """A column without a value in the warm-up changes no score, whatever comes in it later."""
    rows = on_a_ring(1000, 6)
    wider = np.column_stack([rows, np.full(1000, np.nan)])
    wider[500:, 2] = 1e9
    np.testing.assert_array_equal(detector_of(wider).score(wider), detector_of(rows).score(rows))


def test_a_burst_of_anomalies_stays_anomalous() -> None:
    """The thousandth anomaly of a burst scores like its first: neither gate nor reservoir have learned them."""
    rng = np.random.default_rng(7)
    detector = detector_of(rng.normal(size=(30_000, 3)))
    usual = np.quantile(detector.score(rng.normal(size=(1000, 3))), 0.99)
    scores = detector.score_and_learn(rng.normal(12.0, 0.1, size=(1000, 3)))
    assert scores.min() > 2 * usual


def test_a_new_regime_becomes_normal() -> None:
    """When most of what a memory holds is new, it is no longer far away."""
    rng = np.random.default_rng(8)
    detector = detector_of(rng.normal(size=(5000, 3)), replace(OPTIONS, memory_events=2000))
    first = detector.score_and_learn(rng.normal(6.0, 1.0, size=(100, 3)))
    detector.score_and_learn(rng.normal(6.0, 1.0, size=(6000, 3)))
    assert np.median(detector.score(rng.normal(6.0, 1.0, size=(100, 3)))) < 0.3 * np.median(first)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("store", np.nan),
        ("store", 7.0),
        ("counters", -1),
        ("counters", 2**60),
        ("gate.counters", -1),
        ("gate.sample", np.nan),
        ("gate.threshold", np.nan),
    ],
)
def test_state_that_cannot_be_is_refused(name: str, value: float) -> None:
    """Values out of reach and counts that are not those of the rows are refused with a reason."""
    rows = on_a_ring(300, 9)
    source = detector_of(rows)
    live = {key: array.copy() for key, array in source.live().items()}
    live[name].reshape(-1)[0] = value
    with pytest.raises(ValueError, match="stored"):
        NearestNeighbours(2, OPTIONS, 100, seed=1).restore(300, live, source.fitted())


def test_rows_of_another_count_are_refused() -> None:
    """The rows kept and passed over are all that were seen."""
    source = detector_of(on_a_ring(300, 9))
    with pytest.raises(ValueError, match="another number of rows"):
        NearestNeighbours(2, OPTIONS, 100, seed=1).restore(301, source.live(), source.fitted())
