"""Intervals of proportions and means, and of the difference and ratio of two estimates."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.performance.intervals import (
    Estimate,
    bracketed,
    difference,
    mean_interval,
    positive_mean_interval,
    ratio,
    unknown,
    wilson,
    wilson_limits,
)

Z = 1.959963984540054
TERMS = st.lists(st.floats(0.0, 100.0), min_size=3, max_size=30)


def limits(estimate: Estimate) -> tuple[float, float, float]:
    """Value, low and high of an estimate that has them."""
    assert estimate.value is not None
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.value, estimate.low, estimate.high


def sums(terms: list[float]) -> tuple[float, float, float]:
    """Total, sum of squares and number."""
    return math.fsum(terms), math.fsum(term * term for term in terms), float(len(terms))


def test_wilson_of_a_known_case() -> None:
    """Newcombe (1998) gives 81 of 263 the interval 0.2553 to 0.3662; 0 of 29 has the upper limit z² / (n + z²)."""
    assert limits(wilson(81.0, 263.0, Z)) == pytest.approx((81 / 263, 0.2553, 0.3662), abs=1e-4)
    assert limits(wilson(0.0, 29.0, Z)) == pytest.approx((0.0, 0.0, Z * Z / (29.0 + Z * Z)))


@given(n=st.floats(0.01, 1e6), share=st.floats(0.0, 1.0), z=st.floats(0.5, 6.0), design=st.floats(0.1, 50.0))
@settings(max_examples=200, deadline=None)
def test_wilson_limits_hold_the_share(n: float, share: float, z: float, design: float) -> None:
    """Limits hold the value inside of [0, 1], are never degenerate, and agree with those for arrays."""
    value, low, high = limits(wilson(share * n, n, z, design))
    assert 0.0 <= low <= value <= high <= 1.0
    assert low < high
    lows, highs = wilson_limits(np.array([share * n / design, 0.0]), np.array([n / design, 0.0]), z)
    assert (lows[0], highs[0]) == pytest.approx((low, high), abs=1e-9)
    assert (lows[1], highs[1]) == (0.0, 1.0)


def test_wilson_limits_of_sums_that_cancel() -> None:
    """Sums from which all was taken again are not quite 0: limits are numbers of [0, 1] all the same."""
    lows, highs = wilson_limits(np.array([-1e-9, 1e-9, 5.000001]), np.array([1e-12, -1e-9, 5.0]), Z)
    assert ((lows >= 0.0) & (lows < highs) & (highs <= 1.0)).all()


@pytest.mark.parametrize("interval", [mean_interval, positive_mean_interval])
def test_no_mean_of_nothing_and_no_spread_of_one(interval: Callable[..., Estimate]) -> None:
    """Without events there is no value; one event has a value and no interval; two have both."""
    assert interval(0.0, 0.0, 0.0, Z) == unknown()
    assert interval(3.0, 9.0, 1.0, Z) == Estimate(3.0, None, None, 1.0)
    assert interval(8.0, 34.0, 4.0, Z, 4.0) == Estimate(2.0, None, None, 4.0)
    assert wilson(0.0, 0.0, Z) == unknown()
    value, low, high = limits(interval(8.0, 34.0, 2.0, Z))
    assert low < value < high


@given(terms=TERMS, z=st.floats(0.5, 5.0), design=st.floats(0.5, 20.0))
@settings(max_examples=150, deadline=None)
def test_means_are_ordered_grow_with_z_and_divide_by_the_design(terms: list[float], z: float, design: float) -> None:
    """Limits hold the mean, move outwards with z, and depend on counts only through n / design."""
    for interval in (mean_interval, positive_mean_interval):
        value, low, high = limits(interval(*sums(terms), z))
        assert low <= value <= high
        assert value == pytest.approx(np.mean(terms))
        _, lower, higher = limits(interval(*sums(terms), z + 1.0))
        assert lower <= low
        assert high <= higher
        total, squares, n = (figure * design for figure in sums(terms))
        multiplied = interval(total, squares, n, z, design)
        assert limits(multiplied) == pytest.approx((value, low, high), rel=1e-6, abs=1e-6)
        assert multiplied.support == pytest.approx(len(terms) * design)
    assert limits(positive_mean_interval(*sums(terms), z))[1] >= 0.0


def test_mean_is_that_of_the_textbook() -> None:
    """The limits are m -+ z s / sqrt(n) with the sample variance; on the log scale m exp(-+ z s / (m sqrt(n)))."""
    terms = [1.0, 2.0, 4.0, 9.0]
    mean, error = np.mean(terms), np.std(terms, ddof=1) / 2.0
    assert limits(mean_interval(*sums(terms), Z)) == pytest.approx((mean, mean - Z * error, mean + Z * error))
    factor = math.exp(Z * error / mean)
    assert limits(positive_mean_interval(*sums(terms), Z)) == pytest.approx((mean, mean / factor, mean * factor))
    assert limits(positive_mean_interval(0.0, 0.0, 5.0, Z)) == (0.0, 0.0, 0.0)


def test_difference_is_method_10_of_newcombe() -> None:
    """Newcombe (1998) gives 56/70 - 48/80 the interval 0.0524 to 0.3339."""
    now, reference = wilson(56.0, 70.0, Z), wilson(48.0, 80.0, Z)
    assert difference(now, reference) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
    assert difference(reference, now) == pytest.approx((-0.2, -0.3339, -0.0524), abs=1e-4)


ESTIMATES = st.tuples(st.floats(0.01, 10.0), st.floats(0.0, 1.0), st.floats(0.0, 5.0)).map(
    lambda t: Estimate(t[0], t[0] * t[1], t[0] + t[2], 10.0)
)


@given(now=ESTIMATES, reference=ESTIMATES)
@settings(max_examples=150, deadline=None)
def test_differences_and_ratios_hold_their_value(now: Estimate, reference: Estimate) -> None:
    """Limits are ordered around the value; exchanged, a difference changes its sign and a ratio is inverted."""
    gap, low, high = difference(now, reference)
    assert low <= gap <= high
    assert difference(reference, now) == pytest.approx((-gap, -high, -low))
    found, inverse = ratio(now, reference), ratio(reference, now)
    assert found is not None
    assert inverse is not None
    assert 0.0 <= found[1] <= found[0] <= found[2]
    assert inverse[0] == pytest.approx(1.0 / found[0])
    assert inverse[1] == pytest.approx(0.0 if found[2] == math.inf else 1.0 / found[2])


def test_ratio_of_means_is_the_delta_method_of_logarithms() -> None:
    """Log-scale limits combine to exp(log ratio -+ z sqrt(se² + se²)); there is no ratio to or of 0."""
    terms, others = [1.0, 2.0, 4.0, 9.0], [3.0, 1.0, 2.0]
    now, reference = positive_mean_interval(*sums(terms), Z), positive_mean_interval(*sums(others), Z)
    errors = [np.std(t, ddof=1) / math.sqrt(len(t)) / np.mean(t) for t in (terms, others)]
    factor = math.exp(Z * math.hypot(*errors))
    assert ratio(now, reference) == pytest.approx((2.0, 2.0 / factor, 2.0 * factor))
    nothing = Estimate(0.0, 0.0, 0.0, 5.0)
    assert ratio(nothing, now) is None
    assert ratio(now, nothing) is None
    assert ratio(Estimate(1.0, 0.0, 2.0, 5.0), now) == pytest.approx((0.25, 0.0, 0.25 * limit_factor(now)))
    assert ratio(now, Estimate(1.0, 0.0, 2.0, 5.0)) == pytest.approx((4.0, 1.0 / low_factor(now), math.inf))


def limit_factor(reference: Estimate) -> float:
    """How far up the ratio to `reference` goes, for a value of 1 with the upper limit 2."""
    value, low, _ = limits(reference)
    return math.exp(math.hypot(math.log(2.0), math.log(value / low)))


def low_factor(now: Estimate) -> float:
    """How far down, of 4, the ratio of `now` to a value of 1 with the upper limit 2 goes."""
    value, low, _ = limits(now)
    return math.exp(math.hypot(math.log(value / low), math.log(2.0))) / 4.0


def test_estimates_without_an_interval_cannot_be_compared() -> None:
    """To compare what is not known is a bug of ours."""
    for missing in (unknown(), Estimate(1.0, None, None, 1.0), Estimate(1.0, 0.5, None, 1.0)):
        with pytest.raises(AssertionError):
            difference(missing, Estimate(1.0, 0.5, 2.0, 3.0))


def test_limits_are_cut_to_the_range_and_hold_the_value() -> None:
    """A limit outside of the range is cut; one on the wrong side of the value moves to it."""
    assert bracketed(0.5, -0.2, 1.3, 3.0, least=0.0, most=1.0) == Estimate(0.5, 0.0, 1.0, 3.0)
    assert bracketed(0.5, 0.6, 0.4, 3.0, error_max=0.1) == Estimate(0.5, 0.5, 0.5, 3.0, 0.1)


@pytest.mark.parametrize(("share", "n"), [(0.5, 300), (0.05, 300), (0.9, 1000)])
def test_wilson_and_newcombe_cover_the_truth(share: float, n: int) -> None:
    """95 % intervals of a proportion, and of the difference of two, hold the truth in 93 to 98 % of 2,000 samples."""
    random = np.random.default_rng(7)
    held = held_difference = 0
    for now, other in random.binomial(n, share, size=(2000, 2)):
        estimate, reference = wilson(float(now), float(n), Z), wilson(float(other), float(n), Z)
        _, low, high = limits(estimate)
        held += low <= share <= high
        _, low, high = difference(estimate, reference)
        held_difference += low <= 0.0 <= high
    assert 0.93 <= held / 2000 <= 0.98
    assert 0.93 <= held_difference / 2000 <= 0.98


def test_log_scale_covers_skewed_means_better() -> None:
    """For squares of normal and of heavy-tailed errors, and their ratio, the log scale holds the truth as it says."""
    random, n = np.random.default_rng(8), 300
    held = {"mean": 0, "positive": 0, "ratio": 0}
    for _ in range(1000):
        first, second = (random.standard_t(8, n) ** 2, random.standard_t(8, n) ** 2)
        sums_first, sums_second = ((t.sum(), (t**2).sum(), float(n)) for t in (first, second))
        truth = 8.0 / 6.0
        estimate = positive_mean_interval(*sums_first, Z)
        _, low, high = limits(estimate)
        held["positive"] += low <= truth <= high
        _, low, high = limits(mean_interval(*sums_first, Z))
        held["mean"] += low <= truth <= high
        quotient = ratio(estimate, positive_mean_interval(*sums_second, Z))
        assert quotient is not None
        held["ratio"] += quotient[1] <= 1.0 <= quotient[2]
    assert held["mean"] <= held["positive"]
    assert held["positive"] >= 920
    assert held["ratio"] >= 930
