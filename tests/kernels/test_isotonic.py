"""Isotonic regression: scikit-learn's fit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from worker.core.kernels.arrays import F64, I64
from worker.core.kernels.isotonic import interpolated, join_pools, pool_adjacent_violators

VALUES = st.lists(st.tuples(st.floats(-5.0, 5.0), st.floats(0.1, 9.0)), min_size=1, max_size=30)


def pooled(values: F64, weights: F64, pools_max: int = 100) -> tuple[I64, F64, F64]:
    """Return starts, means and weights of the pools."""
    starts, means, masses = np.empty(len(values), dtype=np.int64), np.empty(len(values)), np.empty(len(values))
    pools = join_pools(
        starts, means, masses, pool_adjacent_violators(values, weights, starts, means, masses), pools_max
    )
    return starts[:pools], means[:pools], masses[:pools]


@given(rows=VALUES)
@settings(deadline=None)
def test_the_fit_is_that_of_scikit_learn(rows: list[tuple[float, float]]) -> None:
    """Each value's pool has the mean that scikit-learn fits there, to rounding."""
    values, weights = np.array(rows).T.copy()
    starts, means, _ = pooled(values, weights)
    fit = np.repeat(means, np.diff(np.append(starts, len(values))))
    x = np.arange(len(values), dtype=float)
    assert fit == pytest.approx(IsotonicRegression().fit(x, values, weights).predict(x), rel=1e-10, abs=1e-10)


@given(rows=VALUES, pools_max=st.integers(1, 5))
@settings(deadline=None)
def test_joined_pools_are_few_ascend_and_keep_the_mean(rows: list[tuple[float, float]], pools_max: int) -> None:
    """What is joined to be bounded is monotonic still, and right on average."""
    values, weights = np.array(rows).T.copy()
    starts, means, masses = pooled(values, weights, pools_max)
    assert len(starts) <= pools_max
    assert starts[0] == 0
    assert (np.diff(means) > -1e-12).all()
    assert means @ masses == pytest.approx(values @ weights, abs=1e-9)


@given(x=st.floats(-3.0, 13.0), size=st.integers(1, 9))
@settings(deadline=None)
def test_between_knots_it_is_numpys_interpolation(x: float, size: int) -> None:
    """A server may use `numpy.interp`."""
    knots_x, knots_y = np.arange(size, dtype=float) ** 1.1, np.sin(np.arange(size, dtype=float))
    assert interpolated(x, knots_x, knots_y, size) == pytest.approx(float(np.interp(x, knots_x, knots_y)))
