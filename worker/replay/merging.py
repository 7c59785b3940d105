"""The inputs of one shard, put into one order again by the timestamps of their Kafka records.

A worker took them as they came, and that order is kept only until its next snapshot. Here a label is taken after the
predictions that have come by its time, and feedback after both.

Rule 1: within a partition the order is that of the offsets.
Rule 2: the order depends on the records alone, not on how they were fetched.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from worker.core.events import RawBatch
from worker.core.kernels.arrays import I64

SLOT_MS = 500
"""Records of so long are taken together, predictions first: a worker takes what has gathered in its last turn, too."""

LOOK_AHEAD = 64
"""A record is no later than any of so many that follow it: one wrong clock must not hold the others up."""

_UNKNOWN_MS = np.iinfo(np.int64).max


class Feed:
    """One input partition: the records in a range of its offsets, and about when each one came.

    Args:
        read: gives the next records, never none; None when there are no more.
        records_max: the largest batch that is taken.
    """

    def __init__(self, read: Callable[[], RawBatch | None], records_max: int = 5_000) -> None:
        self._read = read
        self._records_max = records_max
        self._ended = False
        self._batch: RawBatch | None = None
        self._times: I64 = np.zeros(0, dtype=np.int64)
        self._reached_ms = -1
        self._place = 0

    def next_ms(self) -> int | None:
        """Return when the next record came; None when there are no more."""
        while self._place >= len(self._times):
            if self._ended:
                return None
            self._fill()
        return int(self._times[self._place])

    def take(self, before_ms: int) -> Iterator[RawBatch]:
        """Yield the records that came before a time."""
        while (next_ms := self.next_ms()) is not None and next_ms < before_ms:
            assert self._batch is not None
            until = int(np.searchsorted(self._times, before_ms))
            begin, self._place = self._place, min(until, self._place + self._records_max)
            yield _rows(self._batch, begin, self._place)

    def _fill(self) -> None:
        """Read more; only records whose followers are known are given on."""
        more = self._read()
        rest = None if self._batch is None else _rows(self._batch, self._place, len(self._batch.offsets))
        if more is None:
            self._ended = True
        batch = _joined(rest, more)
        self._batch, self._place = batch, 0
        if batch is None:
            self._times = np.zeros(0, dtype=np.int64)
            return
        settled = len(batch.offsets) - (0 if self._ended else LOOK_AHEAD - 1)
        times = arrival_times(batch.timestamps_ms, self._reached_ms)
        self._times = times[: max(0, settled)]
        if len(self._times):
            self._reached_ms = int(self._times[-1])


def arrival_times(timestamps_ms: Sequence[int], reached_ms: int) -> I64:
    """Return when records (n) came, ms, never falling and never before `reached_ms`.

    That is the smallest timestamp of a record and of those that follow it. A negative timestamp tells nothing.
    """
    stamps = np.array(timestamps_ms, dtype=np.int64)
    stamps[stamps < 0] = _UNKNOWN_MS
    step = 1
    while step < LOOK_AHEAD:  # after step s, each one is the smallest of the 2 s that begin with it
        stamps[:-step] = np.minimum(stamps[:-step], stamps[step:])
        step *= 2
    stamps[stamps == _UNKNOWN_MS] = reached_ms
    times: I64 = np.maximum(np.maximum.accumulate(stamps), reached_ms)
    return times


class Feeds(NamedTuple):
    """All inputs of one shard, in the order in which those of one slot are taken."""

    predictions: Feed
    labels: Feed
    feedback: Feed

    def next_ms(self) -> int | None:
        """Return when the next record came; None when there are no more."""
        return min((ms for feed in self if (ms := feed.next_ms()) is not None), default=None)

    def slot_end_ms(self) -> int | None:
        """Return up to when records can be taken together; None: there is nothing but predictions any more."""
        others = [ms for feed in (self.labels, self.feedback) if (ms := feed.next_ms()) is not None]
        return (min(others) // SLOT_MS + 1) * SLOT_MS if others else None

    def take(self, before_ms: int) -> Iterator[RawBatch]:
        """Yield the records that came before a time, predictions first."""
        for feed in self:
            yield from feed.take(before_ms)


def _rows(batch: RawBatch, begin: int, end: int) -> RawBatch:
    part = slice(begin, end)
    return batch._replace(
        offsets=batch.offsets[part],
        timestamps_ms=batch.timestamps_ms[part],
        values=batch.values[part],
        keys=batch.keys[part],
        headers=batch.headers[part],
    )


def _joined(first: RawBatch | None, second: RawBatch | None) -> RawBatch | None:
    if first is None or second is None:
        return first or second
    return first._replace(
        offsets=[*first.offsets, *second.offsets],
        timestamps_ms=[*first.timestamps_ms, *second.timestamps_ms],
        values=[*first.values, *second.values],
        keys=[*first.keys, *second.keys],
        headers=[*first.headers, *second.headers],
    )
