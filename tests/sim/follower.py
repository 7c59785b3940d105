"""A reader of committed records that follows the outputs while everything goes wrong."""

from tests.sim.broker import SimBroker
from tests.sim.log import StoredRecord
from worker.core.events import OutputTopic


class Follower:
    """Reads all output topics from the beginning; what it has seen once cannot be taken back."""

    def __init__(self, broker: SimBroker) -> None:
        self._logs = [broker.log(topic, partition) for topic in OutputTopic for partition in range(broker.partitions)]
        self._positions = [0] * len(self._logs)
        self._seen = [list[StoredRecord]() for _ in self._logs]

    def read(self) -> None:
        """Read what is visible by now."""
        for place, log in enumerate(self._logs):
            if self._positions[place] < log.stable_end:
                chunk = log.read(self._positions[place], 1_000_000, committed=True)
                self._positions[place] = chunk.position
                self._seen[place] += chunk.records

    def problems(self) -> list[str]:
        """Say where a reader who begins now would see something else."""
        self.read()
        return [
            f"{log.topic}[{log.partition}]: a reader during the faults saw something else than one afterwards"
            for log, seen in zip(self._logs, self._seen, strict=True)
            if seen != log.committed_records()
        ] + [
            f"{log.topic}[{log.partition}]: a transaction is still open"
            for log in self._logs
            if log.stable_end != log.end
        ]
