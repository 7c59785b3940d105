"""Reads a topic up to where it ends, for commands that look at what is there. Nothing here joins a group.

Whoever goes on beyond the end, with a consumer of his own, asks `unread` whether he has come to it.
"""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import TypeVar

from confluent_kafka import Consumer, TopicPartition

from worker.core.events import InputTopic, RawBatch
from worker.edges.kafka.asking import asked
from worker.edges.kafka.client import KafkaConnection
from worker.edges.kafka.history import KafkaHistory
from worker.edges.kafka.topics import BrokerUnreachableError
from worker.ports import Bounds, PositionGoneError, SourceError, UnavailableError
from worker.recovery.reading import rows

_RECORDS_MAX = 5_000
_WAIT_MS = 100
_Answer = TypeVar("_Answer")


class TopicReader:
    """One topic, committed records only. Kafka is waited for, but not for long.

    Args:
        connection: the cluster.
        group_id: librdkafka wants one. It is only named.
        topic: its name.
        partitions: how many it has.
        role: what its batches are called; a topic that is no input can go by the name of any.
        strict: wait for the transactions that are open, and do not go on where retention has removed records.
        silence_s_max: so long nothing may come.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        *,
        group_id: str,
        topic: str,
        partitions: int,
        role: InputTopic = InputTopic.PREDICTIONS,
        strict: bool = True,
        silence_s_max: float = 60.0,
    ) -> None:
        self._history = KafkaHistory(connection, group_id=group_id, topics={role: topic}, strict=strict)
        advice = "and that no transaction of a writer has been open for long" if strict else "and try again"
        self._silent = f"Kafka gave nothing for {silence_s_max:g} s: check that it runs, {advice}"
        self._silence_s_max = silence_s_max
        self.topic = topic
        self._role = role
        self.partitions = partitions

    def bounds(self, partition: int) -> Bounds:
        """Return what a partition holds; transactions still open count. Raises as `batches`."""
        return self._asked(lambda: self._history.bounds(self._role, partition))

    def offset_at(self, partition: int, moment_ms: int) -> int | None:
        """Return the offset of the first record whose timestamp is not older; None: there is none."""
        return self._asked(lambda: self._history.offset_at(self._role, partition, moment_ms))

    def batches(self) -> Iterator[RawBatch]:
        """Yield all records, partition by partition, each up to where it ends when its turn comes.

        Raises:
            BrokerUnreachableError: Kafka does not answer, or nothing comes for long.
            SourceError: the topic cannot be read.
        """
        for partition in range(self.partitions):
            yield from self.between(partition, *self.bounds(partition))

    def between(
        self, partition: int, begin: int, end: int, records_max: int = _RECORDS_MAX
    ) -> Generator[RawBatch, None, None]:
        """Yield the records from one offset to before another one. Raises as `batches`."""
        if begin >= end:
            return
        with closing(self._history.open(self._role, partition, begin)) as reader:
            heard_s = time.monotonic()
            while reader.position() < end:
                try:
                    batch = reader.read(records_max, _WAIT_MS)
                except PositionGoneError as error:
                    raise SourceError(f"{error}: retention has passed it meanwhile, run the command again") from None
                wanted = sum(offset < end for offset in batch.offsets)
                if wanted:
                    yield rows(batch, 0, wanted)
                if wanted < len(batch.offsets):
                    return
                if batch.offsets:
                    heard_s = time.monotonic()
                elif time.monotonic() - heard_s > self._silence_s_max:
                    raise BrokerUnreachableError(f"{self.topic}[{partition}]: {self._silent}")

    def close(self) -> None:
        """Ask nothing more."""
        self._history.close()

    def _asked(self, ask: Callable[[], _Answer]) -> _Answer:
        try:
            return asked(f"topic {self.topic}", ask)
        except UnavailableError as error:
            raise BrokerUnreachableError(f"{error}: check that Kafka runs, then try again") from None


def unread(consumer: Consumer, ends: list[TopicPartition]) -> list[TopicPartition]:
    """Return those ends that a consumer has not come to; a partition that held nothing must not be among them."""
    return [end for end, place in zip(ends, consumer.position(ends), strict=True) if place.offset < end.offset]
