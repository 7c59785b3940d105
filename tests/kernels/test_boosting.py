"""Sums of boosted trees and their links: against naive twins, however the rows are cut."""

import math
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.kernels import boosting
from worker.core.kernels.arrays import F64
from worker.core.maintenance.boosted_arrays import BoostedArrays
from worker.core.maintenance.target import Target

VALUES = [-math.inf, -1e300, -1.5, -1.0, -5e-324, -0.0, 0.0, 1.0, np.nextafter(1.0, 2.0), 2.5, 1e300, math.inf]


class Node(NamedTuple):
    """A node of a naive tree; a leaf has no children."""

    feature: int
    threshold: float
    missing_left: bool
    value: float
    children: "tuple[Node, Node] | None"


def random_tree(rng: np.random.Generator, n_features: int, depth: int) -> Node:
    """A tree of any shape whose thresholds are values that rows have, too."""
    if depth == 0 or rng.random() < 0.3:
        return Node(0, 0.0, missing_left=False, value=float(rng.normal()), children=None)
    children = (random_tree(rng, n_features, depth - 1), random_tree(rng, n_features, depth - 1))
    feature, threshold = int(rng.integers(n_features)), float(rng.choice(VALUES))
    return Node(feature, threshold, bool(rng.integers(2)), 0.0, children)


def flat(trees: list[Node], n_features: int, n_raw: int, baseline: F64) -> BoostedArrays:
    """The same trees as arrays, each level by level."""
    starts, nodes, left = [0], [], []
    for root in trees:
        queue, own = [root], 0
        while own < len(queue):
            node = queue[own]
            left.append(len(queue) if node.children else 0)
            queue.extend(node.children or ())
            own += 1
        nodes += queue
        starts.append(len(nodes))
    return BoostedArrays(
        n_features=n_features,
        target=Target(0, ()) if n_raw == 1 else Target(n_raw, tuple(range(n_raw))),
        baseline=baseline,
        starts=np.array(starts, dtype=np.int64),
        feature=np.array([node.feature for node in nodes], dtype=np.int16),
        threshold=np.array([node.threshold for node in nodes], dtype=np.float64),
        left=np.array(left, dtype=np.int32),
        missing_left=np.array([node.missing_left for node in nodes], dtype=np.bool_),
        value=np.array([node.value for node in nodes], dtype=np.float64),
    )


def leaf_of(node: Node, row: F64) -> float:
    """The naive walk."""
    while node.children:
        value = row[node.feature]
        goes_left = node.missing_left if math.isnan(value) else value <= node.threshold
        node = node.children[0 if goes_left else 1]
    return node.value


def naive_raw(trees: list[Node], baseline: F64, rows: F64) -> F64:
    """The naive twin of the kernel: one row and one tree at a time."""
    raw = np.tile(baseline, (len(rows), 1))
    for i, row in enumerate(rows):
        for number, tree in enumerate(trees):
            raw[i, number % len(baseline)] += leaf_of(tree, row)
    return raw


@given(
    n_rows=st.integers(0, 60),
    n_features=st.integers(1, 4),
    n_raw=st.sampled_from([1, 3, 4]),
    iterations=st.integers(0, 6),
    depth=st.integers(0, 6),
    cut=st.integers(0, 60),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_sums_equal_the_naive_walk(
    n_rows: int, n_features: int, n_raw: int, iterations: int, depth: int, cut: int, seed: int
) -> None:
    """Ties, both zeros, the least float, infinities and missing values: the same bits, through bytes and any cut."""
    rng = np.random.default_rng(seed)
    trees = [random_tree(rng, n_features, depth) for _ in range(iterations * n_raw)]
    baseline = rng.normal(size=n_raw)
    rows = rng.choice([*VALUES, math.nan, math.nan], size=(n_rows, n_features))
    arrays = BoostedArrays.from_bytes(flat(trees, n_features, n_raw, baseline).to_bytes())
    expected = naive_raw(trees, baseline, rows)
    np.testing.assert_array_equal(arrays.raw(rows), expected)
    np.testing.assert_array_equal(np.concatenate([arrays.raw(rows[:cut]), arrays.raw(rows[cut:])]), expected)


def test_blocks_change_nothing() -> None:
    """More rows than a block has, in one call and one by one: the same bits."""
    rng = np.random.default_rng(1)
    trees = [random_tree(rng, 3, 7) for _ in range(10)]
    arrays = flat(trees, 3, 1, np.zeros(1))
    rows = rng.choice([*VALUES, math.nan], size=(2 * boosting.ROWS_PER_BLOCK + 5, 3))
    one_by_one = np.concatenate([arrays.raw(row[np.newaxis]) for row in rows])
    np.testing.assert_array_equal(arrays.raw(rows), one_by_one)
    np.testing.assert_array_equal(one_by_one, naive_raw(trees, np.zeros(1), rows))


def test_a_chain_of_leaves_is_walked_to_its_end() -> None:
    """A tree as deep as it has splits reaches its last leaf."""
    node = Node(0, 0.0, missing_left=False, value=200.0, children=None)
    for step in range(199, -1, -1):
        left = Node(0, 0.0, missing_left=False, value=float(step), children=None)
        node = Node(0, float(step), missing_left=False, value=0.0, children=(left, node))
    rows = np.arange(-0.5, 200.5)[:, np.newaxis]
    np.testing.assert_array_equal(flat([node], 1, 1, np.zeros(1)).raw(rows)[:, 0], np.ceil(rows[:, 0]))


@settings(deadline=None)
@given(st.lists(st.floats(-800.0, 800.0), min_size=1, max_size=40))
def test_logistic_is_the_formula(raw: list[float]) -> None:
    """Both probabilities are right to 1e-14, in [0, 1], and add up to one."""
    column, probabilities = np.array(raw)[:, np.newaxis], np.empty((len(raw), 2))
    boosting.logistic(column, probabilities)
    expected = [1.0 / (1.0 + math.exp(-x)) if x > -700.0 else 0.0 for x in raw]
    np.testing.assert_allclose(probabilities[:, 1], expected, rtol=0.0, atol=1e-14)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=0.0, atol=1e-15)
    assert ((probabilities >= 0.0) & (probabilities <= 1.0)).all()


@pytest.mark.parametrize("spread", [1.0, 50.0, 1e6, 1e90])
@pytest.mark.parametrize("n_outputs", [1, 3, 7])
def test_softmax_is_the_formula(n_outputs: int, spread: float) -> None:
    """Probabilities are right to 1e-14 and finite, however far apart the raw outputs are."""
    raw = np.random.default_rng(2).normal(scale=spread, size=(50, n_outputs))
    probabilities = np.empty_like(raw)
    boosting.softmax(raw, probabilities)
    powers = np.exp(raw - raw.max(axis=1, keepdims=True))
    np.testing.assert_allclose(probabilities, powers / powers.sum(axis=1, keepdims=True), rtol=0.0, atol=1e-14)
