"""Half-space trees behind robust limits that the warm-up rows set."""

from typing import ClassVar

from worker.core.detectors.half_space import HalfSpaceTrees
from worker.core.detectors.protocol import NEVER, RefitNote, StateArrays
from worker.core.detectors.scaling import RobustLimits
from worker.core.kernels.arrays import F64
from worker.core.options import HalfSpaceOptions


class ScaledHalfSpaceTrees:
    """Scores rows (n x d) as they come; the limits are taken from `warmup_rows` once and then stay."""

    name: ClassVar[str] = HalfSpaceTrees.name

    def __init__(self, warmup_rows: F64, options: HalfSpaceOptions, seed: int) -> None:
        self._limits = RobustLimits.from_rows(warmup_rows)
        self._trees = HalfSpaceTrees(
            warmup_rows.shape[1], options.trees, options.height, options.window_events, seed=seed
        )

    def score_and_learn(self, rows: F64) -> F64:
        """Scale, score, learn."""
        return self._trees.score_and_learn(self._limits.transform(rows))

    def barrier(self) -> int:
        """Return NEVER: nothing is refitted."""
        return NEVER

    def cross(self) -> RefitNote | None:
        """Do nothing."""
        return None

    def state(self) -> StateArrays:
        """Return the limits and the masses; the trees follow from the seed."""
        return {"low": self._limits.low, "high": self._limits.high, **self._trees.arrays()}
