"""Finds what a person means by the first digits of an id: an incident, or an earlier feedback event."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec
from msgspec import Struct

from worker.feedback_admin.session import Record, Session

_CANDIDATES_MAX = 5
_Found = TypeVar("_Found")


class LookupFailedError(Exception):
    """An id fits nothing that is known, or more than one thing; the message says what to do."""


class Incident(Struct, frozen=True):
    """What feedback has to say of an incident; the latest step of it that was published."""

    incident_id: str
    kind: str
    status: str
    severity: str
    summary: str
    model_id: str
    shard: int
    timestamp_ms: int

    def __str__(self) -> str:
        return f"{self.incident_id} ({self.kind}, {self.severity}, {self.status}: {self.summary})"


_decode = msgspec.json.Decoder(Incident).decode


def find_incident(session: Session, wanted: str) -> Incident:
    """Return the incident whose id is, or begins with, what is wanted. Raises LookupFailedError.

    Open ones are in `incidents` however old they are; those that are over, in `alerts`, as far as it reaches back.
    """
    found: dict[str, Incident] = {}
    for role in ("incidents", "alerts"):
        if role in session:
            found = latest_steps(session.records(role), wanted, found)
    topics = " and ".join(session.topic(role) for role in ("incidents", "alerts") if role in session)
    unknown = (
        f"no incident in {topics} has an id that begins with {wanted!r}: take the incident_id of an alert (retention "
        "may have removed it)"
    )
    return found[the_only(found, wanted, unknown, "incidents")]


def latest_steps(records: Iterable[Record], wanted: str, known: Mapping[str, Incident]) -> dict[str, Incident]:
    """Return the latest step of each incident that could be meant, with those known; no alert is no error."""
    found, digits = dict(known), wanted.encode()
    for record in records:
        # Most records are about other incidents: what cannot fit is not decoded.
        if record.value is None or digits not in record.value:
            continue
        try:
            step = _decode(record.value)
        except msgspec.DecodeError:
            continue
        before = found.get(step.incident_id)
        if step.incident_id.startswith(wanted) and (before is None or before.timestamp_ms <= step.timestamp_ms):
            found[step.incident_id] = step
    return found


def the_only(found: Mapping[str, _Found], wanted: str, unknown: str, what: str) -> str:
    """Return the id that is `wanted`, or else the only one that begins with it.

    Args:
        found: what there is, by id.
        wanted: the id, or its first digits.
        unknown: what to say if there is none.
        what: what they are, as a plural.

    Raises:
        LookupFailedError: none, or several.
    """
    if wanted in found:
        return wanted
    fitting = [name for name in found if wanted and name.startswith(wanted)]
    if not fitting:
        raise LookupFailedError(unknown)
    if len(fitting) > 1:
        told = "; ".join(str(found[name]) for name in fitting[:_CANDIDATES_MAX])
        more = f" and {len(fitting) - _CANDIDATES_MAX} more" if len(fitting) > _CANDIDATES_MAX else ""
        raise LookupFailedError(f"{wanted!r} fits {len(fitting)} {what}, write more of the id: {told}{more}")
    return fitting[0]
