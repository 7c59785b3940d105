"""Exact sums of doubles as fixed-point integers, so that what was added can be taken away again without a trace.

A label that is a million times too large, and corrected later, would leave its rounding errors in a sum of doubles.
Here a sum is an integer in units of 2^-96, in lanes of 32 bits (a small superaccumulator: Neal 2015, arXiv:1505.05571;
Kulisch 2013). It does not depend on the order of what was added, and sums of several shards merge exactly.
"""

import math
from collections.abc import Iterable

import numba
import numpy as np

from worker.core.kernels.arrays import I64

LOWEST_BIT = -96
"""Of lane 0. What is below is cut off, the same when it is added and when it is taken away."""

LANE_BITS = 32
_MASK = (1 << LANE_BITS) - 1
_MANTISSA_BITS = 53
PARTS = 4


@numba.njit(cache=True, nogil=True)
def exact_add(lanes: I64, x: float, sign: int) -> None:
    """Add sign x to a sum i64[L]; |x| < 2^(32 (L - 4)) by contract, at most 2^30 calls between two `carry`. O(1)."""
    parts = np.empty(PARTS, dtype=np.int64)
    split(x, sign, parts)
    lane = parts[0]
    lanes[lane] += parts[1]
    lanes[lane + 1] += parts[2]
    lanes[lane + 2] += parts[3]


@numba.njit(cache=True, nogil=True)
def split(x: float, sign: int, parts: I64) -> None:
    """Put the lane where sign x begins, and what it adds to that and to the next two, into parts i64[PARTS]. O(1)."""
    parts[:] = 0
    mantissa, exponent = math.frexp(abs(x))
    m = np.int64(math.ldexp(mantissa, _MANTISSA_BITS))
    shift = exponent - _MANTISSA_BITS - LOWEST_BIT
    if shift < 0:
        if shift <= -_MANTISSA_BITS:
            return
        m >>= -shift
        shift = 0
    if x < 0.0:
        sign = -sign
    by = np.uint64(shift % LANE_BITS)
    low = np.uint64(m & _MASK) << by
    high = np.uint64(m >> LANE_BITS) << by
    parts[0] = shift // LANE_BITS
    parts[1] = sign * np.int64(low & np.uint64(_MASK))
    parts[2] = sign * (np.int64(low >> np.uint64(LANE_BITS)) + np.int64(high & np.uint64(_MASK)))
    parts[3] = sign * np.int64(high >> np.uint64(LANE_BITS))


@numba.njit(cache=True, nogil=True)
def carry(lanes: I64) -> None:
    """Bring a sum i64[L] into its one normal form: all lanes but the last in [0, 2^32). O(L)."""
    for lane in range(lanes.shape[0] - 1):
        over = lanes[lane] >> LANE_BITS
        lanes[lane] -= over << LANE_BITS
        lanes[lane + 1] += over


@numba.njit(cache=True, nogil=True)
def carry_all(sums: I64) -> None:
    """Bring sums i64[s, L] into their normal form. O(s L)."""
    for place in range(sums.shape[0]):
        carry(sums[place])


def exact_value(lanes: Iterable[int]) -> float:
    """Return a sum as the nearest double."""
    total = 0
    for lane in reversed(list(lanes)):
        total = (total << LANE_BITS) + int(lane)
    return total / (1 << -LOWEST_BIT)
