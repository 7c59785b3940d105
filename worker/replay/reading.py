"""Ways to read Kafka that several parts of a replay share. Nothing here joins a group."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from confluent_kafka import KafkaException, TopicPartition

from worker.cluster import BrokerUnreachableError
from worker.core.events import InputTopic, RawBatch
from worker.edges.kafka import KafkaHistory, KafkaReader
from worker.edges.kafka.client import Deadline, ErrorWatch, KafkaConnection, blame, close_beside, error_of
from worker.ports import PositionGoneError, SourceError, UnavailableError
from worker.recovery.reading import rows

RECORDS_MAX = 5_000
_WAIT_MS = 100
_PAUSE_S = 0.1
_ANSWER_MS = 30_000
_SILENCE_S_MAX = 60.0
_Answer = TypeVar("_Answer")


class Log:
    """A topic that is read from its beginning to its end, committed records only."""

    def __init__(self, connection: KafkaConnection, group_id: str, topic: str, partitions: int) -> None:
        # For a reader one topic is like the other: this one goes by the name of an input.
        self._history = KafkaHistory(connection, group_id=group_id, topics={InputTopic.PREDICTIONS: topic})
        self._topic = topic
        self._partitions = partitions

    def batches(self) -> Iterator[RawBatch]:
        """Yield all records, partition by partition."""
        for partition in range(self._partitions):
            history, number = self._history, partition
            first, end = patiently(lambda: history.bounds(InputTopic.PREDICTIONS, number))  # noqa: B023 - called at once
            if first == end:
                continue
            reader = self._history.open(InputTopic.PREDICTIONS, partition, first)
            try:
                yield from batches_of(reader, end, f"{self._topic}[{partition}]")
            finally:
                reader.close()

    def close(self) -> None:
        """Ask nothing more."""
        self._history.close()


def batches_of(reader: KafkaReader, end: int, what: str, records_max: int = RECORDS_MAX) -> Iterator[RawBatch]:
    """Yield the records before an offset. Raises BrokerUnreachableError when nothing comes for long."""
    heard_s = time.monotonic()
    while reader.position() < end:
        try:
            batch = reader.read(records_max, _WAIT_MS)
        except PositionGoneError as error:
            raise SourceError(f"{error}: retention has passed it meanwhile, run the command again") from None
        if batch.offsets:
            heard_s = time.monotonic()
            wanted = sum(offset < end for offset in batch.offsets)
            if wanted:
                yield rows(batch, 0, wanted)
            if wanted < len(batch.offsets):
                return
        elif time.monotonic() - heard_s > _SILENCE_S_MAX:
            raise BrokerUnreachableError(
                f"{what}: Kafka gave nothing for {_SILENCE_S_MAX:g} s: check that it runs, and that no transaction of "
                "a writer has been open for long"
            )


def patiently(ask: Callable[[], _Answer]) -> _Answer:
    """Ask until there is an answer, or time is over."""
    deadline = Deadline(_ANSWER_MS)
    while True:
        try:
            return ask()
        except UnavailableError as error:
            if deadline.passed():
                raise BrokerUnreachableError(f"{error}: check that Kafka runs, then try again") from None
        time.sleep(_PAUSE_S)


def offset_for(connection: KafkaConnection, group_id: str, place: TopicPartition) -> int | None:
    """Return the offset of the first record whose timestamp (ms, `place.offset`) is not older; None: there is none."""
    consumer = connection.consumer(ErrorWatch(), {}, {"group.id": group_id, "auto.offset.reset": "error"})
    try:
        return patiently(lambda: _asked_offset(consumer.offsets_for_times, place))
    finally:
        close_beside(consumer)


def _asked_offset(ask: Callable[..., Sequence[TopicPartition]], place: TopicPartition) -> int | None:
    what = f"offsets of topic {place.topic}, partition {place.partition}"
    try:
        (found,) = ask([place], timeout=5.0)
        error = found.error
    except KafkaException as exception:
        error = error_of(exception)
    if error is not None:
        reason = blame(error, what)
        if reason is not None:
            raise SourceError(reason)
        raise UnavailableError(f"{what}: {error.str()}")
    return found.offset if found.offset >= 0 else None
