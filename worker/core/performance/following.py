"""Who else wants to know of predictions and their labels: model maintenance, a layer above."""

from typing import NamedTuple, Protocol

import numpy as np

from worker.core.arrivals import PredictionEvents
from worker.core.kernels.arrays import F64, I64
from worker.core.performance.batch import Labelled
from worker.core.performance.ledger import Ledger
from worker.core.performance.values import Names


class Arrived(NamedTuple):
    """Predictions (n) as the monitor has them. `cells` f64[n, d]: their features; None in a warm-up."""

    events: PredictionEvents
    offsets: I64
    times_ms: I64
    watermarks_ms: I64
    cells: F64 | None = None

    def part(self, begin: int, end: int) -> "Arrived":
        """Return rows [begin, end)."""
        if begin == 0 and end == len(self.offsets):
            return self
        rows = slice(begin, end)
        cells = None if self.cells is None else self.cells[rows]
        return Arrived(self.events[rows], self.offsets[rows], self.times_ms[rows], self.watermarks_ms[rows], cells)


class Follower(Protocol):
    """Learns of each prediction, then of its label. What it does at a label may change what it does at predictions."""

    @property
    def rows_max(self) -> int:
        """The most predictions that it takes at once."""
        ...

    @property
    def room(self) -> int:
        """Predictions, each of which brings its label, up to the first after which anything may change: at least 1."""
        ...

    def begin(self) -> None:
        """The task is known: there are labels."""
        ...

    def predicted(self, part: Arrived) -> I64:
        """Take in predictions (n); return a number to be kept beside each, -1 for none."""
        ...

    def labelled(self, batch: Labelled, ledger: Ledger, columns: Names, *, inline: bool) -> None:
        """Take in labelled events that the books have; `inline`: caused by the predictions taken in last."""
        ...

    def forget_segment(self, place: int, value_id: int) -> None:
        """A value of a declared segment gives way to another."""
        ...


class NoFollower:
    """Wants to know nothing."""

    rows_max = 2**31
    room = 2**31

    def begin(self) -> None:
        """Do nothing."""

    def predicted(self, part: Arrived) -> I64:
        """Keep nothing."""
        return np.full(len(part.events), -1, dtype=np.int64)

    def labelled(self, batch: Labelled, ledger: Ledger, columns: Names, *, inline: bool) -> None:
        """Do nothing."""

    def forget_segment(self, place: int, value_id: int) -> None:
        """Do nothing."""
