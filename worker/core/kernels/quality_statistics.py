"""Statistics of data quality: is a share larger than the learned one, a run too long, what is out of range.

**A share that rose** (missing, invalid, unseen, out of range, ...). k of n events of a window against K of N learned:
Fisher's exact test, one-sided (the hypergeometric tail), which is valid for a reference that is itself a sample. Real
streams come in bursts, so all four counts are first divided by the design effect phi (Rao, Scott 1992, "A simple method
for the analysis of clustered binary data", section 2): Pearson's chi-square of the learned blocks by its degrees of
freedom, at least 1, and more by three of its standard errors. Beside the test a rise needs a least effect, and a block
must exceed every block learned. Windows: the block, and the last W blocks together.

**A value that stays.** Runs of equal values that are at least a quarter as long as the longest are taken to have
exponential excesses (peaks over a threshold: Pickands 1975; the runs of one state of a Markov chain are exactly so). Of
R of them, all are at most `longest` with probability (1 - exp(-rate (longest - u)))^R, so where that is one in a
million is a lower bound of the rate, and a run of r within n events has a probability of at most
n R/N exp(-rate (r - u)). This holds for zeros that are 99 % of a feature, and for states that stick; with few runs
there is no alarm.

**A range**: 10 % and 90 % of the samples of blocks, the widest so far, widened by some of its widths. It follows what
moves slowly (trend, season, random walk), and is not moved by blocks that are found to be outside. How often
ordinary values lie outside is learned as a share, so heavy tails need no case of their own. Where nearly all
values are on one side of zero, the bound is little beyond it; where all are far from zero, a factor towards it.
"""

import math

import numba
import numpy as np

from worker.core.kernels.arrays import I64
from worker.core.kernels.quality import octave

_OTHER_SIDE_MIN, _OTHER_SIDE_MAX = 0.02, 0.1
"""Widths beyond zero that count as the other sign; between these, as far as the median is on this side."""
_FAR = 0.25
"""Widths from zero at which a factor towards zero counts."""
_FACTOR_MIN = 10.0
"""Least factor towards zero that is out of range."""
_DEVIATIONS = 3.0
_NEGLIGIBLE = 1e-17
_SUPPORT = 20
"""Fewer learned cases say nothing about how they cluster beyond what they show."""
_DOUBT = 1e-6
_TAIL_OCTAVES = 2


@numba.njit(cache=True, nogil=True)
def rise_probability(k: float, n: float, learned_k: float, learned_n: float, phi: float) -> float:
    """Return P(X >= k) for X hypergeometric: n drawn from all, k + K of which are cases; counts by phi. O(n)."""
    draws = max(int(np.round(n / phi)), 1)
    cases = min(int(np.floor(k / phi)), draws)
    before = int(np.ceil(learned_k / phi))
    others = max(int(np.round(learned_n / phi)), before, 1)
    if cases <= 0:
        return 1.0
    total = before + cases
    logarithm = (
        math.lgamma(draws + 1.0)
        - math.lgamma(cases + 1.0)
        - math.lgamma(draws - cases + 1.0)
        + math.lgamma(others + 1.0)
        - math.lgamma(before + 1.0)
        - math.lgamma(others - before + 1.0)
        - math.lgamma(others + draws + 1.0)
        + math.lgamma(total + 1.0)
        + math.lgamma(others + draws - total + 1.0)
    )
    # Relative to the first term, which can be too small for a double where all of it is not.
    term, tail = 1.0, 0.0
    for j in range(cases, min(draws, total) + 1):
        tail += term
        term *= (draws - j) * float(total - j) / ((j + 1.0) * (others - total + j + 1.0))
        if not term > _NEGLIGIBLE * tail:
            break
    return min(math.exp(min(logarithm + math.log(tail), 0.0)), 1.0)


@numba.njit(cache=True, nogil=True)
def design_effect(k: float, n: float, square: float, blocks: int) -> float:
    """Return by how much the counts of blocks vary more than independent events would; at least 1. O(1)."""
    share = k / n
    if blocks <= 1 or k <= 0.0 or share >= 1.0:
        return 1.0
    free = blocks - 1.0
    phi = (square - k * share) / (share * (1.0 - share)) / free
    if min(k, n - k) >= _SUPPORT:
        phi *= 1.0 + _DEVIATIONS * math.sqrt(2.0 / free)
    return max(phi, 1.0)


@numba.njit(cache=True, nogil=True)
def run_probability(run: int, longest: int, runs: I64, values: int, events: int) -> float:
    """Return a bound of the probability that there is a run of this length within `events` events. O(OCTAVES).

    `runs` (OCTAVES) counts runs of `values` values, the longest of which was `longest`.
    """
    first = max(octave(longest) - _TAIL_OCTAVES, 0)
    base = (1 << first) - 1
    tail = max(int(runs[first:].sum()), 1)
    rate = -math.log(-math.expm1(math.log(_DOUBT) / tail)) / max(longest - base, 1)
    return min(events * tail / max(values, 1) * math.exp(-rate * (run - base)), 1.0)


@numba.njit(cache=True, nogil=True)
def range_bounds(low: float, high: float, usual: float, widths: float, is_calm: int) -> tuple[float, float]:
    """Return between which values nothing is out of the range [low, high] with this median; else infinite. O(1).

    A column that is not calm wanders, like a random walk, and may come to zero and beyond.
    """
    width = high - low if low < high else abs(low)
    if low > high or width == 0.0:
        return -np.inf, np.inf
    least, most = low - widths * width, high + widths * width
    if is_calm == 0:
        return least, most
    other_side = max(min(abs(usual), _OTHER_SIDE_MAX * width), _OTHER_SIDE_MIN * width)
    if low >= 0.0:
        least = max(least, -other_side)
    if high <= 0.0:
        most = min(most, other_side)
    if low >= _FAR * width:
        least = max(least, low / max((high / low) ** widths, _FACTOR_MIN))
    if -high >= _FAR * width:
        most = min(most, high / max((low / high) ** widths, _FACTOR_MIN))
    return least, most
