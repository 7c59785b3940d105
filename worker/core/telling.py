"""What is to be told, and by whom: records with the offset that caused each."""

from collections.abc import Iterable
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from worker.core.events import (
    AlertEvent,
    AuditEvent,
    EvidenceRow,
    MaintenanceEvent,
    MetricEvent,
    OutputTopic,
    PerformanceEvent,
    ScoreEvent,
)
from worker.core.events.topics import Artefact
from worker.core.identity import derived_id
from worker.core.state import COUNT_MAX


class Place(NamedTuple):
    """Where a prediction can be read again: its offset, and its event time."""

    offset: Annotated[int, Meta(ge=-1, le=COUNT_MAX)]
    time_ms: Annotated[int, Meta(ge=0, le=COUNT_MAX)]


class Told(NamedTuple):
    """One record for one topic."""

    topic: OutputTopic
    offset: int
    key: str
    record: AlertEvent | MetricEvent | PerformanceEvent | MaintenanceEvent | ScoreEvent | AuditEvent | None
    """None is a tombstone."""
    artefact: Artefact | None = None
    """What must be stored before the record is visible."""

    def of_version(self, version: str | None) -> "Told":
        """Return the same as of a model's version."""
        if self.record is None or isinstance(self.record, AuditEvent):
            return self
        return self._replace(record=msgspec.structs.replace(self.record, model_version=version))


class Owner:
    """The monitor that speaks; it keeps `model_version` up to date."""

    def __init__(self, model_id: str, shard: int, topic: str) -> None:
        self.model_id = model_id
        self.shard = shard
        self.topic = topic
        self.model_version: str | None = None

    def alert(self, record: AlertEvent, offset: int) -> Told:
        """Return an alert to be told."""
        return Told(OutputTopic.ALERTS, offset, record.fingerprint, record)

    def maintenance(
        self,
        kind: Any,  # noqa: ANN401 - a literal of the struct below
        offset: int,
        *parts: str,
        events: int | None = None,
        **facts: Any,  # noqa: ANN401 - fields of the struct below
    ) -> Told:
        """Return a maintenance event to be told; `parts` set its id apart from others of the kind and offset."""
        record = MaintenanceEvent(
            maintenance_id=derived_id(kind, self.model_id, self.shard, offset, *parts),
            kind=kind,
            model_id=self.model_id,
            model_version=self.model_version,
            shard=self.shard,
            offset=offset,
            events=events,
            **facts,
        )
        return Told(OutputTopic.MAINTENANCE, offset, self.model_id, record)


def evidence_rows(owner: Owner, places: Iterable[Place], rows_max: int) -> list[EvidenceRow]:
    """Return predictions as evidence, in stream order, each once; the latest ones where there are too many."""
    found = sorted(dict(places).items())[-rows_max:]
    return [EvidenceRow(owner.topic, owner.shard, offset, None, time_ms, None) for offset, time_ms in found]
