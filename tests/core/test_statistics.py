"""Mergeable statistics: the merge of any parts is the whole, and quantiles keep to their error."""

import math
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.test_accumulate import SMALLEST_NORMAL, State, naive_moments, one_column
from worker.core.events.metrics import HistogramRecord
from worker.core.statistics.histogram import Buckets, Histogram, bucket_bound, relative_error
from worker.core.statistics.moments import Moments
from worker.core.statistics.pane_metrics import Spread
from worker.core.statistics.panes import PaneSlots

VALUES = st.one_of(
    st.floats(-1e6, 1e6),
    st.floats(-(2.0**1022), 2.0**1022),
    st.integers(-5, 5).map(float),
)
MODERATE = st.floats(-1e6, 1e6)
N_BUCKETS = st.sampled_from([2, 7, 33, 320])


def moments_of(values: list[float]) -> Moments:
    """Moments in one pass."""
    return Moments(*naive_moments(values))


def histogram_of(values: list[float], n_buckets: int) -> Histogram:
    """A histogram in one pass."""
    return one_column(values, n_buckets).histogram(0, 0)


@given(st.lists(st.lists(MODERATE, max_size=20), max_size=6))
@settings(max_examples=200, deadline=None)
def test_merged_moments_are_the_moments_of_the_whole(parts: list[list[float]]) -> None:
    """Count and range merge exactly, mean and m2 to 1e-9 of the size of the values."""
    values = [value for part in parts for value in part]
    whole = moments_of(values)
    merged = reduce(Moments.merge, map(moments_of, parts), Moments())
    largest = max(map(abs, values), default=0.0)
    assert (merged.count, merged.minimum, merged.maximum) == (whole.count, whole.minimum, whole.maximum)
    assert math.isclose(merged.mean, whole.mean, rel_tol=1e-9, abs_tol=1e-9 * largest)
    assert math.isclose(merged.m2, whole.m2, rel_tol=1e-9, abs_tol=1e-9 * largest**2)


@given(st.lists(MODERATE, min_size=2, max_size=50))
@settings(max_examples=100, deadline=None)
def test_variance_is_that_of_numpy(values: list[float]) -> None:
    """The sample variance agrees with numpy's; below two values there is none."""
    variance = moments_of(values).variance
    assert variance == pytest.approx(np.var(values, ddof=1), rel=1e-9, abs=1e-9)
    assert moments_of(values[:1]).variance is None
    assert Moments().standard_deviation is None


@given(parts=st.lists(st.lists(VALUES, max_size=20), max_size=6), n_buckets=N_BUCKETS)
@settings(max_examples=200, deadline=None)
def test_merged_histograms_are_the_histogram_of_the_whole(parts: list[list[float]], n_buckets: int) -> None:
    """Merged in any order, counts and scale are exactly those of one pass over all values."""
    whole = histogram_of([value for part in parts for value in part], n_buckets)
    histograms = [histogram_of(part, n_buckets) for part in parts]
    assert reduce(lambda a, b: a.merge(b, n_buckets), histograms, Histogram()) == whole
    assert reduce(lambda a, b: b.merge(a, n_buckets), histograms[::-1], Histogram()) == whole


@given(parts=st.lists(st.lists(VALUES, max_size=20), min_size=2, max_size=2), n_buckets=N_BUCKETS)
@settings(max_examples=200, deadline=None)
def test_panes_of_any_values_can_be_restored(parts: list[list[float]], n_buckets: int) -> None:
    """Whatever was counted is taken back, and counting goes on with equal bits."""
    original, restored = PaneSlots(n_buckets, 3), PaneSlots(n_buckets, 3)
    original.grow(1)
    for part in parts:
        restored.restore(1, original.arrays)
        for slots in (original, restored):
            slots.add(np.array(part).reshape(-1, 1), np.zeros(len(part), np.int8), np.ones(1, np.bool))
        for name, array in original.arrays.items():
            assert restored.arrays[name].tobytes() == array.tobytes()


