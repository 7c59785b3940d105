"""Clusters of a sample of rows: as many as there are gaps between.

k-means finds k clusters in anything, so k has to be found, too. Here it begins with too many clusters, fitted to every
other row, and joins those between which there is no gap. Whether there is one, the rest of the rows tell, to which the
centres owe nothing: along the line between two centres, somewhere there must be less than half as many rows as around
either centre (a dip as in Hartigan & Hartigan 1985, "The dip test of unimodality", here as counts in strips). A single
bell or a flat stretch that k-means has cut has its most, or as many, rows at the cut.
"""

from typing import NamedTuple

import numpy as np

from worker.core.kernels import kmeans
from worker.core.kernels.arrays import F64, I64
from worker.core.kernels.scale import CENTRE

ROUNDS = 25
RESTARTS = 4
GAP = 0.5
"""Rows in the middle against those around a centre: less is a gap."""
SUPPORT_MIN = 8
"""Rows of the other half that a cluster needs around its centre."""
_STRIPS = 13
_WINDOW = 3


class Clusters(NamedTuple):
    """Centres f64[d, k], and for each row (n) its cluster, -1 = it has no values, and the squared distance to it."""

    centres: F64
    places: I64
    squares: F64

    @property
    def number(self) -> int:
        """Number of clusters."""
        return int(self.centres.shape[1])

    @property
    def sizes(self) -> I64:
        """Rows of each cluster."""
        return np.bincount(self.places[self.places >= 0], minlength=self.number)


def fit_clusters(rows: F64, count: int, seed: int) -> Clusters:
    """Return at most `count` clusters of rows f64[n, d] (NaN = missing): the best of RESTARTS seeded starts.

    Fewer where there are not so many different rows; none without any value. O(RESTARTS ROUNDS n d count).
    """
    rows = np.ascontiguousarray(rows)
    usual = _usual(rows)
    state = np.full(1, seed, dtype=np.uint64)
    distances, squares = np.empty(count), np.empty(len(rows))
    best, least = np.empty((rows.shape[1], 0)), np.inf
    for _ in range(RESTARTS):
        centres = np.zeros((rows.shape[1], count))
        found = kmeans.spread(rows, usual, count, state, distances, squares, centres)
        centres = np.ascontiguousarray(centres[:, :found])
        total = _iterate(rows, centres)
        if total < least:
            best, least = centres, total
    return assigned(rows, best)


def assigned(rows: F64, centres: F64) -> Clusters:
    """Return the rows f64[n, d] as members of the clusters with these centres f64[d, k]."""
    places, squares = np.empty(len(rows), dtype=np.int64), np.empty(len(rows))
    kmeans.assign(np.ascontiguousarray(rows), centres, centres.shape[1], np.empty(centres.shape[1]), places, squares)
    return Clusters(centres, places, squares)


def separated_clusters(rows: F64, count_max: int, seed: int) -> Clusters:
    """Return the clusters of rows f64[n, d] between which there are gaps: 1 to `count_max` of them.

    None when no row has a value.
    """
    judges, learners = np.ascontiguousarray(rows[1::2]), np.ascontiguousarray(rows[::2])
    centres = fit_clusters(learners, count_max, seed).centres
    while centres.shape[1] > 1:
        pair = _least_separated(judges, centres)
        if pair is None:
            break
        centres = _joined(learners, centres, pair)
        _iterate(learners, centres)
    _iterate(rows, centres)
    return assigned(rows, centres)


def _iterate(rows: F64, centres: F64) -> float:
    """Move centres f64[d, k] in place; return the sum of the squared distances."""
    count = centres.shape[1]
    places, squares = np.empty(len(rows), dtype=np.int64), np.empty(len(rows))
    known = np.zeros(centres.shape, dtype=np.int64)
    total: float = kmeans.iterate(
        np.ascontiguousarray(rows),
        ROUNDS,
        np.empty(count),
        places,
        squares,
        np.empty(centres.shape),
        known,
        centres,
        count,
    )
    return total


def _usual(rows: F64) -> F64:
    """Return the median of each column, CENTRE where there is none."""
    usual = np.full(rows.shape[1], CENTRE)
    for column in range(rows.shape[1]):
        values = rows[~np.isnan(rows[:, column]), column]
        if len(values):
            usual[column] = np.median(values)
    return usual


def _least_separated(rows: F64, centres: F64) -> tuple[int, int] | None:
    """Return the pair of clusters with the fullest middle among those without a gap; None: all are separated."""
    count = centres.shape[1]
    places = assigned(rows, centres).places
    strips = np.zeros(_STRIPS, dtype=np.int64)
    worst, pair = GAP, None
    for one in range(count):
        for other in range(one + 1, count):
            kmeans.count_along(rows, places, centres, one, other, strips)
            fullness = _fullness(strips)
            if fullness >= worst:
                worst, pair = fullness, (one, other)
    return pair


def _fullness(strips: I64) -> float:
    """Return the rows at the emptiest place between two centres over those around the emptier centre.

    Two standard errors (Poisson) are added: a gap has to be seen, not only possible. Infinite without support.
    """
    sums = np.convolve(strips, np.ones(_WINDOW, dtype=np.int64), mode="valid")
    around = int(min(sums[0], sums[-1]))
    if around < SUPPORT_MIN:
        return np.inf
    middle = int(sums[_WINDOW:-_WINDOW].min())
    return float((middle + 2.0 * np.sqrt(middle)) / around)


def _joined(rows: F64, centres: F64, pair: tuple[int, int]) -> F64:
    """Return the centres with two of them made one: the mean of their rows."""
    one, other = pair
    sizes = assigned(rows, centres).sizes
    both = np.maximum(sizes[[one, other]], 1)
    joined = np.delete(centres, other, axis=1)
    joined[:, one] = (centres[:, one] * both[0] + centres[:, other] * both[1]) / both.sum()
    return np.ascontiguousarray(joined)
