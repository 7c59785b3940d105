"""The pass over a batch for pane statistics: exact buckets, the naive twin, batch cuts, and the order of values."""

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from worker.core.kernels.accumulate import (
    BUCKETS_MIN,
    LARGEST,
    MANTISSA_BOUNDS,
    START_SCALE,
    accumulate,
    bucket_index,
)
from worker.core.kernels.arrays import F64, I8, Bool
from worker.core.statistics.histogram import Buckets, Histogram

SMALLEST_NORMAL = 2.0**-1022

VALUES = st.one_of(
    st.floats(-LARGEST, LARGEST),
    st.floats(-10.0, 10.0),
    st.integers(-5, 5).map(float),
    st.builds(math.ldexp, st.sampled_from([1.0, -1.0]), st.integers(-1074, 1022)),
    st.just(math.nan),
)


class State:
    """The arrays of `accumulate` for c columns."""

    def __init__(self, n_columns: int, n_buckets: int) -> None:
        shape = (2, n_columns)
        self.count = np.zeros(shape, dtype=np.int64)
        self.mean = np.zeros(shape)
        self.m2 = np.zeros(shape)
        self.minimum = np.full(shape, np.inf)
        self.maximum = np.full(shape, -np.inf)
        self.buckets = np.zeros((*shape, 2, n_buckets), dtype=np.uint32)
        self.bucket_start = np.zeros((*shape, 2), dtype=np.int64)
        self.zero_count = np.zeros(shape, dtype=np.int64)
        self.scale = np.full(shape, START_SCALE, dtype=np.int32)

    def add(self, rows: F64, slot: I8, is_numeric: Bool) -> None:
        """Run the kernel."""
        accumulate(rows, slot, is_numeric, *vars(self).values())

    def histogram(self, slot: int, column: int) -> Histogram:
        """What one column of one slot holds."""
        return Histogram.from_arrays(vars(self), slot, column)


def one_column(values: list[float], n_buckets: int) -> State:
    """The state after a single column's values in slot 0."""
    state = State(1, n_buckets)
    state.add(np.array(values)[:, np.newaxis], np.zeros(len(values), dtype=np.int8), np.array([True]))
    return state


def naive_index(value: float) -> int:
    """The i with 2^(i/32) < |value| <= 2^((i+1)/32), in exact arithmetic: through the 32nd power."""
    power = abs(Fraction(value)) ** 32
    shift = power.denominator.bit_length() - 1
    # Doubles have powers of two as denominators, so the power is numerator / 2^shift.
    return (power.numerator - 1).bit_length() - 1 - shift


def naive_histogram(values: list[float], n_buckets: int) -> Histogram:
    """The naive twin: all exact indices first, then the largest scale at which both signs fit."""
    known = [value for value in values if not math.isnan(value)]
    zeros = sum(abs(value) < SMALLEST_NORMAL for value in known)
    signs = [[naive_index(value) for value in known if sign * value >= SMALLEST_NORMAL] for sign in (1.0, -1.0)]
    by = 0
    while any(indices and (max(indices) >> by) - (min(indices) >> by) >= n_buckets for indices in signs):
        by += 1
    positive, negative = (Counter(index >> by for index in indices) for indices in signs)
    return Histogram(START_SCALE - by, zeros, naive_buckets(positive), naive_buckets(negative))


def naive_buckets(counter: Counter[int]) -> Buckets:
    """Counts by index as buckets."""
    if not counter:
        return Buckets(0, np.empty(0, dtype=np.int64))
    start = min(counter)
    return Buckets(start, np.array([counter[i] for i in range(start, max(counter) + 1)], dtype=np.int64))


def naive_moments(values: list[float]) -> tuple[int, float, float, float, float]:
    """Welford's recurrence, one value after the other."""
    count, mean, m2, minimum, maximum = 0, 0.0, 0.0, math.inf, -math.inf
    for value in values:
        if math.isnan(value):
            continue
        count += 1
        delta = value - mean
        mean += delta / count
        m2 += delta * (value - mean)
        minimum, maximum = min(minimum, value), max(maximum, value)
    return count, mean, m2, minimum, maximum