@given(
    values=st.lists(VALUES, min_size=1, max_size=60),
    q=st.one_of(st.floats(0.0, 1.0), st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0])),
    n_buckets=N_BUCKETS,
)
@settings(max_examples=300, deadline=None)
def test_quantile_keeps_to_its_error(values: list[float], q: float, n_buckets: int) -> None:
    """A quantile is within the stated relative error of the exact one, and inside of the range of the values."""
    histogram = histogram_of(values, n_buckets)
    exact = float(np.quantile(values, q, method="inverted_cdf"))
    estimate = histogram.quantile(q, min(values), max(values))
    assert estimate is not None
    assert min(values) <= estimate <= max(values)
    bound = relative_error(histogram.scale) * abs(exact) * (1.0 + 1e-12)
    assert abs(estimate - exact) <= max(bound, SMALLEST_NORMAL)


@given(columns=st.lists(st.lists(VALUES, min_size=1, max_size=40), min_size=1, max_size=3), n_buckets=N_BUCKETS)
@settings(max_examples=200, deadline=None)
def test_what_a_pane_tells_is_what_its_histograms_tell(columns: list[list[float]], n_buckets: int) -> None:
    """Quantiles and published histograms of all columns at once are those of each one alone."""
    slots = PaneSlots(n_buckets, 3)
    slots.grow(len(columns))
    rows = np.full((max(map(len, columns)), len(columns)), np.nan)
    for place, values in enumerate(columns):
        rows[: len(values), place] = values
    slots.add(rows, np.zeros(len(rows), np.int8), np.ones(len(columns), np.bool))
    spread = Spread(slots.arrays, 0)
    for place, values in enumerate(columns):
        histogram, low, high = Histogram.from_arrays(slots.arrays, 0, place), min(values), max(values)
        assert spread.quantiles(place, low, high) == [histogram.quantile(q, low, high) for q in (0.5, 0.05, 0.95)]
        assert spread.histogram(place) == HistogramRecord(**histogram.as_fields())


def test_quantile_of_a_known_set() -> None:
    """For 1..1000 the median is 500 within 1.1 %, which is the error at scale 5; an empty set has none."""
    values = [float(n) for n in range(1, 1001)]
    histogram = histogram_of(values, 330)
    assert histogram.scale == 5
    assert relative_error(5) == pytest.approx(0.0108, abs=1e-4)
    assert histogram.quantile(0.5, 1.0, 1000.0) == pytest.approx(500.0, rel=relative_error(5))
    assert histogram.quantile(1.0, 1.0, 1000.0) == pytest.approx(1000.0, rel=relative_error(5))
    assert Histogram().quantile(0.5, 0.0, 0.0) is None


@pytest.mark.parametrize("scale", range(-10, 6))
def test_bounds_are_powers_of_the_base(scale: int) -> None:
    """The bounds of the buckets at every scale are the powers of its base, rounded down."""
    for index in (-1, 0, 1):
        expected = 2.0 ** (index * 2.0**-scale) if index * 2.0**-scale < 1024 else None
        if expected is not None:
            assert bucket_bound(index, scale) == pytest.approx(expected, rel=1e-15)


def test_fields_hold_the_counts() -> None:
    """The published fields give back every count: 1 and 2 are the last buckets of their octaves."""
    fields = histogram_of([1.0, 2.0, 2.0, -1.0, 0.0], 320).as_fields()
    assert fields == {
        "scale": 5,
        "zero_count": 1,
        "positive_start": -1,
        "positive_counts": [1, *[0] * 31, 2],
        "negative_start": -1,
        "negative_counts": [1],
    }


def test_buckets_compare_by_value() -> None:
    """Buckets are equal when start and counts are; nothing else equals them."""
    buckets = Buckets.trimmed(3, np.array([0, 2, 0, 1, 0]))
    assert buckets == Buckets(4, np.array([2, 0, 1]))
    assert buckets != Buckets(5, np.array([2, 0, 1]))
    assert buckets != "buckets"
    assert State(1, 4).histogram(0, 0) == Histogram()
