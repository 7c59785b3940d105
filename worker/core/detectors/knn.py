"""Nearest neighbours as a detector: how far an event is from the rows that are most like it.

What sees *local* anomalies: a combination of values that are each ordinary, in a region where no row has been. The
kept rows are a sample of the whole past, so a burst of anomalies can take only its share of them; and a gate keeps out
what is far from all the others, so that anomalies do not become each other's neighbours.
"""

from typing import ClassVar

import numpy as np

from worker.core.detectors.gate import Gate
from worker.core.detectors.protocol import NEVER, RefitNote
from worker.core.detectors.scaling import RobustScale
from worker.core.kernels import knn
from worker.core.kernels.arrays import F64
from worker.core.kernels.scale import REACH
from worker.core.options import NeighboursOptions
from worker.core.state import COUNT_MAX, Arrays, by_part, check_like, fill, outside, prefixed, refuse_if

_STORED = "stored neighbours"


class NearestNeighbours:
    """Scores rows (n x d) by their distance to kept rows, robustly scaled; NaN while there are fewer than 2 k of them.

    Missing values make an event neither near nor far: the distance is that of the known features, scaled up. In a kept
    row a missing value is the median of the warm-up. An event without any value scores 0, and a feature that had no
    value in the warm-up is ignored.
    """

    name: ClassVar[str] = "nearest_neighbours"
    taken_over: ClassVar[int] = 0

    def __init__(self, n_features: int, options: NeighboursOptions, settle: int, seed: int) -> None:
        """Take the number of features, the options, and how many first rows are kept without asking the gate."""
        self._options = options
        self._settle = settle
        self._scale = RobustScale.unknown(n_features)
        self._store = np.zeros((n_features, options.rows_max), dtype=np.float32)
        self._counters = np.zeros(2, dtype=np.int64)
        self._random_state = np.full(1, seed, dtype=np.uint64)
        self._gate = Gate(options.gate_quantile, seed + 1)

    def fit(self, warmup_rows: F64) -> None:
        """Take the scale."""
        self._scale = RobustScale.from_rows(warmup_rows)

    def score_and_learn(self, rows: F64) -> F64:
        """Score each row by the kept ones, then keep it by chance if the gate admits it."""
        scores = np.empty(len(rows))
        knn.score_and_learn(
            self._scale.to_float32(rows),
            self._scale.centre,
            *self._how(),
            self._settle,
            self._options.memory_events,
            self._store,
            self._counters,
            self._random_state,
            scores,
            self._gate.for_kernel,
        )
        return scores

    def score(self, rows: F64) -> F64:
        """Score rows and learn nothing."""
        scores = np.empty(len(rows))
        knn.score(self._scale.to_float32(rows), *self._how(), self._store, self._counters, scores)
        return scores

    def _how(self) -> tuple[int, int, int]:
        """Return features of use, neighbours, and whether the mean is taken."""
        options = self._options
        return self._scale.features, options.neighbours, int(options.distance == "mean")

    def steady(self, rows: int) -> bool:  # noqa: ARG002 - any number of rows
        """Return False: any row may be kept."""
        return False

    def barrier(self) -> int:
        """Return NEVER: nothing is refitted."""
        return NEVER

    def cross(self) -> RefitNote | None:
        """Do nothing."""
        return None

    def live(self) -> Arrays:
        """Return the kept rows and the gate."""
        return {**self._own(), **prefixed("gate", self._gate.arrays())}

    def _own(self) -> Arrays:
        return {"store": self._store, "counters": self._counters, "random_state": self._random_state}

    def fitted(self) -> Arrays:
        """Return the scale."""
        return self._scale.arrays()

    def restore(self, seen: int, live: Arrays, fitted: Arrays) -> None:
        """Take over copies."""
        own = {name: array for name, array in live.items() if "." not in name}
        gate = by_part(_STORED, {name: array for name, array in live.items() if "." in name}, ("gate",))["gate"]
        check_like(_STORED, own, self._own())
        scale = self._scale.restored(fitted)
        # Of a column without a scale nothing is ever read: there the kernel keeps what it finds, NaN.
        kept = own["store"][np.isfinite(scale.low)]
        refuse_if(
            _STORED,
            {
                "a kept value is out of range": outside(kept, -REACH, 1.0 + REACH),
                "a count is out of range": outside(own["counters"], 0, COUNT_MAX),
                "it has learned another number of rows": own["counters"].sum() != seen,
            },
        )
        self._scale = scale
        self._gate.restore(gate)
        fill(self._own(), own)
