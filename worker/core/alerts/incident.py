"""The life of one incident: flagged events that follow each other closely are one alert.

    (none) --flagged--> open --flagged: more of it--> open --quiet for long enough--> (none)
           opened            updated (bounded)              resolved

Time is the monitor's watermark, so replay gives the same steps. A step is told by the offset that caused it.
"""

from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, Struct

from worker.core.codec import TIMESTAMP_MS_MAX
from worker.core.options import IncidentOptions
from worker.core.state import COUNT_MAX, refuse_if

Severity = Literal["info", "warning", "critical"]
Status = Literal["opened", "updated", "resolved"]

_RANK: dict[Severity, int] = {"info": 0, "warning": 1, "critical": 2}
_BURST_HORIZON_EVENTS = 100

_Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
_Time = Annotated[int, Meta(ge=0, le=TIMESTAMP_MS_MAX)]
_PValue = Annotated[float, Meta(ge=0.0, le=1.0)]


class Flagged(NamedTuple):
    """One flagged event: place in the monitor's count of events, where to read it again, and how rare it is."""

    sequence: _Count
    offset: Annotated[int, Meta(ge=0)]
    event_id: str
    time_ms: _Time
    watermark_ms: _Time
    p_value: _PValue
    model_version: str | None


class Step(NamedTuple):
    """A transition worth telling, with the incident as it is then."""

    status: Status
    sequence: int
    offset: int
    watermark_ms: int
    model_version: str | None


class Incident(Struct, forbid_unknown_fields=True):
    """One open incident, as it is stored. `evidence` holds the rarest events, at most `evidence_max`, in order."""

    first: Flagged
    last: Flagged
    rarest: Flagged
    evidence: list[Flagged]
    told_ms: _Time
    told_critical_ms: _Time | None = None
    flagged: _Count = 1
    told_flagged: _Count = 1
    burst: Annotated[float, Meta(ge=0.0, le=_BURST_HORIZON_EVENTS + 1.0)] = 1.0
    severity: Severity = "info"

    def add(self, event: Flagged, evidence_max: int) -> bool:
        """Count a flagged event; return whether it is the rarest so far."""
        gap = event.sequence - self.last.sequence
        self.burst = self.burst * (1.0 - 1.0 / _BURST_HORIZON_EVENTS) ** gap + 1.0
        self.last = event
        self.flagged += 1
        self.evidence.append(event)
        if len(self.evidence) > evidence_max:
            self.evidence.remove(max(self.evidence, key=lambda row: (row.p_value, row.offset)))
        if event.p_value < self.rarest.p_value:
            self.rarest = event
            return True
        return False

    def quiet_from(self, options: IncidentOptions) -> tuple[int, int]:
        """Return the sequence and the watermark (ms) that must both be reached for the incident to be over."""
        return self.last.sequence + options.quiet_events, self.last.watermark_ms + options.quiet_ms


class IncidentLife:
    """Opens, updates and resolves the incidents of one monitor; at most one is open."""

    def __init__(self, options: IncidentOptions, update_ms: int) -> None:
        self._options = options
        self._update_ms = update_ms
        self.open: Incident | None = None

    def flag(self, event: Flagged, alert_rate: float) -> tuple[Step | None, bool]:
        """Take in a flagged event; return the step to tell, if any, and whether the event is the rarest so far."""
        incident = self.open
        if incident is None:
            self.open = incident = Incident(event, event, event, [event], event.watermark_ms)
            incident.severity = self._severity(incident, alert_rate)
            return _step("opened", event), True
        rarest = incident.add(event, self._options.evidence_max)
        if not self._worth_telling(incident, event.watermark_ms, alert_rate):
            return None, rarest
        incident.told_flagged, incident.told_ms = incident.flagged, event.watermark_ms
        if incident.severity == "critical":
            incident.told_critical_ms = event.watermark_ms
        return _step("updated", event), rarest

    def _worth_telling(self, incident: Incident, now_ms: int, alert_rate: float) -> bool:
        """Tell a rise in severity at once (a second burst only after `update_ms`), growth when it has doubled."""
        before, incident.severity = incident.severity, self._severity(incident, alert_rate)
        rose = _RANK[incident.severity] > _RANK[before]
        again = incident.severity == "critical" and incident.told_critical_ms is not None
        rested = now_ms - incident.told_ms >= self._update_ms
        grown = incident.flagged >= 2 * incident.told_flagged
        return (rose and (rested or not again)) or (grown and rested)

    def follow_back(self, watermark_ms: int) -> None:
        """Follow a watermark that was set back (a wrong clock was found out), or the incident would wait for ever."""
        incident = self.open
        if incident is not None and watermark_ms < incident.last.watermark_ms:
            incident.last = incident.last._replace(watermark_ms=watermark_ms)
            incident.told_ms = min(incident.told_ms, watermark_ms)
            if incident.told_critical_ms is not None:
                incident.told_critical_ms = min(incident.told_critical_ms, watermark_ms)

    def restore(self, incident: Incident, seen: int) -> None:
        """Take over an incident that was open after `seen` events; ValueError for what cannot be."""
        refuse_if(
            "stored incident",
            {
                "there is too much evidence": len(incident.evidence) > self._options.evidence_max,
                "its events are out of order": not incident.first.sequence <= incident.last.sequence < seen,
            },
        )
        self.open = incident

    def resolve(self) -> Incident:
        """Close the open incident and return it."""
        incident = self.open
        if incident is None:
            raise AssertionError("no incident is open")
        self.open = None
        return incident

    def _severity(self, incident: Incident, alert_rate: float) -> Severity:
        """Judge a burst by its local rate: flagged events among the last hundred or so, decayed exponentially.

        It falls back only when the burst is clearly over, so that a rise is told once a burst.
        """
        if incident.burst >= self._options.burst_flagged_min:
            return "critical"
        if incident.severity == "critical" and incident.burst > self._options.burst_flagged_min / 2:
            return "critical"
        return "warning" if incident.rarest.p_value <= alert_rate / 100 else "info"


def _step(status: Status, event: Flagged) -> Step:
    return Step(status, event.sequence, event.offset, event.watermark_ms, event.model_version)
