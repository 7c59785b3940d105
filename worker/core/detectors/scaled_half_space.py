"""Half-space trees with River's score, behind robust limits that the warm-up rows set."""

from typing import ClassVar

from worker.core.detectors.half_space import HalfSpaceTrees
from worker.core.detectors.protocol import NEVER, RefitNote
from worker.core.detectors.scaling import RobustLimits
from worker.core.kernels.arrays import F64
from worker.core.options import HalfSpaceOptions
from worker.core.state import Arrays, by_part, prefixed, refuse_if

_STORED = "half-space state"


class ScaledHalfSpaceTrees:
    """Scores rows (n x d) as they come; the limits are taken from the warm-up rows once and then stay."""

    name: ClassVar[str] = HalfSpaceTrees.name
    taken_over: ClassVar[int] = 0

    def __init__(self, n_features: int, options: HalfSpaceOptions, seed: int) -> None:
        self._window_events = options.window_events
        self._limits = RobustLimits.unknown(n_features)
        self._trees = HalfSpaceTrees(n_features, options.trees, options.height, options.window_events, seed=seed)

    def fit(self, warmup_rows: F64) -> None:
        """Take the limits."""
        self._limits = RobustLimits.from_rows(warmup_rows)

    def score_and_learn(self, rows: F64) -> F64:
        """Scale, score, learn."""
        return self._trees.score_and_learn(self._limits.transform(rows))

    def score(self, rows: F64) -> F64:
        """Scale and score rows; learn nothing."""
        return self._trees.score(self._limits.transform(rows))

    def steady(self, rows: int) -> bool:  # noqa: ARG002 - any number of rows
        """Return False: where a missing value goes depends on all rows."""
        return False

    def barrier(self) -> int:
        """Return NEVER: nothing is refitted."""
        return NEVER

    def cross(self) -> RefitNote | None:
        """Do nothing."""
        return None

    def live(self) -> Arrays:
        """Return the masses."""
        return self._trees.arrays()

    def fitted(self) -> Arrays:
        """Return the limits and the trees."""
        return prefixed("limits", self._limits.arrays()) | prefixed("splits", self._trees.splits())

    def restore(self, seen: int, live: Arrays, fitted: Arrays) -> None:
        """Take over copies."""
        parts = by_part(_STORED, fitted, ("limits", "splits"))
        self._limits = self._limits.restored(parts["limits"])
        self._trees.restore(live, parts["splits"])
        events, windows = live["position"].tolist()
        learned = events + windows * self._window_events
        refuse_if(_STORED, {"it has learned another number of rows": learned != seen})
