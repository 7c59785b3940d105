"""What labels say of a model."""

from typing import Literal

from msgspec import Struct

from worker.core.events.metrics import SCHEMA_VERSION


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
    """One value of one declared segment: `(other)` for all beyond `segments_max`, `(all)` where values are compared."""

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
