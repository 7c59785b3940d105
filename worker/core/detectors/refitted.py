"""When a model is refitted, of which rows, and what is under way: shared by all detectors whose model is refitted.

Requested when the detector has learned N rows, taken over when it has learned N + K, where N grows by a factor and at
last by a fixed step (by default 256, 1,024, 4,096, 16,384, then every 32,768 events), and K is N / 4 within bounds. All
are positions in the stream, so replay finds them again (law 2).
"""

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from worker.core.detectors.refit import FittedModel, RefitPool, RefitRequest, RefitTicket
from worker.core.kernels.arrays import F32
from worker.core.options import ForestOptions
from worker.core.state import COUNT_MAX, Arrays, blank, check_like, refuse_if

Model = TypeVar("Model", bound=FittedModel)


class Schedule(NamedTuple):
    """The positions of a stream at which a model is requested and taken over."""

    first: int
    growth: int
    step_max: int
    takeover_min: int
    takeover_max: int

    @classmethod
    def of(cls, options: ForestOptions) -> "Schedule":
        """Return the forest's schedule, which all models have."""
        return cls(
            options.refit_events_first,
            options.refit_growth,
            options.refit_events_max,
            options.takeover_events_min,
            options.takeover_events_max,
        )

    def due(self, requested_at: int) -> int:
        """Return the count of rows at which a model is taken over."""
        return requested_at + min(max(requested_at // 4, self.takeover_min), self.takeover_max)

    def next_request(self, seen: int) -> int:
        """Return the first position of the schedule that lies ahead of so many rows."""
        position = self.first
        while position <= seen:
            step = min(position * (self.growth - 1), self.step_max)
            # Once the steps are equal, the position is found without making all of them.
            count = 1 if step < self.step_max else (seen - position) // step + 1
            position += count * step
        return position


class _Pending(NamedTuple):
    """A refit under way: at which count of rows it was requested, and the rows."""

    requested_at: int
    rows: F32
    ticket: RefitTicket


class Taken(NamedTuple, Generic[Model]):
    """A model that was taken over: which refit it is of, and of how many rows."""

    model: Model
    refit: int
    rows: int


class Refits(Generic[Model]):
    """The refits of one detector. It reports the rows it has learned; this says what is due at which count of them."""

    def __init__(
        self,
        kind: type[Model],
        schedule: Schedule,
        pool: RefitPool,
        request: Callable[[F32, int], RefitRequest],
    ) -> None:
        """Take the kind of model, and what makes a request of rows (n x d) and the number of the refit."""
        self._kind = kind
        self._schedule = schedule
        self._pool = pool
        self._request = request
        self._refits = 0
        self._pending: _Pending | None = None
        self.barrier = schedule.first
        """The next count of rows at which `cross` is due."""

    @property
    def taken_over(self) -> int:
        """How many refits have been taken over."""
        return self._refits - (self._pending is not None)

    @property
    def requested_rows(self) -> int:
        """Rows of the refit under way, 0 if there is none."""
        return 0 if self._pending is None else len(self._pending.rows)

    def cross(self, rows: Callable[[], F32]) -> Taken[Model] | None:
        """Request a refit of a copy of these rows, or take over the one requested (waiting for it)."""
        if self._pending is None:
            self._refits += 1
            self._submit(self.barrier, rows().copy())
            return None
        pending, self._pending = self._pending, None
        model = pending.ticket.result()
        if not isinstance(model, self._kind):
            raise TypeError(f"a {type(model).__name__} was fitted instead of a {self._kind.__name__}")
        self.barrier = self._schedule.next_request(self.barrier)
        return Taken(model, self._refits, len(pending.rows))

    def live(self) -> Arrays:
        """Return the place in the schedule, and the rows of a refit under way."""
        pending = self._pending
        schedule = np.array([self._refits, pending.requested_at if pending else 0], dtype=np.int64)
        return {"schedule": schedule, "request": pending.rows} if pending else {"schedule": schedule}

    def restore(
        self, what: str, seen: int, live: Arrays, rows_at: Callable[[int], int], columns: int, limit: float
    ) -> None:
        """Take over copies of what `live` gave after `seen` rows. A refit under way is requested again.

        A request made at a count of rows has `rows_at(count)` rows, so many columns, and no value beyond `limit`.
        Raises ValueError for what cannot be. The same request gives the same model.
        """
        request = {name: array for name, array in live.items() if name == "request"}
        check_like(what, {name: live[name] for name in live if name not in request}, {"schedule": blank(np.int64, 2)})
        refits, requested_at = live["schedule"].tolist()
        is_pending = requested_at != 0
        refuse_if(
            what,
            {
                "the number of refits is out of range": not is_pending <= refits <= COUNT_MAX,
                "a refit was taken over too early": refits > is_pending
                and seen < self._schedule.due(self._schedule.first),
                "the request is out of range": is_pending
                and not 0 < requested_at <= seen < self._schedule.due(requested_at),
            },
        )
        check_like(what, request, {"request": blank(np.float32, rows_at(requested_at), columns)} if is_pending else {})
        refuse_if(
            what,
            {"a requested value is out of range": any((np.abs(rows) > limit).any() for rows in request.values())},
        )
        self._refits = refits
        self.barrier = self._schedule.next_request(seen)
        if is_pending:
            self._submit(requested_at, request["request"].copy())

    def _submit(self, at: int, rows: F32) -> None:
        """Submit the refit that is requested at this count of rows."""
        self._pending = _Pending(at, rows, self._pool.submit(self._request(rows, self._refits)))
        self.barrier = self._schedule.due(at)
