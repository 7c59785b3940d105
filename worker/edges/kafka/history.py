"""What the topics still hold: the bounds of a partition, and readers of one partition each, for a restore.

Rule 1: a reader has a consumer of its own, so a restore neither disturbs the data consumer nor waits behind it.
Rule 2: `seek` begins with a new consumer. One that is sent elsewhere would for a moment still tell its old position,
and that is what says whether the end is reached.
Rule 3: nothing here waits for a broker, except `bounds` and `offset_at`, and these not for long.
Rule 4: only `state` is read uncommitted: what a restore reads there is named by a committed pointer.
"""

from collections.abc import Callable, Mapping
from itertools import takewhile
from typing import TypeVar

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from worker.core.events import InputTopic, RawBatch
from worker.edges.kafka.client import (
    POSITION_GONE,
    TOPIC_GONE,
    Deadline,
    ErrorWatch,
    Isolation,
    KafkaConnection,
    blame,
    close_beside,
    error_of,
)
from worker.edges.kafka.records import batch_of, take
from worker.ports import Bounds, PositionGoneError, SourceError, UnavailableError

_Answer = TypeVar("_Answer")
_DEFAULTS = {
    # Answer as soon as there is a record.
    "fetch.min.bytes": 1,
    "fetch.wait.max.ms": 100,
    # Little: a worker that takes over many partitions has as many readers. A full queue is looked at again soon.
    "queued.min.messages": 10_000,
    "queued.max.messages.kbytes": 4_096,
    "fetch.queue.backoff.ms": 10,
    "fetch.error.backoff.ms": 100,
}


