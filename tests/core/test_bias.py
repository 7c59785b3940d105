"""Biased predictions: an alert where a model misses its labels or treats segments unlike, silence where it does not."""

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

from worker.core.arrivals import LabelEvents, PredictionEvents
from worker.core.events import AlertEvent, LabelEvent, PredictionEvent
from worker.core.kernels.arrays import F64
from worker.core.options import (
    BiasOptions,
    ConceptDriftOptions,
    EngineOptions,
    LimitOptions,
    PerformanceOptions,
)
from worker.core.performance import storing
from worker.core.performance.bias import ALL_VALUES
from worker.core.performance.following import Arrived
from worker.core.performance.monitoring import PerformanceMonitor
from worker.core.performance.telling import PerformanceOwner
from worker.core.telling import Told

DRIFT_OFF = ConceptDriftOptions(detector="off")
OPTIONS = EngineOptions(
    performance=PerformanceOptions(limits=(), drift=DRIFT_OFF, segments=("region",), label_wait_max_ms=60_000)
)
GAPS = ["bias.error", "bias.selection_rate", "bias.true_positive_rate"]


class Row(NamedTuple):
    """One labelled prediction."""

    prediction: Any
    label: Any
    region: str | None = "north"


def monitor_of(options: EngineOptions) -> PerformanceMonitor:
    """A monitor that knows nothing yet."""
    return PerformanceMonitor(PerformanceOwner("m", 0, "predictions"), options)


def feed(monitor: PerformanceMonitor, rows: Sequence[Row], begin: int = 0, size: int = 1_000) -> list[Told]:
    """Give rows their labels with the predictions, in batches; a row in 100 ms."""
    told: list[Told] = []
    for first in range(0, len(rows), size):
        part = rows[first : first + size]
        offsets = np.arange(begin + first, begin + first + len(part))
        events = [
            PredictionEvent(
                event_id=f"e{offset}",
                model_id="m",
                features={},
                prediction=row.prediction,
                segment=None if row.region is None else {"region": row.region},
                label=row.label,
            )
            for offset, row in zip(offsets.tolist(), part, strict=True)
        ]
        told += monitor.predicted(Arrived(PredictionEvents.of(events), offsets, 100 * offsets, 100 * offsets))
    return told


def records(told: Sequence[Told]) -> list[AlertEvent]:
    """The alerts of all kinds."""
    return [each.record for each in told if isinstance(each.record, AlertEvent)]


def alerts(told: Sequence[Told]) -> list[AlertEvent]:
    """The alerts about bias."""
    return [record for record in records(told) if record.kind.startswith("bias.")]


def opened(rows: Sequence[Row], options: EngineOptions = OPTIONS) -> dict[str, AlertEvent]:
    """The first alerts of each kind about the whole model, or all values of a segment."""
    found: dict[str, AlertEvent] = {}
    for alert in alerts(feed(monitor_of(options), rows)):
        segment = None if alert.change is None else alert.change.segment
        if alert.status == "opened" and (segment is None or segment.value == ALL_VALUES):
            found.setdefault(alert.kind, alert)
    return found


Truth = Callable[[F64, str], F64]
Score = Callable[[F64, str], F64]


def scored(seed: int, n: int, score: Score, regions: str = "ns", base: float = 0.0) -> list[Row]:
    """Events of a binary task: logits of the truth are normal, `score` makes of them those of the model."""
    rng = np.random.default_rng(seed)
    logits, places = rng.normal(base, 1.5, n), rng.integers(len(regions), size=n)
    labels = rng.random(n) < 1.0 / (1.0 + np.exp(-logits))
    told = np.array([score(logit, regions[place]) for logit, place in zip(logits, places, strict=True)])
    chances = 1.0 / (1.0 + np.exp(-told))
    return [Row(float(p), bool(label), regions[place]) for p, label, place in zip(chances, labels, places, strict=True)]


def fair(logit: Any, _: str) -> Any:  # noqa: ANN401 - a float or an array of them
    """The model knows the truth."""
    return logit


