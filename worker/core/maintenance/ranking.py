"""The shadow pool's ranking: which candidate's output is the best to use now (kernels/advice.py).

It is quick and not proof: the advice follows a change within some hundred labels, and goes back to the champion at the
first sign. A promotion needs the gate (gate.py).
"""

import math
from typing import NamedTuple

import numpy as np

from worker.core.kernels.advice import (
    ADVISED,
    BLOCK_LABELS,
    COUNTS,
    LABELS,
    RETURNS,
    SWITCHES,
    Pairs,
    rank_losses,
    standing,
)
from worker.core.kernels.arrays import F64
from worker.core.options.maintenance import RankingOptions
from worker.core.state import COUNT_MAX, Arrays, check_like, fill, outside, refuse_if

_STORED = "stored ranking"
CANDIDATES_MAX = 64
SUM_MAX = 1e300


class Paired(NamedTuple):
    """A faded mean difference of losses, and its standard error. NaN before the first block of labels."""

    mean: float
    error: float


class Ranking:
    """Ranks candidates; the first is the champion. Memory is fixed: O(candidates^2)."""

    def __init__(self, candidates: int, options: RankingOptions) -> None:
        if not 1 <= candidates <= CANDIDATES_MAX:
            raise ValueError(f"{candidates} candidates are not within [1, {CANDIDATES_MAX}]")
        self._options = options
        self._fading = (1.0 - 1.0 / options.memory_labels) ** BLOCK_LABELS
        columns = candidates + 1
        self._pairs = Pairs(
            open=np.zeros(columns),
            means=np.zeros((columns, columns)),
            squares=np.zeros((columns, columns)),
            weights=np.zeros(2),
            counts=np.zeros(COUNTS, dtype=np.int64),
        )

    @property
    def advised(self) -> int:
        """The candidate whose output is advised; 0 is the champion."""
        return int(self._pairs.counts[ADVISED])

    @property
    def labels(self) -> int:
        """Labels so far."""
        return int(self._pairs.counts[LABELS])

    @property
    def switches(self) -> int:
        """How often the advice has changed."""
        return int(self._pairs.counts[SWITCHES])

    @property
    def returns(self) -> int:
        """How often it has gone back to the champion."""
        return int(self._pairs.counts[RETURNS])

    def take(self, losses: F64, begin: int) -> int:
        """Take rows[begin:] (n x candidates) up to one that changes the advice; see `rank_losses`."""
        candidates = len(self._pairs.open) - 1
        if losses.shape[1] != candidates or begin < 0:
            raise ValueError(f"losses {losses.shape} do not fit {candidates} candidates")
        options = self._options
        return int(rank_losses(losses, begin, self._fading, options.switch_errors, options.labels_min, self._pairs))

    def paired(self, a: int, b: int) -> Paired:
        """Return by how much the faded loss of `a` exceeds that of `b`."""
        return Paired(*standing(a, b, self._pairs))

    def loss(self, candidate: int) -> Paired:
        """Return a candidate's own faded loss."""
        return self.paired(candidate, len(self._pairs.open) - 1)

    def forget(self, candidate: int) -> None:
        """A candidate is another model now: it begins as one that is no better and no worse than the champion."""
        if not 0 < candidate < len(self._pairs.open) - 1:
            raise ValueError(f"there is no challenger {candidate}")
        pairs = self._pairs
        pairs.open[candidate] = pairs.open[0]
        for sums in (pairs.means, pairs.squares):
            sums[candidate], sums[:, candidate] = sums[0], sums[:, 0]
            sums[candidate, candidate] = 0.0
        if self.advised == candidate:
            pairs.counts[[ADVISED, SWITCHES, RETURNS]] = 0, self.switches + 1, self.returns + 1

    # Storing and restoring.

    def arrays(self) -> Arrays:
        """Return the live arrays."""
        return self._pairs._asdict()

    def restore(self, arrays: Arrays) -> None:
        """Take over copies; ValueError for what cannot be."""
        check_like(_STORED, arrays, self.arrays())
        stored = Pairs(**arrays)
        candidates = len(stored.open) - 1
        refuse_if(
            _STORED,
            {
                "the advice is for a candidate that is not": outside(stored.counts[ADVISED], 0, candidates - 1),
                "a count is out of range": outside(stored.counts[[LABELS, SWITCHES, RETURNS]], 0, COUNT_MAX),
                "a sum is out of range": outside(np.stack([stored.means, stored.squares]), -SUM_MAX, SUM_MAX)
                or outside(stored.open, -SUM_MAX, SUM_MAX)
                or outside(stored.squares, 0.0, math.inf),
                "a weight is out of range": outside(stored.weights, 0.0, 1.0 / (1.0 - self._fading) + 1.0),
            },
        )
        fill(self.arrays(), arrays)
