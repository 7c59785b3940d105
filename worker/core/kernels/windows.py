"""What is done at the end of each block of drift's windows, while nothing is out of the ordinary."""

import numba

from worker.core.kernels.arrays import F64, I8, I16, I64, U32, Bool
from worker.core.kernels.binning import add_differences, sum_blocks
from worker.core.kernels.two_sample import ODD, PSI, compare

PRIOR_BLOCKS = 16.0
"""Successive differences of blocks against what autocorrelation of events explains: a prior of 16 blocks says "all"."""
SQUARE_MAX = 25.0
DIFFERENCES_MAX = 512.0
ODD_MAX = 3.0
"""What is within three deviations is no alarm at any level that may be spent in one look."""


@numba.njit(cache=True, nogil=True)
def learn_differences(
    ring: U32, blocks: int, score: I16, spread: F64, affected: I8, design: F64, differences: F64, factors: F64
) -> None:
    """Learn by how much the last two of `blocks` blocks (ring: blocks_max x c x b) differ; renew the factors. O(c b).

    `factors` (2 x c) are the design effects, `design` (2 x c), times what `differences` (2 x c) of blocks show beyond
    what autocorrelation of events explains, which is at least 1. Columns that are affected (>= 0) are not learned.
    `score` (c x b) and `spread` (c) are the scores of the bins, and their variance.
    """
    size, columns, _ = ring.shape
    if min(blocks, size) > 1:
        newest = (blocks - 1) % size
        variance = spread * design[0]
        older, newer = ring[(newest - 1) % size], ring[newest]
        add_differences(older, newer, score, variance, affected < 0, SQUARE_MAX, differences)
        for j in range(columns):
            if differences[0, j] >= DIFFERENCES_MAX:
                differences[0, j] /= 2.0
                differences[1, j] /= 2.0
    renew_factors(design, differences, factors)


@numba.njit(cache=True, nogil=True)
def renew_factors(design: F64, differences: F64, factors: F64) -> None:
    """Set the factors (2 x c) by which variances are larger than those of independent events. O(c)."""
    for j in range(design.shape[1]):
        more = max((PRIOR_BLOCKS + differences[1, j]) / (PRIOR_BLOCKS + differences[0, j]), 1.0)
        factors[0, j] = design[0, j] * more
        factors[1, j] = design[1, j] * more


@numba.njit(cache=True, nogil=True)
def look(
    ring: U32,
    blocks: int,
    first: int,
    lengths: I64,
    latest_length: int,
    reference: I64,
    is_ordered: Bool,
    factors: F64,
    affected: I8,
    unspent: F64,
    latest_psi: F64,
    window: I64,
    found: F64,
) -> int:
    """Look at the windows that are due after `blocks` blocks, from lengths[first] on. O(c b) for each, and its blocks.

    Return the place of the first length at which something is odd, or a column is affected: `window` (c x b) has its
    counts then, `found` what `compare` finds. The number of lengths when all is calm. What may be spent (`unspent`) is
    spent where nothing is odd. `latest_psi` (c) is that of the window of `latest_length` blocks, or of the longest one.
    """
    size, columns, _ = ring.shape
    lengths_count: int = lengths.shape[0]
    full = 1
    while 2 * full <= blocks:
        full *= 2
    for k in range(first, lengths_count):
        length = lengths[k]
        if blocks < length or blocks % max(length // 2, 1) != 0:
            continue
        sum_blocks(ring, (blocks - 1) % size, min(length, blocks, size), window)
        compare(reference, window, is_ordered, factors[0], factors[1], found)
        if length == min(latest_length, full):
            latest_psi[:] = found[:, PSI]
        is_calm = True
        for j in range(columns):
            is_calm = is_calm and found[j, ODD] <= ODD_MAX and affected[j] != k
        if not is_calm:
            return k
        unspent[k] = 0.0
    return lengths_count
