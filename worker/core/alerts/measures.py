"""What a raised alert says, as numbers that are alike for all kinds: its worst line, how far off, and which way.

The strength is log2 of a ratio, in doublings beyond the threshold of its kind, within [0, 8]:

| kind | what is divided | by |
|---|---|---|
| anomaly.input, its rarest event | `alert_rate` | p-value |
| anomaly.input, from 3 flagged events on, if that is more | their share of the events | `alert_rate` |
| anomaly.rate | odds of the observed share | `rate.rise_min` times the odds of the expected one |
| drift.input, .prediction, .multivariate | PSI, or the one that the told effect stands for | `drift.psi_min` |
| quality.* | what a share rose by | `quality.rise_min` |
| quality.constant, .timestamp: equal values | their run | the longest run so far |
| bias.calibration | effect: multiples of `error_max`, or of the log of `slope_min` | 1 |
| bias.*, the others | gap | `bias.gap_max` |
| performance.*, label.*: drop, rise; drift.concept | observed - reference | limit - reference |
| performance.*, label.*: minimum, maximum | abs(limit) + what the limit is missed by | abs(limit) |
| stale.* | silent time | its limit |

Of several changed lines the strongest one counts. What is on the right side, or has no figures, has 0. Facts that need
no least rise (a value beyond a declared bound, a clock set back) have 0 up to that rise. A threshold of 0 is exceeded
by anything: 8.
"""

import math
import sys
from collections.abc import Callable, Mapping
from typing import Literal

from worker.core.events import AlertEvent, AlertKind, Changed, Headline, LimitEvidence
from worker.core.options import EngineOptions

STRENGTH_MAX = 8.0
BURST_FLAGGED_MIN = 3
"""Flagged events whose share of the events since says something."""

_RUNS = frozenset({"equal_values", "equal_timestamps"})
"""Measures of lengths, not of shares."""
_AS_PSI: Mapping[str, Callable[[float], float]] = {
    "jensen_shannon": lambda distance: 8.0 * math.log(2.0) * distance * distance,
    "kolmogorov_smirnov": lambda distance: 4.0 * distance * distance,
}
"""The population stability index (PSI) that another effect stands for. PSI is the sum of both Kullback-Leibler
divergences, J; where the change is small, J is 8 times the Jensen-Shannon divergence in nats (both to second order, Lin
1991 has the definitions). With a largest distance D of the distribution functions J is at least 4 D^2 (Pinsker's
inequality twice, e.g. Tsybakov 2009, "Introduction to Nonparametric Estimation", lemma 2.5)."""

_CAUSES: tuple[AlertKind, ...] = (
    "stale.predictions",
    "quality.schema",
    "quality.type",
    "quality.missing",
    "quality.constant",
    "quality.range",
    "quality.category",
    "quality.duplicate",
    "quality.timestamp",
    "drift.input",
    "drift.multivariate",
    "anomaly.rate",
    "anomaly.input",
    "drift.prediction",
    "bias.selection_rate",
    "stale.labels",
    "label.lag",
    "label.coverage",
    "drift.concept",
    "performance.drop",
    "performance.limit",
    "bias.error",
    "bias.true_positive_rate",
    "bias.calibration",
)
"""Kinds in their order on the way from the data over the detectors to the labels."""
_CAUSE_RANKS: Mapping[AlertKind, int] = {kind: rank for rank, kind in enumerate(_CAUSES)}


def cause_rank(kind: AlertKind) -> int:
    """Return the place of a kind on the way from the data to the labels: of two, the lower one is the likely cause."""
    return _CAUSE_RANKS[kind]


def headline(record: AlertEvent) -> Headline | None:
    """Return the worst line of an alert; None where it has none, as when many events are well again.

    `measure` is what a figure is; of a metric it is what it is compared with: a minimum, maximum, drop, rise or drift.
    """
    if record.features:
        top = record.features[0]
        return Headline(top.name, "value", top.observed, top.expected, top.expected_low, top.expected_high)
    if record.performance is not None:
        of = record.performance
        expected = of.limit if of.reference is None else of.reference
        return Headline(of.metric, of.limit_kind, of.observed, expected, of.low, of.high)
    if record.change is not None and record.change.changed:
        worst = record.change.changed[0]
        return Headline(worst.name, worst.measure, worst.observed, worst.expected, worst.low, worst.high)
    if record.stale is not None:
        # As floats: what is stored comes back so.
        silent, usual, limit = (
            float(ms) for ms in (record.stale.silent_ms, record.stale.usual_ms, record.stale.limit_ms)
        )
        return Headline("", "silent_ms", silent, usual, None, limit)
    return None


