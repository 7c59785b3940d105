"""Which candidate to advise: the lowest faded loss, with hysteresis, the champion always among them.

The loss of each label is counted under the candidate's output when the event was predicted (prequential: Dawid 1984;
faded: Gama, Sebastiao, Rodrigues 2013, "On evaluating stream learning algorithms", section 4). For each pair of
candidates the mean difference of losses of each block of BLOCK_LABELS labels goes into faded sums of it and of its
square. At the end of a block the advice moves from a to the candidate b whose faded mean difference m(a, b) is largest
among those with

    m > errors * sqrt(v * W2) / W,    W, W2 = faded number of blocks and faded sum of squared weights,
                                      v = faded mean square of block means - m^2

so that a switch needs evidence. To the champion (0) it needs none: m > 0 is enough.

A missing loss counts as the champion's: a candidate that cannot answer yet would pass the champion's output on. A last
column, of loss 0, is kept beside the candidates: the difference to it is a candidate's own loss.

State, with k candidates:
open (k + 1)                sums of losses in the block that is open
means, squares (k+1 x k+1)  faded sums of mean differences of blocks, and of their squares
weights (2)                 W, W2
counts (4)                  as named below
"""

import math
from typing import NamedTuple

import numba

from worker.core.kernels.arrays import F64, I64

BLOCK_LABELS = 100
LOSS_MAX = 1e6
"""What a single loss counts at most: losses are in units of a scale that is fixed at the reference."""
LABELS, ADVISED, SWITCHES, RETURNS = range(4)
"""Labels counted; the candidate that is advised; how often that has changed, and how often to the champion."""
COUNTS = 4


class Pairs(NamedTuple):
    """The state of the ranking; see the top of this module."""

    open: F64
    means: F64
    squares: F64
    weights: F64
    counts: I64


@numba.njit(cache=True, nogil=True)
def standing(a: int, b: int, pairs: Pairs) -> tuple[float, float]:
    """Return the faded mean of (loss of a - loss of b), and its standard error; NaN before the first block."""
    if pairs.weights[0] <= 0.0:
        return math.nan, math.nan
    mean = pairs.means[a, b] / pairs.weights[0]
    variance = max(pairs.squares[a, b] / pairs.weights[0] - mean * mean, 0.0)
    return mean, math.sqrt(variance * pairs.weights[1]) / pairs.weights[0]


@numba.njit(cache=True, nogil=True)
def _end_block(fading: float, pairs: Pairs) -> None:
    """Put the block into the faded sums. O(k^2)."""
    pairs.weights[0] = pairs.weights[0] * fading + 1.0
    pairs.weights[1] = pairs.weights[1] * fading * fading + 1.0
    columns = pairs.open.shape[0]
    for a in range(columns):
        for b in range(columns):
            difference = (pairs.open[a] - pairs.open[b]) / BLOCK_LABELS
            pairs.means[a, b] = pairs.means[a, b] * fading + difference
            pairs.squares[a, b] = pairs.squares[a, b] * fading + difference * difference
    pairs.open[:] = 0.0


@numba.njit(cache=True, nogil=True)
def _better(errors: float, pairs: Pairs) -> int:
    """Return the candidate to advise from now on. O(k)."""
    advised = pairs.counts[ADVISED]
    best, largest = advised, 0.0
    for b in range(pairs.open.shape[0] - 1):
        mean, error = standing(advised, b, pairs)
        if mean > largest and (b == 0 or mean > errors * error):
            best, largest = b, mean
    return int(best)


@numba.njit(cache=True, nogil=True)
def rank_losses(losses: F64, begin: int, fading: float, errors: float, labels_min: int, pairs: Pairs) -> int:
    """Take rows[begin:] of losses (n x k, NaN = none) in order, up to the first after which another one is advised.

    Rows without a loss of the champion do not count. Returns that row (go on with the next one), or n. O(n k), O(k^2)
    more after each block. `fading` is that of a block.
    """
    n: int = losses.shape[0]
    candidates = losses.shape[1]
    counts = pairs.counts
    for row in range(begin, n):
        champion = losses[row, 0]
        if math.isnan(champion):
            continue
        for a in range(candidates):
            loss = losses[row, a]
            pairs.open[a] += min(champion if math.isnan(loss) else loss, LOSS_MAX)
        counts[LABELS] += 1
        if counts[LABELS] % BLOCK_LABELS == 0:
            _end_block(fading, pairs)
            if counts[LABELS] >= labels_min:
                best = _better(errors, pairs)
                if best != counts[ADVISED]:
                    counts[ADVISED] = best
                    counts[SWITCHES] += 1
                    counts[RETURNS] += best == 0
                    return row
    return n
