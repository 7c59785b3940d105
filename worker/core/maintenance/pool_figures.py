"""Metrics of each candidate against the champion, on the same labels, in blocks: what reports and manifests show."""

from collections.abc import Callable
from functools import partial
from math import nan, sqrt

import numpy as np

from worker.core.events import MetricChange, MetricValue
from worker.core.kernels import shadow
from worker.core.kernels.arrays import F64, I64
from worker.core.maintenance.block_estimates import block_jackknife
from worker.core.performance.intervals import Estimate
from worker.core.state import COUNT_MAX, AnyArray, Arrays, check_like, fill, outside, refuse_if

_STORED = "stored figures of the shadow pool"
BLOCKS_MAX = 100
_Z95 = 1.959963984540054
_LABELS_MIN = 2.0


class PoolFigures:
    """Sums of the latest blocks, f64[blocks, candidates, FIGURES]."""

    def __init__(self, candidates: int) -> None:
        self._sums: F64 = np.zeros((BLOCKS_MAX, candidates, shadow.FIGURES))
        # Blocks that are over.
        self._blocks: I64 = np.zeros(1, dtype=np.int64)

    @property
    def open_block(self) -> F64:
        """The sums that labels are added to."""
        sums: F64 = self._sums[int(self._blocks[0]) % BLOCKS_MAX]
        return sums

    def end_block(self) -> None:
        """Begin another block; the oldest one gives way."""
        self._blocks[0] += 1
        self.open_block[:] = 0.0

    def changes(self, candidate: int, *, is_number: bool) -> list[MetricChange]:
        """Return the metrics of a candidate against the champion's."""
        done = int(self._blocks[0])
        kept = min(done, BLOCKS_MAX - 1)
        blocks = self._sums[(done - kept + np.arange(kept)) % BLOCKS_MAX, candidate]
        blocks = blocks[blocks[:, shadow.EVENTS] > 0.0]
        if len(blocks) == 0:
            return []
        return [
            MetricChange(
                name,
                _told(block_jackknife(blocks, before, _Z95)),
                _told(block_jackknife(blocks, after, _Z95)),
                _told(block_jackknife(blocks, partial(_difference, before, after), _Z95)),
            )
            for name, (before, after) in (_OF_NUMBERS if is_number else _OF_CLASSES).items()
        ]

    # Storing and restoring.

    def arrays(self) -> dict[str, AnyArray]:
        """Return the live arrays."""
        return {"sums": self._sums, "blocks": self._blocks}

    def restore(self, arrays: Arrays) -> None:
        """Take over copies; ValueError for what cannot be."""
        check_like(_STORED, arrays, self.arrays())
        refuse_if(
            _STORED,
            {
                "a sum is not finite": not np.isfinite(arrays["sums"]).all(),
                "the count is out of range": outside(arrays["blocks"], 0, COUNT_MAX),
            },
        )
        fill(self.arrays(), arrays)


def _told(estimate: Estimate) -> MetricValue:
    return MetricValue(estimate.value, estimate.low, estimate.high, estimate.support)


def _difference(before: Callable[[F64], float], after: Callable[[F64], float], sums: F64) -> float:
    return after(sums) - before(sums)


def _mean(place: int, sums: F64) -> float:
    return float(sums[place] / sums[shadow.EVENTS]) if sums[shadow.EVENTS] > 0.0 else nan


def _right(place: int, sums: F64) -> float:
    return 1.0 - _mean(place, sums)


def _rmse(place: int, sums: F64) -> float:
    return sqrt(_mean(place, sums))


def _r2(place: int, sums: F64) -> float:
    """Return 1 - sum of squared errors / sum of squares around the mean."""
    n = float(sums[shadow.EVENTS])
    if n < _LABELS_MIN:
        return nan
    spread = float(sums[shadow.TARGET_SQUARE] - sums[shadow.TARGET] ** 2 / n)
    return 1.0 - float(sums[place]) / spread if spread > 0.0 else nan


_OF_CLASSES = {
    "accuracy": (partial(_right, shadow.CHAMPION_WRONG), partial(_right, shadow.WRONG)),
    "loss": (partial(_mean, shadow.CHAMPION_LOSS), partial(_mean, shadow.LOSS)),
}
_OF_NUMBERS = {
    "r2": (partial(_r2, shadow.CHAMPION_SQUARE), partial(_r2, shadow.SQUARE)),
    "rmse": (partial(_rmse, shadow.CHAMPION_SQUARE), partial(_rmse, shadow.SQUARE)),
}
