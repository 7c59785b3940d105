"""Path lengths in an isolation forest (Liu, Ting, Zhou 2008, ICDM) over packed nodes; scikit-learn's comparisons.

Trees are perfect binary trees of height h (a leaf further up is repeated below itself), so that a walk is h steps
without a test for the end, and a child is found by arithmetic: node k, from 1, has the children 2k and 2k + 1.

One node is one int64: its threshold in the upper half, the column that it asks in the lower half. The threshold is a
float32 whose bits are rewritten to an int32 of the same order (`-0.0` becomes `0.0`), and so are the values of rows:
one integer comparison then decides, exactly as the comparison of the floats does. scikit-learn compares float32
values x with float64 thresholds t; x <= t if and only if x <= (t rounded down to float32), so nothing is lost.

A missing value (NaN) goes left or right as each node says. Each feature therefore has two columns in a block: column
2j, where NaN is less than everything, and column 2j + 1, where it is more. The node names the one that it needs: by
where it begins in a block that is flat, column after column of ROWS_PER_BLOCK values. So the value of row i is found
by one addition, which is part of the load where i is a constant.
"""

import math

import numba
import numpy as np

from worker.core.kernels.arrays import F64, I16, I32, I64, U16, Bool

ROWS_PER_BLOCK = 128
FEW_ROWS = 8
"""So many rows are walked at once. A block of fewer has columns of this length."""
_MAGNITUDE = 0x7FFFFFFF
_INFINITY = 0x7F800000
_COLUMN = np.uint64(0xFFFFFFFF)
_SHRINK = np.uint64(4)
"""log2(ROWS_PER_BLOCK / FEW_ROWS): from the beginning of a column in a block to that in a block of few rows."""
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
            nodes[tree, split + 1] = (ordered_bits(threshold_bits[tree, split]) << 32) | (column * ROWS_PER_BLOCK)


@numba.njit(cache=True, nogil=True)
def unpack_nodes(nodes: I64, feature: I16, threshold_bits: I32, missing_left: Bool) -> None:
    """Undo `pack_nodes`, but for the sign of zero. O(T 2^h)."""
    n_trees, n_splits = feature.shape
    for tree in range(n_trees):
        for split in range(n_splits):
            node = nodes[tree, split + 1]
            column, ordered = (node & 0xFFFFFFFF) // ROWS_PER_BLOCK, node >> 32
            feature[tree, split] = column // 2
            missing_left[tree, split] = column % 2 == 0
            threshold_bits[tree, split] = ordered if ordered >= 0 else -ordered - (1 << 31)


@numba.njit(cache=True, nogil=True)
def score_rows(bits: I32, nodes: I64, leaves: U16, lengths: F64, denominator: float, scores: F64) -> None:
    """Write the anomaly scores 2^-(path length / denominator) of rows i32[n, d], the bits of float32. O(n T h).

    `nodes` i64[T, 2^h] from `pack_nodes`, `leaves` u16[T, 2^h] places in `lengths` f64[k], the different path lengths,
    `denominator` T x the average path length; 0 (trees of one row) gives 0.5, as in scikit-learn. Path lengths are
    added in the order of the trees: the blocks of rows, there to keep one tree and one block in the nearest cache,
    change no bit.
    """
    n_rows, n_features = bits.shape
    columns, fell = block_room(n_rows, n_features, nodes.shape[0])
    for begin in range(0, n_rows, ROWS_PER_BLOCK):
        end = min(n_rows, begin + ROWS_PER_BLOCK)
        find_leaves(bits[begin:end], nodes, columns, fell)
        sums = scores[begin:end]
        sums[:] = 0.0
        for tree in range(nodes.shape[0]):
            for i in range(end - begin):
                sums[i] += lengths[leaves[tree, np.uint64(fell[tree, i])]]
    for i in range(n_rows):
        scores[i] = exp2(-(scores[i] / denominator)) if denominator > 0.0 else 0.5


@numba.njit(cache=True, nogil=True)
def block_room(rows: int, features: int, trees: int) -> tuple[I64, I32]:
    """Return room for a block of at most so many rows: its columns, and the leaf of each row in each tree."""
    length = ROWS_PER_BLOCK if rows >= FEW_ROWS else FEW_ROWS
    return np.empty(2 * features * length, dtype=np.int64), np.empty((trees, length), dtype=np.int32)