def index_of(value: float) -> int:
    """The kernel's bucket of a double at the start scale."""
    return int(bucket_index(np.float64(value).view(np.int64)))


def test_bucket_bounds_are_exact() -> None:
    """At each bound 2^(j/32) of some octaves, the double below belongs to bucket j - 1 and the one above to j."""
    for octave in (-1022, -1, 0, 1, 700, 1022):
        for j in range(32):
            below = math.ldexp(float(2**52 + int(MANTISSA_BOUNDS[j])), octave - 52)
            above = math.nextafter(below, math.inf)
            if below >= SMALLEST_NORMAL:
                assert index_of(below) == naive_index(below) == 32 * octave + j - 1
            assert index_of(above) == naive_index(above) == 32 * octave + j


@given(st.floats(SMALLEST_NORMAL, 1.7976931348623157e308))
@settings(max_examples=500, deadline=None)
def test_bucket_of_any_value_is_exact(value: float) -> None:
    """Every normal double is in the bucket that exact arithmetic says, whatever its sign."""
    assert index_of(value) == index_of(-value) == naive_index(value)


@given(values=st.lists(VALUES, max_size=60), n_buckets=st.sampled_from([BUCKETS_MIN, 3, 8, 33, 320]))
@settings(max_examples=200, deadline=None)
def test_equals_its_naive_twin(values: list[float], n_buckets: int) -> None:
    """Moments have the bits of Welford's recurrence; the histogram is the one of the set of values."""
    state = one_column(values, n_buckets)
    at = 0, 0
    moments = state.count[at], state.mean[at], state.m2[at], state.minimum[at], state.maximum[at]
    assert moments == naive_moments(values)
    assert state.histogram(0, 0) == naive_histogram(values, n_buckets)
    assert not state.count[1].any()
    assert not state.buckets[1].any()


@given(data=st.data(), n_buckets=st.sampled_from([4, 40]))
@settings(max_examples=60, deadline=None)
def test_batch_cuts_change_nothing(data: st.DataObject, n_buckets: int) -> None:
    """However rows of two panes are cut into batches, all arrays have the same bits; other columns stay empty."""
    rows = data.draw(hnp.arrays(np.float64, (data.draw(st.integers(0, 30)), 3), elements=VALUES))
    slot = data.draw(hnp.arrays(np.int8, len(rows), elements=st.integers(-1, 1)))
    is_numeric = np.array([True, False, True])
    whole, parts = State(3, n_buckets), State(3, n_buckets)
    whole.add(rows, slot, is_numeric)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=4)))
    for part, part_slot in zip(np.split(rows, cuts), np.split(slot, cuts), strict=True):
        parts.add(part, part_slot, is_numeric)
    for name, array in vars(whole).items():
        assert array.tobytes() == vars(parts)[name].tobytes(), name
    assert not whole.count[:, 1].any()
    for s in range(2):
        assert whole.histogram(s, 2) == naive_histogram(rows[slot == s, 2].tolist(), n_buckets)


@given(values=st.lists(VALUES, max_size=40), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_order_of_values_does_not_show_in_the_histogram(values: list[float], seed: int) -> None:
    """The final scale and counts depend on the set of values alone."""
    shuffled = np.random.default_rng(seed).permutation(np.array(values, dtype=np.float64)).tolist()
    assert one_column(values, 10).histogram(0, 0) == one_column(shuffled, 10).histogram(0, 0)


@pytest.mark.parametrize("n_buckets", [BUCKETS_MIN, 320])
def test_the_whole_range_of_doubles_fits(n_buckets: int) -> None:
    """Even two buckets take values from the smallest normal to the largest allowed, of both signs."""
    values = [SMALLEST_NORMAL, LARGEST, 1.0, -SMALLEST_NORMAL, -LARGEST, 5e-324, 0.0, -0.0]
    histogram = one_column(values, n_buckets).histogram(0, 0)
    assert histogram == naive_histogram(values, n_buckets)
    assert (histogram.count, histogram.zero_count) == (8, 3)
    assert np.isfinite(one_column(values, n_buckets).mean[0, 0])
