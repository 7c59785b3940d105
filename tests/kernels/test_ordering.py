"""Sorting and counting without branches are what numpy does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from worker.core.kernels.ordering import count_below, sort_into

FLOATS = st.one_of(st.floats(allow_nan=False), st.sampled_from([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, 5e-324]))


def counted(values: NDArray[np.float64], reference: NDArray[np.float64]) -> list[int]:
    """Return how many of a sorted reference are less than each value."""
    counts = np.full(len(values) + 1, -1, dtype=np.int64)
    count_below(values, reference, counts)
    assert counts[-1] == -1
    return [int(count) for count in counts[:-1]]


@given(st.lists(FLOATS, max_size=60))
@settings(max_examples=100, deadline=None)
def test_floats_are_sorted_whatever_they_are(floats: list[float]) -> None:
    """Infinite, tiny, negative and equal ones are in order, -0 before 0; the values themselves stay."""
    values, ordered = np.array(floats), np.empty(len(floats))
    sort_into(values, ordered)
    expected = sorted(floats, key=lambda value: (value, np.copysign(1.0, value)))
    assert ordered.tobytes() == np.array(expected, dtype=np.float64).tobytes()
    assert values.tobytes() == np.array(floats, dtype=np.float64).tobytes()


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_an_array_is_sorted_in_place(scale: float) -> None:
    """Source and target may be one, also where bytes are shared by all values."""
    values = np.random.default_rng(1).normal(size=2048) * scale
    expected = np.sort(values)
    sort_into(values, values)
    np.testing.assert_array_equal(values, expected)


@given(st.lists(FLOATS, min_size=1, max_size=70), st.lists(FLOATS, max_size=20))
@settings(max_examples=100, deadline=None)
def test_as_many_are_less_as_numpy_finds(reference: list[float], floats: list[float]) -> None:
    """The count is `searchsorted`, for any length, with ties and beyond both ends; NaN has 0."""
    ordered = np.sort(np.array(reference))
    values = np.array([*floats, *reference])
    assert counted(values, ordered) == np.searchsorted(ordered, values, side="left").tolist()
    assert counted(np.array([np.nan]), ordered) == [0]
