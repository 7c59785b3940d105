"""What is published of an incident: its steps, the table of open incidents, and what was held back."""

from typing import Literal, NamedTuple

import msgspec

from worker.core.alerts.life import Life
from worker.core.alerts.suppression import Held
from worker.core.events import AlertEvent, AuditEvent, OutputTopic, Situation
from worker.core.identity import derived_id
from worker.core.options import EngineOptions
from worker.core.telling import Owner, Told

Status = Literal["opened", "updated", "resolved"]


class At(NamedTuple):
    """When and where something about an incident happens: event time, the record that caused it, events so far."""

    now_ms: int
    offset: int
    sequence: int


class Publisher:
    """Makes the records of one monitor."""

    def __init__(self, owner: Owner, options: EngineOptions) -> None:
        self._owner = owner
        self._options = options

    def step(self, status: Status, life: Life, situation: Situation, at: At) -> list[Told]:
        """Return a step of an open incident for both topics: the history, and the table of what is open."""
        record = self._record(status, life, situation, at)
        row = None if status == "resolved" else record
        key = record.fingerprint
        return [
            Told(OutputTopic.ALERTS, at.offset, key, record),
            Told(OutputTopic.INCIDENTS, at.offset, key, row),
        ]

    def _record(self, status: Status, life: Life, situation: Situation, at: At) -> AlertEvent:
        told, raised = life.open, life.record
        if told is None:
            raise AssertionError("a step is told of an incident that is not open")
        is_over = status == "resolved"
        return msgspec.structs.replace(
            raised,
            alert_id=derived_id("alert", told.incident_id, status, at.offset, told.updates),
            incident_id=told.incident_id,
            status=status,
            severity=told.severity,
            timestamp_ms=at.now_ms,
            opened_at_ms=told.opened_ms,
            onset_ms=life.onset_ms,
            resolved_at_ms=at.now_ms if is_over else None,
            duration_ms=at.now_ms - told.opened_ms if is_over else None,
            flagged_events=life.flagged_before + raised.flagged_events,
            events=life.events_before + raised.events,
            strength=life.strength,
            updates=told.updates,
            flapping=life.flapping,
            last_good=life.good,
            situation=situation,
        )

    def held(self, life: Life, held: Held, count: int, at: At) -> Told:
        """Return the note that an opening was suppressed."""
        record, owner = life.record, self._owner
        audit = AuditEvent(
            audit_id=derived_id("suppressed", life.next_id, held.reason, owner.shard, at.offset),
            kind="alert_suppressed",
            shard=owner.shard,
            offset=at.offset,
            timestamp_ms=at.now_ms,
            model_id=owner.model_id,
            alert_kind=record.kind,
            incident_id=life.next_id,
            fingerprint=record.fingerprint,
            severity=record.severity,
            reason=held.reason,
            author=held.author,
            feedback_id=held.feedback_id,
            summary=f"not opened ({held.reason}: {held.detail}): {record.summary}",
            suppressed=count,
        )
        return Told(OutputTopic.MAINTENANCE, at.offset, owner.model_id, audit)

    def budget_binds(self, spent: int, threshold: float, at: At) -> Told:
        """Return the note that the alert budget asks more of what opens."""
        owner, most = self._owner, self._options.alerts.openings_per_day_max
        left = "nothing opens" if threshold == float("inf") else f"only a rank of {threshold:.1f} of 24 opens"
        audit = AuditEvent(
            audit_id=derived_id("budget", owner.model_id, owner.shard, at.offset),
            kind="alert_budget",
            shard=owner.shard,
            offset=at.offset,
            timestamp_ms=at.now_ms,
            model_id=owner.model_id,
            reason="budget",
            summary=f"{owner.model_id}: {spent} of {most} openings of a day are spent: {left}",
            threshold=None if threshold == float("inf") else threshold,
        )
        return Told(OutputTopic.MAINTENANCE, at.offset, owner.model_id, audit)
