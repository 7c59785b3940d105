"""One list of laws for every detector: a new one is in the registry and brings no test code of its own."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from worker.core.detectors.forest_fit import InlineRefits
from worker.core.detectors.protocol import NEVER, Detector
from worker.core.detectors.registry import BUILDERS, Site, build
from worker.core.kernels.arrays import F64
from worker.core.options import (
    EngineOptions,
    ForestOptions,
    HalfSpaceOptions,
    NeighboursOptions,
    SvmOptions,
    TailsOptions,
)
from worker.core.options.engine import DETECTORS
from worker.core.state import AnyArray, Arrays

FEATURES = 4
WARMUP = np.random.default_rng(0).normal(size=(64, FEATURES))
FOREST = ForestOptions(
    trees=30,
    sample_rows=32,
    rows_max=64,
    refit_events_first=32,
    refit_growth=8,
    refit_events_max=256,
    takeover_events_min=8,
    takeover_events_max=64,
)
OPTIONS = EngineOptions(
    warmup_events=len(WARMUP),
    half_space=HalfSpaceOptions(trees=25, height=5, window_events=32, score="river"),
    forest=FOREST,
    neighbours=NeighboursOptions(neighbours=5, rows_max=50, memory_events=100),
    svm=SvmOptions(rows_max=50),
    tails=TailsOptions(rows_max=100),
)
LOG = HalfSpaceOptions(trees=25, height=5, window_events=32, score="log", gate_quantile=0.95, fade=0.5)
VARIANTS: dict[str, tuple[str, EngineOptions]] = {
    **{name: (name, OPTIONS) for name in BUILDERS},
    "half_space_trees, logarithmic": ("half_space_trees", replace(OPTIONS, half_space=LOG)),
    "nearest_neighbours, mean": (
        "nearest_neighbours",
        replace(OPTIONS, neighbours=NeighboursOptions(rows_max=70, distance="mean")),
    ),
    "one_class_svm, logarithmic": ("one_class_svm", replace(OPTIONS, svm=SvmOptions(score="log", gate_quantile=1.0))),
}
"""Each detector of the registry, and the ways of its options that make it another one."""

New = Callable[[], Detector]


def new_detector(variant: str) -> Detector:
    """Return a detector that knows nothing."""
    name, options = VARIANTS[variant]
    (detector,) = build([name], Site(FEATURES, options, InlineRefits(), seed=3))
    return detector


class Make:
    """Makes detectors that have had their warm-up, or not."""

    def __init__(self, variant: str) -> None:
        self.new: New = partial(new_detector, variant)

    def __call__(self, warmup: F64 = WARMUP) -> Detector:
        detector = self.new()
        detector.fit(warmup)
        return detector


every_detector = pytest.mark.parametrize("make", [Make(variant) for variant in VARIANTS], ids=list(VARIANTS))
_STREAMING = [variant for variant in VARIANTS if new_detector(variant).barrier() == NEVER]
every_streaming_detector = pytest.mark.parametrize("make", [Make(variant) for variant in _STREAMING], ids=_STREAMING)


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
    """State after two thousand rows has the arrays that it had after a few hundred, and is about as large."""
    few, many = make(), make()
    feed(few, stream(7, 400))
    feed(many, stream(7, 2000))
    assert state_of(few).keys() == state_of(many).keys()
    # A model of support vectors has as many as it needs, of at most `rows_max` rows.
    assert sum(map(len, state_of(many).values())) <= 1.2 * sum(map(len, state_of(few).values()))


# 32 + 8: a refit of the isolation forest is under way from row 32 on, and taken over at row 40.
@every_detector
@pytest.mark.parametrize("cut", [1, 31, 32, 33, 39, 40, 41, 250, 300])
def test_a_restored_detector_goes_on_with_equal_bits(make: Make, cut: int) -> None:
    """Restored from what another one stored, a detector says what that one says, and shares no array with it."""
    rows = stream(8)
    original, restored = make(), make.new()
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
            make.new().restore(*attempt)


@every_detector
def test_broken_state_is_refused(make: Make) -> None:
    """What no such detector can have is refused with a reason: NaN, huge values, negative counts, other trees."""
    detector = make()
    feed(detector, stream(9, 300))
    live, lasting = stored(detector.live()), stored(detector.fitted())
    refused = 0
    for name, array in live.items():
        for worst in (np.iinfo(array.dtype).min,) if array.dtype.kind == "i" else (np.inf, -np.inf, np.nan):
            if array.dtype.kind in "if":
                broken = array.copy()
                broken.reshape(-1)[0] = worst
                try:
                    make.new().restore(300, {**live, name: broken}, lasting)
                except ValueError as error:
                    assert str(error)  # noqa: PT017 - some arrays may hold anything; those that are refused say why
                    refused += 1
    assert refused > 0


@every_detector
def test_scoring_alone_learns_nothing(make: Make) -> None:
    """`score` leaves no trace, and says of every row what `score_and_learn` would say if it came next."""
    detector = make()
    feed(detector, stream(10, 300))
    before, new = state_of(detector), stream(11, 20, missing=0.2)
    scores = detector.score(new)
    assert state_of(detector) == before
    for row, score in zip(new, scores, strict=True):
        twin = make.new()
        twin.restore(300, stored(detector.live()), stored(detector.fitted()))
        assert twin.score_and_learn(row[np.newaxis])[0] == score


@every_streaming_detector
def test_what_was_said_before_can_be_heard_again(make: Make) -> None:
    """With the arrays of `live` put back, a detector without refits says and learns what it did then.

    The scores of the others change at barriers only, so nobody puts them back.
    """
    detector, rows = make(), stream(18, 600)
    feed(detector, rows[:200])
    before = {name: array.copy() for name, array in detector.live().items()}
    first, after = detector.score_and_learn(rows[200:]), state_of(detector)
    for name, array in detector.live().items():
        array[...] = before[name]
    assert np.array_equal(detector.score(rows[200:201]), first[:1])
    assert np.array_equal(detector.score_and_learn(rows[200:]), first)
    assert state_of(detector) == after


@every_detector
def test_scoring_alone_knows_no_more(make: Make) -> None:
    """Before there is enough data, `score` has no score either."""
    assert np.isnan(make().score(stream(1, 5))).all()


@every_detector
def test_missing_values_are_not_anomalous_in_themselves(make: Make) -> None:
    """Where one value in five is missing anyway, an event with a missing value does not stand out."""
    rows = stream(12, 2000, missing=0.2)
    scores, is_whole = feed(make(), rows)[1000:], ~np.isnan(rows[1000:]).any(axis=1)
    limit = np.quantile(scores[is_whole], 0.95)
    assert np.mean(scores[~is_whole] > limit) < 0.15


@every_detector
def test_a_feature_that_vanishes_is_survived(make: Make) -> None:
    """A column that is all missing from some event on: scores stay finite, and an outlier elsewhere is still seen."""
    rows = stream(13, 1000)
    rows[400:, 2] = np.nan
    rows[900, [0, 1, 3]] = 8.0
    scores = feed(make(), rows)
    assert np.isfinite(scores[200:]).all()
    assert scores[900] > np.quantile(scores[500:], 0.98)


@every_detector
def test_a_feature_that_was_never_seen_in_the_warm_up_is_survived(make: Make) -> None:
    """A column without a value in the warm-up has no scale: what comes later gives finite scores."""
    warmup = WARMUP.copy()
    warmup[:, 3] = np.nan
    rows = stream(14, 600)
    rows[:300, 3] = np.nan
    detector = make(warmup)
    assert np.isfinite(feed(detector, rows)[200:]).all()
    assert np.isfinite(detector.score(np.full((1, FEATURES), np.nan))).all()


@every_detector
def test_a_new_category_is_more_anomalous_than_a_known_one(make: Make) -> None:
    """Detectors see a category as its surprisal: one of two values here, and a far larger one when it is new."""
    rows = stream(15, 1000, missing=0.0)
    rows[:, 1] = np.random.default_rng(15).choice([0.1, 2.3], size=1000, p=[0.9, 0.1])
    detector = make(rows[:64])
    feed(detector, rows)
    known, new = rows[-100:].copy(), rows[-100:].copy()
    new[:, 1] = 7.0
    assert np.mean(detector.score(new)) > np.quantile(detector.score(known), 0.6)


@every_detector
def test_an_outlier_of_any_size_is_scored(make: Make) -> None:
    """One more zero makes an event never less anomalous than an ordinary one, and never overflows."""
    detector = make()
    feed(detector, stream(16, 600))
    probes = np.zeros((6, FEATURES))
    probes[:, 0] = [0.0, 10.0, 1e3, 1e6, 1e150, 1.7e308]
    scores = detector.score(probes)
    assert np.isfinite(scores).all()
    assert (scores[1:] > scores[0]).all()


@every_detector
def test_constant_rows_are_learned(make: Make) -> None:
    """A stream that never changes has finite scores, and is not kept out as its own anomaly."""
    rows = np.full((1000, FEATURES), 3.0)
    scores = feed(make(rows[:64]), rows)
    assert np.isfinite(scores[200:]).all()
    assert np.ptp(scores[600:]) < 1e-6


@every_detector
def test_what_is_fitted_changes_with_a_takeover_alone(make: Make) -> None:
    """A snapshot need not hold `fitted` again while `taken_over` stays as it is."""
    detector, rows = make(), stream(17, 400)
    before: dict[int, Any] = {}
    seen = 0
    while seen < len(rows):
        stop = min(len(rows), detector.barrier(), seen + 7)
        detector.score_and_learn(rows[seen:stop])
        seen = stop
        while detector.barrier() == seen:
            detector.cross()
        fitted = {name: array.tobytes() for name, array in detector.fitted().items()}
        assert before.setdefault(detector.taken_over, fitted) == fitted


@pytest.mark.parametrize("name", BUILDERS)
def test_the_name_is_the_one_in_alerts(name: str) -> None:
    """The registry's name and the detector's are the same."""
    assert new_detector(name).name == name


def test_detectors_are_built_in_one_order() -> None:
    """Whatever the order of the names, scores come in the registry's; a name that is none is refused."""
    assert tuple(BUILDERS) == DETECTORS
    site = Site(FEATURES, OPTIONS, InlineRefits(), seed=3)
    names = [detector.name for detector in build(["one_class_svm", "moments", "half_space_trees"], site)]
    assert names == ["half_space_trees", "one_class_svm", "moments"]
    with pytest.raises(ValueError, match="no detector `trees`"):
        build(["trees"], site)


@every_detector
@pytest.mark.parametrize("rows", [1, 7, 40])
def test_a_steady_detector_says_the_same_until_then(make: Make, rows: int) -> None:
    """What is sure to say the same for so many rows says it after each of them, and learns them all the same."""
    detector, events, probe = make(), stream(11, 1500), stream(12, 20)
    feed(detector, events[:500])
    seen, said_steady = 500, []
    while seen < len(events):
        stop = min(len(events), detector.barrier(), seen + rows)
        said_steady.append(detector.steady(stop - seen))
        before = detector.score(probe)
        for place in range(seen, stop):
            detector.score_and_learn(events[place : place + 1])
            assert not said_steady[-1] or np.array_equal(detector.score(probe), before, equal_nan=True)
        seen = stop
        while detector.barrier() == seen:
            detector.cross()
    assert any(said_steady) or detector.name in {"moments", "nearest_neighbours", "half_space_trees"}
