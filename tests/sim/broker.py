"""The cluster: topics, one consumer group, transactions, and what happens to them by themselves over time."""

import random
from collections.abc import Callable

from tests.sim.group import GroupCoordinator, Timing
from tests.sim.log import Headers, PartitionLog
from tests.sim.transactions import ProducerFencedError, TransactionCoordinator, TransactionStateError
from worker.core.events import InputTopic, OutputTopic

INPUTS = (InputTopic.PREDICTIONS, InputTopic.LABELS)
TOPICS: tuple[InputTopic | OutputTopic, ...] = (*InputTopic, *OutputTopic)


class SimBroker:
    """A cluster with every topic of the worker, all with as many partitions; of `feedback` only the first counts."""

    def __init__(
        self, partitions: int, rng: random.Random, timing: Timing | None = None, marker_delay_ms_max: int = 0
    ) -> None:
        self.partitions = partitions
        self.now_ms = 0
        self.epoch_ms = 0
        self.logs = {
            (topic.value, partition): PartitionLog(topic.value, partition)
            for topic in TOPICS
            for partition in range(partitions)
        }
        self.group = GroupCoordinator(partitions, rng, timing or Timing())
        self.transactions = TransactionCoordinator(self.group, rng, marker_delay_ms_max)
        self._late_ends: list[tuple[int, str, int, bool]] = []

    def log(self, topic: str, partition: int) -> PartitionLog:
        """Return a partition."""
        return self.logs[topic, partition]

    def produce(
        self, topic: str, partition: int, value: bytes | None, timestamp_ms: int, headers: Headers = None
    ) -> int:
        """Write a record without a transaction; return its offset."""
        return self.log(topic, partition).append(timestamp_ms, b"key", value, headers)

    def end_later(self, delay_ms: int, name: str, epoch: int, *, committed: bool) -> None:
        """An end of a transaction is on its way, and takes its time."""
        self._late_ends.append((self.now_ms + delay_ms, name, epoch, committed))

    def tick(self, now_ms: int, clients: Callable[[int], None] | None = None) -> None:
        """Let the time be `now_ms`, and happen what is due; `clients` moves the clients' own threads."""
        self.now_ms = now_ms
        due = [late for late in self._late_ends if late[0] <= now_ms]
        self._late_ends = [late for late in self._late_ends if late[0] > now_ms]
        for _, name, epoch, committed in sorted(due):
            try:
                self.transactions.end(name, epoch, now_ms, committed=committed)
            except (ProducerFencedError, TransactionStateError):
                continue  # too late: nobody waits for the answer any more
        self.transactions.tick(now_ms)
        if clients is not None:
            clients(now_ms)
        self.group.tick(now_ms)
