"""The kernel of the one-class SVM beside numpy, and its exponential over the whole range."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.kernels import svm
from worker.core.kernels.arrays import F64


def densities(rows: F64, vectors: F64, coefficients: F64, gamma: float) -> F64:
    """Run the kernel."""
    sums = np.empty(len(rows))
    svm.densities(rows, vectors, coefficients, gamma, sums)
    return sums


@given(st.integers(1, 7), st.sampled_from([8, 16, 152]), st.floats(1e-3, 1e3), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_equals_its_naive_twin(features: int, count: int, gamma: float, seed: int) -> None:
    """Odd and even numbers of features, few and many support vectors, wide and narrow kernels."""
    rng = np.random.default_rng(seed)
    rows, vectors, coefficients = rng.normal(size=(9, features)), rng.normal(size=(features, count)), rng.random(count)
    squares = ((rows[:, :, np.newaxis] - vectors) ** 2).sum(axis=1)
    expected = (np.exp(-gamma * squares) * coefficients).sum(axis=1)
    np.testing.assert_allclose(densities(rows, vectors, coefficients, gamma), expected, rtol=1e-11, atol=1e-290)


def test_the_exponential_is_exact_to_a_few_units() -> None:
    """From 1 down to where nothing is left, e^-x is numpy's."""
    x = np.concatenate([np.linspace(0.0, 690.0, 20_001), [1e-300, 5e-324]])
    found = densities(np.sqrt(x)[:, np.newaxis], np.zeros((1, 8)), np.eye(1, 8)[0], 1.0)
    np.testing.assert_allclose(found, np.exp(-np.square(np.sqrt(x))), rtol=1e-14 + 690 * 2.3e-16)


@pytest.mark.parametrize("distance", [1e3, 1e100, 1.3e154])
def test_far_away_there_is_nothing(distance: float) -> None:
    """However far a row lies, its density is a number: next to nothing."""
    found = densities(np.full((1, 1), distance), np.zeros((1, 8)), np.ones(8), 1.0)[0]
    assert 0.0 <= found < 1e-290


def test_a_row_has_the_same_bits_anywhere_in_a_batch() -> None:
    """Vector instructions work on support vectors, not on rows: a score does not depend on the place of a row."""
    rng = np.random.default_rng(1)
    rows, vectors, coefficients = rng.normal(size=(37, 3)), rng.normal(size=(3, 40)), rng.random(40)
    whole = densities(rows, vectors, coefficients, 0.7)
    logarithms = whole.copy()
    svm.logarithms(logarithms, 3.0, 1e-12)
    for place, row in enumerate(rows):
        alone = densities(row[np.newaxis], vectors, coefficients, 0.7)
        assert alone[0] == whole[place]
        svm.logarithms(alone, 3.0, 1e-12)
        assert alone[0] == logarithms[place]
