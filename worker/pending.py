"""What waits in memory for the next transaction of the loop."""

from dataclasses import dataclass, field

from worker.core.events import Output
from worker.lagging import AlertCause
from worker.ports import StateRecord


@dataclass(slots=True)
class Pending:
    """What the next transaction holds, beside the positions that go with it."""

    outputs: list[Output] = field(default_factory=list)
    moved: set[int] = field(default_factory=set)
    """Partitions whose position is to be committed."""
    state: list[StateRecord] = field(default_factory=list)
    causes: list[AlertCause] = field(default_factory=list)
    """When the records came in that have caused alerts among the outputs."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to commit."""
        return not (self.outputs or self.moved or self.state)

    def forget(self, gone: frozenset[int]) -> None:
        """Drop what is of partitions that have gone: nothing of them may become visible any more."""
        self.outputs = [output for output in self.outputs if output.shard not in gone]
        self.state = [record for record in self.state if record.partition not in gone]
        self.causes = [cause for cause in self.causes if cause.shard not in gone]
        self.moved -= gone
