"""The data consumer: reads owned partitions at explicit offsets, outside of any group protocol.

Rule 1: it is never subscribed and commits nothing; `attach` alone decides where reading begins.
Rule 2: an offset that is gone stops the worker: to skip silently would break "each record exactly once".
Rule 3: this is the hot path: no Python code runs per record, only C calls mapped over the batch.
"""

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Literal, cast

from confluent_kafka import OFFSET_BEGINNING, KafkaException, Message, TopicPartition

from worker.core.events import RawBatch
from worker.edges.kafka.client import ErrorWatch, KafkaConnection, blame, error_of
from worker.ports import SourceError

_DEFAULTS = {
    # Answer as soon as there is a record; and a partition attached while a fetch is under way waits at most this long.
    "fetch.min.bytes": 1,
    "fetch.wait.max.ms": 100,
    # Read ahead so far; both bounds hold, and a full queue is looked at again soon, or the loop runs dry.
    "queued.min.messages": 100_000,
    "queued.max.messages.kbytes": 65_536,
    "fetch.queue.backoff.ms": 10,
    "fetch.error.backoff.ms": 100,
}
_FORCED = {"auto.offset.reset": "error", "check.crcs": True}
_Headers = list[tuple[str, bytes | None]] | None
_timestamp_ms = itemgetter(1)


class KafkaSource:
    """Implements `ports.Source` for one topic.

    Args:
        connection: the cluster.
        group_id: librdkafka wants one. It is only named, never joined; the worker's own group needs no further ACL.
        topic: the topic to read.
        start_at: where a partition begins that is attached without an offset.
        query_timeout_ms: how long `attach` may ask for the end of a partition.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        *,
        group_id: str,
        topic: str,
        start_at: Literal["earliest", "latest"] = "earliest",
        query_timeout_ms: int = 5_000,
    ) -> None:
        self._topic = topic
        self._start_at = start_at
        self._query_timeout_s = query_timeout_ms / 1000
        self._connection = connection
        self._attached: set[int] = set()
        self._watch = ErrorWatch()
        self._consumer = connection.consumer(self._watch, _DEFAULTS, {**_FORCED, "group.id": group_id})

    def attach(self, partition: int, offset: int | None) -> int | None:
        """Start reading a partition at an offset (None: as `start_at` says).

        Raises:
            SourceError: the end of the partition could not be asked for.
        """
        assert partition not in self._attached, f"partition {partition} is attached already"
        begin = self._first_offset(partition) if offset is None else offset
        self._consumer.incremental_assign([TopicPartition(self._topic, partition, begin)])
        self._attached.add(partition)
        return begin if begin >= 0 else None

    def detach(self, partitions: Sequence[int]) -> None:
        """Stop reading partitions; librdkafka throws away what it has read ahead of them."""
        gone = [TopicPartition(self._topic, partition) for partition in partitions if partition in self._attached]
        if gone:
            self._consumer.incremental_unassign(gone)
            self._attached.difference_update(partitions)

    def fetch(self, records_max: int, wait_ms: int) -> list[RawBatch]:
        """Return what is there, at most one batch a partition, waiting at most `wait_ms` when there is nothing.

        Raises:
            SourceError: reading cannot go on; the message says what to do.
        """
        messages = self._consumer.consume(records_max, 0.0)
        if not messages and wait_ms > 0:
            # `consume` with a timeout would wait until it has all of `records_max`; `poll` returns at the first.
            first = self._consumer.poll(wait_ms / 1000)
            if first is not None:
                messages = [first, *(self._consumer.consume(records_max - 1, 0.0) if records_max > 1 else ())]
        if self._watch.refusal:
            raise SourceError(f"topic {self._topic}: {self._watch.refusal}: check the credentials")
        if any(map(Message.error, messages)):
            messages = self._without_errors(messages)
        return self._batches(messages)

    def close(self) -> None:
        """Stop reading."""
        self._attached.clear()
        # It has joined no group and has nothing to commit: there is nothing that this could wait for.
        self._consumer.close()

    def _batches(self, messages: list[Message]) -> list[RawBatch]:
        by_partition: dict[int, list[Message]] = {}
        for partition, run in groupby(messages, Message.partition):
            if partition in self._attached:
                by_partition.setdefault(partition, []).extend(run)
        return [_batch(partition, records) for partition, records in by_partition.items()]

    def _without_errors(self, messages: list[Message]) -> list[Message]:
        records = []
        for message in messages:
            error = message.error()
            if error is None:
                records.append(message)
                continue
            reason = blame(error, f"topic {self._topic}, partition {message.partition()}")
            if reason is not None:
                raise SourceError(reason)
            self._connection.warn(f"topic {self._topic}: {error.str()}")
        return records

    def _first_offset(self, partition: int) -> int:
        """Return a concrete offset for "latest": what arrives after this moment is read, however late we fetch."""
        if self._start_at == "earliest":
            return int(OFFSET_BEGINNING)
        place = TopicPartition(self._topic, partition)
        try:
            _, end = self._consumer.get_watermark_offsets(place, timeout=self._query_timeout_s)
        except KafkaException as exception:
            what = f"the end of topic {self._topic}, partition {partition}"
            error = error_of(exception)
            raise SourceError(blame(error, what) or f"{what} is not known: {error.str()}; is Kafka up?") from None
        return end


def _batch(partition: int, records: list[Message]) -> RawBatch:
    return RawBatch(
        partition,
        # The casts: only messages that are errors have no offset, and only headers set by hand come as a dict.
        cast("list[int]", list(map(Message.offset, records))),
        list(map(_timestamp_ms, map(Message.timestamp, records))),
        list(map(Message.value, records)),
        list(map(Message.key, records)),
        _headers(records),
    )


def _headers(records: list[Message]) -> list[_Headers]:
    """Return the headers of each record. A name that is not UTF-8 is legal in Kafka, but not readable here."""
    try:
        return cast("list[_Headers]", list(map(Message.headers, records)))
    except (SystemError, UnicodeDecodeError):
        return [_readable_headers(record) for record in records]


def _readable_headers(record: Message) -> _Headers:
    try:
        return cast("_Headers", record.headers())
    except (SystemError, UnicodeDecodeError):
        return [("modelvigil.headers", b"unreadable")]
