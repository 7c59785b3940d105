"""One command's dealings with the topics: whole partitions in, one record out."""

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from worker.cluster import BrokerUnreachableError, TopicsError, connect
from worker.edges.kafka.client import FORBIDDEN, Deadline, ErrorWatch, KafkaConnection, blame, close_beside, error_of
from worker.edges.kafka.records import take
from worker.edges.kafka.topics import TopicAdmin
from worker.settings import Settings

_SILENCE_S_MAX = 30.0
_BOUNDS_MS = 10_000
_DELIVERY_MS = 30_000
_RECORDS_MAX = 5_000
_WAIT_MS = 100
_READING = {"fetch.wait.max.ms": 100, "fetch.error.backoff.ms": 100}
_SENDING = {"linger.ms": 0}


class Record(NamedTuple):
    """One committed record."""

    partition: int
    offset: int
    timestamp_ms: int
    value: bytes | None


class Session:
    """What the commands ask of Kafka.

    Args:
        settings: of the workers whose alerts it is about.
        partitions: partition counts by role, of the topics that exist.
    """

    def __init__(self, settings: Settings, partitions: dict[str, int]) -> None:
        self.settings = settings
        self._partitions = partitions
        self._connection = connect(settings)

    def __contains__(self, role: str) -> bool:
        """Tell whether a topic exists."""
        return role in self._partitions

    def topic(self, role: str) -> str:
        """Return the name of a topic."""
        name: str = getattr(self.settings.topics, role)
        return name

    def records(self, role: str) -> Iterator[Record]:
        """Yield all committed records of a topic, each partition from its beginning to where it ends now."""
        for partition in range(self._partitions[role]):
            with _consumer(self._connection, self.settings.kafka.group_id) as (consumer, watch):
                yield from _read_all(consumer, watch, TopicPartition(self.topic(role), partition))

    def begin(self, role: str) -> int:
        """Return the first offset that partition 0 of a topic still holds."""
        with _consumer(self._connection, self.settings.kafka.group_id) as (consumer, watch):
            return _bounds(consumer, watch, TopicPartition(self.topic(role), 0))[0]

    def send(self, key: str, value: bytes) -> int:
        """Write one record to `feedback`; return its offset once all replicas have it.

        Raises:
            TopicsError: the topic or the broker refuses it.
            BrokerUnreachableError: no answer in time.
        """
        topic, answers = self.topic("feedback"), list[tuple[KafkaError | None, Message]]()
        forced = {"acks": "all", "enable.idempotence": True, "message.timeout.ms": _DELIVERY_MS}
        watch = ErrorWatch()
        producer = self._connection.producer(watch, _SENDING, forced)

        def told(error: KafkaError | None, message: Message) -> None:
            answers.append((error, message))

        producer.produce(topic, value, key=key.encode(), partition=0, on_delivery=told)
        producer.flush(_DELIVERY_MS / 1000 + 1.0)
        if watch.refusal:
            raise TopicsError(f"topic {topic}: {watch.refusal}: check the credentials")
        if not answers:
            raise BrokerUnreachableError(_in_doubt(topic, "no answer"))
        error, message = answers[0]
        if error is None:
            return message.offset() or 0
        reason = blame(error, f"topic {topic}")
        if reason is not None:
            raise TopicsError(reason)
        raise BrokerUnreachableError(_in_doubt(topic, error.str()))


@contextmanager
def open_session(settings: Settings, needed: Collection[str]) -> Iterator[Session]:
    """Look at the topics and begin.

    Args:
        settings: of the workers.
        needed: roles without which the command makes no sense.

    Raises:
        TopicsError: one of these does not exist, or `feedback` is not as the workers need it.
        BrokerUnreachableError: Kafka does not answer.
    """
    topics = settings.topics
    names = {role: getattr(topics, role) for role in ("feedback", "alerts", "incidents", "maintenance")}
    partitions = TopicAdmin(connect(settings), names).partition_counts()
    missing = [names[role] for role in needed if role not in partitions]
    if missing:
        verb = "does" if len(missing) == 1 else "do"
        raise TopicsError(f"{', '.join(missing)} {verb} not exist: run `modelvigil topics create`")
    if partitions.get("feedback", 1) != 1:
        raise TopicsError(
            f"{names['feedback']} has {partitions['feedback']} partitions and must have one, which every shard reads: "
            "delete it and run `modelvigil topics create`, or name another one ([topics] feedback)"
        )
    yield Session(settings, partitions)


@contextmanager
def _consumer(connection: KafkaConnection, group_id: str) -> Iterator[tuple[Consumer, ErrorWatch]]:
    """Give a consumer that sees what is committed. Its group is only named, never joined."""
    watch = ErrorWatch()
    consumer = connection.consumer(watch, _READING, {"group.id": group_id, "auto.offset.reset": "earliest"})
    try:
        yield consumer, watch
    finally:
        close_beside(consumer)


def _read_all(consumer: Consumer, watch: ErrorWatch, place: TopicPartition) -> Iterator[Record]:
    first, end = _bounds(consumer, watch, place)
    place = TopicPartition(place.topic, place.partition, first)
    if first >= end:
        return
    consumer.assign([place])
    heard_s, position = time.monotonic(), first
    while position < end:
        for message in take(consumer, _RECORDS_MAX, _WAIT_MS):
            _refuse_error(message, watch, place)
            offset = message.offset()
            if message.error() is None and offset is not None and offset < end:
                yield Record(place.partition, offset, message.timestamp()[1], message.value())
        # It is negative before the first record; markers of transactions are behind it, too.
        before, position = position, max(position, consumer.position([place])[0].offset)
        if position > before:
            heard_s = time.monotonic()
        elif time.monotonic() - heard_s > _SILENCE_S_MAX:
            raise BrokerUnreachableError(
                f"{_named(place)}: nothing came for {_SILENCE_S_MAX:g} s: check that Kafka runs, and try again"
            )


def _bounds(consumer: Consumer, watch: ErrorWatch, place: TopicPartition) -> tuple[int, int]:
    """Return the first offset, and the end of what is committed: transactions still open are not waited for."""
    try:
        bounds: tuple[int, int] = consumer.get_watermark_offsets(place, timeout=Deadline(_BOUNDS_MS).left_s())
    except KafkaException as exception:
        # Serves `error_cb`, which alone knows of refused credentials.
        consumer.poll(0.0)
        raise _failure(error_of(exception), watch, place) from None
    return bounds


def _refuse_error(message: Message, watch: ErrorWatch, place: TopicPartition) -> None:
    """Raise what does not pass by itself; transport errors do."""
    error = message.error()
    if watch.refusal or (error is not None and (error.code() in FORBIDDEN or blame(error, "") is not None)):
        raise _failure(error, watch, place)


def _failure(error: KafkaError | None, watch: ErrorWatch, place: TopicPartition) -> Exception:
    if watch.refusal or error is None:
        return TopicsError(f"{_named(place)}: {watch.refusal}: check the credentials")
    reason = blame(error, _named(place))
    if reason is not None:
        return TopicsError(reason)
    return BrokerUnreachableError(f"{_named(place)}: {error.str()}: check that Kafka runs, and try again")


def _named(place: TopicPartition) -> str:
    return f"topic {place.topic}, partition {place.partition}"


def _in_doubt(topic: str, why: str) -> str:
    return (
        f"topic {topic}: {why} within {_DELIVERY_MS // 1000} s, so it may have been written or not: look at "
        "`modelvigil feedback list` before you send it again"
    )
