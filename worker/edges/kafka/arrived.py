"""Single records as they come from a topic, for those who bring them elsewhere one by one."""

from collections.abc import Sequence
from typing import NamedTuple, cast

from confluent_kafka import Message


class Arrived(NamedTuple):
    """A record of a topic, as it came."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()


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
