"""The compacted topic `incidents`, read from its beginning and in no group: it says which incidents are open."""

import time
from collections.abc import Callable, Sequence

from confluent_kafka import OFFSET_BEGINNING, TopicPartition

from worker.edges.kafka import KafkaConnection
from worker.edges.kafka.arrived import Arrived, arrived_of
from worker.edges.kafka.asking import partitions_of
from worker.edges.kafka.client import Deadline, ErrorWatch, blame, close_beside
from worker.edges.kafka.consuming import asked, ends_of
from worker.edges.kafka.reading import unread
from worker.notify.subscription import DEFAULTS
from worker.ports import SourceError

_FETCH_MAX = 500
_LOOK_S = 60.0
_SILENCE_MS = 5_000
_FORCED = {"auto.offset.reset": "earliest", "check.crcs": True}


class KafkaIncidents:
    """Implements `ports.Incidents`.

    Args:
        connection: the cluster.
        topic: the topic `incidents`.
        group_id: librdkafka wants one. It is only named, never joined.
    """

    def __init__(self, connection: KafkaConnection, *, topic: str, group_id: str) -> None:
        self._topic = topic
        self._watch = ErrorWatch()
        self._consumer = connection.consumer(self._watch, DEFAULTS, {**_FORCED, "group.id": group_id})
        self._places: list[TopicPartition] = []
        self._looked_s = 0.0
        self._add_new_partitions()

    def fetch(self) -> Sequence[Arrived]:
        """Return what has come, without waiting. Raises SourceError."""
        if time.monotonic() - self._looked_s > _LOOK_S:
            self._add_new_partitions()
        return self._fetched(0.0)

    def fetch_all(self, stop: Callable[[], bool]) -> Sequence[Arrived]:
        """Return all that is there at this moment; less when it is to stop. Raises SourceError."""
        bounds = [(place.partition, *ends_of(self._consumer, place)) for place in self._places]
        left = [TopicPartition(self._topic, partition, end) for partition, begin, end in bounds if begin < end]
        found: list[Arrived] = []
        deadline = Deadline(_SILENCE_MS)
        while left and not stop():
            fetched = self._fetched(0.1)
            found += fetched
            deadline = Deadline(_SILENCE_MS) if fetched else deadline
            left = unread(self._consumer, left)
            if deadline.passed():
                # The last records may be those of aborted transactions, which move no position.
                break
        return found

    def close(self) -> None:
        """Stop reading."""
        close_beside(self._consumer)

    def _add_new_partitions(self) -> None:
        """Read all partitions from the beginning, also those that the topic has got meanwhile."""
        self._looked_s = time.monotonic()
        known = {place.partition for place in self._places}
        there = asked(f"partitions of topic {self._topic}", lambda: partitions_of(self._consumer, self._topic))
        new = [
            TopicPartition(self._topic, partition, OFFSET_BEGINNING) for partition in there if partition not in known
        ]
        if new:
            self._consumer.incremental_assign(new)
            self._places += new

    def _fetched(self, wait_s: float) -> list[Arrived]:
        messages = self._consumer.consume(_FETCH_MAX, wait_s)
        if self._watch.refusal:
            raise SourceError(f"topic {self._topic}: {self._watch.refusal}: check the credentials")
        for message in messages:
            error = message.error()
            reason = blame(error, f"topic {self._topic}") if error is not None else None
            if reason is not None:
                raise SourceError(reason)
        return [arrived_of(message) for message in messages if message.error() is None]