@numba.njit(cache=True, nogil=True)
def find_leaves(bits: I32, nodes: I64, columns: I64, leaves: I32) -> None:
    """Write to `leaves` i32[T, n] the leaf of rows i32[n, d] in each tree; both rooms are of `block_room`. O(n T h)."""
    rows, trees, height = bits.shape[0], nodes.shape[0], height_of(nodes.shape[1])
    length = ROWS_PER_BLOCK if rows >= FEW_ROWS else FEW_ROWS
    _spread(bits, columns, length)
    rest = rows - rows % FEW_ROWS
    if rest > 0:
        for tree in range(trees):
            _walk(columns, nodes[tree], height, leaves[tree, :rest])
    for i in range(rest, rows):
        _walk_trees(columns, i, np.uint64(0) if rest > 0 else _SHRINK, nodes, height, leaves)


@numba.njit(cache=True, nogil=True)
def height_of(leaves: int) -> int:
    """Return h for 2^h leaves."""
    height = 0
    while (1 << height) < leaves:
        height += 1
    return height


@numba.njit(cache=True, nogil=True)
def _spread(bits: I32, columns: I64, length: int) -> None:
    """Fill a flat block: each value's ordered bits in the upper half, in the two columns of its feature."""
    for j in range(bits.shape[1]):
        low, high = columns[2 * j * length : (2 * j + 1) * length], columns[(2 * j + 1) * length : 2 * (j + 1) * length]
        for i in range(bits.shape[0]):
            value = bits[i, j]
            upper = ordered_bits(value) << 32
            is_missing = (value & _MAGNITUDE) > _INFINITY
            low[i] = np.int64(-(1 << 31)) << 32 if is_missing else upper
            high[i] = np.int64((1 << 31) - 1) << 32 if is_missing else upper


@numba.njit(cache=True, nogil=True, inline="always")
def _child(nodes: I64, columns: I64, i: np.uint64, k: np.uint64) -> np.uint64:
    """Return the child of node k that row i goes to. Unsigned indices spare the check for negative ones."""
    node = nodes[k]
    return (k << np.uint64(1)) + np.uint64(columns[(np.uint64(node) & _COLUMN) + i] > node)


@numba.njit(cache=True, nogil=True)
def _walk(columns: I64, nodes: I64, height: int, leaves: I32) -> None:
    """Find each row's leaf in one tree: eight rows at once hide the latency of the loads. O(n h)."""
    root = np.uint64(1)
    first = np.uint64(1 << height)
    for begin in range(0, leaves.shape[0], 8):
        i = np.uint64(begin)
        k0 = k1 = k2 = k3 = k4 = k5 = k6 = k7 = root
        for _ in range(height):
            k0 = _child(nodes, columns, i, k0)
            k1 = _child(nodes, columns, i + np.uint64(1), k1)
            k2 = _child(nodes, columns, i + np.uint64(2), k2)
            k3 = _child(nodes, columns, i + np.uint64(3), k3)
            k4 = _child(nodes, columns, i + np.uint64(4), k4)
            k5 = _child(nodes, columns, i + np.uint64(5), k5)
            k6 = _child(nodes, columns, i + np.uint64(6), k6)
            k7 = _child(nodes, columns, i + np.uint64(7), k7)
        for place, k in enumerate((k0, k1, k2, k3, k4, k5, k6, k7)):
            leaves[i + np.uint64(place)] = k - first


@numba.njit(cache=True, nogil=True)
def _walk_trees(columns: I64, row: int, shrink: np.uint64, nodes: I64, height: int, leaves: I32) -> None:
    """Find one row's leaves in all trees, eight trees at once where there are so many. O(T h).

    `shrink` is 0 in a block of ROWS_PER_BLOCK, _SHRINK in one of few rows.
    """
    i, root, first = np.uint64(row), np.uint64(1), np.uint64(1 << height)
    trees = nodes.shape[0]
    places = np.empty(8, dtype=np.uint64)
    for begin in range(0, trees, 8):
        count = min(8, trees - begin)
        places[:] = root
        for _ in range(height):
            for place in range(count):
                k = places[place]
                node = nodes[begin + place, k]
                column = (np.uint64(node) & _COLUMN) >> shrink
                places[place] = (k << np.uint64(1)) + np.uint64(columns[column + i] > node)
        for place in range(count):
            leaves[begin + place, i] = places[place] - first


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