def numbers(seed: int, n: int, error: Callable[[np.random.Generator, str], float], regions: str = "ns") -> list[Row]:
    """Events of a regression whose labels have a deviation of 10."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        region, label = regions[rng.integers(len(regions))], float(rng.normal(100.0, 10.0))
        rows.append(Row(label + error(rng, region), label, region))
    return rows


# ------------------------------------------------------------------------------------------------------- what is found


def test_a_calibrated_and_fair_model_is_silent() -> None:
    """Ten streams of 5,000 events in four regions: no alert of any kind."""
    for seed in range(10):
        assert alerts(feed(monitor_of(OPTIONS), scored(seed, 5_000, fair, "nswe"))) == []


@pytest.mark.parametrize("name", ["normal", "lognormal", "cauchy"])
def test_a_fair_regression_is_silent(name: str) -> None:
    """Errors with however heavy tails are no bias where all regions have the same."""
    draw = {
        "normal": lambda rng, _: rng.normal(0.0, 4.0),
        "lognormal": lambda rng, _: rng.choice([-1.0, 1.0]) * rng.lognormal(0.0, 1.5),
        "cauchy": lambda rng, _: rng.standard_cauchy(),
    }[name]
    for seed in range(5):
        assert alerts(feed(monitor_of(OPTIONS), numbers(seed, 5_000, draw, "nswe"))) == [], seed


def test_probabilities_that_are_too_high_are_told() -> None:
    """The mean signed error is told with its interval, for the whole model and for each region."""
    rows = scored(1, 3_000, lambda logit, _: logit + 1.5)
    alert = opened(rows)["bias.calibration"]
    assert alert.change is not None
    worst = alert.change.changed[0]
    gap = float(np.mean([row.prediction - row.label for row in rows]))
    assert (worst.name, worst.measure, worst.expected) == ("prediction", "calibration_in_the_large", 0.0)
    assert worst.observed == pytest.approx(gap, abs=0.04)
    assert worst.low is not None
    assert worst.low > 0.1
    assert alert.timestamp_ms <= 100 * 800
    segments = {
        each.change.segment.value
        for each in alerts(feed(monitor_of(OPTIONS), rows))
        if each.kind == "bias.calibration" and each.change is not None and each.change.segment is not None
    }
    assert segments == {"n", "s"}


@pytest.mark.parametrize("factor", [4.0, 0.2])
def test_probabilities_that_are_too_extreme_or_too_flat_are_told_by_the_slope(factor: float) -> None:
    """Nothing is wrong in the mean, and the slope is the inverse of the factor."""
    alert = opened(scored(2, 4_000, lambda logit, _: factor * logit))["bias.calibration"]
    assert alert.change is not None
    assert [each.measure for each in alert.change.changed] == ["calibration_slope"]
    assert alert.change.changed[0].observed == pytest.approx(1.0 / factor, rel=0.3)
    assert "slope" in alert.summary


def test_numbers_that_are_too_high_are_told() -> None:
    """A regression that errs by a fifth of the labels' deviation is biased; one that errs by a twentieth is not."""
    alert = opened(numbers(3, 4_000, lambda rng, _: rng.normal(2.0, 4.0)))["bias.calibration"]
    assert alert.change is not None
    worst = alert.change.changed[0]
    assert worst.measure == "bias"
    assert worst.observed == pytest.approx(2.0, abs=0.7)
    assert worst.low is not None
    assert worst.low > 1.0
    assert opened(numbers(3, 4_000, lambda rng, _: rng.normal(0.5, 4.0))) == {}


def unfair(rng: random.Random, n: int, rates: dict[str, tuple[float, float]]) -> list[Row]:
    """Half of the events of each region are positive; rates of being predicted so, where it is right and wrong."""
    rows = []
    for _ in range(n):
        region, truth = rng.choice(sorted(rates)), rng.random() < 0.5
        rows.append(Row("yes" if rng.random() < rates[region][not truth] else "no", "yes" if truth else "no", region))
    return rows


