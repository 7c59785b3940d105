"""One list of laws for every detector: a new one is added to the list and brings no test code of its own."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from worker.core.detectors.forest_fit import InlineRefits
from worker.core.detectors.moments import MomentsDistance
from worker.core.detectors.protocol import Detector
from worker.core.detectors.refitted_forest import RefittedForest
from worker.core.detectors.scaled_half_space import ScaledHalfSpaceTrees
from worker.core.kernels.arrays import F64
from worker.core.options import ForestOptions, HalfSpaceOptions
from worker.core.state import AnyArray, Arrays

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
    "moments": lambda: MomentsDistance(FEATURES, len(WARMUP)),
    "half_space_trees": lambda: ScaledHalfSpaceTrees(FEATURES, HalfSpaceOptions(5, 5, 32), seed=3),
    "isolation_forest": lambda: RefittedForest(FEATURES, FOREST, InlineRefits(), seed=3),
}

Make = Callable[[], Detector]


def fitted(new: Make) -> Make:
    """Return a maker of detectors that have had their warm-up."""

    def make() -> Detector:
        detector = new()
        detector.fit(WARMUP)
        return detector

    return make


every_detector = pytest.mark.parametrize("make", [fitted(new) for new in DETECTORS.values()], ids=list(DETECTORS))


def feed(detector: Detector, rows: F64, cuts: int = 0, seen: int = 0) -> F64:
    """Feed rows from number `seen` on as a monitor does: never past a barrier, in pieces of `cuts` if that is not 0."""
    scores = []
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
    return {name: array.tobytes() for part in (detector.live(), detector.fitted()) for name, array in part.items()}


def stored(arrays: Arrays) -> dict[str, AnyArray]:
    """Return arrays as a snapshot gives them back: views of bytes, not to be written to."""
    return {
        name: np.frombuffer(array.tobytes(), dtype=array.dtype).reshape(array.shape) for name, array in arrays.items()
    }


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


# 32 + 8: a refit of the isolation forest is under way from row 32 on, and taken over at row 40.
@every_detector
@pytest.mark.parametrize("cut", [1, 31, 32, 33, 39, 40, 41, 250, 300])
def test_a_restored_detector_goes_on_with_equal_bits(make: Make, cut: int) -> None:
    """Restored from what another one stored, a detector says what that one says, and shares no array with it."""
    rows = stream(8)
    original, restored = make(), DETECTORS[make().name]()
    feed(original, rows[:cut])
    restored.restore(cut, stored(original.live()), stored(original.fitted()))
    assert state_of(restored) == state_of(original)
    expected = feed(original, rows, seen=cut)
    assert np.array_equal(feed(restored, rows, seen=cut), expected, equal_nan=True)
    assert state_of(restored) == state_of(original)


def changed(arrays: Arrays) -> Iterator[Arrays]:
    """Yield arrays of which one is too many, or one is not there, or has another shape or type."""
    yield {**arrays, "more": np.zeros(1)}
    for name, array in arrays.items():
        yield {key: other for key, other in arrays.items() if key != name}
        for wrong in (array[:-1], array.astype(np.complex128)):
            yield {**arrays, name: wrong}


@every_detector
@pytest.mark.parametrize("cut", [33, 300])
def test_arrays_of_another_shape_are_refused(make: Make, cut: int) -> None:
    """Each array must be there with its type and shape, and no other; and the count of rows must fit."""
    detector = make()
    feed(detector, stream(9, cut))
    live, lasting = stored(detector.live()), stored(detector.fitted())
    attempts = [(0, live, lasting), *((cut, other, lasting) for other in changed(live))]
    for attempt in [*attempts, *((cut, live, other) for other in changed(lasting))]:
        with pytest.raises(ValueError, match=r"state|stored|bytes"):
            DETECTORS[detector.name]().restore(*attempt)


@every_detector
def test_the_name_is_the_one_in_alerts(make: Make) -> None:
    """The registry's name and the detector's are the same."""
    assert make().name in DETECTORS
