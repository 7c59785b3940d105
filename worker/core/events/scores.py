"""The verdict on every event, for those who want to see more than alerts."""

from msgspec import Struct

from worker.core.events.alerts import DetectorScore
from worker.core.events.metrics import SCHEMA_VERSION


class ScoreEvent(Struct, frozen=True, kw_only=True):
    """What the detectors say of one event. Published only where `engine.scores` asks for it."""

    schema_version: int = SCHEMA_VERSION
    event_id: str
    model_id: str
    model_version: str | None
    shard: int
    offset: int
    timestamp_ms: int
    score: float | None
    """The fused score: the mean of -log10 p over the detectors. Higher is more anomalous."""
    p_value: float | None
    """Of the fused score; null while there is not enough data."""
    flagged: bool
    disagreement: bool
    """Whether the detectors contradict each other about this event."""
    scores: list[DetectorScore]
