"""Reads what a restore needs from the topics, a little at a time: chunks of state, and ranges of records.

Everything here is a generator of "was anything done": True, or False while it waits for Kafka. Whoever drives it does
other things in between, so no restore ever stops the loop.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from typing import TypeVar

from worker.core.events import InputTopic, RawBatch
from worker.core.journal import Ref
from worker.core.snapshot import SnapshotError, checksum
from worker.ports import Bounds, History, PositionGoneError, Reader, UnavailableError

_Result = TypeVar("_Result")
Steps = Generator[bool, None, _Result]

STATE_RECORDS_MAX = 50
"""Read at once: up to 45 MB of chunks."""
_GAP_MAX = 16
"""Records of up to 900 kB: a longer way to the next wanted chunk is jumped over."""


class VanishedError(Exception):
    """A record that must be there is not; the message says which."""


def bounds_of(history: History, topic: InputTopic, shard: int) -> Steps[Bounds]:
    """Return what a shard's partition of a topic holds, as soon as Kafka answers."""
    while True:
        try:
            return history.bounds(topic, _partition_of(topic, shard))
        except UnavailableError:
            yield False


def _partition_of(topic: InputTopic, shard: int) -> int:
    """All shards read the one partition of `feedback`; of the others each has its own."""
    return 0 if topic is InputTopic.FEEDBACK else shard


def live_keys(history: History, partition: int) -> Steps[list[bytes]]:
    """Return the keys in a partition of `state` whose last committed record is not a deletion."""
    keys: dict[bytes, None] = {}
    bounds = yield from bounds_of(history, InputTopic.STATE, partition)
    if bounds.first >= bounds.end:
        return []
    with closing(history.open(InputTopic.STATE, partition, bounds.first, committed=True)) as reader:
        while reader.position() < bounds.end:
            batch = _read(reader, STATE_RECORDS_MAX)
            for key, value in zip(batch.keys, batch.values, strict=True):
                if value is None:
                    keys.pop(key or b"", None)
                else:
                    keys[key or b""] = None
            yield bool(batch.offsets)
    return list(keys)


class Chunks:
    """Reads records of `state` by their offsets, in one pass where they lie close together."""

    def __init__(self, history: History, partition: int) -> None:
        self._history = history
        self._partition = partition
        self._reader: Reader | None = None

    def read(self, offsets: Iterable[int], take: Callable[[int, bytes], None]) -> Steps[None]:
        """Give every wanted record to `take`, ascending. Raises SnapshotError if one is gone."""
        wanted = sorted(set(offsets))
        bounds = yield from bounds_of(self._history, InputTopic.STATE, self._partition)
        if wanted and not bounds.first <= wanted[0] <= wanted[-1] < bounds.end:
            raise SnapshotError(f"offset {wanted[-1]} of the state topic is gone")
        place = 0
        while place < len(wanted):
            reader = self._at(wanted[place])
            before = place
            place = yield from self._run(reader, wanted, place, take)
            assert place > before, "a pass that found nothing has raised"

    def payload(self, ref: Ref) -> Steps[bytes]:
        """Return what a reference names. Raises SnapshotError if it is not that."""
        found: dict[int, bytes] = {}
        yield from self.read(ref.offsets, found.__setitem__)
        payload = b"".join(found[offset] for offset in ref.offsets)
        if checksum(payload).hex() != ref.checksum:
            raise SnapshotError(f"what lies at offset {ref.offsets[0]} of the state topic has another checksum")
        return payload

    def close(self) -> None:
        """Stop reading."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _at(self, offset: int) -> Reader:
        if self._reader is None:
            self._reader = self._history.open(InputTopic.STATE, self._partition, offset)
        else:
            self._reader.seek(offset)
        return self._reader

    def _run(self, reader: Reader, wanted: Sequence[int], place: int, take: Callable[[int, bytes], None]) -> Steps[int]:
        """Read on from `wanted[place]` while the next one is near; return the place that is next."""
        while place < len(wanted):
            batch = _read(reader, STATE_RECORDS_MAX)
            yield bool(batch.offsets)
            for offset, value in zip(batch.offsets, batch.values, strict=True):
                if offset > wanted[place] or (offset == wanted[place] and value is None):
                    raise SnapshotError(f"offset {wanted[place]} of the state topic is gone")
                if offset == wanted[place] and value is not None:
                    take(offset, value)
                    place += 1
                    if place == len(wanted):
                        return place
            next_offset = reader.position()
            if next_offset > wanted[place]:
                raise SnapshotError(f"offset {wanted[place]} of the state topic is gone")
            if wanted[place] - next_offset > _GAP_MAX:
                return place
        return place


def _read(reader: Reader, records_max: int) -> RawBatch:
    try:
        return reader.read(records_max, 0)
    except PositionGoneError as error:
        raise SnapshotError(str(error)) from None


class Tape:
    """Reads one input of a shard again, up to exact offsets."""

    def __init__(self, history: History, topic: InputTopic, shard: int, offset: int, records_max: int) -> None:
        self._partition = _partition_of(topic, shard)
        self._reader = history.open(topic, self._partition, offset)
        self._topic = topic
        self._shard = shard
        self._records_max = records_max
        self._rest: RawBatch | None = None
        self.offset = offset

    def play(self, end: int, handle: Callable[[RawBatch], object]) -> Steps[None]:
        """Give the records up to offset `end` (exclusive) to `handle`. Raises VanishedError if the last one is gone."""
        while self.offset < end:
            batch, self._rest = self._rest or self._read(), None
            mine = sum(offset < end for offset in batch.offsets)
            if mine < len(batch.offsets):
                self._rest = rows(batch, mine, len(batch.offsets))
            if mine:
                self.offset = batch.offsets[mine - 1] + 1
                handle(rows(batch, 0, mine))
            elif self._rest is not None or self._reader.position() >= end:
                raise VanishedError(f"offset {end - 1} of {self._topic}[{self._partition}]")
            yield mine > 0

    def close(self) -> None:
        """Stop reading."""
        self._reader.close()

    def _read(self) -> RawBatch:
        try:
            return self._reader.read(self._records_max, 0)._replace(partition=self._shard)
        except PositionGoneError as error:
            raise VanishedError(str(error)) from None


def rows(batch: RawBatch, begin: int, end: int) -> RawBatch:
    """Return some consecutive records of a batch."""
    part = slice(begin, end)
    return RawBatch(
        batch.partition,
        batch.offsets[part],
        batch.timestamps_ms[part],
        batch.values[part],
        batch.keys[part],
        batch.headers[part],
        batch.topic,
    )