class KafkaHistory:
    """Implements `ports.History`.

    Args:
        connection: the cluster.
        group_id: librdkafka wants one. It is only named, never joined; the worker's own group needs no further ACL.
        topics: the names of the topics that may be asked for.
        bounds_timeout_ms: how long `bounds` and `offset_at` wait before they say "ask again".
        strict: a partition ends behind the transactions that are open, and a reader tells that its next offset is gone;
            else it ends before them, and a reader goes on at the beginning.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        *,
        group_id: str,
        topics: Mapping[InputTopic, str],
        bounds_timeout_ms: int = 1_000,
        strict: bool = True,
    ) -> None:
        self._connection = connection
        reset = "error" if strict else "earliest"
        self._forced = {"auto.offset.reset": reset, "check.crcs": True, "group.id": group_id}
        self._topics = dict(topics)
        self._bounds_timeout_ms = bounds_timeout_ms
        self._watch = ErrorWatch()
        # Read committed, the end is the first record of the oldest open transaction.
        isolation: Isolation = "read_uncommitted" if strict else "read_committed"
        self._asking = connection.consumer(self._watch, _DEFAULTS, self._forced, isolation)

    def bounds(self, topic: InputTopic, partition: int) -> Bounds:
        """Return what a partition holds. Records of transactions still open count as well.

        Raises:
            UnavailableError: ask again.
            SourceError: the partition does not exist, or this user may not see it.
        """
        place = TopicPartition(self._topics[topic], partition)
        ask = self._asking.get_watermark_offsets
        return Bounds(*self._answer("bounds", place, lambda timeout_s: ask(place, timeout=timeout_s)))

    def offset_at(self, topic: InputTopic, partition: int, moment_ms: int) -> int | None:
        """Return the offset of the first record whose timestamp is not older; None: there is none. Raises as `bounds`.

        Records of transactions still open count as well.
        """
        place = TopicPartition(self._topics[topic], partition, moment_ms)
        offset = self._answer("offsets", place, lambda timeout_s: self._offset_for(place, timeout_s))
        return offset if offset >= 0 else None

    def open(self, topic: InputTopic, partition: int, offset: int, *, committed: bool = False) -> "KafkaReader":
        """Read a partition from an offset on: only what is committed, but of `state` everything, unless asked for.

        Ask for its bounds first: of a partition that does not exist, a reader hears nothing.
        """
        everything = topic is InputTopic.STATE and not committed
        return KafkaReader(
            self._connection,
            self._forced,
            topic,
            TopicPartition(self._topics[topic], partition, offset),
            "read_uncommitted" if everything else "read_committed",
        )

    def close(self) -> None:
        """Ask nothing more. Readers are closed one by one."""
        close_beside(self._asking)

    def _answer(self, what: str, place: TopicPartition, ask: Callable[[float], _Answer]) -> _Answer:
        deadline = Deadline(self._bounds_timeout_ms)
        try:
            return ask(deadline.left_s())
        except KafkaException as exception:
            error = error_of(exception)
        # Serves `error_cb`, which alone knows of refused credentials.
        self._asking.poll(0.0)
        what = f"{what} of topic {place.topic}, partition {place.partition}"
        if self._watch.refusal:
            raise SourceError(f"{what}: {self._watch.refusal}: check the credentials")
        reason = blame(error, what)
        # While a broker is away, librdkafka calls its partitions unknown: only fresh metadata can tell.
        if reason is None or (error.code() in TOPIC_GONE and self._may_exist(place, deadline)):
            raise UnavailableError(f"{what}: {error.str()}")
        raise SourceError(reason)

    def _offset_for(self, place: TopicPartition, timeout_s: float) -> int:
        (found,) = self._asking.offsets_for_times([place], timeout=timeout_s)
        if found.error is not None:
            raise KafkaException(found.error)
        return found.offset

    def _may_exist(self, place: TopicPartition, deadline: Deadline) -> bool:
        try:
            found = self._asking.list_topics(place.topic, timeout=deadline.left_s()).topics.get(place.topic)
        except KafkaException:
            return True
        if found is None or found.error is not None:
            return found is not None and found.error.code() not in TOPIC_GONE
        return place.partition in found.partitions


class KafkaReader:
    """Implements `ports.Reader`. Built by `KafkaHistory.open`."""

    def __init__(
        self,
        connection: KafkaConnection,
        forced: Mapping[str, object],
        topic: InputTopic,
        place: TopicPartition,
        isolation: Isolation,
    ) -> None:
        self._connection = connection
        self._forced = forced
        self._topic = topic
        self._isolation = isolation
        self._what = f"topic {place.topic}, partition {place.partition}"
        self._place = place
        self._next = place.offset
        self._gone = ""
        self._closed = False
        self._watch = ErrorWatch()
        self._consumer = self._assigned()

    def read(self, records_max: int, wait_ms: int) -> RawBatch:
        """Return the next records, at most so many, waiting at most `wait_ms` when there is none; maybe an empty batch.

        Raises:
            PositionGoneError: the next offset is not in the partition (any more).
            SourceError: reading cannot go on; the message says what to do.
        """
        if self._gone:
            raise PositionGoneError(self._gone)
        messages = take(self._consumer, records_max, wait_ms)
        if self._watch.refusal:
            raise SourceError(f"{self._what}: {self._watch.refusal}: check the credentials")
        failed = any(map(Message.error, messages))
        if failed:
            messages = self._until_error(messages)
        batch = batch_of(self._topic, self._place.partition, messages)
        if messages:
            self._next = batch.offsets[-1] + 1
        if failed:
            # librdkafka's position counts an error as a record: begin anew behind the last real one.
            self.seek(self._next)
        return batch

    def position(self) -> int:
        """Return the offset to be read next: behind the last record and behind what is no record."""
        (place,) = self._consumer.position([self._place])
        # It is negative before the first record.
        return max(self._next, place.offset)

    def seek(self, offset: int) -> None:
        """Go on reading from another offset. What was read ahead is dropped."""
        assert not self._closed, f"{self._what}: the reader is closed"
        close_beside(self._consumer)
        self._place = TopicPartition(self._place.topic, self._place.partition, offset)
        self._next = offset
        self._gone = ""
        self._consumer = self._assigned()

    def close(self) -> None:
        """Stop reading. Does not wait; can be called again."""
        if not self._closed:
            self._closed = True
            close_beside(self._consumer)

    def _assigned(self) -> Consumer:
        assert self._place.offset >= 0, f"{self._what}: offset {self._place.offset}"
        consumer = self._connection.consumer(self._watch, _DEFAULTS, self._forced, self._isolation)
        consumer.assign([self._place])
        return consumer

    def _until_error(self, messages: list[Message]) -> list[Message]:
        records = list(takewhile(lambda message: message.error() is None, messages))
        failed = messages[len(records)]
        error = failed.error()
        assert error is not None
        if error.code() in POSITION_GONE:
            self._gone = f"{self._what}: offset {failed.offset()} is not there (any more): {error.str()}"
            raise PositionGoneError(self._gone)
        reason = blame(error, self._what)
        if reason is not None:
            raise SourceError(reason)
        self._connection.warn(f"{self._what}: {error.str()}")
        return records
