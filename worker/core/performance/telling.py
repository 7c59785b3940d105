"""What labels make known, as records to be told."""

from collections.abc import Sequence

from worker.core.events import OutputTopic, PerformanceEvent
from worker.core.performance.task import Task
from worker.core.telling import Owner, Told


class PerformanceOwner(Owner):
    """The monitor whose performance it is."""

    def metric(self, record: PerformanceEvent) -> Told:
        """Return a metric to be told."""
        return Told(OutputTopic.METRICS, record.offset, self.model_id, record)

    def task_inferred(self, task: Task, classes: Sequence[str], labels: int, offset: int) -> Told:
        """Tell what the model does, as far as its first labels show."""
        return self.maintenance("task_inferred", offset, task=task.name, classes=list(classes), labels=labels)

    def reference_taken(self, segment: str | None, labels: int, offset: int) -> Told:
        """Tell that drops and rises are measured from now on."""
        return self.maintenance("reference_taken", offset, segment or "", segment=segment, labels=labels)

    def segment_evicted(self, name: str, value: str, offset: int) -> Told:
        """Tell that a value of a segment has given way to a new one."""
        segment = f"{name} = {value}"
        return self.maintenance("segment_evicted", offset, segment, segment=segment)
