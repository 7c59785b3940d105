"""Incidents of one model that overlap in time are one situation, and one of them is its likely cause.

An incident belongs to the situation if another one of it is open when it opens, or was so at most `gap_ms` before.
When a condition began is known as a span only: from the beginning of the window in which it was found to its opening.
What may have begun before the first incident opened may be the cause of all; of these the likely one is first on the
way from the data over the detectors to the labels (`measures.cause_rank`). Correlation is all there is: it is called
likely.
"""

from typing import Annotated

from msgspec import Meta, Struct

from worker.core.alerts.measures import cause_rank
from worker.core.codec import TIMESTAMP_MS_MAX
from worker.core.events import AlertKind, Situation
from worker.core.identity import derived_id
from worker.core.state import refuse_if

_Time = Annotated[int, Meta(ge=-1, le=TIMESTAMP_MS_MAX)]


class Member(Struct, forbid_unknown_fields=True):
    """One incident of a situation."""

    incident_id: str
    kind: AlertKind
    onset_ms: _Time
    summary: str
    is_open: bool = True


class StoredSituation(Struct, frozen=True, forbid_unknown_fields=True):
    """What is stored."""

    situation_id: str
    opened_ms: _Time
    calm_ms: _Time
    members: list[Member]
    incidents: Annotated[int, Meta(ge=0)]


class Situations:
    """The situation of one monitor, the current one or the last.

    Args:
        gap_ms: how far apart incidents may be.
        members_max: members that are kept; the cause and what is open stay beyond it. The desk bounds what is open.
    """

    def __init__(self, gap_ms: int, members_max: int) -> None:
        self._gap_ms = gap_ms
        self._members_max = members_max
        self._id = ""
        self._opened_ms = -1
        self._calm_ms = -1
        self._members: list[Member] = []
        self._incidents = 0

    def opened(self, member: Member, now_ms: int) -> Situation:
        """Take an incident that opens; return the situation as it is then."""
        is_over = not any(each.is_open for each in self._members) and now_ms - self._calm_ms > self._gap_ms
        if not self._id or is_over:
            self._id, self._opened_ms = derived_id("situation", member.incident_id), now_ms
            self._members, self._incidents = [], 0
        self._members.append(member)
        self._incidents += 1
        self._forget()
        return self.now()

    def _forget(self) -> None:
        """Keep no more than asked for. One that is open must stay, or it would be missing in the count of these."""
        cause = self._cause()
        over = [each for each in self._members if not each.is_open and each is not cause]
        for gone in over[: max(0, len(self._members) - self._members_max)]:
            self._members.remove(gone)

    def resolved(self, incident_id: str, now_ms: int) -> Situation:
        """Take an incident that is over; return the situation as it is then."""
        for each in self._members:
            if each.incident_id == incident_id:
                each.is_open = False
        if not any(each.is_open for each in self._members):
            self._calm_ms = now_ms
        return self.now()

    def now(self) -> Situation:
        """Return the situation as alerts tell it. There must have been an incident."""
        cause = self._cause()
        return Situation(
            situation_id=self._id,
            opened_at_ms=self._opened_ms,
            incidents=self._incidents,
            open_incidents=sum(each.is_open for each in self._members),
            cause_incident_id=cause.incident_id,
            cause_kind=cause.kind,
            cause_summary=cause.summary,
        )

    def _cause(self) -> Member:
        # The first one to open may be kept no longer: the situation has its time.
        together = [each for each in self._members if each.onset_ms <= self._opened_ms]
        return min(together, key=lambda each: (cause_rank(each.kind), each.onset_ms))

    def follow_back(self, now_ms: int) -> None:
        """Follow a clock that was set back."""
        self._opened_ms, self._calm_ms = min(self._opened_ms, now_ms), min(self._calm_ms, now_ms)
        for each in self._members:
            each.onset_ms = min(each.onset_ms, now_ms)

    def state(self) -> StoredSituation:
        """Return what is to be stored."""
        return StoredSituation(self._id, self._opened_ms, self._calm_ms, self._members, self._incidents)

    def restore(self, stored: StoredSituation) -> None:
        """Take over what `state` gave; ValueError for what cannot be."""
        refuse_if(
            "stored situation",
            {
                "it has a name and no incident, or the reverse": bool(stored.situation_id) != bool(stored.members),
                "it has more incidents than it counted": len(stored.members) > stored.incidents,
                "no incident began before it opened": bool(stored.members)
                and all(each.onset_ms > stored.opened_ms for each in stored.members),
            },
        )
        self._id, self._opened_ms, self._calm_ms = stored.situation_id, stored.opened_ms, stored.calm_ms
        self._members, self._incidents = list(stored.members), stored.incidents
