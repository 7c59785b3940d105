"""Logistic regression on one variable from counts: scikit-learn's coefficients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from worker.core.kernels import logistic as k
from worker.core.kernels.arrays import F64


def naive(x: F64, negatives: F64, positives: F64) -> tuple[float, float]:
    """Fit the rows, each with its weight."""
    rows, labels = np.concatenate([x, x])[:, np.newaxis], np.repeat([0, 1], len(x))
    model = LogisticRegression(C=np.inf, tol=1e-12, max_iter=5_000, solver="newton-cholesky")
    fit = model.fit(rows, labels, np.concatenate([negatives, positives]))
    return float(fit.intercept_[0]), float(fit.coef_[0, 0])


@given(
    counts=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=3, max_size=12),
    spread=st.floats(0.2, 5.0),
)
@settings(max_examples=60, deadline=None)
def test_coefficients_and_sums_are_those_of_the_naive_twin(counts: list[tuple[int, int]], spread: float) -> None:
    """Where the classes overlap there is a maximum, and it is found; the sums are those at it."""
    cells = np.array(counts, dtype=float)
    cells[[0, -1]] += 1.0
    x = spread * np.linspace(-1.0, 1.0, len(cells))
    fitted = np.empty(k.FITTED)
    assert k.fit_logistic(x, 0.1 * x, cells[:, 0], cells[:, 1], fitted)
    assert fitted[:2] == pytest.approx(naive(x, cells[:, 0], cells[:, 1]), rel=1e-4, abs=1e-4)
    p, n = 1.0 / (1.0 + np.exp(-fitted[k.INTERCEPT] - fitted[k.SLOPE] * x)), cells.sum(axis=1)
    weights, squares = n * p * (1.0 - p), cells[:, 1] * (1.0 - p) ** 2 + cells[:, 0] * p**2
    wanted = [each @ term for each in (weights, squares) for term in (np.ones(len(x)), x, x**2, 0.01 * x**2)]
    assert fitted[k.WEIGHT :] == pytest.approx(wanted)
    # Both equations of the likelihood hold.
    assert float((cells[:, 1] - n * p).sum()) == pytest.approx(0.0, abs=1e-6)
    assert float((cells[:, 1] - n * p) @ x) == pytest.approx(0.0, abs=1e-6)


def test_without_a_maximum_there_is_no_fit() -> None:
    """Classes that are apart, a single x, and nothing at all."""
    x = np.array([-1.0, 0.0, 1.0])
    fitted = np.empty(k.FITTED)
    assert not k.fit_logistic(x, 0.1 * x, np.array([5.0, 0.0, 0.0]), np.array([0.0, 0.0, 5.0]), fitted)
    assert not k.fit_logistic(x[:1], x[:1], np.array([5.0]), np.array([5.0]), fitted)
    assert not k.fit_logistic(x, 0.1 * x, np.zeros(3), np.zeros(3), fitted)


def test_huge_values_and_weights_do_no_harm() -> None:
    """Steps are halved until the likelihood rises."""
    x = np.array([-40.0, -1.0, 1.0, 40.0])
    fitted = np.empty(k.FITTED)
    assert k.fit_logistic(x, 0.1 * x, np.array([1e9, 10.0, 5.0, 1.0]), np.array([1.0, 5.0, 10.0, 1e-3]), fitted)
    assert np.isfinite(fitted).all()
