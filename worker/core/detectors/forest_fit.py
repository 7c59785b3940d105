"""Lets scikit-learn fit an isolation forest and flattens it; and answers the requests for fits of any model.

A fit is a pure function of its request, so a model may be fitted anywhere, stored as bytes, or fitted again on restore.
Nothing that scores events imports this or `svm_fit.py`: loading scikit-learn takes more than a second.
"""

import math
from typing import Any, Generic, TypeVar

import numpy as np
from sklearn import config_context
from sklearn.tree import ExtraTreeRegressor
from sklearn.utils.random import sample_without_replacement

from worker.core.detectors.isolation_forest import (
    FEATURES_MAX,
    SAMPLE_SIZE_MAX,
    TREES_MAX,
    ForestArrays,
    to_forest_rows,
)
from worker.core.detectors.refit import FittedHere, FittedModel, FitTicket, ForestRequest, RefitRequest, SvmRequest
from worker.core.detectors.svm_fit import fit_svm
from worker.core.kernels.arrays import F32, F64, I64

_LEAF = -1
_INT_MAX = np.iinfo(np.int32).max


_Fitted = TypeVar("_Fitted")


class InHand(Generic[_Fitted]):
    """A ticket of what is there already."""

    __slots__ = ("_fitted",)

    def __init__(self, fitted: _Fitted) -> None:
        self._fitted = fitted

    def result(self) -> _Fitted:
        """Return it."""
        return self._fitted


class _Refused(Generic[_Fitted]):
    """A ticket of what cannot be."""

    __slots__ = ("_error",)

    def __init__(self, error: ValueError) -> None:
        self._error = error

    def result(self) -> _Fitted:
        """Raise ValueError, with the reason."""
        raise self._error


class ModelInHand(InHand[FittedModel]):
    """A ticket of a detector's model that is there already."""

    __slots__ = ()


class InlineRefits:
    """A pool that fits at once in the calling thread: for replay, tests and the oracle. Same bytes as any."""

    def submit(self, request: RefitRequest) -> ModelInHand:
        """Fit now."""
        return ModelInHand(fit_request(request))

    def fit_challenger(self, request: FittedHere[_Fitted]) -> FitTicket[_Fitted]:
        """Fit now; a request beyond the limits is refused by the ticket's `result`."""
        try:
            return InHand(request.fit())
        except ValueError as error:
            return _Refused(error)


def fit_request(request: RefitRequest) -> FittedModel:
    """Fit the model that a request describes."""
    match request:
        case ForestRequest(rows, trees, sample_rows, seed):
            return fit_forest(rows, n_trees=trees, sample_size=sample_rows, seed=seed)
        case SvmRequest(rows, nu, gamma_factor):
            return fit_svm(rows, nu=nu, gamma_factor=gamma_factor)


def fit_forest(rows: F32 | F64, *, n_trees: int = 100, sample_size: int = 256, seed: int) -> ForestArrays:
    """Fit scikit-learn's isolation trees on rows [n, d] (n >= 1, NaN = missing): equal arguments, equal forest.

    Each tree sees min(sample_size, n) rows. Raises ValueError beyond the limits of this module.
    """
    n_rows, n_features = rows.shape
    if n_rows < 1 or not 1 <= n_features <= FEATURES_MAX:
        raise ValueError(f"a forest needs at least one row and 1 to {FEATURES_MAX} columns, got {rows.shape}")
    if not (1 <= n_trees <= TREES_MAX and 1 <= sample_size <= SAMPLE_SIZE_MAX):
        raise ValueError(f"a forest has 1 to {TREES_MAX} trees of 1 to {SAMPLE_SIZE_MAX} rows")
    sample_size = min(sample_size, n_rows)
    trees = _fit_trees(to_forest_rows(rows), n_trees, sample_size, seed)
    denominator = n_trees * float(average_path_length(np.array([sample_size]))[0])
    return _flatten(trees, n_features, denominator)


