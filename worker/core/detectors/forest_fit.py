"""Fits isolation forests, tree by tree those of scikit-learn; and answers the requests for fits of any model.

A fit is a pure function of its request, so a model may be fitted anywhere, stored as bytes, or fitted again on restore.
scikit-learn itself, which takes more than a second to load, is asked for support vector machines alone.
"""

import math
from typing import Generic, TypeVar

import numpy as np

from worker.core.detectors.isolation_forest import (
    FEATURES_MAX,
    SAMPLE_SIZE_MAX,
    TREES_MAX,
    ForestArrays,
    to_forest_rows,
)
from worker.core.detectors.refit import FittedHere, FittedModel, FitTicket, ForestRequest, RefitRequest, SvmRequest
from worker.core.kernels.arrays import F32, F64, I16, I64
from worker.core.kernels.extra_trees import grow_trees

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
            from worker.core.detectors.svm_fit import fit_svm  # noqa: PLC0415 - loads scikit-learn: over a second

            return fit_svm(rows, nu=nu, gamma_factor=gamma_factor)


def fit_forest(rows: F32 | F64, *, n_trees: int = 100, sample_size: int = 256, seed: int) -> ForestArrays:
    """Fit scikit-learn's isolation trees on rows [n, d] (n >= 1, NaN = missing): equal arguments, equal forest.

    Its IsolationForest and this, given the same seed, draw the same and have the same trees, bit by bit
    (tests/kernels/test_extra_trees.py). Each tree sees min(sample_size, n) rows. Raises ValueError beyond the limits of
    this module.
    """
    n_rows, n_features = rows.shape
    if n_rows < 1 or not 1 <= n_features <= FEATURES_MAX:
        raise ValueError(f"a forest needs at least one row and 1 to {FEATURES_MAX} columns, got {rows.shape}")
    if not (1 <= n_trees <= TREES_MAX and 1 <= sample_size <= SAMPLE_SIZE_MAX):
        raise ValueError(f"a forest has 1 to {TREES_MAX} trees of 1 to {SAMPLE_SIZE_MAX} rows")
    sample_size = min(sample_size, n_rows)
    # As scikit-learn draws them.
    target: F64 = np.asarray(np.random.RandomState(seed).uniform(size=n_rows))
    seeds = np.random.RandomState(seed).randint(_INT_MAX, size=n_trees)
    height = math.ceil(math.log2(max(sample_size, 2)))
    feature: I16 = np.zeros((n_trees, 2**height - 1), dtype=np.int16)
    threshold, missing_left = np.full(feature.shape, np.inf), np.ones(feature.shape, dtype=np.bool_)
    leaf_rows, leaf_depth = np.zeros((2, n_trees, 2**height), dtype=np.int64)
    deepest = grow_trees(
        to_forest_rows(rows),
        target,
        seeds,
        sample_size,
        height,
        feature,
        threshold,
        missing_left,
        leaf_rows,
        leaf_depth,
    )
    # Perfect trees are no higher than the deepest one.
    splits, leaves = slice(2**deepest - 1), slice(None, None, 2 ** (height - deepest))
    lengths = average_path_length(np.arange(sample_size + 1))
    return ForestArrays(
        n_features=n_features,
        feature=feature[:, splits].copy(),
        threshold=floor_to_float32(threshold[:, splits]),
        missing_left=missing_left[:, splits].copy(),
        leaf_value=(leaf_depth[:, leaves] + 1) + lengths[leaf_rows[:, leaves]] - 1.0,
        denominator=n_trees * float(lengths[sample_size]),
    )


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
