"""Path lengths in an isolation forest (Liu, Ting, Zhou 2008, ICDM) over packed nodes; scikit-learn's comparisons.

Trees are perfect binary trees of height h (a leaf further up is repeated below itself), so that a walk is h steps
without a test for the end, and a child is found by arithmetic: node k, from 1, has the children 2k and 2k + 1.

One node is one int64: its threshold in the upper half, the column that it asks in the lower half. The threshold is a
float32 whose bits are rewritten to an int32 of the same order (`-0.0` becomes `0.0`), and so are the values of rows:
one integer comparison then decides, exactly as the comparison of the floats does. scikit-learn compares float32
values x with float64 thresholds t; x <= t if and only if x <= (t rounded down to float32), so nothing is lost.

A missing value (NaN) goes left or right as each node says. Each feature therefore has two columns in a block: column
2j, where NaN is less than everything, and column 2j + 1, where it is more. The node names the one that it needs.
"""

import math

import numba
import numpy as np

from worker.core.kernels.arrays import F64, I16, I32, I64, Bool

ROWS_PER_BLOCK = 192
_MAGNITUDE = 0x7FFFFFFF
_INFINITY = 0x7F800000
_COLUMN = 0xFFFFFFFF
# Taylor series of e^x: with |x| <= ln(2) / 2 the first term left out is under 2^-57.
_EXPONENTIAL = np.array([1.0 / math.factorial(k) for k in range(14)])
_LN_2 = math.log(2.0)


@numba.njit(cache=True, nogil=True)
def ordered_bits(bits: np.int32) -> np.int64:
    """Return an integer in the order of the float32 (not NaN) with these bits as an int32. Both zeros are 0."""
    return np.int64(bits) if bits >= 0 else -(np.int64(bits) & _MAGNITUDE)


@numba.njit(cache=True, nogil=True)
def pack_nodes(feature: I16, threshold_bits: I32, missing_left: Bool, nodes: I64) -> None:
    """Fill `nodes` i64[T, 2^h] from splits in heap order [T, 2^h - 1]; entry 0 stays unused. O(T 2^h)."""
    n_trees, n_splits = feature.shape
    for tree in range(n_trees):
        for split in range(n_splits):
            column = 2 * np.int64(feature[tree, split]) + (0 if missing_left[tree, split] else 1)
            nodes[tree, split + 1] = (ordered_bits(threshold_bits[tree, split]) << 32) | column


@numba.njit(cache=True, nogil=True)
def score_rows(bits: I32, nodes: I64, leaf_value: F64, denominator: float, scores: F64) -> None:
    """Write the anomaly scores 2^-(path length / denominator) of rows i32[n, d], the bits of float32. O(n T h).

    `nodes` i64[T, 2^h] from `pack_nodes`, `leaf_value` f64[T, 2^h] path lengths, `denominator` T x the average path
    length; 0 (trees of one row) gives 0.5, as in scikit-learn. Path lengths are added in the order of the trees: the
    blocks of rows, there to keep one tree and one block in the nearest cache, change no bit.
    """
    n_rows, n_features = bits.shape
    n_trees, n_leaves = nodes.shape
    height = 0
    while (1 << height) < n_leaves:
        height += 1
    columns = np.empty((min(ROWS_PER_BLOCK, n_rows), 2 * n_features), dtype=np.int64)
    scores[:] = 0.0
    for begin in range(0, n_rows, ROWS_PER_BLOCK):
        end = min(n_rows, begin + ROWS_PER_BLOCK)
        block = columns[: end - begin]
        spread(bits[begin:end], block)
        for tree in range(n_trees):
            _add_path_lengths(block, nodes[tree], leaf_value[tree], height, scores[begin:end])
    for i in range(n_rows):
        scores[i] = exp2(-(scores[i] / denominator)) if denominator > 0.0 else 0.5


@numba.njit(cache=True, nogil=True)
def spread(bits: I32, block: I64) -> None:
    """Fill `block` i64[n, 2d]: each value's ordered bits in the upper half, in the two columns of its feature."""
    for i in range(bits.shape[0]):
        for j in range(bits.shape[1]):
            value = bits[i, j]
            if (value & _MAGNITUDE) > _INFINITY:
                block[i, 2 * j] = np.int64(-(1 << 31)) << 32
                block[i, 2 * j + 1] = np.int64((1 << 31) - 1) << 32
            else:
                upper = ordered_bits(value) << 32
                block[i, 2 * j] = upper
                block[i, 2 * j + 1] = upper


@numba.njit(cache=True, nogil=True, inline="always")
def child(nodes: I64, row: I64, k: np.uint64) -> np.uint64:
    """Return the child of node k that the row goes to. Unsigned indices spare the check for negative ones."""
    node = nodes[k]
    return (k << np.uint64(1)) + np.uint64(row[np.uint64(node & _COLUMN)] > node)


@numba.njit(cache=True, nogil=True)
def _add_path_lengths(block: I64, nodes: I64, leaf_value: F64, height: int, sums: F64) -> None:
    """Add each row's path length in one tree to `sums`: eight rows at once hide the latency of the loads. O(n h)."""
    root = np.uint64(1)
    first_leaf = np.uint64(1 << height)
    n_rows = block.shape[0]
    in_eights = n_rows - n_rows % 8
    for i in range(0, in_eights, 8):
        k0 = k1 = k2 = k3 = k4 = k5 = k6 = k7 = root
        for _ in range(height):
            k0 = child(nodes, block[i], k0)
            k1 = child(nodes, block[i + 1], k1)
            k2 = child(nodes, block[i + 2], k2)
            k3 = child(nodes, block[i + 3], k3)
            k4 = child(nodes, block[i + 4], k4)
            k5 = child(nodes, block[i + 5], k5)
            k6 = child(nodes, block[i + 6], k6)
            k7 = child(nodes, block[i + 7], k7)
        sums[i] += leaf_value[k0 - first_leaf]
        sums[i + 1] += leaf_value[k1 - first_leaf]
        sums[i + 2] += leaf_value[k2 - first_leaf]
        sums[i + 3] += leaf_value[k3 - first_leaf]
        sums[i + 4] += leaf_value[k4 - first_leaf]
        sums[i + 5] += leaf_value[k5 - first_leaf]
        sums[i + 6] += leaf_value[k6 - first_leaf]
        sums[i + 7] += leaf_value[k7 - first_leaf]
    for i in range(in_eights, n_rows):
        k = root
        for _ in range(height):
            k = child(nodes, block[i], k)
        sums[i] += leaf_value[k - first_leaf]


@numba.njit(cache=True, nogil=True)
def exp2(exponent: float) -> float:
    """Return 2^exponent to about 1 ulp, by additions and multiplications alone: the same bits on every CPU.

    The pow of a C library and of numpy have variants per CPU, and numpy's vector loops need not agree with their
    remainder loops, which would make a score depend on its place in a batch.
    """
    whole = math.floor(exponent + 0.5)
    x = (exponent - whole) * _LN_2
    total = _EXPONENTIAL[13]
    for k in range(12, -1, -1):
        total = total * x + _EXPONENTIAL[k]
    return math.ldexp(total, int(whole))
