"""Sums of boosted regression trees (Friedman 2001, Annals of Statistics 29, algorithm 1) and their link functions.

Trees of a histogram ensemble ask few different thresholds of a column (scikit-learn: 255 at most). So each value of a
row is replaced once by its rank among the thresholds of its column, and each step of a walk compares two int16:
value <= threshold if and only if (number of thresholds < value) <= (rank of the threshold). Nothing is rounded.

One node is one int64: the rank of its threshold in the upper 16 bits, the column of ranks that it asks in the next 16,
its left child in the lower 32; the right child is the next node. A leaf is its own left child and sends all values
there, so a walk is as many steps as the tree is deep, without a test for the end.

A missing value (NaN) goes where each node says, as in `isolation.py`: a feature has two columns of ranks, 2j where NaN
is less than everything and 2j + 1 where it is more; the node names the one that it needs.
"""

import math

import numba
import numpy as np

from worker.core.kernels.arrays import F64, I16, I64, Bool
from worker.core.kernels.isolation import exp2

ROWS_PER_BLOCK = 192
RANK_MAX = 32_766
"""Largest rank of a threshold: one less than what a leaf and a missing value on its way right have."""
_ABOVE_ALL = 32_767
_PER_LN_2 = 1.0 / math.log(2.0)
_LOWEST, _HIGHEST = -1_000.0, 1_000.0
"""Exponents of 2 are cut to these: a probability of 2^-1000 is 0 for every purpose, and nothing overflows."""


@numba.njit(cache=True, nogil=True)
def pack_nodes(feature: I64, rank: I64, missing_left: Bool, left: I64, starts: I64, nodes: I64, depths: I64) -> None:
    """Fill `nodes` i64[m] and the depth of each tree `depths` i64[T]. O(m).

    `left` i64[m] counts from the tree's own start, is 0 in leaves and else beyond its node; `starts` i64[T + 1].
    """
    level = np.zeros(feature.shape[0], dtype=np.int64)
    for tree in range(depths.shape[0]):
        deepest = 0
        for k in range(starts[tree], starts[tree + 1]):
            if left[k] == 0:
                nodes[k] = (np.int64(_ABOVE_ALL) << 48) | k
                continue
            child = starts[tree] + left[k]
            column = 2 * feature[k] + (0 if missing_left[k] else 1)
            nodes[k] = (rank[k] << 48) | (column << 32) | child
            level[child] = max(level[child], level[k] + 1)
            level[child + 1] = max(level[child + 1], level[k] + 1)
            deepest = max(deepest, level[k] + 1)
        depths[tree] = deepest


@numba.njit(cache=True, nogil=True)
def rank_rows(rows: F64, thresholds: F64, first: I64, ranks: I16) -> None:
    """Fill `ranks` i16[n, 2d] from rows f64[n, d]. O(n d log u).

    Feature j has the ascending thresholds `thresholds[first[j]:first[j + 1]]`.
    """
    one = np.uint64(1)
    for i in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            value = rows[i, j]
            begin, length = np.uint64(first[j]), np.uint64(first[j + 1] - first[j])
            # Halves without a branch that hangs on the value: the way through a search is as good as random.
            while length > one:
                half = length >> one
                begin += half * np.uint64(thresholds[begin + half - one] < value)
                length -= half
            if length == one:
                begin += np.uint64(thresholds[begin] < value)
            rank = np.int64(begin) - first[j]
            is_missing = math.isnan(value)
            ranks[i, 2 * j] = -1 if is_missing else rank
            ranks[i, 2 * j + 1] = _ABOVE_ALL if is_missing else rank


