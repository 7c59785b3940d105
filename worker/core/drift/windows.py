"""Windows of the latest blocks against a reference: which columns are affected, told after each block.

A window of w = 1, 2, 4, ... blocks is looked at each time half of it is new. A column becomes affected when its
corrected p-value is within what may be spent (see `decisions`) and its PSI is at least `psi_min`. From then on the
length in which it was found watches it: it is over when that window neither differs nor shows half of `psi_min`. Then
its older blocks are forgotten, so that a longer window does not find the same drift once more.
"""

from typing import Annotated, NamedTuple

import numpy as np
from msgspec import Meta, Struct

from worker.core.drift.decisions import LEVEL_MAX, LISTED_MAX, benjamini_yekutieli, holm, p_values
from worker.core.kernels.arrays import F64, I16, I64, U32, Bool
from worker.core.kernels.binning import sum_blocks
from worker.core.kernels.two_sample import FOUND, PSI, compare
from worker.core.kernels.windows import DIFFERENCES_MAX, SQUARE_MAX, learn_differences, look, renew_factors
from worker.core.options import DriftOptions
from worker.core.state import COUNT_MAX, AnyArray, Arrays, check_like, fill, outside, refuse_if

NOT_AFFECTED = -1
STILL_P = 0.01
STABLE_P = 0.001
LATEST_BLOCKS_MAX = 4
"""The window whose effect is published for every column: short enough to follow, long enough to be calm."""

_STORED = "stored drift windows"


class StoredWindows(Struct, frozen=True, forbid_unknown_fields=True):
    """The plain part of the state."""

    blocks: Annotated[int, Meta(ge=0, le=COUNT_MAX)]


class Level(NamedTuple):
    """What may be spent in a day, over all columns and lengths; and the least effect."""

    per_day: float
    psi_min: float


