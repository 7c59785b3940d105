"""Half-space trees (Tan, Ting, Liu 2011, IJCAI, "Fast Anomaly Detection for Streaming Data") over flat arrays.

The walk is River 0.26's (`river/anomaly/hst.py`), bit for bit. Trees are perfect binary trees of height h in heap
order: node i has the children 2i + 1 and 2i + 2, the first 2^h - 1 nodes split, the last 2^h are leaves. Arrays:

* `feature` i32[T, 2^h - 1], `threshold` f64[T, 2^h - 1]: a row goes left when value < threshold;
* `learned_mass` i32[T, 2^(h+1) - 1]: visits in the current window (River's `l_mass`);
* `reference_mass`, same shape: visits in the last complete window (River's `r_mass`);
* `position` i64[2]: events in the current window, complete windows so far.

A missing value (NaN) goes to the child with more learned mass, left on a tie. A mass is the sum of those of the two
children, so the nodes with any mass form a subtree at the root: the pivot at the end of a window walks only that
(at most window x (h + 1) nodes a tree), never all 2^(h+1) nodes.

The walk that scores a row and the walk that learns it visit the same nodes, since learning adds to a node only after
its parent has been left, and trees share nothing. So one walk does both, trees are the outer loop (one pair stays in
the nearest cache), and two trees are walked at once to hide the latency of the loads. Masses are integers and their
sums stay under 2^53: exact in any order.
"""

import math

import numba
import numpy as np

from worker.core.kernels.arrays import F64, I32, I64

ROWS_PER_BLOCK = 256


@numba.njit(cache=True, nogil=True)
def score_and_learn(
    rows: F64,
    feature: I32,
    threshold: F64,
    learned_mass: I32,
    reference_mass: I32,
    position: I64,
    window_size: int,
    scores: F64,
) -> None:
    """Score, then learn, each row in order. O(n T h), and O(T min(2^h, window h)) at the end of each window.

    `rows` is f64[n, d] scaled to [0, 1], NaN = missing. `scores` f64[n] receives 1 - mass / largest mass: in [0, 1],
    higher is more anomalous; NaN while no window is complete (River says 0 there). Overwrites `learned_mass`,
    `reference_mass`, `position`. Any cut of the rows into calls gives the same bits.
    """
    n_rows = rows.shape[0]
    begin = 0
    while begin < n_rows:
        end = min(n_rows, begin + ROWS_PER_BLOCK, begin + window_size - position[0])
        block = scores[begin:end]
        _walk_all(rows[begin:end], feature, threshold, learned_mass, reference_mass, window_size, 1, block)
        if position[1] == 0:
            block[:] = np.nan
        position[0] += end - begin
        if position[0] == window_size:
            for tree in range(feature.shape[0]):
                _pivot(learned_mass[tree], reference_mass[tree])
            position[0] = 0
            position[1] += 1
        begin = end


@numba.njit(cache=True, nogil=True)
def score(
    rows: F64,
    feature: I32,
    threshold: F64,
    learned_mass: I32,
    reference_mass: I32,
    position: I64,
    window_size: int,
    scores: F64,
) -> None:
    """Score each row against the state as it is; learns nothing. Arrays as in `score_and_learn`. O(n T h)."""
    _walk_all(rows, feature, threshold, learned_mass, reference_mass, window_size, 0, scores)
    if position[1] == 0:
        scores[:] = np.nan


@numba.njit(cache=True, nogil=True, inline="always")
def _child(row: F64, node: np.uint64, feature: I32, threshold: F64, learned: I32) -> np.uint64:
    """Return the child of a split that the row goes to. Unsigned indices spare the check for negative ones."""
    left = node + node + np.uint64(1)
    value = row[np.uint64(feature[node])]
    if np.isnan(value):
        return left + np.uint64(learned[left] < learned[left + np.uint64(1)])
    return left + np.uint64(not value < threshold[node])


@numba.njit(cache=True, nogil=True)
def _height(n_splits: int) -> int:
    """Return h for 2^h - 1 splits."""
    height = 0
    while (1 << height) - 1 < n_splits:
        height += 1
    return height


@numba.njit(cache=True, nogil=True)
def _least_mass(window_size: int) -> int:
    """Return the mass under which scoring stops: River's float 0.1 x window, exact for integers when rounded up."""
    return math.ceil(0.1 * window_size)


