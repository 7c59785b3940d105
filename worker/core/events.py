"""Every record that enters or leaves through a topic, as a typed struct: the contract of the worker.

The JSON Schemas in `schemas/` are generated from this file. Fields are only ever added, never renamed.
All times are milliseconds since the epoch, in event time; "not enough data yet" is null, never 0.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, Struct

SCHEMA_VERSION = 1
NAME_CHARS_MAX = 256
FEATURES_PER_EVENT_MAX = 10_000

Name = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS_MAX)]
Identifier = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS_MAX)]
Timestamp = int | float | Annotated[datetime, Meta(tz=True)]
FeatureValue = float | bool | str | None
PredictionValue = float | bool | str


class PredictionEvent(Struct, frozen=True, gc=False):
    """One answer of a deployed model. Unknown fields are ignored.

    `timestamp` is RFC 3339 with a time zone, or epoch milliseconds; the Kafka record's timestamp where absent.
    """

    event_id: Identifier
    model_id: Identifier
    features: Annotated[dict[Name, FeatureValue], Meta(max_length=FEATURES_PER_EVENT_MAX)]
    prediction: PredictionValue
    timestamp: Timestamp | None = None
    model_version: Name | None = None
    probabilities: dict[Name, Annotated[float, Meta(ge=0.0, le=1.0)]] | None = None
    segment: dict[Name, Name] | None = None
    label: PredictionValue | None = None


class LabelEvent(Struct, frozen=True, gc=False):
    """Ground truth for one prediction event, on the `labels` topic with the same key as the prediction."""

    event_id: Identifier
    model_id: Identifier
    label: PredictionValue
    timestamp: Timestamp | None = None


class RejectCode(StrEnum):
    """Why an input record became a dead letter. Stable: never renamed, only added to."""

    EMPTY = "empty"
    """The record has no value (a tombstone) or an empty one."""
    TOO_LARGE = "too_large"
    """The value is longer than `record_bytes_max`."""
    NOT_UTF8 = "not_utf8"
    """The value is not valid UTF-8, or holds an escaped lone surrogate."""
    NOT_JSON = "not_json"
    """The value is not one JSON document (RFC 8259)."""
    NOT_FINITE = "not_finite"
    """A number is NaN or infinite, written as a word or too large for a double."""
    TOO_DEEP = "too_deep"
    """Objects or arrays are nested too deeply to be read."""
    MISSING_FIELD = "missing_field"
    """A required field is absent."""
    WRONG_TYPE = "wrong_type"
    """A field holds a value of a type that it cannot have."""
    OUT_OF_BOUNDS = "out_of_bounds"
    """A name is empty or too long, there are too many features, or a probability is not in [0, 1]."""
    BAD_TIMESTAMP = "bad_timestamp"
    """The timestamp is not RFC 3339 with a time zone, nor epoch milliseconds between 1970 and 9999."""
    TIMESTAMP_IN_FUTURE = "timestamp_in_future"
    """The event claims to be later than its Kafka record by more than `future_max_ms`."""
    MODELS_MAX = "models_max"
    """The shard already watches `models_max` other models."""


class InputTopic(StrEnum):
    """What is read; an edge maps it to a configured topic name."""

    PREDICTIONS = "predictions"
    LABELS = "labels"
    STATE = "state"
    """The worker's own: read back at a restore only, never by the engine."""


class RawBatch(NamedTuple):
    """Consecutive records of one input partition as columns of equal length, oldest first.

    Offsets may have gaps (compaction, transaction markers) but only ever grow. `keys` and `headers` are kept
    for dead letters alone.
    """

    partition: int
    offsets: Sequence[int]
    timestamps_ms: Sequence[int]
    values: Sequence[bytes | None]
    keys: Sequence[bytes | None]
    headers: Sequence[Sequence[tuple[str, bytes | None]] | None]
    topic: InputTopic = InputTopic.PREDICTIONS


class OutputTopic(StrEnum):
    """Where an output record goes; the sink maps it to a configured topic name."""

    ALERTS = "alerts"
    METRICS = "metrics"
    MAINTENANCE = "maintenance"
    DEAD_LETTERS = "dead-letters"


class Output(NamedTuple):
    """One encoded output record, tagged with the shard and the input offset that caused it."""

    topic: OutputTopic
    shard: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


class HistogramRecord(Struct, frozen=True):
    """Exponential histogram, base 2^(2^-scale); bucket i holds (base^i, base^(i+1)], index = start + position.

    The OpenTelemetry layout: two of them merge exactly after bringing both to the smaller scale.
    """

    scale: int
    zero_count: int
    positive_start: int
    positive_counts: list[int]
    negative_start: int
    negative_counts: list[int]