def _fit_trees(rows: F32, n_trees: int, sample_size: int, seed: int) -> list[Any]:
    """Fit scikit-learn's trees as its IsolationForest does with this seed: the same draws, the same trees, bit by bit.

    IsolationForest itself spends half of its time on cloning and inspecting estimators; for each of a hundred small
    trees that costs more than the tree. tests/core/test_isolation_forest.py holds the two against each other.
    """
    n_rows, n_features = rows.shape
    target: F64 = np.asarray(np.random.RandomState(seed).uniform(size=n_rows))
    height = math.ceil(math.log2(max(sample_size, 2)))
    trees = []
    with config_context(skip_parameter_validation=True):
        for tree_seed in np.random.RandomState(seed).randint(_INT_MAX, size=n_trees):
            draws = np.random.RandomState(tree_seed)
            sample_without_replacement(n_features, n_features, random_state=draws)  # the columns: all of them
            sample = np.sort(sample_without_replacement(n_rows, sample_size, random_state=draws))
            own_seed = np.random.RandomState(tree_seed).randint(_INT_MAX)
            tree = ExtraTreeRegressor(max_features=1, splitter="random", max_depth=height, random_state=own_seed)
            trees.append(tree.fit(rows[sample], target[sample], check_input=False).tree_)
    return trees


def average_path_length(n_rows: I64) -> F64:
    """Return the average path length of an unsuccessful search among so many rows (the paper's c(n), equation 1).

    With the harmonic number approximated as in scikit-learn, in the same operations, so that the bits are the same.
    """
    lengths = np.zeros(n_rows.shape)
    lengths[n_rows == 2] = 1.0  # noqa: PLR2004 (two rows are parted by one split)
    many = n_rows > 2  # noqa: PLR2004 (as above)
    n = n_rows[many]
    lengths[many] = 2.0 * (np.log(n - 1.0) + np.euler_gamma) - 2.0 * (n - 1.0) / n
    return lengths


def floor_to_float32(values: F64) -> F32:
    """Return the largest float32 that is not above each value (which is finite and in range)."""
    rounded = values.astype(np.float32)
    return np.where(rounded > values, np.nextafter(rounded, np.float32(-np.inf)), rounded)


def _flatten(trees: list[Any], n_features: int, denominator: float) -> ForestArrays:
    """Copy scikit-learn's trees, level by level over all trees at once, into perfect trees."""
    first = np.cumsum([0, *(tree.node_count for tree in trees)])
    left, right, feature, threshold, missing_left = (
        np.concatenate([getattr(tree, name) for tree in trees])
        for name in ("children_left", "children_right", "feature", "threshold", "missing_go_to_left")
    )
    depth = np.concatenate([tree.compute_node_depths() for tree in trees])
    value = depth + average_path_length(np.concatenate([tree.n_node_samples for tree in trees])) - 1.0
    is_leaf = left == _LEAF
    own = np.arange(len(left))
    base = np.repeat(first[:-1], np.diff(first))
    # A leaf is its own child from here on, and asks nothing: anything, missing too, goes left.
    left = np.where(is_leaf, own, left + base)
    right = np.where(is_leaf, own, right + base)
    feature = np.where(is_leaf, 0, feature)
    threshold = floor_to_float32(np.where(is_leaf, 0.0, threshold))
    threshold[is_leaf] = np.inf
    missing_left = missing_left.astype(np.bool_) | is_leaf
    level = first[:-1, np.newaxis]
    levels = []
    for _ in range(max(tree.max_depth for tree in trees)):
        levels.append(level)
        level = np.stack([left[level], right[level]], axis=2).reshape(len(trees), -1)
    splits = np.concatenate(levels, axis=1) if levels else np.empty((len(trees), 0), dtype=np.int64)
    return ForestArrays(
        n_features=n_features,
        feature=feature[splits].astype(np.int16),
        threshold=threshold[splits],
        missing_left=missing_left[splits],
        leaf_value=value[level],
        denominator=denominator,
    )
