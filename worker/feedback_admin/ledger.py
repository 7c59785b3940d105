"""What is in force: feedback events as they were sent, against what the workers say they made of them.

    sent --worker takes it--> in force --its time is over--> ended
     |                           └-----another event undoes it--> undone
     └-- worker refuses it--> refused

Pure: records in, entries out. The workers' audit records may be missing, because no worker runs, because nothing of the
model has come since, or because retention has removed them; then an entry stays `sent`, or a silence simply counts.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Literal, NamedTuple

import msgspec
from msgspec import Struct

from worker.core.events import AuditEvent, FeedbackEvent, Scope, SilenceFeedback, Timestamp, UndoFeedback
from worker.feedback_admin.session import Record
from worker.times import from_milliseconds

State = Literal["in force", "later", "sent", "ended", "undone", "refused"]
IN_FORCE: tuple[State, ...] = ("in force", "later", "sent")

_MARK = b'"feedback_id"'
_decode_feedback = msgspec.json.Decoder(FeedbackEvent).decode
_decode_audit = msgspec.json.Decoder(AuditEvent).decode


class Sent(NamedTuple):
    """One feedback event, and when it was written."""

    at: datetime
    event: FeedbackEvent


class Effects(NamedTuple):
    """What workers say of one feedback event."""

    applied: list[str]
    """What it did, by the shards that took it."""
    refused: list[str]
    """Why it was not taken."""
    held_back: int
    """Openings that it suppressed."""


class Entry(Struct, frozen=True, kw_only=True):
    """One line of the list."""

    feedback_id: str
    kind: str
    state: State
    author: str
    reason: str
    sent_at: datetime
    begin: datetime | None
    """Of a silence; null: from when it was sent on."""
    until: datetime | None
    """Null: until it is undone."""
    scope: Scope | None
    model_id: str | None
    incident_id: str | None
    effects: list[str]
    held_back: int
    undone_by: str | None
    """Author, if it is undone."""


def sent(records: Iterable[Record]) -> dict[str, Sent]:
    """Return feedback events by id, in order; sent twice, the first one counts. What cannot be read is passed over."""
    found: dict[str, Sent] = {}
    for record in records:
        try:
            event = _decode_feedback(record.value or b"")
        except msgspec.DecodeError:
            continue
        found.setdefault(event.feedback_id, Sent(from_milliseconds(record.timestamp_ms), event))
    return found


def audited(records: Iterable[Record]) -> dict[str, Effects]:
    """Return what workers say, by the id of the feedback event."""
    found: dict[str, Effects] = {}
    for record in records:
        if record.value is None or _MARK not in record.value:
            continue
        try:
            audit = _decode_audit(record.value)
        except msgspec.DecodeError:
            continue
        if audit.feedback_id is None:
            continue
        effects = found.setdefault(audit.feedback_id, Effects([], [], 0))
        if audit.kind == "alert_suppressed":
            found[audit.feedback_id] = effects._replace(held_back=effects.held_back + 1)
        elif audit.kind == "feedback_applied" and audit.summary not in effects.applied:
            effects.applied.append(audit.summary)
        elif audit.kind == "feedback_refused" and audit.summary not in effects.refused:
            effects.refused.append(audit.summary)
    return found


def entries(events: Mapping[str, Sent], effects: Mapping[str, Effects], now: datetime) -> list[Entry]:
    """Return one entry for each event that is not an undo, in the order in which they were sent."""
    undone: dict[str, str] = {}
    for sent_event in events.values():
        event = sent_event.event
        if isinstance(event, UndoFeedback) and event.undoes in events:
            undone.setdefault(event.undoes, event.author)
    nothing = Effects([], [], 0)
    return [
        _entry(each, effects.get(feedback_id, nothing), undone.get(feedback_id), now)
        for feedback_id, each in events.items()
        if not isinstance(each.event, UndoFeedback)
    ]


def time_of(stamp: Timestamp) -> datetime:
    """Return a time as feedback has it; numbers are milliseconds."""
    return stamp.astimezone(UTC) if isinstance(stamp, datetime) else from_milliseconds(int(stamp))


def _entry(each: Sent, effects: Effects, undone_by: str | None, now: datetime) -> Entry:
    event = each.event
    silence = event if isinstance(event, SilenceFeedback) else None
    begin = None if silence is None or silence.begin is None else time_of(silence.begin)
    until = None if silence is None else time_of(silence.end)
    return Entry(
        feedback_id=event.feedback_id,
        kind=str(event.__struct_config__.tag),
        state="undone" if undone_by is not None else _state(effects, begin, until, now),
        author=event.author,
        reason=event.reason,
        sent_at=each.at,
        begin=begin,
        until=until,
        scope=None if silence is None else silence.scope,
        model_id=getattr(event, "model_id", None),
        incident_id=getattr(event, "incident_id", None),
        effects=[*effects.applied, *effects.refused],
        held_back=effects.held_back,
        undone_by=undone_by,
    )


def _state(effects: Effects, begin: datetime | None, until: datetime | None, now: datetime) -> State:
    """Judge one that is not undone. A silence that some shards refuse and others have taken is in force."""
    if effects.refused and not effects.applied:
        return "refused"
    if until is None:
        return "in force" if effects.applied else "sent"
    if until <= now:
        return "ended"
    return "later" if begin is not None and begin > now else "in force"