class ColumnMetric(Struct, frozen=True):
    """Statistics of one feature, or of the prediction, in one pane."""

    name: str
    role: Literal["feature", "prediction"]
    kind: Literal["numeric", "boolean", "categorical"]
    count: int
    """Values that were used."""
    missing: int
    """Events of the pane without a value."""
    invalid: int
    """Values whose type is not the column's kind; not used."""
    missing_rate: float | None
    mean: float | None = None
    standard_deviation: float | None = None
    """Sample standard deviation (n - 1); null below two values."""
    minimum: float | None = None
    maximum: float | None = None
    median: float | None = None
    p05: float | None = None
    p95: float | None = None
    m2: float | None = None
    """Sum of squared deviations from the mean: with count and mean it makes panes mergeable."""
    histogram: HistogramRecord | None = None
    categories: dict[str, int] | None = None
    other_categories: int | None = None
    """Values of categories beyond `categories_max`."""


class MetricEvent(Struct, frozen=True, kw_only=True):
    """One pane of one monitor. All records of a pane, from every shard and part, merge to the whole."""

    schema_version: int = SCHEMA_VERSION
    metric_id: str
    kind: Literal["pane"] = "pane"
    model_id: str
    model_version: str | None
    shard: int
    pane_start_ms: int
    pane_end_ms: int
    part: int
    """0, 1, ...: an idle input closes a pane early, and what still comes for it is published as a further part."""
    state: Literal["warming_up", "calibrating", "ready"]
    events: int
    late_events: int
    """Events whose own pane was closed already; they are counted in this one instead."""
    unknown_features: int
    """Values of features that are not in the frozen schema."""
    labels: int
    """Labels that arrived since the last metric record of this model and shard."""
    first_offset: int
    last_offset: int
    events_per_second: float
    scored_events: int
    """Events that got a verdict."""
    flagged_events: int
    """Events whose p-value was at or under `alert_rate`."""
    anomaly_rate: float | None
    columns: list[ColumnMetric]


class MetricValue(Struct, frozen=True):
    """A performance metric with its 95 % interval; null: not enough data, or not defined there."""

    value: float | None
    low: float | None
    high: float | None
    support: float
    """Events that it rests on."""
    error_max: float | None = None
    """How far the value can be from that of the single events, where it comes from a histogram."""


class ClassMetrics(Struct, frozen=True):
    """Precision, recall and F1 of one class; their support is the number of events of the class."""

    precision: MetricValue
    recall: MetricValue
    f1: MetricValue


class SegmentName(Struct, frozen=True):
    """One value of one declared segment; the value is `(other)` for all beyond `segments_max`."""

    name: str
    value: str


class LabelLag(Struct, frozen=True):
    """How long labels took, ms: from the prediction to its first label, with 95 % intervals."""

    median: MetricValue
    p95: MetricValue


class BucketCounts(Struct, frozen=True):
    """Counts of neighbouring buckets; those left out are 0."""

    start: int
    counts: list[int]


class ScoreHistogram(Struct, frozen=True):
    """Probabilities of one class, in 128 bins: four to an octave towards 0 and towards 1, ascending."""

    class_name: str
    of_class: BucketCounts
    """Events whose label is the class."""
    of_others: BucketCounts


class ClassificationParts(Struct, frozen=True):
    """What a classification's metrics are made of; parts of panes and shards merge by addition."""

    classes: list[str]
    """In the order of rows and columns 1, 2, ... of the matrix; 0 is `(other)`."""
    confusion: list[list[int]]
    """A row for each class of labels, a column for each class of predictions."""
    scored: int
    """Labelled events with usable probabilities; the others have none of what follows."""
    scores: list[ScoreHistogram]
    calibration: list[list[int]]
    """In 15 bins of equal width of the confidence: events, and those of them that were right."""
    confidence: list[float]
    """Sum of the confidence in each bin."""
    log_loss: float
    log_loss_squares: float
    brier: float
    brier_squares: float
    """Sums, and sums of squares, of each event's loss."""


class RegressionParts(Struct, frozen=True):
    """What a regression's metrics are made of, as sums over events; y = (label - center) / unit, e likewise."""

    center: float
    unit: float
    error: float
    absolute: float
    squares: float
    fourth: float
    """Sums of e, |e|, e^2, e^4."""
    label1: float
    label2: float
    label3: float
    label4: float
    """Sums of y, y^2, y^3, y^4."""
    squares_label1: float
    squares_label2: float
    """Sums of e^2 y, e^2 y^2."""
    percentage: float
    percentage_squares: float
    """Sums of |e / label| and its square over labels that are not 0."""
    percentage_n: int
    errors: BucketCounts
    """|e| in buckets: 0 up to 2^-25, then sixteen to an octave."""