def lead(record: AlertEvent) -> str:
    """Return the feature, metric or value of a segment that the worst line is about; empty when it is about none."""
    worst = headline(record)
    return "" if worst is None else worst.name


def segment_of(record: AlertEvent) -> str | None:
    """Return the segment that an alert is about, as `name=value`; None when it is about the whole model."""
    evidence = record.performance or record.change
    segment = None if evidence is None else evidence.segment
    return None if segment is None else f"{segment.name}={segment.value}"


def deviation(record: AlertEvent) -> float | None:
    """Return observed minus expected of the worst line, a boolean as 0 or 1; None where either is no number."""
    worst = headline(record)
    if worst is None:
        return None
    observed, expected = _number(worst.observed), _number(worst.expected)
    return None if observed is None or expected is None else _number(observed - expected)


def direction(record: AlertEvent) -> Literal["up", "down"] | None:
    """Return `up` or `down`; None where there is no deviation."""
    distance = deviation(record) or 0.0
    if distance == 0.0:
        return None
    return "up" if distance > 0.0 else "down"


def strength(record: AlertEvent, options: EngineOptions) -> float:
    """Return how far an alert is beyond its threshold, in doublings; `options` are those of its model."""
    if record.kind == "anomaly.input":
        return _of_events(record)
    if record.performance is not None:
        return _of_metric(record.performance)
    if record.change is not None:
        return max((_of_change(record.kind, each, options) for each in record.change.changed), default=0.0)
    return 0.0 if record.stale is None else _doublings(record.stale.silent_ms, record.stale.limit_ms)


def _of_events(record: AlertEvent) -> float:
    """Return how rare the rarest event is, or how many there are, whichever is stronger."""
    rarity = _doublings(record.alert_rate, record.p_value)
    rate, events = _number(record.alert_rate), _number(record.events)
    if rate is None or events is None or not BURST_FLAGGED_MIN <= record.flagged_events <= events:
        return rarity
    return max(rarity, _doublings(record.flagged_events, rate * events))


def _of_metric(evidence: LimitEvidence) -> float:
    is_below = evidence.limit_kind in {"minimum", "drop"}
    sign = -1.0 if is_below else 1.0
    if evidence.limit_kind in {"minimum", "maximum"}:
        room = abs(evidence.limit)
        return _doublings(room + sign * (evidence.observed - evidence.limit), room)
    if evidence.reference is None:
        return 0.0
    return _doublings(sign * (evidence.observed - evidence.reference), sign * (evidence.limit - evidence.reference))


def _of_change(kind: AlertKind, changed: Changed, options: EngineOptions) -> float:
    if kind == "anomaly.rate":
        return _of_rate(changed, options.rate.rise_min)
    if kind.startswith("drift."):
        as_psi = _AS_PSI.get(changed.measure, float)
        return _doublings(as_psi(changed.effect), options.drift.psi_min)
    if kind == "bias.calibration":
        return _doublings(changed.effect, 1.0)
    if kind.startswith("bias."):
        return _doublings(changed.effect, options.bias.gap_max)
    if changed.measure in _RUNS:
        return _doublings(changed.observed, changed.expected)
    return _doublings(changed.effect, options.quality.rise_min)


def _of_rate(changed: Changed, rise_min: float) -> float:
    observed, expected = _number(changed.observed), _number(changed.expected)
    if observed is None or expected is None:
        return 0.0
    # o / (1 - o) over e / (1 - e), multiplied out: all events may be unusual.
    return _doublings(observed * (1.0 - expected), rise_min * expected * (1.0 - observed))


def _doublings(value: float | None, threshold: float | None) -> float:
    """Return log2(value / threshold) within [0, STRENGTH_MAX]; 0 where either is no finite number."""
    beyond, limit = _number(value), _number(threshold)
    if beyond is None or limit is None or beyond <= 0.0:
        return 0.0
    if limit <= 0.0:
        return STRENGTH_MAX
    return math.log2(min(max(beyond / limit, 1.0), 2.0**STRENGTH_MAX))


def _number(value: float | bool | str | None) -> float | None:  # noqa: FBT001 - a value of a feature, not a switch
    """Return a finite number as it is, a boolean as 0 or 1, and None for anything else."""
    # Compared before it is converted: an integer may be too large for that. NaN is not at most anything.
    if isinstance(value, int | float) and abs(value) <= sys.float_info.max:
        return float(value)
    return None
