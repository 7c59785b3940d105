"""Tumbling event-time panes of one monitor: at most two are open, in two slots of the same arrays.

A pane closes when the watermark (the largest event time seen) has passed its end by the grace time. An event whose
own pane is closed already is counted in the oldest open pane and told as late: no event is left out of the metrics.
"""

from typing import Any

import numpy as np

from worker.core.kernels.accumulate import START_SCALE, accumulate
from worker.core.kernels.arrays import F64, I8, I64, Bool
from worker.core.kernels.categories import count_codes

SLOTS = 2

_COLUMN_ARRAYS = {
    "count": (np.int64, 0),
    "mean": (np.float64, 0.0),
    "m2": (np.float64, 0.0),
    "minimum": (np.float64, np.inf),
    "maximum": (np.float64, -np.inf),
    "zero_count": (np.int64, 0),
    "scale": (np.int32, START_SCALE),
    "invalid": (np.int64, 0),
}


class PaneSlots:
    """Statistics of the columns (c) in the open panes (2 slots), and counts of events."""

    def __init__(self, buckets_max: int, codes: int) -> None:
        self._buckets_max = buckets_max
        self._codes = codes
        self.columns = 0
        self.arrays: dict[str, np.ndarray[Any, np.dtype[Any]]] = {}
        self._allocate(0)

    def _allocate(self, columns: int) -> None:
        shape = (SLOTS, columns)
        arrays: dict[str, np.ndarray[Any, np.dtype[Any]]] = {
            name: np.full(shape, empty, dtype=dtype) for name, (dtype, empty) in _COLUMN_ARRAYS.items()
        }
        arrays["buckets"] = np.zeros((*shape, 2, self._buckets_max), dtype=np.uint32)
        arrays["bucket_start"] = np.zeros((*shape, 2), dtype=np.int64)
        arrays["codes"] = np.zeros((*shape, self._codes), dtype=np.int64)
        for name, old in self.arrays.items():
            arrays[name][:, : self.columns] = old
        self.arrays = arrays
        self.columns = columns

    def grow(self, columns: int) -> None:
        """Make room for more columns; those there keep their statistics."""
        if columns > self.columns:
            self._allocate(columns)

    def add(self, cells: F64, slot: I8, is_numeric: Bool) -> None:
        """Add rows (n x c) to the slots they belong to, in order."""
        a = self.arrays
        accumulate(
            cells,
            slot,
            is_numeric,
            a["count"],
            a["mean"],
            a["m2"],
            a["minimum"],
            a["maximum"],
            a["buckets"],
            a["bucket_start"],
            a["zero_count"],
            a["scale"],
        )
        if not is_numeric.all():
            count_codes(cells, slot, ~is_numeric, a["codes"])

    def add_invalid(self, invalid: I64, slot: I8) -> None:
        """Count values of a wrong type (k x 2: row, column)."""
        np.add.at(self.arrays["invalid"], (slot[invalid[:, 0]], invalid[:, 1]), 1)

    def clear(self, slot: int) -> None:
        """Empty one slot for the next pane."""
        for name, array in self.arrays.items():
            array[slot] = _COLUMN_ARRAYS[name][1] if name in _COLUMN_ARRAYS else 0


class PaneCounts:
    """Counts of events in the open panes; a slot is a pane's index modulo 2, so neighbours never meet."""

    def __init__(self) -> None:
        self.index = np.full(SLOTS, -1, dtype=np.int64)
        self.part = np.zeros(SLOTS, dtype=np.int64)
        self.events = np.zeros(SLOTS, dtype=np.int64)
        self.late = np.zeros(SLOTS, dtype=np.int64)
        self.unknown = np.zeros(SLOTS, dtype=np.int64)
        self.scored = np.zeros(SLOTS, dtype=np.int64)
        self.flagged = np.zeros(SLOTS, dtype=np.int64)
        self.first_offset = np.full(SLOTS, -1, dtype=np.int64)
        self.last_offset = np.full(SLOTS, -1, dtype=np.int64)

    def add(self, panes: I64, offsets: I64, late: Bool, unknown: I64 | None) -> None:
        """Count rows (n), all of them in open panes."""
        for slot in range(SLOTS):
            rows = np.flatnonzero((panes & 1) == slot)
            if len(rows) == 0:
                continue
            self._open(slot, int(panes[rows[0]]))
            if self.events[slot] == 0:
                self.first_offset[slot] = offsets[rows[0]]
            self.last_offset[slot] = offsets[rows[-1]]
            self.events[slot] += len(rows)
            self.late[slot] += np.count_nonzero(late[rows])
            if unknown is not None:
                self.unknown[slot] += unknown[rows].sum()

    def add_verdicts(self, slot: I8, scored: Bool, flagged: Bool) -> None:
        """Count the verdicts of rows (n)."""
        self.scored += np.bincount(slot[scored], minlength=SLOTS)
        self.flagged += np.bincount(slot[flagged], minlength=SLOTS)

    def _open(self, slot: int, index: int) -> None:
        if self.index[slot] != index:
            self.index[slot] = index
            self.part[slot] = 0

    def oldest(self) -> int | None:
        """Return the slot of the oldest pane that holds events."""
        open_slots = np.flatnonzero(self.events > 0)
        return int(open_slots[np.argmin(self.index[open_slots])]) if len(open_slots) else None

    def clear(self, slot: int) -> None:
        """Empty a slot after its pane was published; the number of the next part stays, should it be opened again."""
        for counts in (self.events, self.late, self.unknown, self.scored, self.flagged):
            counts[slot] = 0
        self.first_offset[slot] = self.last_offset[slot] = -1

    def state(self) -> dict[str, I64]:
        """Return the counts as named arrays; they are the live ones."""
        return dict(vars(self))