@numba.njit(cache=True, nogil=True)
def _walk_all(
    rows: F64, feature: I32, threshold: F64, learned: I32, reference: I32, window_size: int, visits: int, scores: F64
) -> None:
    """Write the scores of the rows; add `visits` (1 = learn, 0 = do not) to the masses that each row meets. O(n T h).

    A score is 1 - mass / (what a row would get that meets the whole window in every node).
    """
    n_trees, n_nodes = learned.shape
    scores[:] = 0.0
    for a in range(0, n_trees - 1, 2):
        b = a + 1
        _walk_pair(
            rows,
            feature[a],
            threshold[a],
            learned[a],
            reference[a],
            feature[b],
            threshold[b],
            learned[b],
            reference[b],
            window_size,
            visits,
            scores,
        )
    if n_trees % 2 == 1:
        a = n_trees - 1
        _walk_one(rows, feature[a], threshold[a], learned[a], reference[a], window_size, visits, scores)
    largest = n_trees * window_size * n_nodes
    for i in range(scores.shape[0]):
        scores[i] = 1.0 - scores[i] / largest


@numba.njit(cache=True, nogil=True)
def _walk_pair(
    rows: F64,
    feature_a: I32,
    threshold_a: F64,
    learned_a: I32,
    reference_a: I32,
    feature_b: I32,
    threshold_b: F64,
    learned_b: I32,
    reference_b: I32,
    window_size: int,
    visits: int,
    masses: F64,
) -> None:
    """Add the mass of each row in two trees to `masses`: `_walk_one`, twice at once. O(n h)."""
    height = _height(feature_a.shape[0])
    least = _least_mass(window_size)
    zero = np.int64(0)
    for i in range(rows.shape[0]):
        row = rows[i]
        a = np.uint64(0)
        b = np.uint64(0)
        weight_a = np.int64(1)
        weight_b = np.int64(1)
        mass = np.int64(0)
        for _ in range(height):
            here_a = np.int64(reference_a[a])
            here_b = np.int64(reference_b[b])
            mass += here_a * weight_a + here_b * weight_b
            weight_a = weight_a + weight_a if here_a >= least else zero
            weight_b = weight_b + weight_b if here_b >= least else zero
            learned_a[a] += visits
            learned_b[b] += visits
            a = _child(row, a, feature_a, threshold_a, learned_a)
            b = _child(row, b, feature_b, threshold_b, learned_b)
        learned_a[a] += visits
        learned_b[b] += visits
        masses[i] += mass + reference_a[a] * weight_a + reference_b[b] * weight_b


@numba.njit(cache=True, nogil=True)
def _walk_one(
    rows: F64, feature: I32, threshold: F64, learned: I32, reference: I32, window_size: int, visits: int, masses: F64
) -> None:
    """Add the mass of each row in one tree to `masses`. O(n h).

    The weight of a node is 2^depth, and 0 below the first node with too little mass, where River's walk stops.
    """
    height = _height(feature.shape[0])
    least = _least_mass(window_size)
    zero = np.int64(0)
    for i in range(rows.shape[0]):
        row = rows[i]
        node = np.uint64(0)
        weight = np.int64(1)
        mass = np.int64(0)
        for _ in range(height):
            here = np.int64(reference[node])
            mass += here * weight
            weight = weight + weight if here >= least else zero
            learned[node] += visits
            node = _child(row, node, feature, threshold, learned)
        learned[node] += visits
        masses[i] += mass + reference[node] * weight


@numba.njit(cache=True, nogil=True)
def _pivot(learned: I32, reference: I32) -> None:
    """End a window in one tree: reference = learned, learned = 0. O(min(2^h, window h)).

    A walk in pre-order without a stack: to the left child while there is any mass (old or new), else on to the next
    subtree. Left children have odd numbers.
    """
    n_splits = learned.shape[0] // 2
    node = 0
    while True:
        any_mass = (learned[node] | reference[node]) != 0
        reference[node] = learned[node]
        learned[node] = 0
        if any_mass and node < n_splits:
            node = 2 * node + 1
            continue
        while node != 0 and node % 2 == 0:
            node = (node - 1) // 2
        if node == 0:
            return
        node += 1
