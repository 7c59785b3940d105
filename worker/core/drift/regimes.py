"""Earlier references, remembered so that one that comes back is known again."""

import numpy as np

from worker.core.drift.windows import Windows
from worker.core.kernels.arrays import I64, Bool
from worker.core.state import COUNT_MAX, Arrays, check_like, outside, refuse_if

_STORED = "stored drift regimes"
_FULLEST_MIN = 0.5
_FULLER = 2.0


class Regimes:
    """Counts (c x b) of at most `regimes_max` references before this one, oldest first, in the bins of now."""

    def __init__(self, columns: int, bins: int, regimes_max: int) -> None:
        self._regimes_max = regimes_max
        self.counts: I64 = np.zeros((0, columns, bins), dtype=np.int64)

    def match(self, windows: Windows, window: I64, columns: Bool, psi_min: float) -> int | None:
        """Return which one `window` (c x b) is like in all `columns` (c), the latest first."""
        for place in range(len(self.counts) - 1, -1, -1):
            _, psi = windows.compared(self.counts[place], window)
            if (psi[columns] < psi_min).all():
                return place
        return None

    def remember(self, windows: Windows, old: I64, now: I64, psi_min: float) -> None:
        """Put `old` to the others, because `now` (c x b) takes its place; one that is like `now` is no earlier one."""
        kept = [each.copy() for each in self.counts]
        place = self.match(windows, now, windows.affected >= 0, psi_min)
        if place is not None:
            del kept[place]
        kept = [*kept, old][-self._regimes_max :] if self._regimes_max else []
        self.counts = np.array(kept, dtype=np.int64).reshape(-1, *old.shape)

    def forget(self) -> None:
        """Drop all of them: their bins are no more."""
        self.counts = self.counts[:0]

    def restore(self, arrays: Arrays) -> None:
        """Take over a copy of what `counts` gave; ValueError for what cannot be."""
        counts = arrays.get("counts", self.counts)
        refuse_if(_STORED, {"there are too many": counts.ndim == 0 or len(counts) > self._regimes_max})
        like = np.zeros((len(counts), *self.counts.shape[1:]), dtype=np.int64)
        check_like(_STORED, arrays, {"counts": like})
        refuse_if(_STORED, {"a count is out of range": outside(counts, 0, COUNT_MAX)})
        self.counts = np.array(counts)


def outgrown(old: I64, now: I64) -> bool:
    """Tell whether some column (counts c x b) has gathered in one bin, so that nothing more would be seen of it."""
    fullest_old, fullest_now = (
        each[:, :-1].max(axis=1) / np.maximum(each[:, :-1].sum(axis=1), 1) for each in (old, now)
    )
    return bool(((fullest_now > _FULLEST_MIN) & (fullest_now > _FULLER * fullest_old)).any())