@pytest.mark.parametrize(
    ("rates", "kinds"),
    [
        # Selected more often, whether or not that is right: errors are as many.
        ({"n": (0.8, 0.2), "s": (0.8, 0.2), "w": (1.0, 0.4)}, ["bias.selection_rate", "bias.true_positive_rate"]),
        # Positives are missed, and as many others selected instead: nothing shows in the selection rate.
        ({"n": (0.9, 0.1), "s": (0.9, 0.1), "w": (0.6, 0.4)}, ["bias.error", "bias.true_positive_rate"]),
        # Errors only with those that are not positive.
        ({"n": (0.9, 0.0), "s": (0.9, 0.0), "w": (0.9, 0.6)}, ["bias.error", "bias.selection_rate"]),
        ({"n": (0.8, 0.2), "s": (0.82, 0.2), "w": (0.8, 0.22)}, []),
    ],
)
def test_gaps_between_regions_are_told_by_kind(rates: dict[str, tuple[float, float]], kinds: list[str]) -> None:
    """Only the gaps that there are, and the region that is apart comes first, with rates and an interval."""
    found = opened(unfair(random.Random(4), 6_000, rates))
    assert sorted(found) == kinds
    for kind, alert in found.items():
        assert alert.change is not None
        assert alert.change.segment is not None
        assert (alert.change.segment.name, alert.change.looked_at) == ("region", 3)
        worst = alert.change.changed[0]
        assert worst.name == "w", kind
        assert worst.observed is not None
        assert worst.expected is not None
        assert worst.low is not None
        assert worst.high is not None
        assert worst.effect == pytest.approx(abs(worst.observed - worst.expected))
        assert worst.low <= worst.observed - worst.expected <= worst.high
        assert min(abs(worst.low), abs(worst.high)) > 0.1
        assert 0 <= worst.since_ms < alert.timestamp_ms
        assert worst.since_ms == 100 * worst.since_offset
        assert "of w is" in alert.summary


@pytest.mark.parametrize(
    ("error", "measure", "worst"),
    [
        (lambda rng, region: rng.normal(0.0, 6.0 if region == "w" else 4.0), "mae", "w"),
        (lambda rng, region: rng.choice([-1, 1]) * 4.0 + (3.0 if region == "w" else 0.0), "bias", "w"),
    ],
)
def test_gaps_of_a_regression_are_told(error: Callable[..., float], measure: str, worst: str) -> None:
    """A region where errors are larger, and one where they have a sign."""
    alert = opened(numbers(5, 6_000, error, "nsw"))["bias.error"]
    assert alert.change is not None
    assert (alert.change.changed[0].name, alert.change.changed[0].measure) == (worst, measure)


def test_many_classes_have_gaps_of_errors_only() -> None:
    """Without a positive class there is no rate of it."""
    rng = random.Random(6)
    rows = []
    for _ in range(4_000):
        truth, region = rng.choice("abcd"), rng.choice("nsw")
        rows.append(Row(truth if rng.random() < (0.6 if region == "w" else 0.9) else rng.choice("abcd"), truth, region))
    assert list(opened(rows)) == ["bias.error"]


