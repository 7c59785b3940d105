"""Concept drift detectors: River's decisions row by row, any cut of the stream, state that travels or is refused."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import drift
from river.drift import binary

from worker.core.kernels.arrays import F64
from worker.core.kernels.drift import RECENT_FADING
from worker.core.performance.drift import DRIFT_DETECTORS, ConceptDrift, Detector
from worker.core.state import COUNT_MAX, AnyArray, Arrays

NAMES = sorted(DRIFT_DETECTORS)
LENGTH = 4000

RIVER: dict[str, Callable[[], Any]] = {
    "adwin": drift.ADWIN,
    "page_hinkley": partial(drift.PageHinkley, mode="up"),
    "ddm": binary.DDM,
    "eddm": binary.EDDM,
    "hddm_a": binary.HDDMA,
    "hddm_w": binary.HDDMW,
}

OTHER_PARAMETERS: list[tuple[str, tuple[float, ...], Callable[[], Any]]] = [
    ("adwin", (0.1, 1, 1, 1), partial(drift.ADWIN, delta=0.1, clock=1, min_window_length=1, grace_period=1)),
    ("adwin", (1.0, 7, 20, 60), partial(drift.ADWIN, delta=1.0, clock=7, min_window_length=20, grace_period=60)),
    (
        "page_hinkley",
        (1, 0.1, 2.0, 0.99),
        partial(drift.PageHinkley, min_instances=1, delta=0.1, threshold=2.0, alpha=0.99, mode="up"),
    ),
    ("ddm", (5, 1.5), partial(binary.DDM, warm_start=5, warning_threshold=1.0, drift_threshold=1.5)),
    ("eddm", (3, 0.8), partial(binary.EDDM, warm_start=3, alpha=0.9, beta=0.8)),
    ("hddm_a", (0.05,), partial(binary.HDDMA, drift_confidence=0.05, warning_confidence=0.1)),
    (
        "hddm_w",
        (0.05, 0.2),
        partial(binary.HDDMW, drift_confidence=0.05, warning_confidence=0.1, lambda_val=0.2),
    ),
]

DAMAGE: list[tuple[str, str, int, float, str]] = [
    ("adwin", "buckets", 0, -1, "number of buckets"),
    ("adwin", "buckets", 0, 6, "number of buckets"),
    ("adwin", "buckets", 0, 0, "gap"),
    ("adwin", "buckets", 59, 1, "gap"),
    ("adwin", "buckets", 1, 1, "hold the width"),
    ("adwin", "width", 0, -1, "width is out of range"),
    ("adwin", "width", 0, COUNT_MAX + 1, "width is out of range"),
    ("adwin", "width", 0, 1, "hold the width"),
    ("adwin", "totals", 0, np.nan, "bucket's total"),
    ("adwin", "totals", 0, 1.5, "bucket's total"),
    ("adwin", "variances", 7, np.inf, "bucket's variance"),
    ("adwin", "variances", 0, -0.5, "bucket's variance"),
    ("adwin", "window", 0, np.nan, "window's total or variance"),
    ("adwin", "window", 1, -1.0, "window's total or variance"),
    ("adwin", "change", 0, 0.5, "last change"),
    ("ddm", "change", 1, 1.5, "last change"),
    ("ddm", "counts", 0, -1, "a count"),
    ("ddm", "counts", 0, COUNT_MAX + 1, "a count"),
    ("ddm", "means", 0, 1.1, "a mean"),
    ("ddm", "means", 1, np.nan, "a mean"),
    ("ddm", "means", 2, -0.1, "a mean"),
    ("ddm", "own", 0, np.nan, "number of the detector's"),
    ("page_hinkley", "own", 0, np.inf, "number of the detector's"),
    ("page_hinkley", "own", 1, -1e6, "number of the detector's"),
    ("eddm", "counts", 1, 10_000, "a count"),
    ("eddm", "counts", 2, 121, "more errors than values"),
    ("eddm", "own", 1, np.inf, "number of the detector's"),
    ("eddm", "own", 2, -1.0, "number of the detector's"),
    ("hddm_a", "counts", 1, 10_000, "a count"),
    ("hddm_a", "own", 0, -0.1, "number of the detector's"),
    ("hddm_w", "counts", 1, -1, "a count"),
    ("hddm_w", "own", 6, 1e9, "number of the detector's"),
]


def errors_of(seed: int, length: int = LENGTH) -> F64:
    """A stream of up to seven levels of error: 0 and 1 for odd seeds, values between for even ones."""
    generator = np.random.default_rng(seed)
    levels = generator.random(generator.integers(1, 8)) * generator.choice([0.1, 0.5, 1.0])
    level = np.repeat(levels, length // len(levels) + 1)[:length]
    if seed % 2:
        return (generator.random(length) < level).astype(np.float64)
    return np.clip(generator.beta(4.0 * level + 0.05, 4.0 * (1.0 - level) + 0.05), 0.0, 1.0)


def jump(before: float, after: float, seed: int = 1) -> F64:
    """1,000 errors at one rate, then 1,000 at another."""
    return (np.random.default_rng(seed).random(2000) < np.repeat([before, after], 1000)).astype(np.float64)


def jumps(seed: int) -> F64:
    """8,000 errors: four jumps up, and back down between them."""
    return np.concatenate([jump(0.1, 0.7, 4 * seed + part) for part in range(4)])


def river_alarms(detector: Any, errors: F64) -> list[int]:  # noqa: ANN401 - River is untyped
    """The rows at which River's detector says that there is drift."""
    alarms = []
    for row, error in enumerate(errors.tolist()):
        detector.update(error)
        if detector.drift_detected:
            alarms.append(row)
    return alarms


