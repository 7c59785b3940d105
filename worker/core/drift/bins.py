"""Bins of about equal mass, made of the buckets of exponential histograms or of categories."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from worker.core.kernels.accumulate import START_SCALE
from worker.core.kernels.arrays import F64, I16, I64, U8, Bool
from worker.core.state import AnyArray, Arrays, check_like, fill, outside, refuse_if
from worker.core.statistics.histogram import Histogram, bucket_bound

SCORE_MAX = 512
"""Scores of bins are mid-ranks, moved and scaled to whole numbers within -SCORE_MAX and SCORE_MAX."""

_STORED = "stored drift bins"
_SMALLEST = float(np.finfo(np.float64).smallest_normal)
_BOUND_MAX = 1024 << START_SCALE


@dataclass(frozen=True, slots=True, eq=False)
class Bins:
    """Where the values of c columns go: `bins` bins of values, the last one for other categories, one for missing.

    `center` f64[c], `edges` f64[c, bins - 1], `table` u8[c, codes], as `kernels.binning.count_bins` takes them;
    `score` i16[c, bins + 1]: the mid-rank of each bin in the reference; a missing value has the one in the middle.
    Categories have no order: their scores are those that stay alike for longest (`kernels.binning.slowest_scores`).
    """

    center: F64
    edges: F64
    table: U8
    score: I16

    @classmethod
    def empty(cls, columns: int, bins: int, codes: int) -> Self:
        """Return bins of which the first takes all numbers, and the last of values all categories."""
        return cls(
            np.zeros(columns),
            np.full((columns, bins - 1), np.inf),
            np.full((columns, codes), bins - 1, dtype=np.uint8),
            np.zeros((columns, bins + 1), dtype=np.int16),
        )

    @property
    def count(self) -> int:
        """Number of bins, with that of missing values."""
        return int(self.score.shape[1])

    def put_numbers(self, column: int, histogram: Histogram, center: float) -> I64:
        """Make bins of a numeric column from the histogram of its distances from `center`; return their counts."""
        counts = _units(histogram)
        made = np.zeros(self.count, dtype=np.int64)
        self.center[column] = center
        self.edges[column] = np.inf
        if counts.sum() == 0:
            return made
        ends = equal_mass(counts, self.count - 3)
        edges = [_lower(histogram), *(_upper(histogram, end - 1) for end in ends)]
        self.edges[column, : len(edges)] = edges
        made[1 : len(edges)] = np.add.reduceat(counts, [0, *ends[:-1]])
        return made

    def put_categories(self, column: int, counts: I64) -> I64:
        """Make a bin for each of the most frequent codes of `counts` (codes); return the counts of the bins."""
        own = self.count - 2
        made = np.zeros(self.count, dtype=np.int64)
        self.table[column] = own
        # Code 0 is what is beyond `categories_max`. A stable sort: of equal ones the code seen first.
        ranked = 1 + np.argsort(-counts[1:], kind="stable")
        for place, code in enumerate(ranked[:own]):
            if counts[code] > 0:
                self.table[column, code] = place
        np.add.at(made, self.table[column].astype(np.int64), counts)
        return made

    def rank(self, counts: I64, is_ordered: Bool) -> None:
        """Take the scores of columns with an order (c) from counts (c x bins + 1) of the reference."""
        values = counts[is_ordered, :-1]
        totals = np.maximum(values.sum(axis=1, keepdims=True), 1)
        below = np.cumsum(values, axis=1) - values
        # Doubled, to stay whole: (below + half of its own) / total - 1/2.
        ranks = ((2 * below + values - totals) * SCORE_MAX) // totals
        self.score[is_ordered, :-1] = np.clip(ranks, -SCORE_MAX, SCORE_MAX)

    def put_scores(self, column: int, scores: F64) -> None:
        """Take scores (bins + 1) of mean 0 and variance 1 for a column without order."""
        self.score[column] = np.clip(np.rint(scores * (SCORE_MAX // 2)), -SCORE_MAX, SCORE_MAX)

    def arrays(self) -> dict[str, AnyArray]:
        """Return the live arrays."""
        return {"center": self.center, "edges": self.edges, "table": self.table, "score": self.score}

    def restore(self, arrays: Arrays) -> None:
        """Take over copies of what `arrays` gave; ValueError for what cannot be."""
        check_like(_STORED, arrays, self.arrays())
        edges = arrays["edges"]
        refuse_if(
            _STORED,
            {
                "a center is not finite": not np.isfinite(arrays["center"]).all(),
                "edges do not ascend": not (edges[:, :-1] <= edges[:, 1:]).all() or bool(np.isnan(edges).any()),
                "a category has no bin": outside(arrays["table"], 0, self.count - 2),
                "a score is out of range": outside(arrays["score"], -SCORE_MAX, SCORE_MAX),
            },
        )
        fill(self.arrays(), arrays)


def equal_mass(counts: I64, groups_max: int) -> list[int]:
    """Cut counts (k) into at most so many groups of neighbours of about equal mass; return where each ends.

    One pass: a group is full with its share of what is left, and what is as large as that stands alone.
    """
    ends: list[int] = []
    left, mass = int(counts.sum()), 0
    for place, count in enumerate(counts.tolist()):
        rooms = groups_max - len(ends)
        if rooms <= 1:
            break
        if mass > 0 and count * rooms >= left:
            ends.append(place)
            left, mass, rooms = left - mass, 0, rooms - 1
        mass += count
        if mass > 0 and mass * rooms >= left > mass and rooms > 1:
            ends.append(place + 1)
            left, mass = left - mass, 0
    return [*ends, len(counts)] if not ends or ends[-1] < len(counts) else ends


def concentration(counts: I64) -> float:
    """Return the probability that two values are in one bin (Simpson 1949): the less, the more bins can show."""
    total = int(counts.sum())
    return 1.0 if total == 0 else float(np.square(counts / total).sum())


def _units(histogram: Histogram) -> I64:
    """Return the counts of buckets in the order of values: negative ones, zero, positive ones."""
    return np.concatenate([histogram.negative.counts[::-1], [histogram.zero_count], histogram.positive.counts])


def _lower(histogram: Histogram) -> float:
    """Return the largest double below all values."""
    low, high = histogram.negative, histogram.positive
    if len(low.counts):
        return math.nextafter(-_bound(low.end, histogram.scale), -math.inf)
    if histogram.zero_count == 0 and len(high.counts):
        return _bound(high.start, histogram.scale)
    return -_SMALLEST


def _upper(histogram: Histogram, place: int) -> float:
    """Return the largest double in the bucket that `_units` counts at a place."""
    low = histogram.negative
    above_zero = place - len(low.counts)
    if above_zero < 0:
        # A negative bucket [-h, -l) ends right below -l; zero takes what is subnormal.
        return math.nextafter(-_bound(low.end - 1 - place, histogram.scale), -math.inf)
    if above_zero == 0:
        return math.nextafter(_SMALLEST, 0.0)
    return _bound(histogram.positive.start + above_zero, histogram.scale)


def _bound(index: int, scale: int) -> float:
    return math.inf if index << (START_SCALE - scale) >= _BOUND_MAX else bucket_bound(index, scale)