def test_a_gap_that_closes_is_over() -> None:
    """Opened once and resolved once, and what came before is not held against it."""
    rng = random.Random(7)
    rates = {"n": (0.9, 0.1), "s": (0.6, 0.1)}
    rows = unfair(rng, 4_000, rates) + unfair(rng, 12_000, rates | {"s": (0.9, 0.1)})
    told = alerts(feed(monitor_of(OPTIONS), rows))
    steps = [(each.status, each.timestamp_ms // 100) for each in told if each.kind == "bias.true_positive_rate"]
    statuses = [status for status, _ in steps]
    assert statuses[0] == "opened"
    assert statuses[-1] == "resolved"
    assert statuses.count("opened") == statuses.count("resolved") == 1
    assert steps[0][1] <= 1_300
    assert 4_000 < steps[-1][1] <= 9_000


def test_a_gap_of_a_region_that_comes_no_more_is_over() -> None:
    """When there are too few events of it to tell, its alert is resolved, and stays so."""
    rng = random.Random(9)
    rates = {"n": (0.9, 0.1), "s": (0.9, 0.1), "w": (0.5, 0.1)}
    rows = unfair(rng, 3_000, rates) + unfair(rng, 9_000, {"n": (0.9, 0.1), "s": (0.9, 0.1)})
    told = alerts(feed(monitor_of(OPTIONS), rows))
    steps = [each.status for each in told if each.kind == "bias.true_positive_rate"]
    assert steps[0] == "opened"
    assert steps[-1] == "resolved"
    assert steps.count("resolved") == 1


@pytest.mark.parametrize("is_first", [False, True])
def test_incidents_are_named_by_predictions_however_labels_come(is_first: bool) -> None:  # noqa: FBT001 - of pytest
    """Labels that come apart, before or after their predictions, change no id; evidence is predictions only."""
    limits = (LimitOptions("accuracy", minimum=0.9), LimitOptions("label_lag_median", maximum=1.0))
    drift = ConceptDriftOptions(rest_labels=200)
    own = msgspec.structs.replace(OPTIONS.performance, limits=limits, drift=drift, task_labels=1_000, segments=())
    options = msgspec.structs.replace(OPTIONS, performance=own)
    rows = scored(11, 2_000, lambda logit, _: logit + 1.5) + scored(12, 2_000, lambda logit, _: 1.5 - logit)
    inside = records(feed(monitor_of(options), rows))
    apart, told = monitor_of(options), list[Told]()
    for first in range(0, len(rows), 250):
        part = rows[first : first + 250]
        offsets = np.arange(first, first + len(part))
        labels = [
            LabelEvent(event_id=f"e{offset}", model_id="m", label=row.label)
            for offset, row in zip(offsets.tolist(), part, strict=True)
        ]
        if is_first:
            told += apart.label(LabelEvents.of(labels), 10_000 + offsets, 100 * offsets + 5_000)
        told += feed(apart, [row._replace(label=None) for row in part], first)
        if not is_first:
            told += apart.label(LabelEvents.of(labels), 10_000 + offsets, 100 * offsets + 5_000)
    steps = {(each.kind, each.status, each.incident_id, each.alert_id) for each in records(told)}
    expected = {(each.kind, each.status, each.incident_id, each.alert_id) for each in inside}
    assert {each[0] for each in expected} == {"bias.calibration", "drift.concept", "performance.limit"}
    assert {each for each in steps if each[0] != "label.lag"} == expected
    lags = [each for each in records(told) if each.kind == "label.lag"]
    assert lags[0].status == "opened"
    assert len({each.alert_id for each in records(told)}) == len(records(told))
    for each in [*inside, *records(told)]:
        assert 0 < len(each.evidence) <= options.incident.evidence_max
        assert all(row.topic == "predictions" and row.timestamp_ms == 100 * row.offset for row in each.evidence)
        assert [row.offset for row in each.evidence] == sorted({row.offset for row in each.evidence})


def test_it_can_be_switched_off() -> None:
    """Then nothing is counted, and nothing is told."""
    off = msgspec.structs.replace(OPTIONS, bias=BiasOptions(enabled=False))
    monitor = monitor_of(off)
    rows = unfair(random.Random(4), 2_000, {"n": (0.8, 0.2), "s": (0.2, 0.2)})
    assert alerts(feed(monitor, rows)) == []
    assert monitor.ledger is not None
    assert monitor.ledger.gaps.groups.slots == {}


# ------------------------------------------------------------------------------------------------------ state and cuts


SMALL = msgspec.structs.replace(
    OPTIONS,
    performance=msgspec.structs.replace(
        OPTIONS.performance,
        block_labels=20,
        blocks_max=8,
        support_min=40,
        reference_labels=100,
        alert_confidence=0.95,
        segments=("region", "none"),
        segments_max=3,
        segment_idle_events=50,
        limits=(
            LimitOptions("accuracy", minimum=0.8, clear=0.02),
            LimitOptions("mae", rise=0.05, maximum=2.5),
            LimitOptions("label_lag_median", maximum=0.5),
        ),
        drift=ConceptDriftOptions(detector="hddm_w", effect_min=0.02, rest_labels=30),
    ),
    bias=BiasOptions(support_min=30, gap_max=0.05, error_max=0.05, slope_min=0.9),
)


def wild(seed: int, count: int, task: str) -> list[Row]:
    """Rows of regions that come, go and are unfair for a while."""
    rng = random.Random(seed)
    rows: list[Row] = []
    for number in range(count):
        region = rng.choice(["a", "b", None, f"x{number // 150}"])
        truth = rng.random() < 0.5
        right = rng.random() < (0.5 if region == "b" and number % 600 > 300 else 0.9)
        if task == "regression":
            label = rng.gauss(0.0, 10.0)
            error = rng.gauss(0.0, 2.0) if right else rng.gauss(5.0, 9.0)
            rows.append(Row(label + error, label, region))
        else:
            rows.append(Row(0.8 if truth == right else 0.3, truth, region))
    return rows


def state_of(monitor: PerformanceMonitor) -> tuple[bytes, dict[str, bytes]]:
    """All of its state, as bytes."""
    arrays = storing.arrays_state(monitor)
    plain = msgspec.msgpack.encode(storing.plain_state(monitor))
    return plain, {name: array.tobytes() for name, array in arrays.items()}


def restored(monitor: PerformanceMonitor) -> PerformanceMonitor:
    """Another one with its state, through bytes."""
    plain = msgspec.msgpack.decode(msgspec.msgpack.encode(storing.plain_state(monitor)), type=storing.StoredPerformance)
    other = monitor_of(SMALL)
    storing.restore(other, plain, {name: array.copy() for name, array in storing.arrays_state(monitor).items()})
    return other


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_any_cut_and_a_restore_on_the_way_change_nothing(task: str) -> None:
    """The same alerts and the same state, bit for bit, in batches of 1, 37 and 500, and after a restore."""
    rows = wild(8, 900, task)
    rows += [
        row._replace(prediction=row.prediction + 50.0 if task == "regression" else 1.1 - row.prediction)
        for row in rows[:200]
    ]
    whole = monitor_of(SMALL)
    told = feed(whole, rows, size=500)
    assert {"bias.error", "bias.calibration"} <= {each.kind for each in alerts(told)}
    assert {each.status for each in alerts(told)} >= {"opened", "resolved"}
    assert {each.kind for each in records(told)} > {"performance.limit", "drift.concept"}
    for size in (1, 37):
        other = monitor_of(SMALL)
        assert feed(other, rows, size=size) == told
        assert state_of(other) == state_of(whole)
    for place in (277, 600, 1_000):
        first = monitor_of(SMALL)
        before = feed(first, rows[:place])
        second = restored(first)
        assert state_of(second) == state_of(first)
        assert before + feed(second, rows[place:], place) == told
        assert state_of(second) == state_of(whole)


Damage = Callable[[Any, dict[str, Any]], None]


def _window(plain: Any, _: dict[str, Any]) -> None:  # noqa: ANN401 - a decoded struct
    plain["ledger"]["gaps"]["windowed"][0][0]["held"]["1"] = plain["held"] | {"window": 99_999}


def _subject(plain: Any, _: dict[str, Any]) -> None:  # noqa: ANN401 - a decoded struct
    plain["ledger"]["gaps"]["windowed"][0][0]["cleared"]["77"] = 1


def _measure(plain: Any, _: dict[str, Any]) -> None:  # noqa: ANN401 - a decoded struct
    plain["ledger"]["series"][0]["calibration"]["windowed"]["cleared"]["accuracy"] = 1


def _begins(plain: Any, _: dict[str, Any]) -> None:  # noqa: ANN401 - a decoded struct
    plain["ledger"]["series"][0]["calibration"]["begins"][5_000] = (1, 1)


def _block(plain: Any, _: dict[str, Any]) -> None:  # noqa: ANN401 - a decoded struct
    plain["ledger"]["gaps"]["block"] += 1


def _alerts(plain: Any, _: dict[str, Any]) -> None:  # noqa: ANN401 - a decoded struct
    plain["ledger"]["gaps"]["windowed"][0].pop()


def _no_gaps(plain: Any, _: dict[str, Any]) -> None:  # noqa: ANN401 - a decoded struct
    plain["ledger"]["gaps"] = None


def _twice(_: Any, arrays: dict[str, Any]) -> None:  # noqa: ANN401 - a decoded struct
    arrays["gaps.keys"] = arrays["gaps.keys"].copy()
    arrays["gaps.keys"][1] = arrays["gaps.keys"][0]


def _stranger(_: Any, arrays: dict[str, Any]) -> None:  # noqa: ANN401 - a decoded struct
    arrays["gaps.keys"] = arrays["gaps.keys"] + np.array([0, 1_000])


def _no_segment(_: Any, arrays: dict[str, Any]) -> None:  # noqa: ANN401 - a decoded struct
    arrays["gaps.keys"] = arrays["gaps.keys"] + np.array([5, 0])


def _negative(_: Any, arrays: dict[str, Any]) -> None:  # noqa: ANN401 - a decoded struct
    arrays["gaps.counts"] = arrays["gaps.counts"] - 1


def _short(_: Any, arrays: dict[str, Any]) -> None:  # noqa: ANN401 - a decoded struct
    arrays["gaps.counts"] = arrays["gaps.counts"][:, :-1]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_window, "window is too long"),
        (_subject, "a subject is none"),
        (_measure, "a subject is none"),
        (_begins, "a block begins out of range"),
        (_block, "it is of other blocks"),
        (_alerts, "its alerts are others"),
        (_no_gaps, "it has groups and does not"),
        (_twice, "a group is there twice"),
        (_stranger, "a group is of no value"),
        (_no_segment, "a group has no segment"),
        (_negative, "a count is negative"),
        (_short, "instead of"),
    ],
)
def test_damaged_state_is_refused(damage: Damage, reason: str) -> None:
    """Never a crash: a reason."""
    monitor = monitor_of(SMALL)
    feed(monitor, wild(8, 500, "binary"))
    plain = msgspec.msgpack.decode(msgspec.msgpack.encode(storing.plain_state(monitor)), strict=False)
    changed = {"name": "x", "measure": "y", "observed": 1.0, "expected": 1.0, "effect": 1.0}
    changed |= {"since_offset": 0, "since_ms": 0}
    plain["held"] = {"window": 2, "severity": "warning", "changed": changed, "events": 1}
    arrays = dict(storing.arrays_state(monitor))
    damage(plain, arrays)
    del plain["held"]
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(plain), type=storing.StoredPerformance)
    with pytest.raises(ValueError, match=reason):
        storing.restore(monitor_of(SMALL), stored, arrays)


def test_a_state_from_before_goes_on() -> None:
    """Of a model whose state knows nothing of bias, the groups begin with what comes."""
    monitor = monitor_of(SMALL)
    rows = wild(8, 900, "binary")
    feed(monitor, rows[:500])
    stored = storing.plain_state(monitor)
    assert stored.ledger is not None
    series = {code: msgspec.structs.replace(each, calibration=None) for code, each in stored.ledger.series.items()}
    ledger = msgspec.structs.replace(stored.ledger, gaps=None, series=series)
    arrays = {name: each for name, each in storing.arrays_state(monitor).items() if not name.startswith("gaps.")}
    other = monitor_of(SMALL)
    storing.restore(other, msgspec.structs.replace(stored, ledger=ledger), arrays)
    feed(other, rows[500:], 500)
    assert other.ledger is not None
    assert other.ledger.gaps.groups.block == other.ledger.whole.series.block
