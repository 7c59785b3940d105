"""Alerts and what they rest on."""

from typing import Literal

from msgspec import Struct

from worker.core.events.changes import ChangeEvidence
from worker.core.events.metrics import SCHEMA_VERSION
from worker.core.events.performance import LimitEvidence


class DetectorScore(Struct, frozen=True):
    """One detector's part in a verdict. The p-value is calibrated against the detector's own past scores."""

    detector: str
    score: float | None
    p_value: float | None


class FeatureEvidence(Struct, frozen=True):
    """One feature of the flagged event: what was seen, what is usual, and what it adds to the anomaly.

    `contribution` is the feature's Shapley value: contributions add up to the anomaly score of the event minus that of
    an event with all features at their usual values. The score is the mean over the detectors of -log10 of the p-value.
    """

    name: str
    observed: float | bool | str | None
    expected: float | None
    expected_low: float | None
    expected_high: float | None
    contribution: float
    contributions: dict[str, float] = {}
    """The same for each detector alone, in units of its own score."""


class EvidenceRow(Struct, frozen=True):
    """Where a flagged event can be read again."""

    topic: str
    partition: int
    offset: int
    event_id: str | None
    """Null where only the place is kept."""
    timestamp_ms: int
    p_value: float | None


AlertKind = Literal[
    "anomaly.input",
    "anomaly.rate",
    "bias.calibration",
    "bias.error",
    "bias.selection_rate",
    "bias.true_positive_rate",
    "drift.concept",
    "drift.input",
    "drift.multivariate",
    "drift.prediction",
    "label.coverage",
    "label.lag",
    "performance.drop",
    "performance.limit",
    "quality.category",
    "quality.constant",
    "quality.duplicate",
    "quality.missing",
    "quality.range",
    "quality.schema",
    "quality.timestamp",
    "quality.type",
    "stale.labels",
    "stale.predictions",
]


class Headline(Struct, frozen=True):
    """The worst of an alert in one line, whatever its kind: what was observed, and what is expected."""

    name: str
    """Of the feature, segment or metric; empty for the events as such."""
    measure: str
    observed: float | bool | str | None
    expected: float | None
    low: float | None
    high: float | None
    """The band of what is expected, or the interval of what was observed; the alert's evidence tells which."""


class StaleEvidence(Struct, frozen=True, kw_only=True):
    """A stream that used to speak and does not any more."""

    silent_ms: int
    usual_ms: int
    """The second longest silence of the last two to three weeks."""
    limit_ms: int
    last_ms: int
    """Event time of the last record."""
    last_offset: int
    records: int
    """So far."""


class GoodPane(Struct, frozen=True):
    """The last pane in which nothing was wrong that this alert is about."""

    start_ms: int
    end_ms: int


class Situation(Struct, frozen=True, kw_only=True):
    """Incidents of one model that overlap in time, and the one that is likely the cause of the others.

    Of those that may have begun before the first one opened, it is the first on the way from the data over detectors to
    labels.
    """

    situation_id: str
    opened_at_ms: int
    incidents: int
    """So far, this one included."""
    open_incidents: int
    cause_incident_id: str
    cause_kind: AlertKind
    cause_summary: str


class GroupFeature(Struct, frozen=True):
    """A feature that makes the rows of a group unusual."""

    name: str
    direction: Literal["above", "below", "rare"]
    """Against the usual median; a category is rare."""
    typical: float | bool | str | None
    """Median of the rows of the group, or their most frequent category."""
    usual: float | None
    usual_low: float | None
    usual_high: float | None
    """The usual median and band (5 % to 95 %); null for a category."""
    part: float
    """Of what makes these rows unusual, on average."""


class AnomalyGroup(Struct, frozen=True):
    """Unusual events of one incident that the same features make unusual: a cause, as far as features tell."""

    rows: int
    """Of a random sample of the unusual events, at most `engine.incident.grouping.rows_max`."""
    share: float
    """Of that sample."""
    features: list[GroupFeature]
    """Largest part first; empty where no single feature stands out, only their combination."""
    example_offsets: list[int]
    """Earliest events of the group in the sample."""
    text: str


class AlertEvent(Struct, frozen=True, kw_only=True):
    """A step in the life of an incident: opened, updated (seldom), resolved."""

    schema_version: int = SCHEMA_VERSION
    alert_id: str
    incident_id: str
    fingerprint: str
    kind: AlertKind
    status: Literal["opened", "updated", "resolved"]
    severity: Literal["info", "warning", "critical"]
    summary: str
    runbook: str
    model_id: str
    model_version: str | None
    shard: int
    timestamp_ms: int
    """Event time of this step."""
    opened_at_ms: int
    last_flagged_ms: int
    resolved_at_ms: int | None
    flagged_events: int = 0
    """Flagged events of the incident so far."""
    events: int = 0
    """All events of the model since the incident opened."""
    p_value: float | None = None
    """Of the most anomalous event so far; null in alerts that do not come from single events, as all that follows."""
    alert_rate: float | None = None
    scores: list[DetectorScore] = []
    """Of that event."""
    features: list[FeatureEvidence] = []
    """Of that event, largest contribution first, by the detectors as they were when it was told of first."""
    evidence: list[EvidenceRow] = []
    """The most anomalous events so far, the latest wrong answers, or the first event of the window and the one with
    which it was found; in stream order."""
    disagreement: bool = False
    """Whether the detectors contradict each other about that event."""
    groups: list[AnomalyGroup] = []
    """All unusual events so far by what makes them unusual, largest group first; empty for less than
    `engine.incident.grouping.rows_min` of them."""
    performance: LimitEvidence | None = None
    """Of the kinds `performance.*`, `label.*` and `drift.concept`."""
    change: ChangeEvidence | None = None
    """Of the kinds `anomaly.rate`, `bias.*`, `quality.*` and `drift.*` without `drift.concept`."""
    stale: StaleEvidence | None = None
    """Of the kinds `stale.*`."""
    headline: Headline | None = None
    strength: float = 0.0
    """How far it is beyond its threshold, in doublings; at most 8."""
    onset_ms: int | None = None
    """Event time at which the condition began; the incident may have opened later."""
    duration_ms: int | None = None
    """From opening to resolution."""
    updates: int = 0
    """Times that it was updated so far."""
    flapping: bool = False
    """The condition comes and goes: the incident stays open until it has been calm for long."""
    last_good: GoodPane | None = None
    situation: Situation | None = None
