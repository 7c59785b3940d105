"""Tumbling event-time panes of one monitor: at most two are open, in two slots of the same arrays.

A pane closes when the watermark (the largest event time seen) has passed its end by the grace time. An event whose
own pane is closed already is counted in the oldest open pane and told as late: no event is left out of the metrics.
"""

import numpy as np

from worker.core.kernels.accumulate import START_SCALE, accumulate
from worker.core.kernels.arrays import F64, I8, I64, Bool
from worker.core.kernels.categories import count_codes
from worker.core.kernels.pane_counts import count_events, count_verdicts
from worker.core.state import COUNT_MAX, AnyArray, Arrays, check_like, fill, outside, refuse_if

SLOTS = 2

_STORED = "stored panes"
_NO_UNKNOWN: I64 = np.zeros(0, dtype=np.int64)
# At START_SCALE, of the smallest and the largest normal double; at SCALE_MIN both are one of two neighbours.
_FIRST_BUCKET, _LAST_BUCKET = (-1022 << START_SCALE) - 1, (1024 << START_SCALE) - 1
_SCALE_MIN = -10

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
    """Statistics of the columns (c) in the open panes (2 slots; or in as many as are asked for), and counts of events.

    There is room for codes once a column has some.
    """

    def __init__(self, buckets_max: int, codes: int, slots: int = SLOTS) -> None:
        self._buckets_max = buckets_max
        self._codes = codes
        self._slots = slots
        self._has_codes = False
        self.columns = 0
        self.arrays: dict[str, AnyArray] = {}
        self._allocate(0)

    def _allocate(self, columns: int) -> None:
        shape = (self._slots, columns)
        arrays: dict[str, AnyArray] = {
            name: np.full(shape, empty, dtype=dtype) for name, (dtype, empty) in _COLUMN_ARRAYS.items()
        }
        arrays["buckets"] = np.zeros((*shape, 2, self._buckets_max), dtype=np.uint32)
        arrays["bucket_start"] = np.zeros((*shape, 2), dtype=np.int64)
        arrays["codes"] = self._no_codes(columns)
        for name, old in self.arrays.items():
            arrays[name][:, : self.columns] = old
        self.arrays = arrays
        self.columns = columns

    def _no_codes(self, columns: int) -> AnyArray:
        return np.zeros((self._slots, columns, self._codes if self._has_codes else 0), dtype=np.int64)

    def _begin_codes(self) -> None:
        if not self._has_codes:
            self._has_codes = True
            self.arrays["codes"] = self._no_codes(self.columns)

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
            self._begin_codes()
            count_codes(cells, slot, ~is_numeric, a["codes"])

    def add_invalid(self, invalid: I64, slot: I8) -> None:
        """Count values of a wrong type (k x 2: row, column)."""
        np.add.at(self.arrays["invalid"], (slot[invalid[:, 0]], invalid[:, 1]), 1)

    def clear(self, slot: int) -> None:
        """Empty one slot for the next pane."""
        for name, array in self.arrays.items():
            array[slot] = _COLUMN_ARRAYS[name][1] if name in _COLUMN_ARRAYS else 0

    def restore(self, columns: int, arrays: Arrays) -> None:
        """Take over copies of `arrays` of so many columns; ValueError for what cannot be."""
        self.grow(columns)
        if "codes" in arrays and arrays["codes"].size:
            self._begin_codes()
        check_like(_STORED, arrays, self.arrays)
        used = arrays["count"] > 0
        counts = ("count", "zero_count", "invalid", "codes")
        refuse_if(
            _STORED,
            {
                "a count is out of range": any(outside(arrays[name], 0, COUNT_MAX) for name in counts),
                "a mean is not finite": not np.isfinite(arrays["mean"]).all(),
                "a sum of squares is negative": outside(arrays["m2"], 0.0, np.inf),
                "a minimum is not finite": (np.isfinite(arrays["minimum"]) != used).any(),
                "a maximum is not finite": (np.isfinite(arrays["maximum"]) != used).any(),
                "a scale is out of range": outside(arrays["scale"], _SCALE_MIN, START_SCALE),
            },
        )
        _check_buckets(arrays["buckets"], arrays["bucket_start"], arrays["scale"])
        fill(self.arrays, arrays)


def _check_buckets(buckets: AnyArray, start: AnyArray, scale: AnyArray) -> None:
    """Refuse windows of buckets that lie, or hold counts, where no double is: the kernel could not make room."""
    by = (START_SCALE - scale)[..., np.newaxis]
    low, high = _FIRST_BUCKET >> by, _LAST_BUCKET >> by
    filled, n_buckets = buckets != 0, buckets.shape[3]
    first = start + filled.argmax(axis=3)
    last = start + (n_buckets - 1) - filled[..., ::-1].argmax(axis=3)
    refuse_if(
        _STORED,
        {
            "a window is out of range": outside(start, low - n_buckets, high + n_buckets),
            "a bucket is out of range": (filled.any(axis=3) & ((first < low) | (last > high))).any(),
        },
    )


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
        count_events(
            panes,
            offsets,
            late,
            _NO_UNKNOWN if unknown is None else unknown,
            self.index,
            self.part,
            self.events,
            self.late,
            self.unknown,
            self.first_offset,
            self.last_offset,
        )

    def add_verdicts(self, slot: I8, verdicts: F64, flagged: Bool) -> None:
        """Count the verdicts of rows (n, NaN = none)."""
        count_verdicts(slot, verdicts, flagged, self.scored, self.flagged)

    def oldest(self) -> int | None:
        """Return the slot of the oldest pane that holds events."""
        open_slots = np.flatnonzero(self.events > 0)
        return int(open_slots[np.argmin(self.index[open_slots])]) if len(open_slots) else None

    def clear(self, slot: int) -> None:
        """Empty a slot after its pane was published; the number of the next part stays, should it be opened again."""
        for counts in (self.events, self.late, self.unknown, self.scored, self.flagged):
            counts[slot] = 0
        self.first_offset[slot] = self.last_offset[slot] = -1

    def state(self) -> dict[str, AnyArray]:
        """Return the counts as named arrays; they are the live ones."""
        return dict(vars(self))

    def restore(self, newest: int, arrays: Arrays) -> None:
        """Take over copies of `arrays`; no open pane may be younger than `newest`. ValueError for what cannot be."""
        check_like(_STORED, arrays, self.state())
        is_open = arrays["events"] > 0
        index, first, last = (arrays[name][is_open] for name in ("index", "first_offset", "last_offset"))
        counts = ("part", "events", "late", "unknown", "scored", "flagged")
        refuse_if(
            _STORED,
            {
                "a count is out of range": any(outside(arrays[name], 0, COUNT_MAX) for name in counts),
                "an open pane is out of range": outside(index, 0, newest),
                "an open pane is in the wrong slot": (index & 1 != np.flatnonzero(is_open)).any(),
                "the open panes are no neighbours": (np.abs(np.diff(index)) != 1).any(),
                "an offset is out of range": outside(first, 0, np.iinfo(np.int64).max) or (first > last).any(),
            },
        )
        fill(self.state(), arrays)