def alarms_of(detector: ConceptDrift, errors: F64) -> list[int]:
    """The rows at which ours alarms."""
    alarms: list[int] = []
    begin = 0
    while (row := detector.update(errors, begin)) < len(errors):
        alarms.append(row)
        begin = row + 1
    return alarms


def kernel_alarms(detector: Detector, errors: F64) -> list[int]:
    """The same for a detector with parameters of its own."""
    arrays = detector.empty()
    alarms: list[int] = []
    begin = 0
    while (row := detector.kernel(errors, begin, *arrays.values(), *detector.parameters)) < len(errors):
        alarms.append(row)
        begin = row + 1
    return alarms


def copied(arrays: Arrays) -> dict[str, AnyArray]:
    """The arrays as they are now."""
    return {name: array.copy() for name, array in arrays.items()}


def as_bytes(arrays: Arrays) -> dict[str, bytes]:
    """The arrays to the last bit."""
    return {name: array.tobytes() for name, array in arrays.items()}


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=12, deadline=None)
def test_alarms_are_rivers(name: str, seed: int) -> None:
    """On streams of 0 and 1 and of values between, with and without jumps, each alarm is at River's row."""
    errors = errors_of(seed)
    assert alarms_of(ConceptDrift(name), errors) == river_alarms(RIVER[name](), errors)


@pytest.mark.parametrize("name", NAMES)
def test_alarms_are_rivers_where_there_are_several(name: str) -> None:
    """On a stream with eight jumps each detector alarms three times or more, at River's rows."""
    errors = jumps(0)
    alarms = alarms_of(ConceptDrift(name), errors)
    assert len(alarms) >= 3
    assert alarms == river_alarms(RIVER[name](), errors)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "eddm"])
def test_alarms_are_rivers_on_values_between(name: str) -> None:
    """The same on errors between 0 and 1, of which EDDM sees none."""
    errors = 0.9 * jumps(1) + 0.1 * np.random.default_rng(1).random(8000)
    alarms = alarms_of(ConceptDrift(name), errors)
    assert len(alarms) >= 2
    assert alarms == river_alarms(RIVER[name](), errors)


