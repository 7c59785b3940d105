"""Half-space trees with a logarithmic score, a gate and a memory: same trees as in `half_space.py`, other bookkeeping.

Tan, Ting, Liu 2011 add up mass x 2^depth, which a few dense trees dominate. Here each tree says

    -log2(1 + mass x 2^depth)    of the node where the walk ends,

that is, minus the logarithm of the density there, and the trees are averaged. A walk ends at a leaf, or at the first
node with less than a tenth of the window.

Within a window no score depends on what is learned in it. So all that a row needs of a tree is the leaf it falls into,
and that leaf's value is looked up; learning counts rows in leaves. Sums over nodes are made once, when a window ends.
Arrays, for T trees of height h, L = 2^h leaves:

* `nodes` i64[T, L]: splits, packed as in `isolation.py` (a row goes left when value <= threshold; entry 0 is not used);
  a missing value goes to the child that had more mass in the last window, left on a tie;
* `values` f32[T, L]: what a row in this leaf scores;
* `learned` i32[T, L]: rows in this window; `masses` f32[T, L]: rows of the windows before, faded;
* `position` i64[3]: rows learned in this window, complete windows so far, rows that the gate passed over.
"""

import math

import numba
import numpy as np

from worker.core.kernels.arrays import F32, F64, I16, I32, I64, U64
from worker.core.kernels.gate import GateArrays, admits
from worker.core.kernels.isolation import ROWS_PER_BLOCK, block_room, find_leaves, height_of
from worker.core.kernels.reservoir import next_random

LEARNED, WINDOWS, PASSED = 0, 1, 2
PADDING = 0.15
"""A threshold lies in the middle 70 % of its node's range (River's `padding`)."""
_LEAST_SHARE = 0.1
"""A walk ends at a node with less than this share of all mass (River's `size_limit`)."""


@numba.njit(cache=True, nogil=True)
def _uniform(random_state: U64) -> float:
    """Return a random number in [0, 1)."""
    return np.float64(next_random(random_state) >> np.uint64(11)) * 2.0**-53


@numba.njit(cache=True, nogil=True)
def draw(random_state: U64, feature: I16, threshold: F32, features: int) -> None:
    """Draw trees as River does (`river/anomaly/hst.py`), in heap order i16 and f32 [T, L - 1]. O(T L (d + h)).

    A node asks a feature with a probability that is the width of its range there, at a threshold uniform in the middle
    of that range. The root's ranges are [0, 1].
    """
    low = np.zeros(features)
    high = np.ones(features)
    for tree in range(feature.shape[0]):
        for split in range(feature.shape[1]):
            _enter(split, feature[tree], threshold[tree], low, high)
            total = 0.0
            for j in range(features):
                total += high[j] - low[j]
            rest = _uniform(random_state) * total
            asked = 0
            while asked < features - 1 and rest >= high[asked] - low[asked]:
                rest -= high[asked] - low[asked]
                asked += 1
            width = high[asked] - low[asked]
            share = PADDING + (1.0 - 2.0 * PADDING) * _uniform(random_state)
            feature[tree, split] = asked
            threshold[tree, split] = low[asked] + share * width
            _leave(split, feature[tree], low, high)


@numba.njit(cache=True, nogil=True)
def _enter(split: int, feature: I16, threshold: F32, low: F64, high: F64) -> None:
    """Narrow the ranges f64[d], which are [0, 1], to those of a node: from the node up, the nearest split counts."""
    node = split
    while node > 0:
        parent = (node - 1) // 2
        asked = feature[parent]
        if node == 2 * parent + 1:
            high[asked] = min(high[asked], threshold[parent])
        else:
            low[asked] = max(low[asked], threshold[parent])
        node = parent


@numba.njit(cache=True, nogil=True)
def _leave(split: int, feature: I16, low: F64, high: F64) -> None:
    """Make the ranges that `_enter` narrowed [0, 1] again."""
    node = split
    while node > 0:
        node = (node - 1) // 2
        low[feature[node]] = 0.0
        high[feature[node]] = 1.0


