"""Scaled rows: the formula, its ends, and what has no scale."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from worker.core.detectors.scaling import RobustScale
from worker.core.kernels.arrays import F64
from worker.core.kernels.scale import REACH, fill_missing


def test_the_quantiles_become_zero_and_one() -> None:
    """For 0..100 the quantiles are 2 and 98; what is far outside lies five widths away, and missing stays missing."""
    scale = RobustScale.from_rows(np.arange(101.0)[:, np.newaxis])
    scaled = scale.to_float64(np.array([[2.0], [98.0], [50.0], [-94.0], [1e300], [-1e300], [np.nan]]))
    np.testing.assert_allclose(scaled[:, 0], [0.0, 1.0, 0.5, -1.0, 6.0, -5.0, np.nan], atol=1e-15)
    assert scale.centre[0] == 0.5


def test_a_constant_knows_less_and_more_and_a_rare_flag_its_range() -> None:
    """A constant column is one width below or above; one that is seldom set has its two values as limits."""
    flag = np.zeros(100)
    flag[50] = 1.0
    scale = RobustScale.from_rows(np.column_stack([np.full(100, 3.0), flag, np.full(100, np.nan)]))
    scaled = scale.to_float64(np.array([[3.0, 0.0, 1.0], [2.9, 1.0, 1.0], [9.9, 2.0, np.nan]]))
    np.testing.assert_array_equal(scaled, [[0.5, 0.0, np.nan], [-0.5, 1.0, np.nan], [1.5, 2.0, np.nan]])
    assert scale.features == 2


def test_missing_values_are_filled_with_the_median() -> None:
    """Where there is no median, the middle is as good as any."""
    scale = RobustScale.from_rows(np.column_stack([[0.0, 1.0, 10.0], [np.nan] * 3]))
    rows = np.full((1, 2), np.nan)
    fill_missing(rows, scale.centre)
    np.testing.assert_allclose(rows, [[(1.0 - scale.low[0]) / (scale.high[0] - scale.low[0]), 0.5]])


@given(
    known=hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=6)),
    probe=st.sampled_from([0.0, 1.0, 5e-324, 1.7e308, -1.7e308, np.nan]),
)
@settings(max_examples=100, deadline=None)
@pytest.mark.filterwarnings("error")
def test_any_finite_value_is_within_reach(known: F64, probe: float) -> None:
    """Whatever was seen, every finite value lands within reach or nowhere, in both precisions; so does the median."""
    scale = RobustScale.from_rows(np.where(np.isinf(known), 1.7e308, known))
    for scaled in (
        scale.to_float64(np.full((1, known.shape[1]), probe)),
        scale.to_float32(np.full(known.shape, probe)),
    ):
        assert ((scaled >= -REACH) & (scaled <= 1.0 + REACH) | np.isnan(scaled)).all()
    np.testing.assert_array_equal(np.isnan(scale.centre), np.isnan(scale.low))
    restored = scale.restored(scale.arrays())
    np.testing.assert_array_equal(restored.centre, scale.centre)


@pytest.mark.parametrize(("name", "value"), [("low", np.inf), ("low", 99.0), ("high", np.nan), ("centre", np.nan)])
def test_no_scale_is_refused(name: str, value: float) -> None:
    """Limits that are infinite, crossed or alone, and a median out of range, are no scale."""
    scale = RobustScale.from_rows(np.arange(10.0)[:, np.newaxis])
    arrays = {**scale.arrays(), name: np.full(1, value)}
    with pytest.raises(ValueError, match="stored limits"):
        scale.restored(arrays)
