"""Questions to Kafka that are repeated for a while, and records as they come from its client."""

import time
from collections.abc import Callable
from typing import TypeVar, cast

from confluent_kafka import Consumer, KafkaException, Message

from worker.edges.kafka.client import Deadline, blame, error_of
from worker.notify.records import Arrived
from worker.ports import SourceError

CALL_S = 5.0
"""Of one question."""
_PATIENCE_MS = 30_000
"""Of all attempts together."""
_PAUSE_S = 0.2
_Answer = TypeVar("_Answer")


def partitions_of(consumer: Consumer, topic: str) -> list[int]:
    """Return the partitions of a topic. Raises SourceError."""
    metadata = asked(f"partitions of topic {topic}", lambda: consumer.list_topics(topic, CALL_S)).topics[topic]
    if metadata.error is not None or not metadata.partitions:
        raise SourceError(f"topic {topic} cannot be read: run `modelvigil topics create`")
    return sorted(metadata.partitions)


def asked(what: str, ask: Callable[[], _Answer]) -> _Answer:
    """Ask Kafka until it answers, or patience is over. Raises SourceError."""
    deadline = Deadline(_PATIENCE_MS)
    while True:
        try:
            return ask()
        except KafkaException as exception:
            error = error_of(exception)
            if deadline.passed():
                raise SourceError(f"{what}: {error.str()}") from None
        reason = blame(error, what)
        if reason is not None:
            raise SourceError(reason)
        time.sleep(_PAUSE_S)


def arrived_of(message: Message) -> Arrived:
    """Return a record that a consumer gave. Headers whose names are not UTF-8 cannot be read, and are left out."""
    try:
        # The cast: only headers set by hand come as a dict.
        headers = cast("list[tuple[str, bytes | None]]", message.headers() or [])
    except (SystemError, UnicodeDecodeError):
        headers = []
    partition, offset = message.partition(), message.offset()
    assert partition is not None
    assert offset is not None
    where = (message.topic() or "", partition, offset)
    return Arrived(*where, message.timestamp()[1], message.key(), message.value(), tuple(headers))
