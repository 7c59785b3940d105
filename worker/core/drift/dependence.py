"""Drift of dependence: columns that go together otherwise than before, while each alone looks as it always did.

Each event is a point of mid-ranks (the scores of its bins), and a few fixed projections of it are watched like columns:

* for each column the pair with the column that it goes with most closely, as the difference of the two (or the sum,
  when they go against each other). This is the minor principal component of the pair, whose spread is least, so a
  dependence that breaks, or two columns that are swapped, widen it most (Jolliffe 2002, 10.1; it is what PCA
  reconstruction errors rest on);
* random sums of all columns, each with a random sign (Achlioptas 2003): their spread moves when many columns
  begin to go together, which no single pair need show.

The cost is a few additions per event for pairs, and one per column for each sum: linear, where all pairs would be
quadratic. Only the choice of the pairs takes all products, once, of the first half of the events.

    learning  products of ranks, N/2 events ──► pairs ──► cells of projections, N/2 events ──► bins ──► watching
"""

import math
from typing import Annotated, Literal, NamedTuple

import numpy as np
from msgspec import Meta, Struct

from worker.core.drift.bins import SCORE_MAX, equal_mass
from worker.core.drift.decisions import MARGINS_SHARE, design_effects
from worker.core.drift.windows import Level, StoredWindows, Windows
from worker.core.kernels.arrays import I16, I32, I64, U8, U32, Bool
from worker.core.kernels.binning import (
    CELLS,
    LAG_SUMS,
    LAGS,
    add_lags,
    add_products,
    count_cells,
    count_projected,
    project,
    score_bins,
)
from worker.core.options import DriftOptions
from worker.core.state import COUNT_MAX, AnyArray, Arrays, by_part, check_like, fill, outside, prefixed, refuse_if

COLUMNS_MAX = 257
"""Columns beyond these take part in no projection: the products are quadratic."""
PAIRS_MAX = 24
SUMS = 4
COLUMNS_FOR_SUMS_MIN = 4

_STORED = "stored drift of dependence"
_SUM_DEVIATION = 150.0
_FIT_EVENTS_MIN = 100

Stage = Literal["pairs", "cells", "watching"]


class StoredDependence(Struct, frozen=True, forbid_unknown_fields=True):
    """The plain part of the state."""

    stage: Stage
    seen: Annotated[int, Meta(ge=0, le=COUNT_MAX)]
    windows: StoredWindows


class Projected(NamedTuple):
    """An affected projection: the two columns of a pair, or None for a sum of all."""

    place: int
    pair: tuple[int, int] | None


