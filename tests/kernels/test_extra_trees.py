"""Isolation trees are grown as scikit-learn grows them, draw by draw, and so are the generators below them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn.ensemble import IsolationForest
from sklearn.tree import ExtraTreeRegressor
from sklearn.utils.random import sample_without_replacement

from worker.core.detectors.forest_fit import average_path_length, fit_forest, floor_to_float32
from worker.core.detectors.isolation_forest import ForestArrays, to_forest_rows
from worker.core.kernels import mersenne
from worker.core.kernels.arrays import F32, F64, I64
from worker.core.kernels.extra_trees import grow_trees

INT_MAX = 2**31 - 1


def rows_of(n_rows: int, n_features: int, missing: float, seed: int) -> F32:
    """Columns on different scales; some values, rows and whole columns are equal, some values missing."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(n_rows, n_features)) * 10.0 ** generator.integers(-9, 6, size=n_features)
    rows[:, 0] = np.round(rows[:, 0], 1)
    if seed % 3 == 0:
        rows[:, n_features // 2] = 1.0
    if seed % 5 == 0:
        rows = rows[generator.integers(0, 1 + n_rows // 8, n_rows)]
    rows[generator.random(rows.shape) < missing] = np.nan
    return to_forest_rows(rows)


def flattened(trees: list[Any], n_features: int, denominator: float) -> ForestArrays:
    """The oracle: scikit-learn's own trees, node by node in Python, as perfect trees in heap order."""
    height = max(tree.max_depth for tree in trees)
    feature = np.zeros((len(trees), 2**height - 1), dtype=np.int16)
    threshold, missing_left = np.full(feature.shape, np.inf), np.ones(feature.shape, dtype=np.bool_)
    leaf_value = np.zeros((len(trees), 2**height))
    for number, tree in enumerate(trees):
        nodes = [(0, 0, 0)]
        while nodes:
            node, place, depth = nodes.pop()
            if tree.children_left[node] == -1:
                first = (place + 1 - 2**depth) * 2 ** (height - depth)
                length = depth + 1 + average_path_length(tree.n_node_samples[node : node + 1]) - 1.0
                leaf_value[number, first : first + 2 ** (height - depth)] = length
                continue
            feature[number, place], threshold[number, place] = tree.feature[node], tree.threshold[node]
            missing_left[number, place] = tree.missing_go_to_left[node]
            nodes.append((tree.children_left[node], 2 * place + 1, depth + 1))
            nodes.append((tree.children_right[node], 2 * place + 2, depth + 1))
    return ForestArrays(n_features, feature, floor_to_float32(threshold), missing_left, leaf_value, denominator)


def sklearn_forest(rows: F32, n_trees: int, sample_size: int, seed: int) -> ForestArrays:
    """The reference."""
    size = min(sample_size, len(rows))
    forest = IsolationForest(n_estimators=n_trees, max_samples=size, random_state=seed).fit(rows)
    denominator = n_trees * float(average_path_length(np.array([size]))[0])
    return flattened([tree.tree_ for tree in forest.estimators_], rows.shape[1], denominator)


@given(
    n_rows=st.integers(1, 80),
    n_features=st.integers(1, 6),
    n_trees=st.integers(1, 6),
    sample_size=st.integers(1, 80),
    missing=st.sampled_from([0.0, 0.1, 0.6, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=30, deadline=None)
def test_grows_the_very_trees_of_scikit_learn(
    n_rows: int, n_features: int, n_trees: int, sample_size: int, missing: float, seed: int
) -> None:
    """Splits, leaves and ways of missing values are those of scikit-learn's IsolationForest, bit by bit."""
    rows = rows_of(n_rows, n_features, missing, seed % 997)
    forest = fit_forest(rows, n_trees=n_trees, sample_size=sample_size, seed=seed)
    assert forest.to_bytes() == sklearn_forest(rows, n_trees, sample_size, seed).to_bytes()


def test_a_forest_of_the_usual_size_is_scikit_learns() -> None:
    """100 trees of 256 of 2,048 rows, 5 % missing."""
    rows = rows_of(2048, 10, 0.05, 4)
    assert fit_forest(rows, seed=4).to_bytes() == sklearn_forest(rows, 100, 256, 4).to_bytes()


@pytest.mark.parametrize(("population", "size"), [(1000, 10), (1000, 11), (1000, 989), (1000, 990), (7, 7), (1, 1)])
def test_samples_are_scikit_learns(population: int, size: int) -> None:
    """However large the share of a sample is, and on both sides of where the algorithm changes."""
    sample: I64 = np.zeros(size, dtype=np.int64)
    state = np.zeros(mersenne.WORDS + 1, dtype=np.uint32)
    for seed in range(5):
        mersenne.seed_words(state, seed)
        mersenne.sample_places(state, population, sample)
        expected = sample_without_replacement(population, size, random_state=np.random.RandomState(seed))
        assert_array_equal(sample, np.sort(expected))


@given(seed=st.integers(0, 2**32 - 1), bounds=st.lists(st.integers(1, INT_MAX), min_size=1, max_size=700))
@settings(max_examples=20, deadline=None)
def test_draws_are_numpys(seed: int, bounds: list[int]) -> None:
    """Integers below any bound are those of RandomState, beyond the first 624 words, too."""
    state = np.zeros(mersenne.WORDS + 1, dtype=np.uint32)
    mersenne.seed_words(state, seed)
    reference = np.random.RandomState(seed)
    assert [mersenne.below(state, bound) for bound in bounds] == [reference.randint(bound) for bound in bounds]


def alike(targets: F64, step: float, seed: int) -> F64:
    """Targets of which half are equal, or differ by rounding errors only."""
    generator = np.random.default_rng(seed)
    near = 0.7 + step * generator.integers(-2, 3, len(targets))
    return np.where(generator.random(len(targets)) < 0.5, near, targets)


@pytest.mark.parametrize(("step", "scale"), [(0.0, 1), (1e-16, 1), (1e-9, 1), (1e-8, 1), (3e-8, 1), (1e-9, 1000)])
def test_nodes_whose_targets_are_nearly_equal_end_where_scikit_learn_ends_them(step: float, scale: int) -> None:
    """A node counts as pure, and a split as harmful, by the rounding errors that scikit-learn makes.

    The targets of a forest are random and at most 1, so it happens in few of them.
    """
    n_rows, height = 16, 4
    for seed in range(300):
        generator = np.random.default_rng(seed)
        rows = generator.integers(0, 4, (n_rows, 3)).astype(np.float32)
        target = scale * alike(generator.random(n_rows), step, seed)
        feature = np.zeros((1, 2**height - 1), dtype=np.int16)
        threshold, missing_left = np.full(feature.shape, np.inf), np.ones(feature.shape, dtype=np.bool_)
        leaf_rows, leaf_depth = np.zeros((2, 1, 2**height), dtype=np.int64)
        outputs = feature, threshold, missing_left, leaf_rows, leaf_depth
        deepest = grow_trees(rows, target, np.array([seed]), n_rows, height, *outputs)
        own_seed = np.random.RandomState(seed).randint(INT_MAX)
        tree = ExtraTreeRegressor(max_features=1, max_depth=height, random_state=own_seed).fit(rows, target).tree_
        assert deepest == tree.max_depth
        expected = flattened([tree], 3, 1.0)
        expected_feature, expected_threshold, _ = expected.splits()
        assert_array_equal(floor_to_float32(threshold[:, : 2**deepest - 1]), expected_threshold)
        assert_array_equal(feature[:, : 2**deepest - 1], expected_feature)
