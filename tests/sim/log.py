"""One partition as a broker keeps it: records, transactions still open, control records, compaction, retention.

Rule 1: an offset is given once. Control records take one, too, and are never delivered.
Rule 2: a read of committed records stops at the first record of an open transaction (the last stable offset).
Rule 3: compaction never moves a record and never looks beyond the last stable offset; an aborted record hides nothing.
"""

from bisect import bisect_left
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

Headers = Sequence[tuple[str, bytes | None]] | None


class StoredRecord(NamedTuple):
    """A record in its place. `transaction` is 0 for a record written without one."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = None
    transaction: int = 0


class OffsetGoneError(Exception):
    """The partition does not have this offset (any more)."""


class Chunk(NamedTuple):
    """What a read returned, and the offset where the next one goes on."""

    records: list[StoredRecord]
    position: int


class PartitionLog:
    """One partition of one topic. `archive` keeps every record ever written, for the checks."""

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.first = 0
        self.end = 0
        self.archive: list[StoredRecord] = []
        self.aborted: set[int] = set()
        self._records: list[StoredRecord] = []
        self._offsets: list[int] = []
        self._open: dict[int, int] = {}
        self._tombstones_until_ms: dict[int, int] = {}

    @property
    def stable_end(self) -> int:
        """The last stable offset: what a reader of committed records may see ends before it."""
        return min(self._open.values(), default=self.end)

    def append(
        self, timestamp_ms: int, key: bytes | None, value: bytes | None, headers: Headers = None, transaction: int = 0
    ) -> int:
        """Write a record, as part of a transaction if its number is given; return its offset."""
        record = StoredRecord(self.end, timestamp_ms, key, value, headers, transaction)
        if transaction:
            self._open.setdefault(transaction, self.end)
        self._records.append(record)
        self._offsets.append(self.end)
        self.archive.append(record)
        self.end += 1
        return record.offset

    def end_transaction(self, transaction: int, *, committed: bool) -> None:
        """Write the control record that ends a transaction here."""
        if self._open.pop(transaction, None) is not None and not committed:
            self.aborted.add(transaction)
        self.end += 1

    def read(self, offset: int, records_max: int, *, committed: bool) -> Chunk:
        """Return records from an offset on: all there are, or only those of ended, committed transactions.

        Raises:
            OffsetGoneError: the offset is before the first one or beyond the end.
        """
        if not self.first <= offset <= self.end:
            raise OffsetGoneError(f"{self.topic}[{self.partition}] has {self.first} to {self.end}, not {offset}")
        end = self.stable_end if committed else self.end
        place = bisect_left(self._offsets, offset)
        found: list[StoredRecord] = []
        while place < len(self._records) and self._offsets[place] < end:
            if len(found) >= records_max:
                return Chunk(found, self._offsets[place])
            record = self._records[place]
            if not (committed and record.transaction in self.aborted):
                found.append(record)
            place += 1
        return Chunk(found, max(offset, end))

    def committed_records(self, begin: int = 0, end: int | None = None) -> list[StoredRecord]:
        """Return what a reader who was there all the time has seen of these offsets, whatever was removed since."""
        end = self.stable_end if end is None else min(end, self.stable_end)
        first, last = (bisect_left(self.archive, offset, key=attrgetter("offset")) for offset in (begin, end))
        return [record for record in self.archive[first:last] if record.transaction not in self.aborted]

    def delete_before(self, offset: int) -> None:
        """Let retention remove what lies before an offset."""
        self.first = max(self.first, min(offset, self.stable_end))
        self._keep([record for record in self._records if record.offset >= self.first])

    def compact(self, end: int, now_ms: int, tombstones_kept_ms: int) -> None:
        """Keep the last committed record of each key before `end`; the rest of the log is as it was.

        A tombstone outlives the first compaction that meets it by `tombstones_kept_ms`, so that readers learn of it.
        """
        end = min(end, self.stable_end)
        last = {r.key: r.offset for r in self._records if r.offset < end and r.transaction not in self.aborted}
        kept = []
        for record in self._records:
            if record.offset >= end or (last.get(record.key) == record.offset and self._stays(record, now_ms)):
                kept.append(record)
                if record.offset < end and record.value is None:
                    self._tombstones_until_ms.setdefault(record.offset, now_ms + tombstones_kept_ms)
        self._keep(kept)

    def value(self, offset: int) -> bytes:
        """Return the value of the record at an offset, which must be there."""
        place = self._offsets.index(offset)
        return self._records[place].value or b""

    def damage(self, offset: int, bit: int) -> None:
        """Flip one bit of the value stored at an offset."""
        place = self._offsets.index(offset)
        value = bytearray(self._records[place].value or b"")
        bit %= len(value) * 8
        value[bit // 8] ^= 1 << bit % 8
        self._records[place] = self._records[place]._replace(value=bytes(value))

    def _stays(self, record: StoredRecord, now_ms: int) -> bool:
        return now_ms < self._tombstones_until_ms.get(record.offset, now_ms + 1)

    def _keep(self, records: list[StoredRecord]) -> None:
        self._records = records
        self._offsets = [record.offset for record in records]
