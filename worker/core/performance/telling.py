"""What is to be told, and by whom: records with the offset that caused each."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from worker.core.events import AlertEvent, MaintenanceEvent, MetricEvent, OutputTopic, PerformanceEvent
from worker.core.identity import derived_id
from worker.core.performance.task import Task


class Told(NamedTuple):
    """One record for one topic."""

    topic: OutputTopic
    offset: int
    key: str
    record: AlertEvent | MetricEvent | PerformanceEvent | MaintenanceEvent


class Owner:
    """The monitor whose performance it is; it keeps `model_version` up to date."""

    def __init__(self, model_id: str, shard: int, topic: str) -> None:
        self.model_id = model_id
        self.shard = shard
        self.topic = topic
        self.model_version: str | None = None

    def metric(self, record: PerformanceEvent) -> Told:
        """Return a metric to be told."""
        return Told(OutputTopic.METRICS, record.offset, self.model_id, record)

    def alert(self, record: AlertEvent, offset: int) -> Told:
        """Return an alert to be told."""
        return Told(OutputTopic.ALERTS, offset, record.fingerprint, record)

    def task_inferred(self, task: Task, classes: Sequence[str], labels: int, offset: int) -> Told:
        """Tell what the model does, as far as its first labels show."""
        common = self._common("task_inferred", offset)
        return self._maintenance(MaintenanceEvent(**common, task=task.name, classes=list(classes), labels=labels))

    def reference_taken(self, segment: str | None, labels: int, offset: int) -> Told:
        """Tell that drops and rises are measured from now on."""
        return self._maintenance(
            MaintenanceEvent(**self._common("reference_taken", offset, segment or ""), segment=segment, labels=labels)
        )

    def segment_evicted(self, name: str, value: str, offset: int) -> Told:
        """Tell that a value of a segment has given way to a new one."""
        segment = f"{name} = {value}"
        return self._maintenance(MaintenanceEvent(**self._common("segment_evicted", offset, segment), segment=segment))

    def _common(self, kind: str, offset: int, *more: str) -> dict[str, Any]:
        return {
            "maintenance_id": derived_id(kind, self.model_id, self.shard, offset, *more),
            "kind": kind,
            "model_id": self.model_id,
            "model_version": self.model_version,
            "shard": self.shard,
            "offset": offset,
            "events": None,
        }

    @staticmethod
    def of_version(told: Told, version: str | None) -> Told:
        """Return what is told as of a model's version."""
        return told._replace(record=msgspec.structs.replace(told.record, model_version=version))

    def _maintenance(self, record: MaintenanceEvent) -> Told:
        return Told(OutputTopic.MAINTENANCE, record.offset, self.model_id, record)