@numba.njit(cache=True, nogil=True)
def raw_outputs(
    rows: F64, thresholds: F64, first: I64, nodes: I64, value: F64, starts: I64, depths: I64, baseline: F64, raw: F64
) -> None:
    """Write the sums of trees `raw` f64[n, k] for rows f64[n, d]. O(n (d log u + sum of depths)).

    Tree t adds to output t modulo k, in the order of the trees and from `baseline` f64[k] on, as in scikit-learn: the
    bits are the same, and the blocks of rows (one tree and one block stay in the nearest cache) change none.
    """
    n_rows, n_outputs = raw.shape
    ranks = np.empty((min(ROWS_PER_BLOCK, n_rows), 2 * rows.shape[1]), dtype=np.int16)
    for i in range(n_rows):
        for output in range(n_outputs):
            raw[i, output] = baseline[output]
    for begin in range(0, n_rows, ROWS_PER_BLOCK):
        end = min(n_rows, begin + ROWS_PER_BLOCK)
        block = ranks[: end - begin]
        rank_rows(rows[begin:end], thresholds, first, block)
        for tree in range(depths.shape[0]):
            _add_leaves(block, nodes, value, starts[tree], depths[tree], raw[begin:end, tree % n_outputs])


@numba.njit(cache=True, nogil=True, inline="always")
def _next(nodes: I64, row: I16, k: np.uint64) -> np.uint64:
    """Return the node that follows node k on the row's way. Unsigned indices spare the check for negative ones."""
    node = nodes[k]
    column = np.uint64((node >> 32) & 0xFFFF)
    return np.uint64(node & 0xFFFFFFFF) + np.uint64(np.int64(row[column]) > (node >> 48))


@numba.njit(cache=True, nogil=True)
def _add_leaves(block: I16, nodes: I64, value: F64, root: int, depth: int, sums: F64) -> None:
    """Add each row's leaf of one tree to `sums`: eight rows at once hide the latency of the loads. O(n depth)."""
    start = np.uint64(root)
    n_rows = block.shape[0]
    in_eights = n_rows - n_rows % 8
    for i in range(0, in_eights, 8):
        k0 = k1 = k2 = k3 = k4 = k5 = k6 = k7 = start
        for _ in range(depth):
            k0 = _next(nodes, block[i], k0)
            k1 = _next(nodes, block[i + 1], k1)
            k2 = _next(nodes, block[i + 2], k2)
            k3 = _next(nodes, block[i + 3], k3)
            k4 = _next(nodes, block[i + 4], k4)
            k5 = _next(nodes, block[i + 5], k5)
            k6 = _next(nodes, block[i + 6], k6)
            k7 = _next(nodes, block[i + 7], k7)
        sums[i] += value[k0]
        sums[i + 1] += value[k1]
        sums[i + 2] += value[k2]
        sums[i + 3] += value[k3]
        sums[i + 4] += value[k4]
        sums[i + 5] += value[k5]
        sums[i + 6] += value[k6]
        sums[i + 7] += value[k7]
    for i in range(in_eights, n_rows):
        k = start
        for _ in range(depth):
            k = _next(nodes, block[i], k)
        sums[i] += value[k]


# -------------------------------------------------------------------------------------------------------------- links


@numba.njit(cache=True, nogil=True)
def _exponential(x: float) -> float:
    """Return e^x with x cut to what stays finite; the same bits on every CPU (`isolation.exp2`)."""
    return exp2(min(max(x * _PER_LN_2, _LOWEST), _HIGHEST))


@numba.njit(cache=True, nogil=True)
def logistic(raw: F64, probabilities: F64) -> None:
    """Write 1 - p and p with p = 1 / (1 + e^-raw) to `probabilities` f64[n, 2] from raw f64[n, 1]. O(n)."""
    for i in range(raw.shape[0]):
        odds = _exponential(-abs(raw[i, 0]))
        larger, smaller = 1.0 / (1.0 + odds), odds / (1.0 + odds)
        is_second = raw[i, 0] >= 0.0
        probabilities[i, 0] = smaller if is_second else larger
        probabilities[i, 1] = larger if is_second else smaller


@numba.njit(cache=True, nogil=True)
def softmax(raw: F64, probabilities: F64) -> None:
    """Write e^raw over its sum to `probabilities` f64[n, k] from raw f64[n, k], k >= 1. O(n k)."""
    n_rows, n_outputs = raw.shape
    for i in range(n_rows):
        largest = raw[i, 0]
        for output in range(1, n_outputs):
            largest = max(largest, raw[i, output])
        total = 0.0
        for output in range(n_outputs):
            probabilities[i, output] = _exponential(raw[i, output] - largest)
            total += probabilities[i, output]
        for output in range(n_outputs):
            probabilities[i, output] /= total
