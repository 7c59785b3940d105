"""The little of Kafka's protocol that tells which request a frame is, and what the broker said to the end of one.

A frame is 4 bytes of length and that many bytes. A request begins with its API key, its version, a correlation id and
the client's name; a reply with the correlation id of its request.
"""

import asyncio
import struct
from enum import IntEnum
from typing import NamedTuple

_END_TXN_FLEXIBLE_SINCE = 3
"""From this version on, tagged fields follow the correlation id of a reply."""


class Api(IntEnum):
    """API keys of Kafka, those that a fault may be aimed at."""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    LEAVE_GROUP = 13
    SYNC_GROUP = 14
    API_VERSIONS = 18
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS_TO_TXN = 24
    ADD_OFFSETS_TO_TXN = 25
    END_TXN = 26
    TXN_OFFSET_COMMIT = 28
    CONSUMER_GROUP_HEARTBEAT = 68


class Request(NamedTuple):
    """What the head of a request tells."""

    api: int
    version: int
    correlation_id: int
    client_id: str


def request_of(frame: bytes) -> Request:
    """Read the head of a request."""
    api, version, correlation_id, length = struct.unpack_from(">hhih", frame)
    client_id = frame[10 : 10 + max(length, 0)].decode("utf-8", "replace")
    return Request(api, version, correlation_id, client_id)


def correlation_id_of(reply: bytes) -> int:
    """Read the head of a reply."""
    return int.from_bytes(reply[:4], "big", signed=True)


def end_txn_error(version: int, reply: bytes) -> int:
    """Return the error code in the reply to an EndTxn request; 0 is success."""
    tagged_fields = 1 if version >= _END_TXN_FLEXIBLE_SINCE else 0
    throttle_time_end = 4 + tagged_fields + 4
    return int.from_bytes(reply[throttle_time_end : throttle_time_end + 2], "big", signed=True)


async def read_frame(reader: asyncio.StreamReader) -> bytes | None:
    """Return the next frame without its length; None at the end of the connection, however it ended."""
    try:
        length = int.from_bytes(await reader.readexactly(4), "big")
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, OSError):
        return None


def framed(payload: bytes) -> bytes:
    """Return a frame with its length."""
    return len(payload).to_bytes(4, "big") + payload
