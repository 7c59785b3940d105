"""Linear outputs: against a naive twin, however the rows are cut."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.kernels import linear


@given(
    n_rows=st.integers(0, 30),
    n_features=st.integers(1, 6),
    n_outputs=st.integers(1, 4),
    cut=st.integers(0, 30),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_outputs_equal_the_formula(n_rows: int, n_features: int, n_outputs: int, cut: int, seed: int) -> None:
    """Missing values add nothing, far and infinite ones are cut, and no cut of the rows changes a bit."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n_rows, n_features)) * 10.0 ** rng.integers(-2, 3, size=n_features)
    rows[rng.random(rows.shape) < 0.2] = math.nan
    rows[rng.random(rows.shape) < 0.05] = math.inf
    mean, scale = rng.normal(size=n_features), rng.random(n_features) + 0.1
    coefficients, intercept = rng.normal(size=(n_outputs, n_features)), rng.normal(size=n_outputs)
    raw, parts = np.empty((n_rows, n_outputs)), np.empty((n_rows, n_outputs))
    linear.raw_outputs(rows, mean, scale, 3.0, coefficients, intercept, raw)
    for part in (slice(None, cut), slice(cut, None)):
        linear.raw_outputs(rows[part], mean, scale, 3.0, coefficients, intercept, parts[part])
    for i, row in enumerate(rows):
        standardised = [0.0 if math.isnan(z) else max(-3.0, min(3.0, z)) for z in (row - mean) / scale]
        np.testing.assert_allclose(raw[i], intercept + coefficients @ np.array(standardised), rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(raw, parts)
