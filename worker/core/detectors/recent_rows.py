"""The latest rows of a monitor: what detectors begin anew with when a new regime is accepted."""

import numpy as np

from worker.core.kernels.arrays import F32, F64, I64
from worker.core.kernels.reservoir import LARGEST
from worker.core.kernels.scale import keep_latest
from worker.core.state import COUNT_MAX, Arrays, check_like, fill, outside, refuse_if

_STORED = "stored recent rows"


class RecentRows:
    """A ring of the last m rows of d features, as single precision."""

    def __init__(self, rows_max: int, features: int) -> None:
        self._rows: F32 = np.zeros((rows_max, features), dtype=np.float32)
        self._seen: I64 = np.zeros(1, dtype=np.int64)

    def add(self, rows: F64) -> None:
        """Keep rows (n x d); the oldest ones give way."""
        keep_latest(rows, LARGEST, self._rows, self._seen)

    def rows(self) -> F64:
        """Return the rows (k x d), oldest first."""
        size, seen = len(self._rows), int(self._seen[0])
        if seen <= size:
            return self._rows[:seen].astype(np.float64)
        return np.roll(self._rows, -(seen % size), axis=0).astype(np.float64)

    def live(self) -> Arrays:
        """Return the live arrays."""
        return {"rows": self._rows, "seen": self._seen}

    def restore(self, arrays: Arrays) -> None:
        """Take over copies; ValueError for what cannot be."""
        check_like(_STORED, arrays, self.live())
        refuse_if(
            _STORED,
            {
                "a kept value is out of range": (np.abs(arrays["rows"]) > LARGEST).any(),
                "the count is out of range": outside(arrays["seen"], 0, COUNT_MAX),
            },
        )
        fill(self.live(), arrays)
