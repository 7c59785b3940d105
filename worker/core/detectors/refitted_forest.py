"""The isolation forest as a detector: a reservoir of the whole past, refitted at growing intervals.

Requested when the detector has learned N rows, taken over when it has learned N + K, for N = 256, 2,048, 16,384,
then every 32,768 events, and K = N / 4 within bounds: positions in the stream, so replay finds them again (law 2).
"""

from typing import ClassVar

import numpy as np

from worker.core.detectors.isolation_forest import ForestArrays, to_forest_rows
from worker.core.detectors.protocol import RefitNote, StateArrays
from worker.core.detectors.refit import RefitPool, RefitRequest, RefitTicket
from worker.core.identity import derived_seed
from worker.core.kernels.arrays import F32, F64
from worker.core.kernels.reservoir import add_rows
from worker.core.options import ForestOptions


class RefittedForest:
    """Scores by the last forest taken over; NaN before the first."""

    name: ClassVar[str] = "isolation_forest"

    def __init__(self, n_features: int, options: ForestOptions, pool: RefitPool, seed: int) -> None:
        self._options = options
        self._pool = pool
        self._seed = seed
        self._rows = np.zeros((options.rows_max, n_features), dtype=np.float32)
        self._seen = np.zeros(1, dtype=np.int64)
        self._random_state = np.full(1, seed, dtype=np.uint64)
        self._refits = 0
        self._ticket: RefitTicket | None = None
        self._requested_rows = 0
        self._barrier = options.refit_events_first
        self.forest: ForestArrays | None = None

    def score_and_learn(self, rows: F64) -> F64:
        """Score each row by the current forest, then offer it to the reservoir."""
        forest_rows = to_forest_rows(rows)
        scores = np.full(len(rows), np.nan) if self.forest is None else self.forest.score(forest_rows)
        add_rows(forest_rows, self._rows, self._seen, self._random_state, 0)
        return scores

    def barrier(self) -> int:
        """Return the next count of rows at which a refit is requested or taken over."""
        return self._barrier

    def cross(self) -> RefitNote | None:
        """Request a refit, or take over the one requested (waiting for it)."""
        if self._ticket is None:
            self._request()
            return None
        self.forest = self._ticket.result()
        self._ticket = None
        self._barrier = self._next_request()
        return RefitNote(self.name, self._refits, self._requested_rows)

    def reservoir(self) -> F32:
        """Return the kept rows (m x features); a view."""
        return self._rows[: min(int(self._seen[0]), len(self._rows))]

    def state(self) -> StateArrays:
        """Return the reservoir and the place in the schedule; the forest follows from the rows and the seed."""
        schedule = np.array([self._refits, self._requested_rows, self._barrier], dtype=np.int64)
        return {"rows": self._rows, "seen": self._seen, "random_state": self._random_state, "schedule": schedule}

    def _request(self) -> None:
        options = self._options
        rows = self.reservoir().copy()
        self._refits += 1
        self._requested_rows = len(rows)
        seed = derived_seed("forest", self._seed, self._refits)
        self._ticket = self._pool.submit(RefitRequest(rows, options.trees, options.sample_rows, seed))
        lag = min(max(self._barrier // 4, options.takeover_events_min), options.takeover_events_max)
        self._barrier += lag

    def _next_request(self) -> int:
        """Return the first position of the schedule that lies ahead."""
        options = self._options
        seen = int(self._seen[0])
        position = options.refit_events_first
        while position <= seen:
            position += min(position * (options.refit_growth - 1), options.refit_events_max)
        return position
