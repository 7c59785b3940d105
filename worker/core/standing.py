"""Alerts that stand for a state of affairs: opened when something is not as it should be, resolved when it is again.

    (none) --some subject is affected--> open --another one, or worse--> open --none for a while--> (none)
           opened                        updated (at most every update_ms)    resolved

A *subject* is a feature, a segment, or the events as such. All affected subjects of one kind are one incident: forty
features that vanish at once are one alert with forty lines, not forty alerts.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, Struct

from worker.core.events import AlertEvent, AlertKind, Changed, ChangeEvidence, EvidenceRow, SegmentName
from worker.core.identity import derived_id
from worker.core.state import COUNT_MAX, refuse_if
from worker.core.telling import Owner, Told

Severity = Literal["info", "warning", "critical"]
Pattern = Literal["sudden", "gradual", "recurring"]
_RANK: Mapping[Severity, int] = {"info": 0, "warning": 1, "critical": 2}
_Time = Annotated[int, Meta(ge=0, le=COUNT_MAX)]

SUBJECTS_TOLD_MAX = 1_000
"""Names kept of an open incident, to know which subjects are new."""


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


class OpenStanding(Struct, forbid_unknown_fields=True):
    """An open incident, as it is stored."""

    opened_ms: _Time
    opened_offset: Annotated[int, Meta(ge=-1)]
    affected_ms: _Time
    """The last look at which some subject was affected."""
    told_ms: _Time
    severity: Severity
    subjects: list[str]
    """Told so far."""
    worst: Changed
    pattern: Pattern | None = None


class StandingOptions(NamedTuple):
    """How often an incident may speak, what it shows, and for how long all must be well before it is over."""

    update_ms: int
    quiet_looks: int
    features_max: int


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
        self._quiet = 0
        self.open: OpenStanding | None = None

    def look(
        self,
        findings: Sequence[Finding],
        moment: Moment,
        pattern: Pattern | None = None,
        evidence: Sequence[EvidenceRow] = (),
    ) -> list[Told]:
        """Take what is affected now, all of it; return the step to be told, if any."""
        if not findings:
            return self._look_at_nothing(moment)
        self._quiet = 0
        ranked = sorted(findings, key=lambda each: (-each.changed.effect, each.changed.name))
        severity = max((each.severity for each in ranked), key=_RANK.__getitem__)
        names = [each.changed.name for each in ranked]
        incident = self.open
        if incident is None:
            self.open = incident = OpenStanding(
                moment.now_ms,
                moment.offset,
                moment.now_ms,
                moment.now_ms,
                severity,
                names[:SUBJECTS_TOLD_MAX],
                ranked[0].changed,
                pattern,
            )
            return [self._told("opened", incident, ranked, moment, evidence)]
        incident.affected_ms = moment.now_ms
        new = [name for name in names if name not in incident.subjects]
        rose = _RANK[severity] > _RANK[incident.severity]
        if not (new or rose) or moment.now_ms - incident.told_ms < self._options.update_ms:
            return []
        incident.told_ms, incident.worst = moment.now_ms, ranked[0].changed
        incident.severity = severity if rose else incident.severity
        incident.pattern = pattern or incident.pattern
        incident.subjects = (incident.subjects + new)[:SUBJECTS_TOLD_MAX]
        return [self._told("updated", incident, ranked, moment, evidence)]

    def _look_at_nothing(self, moment: Moment) -> list[Told]:
        self._quiet += 1
        if self.open is None or self._quiet < self._options.quiet_looks:
            return []
        return self.close(moment)

    def close(self, moment: Moment) -> list[Told]:
        """Resolve the incident if one is open: all is well, or what is now has been taken for normal."""
        incident, self.open = self.open, None
        return [] if incident is None else [self._told("resolved", incident, [], moment, ())]

    def _told(
        self,
        status: Literal["opened", "updated", "resolved"],
        incident: OpenStanding,
        ranked: Sequence[Finding],
        moment: Moment,
        evidence: Sequence[EvidenceRow],
    ) -> Told:
        owner, segment = self._owner, self._segment
        whose = () if segment is None else (segment.name, segment.value)
        fingerprint = derived_id("fingerprint", self._kind, owner.model_id, owner.shard, *whose)
        incident_id = derived_id("incident", fingerprint, incident.opened_offset, incident.opened_ms)
        record = AlertEvent(
            alert_id=derived_id("alert", incident_id, status, moment.offset),
            incident_id=incident_id,
            fingerprint=fingerprint,
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
            evidence=list(evidence),
            change=ChangeEvidence(
                changed=[each.changed for each in ranked[: self._options.features_max]],
                changed_count=len(ranked),
                looked_at=moment.looked_at,
                events=moment.events,
                pattern=incident.pattern,
                segment=segment,
            ),
        )
        return owner.alert(record, moment.offset)

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
        """Take over what `state` gave; ValueError for what cannot be."""
        refuse_if(
            "stored alert",
            {
                "it tells of too many subjects": stored.open is not None
                and len(stored.open.subjects) > SUBJECTS_TOLD_MAX
            },
        )
        self._quiet, self.open = stored.quiet, stored.open
