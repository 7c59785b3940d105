"""The few fields of published records that metrics are made of. Decoding skips the others."""

import math

from msgspec import Struct


class Column(Struct, frozen=True):
    """Of a pane: a feature, or the prediction."""

    name: str
    role: str
    mean: float | None = None
    median: float | None = None
    standard_deviation: float | None = None
    missing_rate: float | None = None
    drift_psi: float | None = None

    @property
    def figures(self) -> tuple[float | None, ...]:
        """All figures, in their order."""
        return (self.mean, self.median, self.standard_deviation, self.missing_rate, self.drift_psi)


class Pane(Struct, frozen=True, tag_field="kind", tag="pane"):
    """A `MetricEvent`."""

    model_id: str
    shard: int
    pane_start_ms: int
    pane_end_ms: int
    events: int
    events_per_second: float
    columns: list[Column]
    anomaly_rate: float | None = None
    drift_psi: float | None = None


class Value(Struct, frozen=True):
    """A `MetricValue`."""

    value: float | None


class Lag(Struct, frozen=True):
    """A `LabelLag`."""

    median: Value


class Segment(Struct, frozen=True):
    """A `SegmentName`."""

    name: str


class Performance(Struct, frozen=True, tag_field="kind", tag="performance"):
    """A `PerformanceEvent`."""

    model_id: str
    shard: int
    segment: Segment | None
    order: str
    window: str
    start_ms: int | None
    end_ms: int | None
    labelled: float
    label_coverage: Value | None
    label_lag: Lag
    metrics: dict[str, Value]

    @property
    def is_candidate(self) -> bool:
        """Whether it is of the whole model and of a window by prediction time that moves on."""
        return self.segment is None and self.order == "prediction_time" and self.window in ("pane", "sliding")

    @property
    def length_ms(self) -> float:
        """Of a sliding window; a pane counts as longer than any."""
        if self.window == "pane" or self.start_ms is None or self.end_ms is None:
            return math.inf
        return self.end_ms - self.start_ms


class Alert(Struct, frozen=True):
    """An `AlertEvent`."""

    model_id: str
    shard: int
    kind: str
    severity: str
    status: str


class Maintenance(Struct, frozen=True):
    """A `MaintenanceEvent` or an `AuditEvent`."""

    kind: str
    shard: int
    model_id: str | None
    reason: str = ""
