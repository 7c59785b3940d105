"""Moments as a detector: the largest distance of a feature from its running mean, in standard deviations.

What trees cannot say: beyond the range they have seen, a value a thousand times too large looks like one slightly too
large. After a change of unit this is the detector that speaks up.
"""

from typing import ClassVar

import numpy as np

from worker.core.detectors.protocol import NEVER, RefitNote
from worker.core.detectors.scaling import RobustLimits
from worker.core.kernels import moments_score
from worker.core.kernels.arrays import F64
from worker.core.state import Arrays, check_like, fill, outside, refuse_if

_STORED = "stored moments"


class MomentsDistance:
    """Online mean and variance of each of d features, robust to single events."""

    name: ClassVar[str] = "moments"
    taken_over: ClassVar[int] = 0

    def __init__(self, n_features: int, settle: int) -> None:
        """Take the number of features, and of how many first values a feature clips to the limits."""
        self._limits = RobustLimits.unknown(n_features)
        self._settle = settle
        self._count = np.zeros(n_features, dtype=np.int64)
        self._mean = np.zeros(n_features)
        self._m2 = np.zeros(n_features)

    def fit(self, warmup_rows: F64) -> None:
        """Take robust limits from the rows (n x d)."""
        self._limits = RobustLimits.from_rows(warmup_rows)

    def score_and_learn(self, rows: F64) -> F64:
        """Score each row (n x d) by what was learned before it, then learn it."""
        scores = np.empty(len(rows))
        limits = self._limits
        moments = self._count, self._mean, self._m2
        moments_score.score_and_learn(rows, limits.low, limits.high, self._settle, *moments, scores)
        return scores

    def score(self, rows: F64) -> F64:
        """Score rows and learn nothing."""
        scores = np.empty(len(rows))
        moments_score.score(rows, self._count, self._mean, self._m2, scores)
        return scores

    def steady(self, rows: int) -> bool:  # noqa: ARG002 - any number of rows
        """Return False: every row moves the mean."""
        return False

    def barrier(self) -> int:
        """Return NEVER: nothing is refitted."""
        return NEVER

    def cross(self) -> RefitNote | None:
        """Do nothing."""
        return None

    def live(self) -> Arrays:
        """Return the moments."""
        return {"count": self._count, "mean": self._mean, "m2": self._m2}

    def fitted(self) -> Arrays:
        """Return the limits."""
        return self._limits.arrays()

    def restore(self, seen: int, live: Arrays, fitted: Arrays) -> None:
        """Take over copies."""
        check_like(_STORED, live, self.live())
        refuse_if(
            _STORED,
            {
                "a count is out of range": outside(live["count"], 0, seen),
                "a mean is not finite": not np.isfinite(live["mean"]).all(),
                "a sum of squares is out of range": outside(live["m2"], 0.0, np.finfo(np.float64).max),
            },
        )
        self._limits = self._limits.restored(fitted)
        fill(self.live(), live)
