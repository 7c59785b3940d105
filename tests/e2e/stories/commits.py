"""Every committed position of a group, in order, with its metadata: read from Kafka's own topic of offsets.

A fetch of committed offsets tells the last one only; the oracle needs them all.
"""

import struct
import time
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, TopicPartition

_TOPIC = "__consumer_offsets"
_OFFSET_KEYS = (0, 1)
_EPOCH_SINCE = 3
_COMPACT_SINCE = 4
_READ_MAX_S = 60.0


class CommittedPosition(NamedTuple):
    """One commit of one partition."""

    offset: int
    metadata: str


def committed_positions(servers: str, group: str, topic: str) -> dict[int, list[CommittedPosition]]:
    """Return all commits of a group on a topic that became visible, by partition, in their order."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "oracle",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
        }
    )
    partitions = consumer.list_topics(_TOPIC, timeout=20).topics[_TOPIC].partitions
    consumer.assign([TopicPartition(_TOPIC, partition, 0) for partition in partitions])
    found: dict[int, list[CommittedPosition]] = {}
    left, end = set(partitions), time.monotonic() + _READ_MAX_S
    while left:
        assert time.monotonic() < end, f"no end of {_TOPIC} within {_READ_MAX_S:g} s"
        for message in consumer.consume(1000, 0.2):
            error = message.error()
            if error is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                left.discard(message.partition() or 0)
            else:
                _take(message.key(), message.value(), (group, topic), found)
    consumer.close()
    return found


def _take(
    key: bytes | None, value: bytes | None, wanted: tuple[str, str], found: dict[int, list[CommittedPosition]]
) -> None:
    if key is None or value is None or struct.unpack_from(">h", key)[0] not in _OFFSET_KEYS:
        return
    group, place = _text(key, 2)
    topic, place = _text(key, place)
    if (group, topic) == wanted:
        (partition,) = struct.unpack_from(">i", key, place)
        version, offset = struct.unpack_from(">hq", value)
        metadata = _metadata(value, 14 if version >= _EPOCH_SINCE else 10, compact=version >= _COMPACT_SINCE)
        metadata = metadata.rstrip("\0")  # confluent-kafka sends the end of the C string along
        found.setdefault(partition, []).append(CommittedPosition(offset, metadata))


def _metadata(value: bytes, place: int, *, compact: bool) -> str:
    if not compact:
        return _text(value, place)[0]
    length = shift = 0
    more = True
    while more:
        length |= (value[place] & 0x7F) << shift
        more = value[place] >= 0x80
        place, shift = place + 1, shift + 7
    return value[place : place + length - 1].decode()


def _text(data: bytes, place: int) -> tuple[str, int]:
    (length,) = struct.unpack_from(">h", data, place)
    begin = place + 2
    return data[begin : begin + length].decode(), begin + length
