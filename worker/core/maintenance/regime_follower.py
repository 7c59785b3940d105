"""The regimes of one model's inputs: followed once there are labels, begun anew when the columns are others."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from worker.core.events import RegimeChange
from worker.core.kernels.arrays import F64, I64
from worker.core.maintenance.regimes import RegimeWatch, StoredRegimes
from worker.core.options.maintenance import RegimeOptions
from worker.core.seen import Seen
from worker.core.state import AnyArray, Arrays, refuse_if


class Changed(NamedTuple):
    """A change of the regimes, and the last event of the pane that showed it."""

    change: RegimeChange
    offset: int
    time_ms: int


class RegimeFollower:
    """Hands events to the watch of their columns."""

    def __init__(self, options: RegimeOptions, seed: int) -> None:
        self._options, self._seed = options, seed
        self._watch: RegimeWatch | None = None
        self.names: list[str] = []

    def take(self, rows: F64, names: Sequence[str], seen: Seen, chosen: I64) -> Iterator[Changed]:
        """Take in the chosen ones of events as detectors see them (n x d), by row; yield what has changed."""
        if not names or rows.shape[1] != len(names):
            return  # a model without features, of which detectors see the course of its predictions
        if self._watch is None or self.names != list(names):
            self.names = list(names)
            self._watch = RegimeWatch(self.names, self._options, self._seed)
        offsets, times_ms = seen.offsets[chosen], seen.times_ms[chosen]
        for pane in self._watch.process(rows[chosen], offsets):
            row = int(np.searchsorted(offsets, pane.last_offset))
            for change in pane.changes:
                yield Changed(change, pane.last_offset, int(times_ms[row]))

    # Storing and restoring.

    def plain(self) -> StoredRegimes | None:
        """Return the plain part of the state."""
        return None if self._watch is None else self._watch.plain()

    def arrays(self) -> dict[str, AnyArray]:
        """Return the live arrays."""
        return {} if self._watch is None else dict(self._watch.arrays())

    def restore(self, plain: StoredRegimes | None, names: list[str], arrays: Arrays) -> None:
        """Take over copies; ValueError for what cannot be."""
        if plain is None:
            refuse_if("stored regimes", {"there are arrays of none": bool(arrays)})
            return
        self.names, self._watch = list(names), RegimeWatch(names, self._options, self._seed)
        self._watch.restore(plain, arrays)