class Windows:
    """Counts of the latest blocks (blocks_max) of columns (c) in bins (b), and the reference they are compared with."""

    def __init__(self, columns: int, bins: int, options: DriftOptions, level: Level) -> None:
        self._level = level
        self._blocks_max = options.blocks_max
        self.lengths = [1 << k for k in range(options.blocks_max.bit_length())]
        self._latest_length = max(each for each in self.lengths if each <= LATEST_BLOCKS_MAX)
        self.blocks = 0
        self.is_ordered: Bool = np.ones(columns, dtype=np.bool)
        self.ring: U32 = np.zeros((1, columns, bins), dtype=np.uint32)
        """As many blocks as there have been, or some more, but at most `blocks_max`: many models see few events."""
        self.reference: I64 = np.zeros((columns, bins), dtype=np.int64)
        self.score: I16 = np.zeros((columns, bins), dtype=np.int16)
        self.design: F64 = np.ones((2, columns))
        self.differences: F64 = np.zeros((2, columns))
        self.unspent: F64 = np.zeros(len(self.lengths))
        self.affected = np.full(columns, NOT_AFFECTED, dtype=np.int8)
        self.p_value: F64 = np.ones(columns)
        self.psi: F64 = np.zeros(columns)
        self._latest_psi: F64 = np.zeros(columns)
        self._total: I64 = np.zeros((columns, bins), dtype=np.int64)
        self._spread: F64 = np.zeros(columns)
        self._found: F64 = np.zeros((columns, FOUND))
        self._factors: F64 = np.ones((2, columns))
        self._lengths: I64 = np.array(self.lengths, dtype=np.int64)

    def begin(self, reference: I64, score: I16, is_ordered: Bool) -> None:
        """Take a reference (c x b), the scores of its bins, and which columns have an order; forget all blocks."""
        self.reference[:] = reference
        self.score[:] = score
        self.is_ordered = is_ordered
        self._spread = _variance(self.reference, self.score)
        self.blocks = 0
        self._reserve(0)
        self.ring[:] = 0
        self.unspent[:] = 0.0
        self.affected[:] = NOT_AFFECTED
        self.p_value[:], self.psi[:] = 1.0, 0.0
        self._latest_psi[:] = 0.0

    def begin_design(self, location: F64, shape: F64) -> None:
        """Take what autocorrelation does to the variance (c each); forget what blocks have added."""
        self.design[0], self.design[1] = location, shape
        self.differences[:] = 0.0

    def _reserve(self, blocks: int) -> None:
        """Have room for so many full blocks and one that is being filled, or for as many as are kept."""
        rows = min(1 << blocks.bit_length(), self._blocks_max)
        if rows != len(self.ring):
            ring = np.zeros((rows, *self.ring.shape[1:]), dtype=np.uint32)
            kept = min(rows, len(self.ring))
            ring[:kept] = self.ring[:kept]
            self.ring = ring

    @property
    def counts(self) -> U32:
        """Counts of the block that is being filled."""
        current: U32 = self.ring[self.blocks % self._blocks_max]
        return current

    def latest(self, blocks: int, column: int) -> U32:
        """Counts of one column in the latest full blocks (n x b), oldest first."""
        known = min(blocks, self.blocks, self._blocks_max)
        places = (self.blocks - known + np.arange(known)) % self._blocks_max
        found: U32 = self.ring[places, column]
        return found

    def total(self, blocks: int) -> I64:
        """Counts (c x b) of so many of the latest full blocks: an array that the next call overwrites."""
        known = min(blocks, self.blocks, self._blocks_max)
        sum_blocks(self.ring, (self.blocks - 1) % self._blocks_max, known, self._total)
        return self._total

    def full_design(self) -> tuple[F64, F64]:
        """Return both factors with what blocks have added, which never makes them smaller."""
        renew_factors(self.design, self.differences, self._factors)
        return self._factors[0], self._factors[1]

    def end_block(self, share: float) -> None:
        """Take the current block as full; `share` of a day is what it adds to spend. Look at what is due.

        Call `next_block` after that, when the block's counts are no longer needed.
        """
        self.blocks += 1
        self._reserve(self.blocks)
        learn_differences(
            self.ring,
            self.blocks,
            self.score,
            self._spread,
            self.affected,
            self.design,
            self.differences,
            self._factors,
        )
        self.unspent += share
        k = self._look(0)
        while k < len(self.lengths):
            self._decide(k, self.lengths[k])
            self.unspent[k] = 0.0
            k = self._look(k + 1)

    def _look(self, first: int) -> int:
        """Look at the lengths that are due, from one on; return the first at which there is something to decide."""
        return look(
            self.ring,
            self.blocks,
            first,
            self._lengths,
            self._latest_length,
            self.reference,
            self.is_ordered,
            self._factors,
            self.affected,
            self.unspent,
            self._latest_psi,
            self._total,
            self._found,
        )

    def next_block(self) -> None:
        """Empty the place of the block that comes next."""
        self.counts[:] = 0

    @property
    def is_affected(self) -> bool:
        """Whether any column is affected."""
        return bool((self.affected >= 0).any())

    @property
    def latest_psi(self) -> list[float | None]:
        """PSI of each column in the newest window of at most `LATEST_BLOCKS_MAX`; None without a block or reference."""
        if self.blocks == 0:
            return [None] * len(self._latest_psi)
        known: Bool = np.any(self.reference, axis=1)
        return [psi if is_known else None for psi, is_known in zip(self._latest_psi.tolist(), known, strict=True)]

    def compared(self, reference: I64, window: I64) -> tuple[F64, F64]:
        """Return p-values, not corrected, and PSI (c each) of counts (c x b) against others."""
        location, shape = self.full_design()
        found = np.zeros_like(self._found)
        compare(reference, window, self.is_ordered, location, shape, found)
        return p_values(found, self.is_ordered, shape), found[:, PSI]

    def is_stable(self, older: I64, newer: I64) -> bool:
        """Tell whether two parts of a time (c x b each) are alike."""
        p, psi = self.compared(older, newer)
        return not ((holm(p) <= STABLE_P) & (psi >= self._level.psi_min)).any()

    def _decide(self, k: int, length: int) -> None:
        """Decide which columns are affected by what was found in the window of a length."""
        found = self._found
        watching = self.affected == k
        p, psi = p_values(found, self.is_ordered, self._factors[1]), found[:, PSI]
        level = min(self._level.per_day / len(self.lengths) * float(self.unspent[k]), LEVEL_MAX)
        is_large = psi >= self._level.psi_min
        alarmed = is_large & (holm(p) <= level)
        corrected = benjamini_yekutieli(p)
        if alarmed[1:].any():
            # More features for the list of an alarm that is given anyway; the prediction (0) has one of its own.
            alarmed[1:] |= is_large[1:] & (corrected[1:] <= LISTED_MAX)
        over = watching & ~alarmed & ((p > STILL_P) | (psi < self._level.psi_min / 2.0))
        new = alarmed & ((self.affected == NOT_AFFECTED) | (self.affected > k))
        told = new | (watching & ~over)
        self.p_value[told], self.psi[told] = corrected[told], psi[told]
        self.affected[new] = k
        for column in np.flatnonzero(over):
            self._forget(int(column), length)

    def _forget(self, column: int, keep: int) -> None:
        self.affected[column] = NOT_AFFECTED
        self.p_value[column], self.psi[column] = 1.0, 0.0
        kept = (self.blocks - 1 - np.arange(keep)) % len(self.ring)
        older = np.ones(len(self.ring), dtype=np.bool)
        older[kept] = False
        self.ring[older, column] = 0

    # Storing and restoring.

    def plain(self) -> StoredWindows:
        """Return the plain part of the state."""
        return StoredWindows(self.blocks)

    def arrays(self) -> dict[str, AnyArray]:
        """Return the live arrays."""
        return {
            "ring": self.ring,
            "reference": self.reference,
            "design": self.design,
            "differences": self.differences,
            "unspent": self.unspent,
            "affected": self.affected,
            "p_value": self.p_value,
            "psi": self.psi,
            "latest_psi": self._latest_psi,
        }

    def restore(self, plain: StoredWindows, arrays: Arrays, score: I16, is_ordered: Bool) -> None:
        """Take over copies of what `plain` and `arrays` gave; ValueError for what cannot be."""
        self._reserve(plain.blocks)
        check_like(_STORED, arrays, self.arrays())
        affected = arrays["affected"]
        refuse_if(
            _STORED,
            {
                "a count of the reference is out of range": outside(arrays["reference"], 0, COUNT_MAX),
                "a design effect is out of range": outside(arrays["design"], 1.0, float(COUNT_MAX)),
                "a difference is out of range": outside(arrays["differences"], 0.0, SQUARE_MAX * DIFFERENCES_MAX),
                "what may be spent is out of range": outside(arrays["unspent"], 0.0, float(COUNT_MAX)),
                "a column is affected in no window": outside(affected, NOT_AFFECTED, len(self.lengths) - 1),
                "a p-value is none": outside(arrays["p_value"], 0.0, 1.0),
                "an effect is out of range": outside(arrays["psi"], 0.0, float(COUNT_MAX))
                or outside(arrays["latest_psi"], 0.0, float(COUNT_MAX)),
            },
        )
        self.blocks = plain.blocks
        self.score[:], self.is_ordered = score, is_ordered
        fill(self.arrays(), arrays)
        self._spread = _variance(self.reference, self.score)


def _variance(counts: I64, score: I16) -> F64:
    """Return the variance (c) of the scores of values, missing ones left out. Sums are whole."""
    values, scores = counts[:, :-1], score[:, :-1].astype(np.int64)
    total = np.maximum(values.sum(axis=1), 1)
    mean = (values * scores).sum(axis=1) / total
    variance: F64 = (values * scores * scores).sum(axis=1) / total - mean * mean
    return variance
