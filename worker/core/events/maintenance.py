"""What was brought up to date."""

from typing import Literal

from msgspec import Struct

from worker.core.events.metrics import SCHEMA_VERSION


class MaintenanceEvent(Struct, frozen=True, kw_only=True):
    """Something about a model or its detectors was brought up to date."""

    schema_version: int = SCHEMA_VERSION
    maintenance_id: str
    kind: Literal[
        "schema_frozen",
        "detector_refitted",
        "task_inferred",
        "reference_taken",
        "segment_evicted",
        "detectors_reset",
        "regime_accepted",
        "drift_reference_taken",
    ]
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
