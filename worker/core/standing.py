"""Alerts that stand for a state of affairs: opened when something is not as it should be, resolved when it is again.

    (none) --some subject is affected--> open --still so at a look--> open --none for a while--> (none)
           opened                             updated                      resolved

A *subject* is a feature, a segment, or the events as such. All affected subjects of one kind are one incident: forty
features that vanish at once are one alert with forty lines, not forty alerts. An open one is told of at every look at
which some subject is affected, as it is then; how often that is published is not decided here.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, Struct

from worker.core.events import AlertEvent, AlertKind, Changed, ChangeEvidence, EvidenceRow, SegmentName
from worker.core.identity import derived_id
from worker.core.options import EngineOptions
from worker.core.seen import Seen
from worker.core.state import COUNT_MAX
from worker.core.telling import Owner, Place, Told, evidence_rows

Severity = Literal["info", "warning", "critical"]
Pattern = Literal["sudden", "gradual", "recurring"]
_RANK: Mapping[Severity, int] = {"info": 0, "warning": 1, "critical": 2}
_NAME, _EFFECT = attrgetter("changed.name"), attrgetter("changed.effect")
_Time = Annotated[int, Meta(ge=0, le=COUNT_MAX)]


class Finding(NamedTuple):
    """One affected subject, and how bad that is."""

    changed: Changed
    severity: Severity = "warning"


class Moment(NamedTuple):
    """Where a look at the subjects was taken."""

    now_ms: int
    """The watermark."""
    offset: int
    """The record that made it known."""
    events: int
    """Events of the window that was looked at."""
    looked_at: int
    """Subjects that could have been affected."""
    place: Place | None = None
    """The prediction that made it known, where the record at `offset` may be another, or its time is known."""

    @classmethod
    def at(cls, seen: Seen, row: int, events: int, looked_at: int) -> "Moment":
        """Return the moment of an event."""
        offset = int(seen.offsets[row])
        return cls(int(seen.watermarks_ms[row]), offset, events, looked_at, Place(offset, int(seen.times_ms[row])))

    @property
    def known_at(self) -> Place:
        """The prediction that made it known: what incidents and their steps are named by."""
        return self.place or Place(self.offset, self.now_ms)


class OpenStanding(Struct, forbid_unknown_fields=True):
    """An open incident, as it is stored."""

    opened_ms: _Time
    opened_offset: Annotated[int, Meta(ge=-1)]
    """Of the prediction that made it known."""
    affected_ms: _Time
    """The last look at which some subject was affected."""
    severity: Severity
    """As of that look."""
    worst: Changed
    """As of that look."""
    pattern: Pattern | None = None


class StandingOptions(NamedTuple):
    """For how long all must be well before an incident is over, and what it shows."""

    quiet_looks: int
    features_max: int
    evidence_max: int

    @classmethod
    def of(cls, options: EngineOptions) -> "StandingOptions":
        """Take what is needed of all options."""
        return cls(options.standing.quiet_looks, options.standing.features_max, options.incident.evidence_max)


class StoredStanding(Struct, frozen=True, forbid_unknown_fields=True):
    """What is stored of one kind."""

    quiet: Annotated[int, Meta(ge=0, le=COUNT_MAX)]
    open: OpenStanding | None


class Standing:
    """The incident of one kind (and segment) of one monitor; at most one is open."""

    def __init__(
        self,
        kind: AlertKind,
        owner: Owner,
        options: StandingOptions,
        describe: Callable[[Changed], str],
        segment: SegmentName | None = None,
    ) -> None:
        """Take what makes a sentence of the worst subject, for the summary."""
        self._kind = kind
        self._owner = owner
        self._options = options
        self._describe = describe
        self._segment = segment
        whose = () if segment is None else (segment.name, segment.value)
        self._fingerprint = derived_id("fingerprint", kind, owner.model_id, owner.shard, *whose)
        self._quiet = 0
        self.open: OpenStanding | None = None

    def look(self, findings: Sequence[Finding], moment: Moment, pattern: Pattern | None = None) -> list[Told]:
        """Take what is affected now, all of it; return the step to be told, if any."""
        if not findings:
            return self._look_at_nothing(moment)
        self._quiet = 0
        # Stable: those of the same effect are in the order of their names.
        ranked = sorted(sorted(findings, key=_NAME), key=_EFFECT, reverse=True)
        severity = max({each.severity for each in ranked}, key=_RANK.__getitem__)
        worst, incident = ranked[0].changed, self.open
        if incident is None:
            opened = OpenStanding(moment.now_ms, moment.known_at.offset, moment.now_ms, severity, worst, pattern)
            self.open = opened
            return [self._told("opened", opened, ranked, moment)]
        incident.affected_ms, incident.severity, incident.worst = moment.now_ms, severity, worst
        incident.pattern = pattern or incident.pattern
        return [self._told("updated", incident, ranked, moment)]

    def stay_closed(self) -> None:
        """Take a look at which nothing is affected, while no incident is open: there is nothing to tell."""
        self._quiet += 1

    def _look_at_nothing(self, moment: Moment) -> list[Told]:
        self._quiet += 1
        if self.open is None or self._quiet < self._options.quiet_looks:
            return []
        return self.close(moment)

    def close(self, moment: Moment) -> list[Told]:
        """Resolve the incident if one is open: all is well, or what is now has been taken for normal."""
        incident, self.open = self.open, None
        return [] if incident is None else [self._told("resolved", incident, [], moment)]

    def _told(
        self,
        status: Literal["opened", "updated", "resolved"],
        incident: OpenStanding,
        ranked: Sequence[Finding],
        moment: Moment,
    ) -> Told:
        owner = self._owner
        # Of when it opened nothing: that may depend on how predictions and labels come one after the other.
        incident_id = derived_id("incident", self._fingerprint, incident.opened_offset)
        record = AlertEvent(
            alert_id=derived_id("alert", incident_id, status, moment.known_at.offset),
            incident_id=incident_id,
            fingerprint=self._fingerprint,
            kind=self._kind,
            status=status,
            severity=incident.severity,
            summary=self._summary(status, incident, len(ranked)),
            runbook=self._kind,
            model_id=owner.model_id,
            model_version=owner.model_version,
            shard=owner.shard,
            timestamp_ms=moment.now_ms,
            opened_at_ms=incident.opened_ms,
            last_flagged_ms=incident.affected_ms,
            resolved_at_ms=moment.now_ms if status == "resolved" else None,
            evidence=self._evidence(incident.worst, moment),
            change=ChangeEvidence(
                changed=[each.changed for each in ranked[: self._options.features_max]],
                changed_count=len(ranked),
                looked_at=moment.looked_at,
                events=moment.events,
                pattern=incident.pattern,
                segment=self._segment,
            ),
        )
        return owner.alert(record, moment.offset)

    def _evidence(self, worst: Changed, moment: Moment) -> list[EvidenceRow]:
        """Return the first event of the window in which the worst was found, and the one that made it known."""
        places = (Place(worst.since_offset, worst.since_ms), moment.known_at)
        return evidence_rows(self._owner, places, self._options.evidence_max)

    def _summary(self, status: str, incident: OpenStanding, affected: int) -> str:
        where = "" if self._segment is None else f" [{self._segment.name} = {self._segment.value}]"
        text = f"{self._owner.model_id}{where}: "
        if status == "resolved":
            return f"{text}over: {self._describe(incident.worst)}"
        others = "" if affected <= 1 else f", and {affected - 1} more"
        return f"{text}{self._describe(incident.worst)}{others}"

    def state(self) -> StoredStanding:
        """Return what is to be stored."""
        return StoredStanding(self._quiet, self.open)

    def restore(self, stored: StoredStanding) -> None:
        """Take over what `state` gave."""
        self._quiet, self.open = stored.quiet, stored.open
