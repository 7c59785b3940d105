"""Moments as a detector: the largest distance of a feature from its running mean, in standard deviations.

What trees cannot say: beyond the range they have seen, a value a thousand times too large looks like one slightly too
large. After a change of unit this is the detector that speaks up.
"""

from typing import ClassVar

import numpy as np

from worker.core.detectors.protocol import NEVER, RefitNote, StateArrays
from worker.core.detectors.scaling import RobustLimits
from worker.core.kernels.arrays import F64
from worker.core.kernels.moments_score import score_and_learn

LARGEST = 1e100
"""Values are cut here: their squares must not overflow."""


class MomentsDistance:
    """Online mean and variance of each of d features, robust to single events."""

    name: ClassVar[str] = "moments"

    def __init__(self, warmup_rows: F64) -> None:
        """Take robust limits from the warm-up rows (n x d); they are learned by `score_and_learn` like all others."""
        n_features = warmup_rows.shape[1]
        self._limits = RobustLimits.from_rows(warmup_rows)
        self._settle = len(warmup_rows)
        self._count = np.zeros(n_features, dtype=np.int64)
        self._mean = np.zeros(n_features)
        self._m2 = np.zeros(n_features)

    def score_and_learn(self, rows: F64) -> F64:
        """Score each row (n x d) by what was learned before it, then learn it."""
        scores = np.empty(len(rows))
        limits, cut = self._limits, np.clip(rows, -LARGEST, LARGEST)
        score_and_learn(cut, limits.low, limits.high, self._settle, self._count, self._mean, self._m2, scores)
        return scores

    def barrier(self) -> int:
        """Return NEVER: nothing is refitted."""
        return NEVER

    def cross(self) -> RefitNote | None:
        """Do nothing."""
        return None

    def state(self) -> StateArrays:
        """Return the limits and the moments."""
        return {
            "low": self._limits.low,
            "high": self._limits.high,
            "count": self._count,
            "mean": self._mean,
            "m2": self._m2,
        }
