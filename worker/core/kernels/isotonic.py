"""Isotonic regression: the non-decreasing values nearest to given ones, by pooling adjacent violators."""

import math

import numba

from worker.core.kernels.arrays import F64, I64


@numba.njit(cache=True, nogil=True)
def pool_adjacent_violators(values: F64, weights: F64, starts: I64, means: F64, masses: F64) -> int:
    """Return the number of pools, and put where each starts, its mean and its weight in.

    Minimises sum w (fit - value)² over non-decreasing fits (Ayer et al. 1955; Barlow et al. 1972). Equal neighbours
    are one pool. Weights must be above 0. O(N).

    Args:
        values: f64[N], in the order of x.
        weights: f64[N].
        starts: i64[N], filled in.
        means: f64[N], filled in.
        masses: f64[N], filled in.
    """
    pools = 0
    for place in range(values.shape[0]):
        starts[pools], means[pools], masses[pools] = place, values[place], weights[place]
        pools += 1
        while pools > 1 and means[pools - 2] >= means[pools - 1]:
            mass = masses[pools - 2] + masses[pools - 1]
            means[pools - 2] = (masses[pools - 2] * means[pools - 2] + masses[pools - 1] * means[pools - 1]) / mass
            masses[pools - 2] = mass
            pools -= 1
    return pools


@numba.njit(cache=True, nogil=True)
def join_pools(starts: I64, means: F64, masses: F64, pools: int, pools_max: int) -> int:
    """Join neighbours until there are at most `pools_max`; return how many there are.

    Each time those two are joined that add least to the sum of squares (Ward 1963): w1 w2 / (w1 + w2) (m2 - m1)².
    The fit stays non-decreasing. O(pools²), and nothing where there are few enough.
    """
    while pools > pools_max:
        least, chosen = math.inf, 0
        for place in range(pools - 1):
            gap = means[place + 1] - means[place]
            cost = masses[place] * masses[place + 1] / (masses[place] + masses[place + 1]) * gap * gap
            if cost < least:
                least, chosen = cost, place
        mass = masses[chosen] + masses[chosen + 1]
        means[chosen] = (masses[chosen] * means[chosen] + masses[chosen + 1] * means[chosen + 1]) / mass
        masses[chosen] = mass
        for place in range(chosen + 1, pools - 1):
            starts[place], means[place], masses[place] = starts[place + 1], means[place + 1], masses[place + 1]
        pools -= 1
    return pools


@numba.njit(cache=True, nogil=True)
def interpolated(x: float, knots_x: F64, knots_y: F64, knots: int) -> float:
    """Return y at x on straight lines between knots of ascending x; constant beyond the ends. O(log knots)."""
    if x <= knots_x[0]:
        return float(knots_y[0])
    if x >= knots_x[knots - 1]:
        return float(knots_y[knots - 1])
    low, high = 0, knots - 1
    while high - low > 1:
        middle = (low + high) // 2
        if knots_x[middle] <= x:
            low = middle
        else:
            high = middle
    width = knots_x[high] - knots_x[low]
    if width <= 0.0:
        return float(knots_y[high])
    return float(knots_y[low] + (knots_y[high] - knots_y[low]) * ((x - knots_x[low]) / width))