class AccuracyEstimate(Struct, frozen=True):
    """What the model's confidence says of its accuracy where labels are missing. An estimate, not a measurement.

    It is wrong where the relation of confidence and accuracy has changed, and then it can point the wrong way.
    """

    accuracy: float | None
    """Confidence-based (CBPE): the confidences of the pane, each with the share of right answers it used to have."""
    low: float | None
    high: float | None
    predictions: int
    """With a confidence."""
    confidence_distance: float | None
    """Kolmogorov-Smirnov distance of the confidences from the model's first ones, 0 to 1: the better warning sign."""
    realised_error: float | None
    """Estimate minus the accuracy of the labelled events of the pane, once there are enough."""


class PerformanceEvent(Struct, frozen=True, kw_only=True):
    """What labels say of a model, or one of its segments, over one window. A newer record has a higher revision."""

    schema_version: int = SCHEMA_VERSION
    metric_id: str
    """The same for all revisions."""
    kind: Literal["performance"] = "performance"
    model_id: str
    model_version: str | None
    shard: int
    task: Literal["binary", "multiclass", "regression"]
    segment: SegmentName | None
    """Null: the whole model."""
    order: Literal["prediction_time", "label_arrival"]
    """By when events were predicted (corrected by later labels), or by when labels came (as they came)."""
    window: Literal["pane", "sliding", "decayed", "lifetime"]
    start_ms: int | None
    end_ms: int | None
    """Of panes and sliding windows."""
    revision: int
    """0, 1, ...: the window again, after more labels or corrections."""
    offset: int
    """The input record that made it known."""
    predictions: int | None
    """Null by label arrival and decayed, where it says nothing."""
    labelled: float
    """Labelled events; weighted in the decayed window."""
    label_coverage: MetricValue | None
    """Labelled share of the predictions, so far."""
    label_lag: LabelLag
    metrics: dict[str, MetricValue]
    """By name; README.md has the definition of each."""
    classes: dict[str, ClassMetrics] | None
    estimate: AccuracyEstimate | None
    classification: ClassificationParts | None
    """Of panes and the lifetime."""
    regression: RegressionParts | None
    label_facts: dict[str, int] | None
    """Of the lifetime of the whole model: what became of predictions and labels that are in no metric, by reason."""


class LimitEvidence(Struct, frozen=True):
    """What a performance alert rests on."""

    metric: str
    limit_kind: Literal["minimum", "maximum", "drop", "rise", "drift"]
    """Absolute, a drop or rise against the reference, or a change of the error that a drift detector has found."""
    observed: float
    low: float
    high: float
    confidence: float
    """Of the interval; the limit is outside of it. Wider than the published 95 %, because it is looked at often."""
    support: float
    limit: float
    """As a value of the metric."""
    reference: float | None
    since_ms: int
    """Beginning of the window in which it was found."""
    labels: int
    """Labelled events of the window."""
    segment: SegmentName | None
    classes: list[str]
    """Those that lost most, worst first."""
    detector: str | None = None


class DetectorScore(Struct, frozen=True):
    """One detector's part in a verdict. The p-value is calibrated against the detector's own past scores."""

    detector: str
    score: float | None
    p_value: float | None


class FeatureEvidence(Struct, frozen=True):
    """One feature of the flagged event: what was seen, what is usual, and what it adds to the anomaly.

    `contribution` is the drop of the isolation forest's score (or, before the first forest, of the distance from
    the usual band in band widths) when the feature is put back to its usual value, all others kept.
    """

    name: str
    observed: float | bool | str | None
    expected: float | None
    expected_low: float | None
    expected_high: float | None
    contribution: float


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
    "anomaly.input", "performance.limit", "performance.drop", "label.coverage", "label.lag", "drift.concept"
]


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
    """Of that event, largest contribution first."""
    evidence: list[EvidenceRow] = []
    """The most anomalous events so far, or the latest wrong answers, in stream order."""
    performance: LimitEvidence | None = None
    """Of the kinds `performance.*`, `label.*` and `drift.concept`."""


class MaintenanceEvent(Struct, frozen=True, kw_only=True):
    """Something about a model or its detectors was brought up to date."""

    schema_version: int = SCHEMA_VERSION
    maintenance_id: str
    kind: Literal["schema_frozen", "detector_refitted", "task_inferred", "reference_taken", "segment_evicted"]
    model_id: str
    model_version: str | None
    shard: int
    offset: int
    """The input record after which it took effect; of labels, if it is about them."""
    events: int | None
    """Events the monitor had seen by then; null for what labels have caused."""
    detector: str | None = None
    refit: int | None = None
    rows: int | None = None
    features: list[str] | None = None
    task: str | None = None
    classes: list[str] | None = None
    segment: str | None = None
    labels: int | None = None
