"""Grows isolation trees: scikit-learn's ExtraTreeRegressor(max_features=1) on random targets, bit by bit.

A tree is grown depth first, the left child first. At a node one feature that is not constant there is drawn, and a
threshold between its least and its largest value (Geurts, Ernst, Wehenkel 2006, with one feature, is Liu, Ting, Zhou
2008). The targets decide nothing but when a node counts as pure, or a split as harmful, within rounding errors; that
happens in one forest of some thousands, and is why the sums here have scikit-learn's order.

scikit-learn takes 47 ms for a forest of 100 such trees, next to all of it around the growing; this takes 6.5 ms.
"""

import numba
import numpy as np

from worker.core.kernels import mersenne
from worker.core.kernels.arrays import F32, F64, I16, I64, U32, Bool

_INT_MAX = 2**31 - 1
_EPSILON = 2.0**-52
_CONSTANT = np.float32(1e-7)
"""A feature whose values at a node differ by no more counts as constant."""


@numba.njit(cache=True, nogil=True)
def grow_trees(
    rows: F32,
    target: F64,
    seeds: I64,
    sample_size: int,
    height: int,
    feature: I16,
    threshold: F64,
    missing_left: Bool,
    leaf_rows: I64,
    leaf_depth: I64,
) -> int:
    """Grow a tree from each of T seeds, on a sample of `rows` f32[n, d] of its own; return the largest depth.

    Splits go to `feature`, `threshold`, `missing_left` [T, 2^h - 1] in heap order, which come as those of leaves: 0,
    infinity, True. What a leaf has, the number of its rows and its depth, goes to all places [T, 2^h] below it.
    O(T (n + sample_size x h)).
    """
    state: U32 = np.zeros(mersenne.WORDS + 1, dtype=np.uint32)
    sample: I64 = np.zeros(sample_size, dtype=np.int64)
    table: F32 = np.zeros((rows.shape[1], sample_size), dtype=np.float32)
    deepest = 0
    for tree in range(len(seeds)):
        mersenne.seed_words(state, seeds[tree])
        mersenne.sample_places(state, len(rows), sample)
        for place in range(sample_size):
            table[:, place] = rows[sample[place]]
        # Each of scikit-learn's layers seeds a generator of its own by the first draw of the one above.
        mersenne.seed_words(state, seeds[tree])
        mersenne.seed_words(state, mersenne.below(state, _INT_MAX))
        draws: U32 = np.full(1, mersenne.below(state, _INT_MAX), dtype=np.uint32)
        splits = feature[tree], threshold[tree], missing_left[tree]
        deepest = max(deepest, _grow(table, target[sample], draws, height, splits, leaf_rows[tree], leaf_depth[tree]))
    return deepest


@numba.njit(cache=True, nogil=True)
def _grow(
    table: F32,
    target: F64,
    draws: U32,
    height: int,
    splits: tuple[I16, F64, Bool],
    leaf_rows: I64,
    leaf_depth: I64,
) -> int:
    """Grow one tree on `table` f32[d, k]; return its depth."""
    feature, threshold, missing_left = splits
    n_features, n_rows = table.shape
    samples, values = np.arange(n_rows), np.zeros(n_rows, dtype=np.float32)
    features, constants = np.arange(n_features), np.zeros(n_features, dtype=np.int64)
    # Nodes that wait: begin and end in `samples`, depth, place in the heap, features known as constant; impurity.
    nodes, impurities = np.zeros((height + 2, 5), dtype=np.int64), np.zeros(height + 2)
    nodes[0] = (0, n_rows, 0, 0, 0)
    total, squares = _sums(target, samples, 0, n_rows)
    impurities[0] = squares / n_rows - (total / n_rows) * (total / n_rows)
    waiting, deepest = 1, 0
    while waiting:
        waiting -= 1
        begin, end, depth, place, known = nodes[waiting]
        impurity = impurities[waiting]
        deepest = max(deepest, depth)
        cut = end
        if depth < height and end - begin > 1 and not impurity <= _EPSILON:
            total, squares = _sums(target, samples, begin, end)
            split = _draw_split(table, samples, values, begin, end, features, constants, known, draws)
            cut = split[0]
            if cut < end:
                left, right = _impurities(target, samples, begin, cut, end, total, squares)
                n_node, n_left, n_right = float(end - begin), float(cut - begin), float(end - cut)
                gain = (n_node / n_rows) * (impurity - (n_right / n_node * right) - (n_left / n_node * left))
                if gain + _EPSILON < 0.0:
                    cut = end
        if cut >= end:
            below = height - depth
            first = (place + 1 - (1 << depth)) << below
            leaf_rows[first : first + (1 << below)] = end - begin
            leaf_depth[first : first + (1 << below)] = depth
            continue
        _, feature[place], threshold[place], missing_left[place], known = split
        nodes[waiting] = (cut, end, depth + 1, 2 * place + 2, known)
        impurities[waiting] = right
        nodes[waiting + 1] = (begin, cut, depth + 1, 2 * place + 1, known)
        impurities[waiting + 1] = left
        waiting += 2
    return deepest


