"""What alerts of all kinds say as numbers: the worst line, its deviation, direction and strength, and their order."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.alerts.measures import (
    BURST_FLAGGED_MIN,
    STRENGTH_MAX,
    cause_rank,
    deviation,
    direction,
    headline,
    lead,
    segment_of,
    strength,
)
from worker.core.drift.effects import jensen_shannon, kolmogorov_smirnov
from worker.core.events import (
    AlertEvent,
    AlertKind,
    Changed,
    ChangeEvidence,
    FeatureEvidence,
    Headline,
    LimitEvidence,
    SegmentName,
    StaleEvidence,
)
from worker.core.options import BiasOptions, DriftOptions, EngineOptions, QualityOptions, RateOptions

OPTIONS = EngineOptions()
KINDS: tuple[AlertKind, ...] = get_args(AlertKind)
Band = tuple[float | None, float | None]
Maker = Callable[[float], AlertEvent]


def alert(kind: AlertKind, **fields: Any) -> AlertEvent:  # noqa: ANN401 - fields of the struct
    """Return a record as the sources raise it."""
    common: dict[str, Any] = {
        "alert_id": "a",
        "incident_id": "i",
        "fingerprint": "f",
        "status": "opened",
        "severity": "warning",
        "summary": "fraud-v3: something is wrong",
        "runbook": kind,
        "model_id": "fraud-v3",
        "model_version": "3.1",
        "shard": 2,
        "timestamp_ms": 1_767_225_600_000,
        "opened_at_ms": 1_767_225_600_000,
        "last_flagged_ms": 1_767_225_600_000,
        "resolved_at_ms": None,
    }
    return AlertEvent(kind=kind, **{**common, **fields})


def flagged(
    *features: FeatureEvidence, p_value: float = 0.00025, flagged_events: int = 1, events: int = 1
) -> AlertEvent:
    """Return an alert about unusual events."""
    return alert(
        "anomaly.input",
        features=list(features),
        p_value=p_value,
        alert_rate=0.001,
        flagged_events=flagged_events,
        events=events,
    )


def line(
    name: str, measure: str, observed: float | None, expected: float | None, effect: float, band: Band = (None, None)
) -> Changed:
    """Return a line of a change."""
    return Changed(
        name=name,
        measure=measure,
        observed=observed,
        expected=expected,
        effect=effect,
        low=band[0],
        high=band[1],
        since_offset=80_000,
        since_ms=1_767_225_000_000,
    )


def change(kind: AlertKind, *lines: Changed, segment: SegmentName | None = None) -> AlertEvent:
    """Return an alert about many events."""
    evidence = ChangeEvidence(changed=list(lines), changed_count=len(lines), looked_at=12, events=500, segment=segment)
    return alert(kind, change=evidence)


def limit(
    kind: AlertKind,
    metric: str,
    sort: str,
    observed: float,
    threshold: float,
    reference: float | None = None,
    segment: SegmentName | None = None,
) -> AlertEvent:
    """Return an alert about a metric, with an interval of two points around what was observed."""
    evidence: dict[str, Any] = {
        "metric": metric,
        "limit_kind": sort,
        "observed": observed,
        "low": observed - 0.02,
        "high": observed + 0.02,
        "confidence": 0.9995,
        "support": 800.0,
        "limit": threshold,
        "reference": reference,
        "since_ms": 1_767_225_000_000,
        "labels": 800,
        "segment": segment,
        "classes": [],
    }
    return alert(kind, performance=LimitEvidence(**evidence))


def stale(kind: AlertKind, silent_ms: int, usual_ms: int, limit_ms: int) -> AlertEvent:
    """Return an alert about a silent stream."""
    evidence = StaleEvidence(
        silent_ms=silent_ms,
        usual_ms=usual_ms,
        limit_ms=limit_ms,
        last_ms=1_767_225_000_000,
        last_offset=9,
        records=5_000,
    )
    return alert(kind, stale=evidence)


class Example(NamedTuple):
    """An alert and what it is to say."""

    record: AlertEvent
    headline: Headline
    deviation: float | None
    direction: str | None
    strength: float


AMOUNT = FeatureEvidence("amount", 980.0, 40.0, 5.0, 180.0, 2.1)
ALL_REGIONS = SegmentName("region", "(all)")
EXAMPLES: tuple[Example, ...] = (
    # A p-value of a quarter of the alert rate: two doublings.
    Example(flagged(AMOUNT), Headline("amount", "value", 980.0, 40.0, 5.0, 180.0), 940.0, "up", 2.0),
    # Odds of 1/9 against 1/49, of which 1.25 are allowed.
    Example(
        change("anomaly.rate", line("", "unusual_share", 0.1, 0.02, 5.0, (0.01, 0.04))),
        Headline("", "unusual_share", 0.1, 0.02, 0.01, 0.04),
        0.08,
        "up",
        math.log2(49 / 9 / 1.25),
    ),
    # The effect is on a scale on which the limit is 1.
    Example(
        change("bias.calibration", line("prediction", "calibration_slope", 0.25, 1.0, 2.0, (0.2, 0.3))),
        Headline("prediction", "calibration_slope", 0.25, 1.0, 0.2, 0.3),
        -0.75,
        "down",
        1.0,
    ),
    Example(
        change("bias.error", line("north", "error_rate", 0.5, 0.1, 0.4, (0.3, 0.5)), segment=ALL_REGIONS),
        Headline("north", "error_rate", 0.5, 0.1, 0.3, 0.5),
        0.4,
        "up",
        2.0,
    ),
    Example(
        change("bias.selection_rate", line("north", "selection_rate", 0.1, 0.3, 0.2, (-0.25, -0.15))),
        Headline("north", "selection_rate", 0.1, 0.3, -0.25, -0.15),
        -0.2,
        "down",
        1.0,
    ),
    Example(
        change("bias.true_positive_rate", line("north", "recall", 0.4, 0.8, 0.4, (-0.5, -0.3))),
        Headline("north", "recall", 0.4, 0.8, -0.5, -0.3),
        -0.4,
        "down",
        2.0,
    ),
    # Twice the rise that is asked for.
    Example(
        limit("drift.concept", "error", "drift", 0.14, 0.12, 0.1),
        Headline("error", "drift", 0.14, 0.1, 0.12, 0.16),
        0.04,
        "up",
        1.0,
    ),
    Example(
        change("drift.input", line("amount", "psi", 0.32, 0.0, 0.32)),
        Headline("amount", "psi", 0.32, 0.0, None, None),
        0.32,
        "up",
        4.0,
    ),
    Example(
        change("drift.multivariate", line("amount", "psi", 0.08, 0.0, 0.08)),
        Headline("amount", "psi", 0.08, 0.0, None, None),
        0.08,
        "up",
        2.0,
    ),
    Example(
        change("drift.prediction", line("prediction", "psi", 0.04, 0.0, 0.04)),
        Headline("prediction", "psi", 0.04, 0.0, None, None),
        0.04,
        "up",
        1.0,
    ),
    # Twenty points where five are allowed.
    Example(
        limit("label.coverage", "label_coverage", "drop", 0.78, 0.93, 0.98),
        Headline("label_coverage", "drop", 0.78, 0.98, 0.76, 0.8),
        -0.2,
        "down",
        2.0,
    ),
    Example(
        limit("label.lag", "label_lag_median", "rise", 90_000.0, 20_000.0, 10_000.0),
        Headline("label_lag_median", "rise", 90_000.0, 10_000.0, 89_999.98, 90_000.02),
        80_000.0,
        "up",
        3.0,
    ),
    Example(
        limit("performance.drop", "accuracy", "drop", 0.88, 0.91, 0.92),
        Headline("accuracy", "drop", 0.88, 0.92, 0.86, 0.9),
        -0.04,
        "down",
        2.0,
    ),
    # Half of the limit is missing: 1.5 times.
    Example(
        limit("performance.limit", "f1", "minimum", 0.4, 0.8),
        Headline("f1", "minimum", 0.4, 0.8, 0.38, 0.42),
        -0.4,
        "down",
        math.log2(1.5),
    ),
    Example(
        limit("performance.limit", "mae", "maximum", 6.0, 2.0),
        Headline("mae", "maximum", 6.0, 2.0, 5.98, 6.02),
        4.0,
        "up",
        math.log2(3.0),
    ),
    Example(
        change("quality.category", line("country", "unseen_share", 0.2, 0.0, 0.2, (0.0, 0.05))),
        Headline("country", "unseen_share", 0.2, 0.0, 0.0, 0.05),
        0.2,
        "up",
        2.0,
    ),
    # A run of 400 equal values, where 50 was the longest.
    Example(
        change("quality.constant", line("age", "equal_values", 400.0, 50.0, 2.0, (None, 50.0))),
        Headline("age", "equal_values", 400.0, 50.0, None, 50.0),
        350.0,
        "up",
        3.0,
    ),
    Example(
        change("quality.duplicate", line("", "duplicate_share", 0.42, 0.02, 0.4, (0.0, 0.07))),
        Headline("", "duplicate_share", 0.42, 0.02, 0.0, 0.07),
        0.4,
        "up",
        3.0,
    ),
    Example(
        change("quality.missing", line("age", "missing_share", 0.9, 0.1, 0.8, (0.0, 0.15))),
        Headline("age", "missing_share", 0.9, 0.1, 0.0, 0.15),
        0.8,
        "up",
        4.0,
    ),
    # What is told is the median of the values outside; the strength is of their share.
    Example(
        change("quality.range", line("amount", "median_outside", -40.0, 40.0, 0.1, (-5.0, 180.0))),
        Headline("amount", "median_outside", -40.0, 40.0, -5.0, 180.0),
        -80.0,
        "down",
        1.0,
    ),
    Example(
        change("quality.schema", line("age", "missing_share", 1.0, 0.2, 0.8)),
        Headline("age", "missing_share", 1.0, 0.2, None, None),
        0.8,
        "up",
        4.0,
    ),
    Example(
        change("quality.timestamp", line("", "late_share", 0.11, 0.01, 0.1, (0.0, 0.06))),
        Headline("", "late_share", 0.11, 0.01, 0.0, 0.06),
        0.1,
        "up",
        1.0,
    ),
    Example(
        change("quality.type", line("age", "invalid_share", 0.4, 0.0, 0.4, (0.0, 0.05))),
        Headline("age", "invalid_share", 0.4, 0.0, 0.0, 0.05),
        0.4,
        "up",
        3.0,
    ),
    Example(
        stale("stale.labels", 3_600_000, 450_000, 900_000),
        Headline("", "silent_ms", 3_600_000.0, 450_000.0, None, 900_000.0),
        3_150_000.0,
        "up",
        2.0,
    ),
    # It has just become stale.
    Example(
        stale("stale.predictions", 300_000, 30_000, 300_000),
        Headline("", "silent_ms", 300_000.0, 30_000.0, None, 300_000.0),
        270_000.0,
        "up",
        0.0,
    ),
)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda each: each.record.kind)
def test_an_alert_says_what_is_worst_and_how_far_off_it_is(example: Example) -> None:
    """Headline, deviation, direction and strength of a record of each kind."""
    found = headline(example.record)
    assert found is not None
    assert msgspec.structs.astuple(found) == pytest.approx(msgspec.structs.astuple(example.headline))
    assert lead(example.record) == example.headline.name
    assert deviation(example.record) == pytest.approx(example.deviation)
    assert direction(example.record) == example.direction
    assert strength(example.record, OPTIONS) == pytest.approx(example.strength)


def test_there_is_an_example_of_every_kind() -> None:
    """A kind that is added must say what its strength is."""
    assert {each.record.kind for each in EXAMPLES} == set(KINDS)


def test_a_headline_comes_back_from_storage_as_it_was() -> None:
    """Else a restored shard would write other bytes."""
    for example in EXAMPLES:
        found = headline(example.record)
        back = msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=Headline)
        assert msgspec.json.encode(back) == msgspec.json.encode(found)


def test_what_is_well_again_has_no_worst_line() -> None:
    """A resolved alert about many events lists nothing."""
    record = change("quality.missing")
    assert headline(record) is None
    assert (lead(record), deviation(record), direction(record), strength(record, OPTIONS)) == ("", None, None, 0.0)


@pytest.mark.parametrize(
    ("observed", "expected", "distance", "way"),
    [
        (True, 0.0, 1.0, "up"),
        (False, 1.0, -1.0, "down"),
        ("DE", None, None, None),
        ("DE", 1.0, None, None),
        (None, 40.0, None, None),
        (7.0, None, None, None),
        (7.0, 7.0, 0.0, None),
        (math.inf, 7.0, None, None),
    ],
)
def test_only_numbers_deviate(
    observed: float | bool | str | None,  # noqa: FBT001 - a value of a feature
    expected: float | None,
    distance: float | None,
    way: str | None,
) -> None:
    """Booleans count as 0 and 1; texts, and what is missing or not finite, do not."""
    record = flagged(FeatureEvidence("f", observed, expected, None, None, 1.0))
    assert (deviation(record), direction(record)) == (distance, way)


def test_a_segment_is_told_as_name_and_value() -> None:
    """Of metrics and of changes; an alert about the whole model has none."""
    north = SegmentName("region", "north")
    assert segment_of(limit("performance.drop", "accuracy", "drop", 0.8, 0.9, 0.91, segment=north)) == "region=north"
    assert segment_of(change("bias.error", segment=SegmentName("region", "(all)"))) == "region=(all)"
    assert [segment_of(each) for each in (change("drift.input"), flagged(), stale("stale.labels", 1, 1, 1))] == [
        None
    ] * 3


def test_a_burst_is_strong_though_none_of_its_events_is_rare() -> None:
    """Eight of a thousand events are flagged, where one is expected; two of them would still be chance."""
    assert strength(flagged(p_value=0.001, flagged_events=8, events=1_000), OPTIONS) == pytest.approx(3.0)
    few = BURST_FLAGGED_MIN - 1
    assert strength(flagged(p_value=0.001, flagged_events=few, events=few), OPTIONS) == 0.0


def test_the_larger_of_burst_and_rarity_counts() -> None:
    """A very rare event among a few flagged ones keeps its strength."""
    assert strength(flagged(p_value=0.001 / 64, flagged_events=8, events=1_000), OPTIONS) == pytest.approx(6.0)


def test_the_strongest_line_counts() -> None:
    """Lines are ranked by effect, which for lengths is no measure of strength."""
    run, late = line("", "equal_timestamps", 150.0, 120.0, 0.75), line("", "late_share", 0.4, 0.0, 0.4)
    assert strength(change("quality.timestamp", run, late), OPTIONS) == pytest.approx(3.0)


def test_strength_follows_the_options() -> None:
    """Who asks for larger changes gets weaker alerts."""
    strict = EngineOptions(
        rate=RateOptions(rise_min=2.5),
        drift=DriftOptions(psi_min=0.04),
        quality=QualityOptions(rise_min=0.1),
        bias=BiasOptions(gap_max=0.2),
    )
    for example in EXAMPLES:
        kind, lines = example.record.kind, example.record.change
        is_asked = lines is not None and kind not in {"bias.calibration", "quality.constant"}
        weaker = example.strength - (1.0 if is_asked else 0.0)
        assert strength(example.record, strict) == pytest.approx(weaker), kind


def test_a_threshold_of_zero_is_exceeded_by_anything() -> None:
    """There is no ratio to it: it is as strong as can be told; but nothing is not beyond it."""
    options = EngineOptions(drift=DriftOptions(psi_min=0.0))
    assert strength(change("drift.input", line("f", "psi", 0.01, 0.0, 0.01)), options) == STRENGTH_MAX
    assert strength(change("drift.input", line("f", "psi", 0.0, 0.0, 0.0)), options) == 0.0
    assert strength(limit("performance.limit", "matthews", "minimum", -0.1, 0.0), OPTIONS) == STRENGTH_MAX
    assert strength(flagged(p_value=0.0), OPTIONS) == STRENGTH_MAX


def test_all_events_may_be_unusual() -> None:
    """Their odds are infinite, the strength is not."""
    assert strength(change("anomaly.rate", line("", "unusual_share", 1.0, 0.02, 50.0)), OPTIONS) == STRENGTH_MAX


@pytest.mark.parametrize(
    "record",
    [
        limit("performance.limit", "f1", "minimum", 0.9, 0.8),
        limit("performance.limit", "mae", "maximum", 1.0, 2.0),
        limit("performance.limit", "bias", "maximum", -3.0, 2.0),
        limit("performance.drop", "accuracy", "drop", 0.95, 0.91, 0.92),
        limit("label.lag", "label_lag_median", "rise", 5_000.0, 20_000.0, 10_000.0),
        limit("drift.concept", "error", "drift", 0.05, 0.12, 0.1),
        change("anomaly.rate", line("", "unusual_share", 0.01, 0.02, 0.5)),
    ],
    ids=lambda each: each.kind,
)
def test_what_is_on_the_right_side_has_no_strength(record: AlertEvent) -> None:
    """A metric that is far better than it must be is not strongly broken."""
    assert strength(record, OPTIONS) == 0.0


def test_what_is_missing_has_no_strength() -> None:
    """Without the figures it is 0, not unknown."""
    for kind in KINDS:
        assert strength(alert(kind), OPTIONS) == 0.0
    assert strength(limit("performance.drop", "accuracy", "drop", 0.5, 0.9), OPTIONS) == 0.0
    assert strength(flagged(p_value=0.001, flagged_events=8, events=0), OPTIONS) == 0.0
    assert strength(change("anomaly.rate", line("", "unusual_share", None, 0.02, 5.0)), OPTIONS) == 0.0
    assert strength(change("quality.constant", line("f", "equal_values", None, None, 2.0)), OPTIONS) == 0.0


def test_a_drift_is_about_as_strong_whatever_effect_ranks_it() -> None:
    """A small shift has the same strength by PSI and Jensen-Shannon distance; by the largest gap it is no stronger."""
    reference = np.array([[100, 200, 400, 200, 100, 0]])
    window = np.array([[60, 150, 390, 250, 150, 0]])
    p, q = (counts[0, :-1] / counts.sum() for counts in (reference, window))
    psi = float(((p - q) * np.log(p / q)).sum())
    by_psi, by_distance, by_gap = (
        strength(change("drift.input", line("f", measure, effect, 0.0, effect)), OPTIONS)
        for measure, effect in (
            ("psi", psi),
            ("jensen_shannon", float(jensen_shannon(reference, window)[0])),
            ("kolmogorov_smirnov", float(kolmogorov_smirnov(reference, window)[0])),
        )
    )
    assert by_psi > 1.0
    assert by_distance == pytest.approx(by_psi, abs=0.05)
    assert by_psi - 1.5 < by_gap <= by_psi


def test_causes_come_before_effects() -> None:
    """Every kind has its own place: input that stops or is broken, then drift, anomalies, predictions, labels."""
    assert sorted(map(cause_rank, KINDS)) == list(range(len(KINDS)))
    way: list[AlertKind] = [
        "stale.predictions",
        "quality.schema",
        "quality.missing",
        "drift.input",
        "anomaly.rate",
        "anomaly.input",
        "drift.prediction",
        "stale.labels",
        "label.coverage",
        "drift.concept",
        "performance.drop",
        "bias.error",
    ]
    assert sorted(way, key=cause_rank) == way


# Whatever a record holds.

_ints = st.integers(-(2**63), 2**63 - 1)
_floats = st.floats()
_maybe = st.none() | _floats | _ints
_segments = st.none() | st.just(SegmentName("region", "north"))
_lines = st.builds(
    line,
    st.sampled_from(["", "amount"]),
    st.sampled_from(["psi", "jensen_shannon", "kolmogorov_smirnov", "equal_values", "missing_share", ""]),
    _maybe,
    _maybe,
    _floats,
)
_changes = st.builds(
    ChangeEvidence,
    changed=st.lists(_lines, max_size=3),
    changed_count=_ints,
    looked_at=_ints,
    events=_ints,
    segment=_segments,
)
_limits = st.builds(
    LimitEvidence,
    metric=st.sampled_from(["accuracy", "mae"]),
    limit_kind=st.sampled_from(["minimum", "maximum", "drop", "rise", "drift"]),
    observed=_floats,
    low=_floats,
    high=_floats,
    confidence=_floats,
    support=_floats,
    limit=_floats,
    reference=_maybe,
    since_ms=_ints,
    labels=_ints,
    segment=_segments,
    classes=st.just([]),
)
_silences = st.builds(
    StaleEvidence, silent_ms=_ints, usual_ms=_ints, limit_ms=_ints, last_ms=_ints, last_offset=_ints, records=_ints
)
_features = st.builds(
    FeatureEvidence,
    name=st.just("amount"),
    observed=_maybe | st.booleans() | st.text(max_size=3),
    expected=_maybe,
    expected_low=_maybe,
    expected_high=_maybe,
    contribution=_floats,
)
_records = st.builds(
    alert,
    st.sampled_from(KINDS),
    flagged_events=_ints,
    events=_ints,
    p_value=_maybe,
    alert_rate=_maybe,
    features=st.lists(_features, max_size=2),
    performance=st.none() | _limits,
    change=st.none() | _changes,
    stale=st.none() | _silences,
)
_options = st.builds(
    lambda rise, psi, share, gap: EngineOptions(
        rate=RateOptions(rise_min=rise),
        drift=DriftOptions(psi_min=psi),
        quality=QualityOptions(rise_min=share),
        bias=BiasOptions(gap_max=gap),
    ),
    st.floats(1.0, 100.0),
    st.floats(0.0, 1e308),
    st.floats(5e-324, 1.0),
    st.floats(5e-324, 1.0),
)


@settings(max_examples=300)
@given(_records, _options)
def test_no_record_breaks_the_figures(record: AlertEvent, options: EngineOptions) -> None:
    """Whatever it holds, its strength is in its range, and its deviation is a number or none."""
    assert 0.0 <= strength(record, options) <= STRENGTH_MAX
    distance = deviation(record)
    assert distance is None or math.isfinite(distance)
    assert (direction(record) is None) == (not distance)


_nearer_and_farther = st.tuples(st.floats(1e-6, 100.0), st.floats(1e-6, 100.0)).map(sorted)


@given(_nearer_and_farther)
def test_what_is_farther_off_is_not_weaker(distances: list[float]) -> None:
    """For every sort of limit, and for shares, rates and effects."""
    makers: tuple[Maker, ...] = (
        lambda d: limit("performance.limit", "f1", "minimum", 0.8 - d, 0.8),
        lambda d: limit("performance.limit", "mae", "maximum", 2.0 + d, 2.0),
        lambda d: limit("performance.drop", "accuracy", "drop", 0.92 - d, 0.91, 0.92),
        lambda d: limit("label.lag", "label_lag_p95", "rise", 10.0 + d, 20.0, 10.0),
        lambda d: change("drift.input", line("f", "psi", d, 0.0, d)),
        lambda d: change("anomaly.rate", line("", "unusual_share", d / (1.0 + d), 0.02, d)),
        lambda d: flagged(p_value=math.exp(-d)),
    )
    for make in makers:
        near, far = (strength(make(each), OPTIONS) for each in distances)
        assert near <= far
