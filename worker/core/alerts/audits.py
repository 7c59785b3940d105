"""What became of feedback, as records with its author: applied, undone, or refused and why."""

from typing import Literal, NamedTuple

from worker.core.alerts.effects import Effect
from worker.core.alerts.silences import Silence
from worker.core.events import AuditEvent, FeedbackEvent, IncidentFeedback, OutputTopic, UndoFeedback
from worker.core.identity import derived_id
from worker.core.telling import Told


def refused(event: FeedbackEvent, why: str, shard: int, offset: int, model_id: str | None = None) -> Told:
    """Return the note that feedback has no effect; `model_id`: whose feedback it was to undo, if that is known."""
    about = event if isinstance(event, IncidentFeedback) else None
    model_id = model_id if about is None else about.model_id
    record = AuditEvent(
        audit_id=derived_id("feedback_refused", event.feedback_id, shard, offset),
        kind="feedback_refused",
        shard=shard,
        offset=offset,
        timestamp_ms=None,
        model_id=model_id,
        incident_id=None if about is None else about.incident_id,
        reason=why.split(":", maxsplit=1)[0],
        author=event.author,
        feedback_id=event.feedback_id,
        summary=f"feedback of {event.author} has no effect: {why}",
    )
    return Told(OutputTopic.MAINTENANCE, offset, model_id or "", record)


def silenced(silence: Silence, shard: int, offset: int) -> Told:
    """Return the note that a silence is in force."""
    text = f"silenced by {silence.author} ({silence.reason})"
    return _silence("feedback_applied", silence, silence.author, text, shard, offset)


def unsilenced(event: UndoFeedback, silence: Silence, shard: int, offset: int) -> Told:
    """Return the note that a silence has been taken back."""
    return _silence("feedback_undone", silence, event.author, f"no longer silenced, says {event.author}", shard, offset)


def _silence(
    kind: Literal["feedback_applied", "feedback_undone"],
    silence: Silence,
    author: str,
    text: str,
    shard: int,
    offset: int,
) -> Told:
    record = AuditEvent(
        audit_id=derived_id(kind, silence.feedback_id, shard, offset),
        kind=kind,
        shard=shard,
        offset=offset,
        timestamp_ms=None,
        model_id=None,
        reason="silence",
        author=author,
        feedback_id=silence.feedback_id,
        summary=f"{_scope(silence)}: {text}",
    )
    return Told(OutputTopic.MAINTENANCE, offset, "", record)


def _scope(silence: Silence) -> str:
    scope = silence.scope
    parts = [scope.model, scope.kind, scope.segment and f"segment {scope.segment}", scope.feature]
    return ", ".join(part for part in parts if part)


class Whose(NamedTuple):
    """The monitor that feedback was about, the offset of the feedback, and the event time of the monitor."""

    model_id: str
    shard: int
    offset: int
    now_ms: int


def applied(effect: Effect, demand: float, whose: Whose) -> Told:
    """Return the note that feedback about an incident is in force; `demand` of its kind, with it."""
    asked = _asked(effect.like.kind, demand)
    if effect.feedback == "ignore_like_this":
        asked = f"what is like incident {effect.like.incident_id} is ignored"
    return _effect("feedback_applied", effect, effect.author, f"{asked}, says {effect.author}", demand, whose)


def undone(event: UndoFeedback, effect: Effect, demand: float, whose: Whose) -> Told:
    """Return the note that an effect has been taken back; `demand` of its kind, without it."""
    asked = f"{effect.feedback} of {effect.author} taken back by {event.author}: {_asked(effect.like.kind, demand)}"
    return _effect("feedback_undone", effect, event.author, asked, demand, whose)


def _asked(kind: str, demand: float) -> str:
    return f"{kind} opens from {2.0**demand:g} times its threshold on"


def _effect(
    kind: Literal["feedback_applied", "feedback_undone"],
    effect: Effect,
    author: str,
    text: str,
    demand: float,
    whose: Whose,
) -> Told:
    like = effect.like
    record = AuditEvent(
        audit_id=derived_id(kind, effect.feedback_id, whose.shard, whose.offset),
        kind=kind,
        shard=whose.shard,
        offset=whose.offset,
        timestamp_ms=whose.now_ms,
        model_id=whose.model_id,
        alert_kind=like.kind,
        incident_id=like.incident_id,
        fingerprint=like.fingerprint,
        reason=effect.feedback,
        author=author,
        feedback_id=effect.feedback_id,
        summary=f"{whose.model_id}: {text}",
        threshold=demand,
    )
    return Told(OutputTopic.MAINTENANCE, whose.offset, whose.model_id, record)
