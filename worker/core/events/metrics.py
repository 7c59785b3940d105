"""Statistics of panes."""

from typing import Literal

from msgspec import Struct

SCHEMA_VERSION = 1


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
    kind: Literal["numeric", "boolean", "categorical", "text"]
    """Of a text all statistics are of its length, characters."""
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
    drift_psi: float | None = None
    """Population stability index of the model's latest events against the reference of `drift.input`, less what chance
    adds to it. Latest are the newest whole blocks (`engine.drift.block_events`) when the pane is closed, up to four of
    them, of whichever panes. Null until a reference and a block after it are there. Other shards have other references:
    the largest one counts."""


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
    drift_psi: float | None = None
    """The largest `drift_psi` of the features; null in further parts of a pane that does not fit into one record."""
    columns: list[ColumnMetric]
