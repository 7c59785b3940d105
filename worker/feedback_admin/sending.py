"""Makes feedback events of what a person asks for, checks them as a worker would, and sends them."""

import getpass
import socket
from collections.abc import Mapping
from datetime import datetime
from typing import TypeVar
from uuid import uuid4

import msgspec

from worker.core.events import (
    FalsePositiveFeedback,
    FeedbackEvent,
    IgnoreFeedback,
    IncidentFeedback,
    Scope,
    SilenceFeedback,
    TruePositiveFeedback,
    UndoFeedback,
)
from worker.feedback_admin.ledger import Sent
from worker.feedback_admin.lookup import Incident, the_only
from worker.feedback_admin.session import Session

_Event = TypeVar(
    "_Event",
    SilenceFeedback,
    TruePositiveFeedback,
    FalsePositiveFeedback,
    IgnoreFeedback,
    UndoFeedback,
    IncidentFeedback,
)
_VERDICTS: Mapping[str, type[IncidentFeedback]] = {
    "true_positive": TruePositiveFeedback,
    "false_positive": FalsePositiveFeedback,
    "ignore_like_this": IgnoreFeedback,
}
_AUTHOR_CHARS_MAX = 256


class RefusedError(Exception):
    """A worker would refuse the event, or it would do nothing; the message says why."""


def new_id() -> str:
    """Return an id for a feedback event."""
    return uuid4().hex


def this_author() -> str:
    """Return who is at the keyboard, as `user@host`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # A container may run under a number that no user has.
        user = "unknown"
    return f"{user}@{socket.gethostname()}"[:_AUTHOR_CHARS_MAX]


def silence(scope: Scope, begin: datetime | None, end: datetime, author: str, reason: str) -> SilenceFeedback:
    """Return a silence. Raises RefusedError if it ends before it begins."""
    if begin is not None and end <= begin:
        raise RefusedError("the silence would end before it begins")
    event = SilenceFeedback(feedback_id=new_id(), author=author, reason=reason, scope=scope, begin=begin, end=end)
    return checked(event)


def verdict(kind: str, incident: Incident, author: str, reason: str) -> IncidentFeedback:
    """Return what is said of an incident: `true_positive`, `false_positive` or `ignore_like_this`."""
    event = _VERDICTS[kind](
        feedback_id=new_id(),
        author=author,
        reason=reason,
        model_id=incident.model_id,
        shard=incident.shard,
        incident_id=incident.incident_id,
    )
    return checked(event)


def undo(sent: Mapping[str, Sent], wanted: str, author: str, reason: str, *, is_complete: bool) -> UndoFeedback:
    """Return the event that undoes an earlier one.

    Args:
        sent: all that is in the topic.
        wanted: the id of the earlier one, or its first digits.
        author: who wants it.
        reason: why.
        is_complete: whether the topic still holds all that was ever sent. If not, an id that it does not have is taken
            as it is.

    Raises:
        RefusedError: it is undone already, or itself an undo.
        LookupFailedError: there is no such event, or more than one.
    """
    names = {name: f"{name} ({each.event.__struct_config__.tag} by {each.event.author})" for name, each in sent.items()}
    if is_complete or any(name.startswith(wanted) for name in names):
        unknown = f"no feedback event has an id that begins with {wanted!r}: see `modelvigil feedback list --all`"
        wanted = the_only(names, wanted, unknown, "feedback events")
        _refuse_vain(sent, wanted)
    return checked(UndoFeedback(feedback_id=new_id(), author=author, reason=reason, undoes=wanted))


def checked(event: _Event) -> _Event:
    """Return an event as a worker will read it. Raises RefusedError if it cannot."""
    try:
        return msgspec.json.decode(msgspec.json.encode(event), type=type(event))
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at ")
        name = place.strip("`").removeprefix("$").removeprefix(".")
        raise RefusedError(f"{name or 'the event'}: {problem[:1].lower()}{problem[1:]}") from None


def send(session: Session, event: FeedbackEvent) -> None:
    """Write it to the topic `feedback`, and wait until it is there for good."""
    session.send(event.feedback_id, msgspec.json.encode(event))


def _refuse_vain(sent: Mapping[str, Sent], wanted: str) -> None:
    if isinstance(sent[wanted].event, UndoFeedback):
        raise RefusedError(f"{wanted} is itself an undo, which cannot be undone: send again what it has undone")
    for each in sent.values():
        if isinstance(each.event, UndoFeedback) and each.event.undoes == wanted:
            raise RefusedError(f"{wanted} is undone already, by {each.event.author}")
