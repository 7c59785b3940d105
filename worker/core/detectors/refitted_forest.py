"""The isolation forest as a detector: a reservoir of the whole past, refitted at growing intervals.

Requested when the detector has learned N rows, taken over when it has learned N + K, for N = 256, 2,048, 16,384,
then every 32,768 events, and K = N / 4 within bounds: positions in the stream, so replay finds them again (law 2).
"""

from typing import ClassVar, NamedTuple

import numpy as np

from worker.core.detectors.isolation_forest import ForestArrays, to_forest_rows
from worker.core.detectors.protocol import RefitNote
from worker.core.detectors.refit import RefitPool, RefitRequest, RefitTicket
from worker.core.identity import derived_seed
from worker.core.kernels.arrays import F32, F64
from worker.core.kernels.reservoir import LARGEST, add_rows
from worker.core.options import ForestOptions
from worker.core.state import COUNT_MAX, Arrays, blank, check_like, fill, refuse_if

_STORED = "isolation forest state"


class _Pending(NamedTuple):
    """A refit under way: at which count of rows it was requested, and the rows."""

    requested_at: int
    rows: F32
    ticket: RefitTicket


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
        self._pending: _Pending | None = None
        self._barrier = options.refit_events_first
        self.forest: ForestArrays | None = None

    @property
    def taken_over(self) -> int:
        """How many refits have been taken over."""
        return self._refits - (self._pending is not None)

    def fit(self, warmup_rows: F64) -> None:
        """Do nothing: the first forest comes with the first refit."""

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
        if self._pending is None:
            self._refits += 1
            self._request(self._barrier, self.reservoir().copy())
            return None
        self.forest, rows = self._pending.ticket.result(), len(self._pending.rows)
        self._pending = None
        self._barrier = self._next_request()
        return RefitNote(self.name, self._refits, rows)

    def reservoir(self) -> F32:
        """Return the kept rows (m x features); a view."""
        return self._rows[: min(int(self._seen[0]), len(self._rows))]

    def live(self) -> Arrays:
        """Return the reservoir, the place in the schedule, and the rows of a refit under way."""
        pending = self._pending
        schedule = np.array([self._refits, pending.requested_at if pending else 0], dtype=np.int64)
        live: Arrays = {"rows": self._rows, "random_state": self._random_state, "schedule": schedule}
        return {**live, "request": pending.rows} if pending else live

    def fitted(self) -> Arrays:
        """Return the forest as bytes, if there is one."""
        return {} if self.forest is None else {"forest": np.frombuffer(self.forest.to_bytes(), dtype=np.uint8)}

    def restore(self, seen: int, live: Arrays, fitted: Arrays) -> None:
        """Take over copies. A refit that was under way is requested again; it gives the same forest."""
        own = {name: array for name, array in live.items() if name != "request"}
        check_like(_STORED, own, self.live())
        refits, requested_at = own["schedule"].tolist()
        is_pending = requested_at != 0
        refuse_if(
            _STORED,
            {
                "a kept value is out of range": (np.abs(own["rows"]) > LARGEST).any(),
                "the number of refits is out of range": not is_pending <= refits <= COUNT_MAX,
                "the request is out of range": is_pending and not 0 < requested_at <= seen < self._due(requested_at),
                "there are rows of no request": "request" in live and not is_pending,
            },
        )
        self._seen[0], self._refits = seen, refits
        fill(self.live(), own)
        self.forest = self._stored_forest(fitted, taken_over=refits - is_pending)
        self._barrier = self._next_request()
        if is_pending:
            self._request(requested_at, self._stored_request(live, requested_at))

    def _stored_forest(self, fitted: Arrays, taken_over: int) -> ForestArrays | None:
        """Return the forest of the last refit, None if there was none."""
        refuse_if(_STORED, {"there is no forest, or one too many": list(fitted) != ["forest"] * (taken_over > 0)})
        if not taken_over:
            return None
        forest = ForestArrays.from_bytes(fitted["forest"].tobytes())
        mine = self._rows.shape[1], self._options.trees
        refuse_if(_STORED, {"the forest is of other rows or trees": (forest.n_features, len(forest.feature)) != mine})
        return forest

    def _stored_request(self, live: Arrays, requested_at: int) -> F32:
        """Return a copy of the rows that were the reservoir at this count of rows."""
        request = {name: array for name, array in live.items() if name == "request"}
        rows_max, features = self._rows.shape
        check_like(_STORED, request, {"request": blank(np.float32, min(requested_at, rows_max), features)})
        refuse_if(_STORED, {"a requested value is out of range": (np.abs(request["request"]) > LARGEST).any()})
        return request["request"].copy()

    def _request(self, at: int, rows: F32) -> None:
        """Submit the refit that is requested at this count of rows."""
        options = self._options
        seed = derived_seed("forest", self._seed, self._refits)
        ticket = self._pool.submit(RefitRequest(rows, options.trees, options.sample_rows, seed))
        self._pending = _Pending(at, rows, ticket)
        self._barrier = self._due(at)

    def _due(self, requested_at: int) -> int:
        """Return the count of rows at which a forest is taken over."""
        options = self._options
        return requested_at + min(max(requested_at // 4, options.takeover_events_min), options.takeover_events_max)

    def _next_request(self) -> int:
        """Return the first position of the schedule that lies ahead."""
        options, seen = self._options, int(self._seen[0])
        position = options.refit_events_first
        while position <= seen:
            step = min(position * (options.refit_growth - 1), options.refit_events_max)
            # Once the steps are equal, the position is found without making all of them.
            count = 1 if step < options.refit_events_max else (seen - position) // step + 1
            position += count * step
        return position
