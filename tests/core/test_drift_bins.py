"""What drift decisions are made of: bins of histograms and categories, corrections of p-values, effects, patterns."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.drift.bins import Bins, equal_mass
from worker.core.drift.decisions import benjamini_yekutieli, design_effects, holm, spent_share
from worker.core.drift.effects import jensen_shannon, kolmogorov_smirnov
from worker.core.drift.pattern import shape_of
from worker.core.kernels.arrays import F64, I64
from worker.core.kernels.binning import LAG_SUMS, add_lags, count_bins
from worker.core.statistics.histogram import Histogram
from worker.core.statistics.panes import PaneSlots

VALUES = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 5e-324, -5e-324, 1e300, -1e300]),
    st.floats(-1e6, 1e6, allow_nan=False),
    st.integers(-5, 5).map(float),
)


def histogram_of(values: F64) -> Histogram:
    """The exponential histogram of values (n)."""
    slots = PaneSlots(64, 1)
    slots.grow(1)
    slots.add(values.reshape(-1, 1), np.zeros(len(values), dtype=np.int8), np.array([True]))
    return Histogram.from_arrays(slots.arrays, 0, 0)


@given(st.lists(VALUES, min_size=1, max_size=60), st.integers(4, 20))
@settings(max_examples=120, deadline=None)
def test_values_fall_where_their_histogram_says(values: list[float], bins: int) -> None:
    """Edges are bounds of buckets: counting the values again gives the counts that the histogram gave."""
    made = Bins.empty(1, bins, 1)
    counts = made.put_numbers(0, histogram_of(np.array(values)), 0.0)
    again = np.zeros((1, bins + 1), dtype=np.uint32)
    cells = np.array(values).reshape(-1, 1)
    found = np.empty(cells.shape, dtype=np.uint8)
    count_bins(cells, np.array([False]), made.center, made.edges, made.table, bins - 1, found, again)
    assert again[0].tolist() == counts.tolist()
    assert counts.sum() == len(values)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=80), st.integers(2, 16))
def test_groups_are_of_about_equal_mass(counts: list[int], groups: int) -> None:
    """They cover everything, there are not too many, and none is much above its share unless one value is."""
    ends = equal_mass(np.array(counts), groups)
    assert ends[-1] == len(counts)
    assert ends == sorted(set(ends))
    assert len(ends) <= groups
    parts = np.split(np.array(counts), ends[:-1])
    assert max(part.sum() for part in parts) <= sum(counts) / groups + 2 * max(counts)


def test_frequent_categories_have_bins_of_their_own() -> None:
    """The most frequent ones have; the rest, and what has no code, share one."""
    bins = Bins.empty(1, 4, 7)
    counts = bins.put_categories(0, np.array([1, 5, 100, 20, 3, 50, 0]))
    assert bins.table[0].tolist() == [3, 3, 0, 2, 3, 1, 3]
    assert counts.tolist() == [100, 50, 20, 9, 0]


def test_corrections_are_those_of_their_definition() -> None:
    """Holm's and Benjamini and Yekutieli's corrected p-values, by hand."""
    p = np.array([0.04, 0.001, 0.3, 0.01])
    np.testing.assert_allclose(holm(p), [0.08, 0.004, 0.3, 0.03])
    harmonic = 1 + 1 / 2 + 1 / 3 + 1 / 4
    expected = np.array([0.04 * 4 / 3, 0.001 * 4, 0.3, 0.01 * 2]) * harmonic
    np.testing.assert_allclose(benjamini_yekutieli(p), np.minimum(expected, 1.0))


def test_a_day_is_spent_once() -> None:
    """Blocks of a day add up to one, a slow stream spends by its events, and a clock that stands still little."""
    assert spent_share(864_000, 1_000) == pytest.approx(0.01)
    assert spent_share(10 * 86_400_000, 500) == pytest.approx(0.005)
    assert 0.0 < spent_share(0, 500) < 1e-6
    assert spent_share(-5_000, 500) == spent_share(0, 500)


@pytest.mark.parametrize(("rho", "noise"), [(0.0, 0.0), (0.5, 0.0), (0.9, 0.0), (0.95, 0.5)])
def test_design_effects_are_those_of_the_process(rho: float, noise: float) -> None:
    """Of an autoregressive process, bare or under noise: 1 + 2 S r_k within a third, or somewhat above."""
    rng = np.random.default_rng(3)
    values = np.zeros((20_000, 1))
    for k in range(1, len(values)):
        values[k] = rho * values[k - 1] + math.sqrt(1 - rho * rho) * rng.normal()
    seen = math.sqrt(1 - noise) * values + math.sqrt(noise) * rng.normal(size=values.shape)
    sums, recent = np.zeros((1, LAG_SUMS), dtype=np.int64), np.zeros((8, 1), dtype=np.int16)
    batch = np.zeros((2, 1), dtype=np.int64)
    add_lags(np.clip(np.rint(seen * 200), -512, 512).astype(np.int16), 0, recent, batch, sums)
    location, shape = design_effects(sums[np.newaxis])
    truth = 1 + 2 * (1 - noise) * rho / (1 - rho)
    assert 0.67 * truth < location[0] < 1.6 * truth
    assert shape[0] >= location[0]


def test_effects_lie_between_their_bounds() -> None:
    """Equal shares have none, shares that do not meet have all; and half of the mass moved by one bin is a half."""
    p, q = np.array([[10, 10, 0, 0]]), np.array([[0, 0, 7, 0]])
    assert jensen_shannon(p, 3 * p)[0] == pytest.approx(0.0, abs=1e-7)
    assert jensen_shannon(p, q)[0] == pytest.approx(1.0)
    assert kolmogorov_smirnov(p, q)[0] == pytest.approx(1.0)
    assert kolmogorov_smirnov(p, np.array([[0, 10, 0, 0]]))[0] == pytest.approx(0.5)


def blocks_of(shares: list[float]) -> I64:
    """Blocks of 1,000 values of which a share is in the second bin."""
    return np.array([[round(1_000 * (1 - share)), round(1_000 * share), 0] for share in shares])


def test_a_step_and_a_slope_are_told_apart() -> None:
    """A change at once is sudden, one over many blocks gradual, and noise is neither."""
    reference, window = blocks_of([0.2])[0], blocks_of([0.6])[0]
    assert shape_of(reference, window, blocks_of([0.2, 0.21, 0.2, 0.19, 0.2, 0.6, 0.61])) == "sudden"
    assert shape_of(reference, window, blocks_of([0.2, 0.2, 0.21, 0.28, 0.36, 0.45, 0.52, 0.6])) == "gradual"
    assert shape_of(reference, window, blocks_of([0.2, 0.6, 0.2, 0.6, 0.2, 0.6, 0.2, 0.6])) is None
    assert shape_of(reference, window, blocks_of([0.2, 0.6])) is None
