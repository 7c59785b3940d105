"""Where quantiles lie in exponential histograms (`statistics.histogram`), of all columns of a pane at once."""

import math

import numba

from worker.core.kernels.accumulate import NEGATIVE, POSITIVE
from worker.core.kernels.arrays import F64, I64, U32


@numba.njit(cache=True, nogil=True)
def find_quantiles(buckets: U32, zero_counts: I64, shares: F64, used: I64, places: I64) -> None:
    """Find which buckets are in use, and where quantiles lie. O(c B q).

    Args:
        buckets: u32[c, 2, B], as `accumulate` fills them.
        zero_counts: i64[c].
        shares: f64[q], each in [0, 1].
        used: i64[c, 2, 2], filled in: for each sign the first bucket that is not 0 and the one after the last; 0, 0.
        places: i64[c, q], filled in: i + 1 for the positive bucket i, -i - 1 for the negative one, 0 for zero.
    """
    for column in range(buckets.shape[0]):
        own = buckets[column]
        total = zero_counts[column]
        for sign in (NEGATIVE, POSITIVE):
            first, end, found = _used(own[sign])
            used[column, sign, 0], used[column, sign, 1] = first, end
            total += found
        for place in range(shares.shape[0]):
            rank = min(max(math.ceil(shares[place] * total), 1), total)
            places[column, place] = _place(own, zero_counts[column], used[column], rank)


@numba.njit(cache=True, nogil=True)
def _used(counts: U32) -> tuple[int, int, int]:
    first, end, total = 0, 0, 0
    for place in range(counts.shape[0]):
        if counts[place] > 0:
            if end == 0:
                first = place
            end = place + 1
            total += counts[place]
    return first, end, total


@numba.njit(cache=True, nogil=True)
def _place(buckets: U32, zero_count: int, used: I64, rank: int) -> int:
    """Return the first place, in the order of values, up to which there are so many."""
    seen = 0
    for place in range(used[NEGATIVE, 1] - 1, used[NEGATIVE, 0] - 1, -1):
        seen += buckets[NEGATIVE, place]
        if seen >= rank:
            return -place - 1
    seen += zero_count
    if seen >= rank:
        return 0
    for place in range(used[POSITIVE, 0], used[POSITIVE, 1]):
        seen += buckets[POSITIVE, place]
        if seen >= rank:
            return place + 1
    return 0
