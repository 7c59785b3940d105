"""Takes records out of a consumer and lays them out as columns.

Rule 1: this is the hot path: no Python code runs per record, only C calls mapped over the batch.
"""

from operator import itemgetter
from typing import cast

from confluent_kafka import Consumer, Message

from worker.core.events import InputTopic, RawBatch

_Headers = list[tuple[str, bytes | None]] | None
_timestamp_ms = itemgetter(1)
_PIECE = 256
"""Records that are asked for at once. The client makes a piece's objects in some 0.2 ms without letting go of the GIL,
and so long the engine's threads stand still: they cannot go from one kernel to the next."""


def take(consumer: Consumer, records_max: int, wait_ms: int) -> list[Message]:
    """Return what a consumer has there, errors among it, waiting at most `wait_ms` when there is nothing."""
    messages = _take_now(consumer, records_max)
    if messages or wait_ms <= 0:
        return messages
    # `consume` with a timeout would wait until it has all of `records_max`; `poll` returns at the first.
    first = consumer.poll(wait_ms / 1000)
    return [] if first is None else [first, *_take_now(consumer, records_max - 1)]


def _take_now(consumer: Consumer, records_max: int) -> list[Message]:
    messages: list[Message] = []
    while (asked := min(_PIECE, records_max - len(messages))) > 0:
        more = consumer.consume(asked, 0.0)
        messages += more
        if len(more) < asked:
            break
    return messages


def batch_of(topic: InputTopic, partition: int, records: list[Message]) -> RawBatch:
    """Lay out the records of one partition as columns."""
    return RawBatch(
        partition,
        # The casts: only messages that are errors have no offset, and only headers set by hand come as a dict.
        cast("list[int]", list(map(Message.offset, records))),
        list(map(_timestamp_ms, map(Message.timestamp, records))),
        list(map(Message.value, records)),
        list(map(Message.key, records)),
        _headers(records),
        topic,
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
