"""The isolation forest as a detector: a reservoir of the whole past, refitted at growing intervals (`refitted.py`)."""

from typing import ClassVar

import numpy as np

from worker.core.detectors.isolation_forest import ForestArrays, to_forest_rows
from worker.core.detectors.protocol import RefitNote
from worker.core.detectors.refit import ForestRequest, RefitPool
from worker.core.detectors.refitted import Refits, Schedule
from worker.core.identity import derived_seed
from worker.core.kernels.arrays import F32, F64
from worker.core.kernels.reservoir import LARGEST, add_rows
from worker.core.options import ForestOptions
from worker.core.state import Arrays, check_like, fill, refuse_if

_STORED = "isolation forest state"


class RefittedForest:
    """Scores by the last forest taken over; NaN before the first."""

    name: ClassVar[str] = "isolation_forest"

    def __init__(self, n_features: int, options: ForestOptions, pool: RefitPool, seed: int) -> None:
        self._options = options
        self._seed = seed
        self._rows = np.zeros((options.rows_max, n_features), dtype=np.float32)
        self._seen = np.zeros(1, dtype=np.int64)
        self._random_state = np.full(1, seed, dtype=np.uint64)
        self._refits = Refits(ForestArrays, Schedule.of(options), pool, self._request)
        self.forest: ForestArrays | None = None

    @property
    def taken_over(self) -> int:
        """How many refits have been taken over."""
        return self._refits.taken_over

    def fit(self, warmup_rows: F64) -> None:
        """Do nothing: the first forest comes with the first refit."""

    def score_and_learn(self, rows: F64) -> F64:
        """Score each row by the current forest, then offer it to the reservoir."""
        forest_rows = to_forest_rows(rows)
        scores = self._score(forest_rows)
        add_rows(forest_rows, self._rows, self._seen, self._random_state, 0)
        return scores

    def score(self, rows: F64) -> F64:
        """Score rows and learn nothing."""
        return self._score(to_forest_rows(rows))

    def _score(self, rows: F32) -> F64:
        return np.full(len(rows), np.nan) if self.forest is None else self.forest.score(rows)

    def steady(self, rows: int) -> bool:  # noqa: ARG002 - any number of rows
        """Return True: scores change with a refit alone."""
        return True

    def barrier(self) -> int:
        """Return the next count of rows at which a refit is requested or taken over."""
        return self._refits.barrier

    def cross(self) -> RefitNote | None:
        """Request a refit, or take over the one requested (waiting for it)."""
        taken = self._refits.cross(self.reservoir)
        if taken is None:
            return None
        self.forest = taken.model
        return RefitNote(self.name, taken.refit, taken.rows)

    def reservoir(self) -> F32:
        """Return the kept rows (m x features); a view."""
        return self._rows[: min(int(self._seen[0]), len(self._rows))]

    def live(self) -> Arrays:
        """Return the reservoir, the place in the schedule, and the rows of a refit under way."""
        return {**self._own(), **self._refits.live()}

    def _own(self) -> Arrays:
        return {"rows": self._rows, "random_state": self._random_state}

    def fitted(self) -> Arrays:
        """Return the forest as bytes, if there is one."""
        return {} if self.forest is None else {"forest": np.frombuffer(self.forest.to_bytes(), dtype=np.uint8)}

    def restore(self, seen: int, live: Arrays, fitted: Arrays) -> None:
        """Take over copies. A refit that was under way is requested again; it gives the same forest."""
        check_like(_STORED, {name: live[name] for name in self._own() if name in live}, self._own())
        refuse_if(_STORED, {"a kept value is out of range": (np.abs(live["rows"]) > LARGEST).any()})
        rest = {name: array for name, array in live.items() if name not in self._own()}
        rows_max, features = self._rows.shape
        self._refits.restore(_STORED, seen, rest, lambda count: min(count, rows_max), features, LARGEST)
        self.forest = self._stored_forest(fitted)
        self._seen[0] = seen
        fill(self._own(), live)

    def _stored_forest(self, fitted: Arrays) -> ForestArrays | None:
        """Return the forest of the last refit, None if there was none."""
        expected = ["forest"] * (self.taken_over > 0)
        refuse_if(_STORED, {"there is no forest, or one too many": list(fitted) != expected})
        if not expected:
            return None
        forest = ForestArrays.from_bytes(fitted["forest"].tobytes())
        mine = self._rows.shape[1], self._options.trees
        refuse_if(_STORED, {"the forest is of other rows or trees": (forest.n_features, forest.n_trees) != mine})
        return forest

    def _request(self, rows: F32, refit: int) -> ForestRequest:
        """Return the request of a refit with this number."""
        options = self._options
        return ForestRequest(rows, options.trees, options.sample_rows, derived_seed("forest", self._seed, refit))