@pytest.mark.parametrize(("name", "parameters", "river"), OTHER_PARAMETERS)
def test_parameters_mean_what_they_mean_in_river(
    name: str, parameters: tuple[float, ...], river: Callable[[], Any]
) -> None:
    """With other parameters alarms are at other rows, and still at River's."""
    errors = jumps(2)
    alarms = kernel_alarms(replace(DRIFT_DETECTORS[name], parameters=parameters), errors)
    assert len(alarms) >= 3
    assert alarms == river_alarms(river(), errors)
    assert alarms != alarms_of(ConceptDrift(name), errors)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
def test_constant_stream_is_no_drift(name: str, value: float) -> None:
    """A stream of one value never alarms, in River neither."""
    errors = np.full(LENGTH, value)
    assert alarms_of(ConceptDrift(name), errors) == river_alarms(RIVER[name](), errors) == []


@pytest.mark.parametrize("seed", [7, 8])
def test_adwin_window_is_rivers_to_the_last_bit(seed: int) -> None:
    """Width, total and variance are River's after each value that does not alarm, and alarms are."""
    errors = errors_of(seed)
    ours, river = ConceptDrift("adwin"), RIVER["adwin"]()
    state = ours.state()
    n_alarms = 0
    for row, error in enumerate(errors.tolist()):
        river.update(error)
        alarmed = ours.update(errors[: row + 1], row) == row
        assert alarmed == river.drift_detected
        if alarmed:
            n_alarms += 1
        else:
            assert (state["width"][0], *state["window"]) == (river.width, river.total, river.variance)
    assert n_alarms > 1


def test_adwin_rows_begin_where_promised() -> None:
    """Row r is begun by value 5 x 2^r - 4: this is why 60 rows are enough."""
    detector = ConceptDrift("adwin")
    buckets = detector.state()["buckets"]
    for row in range(1, 12):
        errors = np.zeros(5 * 2**row - 4 - int(detector.state()["width"][0]))
        detector.update(errors[1:], 0)
        assert buckets[row] == 0
        detector.update(errors[:1], 0)
        assert buckets[row] == 1


def test_adwin_says_when_rows_run_out() -> None:
    """A window that needs more rows than it has is an assertion, not a write outside of the arrays."""
    detector = DRIFT_DETECTORS["adwin"]
    arrays = {name: array[:3] for name, array in detector.empty().items()}
    with pytest.raises(AssertionError, match="values"):
        detector.kernel(np.zeros(100), 0, *arrays.values(), *detector.parameters)


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 2**32 - 1), cuts=st.lists(st.integers(0, LENGTH), max_size=6))
@settings(max_examples=15, deadline=None)
def test_any_cut_gives_the_same_and_state_travels(name: str, seed: int, cuts: list[int]) -> None:
    """Alarms and state are the same to the last bit, however the stream is cut and with a new object for each part."""
    errors = errors_of(seed)
    whole = ConceptDrift(name)
    expected = alarms_of(whole, errors)
    arrays: Arrays = ConceptDrift(name).state()
    alarms: list[int] = []
    edges = [0, *sorted(cuts), LENGTH]
    for begin, end in pairwise(edges):
        part = ConceptDrift(name)
        part.restore(arrays)
        alarms += [begin + row for row in alarms_of(part, errors[begin:end])]
        arrays = part.state()
    assert alarms == expected
    assert as_bytes(arrays) == as_bytes(whole.state())


@pytest.mark.parametrize("name", NAMES)
def test_restored_state_is_a_copy(name: str) -> None:
    """What was restored is not changed by the detector that took it, and names, types and shapes stay."""
    source = ConceptDrift(name)
    alarms_of(source, errors_of(3))
    stored, before = copied(source.state()), as_bytes(source.state())
    target = ConceptDrift(name)
    target.restore(stored)
    alarms_of(target, errors_of(5))
    assert as_bytes(stored) == before != as_bytes(target.state())
    kinds = {array.dtype for array in target.state().values()}
    assert kinds == {np.dtype(np.float64), np.dtype(np.int64)}


