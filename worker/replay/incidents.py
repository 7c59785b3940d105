"""Incidents put together from the steps in which they are told, whoever told them."""

from collections.abc import Iterable

from msgspec import Struct, structs

from worker.core.events import AlertEvent, AlertKind

_RANK = {"info": 0, "warning": 1, "critical": 2}


class Incident(Struct, frozen=True, kw_only=True):
    """One incident, as far as its steps are known. Times are event time."""

    incident_id: str
    fingerprint: str
    kind: AlertKind
    model_id: str
    shard: int
    severity: str
    """The highest that it had."""
    opened_ms: int
    resolved_ms: int | None
    """None: it is still open."""
    summary: str
    """When it was at its worst."""

    @property
    def duration_ms(self) -> int | None:
        """How long it lasted; None while it is open."""
        return None if self.resolved_ms is None else self.resolved_ms - self.opened_ms

    def overlaps(self, other: "Incident") -> bool:
        """Whether both were open at some time; one that opened and ended at once was, too."""
        begins_before_end = other.resolved_ms is None or self.opened_ms <= other.resolved_ms
        return begins_before_end and (self.resolved_ms is None or other.opened_ms <= self.resolved_ms)


class IncidentBook:
    """Takes steps in the order in which they were told; gives incidents."""

    def __init__(self) -> None:
        self._found: dict[str, Incident] = {}

    def add(self, step: AlertEvent) -> None:
        """Take the next step."""
        known = self._found.get(step.incident_id)
        self._found[step.incident_id] = _first(step) if known is None else _next(known, step)

    def incidents(self) -> list[Incident]:
        """Return what there is, oldest first."""
        return in_order(self._found.values())


def in_order(incidents: Iterable[Incident]) -> list[Incident]:
    """Return incidents by the time at which they opened."""
    return sorted(incidents, key=lambda each: (each.opened_ms, each.shard, each.incident_id))


def _first(step: AlertEvent) -> Incident:
    return Incident(
        incident_id=step.incident_id,
        fingerprint=step.fingerprint,
        kind=step.kind,
        model_id=step.model_id,
        shard=step.shard,
        severity=step.severity,
        opened_ms=step.opened_at_ms,
        resolved_ms=step.resolved_at_ms,
        summary=step.summary,
    )


def _next(known: Incident, step: AlertEvent) -> Incident:
    if _RANK[step.severity] > _RANK[known.severity]:
        known = structs.replace(known, severity=step.severity, summary=step.summary)
    return structs.replace(known, resolved_ms=step.resolved_at_ms)
