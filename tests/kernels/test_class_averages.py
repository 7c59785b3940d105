"""The averages over classes that limits look at, beside the same in numpy, written from the formulas."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.kernels.arrays import F64
from worker.core.kernels.class_averages import FOUND, HIGH, LOW, SUPPORT, VALUE, f1_macro
from worker.core.performance.confusion import Confusion, f1_estimates

MATRICES = st.integers(1, 5).flatmap(
    lambda k: st.lists(st.lists(st.integers(0, 30), min_size=k, max_size=k), min_size=k, max_size=k)
)


def naive_f1_macro(cells: F64, z: float, design: float) -> list[float]:
    """Value, limits and support, with whole matrices (Zou & Donner 2008; Zou 2007; Takahashi et al. 2022)."""
    labels, predictions, hits = cells.sum(axis=1), cells.sum(axis=0), cells.diagonal()
    both = labels + predictions
    value, low, high = f1_estimates(hits, both, z, design)
    slope = value / both
    covariance = slope[:, None] * slope[None, :] * (cells + cells.T)
    variance = (2.0 / both - 2.0 * slope) ** 2 * hits + slope**2 * (both - 2.0 * hits)
    scale = np.sqrt(variance[:, None] * variance[None, :])
    correlation = np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0.0)
    np.fill_diagonal(correlation, 1.0)
    down, up = (np.sqrt(max(d @ correlation @ d, 0.0)) / len(d) for d in (value - low, high - value))
    return [value.mean(), value.mean() - down, value.mean() + up, min(len(both) * both.min() / 2.0, labels.sum())]


@settings(deadline=None)
@given(MATRICES, st.sampled_from([1.0, 1.96, 3.3]), st.sampled_from([1.0, 1.7, 4.0]))
def test_f1_macro_is_that_of_whole_matrices(rows: list[list[int]], z: float, design: float) -> None:
    """Whatever the cells: classes that are all right or all wrong, and some that are only in labels."""
    cells, labels, predictions, *_ = Confusion.of(np.array(rows, dtype=np.float64), design)
    if not len(labels):
        return
    found = np.empty(FOUND)
    f1_macro(cells, labels, predictions, z, design, found)
    expected = naive_f1_macro(cells, z, design)
    assert found[[VALUE, LOW, HIGH, SUPPORT]].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@settings(deadline=None)
@given(MATRICES)
def test_classes_that_do_not_occur_are_left_out(rows: list[list[int]]) -> None:
    """Neither in labels nor in predictions: their row and column are empty."""
    matrix = np.array(rows, dtype=np.float64)
    occurs = matrix.sum(axis=0) + matrix.sum(axis=1) > 0.0
    expected = matrix[occurs][:, occurs]
    cells, labels, predictions, *_ = Confusion.of(matrix, 1.0)
    assert cells.tolist() == expected.tolist()
    assert labels.tolist() == expected.sum(axis=1).tolist()
    assert predictions.tolist() == expected.sum(axis=0).tolist()
