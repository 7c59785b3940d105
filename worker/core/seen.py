"""Consecutive events of one monitor: as it works them off, and as all its watchers see them."""

from typing import NamedTuple

import numpy as np

from worker.core.arrivals import PredictionEvents
from worker.core.columns import Matrix
from worker.core.kernels.arrays import F64, I64, Bool


class Seen(NamedTuple):
    """Events (n) in stream order between which nothing of the monitor itself is due.

    `cells` (n x (1 + d)): column 0 is the prediction, then the features; a number, 0/1 for a boolean, the code of a
    category (0 = beyond `categories_max`), NaN = no usable value. `invalid` (k x 2) lists row and column of values of
    a wrong type; `unknown` (n) counts values of features without a column, None when there are none.
    """

    first_sequence: int
    """Place of row 0 in the monitor's count of events."""
    events: PredictionEvents
    offsets: I64
    times_ms: I64
    watermarks_ms: I64
    cells: F64
    invalid: I64
    unknown: I64 | None

    def version_at(self, offset: int) -> str | None:
        """Return the version of the model that the event at an offset has."""
        return self.events.version(int(np.searchsorted(self.offsets, offset)))


class EventRows(NamedTuple):
    """A batch of events as columns of equal length n, and what is found out of each row as it is worked off."""

    events: PredictionEvents
    offsets: I64
    times_ms: I64
    panes: I64
    watermarks_ms: I64
    late: Bool

    @classmethod
    def of(cls, events: PredictionEvents, offsets: I64, times_ms: I64) -> "EventRows":
        """Return events of which nothing is found out yet."""
        count = len(events)
        panes, watermarks_ms = np.empty(count, np.int64), np.empty(count, np.int64)
        return cls(events, offsets, times_ms, panes, watermarks_ms, np.zeros(count, np.bool))

    def seen(self, part: slice, matrix: Matrix, first: int, sequence: int) -> Seen:
        """Return a part; row `first` is row 0 of the matrix, `sequence` the place of the part in all events."""
        begin, end = part.start - first, part.stop - first
        invalid = matrix.invalid
        if len(invalid):
            invalid = invalid[(invalid[:, 0] >= begin) & (invalid[:, 0] < end)] - np.array([begin, 0])
        return Seen(
            first_sequence=sequence,
            events=self.events[part],
            offsets=self.offsets[part],
            times_ms=self.times_ms[part],
            watermarks_ms=self.watermarks_ms[part],
            cells=matrix.cells[begin:end],
            invalid=invalid,
            unknown=None if matrix.unknown is None else matrix.unknown[begin:end],
        )
