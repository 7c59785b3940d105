"""Regressions of labels on scores: scikit-learn's coefficients, with a prior those of a general optimiser."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize  # type: ignore[import-untyped] # scipy has no stubs
from sklearn.linear_model import LogisticRegression

from worker.core.kernels.arrays import F64
from worker.core.kernels.logit_fit import fit_binary, fit_classes, scaled_softmax, solve_positive


def fitted_binary(features: F64, negatives: F64, positives: F64, centre: F64, precision: float) -> F64:
    """Fit, beginning at the centre of the prior."""
    theta, size = centre.copy(), len(centre)
    assert fit_binary(features, negatives, positives, theta, centre, precision, np.empty((size + 2, size)))
    return theta


@given(counts=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=4, max_size=15))
@settings(max_examples=30, deadline=None)
def test_without_a_prior_it_is_scikit_learn(counts: list[tuple[int, int]]) -> None:
    """The coefficients of Platt scaling are those of an unpenalised logistic regression on weighted rows."""
    cells = np.array(counts, dtype=float)
    x = np.linspace(-2.0, 2.0, len(cells))
    theta = fitted_binary(np.column_stack([np.ones(len(x)), x]), cells[:, 0], cells[:, 1], np.array([0.0, 1.0]), 0.0)
    rows, labels = np.concatenate([x, x])[:, np.newaxis], np.repeat([0, 1], len(x))
    model = LogisticRegression(C=np.inf, tol=1e-12, max_iter=5_000, solver="newton-cholesky")
    model.fit(rows, labels, np.concatenate([cells[:, 0], cells[:, 1]]))
    assert theta == pytest.approx([model.intercept_[0], model.coef_[0, 0]], rel=1e-7, abs=1e-7)


@given(seed=st.integers(0, 2**20), precision=st.floats(0.01, 100.0), size=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_with_a_prior_it_is_the_penalised_maximum(seed: int, precision: float, size: int) -> None:
    """No general optimiser finds anything better, even where the classes are apart."""
    rng = np.random.default_rng(seed)
    features, centre = rng.normal(size=(12, size)), rng.normal(size=size)
    counts = rng.integers(0, 4, size=(2, 12)).astype(float)

    def cost(theta: F64) -> float:
        linear = features @ theta
        likelihood = counts[1] @ linear - (counts[0] + counts[1]) @ np.logaddexp(0.0, linear)
        return float(precision * ((theta - centre) ** 2).sum() / 2.0 - likelihood)

    theta = fitted_binary(features, counts[0], counts[1], centre, precision)
    assert cost(theta) <= minimize(cost, centre, method="BFGS", tol=1e-10).fun + 1e-9


@given(seed=st.integers(0, 2**20), classes=st.integers(2, 5), shared=st.booleans())
@settings(max_examples=20, deadline=None)
def test_scales_of_classes_are_the_penalised_maximum(seed: int, classes: int, shared: bool) -> None:  # noqa: FBT001 - drawn
    """Temperature and vector scaling are where the gradient of the naive objective is zero."""
    rng = np.random.default_rng(seed)
    logits = np.log(rng.dirichlet(np.ones(classes), size=40))
    labels = rng.integers(0, classes, size=40)
    centre = np.ones(1) if shared else np.concatenate([np.ones(classes), np.zeros(classes)])
    theta = centre.copy()
    assert fit_classes(
        logits, labels, theta, centre, 1.0, shared, np.empty((len(centre) + 3, max(len(centre), classes)))
    )

    def cost(each: F64) -> float:
        scaled = each[0] * logits if shared else each[:classes] * logits + each[classes:]
        scaled = scaled - scaled.max(axis=1, keepdims=True)
        log_p = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
        return float(((each - centre) ** 2).sum() / 2.0 - log_p[np.arange(40), labels].sum())

    steps = 1e-5 * np.eye(len(theta))
    gradient = [(cost(theta + step) - cost(theta - step)) / 2e-5 for step in steps]
    assert gradient == pytest.approx(np.zeros(len(theta)), abs=1e-4)


def test_a_temperature_is_that_of_scikit_learn() -> None:
    """One scale of two classes is a logistic regression on the difference of their logits, without an intercept."""
    rng = np.random.default_rng(1)
    logits = np.log(rng.dirichlet(np.ones(2), size=300))
    labels = (rng.random(300) < np.exp(logits[:, 1])).astype(np.int64)
    theta = np.ones(1)
    assert fit_classes(logits, labels, theta, np.ones(1), 0.0, True, np.empty((4, 2)))  # noqa: FBT003 - the kernel's order
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-12, max_iter=5_000, solver="newton-cholesky")
    model.fit((logits[:, 1] - logits[:, 0])[:, np.newaxis], labels)
    assert theta[0] == pytest.approx(model.coef_[0, 0], rel=1e-7)


def test_a_matrix_that_is_not_positive_definite_has_no_solution() -> None:
    """A constant score without a prior has no fit, and that is told."""
    assert not solve_positive(np.array([[1.0, 1.0], [1.0, 1.0]]), np.ones(2))
    ones, theta = np.ones((3, 2)), np.zeros(2)
    assert not fit_binary(ones, np.ones(3), np.ones(3), theta, np.zeros(2), 0.0, np.empty((4, 2)))
    assert (theta == 0.0).all()


def test_a_softmax_does_not_overflow() -> None:
    """Logits of thousands are probabilities still, and the normaliser is right."""
    p = np.empty(2)
    log_sum = scaled_softmax(np.array([1_000.0, 999.0]), np.array([3.0]), True, p)  # noqa: FBT003 - the kernel's order
    assert p == pytest.approx(np.array([1.0, np.exp(-3.0)]) / (1.0 + np.exp(-3.0)))
    assert log_sum == pytest.approx(3_000.0 + np.log1p(np.exp(-3.0)))