@numba.njit(cache=True, nogil=True)
def _draw(draws: U32) -> int:
    """Return 31 random bits (Marsaglia 2003, xorshift)."""
    word = int(draws[0]) if draws[0] else 1
    word ^= (word << 13) & 0xFFFFFFFF
    word ^= word >> 17
    word ^= (word << 5) & 0xFFFFFFFF
    draws[0] = word
    return word & _INT_MAX


@numba.njit(cache=True, nogil=True)
def _draw_split(
    table: F32,
    samples: I64,
    values: F32,
    begin: int,
    end: int,
    features: I64,
    constants: I64,
    known: int,
    draws: U32,
) -> tuple[int, int, float, bool, int]:
    """Part samples[begin:end] at random; return where, the feature, the threshold, and where a missing value goes.

    And how many features are constant at this node. Where is `end` if there is no split. Features are drawn without
    replacement until one is not constant:

        features   drawn, known as constant | known as constant | found to be constant | not drawn
                                            drawn          known                       known + found
    """
    left, found, drawn = len(features), 0, 0
    cut, threshold, missing_left, feature = end, 0.0, False, 0
    while left > known + found:
        other = drawn + _draw(draws) % (left - found - drawn)
        if other < known:
            features[drawn], features[other] = features[other], features[drawn]
            drawn += 1
            continue
        other += found
        feature = features[other]
        least, largest, missing = _range(table[feature], samples, values, begin, end)
        if missing == end - begin or (largest <= least + _CONSTANT and missing == 0):
            features[other], features[known + found] = features[known + found], feature
            found += 1
            continue
        left -= 1
        features[left], features[other] = features[other], features[left]
        low, high = np.float64(least), np.float64(largest)
        threshold = (high - low) * np.float64(_draw(draws)) / np.float64(_INT_MAX) + low
        missing_left = missing > 0 and _draw(draws) % 2 == 1
        if threshold == high:
            threshold = low
        cut = _part(samples, values, begin, end, threshold, missing_left)
        if missing == 0:
            missing_left = cut - begin > end - cut
        break
    if cut == begin:
        cut = end
    features[:known] = constants[:known]
    constants[known : known + found] = features[known : known + found]
    return cut, feature, threshold, missing_left, known + found


@numba.njit(cache=True, nogil=True)
def _range(column: F32, samples: I64, values: F32, begin: int, end: int) -> tuple[np.float32, np.float32, int]:
    """Copy the column's values of samples[begin:end]; return the least, the largest, and how many are missing."""
    least, largest, missing = np.float32(np.inf), np.float32(-np.inf), 0
    for place in range(begin, end):
        value = column[samples[place]]
        values[place] = value
        if np.isnan(value):
            missing += 1
        else:
            least, largest = min(least, value), max(largest, value)
    return least, largest, missing


@numba.njit(cache=True, nogil=True)
def _part(samples: I64, values: F32, begin: int, end: int, threshold: float, missing_left: bool) -> int:  # noqa: FBT001 (a kernel's scalar)
    """Bring those that go left to the front, by swaps from the end; return where the others begin."""
    while begin < end:
        value = values[begin]
        if missing_left if np.isnan(value) else value <= threshold:
            begin += 1
        else:
            end -= 1
            values[begin], values[end] = values[end], values[begin]
            samples[begin], samples[end] = samples[end], samples[begin]
    return end


@numba.njit(cache=True, nogil=True)
def _sums(target: F64, samples: I64, begin: int, end: int) -> tuple[float, float]:
    """Return the sum of the targets of samples[begin:end], and of their squares."""
    total, squares = 0.0, 0.0
    for place in range(begin, end):
        value = target[samples[place]]
        total += value
        squares += value * value
    return total, squares


@numba.njit(cache=True, nogil=True)
def _impurities(
    target: F64, samples: I64, begin: int, cut: int, end: int, total: float, squares: float
) -> tuple[float, float]:
    """Return the variances of the targets left and right of a cut, from the sums of both."""
    left = 0.0
    if cut - begin <= end - cut:
        for place in range(begin, cut):
            left += target[samples[place]]
    else:
        left = total
        for place in range(end - 1, cut - 1, -1):
            left -= target[samples[place]]
    _, squares_left = _sums(target, samples, begin, cut)
    n_left, n_right = float(cut - begin), float(end - cut)
    right = total - left
    return (
        squares_left / n_left - (left / n_left) * (left / n_left),
        (squares - squares_left) / n_right - (right / n_right) * (right / n_right),
    )
