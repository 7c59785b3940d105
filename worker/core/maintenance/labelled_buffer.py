"""Labelled rows to learn from: the latest ones, and a random sample of all."""

import numpy as np

from worker.core.kernels.arrays import F32, F64, I64, U64
from worker.core.kernels.reservoir import LARGEST
from worker.core.kernels.shadow import keep_rows
from worker.core.maintenance.challengers import LabelledRows
from worker.core.state import COUNT_MAX, AnyArray, Arrays, check_like, fill, outside, prefixed, refuse_if
from worker.core.state import by_part as split

_STORED = "stored labelled rows"
NUMBER, OFFSET, TIME = 0, 1, 2
MARKS = 3
"""Of a row: its number among the waiting rows, offset and time of the prediction."""


class _Store:
    """Rows, targets and marks, of which the first `seen` are there."""

    def __init__(self, rows_max: int, features: int) -> None:
        self.rows: F32 = np.zeros((rows_max, features), dtype=np.float32)
        self.targets: F64 = np.zeros(rows_max)
        self.marks: I64 = np.zeros((rows_max, MARKS), dtype=np.int64)

    def arrays(self) -> dict[str, AnyArray]:
        return {"rows": self.rows, "targets": self.targets, "marks": self.marks}

    def correct(self, number: int, target: float, filled: int) -> None:
        self.targets[:filled][self.marks[:filled, NUMBER] == number] = target

    def widen(self, features: int) -> None:
        more = np.full((len(self.rows), features - self.rows.shape[1]), np.nan, dtype=np.float32)
        self.rows = np.concatenate([self.rows, more], axis=1)


class LabelledBuffer:
    """Both of one model. `seen` counts the rows so far."""

    def __init__(self, recent_rows: int, sampled_rows: int, features: int, seed: int) -> None:
        self._recent, self._sampled = _Store(recent_rows, features), _Store(sampled_rows, features)
        self._seen: I64 = np.zeros(1, dtype=np.int64)
        self._random_state: U64 = np.full(1, seed, dtype=np.uint64)

    @property
    def seen(self) -> int:
        """Rows so far."""
        return int(self._seen[0])

    @property
    def features(self) -> int:
        """Columns of the rows."""
        return int(self._recent.rows.shape[1])

    def add(self, rows: F32, targets: F64, marks: I64) -> None:
        """Take rows (n x d) with targets (n) and marks (n x MARKS), in the order in which labels came."""
        recent = self._recent
        size, count = len(recent.targets), len(targets)
        latest = slice(max(count - size, 0), None)
        places = (self.seen + np.arange(count)[latest]) % size
        recent.rows[places], recent.targets[places] = rows[latest], targets[latest]
        recent.marks[places] = marks[latest]
        sampled = self._sampled
        # The sample counts for both.
        keep_rows(rows, targets, marks, sampled.rows, sampled.targets, sampled.marks, self._seen, self._random_state)

    def correct(self, number: int, target: float) -> None:
        """Give a row that is still here another target: its label was corrected."""
        for store in (self._recent, self._sampled):
            store.correct(number, target, min(self.seen, len(store.targets)))

    def recent(self, count: int, n_classes: int) -> LabelledRows:
        """Return copies of the latest rows, oldest first."""
        places = self._latest(count)
        return LabelledRows(self._recent.rows[places], self._recent.targets[places], n_classes)

    def sampled(self, n_classes: int) -> LabelledRows:
        """Return copies of the sample."""
        filled = min(self.seen, len(self._sampled.targets))
        return LabelledRows(self._sampled.rows[:filled].copy(), self._sampled.targets[:filled].copy(), n_classes)

    def _latest(self, count: int) -> I64:
        size = len(self._recent.targets)
        kept = min(count, size, self.seen)
        places: I64 = (self.seen - kept + np.arange(kept)) % size
        return places

    def recent_marks(self) -> I64:
        """Return the marks of the latest rows, oldest first."""
        return self._recent.marks[self._latest(len(self._recent.targets))]

    def sampled_marks(self) -> I64:
        """Return the marks of the sample."""
        return self._sampled.marks[: min(self.seen, len(self._sampled.targets))]

    def widen(self, features: int) -> None:
        """Make room for more features; rows so far have none of them."""
        self._recent.widen(features)
        self._sampled.widen(features)

    # Storing and restoring.

    def arrays(self) -> dict[str, AnyArray]:
        """Return the live arrays."""
        own: dict[str, AnyArray] = {"own.seen": self._seen, "own.random_state": self._random_state}
        return own | prefixed("recent", self._recent.arrays()) | prefixed("sampled", self._sampled.arrays())

    def restore(self, arrays: Arrays, classes: int) -> None:
        """Take over copies of rows whose targets are among so many classes (0: numbers); ValueError otherwise."""
        check_like(_STORED, arrays, self.arrays())
        parts = split(_STORED, arrays, ("own", "recent", "sampled"))
        refuse_if(_STORED, {"the count is out of range": outside(arrays["own.seen"], 0, COUNT_MAX)})
        for part in (parts["recent"], parts["sampled"]):
            targets = part["targets"]
            refuse_if(
                _STORED,
                {
                    "a feature is out of range": bool((np.abs(part["rows"]) > LARGEST).any()),
                    "a target is out of range": outside(targets, 0, classes - 1)
                    if classes
                    else not np.isfinite(targets).all(),
                    "a class is none": classes > 0 and bool((targets != np.floor(targets)).any()),
                    "a mark is out of range": outside(part["marks"], -1, COUNT_MAX),
                },
            )
        fill(self.arrays(), arrays)