class Dependence:
    """Projections of the ranks of c columns, from after the reference of the columns was taken."""

    def __init__(self, columns: int, options: DriftOptions, seed: int) -> None:
        self._columns = min(columns, COLUMNS_MAX)
        self._events = max(options.reference_events // 2, _FIT_EVENTS_MIN)
        pairs = min(self._columns, PAIRS_MAX) if self._columns > 1 else 0
        sums = SUMS if self._columns >= COLUMNS_FOR_SUMS_MIN else 0
        self._first: I32 = np.zeros(pairs, dtype=np.int32)
        self._second: I32 = np.zeros(pairs, dtype=np.int32)
        self._signs: I16 = _signs(seed, sums, self._columns)
        self._divisors: I64 = np.ones(sums, dtype=np.int64)
        self._size = pairs + sums
        self._table: U8 = np.zeros((self._size, CELLS), dtype=np.uint8)
        level = Level(options.false_alarms_per_day * (1.0 - MARGINS_SHARE), options.psi_min)
        self.windows = Windows(self._size, options.bins + 1, options, level)
        self._stage: Stage = "pairs"
        self._seen = 0
        self._products: I64 = np.zeros((0, 0), dtype=np.int64)
        self._cells: U32 = np.zeros((0, CELLS), dtype=np.uint32)
        self._recent: I16 = np.zeros((LAGS[1], self._size), dtype=np.int16)
        self._batch: I64 = np.zeros((2, self._size), dtype=np.int64)
        self._sums: I64 = np.zeros((self._size, LAG_SUMS), dtype=np.int64)
        self.begin()

    def begin(self) -> None:
        """Learn anew."""
        self._enter("pairs")
        self.windows.begin(self.windows.reference * 0, self.windows.score * 0, self._ordered())

    def _ordered(self) -> Bool:
        return np.ones(self._size, dtype=np.bool)

    def _enter(self, stage: Stage) -> None:
        self._stage, self._seen = stage, 0
        width = self._columns if stage == "pairs" else 0
        self._products = np.zeros((width, width), dtype=np.int64)
        self._cells = np.zeros((self._size if stage == "cells" else 0, CELLS), dtype=np.uint32)
        self._recent[:], self._batch[:], self._sums[:] = 0, 0, 0

    def add(self, bins: U8, score: I16) -> None:
        """Take in rows of bins (n x c), whose scores (c x b) are given. They all belong to one block."""
        if self._size == 0:
            return
        if self._stage == "watching":
            signs, table, counts = self._signs, self._table, self.windows.counts
            count_projected(bins, score, self._first, self._second, signs, self._divisors, table, counts)
        else:
            self._learn(bins, score)
        self._seen += len(bins)

    def _learn(self, bins: U8, score: I16) -> None:
        scores = np.empty((len(bins), self._columns), dtype=np.int16)
        score_bins(bins[:, : self._columns], score[: self._columns], scores)
        if self._stage == "pairs":
            add_products(scores, self._products)
            return
        projected = np.empty((len(bins), self._size), dtype=np.int16)
        project(scores, self._first, self._second, self._signs, self._divisors, projected)
        count_cells(projected, self._cells)
        add_lags(projected, self._seen, self._recent, self._batch, self._sums)

    def end_block(self, share: float, *, is_calm: bool) -> None:
        """Take a block as full, `share` of a day being what it adds to spend; `is_calm`: no column has drifted.

        What was learned while a column drifted is learned again.
        """
        if self._size == 0:
            return
        if self._stage == "watching":
            self.windows.end_block(share)
        elif not is_calm:
            self._enter("pairs")
        elif self._seen >= self._events:
            if self._stage == "pairs":
                self._choose_pairs()
                self._enter("cells")
            else:
                self._make_bins()
                self._enter("watching")

    def next_block(self) -> None:
        """Empty the place of the block that comes next."""
        if self._stage == "watching":
            self.windows.next_block()

    def _choose_pairs(self) -> None:
        products = self._products + np.triu(self._products, 1).T
        norms = np.sqrt(np.maximum(np.diag(products), 1).astype(np.float64))
        correlation = products / norms / norms[:, np.newaxis]
        strength = np.abs(correlation)
        np.fill_diagonal(strength, -1.0)
        found: dict[tuple[int, int], float] = {}
        for column in range(self._columns if len(self._first) else 0):
            partner = int(np.argmax(strength[column]))
            found[min(column, partner), max(column, partner)] = float(strength[column, partner])
        chosen = sorted(found, key=lambda pair: (-found[pair], pair))[: len(self._first)]
        # Fewer pairs than places: the last one again would count twice, so a column with itself, which never moves.
        chosen += [(0, 0)] * (len(self._first) - len(chosen))
        for place, (one, other) in enumerate(chosen):
            self._first[place] = one
            self._second[place] = -1 - other if one == other or correlation[one, other] > 0.0 else other
        for place, signs in enumerate(self._signs.astype(np.int64)):
            square = int(signs @ products @ signs) / max(self._seen, 1)
            self._divisors[place] = max(round(math.sqrt(max(square, 0.0)) / _SUM_DEVIATION), 1)

    def _make_bins(self) -> None:
        bins = self.windows.reference.shape[1]
        counts = np.zeros((self._size, bins), dtype=np.int64)
        for place, cells in enumerate(self._cells.astype(np.int64)):
            used = np.flatnonzero(cells)
            first, last = int(used[0]), int(used[-1]) + 1
            ends = [first, *(first + end for end in equal_mass(cells[first:last], bins - 3))]
            # The bin of a cell is how many ends are at or below it; below the first end is a bin of its own.
            self._table[place] = np.searchsorted(ends, np.arange(CELLS), side="right")
            np.add.at(counts[place], self._table[place], cells)
        self.windows.begin(counts, self._score(), self._ordered())
        self.windows.begin_design(*design_effects(self._sums[np.newaxis]))

    def _score(self) -> I16:
        """Return the scores of the bins: their number will do, since only differences of blocks are measured in it."""
        bins = self.windows.reference.shape[1]
        return np.broadcast_to(np.arange(bins, dtype=np.int16), (self._size, bins)).copy()

    def affected(self, drifted: Bool) -> list[Projected]:
        """Return affected projections of which no column has `drifted` (c) by itself: largest change first."""
        found = []
        pairs, windows = len(self._first), self.windows
        for place in np.flatnonzero(windows.affected >= 0).tolist():
            if place < pairs:
                one, other = int(self._first[place]), int(self._second[place])
                other = other if other >= 0 else -1 - other
                if not (drifted[one] or drifted[other]):
                    found.append(Projected(place, (one, other)))
            elif not drifted.any():
                found.append(Projected(place, None))
        return sorted(found, key=lambda each: (-float(windows.psi[each.place]), each.place))

    # Storing and restoring.

    def plain(self) -> StoredDependence:
        """Return the plain part of the state."""
        return StoredDependence(self._stage, self._seen, self.windows.plain())

    def _own(self) -> dict[str, AnyArray]:
        return {
            "first": self._first,
            "second": self._second,
            "signs": self._signs,
            "divisors": self._divisors,
            "table": self._table,
            "products": self._products,
            "cells": self._cells,
            "recent": self._recent,
            "batch": self._batch,
            "sums": self._sums,
        }

    def arrays(self) -> dict[str, AnyArray]:
        """Return the live arrays."""
        return prefixed("own", self._own()) | prefixed("windows", self.windows.arrays())

    def restore(self, plain: StoredDependence, arrays: Arrays) -> None:
        """Take over copies of what `plain` and `arrays` gave; ValueError for what cannot be."""
        parts = by_part(_STORED, arrays, ("own", "windows"))
        self._enter(plain.stage)
        own = parts["own"]
        check_like(_STORED, own, self._own())
        last = self._columns - 1
        refuse_if(
            _STORED,
            {
                "a pair has no column": outside(own["first"], 0, last) or outside(own["second"], -1 - last, last),
                "a sign is none": outside(own["signs"], -1, 1),
                "a divisor is out of range": outside(own["divisors"], 1, COUNT_MAX),
                "a cell has no bin": outside(own["table"], 0, self.windows.reference.shape[1] - 2),
                "a product is out of range": outside(own["products"], -COUNT_MAX, COUNT_MAX),
                "a score is out of range": outside(own["recent"], -SCORE_MAX, SCORE_MAX),
                "a sum is out of range": outside(own["sums"], -COUNT_MAX, COUNT_MAX)
                or outside(own["batch"], -(2**16), 2**16),
                "nothing was counted": plain.stage == "cells" and plain.seen > 0 and not own["cells"].any(axis=1).all(),
            },
        )
        self.windows.restore(plain.windows, parts["windows"], self._score(), self._ordered())
        fill(self._own(), own)
        self._seen = plain.seen


def _signs(seed: int, sums: int, columns: int) -> I16:
    """Return random signs (sums x columns), made of the bits of a generator (Marsaglia 2003, xorshift64)."""
    state = (seed ^ 0x9E3779B97F4A7C15) & (2**64 - 1) or 1
    signs = np.empty((sums, columns), dtype=np.int16)
    for place in np.ndindex(signs.shape):
        state ^= (state << 13) & (2**64 - 1)
        state ^= state >> 7
        state ^= (state << 17) & (2**64 - 1)
        signs[place] = 1 if state >> 63 else -1
    return signs
