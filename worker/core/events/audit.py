"""What was done about alerts beside telling them, and for whom: nothing that is held back is lost."""

from typing import Literal

from msgspec import Struct

from worker.core.events.metrics import SCHEMA_VERSION


class AuditEvent(Struct, frozen=True, kw_only=True):
    """An opening that was suppressed, an effect of feedback, or an alert budget that binds."""

    schema_version: int = SCHEMA_VERSION
    audit_id: str
    kind: Literal["alert_suppressed", "alert_budget", "feedback_applied", "feedback_undone", "feedback_refused"]
    shard: int
    offset: int
    """The input record after which it took effect: of predictions, of labels, or of feedback for the last three."""
    timestamp_ms: int | None
    """Event time; null for feedback that is about no single model."""
    model_id: str | None
    """Null: feedback about more than one model."""
    alert_kind: str | None = None
    incident_id: str | None = None
    fingerprint: str | None = None
    severity: str | None = None
    reason: str
    """`silence`, `window`, `version_change`, `ignored`, `budget`, `incidents_max`; for feedback its kind, or why it was
    refused: `unknown_incident`, `unknown_feedback`, `already_undone`, `feedback_max`."""
    author: str | None = None
    """Who sent the feedback; null for windows of the configuration and for what the worker decides."""
    feedback_id: str | None = None
    summary: str
    suppressed: int | None = None
    """Openings of the model that were suppressed so far, for this reason."""
    threshold: float | None = None
    """Of the kind and model from now on, in doublings beyond the configured one (feedback), or of the budget."""