@pytest.mark.parametrize(("name", "array", "place", "value", "reason"), DAMAGE)
def test_damaged_state_is_refused(name: str, array: str, place: int, value: float, reason: str) -> None:
    """A state that a kernel could not rely on is refused with its reason, and the detector stays as it was."""
    detector = ConceptDrift(name)
    detector.update((np.arange(122) % 3 == 2).astype(np.float64), 0)
    stored, before = copied(detector.state()), as_bytes(detector.state())
    detector.restore(stored)
    stored[array].reshape(-1)[place] = value
    with pytest.raises(ValueError, match=reason):
        detector.restore(stored)
    assert as_bytes(detector.state()) == before


@pytest.mark.parametrize("name", NAMES)
def test_state_of_another_form_is_refused(name: str) -> None:
    """A missing array, another shape and another type are refused."""
    detector = ConceptDrift(name)
    for other in (
        {"change": np.zeros(2)},
        detector.state() | {"change": np.zeros(3)},
        detector.state() | {"change": np.zeros(2, dtype=np.float32)},
    ):
        with pytest.raises(ValueError, match="instead of"):
            detector.restore(other)


@pytest.mark.parametrize("name", NAMES)
def test_before_after_of_a_jump_up(name: str) -> None:
    """NaN before the first alarm; after a jump from 5 % to 60 % errors, the error after is the larger one."""
    detector = ConceptDrift(name)
    assert np.isnan(detector.before_after()).all()
    row = detector.update(jump(0.05, 0.6), 900)
    assert 1000 < row < 1300
    before, after = detector.before_after()
    assert before < after <= 1.0
    assert before < 0.4


def test_before_after_of_a_jump_down() -> None:
    """ADWIN alone sees errors become rarer: its error after is near the new rate, and before near the old one."""
    detector = ConceptDrift("adwin")
    assert 1000 < detector.update(jump(0.6, 0.05), 0) < 1100
    before, after = detector.before_after()
    assert before == pytest.approx(0.6, abs=0.06)
    assert after < 0.35


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.2), (0.05, 0.5), (0.3, 0.1)])
def test_before_after_of_adwin_are_about_the_true_means(low: float, high: float) -> None:
    """Not what ADWIN drops and keeps, which is mostly from before the change, but what the change was."""
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        errors = np.concatenate([rng.random(3_000) < low, rng.random(3_000) < high]).astype(np.float64)
        detector = ConceptDrift("adwin")
        row = detector.update(errors, 0)
        assert 3_000 < row < 6_000
        found.append(detector.before_after())
    before, after = np.mean(found, axis=0)
    assert before == pytest.approx(low, abs=0.015)
    assert after == pytest.approx(high, abs=0.1)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "adwin"])
def test_before_after_of_the_others_are_their_two_means(name: str) -> None:
    """The mean since the alarm before, and the weighted mean that its definition gives."""
    errors = np.concatenate([jump(0.1, 0.7), jump(0.1, 0.9, seed=2)])
    detector = ConceptDrift(name)
    first = detector.update(errors, 0)
    second = detector.update(errors, first + 1)
    assert second < len(errors)
    since = errors[first + 1 : second + 1]
    weights = RECENT_FADING ** np.arange(len(since))[::-1]
    assert detector.before_after() == pytest.approx((since.mean(), np.average(since, weights=weights)), rel=1e-9)


@pytest.mark.parametrize("value", [np.nan, -0.1, 1.1])
def test_errors_are_within_0_and_1(value: float) -> None:
    """Anything else is a bug of the caller's and does not get into the state."""
    detector = ConceptDrift("ddm")
    with pytest.raises(AssertionError, match="outside"):
        detector.update(np.array([0.0, value]), 0)
    assert detector.update(np.array([value, 0.0]), 1) == 2
