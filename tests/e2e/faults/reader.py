"""What readers of committed records see: one that follows during the faults, and one that reads all of it afterwards.

Both must have seen the same. A record that only the first one has was visible and then gone; one that only the second
one has came in before records that had been visible already.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Final, NamedTuple, Self, cast

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from worker.edges.kafka.client import POSITION_GONE

_PER_CALL: Final = 1_000
_WAIT_S: Final = 0.1
_METADATA_MAX_S: Final = 20.0
_CATCH_UP_MAX_S: Final = 60.0
_READ_MAX_S: Final = 60.0
_END_MAX_S: Final = 20.0


class Place(NamedTuple):
    """One partition."""

    topic: str
    partition: int


class Record(NamedTuple):
    """What is compared of a record, beside its place."""

    offset: int
    key: bytes | None
    value: bytes | None


Seen = Mapping[Place, list[Record]]


class Follower:
    """Reads topics from their beginning on a thread of its own, as a context manager. Topics must exist.

    Args:
        servers: the cluster; with several addresses, any node may fail.
        topics: the names of all topics to read.
    """

    def __init__(self, servers: str, topics: Iterable[str]) -> None:
        self._seen: dict[Place, list[Record]] = defaultdict(list)
        self._failure = ""
        self._ended = threading.Event()
        self._consumer = _consumer(servers)
        self._consumer.assign(_beginnings(self._consumer, topics))
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(_END_MAX_S)

    @property
    def seen(self) -> Seen:
        """What it has read until now, in order."""
        assert not self._failure, self._failure
        return {place: list(records) for place, records in list(self._seen.items())}

    def _follow(self) -> None:
        while not self._ended.is_set():
            for message in self._consumer.consume(_PER_CALL, _WAIT_S):
                self._take(message)
        self._consumer.close()

    def _take(self, message: Message) -> None:
        error = message.error()
        if error is None:
            place, record = _read(message)
            before = self._seen[place]
            if before and before[-1].offset >= record.offset:
                self._failure = f"{place}: offset {record.offset} came after {before[-1].offset}"
            before.append(record)
        elif error.code() in POSITION_GONE:
            # All other errors pass: the client tries again by itself.
            self._failure = f"{message.topic()}, partition {message.partition()}: {error.str()}"


def read_all(servers: str, topics: Iterable[str]) -> Seen:
    """Read topics from their beginning to their end, as one who comes after the faults."""
    seen: dict[Place, list[Record]] = defaultdict(list)
    consumer = _consumer(servers)
    places = _beginnings(consumer, topics)
    consumer.assign(places)
    open_places = {Place(place.topic, place.partition) for place in places}
    end = time.monotonic() + _READ_MAX_S
    while open_places:
        assert time.monotonic() < end, f"no end of {sorted(open_places)} within {_READ_MAX_S:g} s"
        for message in consumer.consume(_PER_CALL, _WAIT_S):
            error = message.error()
            place, record = _read(message)
            if error is None:
                seen[place].append(record)
            elif error.code() == KafkaError._PARTITION_EOF:
                open_places.discard(place)
    consumer.close()
    return dict(seen)


def assert_same(follower: Follower, afterwards: Seen, catch_up_max_s: float = _CATCH_UP_MAX_S) -> None:
    """Wait until the follower has read as much as was read afterwards, and compare: places, order, offsets, bytes."""
    end = time.monotonic() + catch_up_max_s
    while _count(follower.seen) < _count(afterwards) and time.monotonic() < end:
        time.sleep(_WAIT_S)
    during = follower.seen
    for place in sorted({*during, *afterwards}):
        first, then = during.get(place, []), afterwards.get(place, [])
        vanished, late = set(first) - set(then), set(then) - set(first)
        assert not vanished, f"{place}: seen during the faults and then gone: {_some(vanished)}"
        assert not late, f"{place}: not seen during the faults: {_some(late)}"
        assert first == then, f"{place}: another order"


def _consumer(servers: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": servers,
            # librdkafka wants one; it is never joined.
            "group.id": "fault-reader",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            "check.crcs": True,
            "reconnect.backoff.max.ms": 500,
            "log_level": 0,
        }
    )


def _beginnings(consumer: Consumer, topics: Iterable[str]) -> list[TopicPartition]:
    places = []
    for topic in topics:
        end = time.monotonic() + _METADATA_MAX_S
        # A node may not have heard yet of a topic that another one has just created: it names it, without partitions.
        while not (found := consumer.list_topics(topic, timeout=_METADATA_MAX_S).topics[topic].partitions):
            assert time.monotonic() < end, f"no partitions of {topic} within {_METADATA_MAX_S:g} s"
            time.sleep(_WAIT_S)
        places += [TopicPartition(topic, partition, 0) for partition in found]
    return places


def _read(message: Message) -> tuple[Place, Record]:
    # The casts: only what `error_cb` gets is without a place.
    place = Place(cast("str", message.topic()), cast("int", message.partition()))
    return place, Record(cast("int", message.offset()), message.key(), message.value())


def _count(seen: Seen) -> int:
    return sum(map(len, seen.values()))


def _some(records: set[Record]) -> str:
    return f"{len(records)} records, the first are {sorted(records, key=lambda record: record.offset)[:3]}"
