"""Sums over histograms that are looked at after every few labels."""

import math

import numba

from worker.core.kernels.arrays import F64, I32, I64

NEGATIVES, POSITIVES, SCORES, HALVES, SQUARES = 0, 1, 2, 3, 4
"""Places in what `score_sums` gives."""
SCORE_SUMS = 5

_RANK_MIN = 1e-9


@numba.njit(cache=True, nogil=True)
def add_rows(counts: I32, rows: I64, total: F64) -> None:
    """Add rows of `counts` to `total`. O(rows x columns)."""
    for row in rows:
        for column in range(counts.shape[1]):
            total[column] += counts[row, column]


@numba.njit(cache=True, nogil=True)
def quantile_places(counts: F64, share: float, z: float, places: I64) -> float:
    """Put the buckets of a quantile q and of the ranks n q -+ z sqrt(n q (1 - q)) into `places` (3); return n. O(B).

    It is the first bucket up to which there are as many. Where n is 0 there is none.
    """
    n = 0.0
    for count in counts:
        n += count
    if n <= 0.0:
        return n
    spread = z * math.sqrt(n * share * (1.0 - share))
    rank, low, high = share * n, share * n - spread, share * n + spread
    places[0], places[1], places[2] = _bucket(counts, rank, n), _bucket(counts, low, n), _bucket(counts, high, n)
    return n


@numba.njit(cache=True, nogil=True)
def _bucket(counts: F64, rank: float, n: float) -> int:
    wanted, cumulated = min(max(rank, _RANK_MIN), n), 0.0
    for bucket in range(len(counts)):
        cumulated += counts[bucket]
        if cumulated >= wanted:
            return bucket
    return len(counts) - 1


@numba.njit(cache=True, nogil=True)
def score_sums(negatives: F64, positives: F64, middles: F64, halves: F64, sums: F64) -> None:
    """Put sums over bins of scores into `sums`: of counts n and p, of (n + p) m, (n + p) h, n m² + p (1 - m)². O(B)."""
    sums[:] = 0.0
    for place in range(len(middles)):
        no, yes, middle = negatives[place], positives[place], middles[place]
        sums[NEGATIVES] += no
        sums[POSITIVES] += yes
        sums[SCORES] += (no + yes) * middle
        sums[HALVES] += (no + yes) * halves[place]
        sums[SQUARES] += no * middle**2 + yes * (1.0 - middle) ** 2