@numba.njit(cache=True, nogil=True)
def score_and_learn(
    bits: I32,
    nodes: I64,
    values: F32,
    learned: I32,
    masses: F32,
    position: I64,
    window_size: int,
    fade: float,
    settle: int,
    gate: GateArrays,
    scores: F64,
) -> None:
    """Score, then learn, each row i32[n, d] (the bits of float32 in [0, 1]) in order. O(n T h), O(T L) a window.

    Scores are as in `score`. A row is learned if the gate admits it; the first `settle` rows are not asked. A window
    ends when `window_size` rows were learned. A block has at most as many rows as the window still takes, so it ends
    only where a block does. Any cut of the rows into calls gives the same bits.
    """
    columns, leaves = block_room(bits.shape[0], bits.shape[1], nodes.shape[0])
    admitted = np.empty(leaves.shape[1], dtype=np.int32)
    begin = 0
    while begin < bits.shape[0]:
        end = min(bits.shape[0], begin + ROWS_PER_BLOCK, begin + window_size - position[LEARNED])
        rows = end - begin
        _score_block(bits[begin:end], nodes, values, columns, leaves, scores[begin:end])
        if position[WINDOWS] == 0:
            scores[begin:end] = np.nan
        for i in range(rows):
            seen = position[LEARNED] + position[WINDOWS] * window_size + position[PASSED]
            score = scores[begin + i]
            is_admitted = seen < settle or math.isnan(score) or admits(score, gate)
            admitted[i] = is_admitted
            position[LEARNED if is_admitted else PASSED] += 1
        for tree in range(nodes.shape[0]):
            for i in range(rows):
                learned[tree, leaves[tree, i]] += admitted[i]
        if position[LEARNED] == window_size:
            position[LEARNED] = 0
            position[WINDOWS] += 1
            end_window(learned, masses, fade)
            renew(nodes, masses, window_size, values)
        begin = end


@numba.njit(cache=True, nogil=True)
def score(bits: I32, nodes: I64, values: F32, position: I64, scores: F64) -> None:
    """Write the mean of the trees' values for rows i32[n, d], NaN while no window is complete. O(n T h).

    Higher is more anomalous: 0 where there was no row in any tree, down to -log2(1 + window x 2^h). Learns nothing.
    """
    columns, leaves = block_room(bits.shape[0], bits.shape[1], nodes.shape[0])
    for begin in range(0, bits.shape[0], ROWS_PER_BLOCK):
        end = min(bits.shape[0], begin + ROWS_PER_BLOCK)
        _score_block(bits[begin:end], nodes, values, columns, leaves, scores[begin:end])
    if position[WINDOWS] == 0:
        scores[:] = np.nan


@numba.njit(cache=True, nogil=True)
def end_window(learned: I32, masses: F32, fade: float) -> None:
    """Let the masses fade, add what was learned, and begin to count anew. O(T L)."""
    for tree in range(learned.shape[0]):
        for leaf in range(learned.shape[1]):
            masses[tree, leaf] = np.float32(fade) * masses[tree, leaf] + np.float32(learned[tree, leaf])
            learned[tree, leaf] = 0


@numba.njit(cache=True, nogil=True)
def renew(nodes: I64, masses: F32, window_size: int, values: F32) -> None:
    """Write the values of the leaves, and the ways of missing values into the nodes, from the masses. O(T L).

    Masses are taken relative to all of them, times the window: what has not faded yet does not raise the density.
    """
    leaves = masses.shape[1]
    height = height_of(leaves)
    sums = np.empty(2 * leaves)
    for tree in range(masses.shape[0]):
        sums[leaves:] = masses[tree]
        for node in range(leaves - 1, 0, -1):
            sums[node] = sums[2 * node] + sums[2 * node + 1]
            goes_right = sums[2 * node] < sums[2 * node + 1]
            nodes[tree, node] = (nodes[tree, node] | ROWS_PER_BLOCK) - (0 if goes_right else ROWS_PER_BLOCK)
        least = _LEAST_SHARE * sums[1]
        unit = window_size / sums[1] if sums[1] > 0.0 else 0.0
        node, depth = 1, 0
        # In pre-order without a stack: down to the left while a walk would go on, else over to the next subtree.
        while True:
            if depth < height and sums[node] >= least:
                node, depth = 2 * node, depth + 1
                continue
            first = (node << (height - depth)) - leaves
            value = np.float32(-math.log2(1.0 + sums[node] * unit * (1 << depth)))
            values[tree, first : first + (1 << (height - depth))] = value
            while node > 1 and node % 2 == 1:
                node, depth = node // 2, depth - 1
            if node <= 1:
                break
            node += 1


@numba.njit(cache=True, nogil=True)
def _score_block(bits: I32, nodes: I64, values: F32, columns: I64, leaves: I32, scores: F64) -> None:
    """Write the mean of the values of the leaves of each row, and the leaves, as `isolation.find_leaves`. O(n T h)."""
    find_leaves(bits, nodes, columns, leaves)
    scores[:] = 0.0
    for tree in range(nodes.shape[0]):
        for i in range(bits.shape[0]):
            scores[i] += values[tree, np.uint64(leaves[tree, i])]
    for i in range(bits.shape[0]):
        scores[i] /= nodes.shape[0]
