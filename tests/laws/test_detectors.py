"""One list of laws for every detector: a new one is added to the list and brings no test code of its own."""

from collections.abc import Callable

import numpy as np
import pytest

from worker.core.detectors.forest_fit import InlineRefits
from worker.core.detectors.moments import MomentsDistance
from worker.core.detectors.protocol import Detector
from worker.core.detectors.refitted_forest import RefittedForest
from worker.core.detectors.scaled_half_space import ScaledHalfSpaceTrees
from worker.core.kernels.arrays import F64
from worker.core.options import ForestOptions, HalfSpaceOptions

FEATURES = 4
WARMUP = np.random.default_rng(0).normal(size=(64, FEATURES))
FOREST = ForestOptions(
    trees=10,
    sample_rows=32,
    rows_max=64,
    refit_events_first=32,
    refit_events_max=256,
    takeover_events_min=8,
    takeover_events_max=64,
)

DETECTORS: dict[str, Callable[[], Detector]] = {
    "moments": lambda: MomentsDistance(WARMUP),
    "half_space_trees": lambda: ScaledHalfSpaceTrees(WARMUP, HalfSpaceOptions(5, 5, 32), seed=3),
    "isolation_forest": lambda: RefittedForest(FEATURES, FOREST, InlineRefits(), seed=3),
}

every_detector = pytest.mark.parametrize("make", DETECTORS.values(), ids=DETECTORS.keys())
Make = Callable[[], Detector]


def feed(detector: Detector, rows: F64, cuts: int = 0) -> F64:
    """Feed rows as a monitor does: never past a barrier, and in pieces of `cuts` rows if that is not 0."""
    seen, scores = 0, []
    while seen < len(rows):
        stop = min(len(rows), detector.barrier(), seen + (cuts or len(rows)))
        scores.append(detector.score_and_learn(rows[seen:stop]))
        seen = stop
        while detector.barrier() == seen:
            detector.cross()
    return np.concatenate(scores)


def stream(seed: int, count: int = 400, missing: float = 0.05) -> F64:
    """Return normal rows with some missing values."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, FEATURES))
    rows[rng.random(rows.shape) < missing] = np.nan
    return rows


def state_of(detector: Detector) -> dict[str, bytes]:
    """Return the state as bytes."""
    return {name: array.tobytes() for name, array in detector.state().items()}


@every_detector
def test_not_enough_data_is_not_a_number(make: Make) -> None:
    """A detector that has learned nothing has no score: NaN, never 0."""
    assert np.isnan(feed(make(), stream(1))[:10]).all()


@every_detector
def test_scores_come_after_enough_data(make: Make) -> None:
    """Every event has a score in the end."""
    assert np.isfinite(feed(make(), stream(1))[200:]).all()


@every_detector
def test_an_event_is_scored_before_it_is_learned(make: Make) -> None:
    """The scores up to a row do not depend on that row's own later fate: a prefix scores the same alone."""
    rows = stream(2)
    assert np.array_equal(feed(make(), rows)[:250], feed(make(), rows[:250]), equal_nan=True)
    changed = rows.copy()
    changed[300] = 100.0
    assert np.array_equal(feed(make(), rows)[:300], feed(make(), changed)[:300], equal_nan=True)


@every_detector
@pytest.mark.parametrize("cuts", [1, 3, 50])
def test_cuts_change_nothing(make: Make, cuts: int) -> None:
    """Equal rows give equal bits, however they are cut into calls."""
    whole, parts = make(), make()
    assert np.array_equal(feed(whole, stream(3)), feed(parts, stream(3), cuts), equal_nan=True)
    assert state_of(whole) == state_of(parts)


@every_detector
def test_an_outlier_scores_higher_than_the_rest(make: Make) -> None:
    """Higher is more anomalous."""
    rows = stream(4)
    rows[350] = 8.0
    scores = feed(make(), rows)
    assert scores[350] > np.quantile(scores[200:], 0.98)


@every_detector
def test_missing_values_have_a_score(make: Make) -> None:
    """An event without any value is scored, not refused."""
    rows = stream(5)
    rows[300] = np.nan
    assert np.isfinite(feed(make(), rows)[300])


@every_detector
@pytest.mark.parametrize("value", [0.0, 1e300, -1e300, 5e-324])
def test_constant_and_huge_features_are_survived(make: Make, value: float) -> None:
    """A constant feature, however large, gives finite scores and no warning."""
    rows = stream(6)
    rows[:, 1] = value
    assert np.isfinite(feed(make(), rows)[200:]).all()


@every_detector
def test_memory_does_not_grow(make: Make) -> None:
    """State is as large after a thousand rows as after a hundred."""
    detector = make()
    feed(detector, stream(7, 100))
    before = {name: len(content) for name, content in state_of(detector).items()}
    detector = make()
    feed(detector, stream(7, 1000))
    assert {name: len(content) for name, content in state_of(detector).items()} == before


@every_detector
def test_the_name_is_the_one_in_alerts(make: Make) -> None:
    """The registry's name and the detector's are the same."""
    assert make().name in DETECTORS
