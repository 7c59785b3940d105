"""Questions of a target to Kafka, and records as they come from its client."""

from collections.abc import Callable
from typing import TypeVar, cast

from confluent_kafka import Consumer, Message, TopicPartition

from worker.edges.kafka import asking
from worker.notify.records import Arrived
from worker.ports import SourceError, UnavailableError

CALL_S = 5.0
"""Of one question."""
DEFAULTS = {"fetch.min.bytes": 1, "fetch.wait.max.ms": 100, "queued.max.messages.kbytes": 4_096}
"""Of a consumer that hands on each record as soon as it is there."""
_Answer = TypeVar("_Answer")


def asked(what: str, ask: Callable[[], _Answer]) -> _Answer:
    """Ask Kafka until it answers, or patience is over. Raises SourceError."""
    try:
        return asking.asked(what, ask)
    except UnavailableError as error:
        raise SourceError(f"{what}: {error}") from None


def ends_of(consumer: Consumer, place: TopicPartition) -> tuple[int, int]:
    """Return the first offset of a partition, and where it ends. Raises SourceError."""
    return asked(f"ends of topic {place.topic}", lambda: consumer.get_watermark_offsets(place, CALL_S))


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
