"""Estimates with confidence intervals: proportions, means, differences and ratios of two estimates.

`z` is the normal quantile of the wanted confidence, 1.96 for 95 %. Counts may be fractional, as in a window that
decays. `design` is the design effect of Kish (1965): n correlated events tell as much as n / design independent ones,
so every count is divided by it before an interval is computed. It changes no value.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from worker.core.kernels.arrays import F64

# Below two events there is no spread to measure.
_EVENTS_MIN = 2.0
# exp(100) = 3e43: a mean known that badly is not known at all, and nothing overflows.
_LOG_FACTOR_MAX = 100.0
_TINY = 1e-300


class Estimate(NamedTuple):
    """A metric with its interval. `value` None: not enough data. `low`, `high` None: too few events for an interval.

    `support` is the number of events it rests on. `error_max` bounds the error that a histogram adds to the value; it
    is None where there is none.
    """

    value: float | None
    low: float | None
    high: float | None
    support: float
    error_max: float | None = None


def estimate_of(row: Sequence[float]) -> Estimate:
    """Return what a kernel has put into a row (`kernels.window_estimates`); NaN is None."""
    value, low, high, support, error_max = row
    return Estimate(_known(value), _known(low), _known(high), support, _known(error_max))


def _known(figure: float) -> float | None:
    return None if math.isnan(figure) else figure


def unknown(support: float = 0.0) -> Estimate:
    """Return the estimate that says: not enough data."""
    return Estimate(None, None, None, support)


def wilson(successes: float, n: float, z: float, design: float = 1.0) -> Estimate:
    """Return the proportion successes / n with the score interval (Wilson 1927); None when n is 0.

    (s + z²/2 -+ z sqrt(s (n - s) / n + z²/4)) / (n + z²). Never degenerate: 0 of n has the upper limit z² / (n + z²).
    """
    if n <= 0.0:
        return unknown()
    share = min(max(successes / n, 0.0), 1.0)
    size = n / design
    square = z * z
    centre = size * share + square / 2.0
    half = z * math.sqrt(size * share * (1.0 - share) + square / 4.0)
    return bracketed(
        share, (centre - half) / (size + square), (centre + half) / (size + square), n, least=0.0, most=1.0
    )


def wilson_limits(successes: F64, n: F64, z: float) -> tuple[F64, F64]:
    """Return the limits of `wilson` for arrays of counts; (0, 1) where n is 0."""
    square = z * z
    # Sums that were added to and taken from again may be a little outside.
    n = np.maximum(n, 0.0)
    successes = np.minimum(np.maximum(successes, 0.0), n)
    centre = successes + square / 2.0
    half = z * np.sqrt(successes * (n - successes) / np.maximum(n, _TINY) + square / 4.0)
    return np.maximum((centre - half) / (n + square), 0.0), np.minimum((centre + half) / (n + square), 1.0)


def mean_interval(total: float, squares: float, n: float, z: float, design: float = 1.0) -> Estimate:
    """Return the mean total / n with m -+ z s / sqrt(n), the central limit theorem with the sample variance (n - 1).

    `squares` is the sum of the squared terms. None when n is 0; no interval below two effective events.
    """
    if n <= 0.0:
        return unknown()
    mean = total / n
    error = _standard_error(total / design, squares / design, n / design)
    if error is None:
        return Estimate(mean, None, None, n)
    return bracketed(mean, mean - z * error, mean + z * error, n)


def positive_mean_interval(total: float, squares: float, n: float, z: float, design: float = 1.0) -> Estimate:
    """Return the mean of terms >= 0 with m exp(-+ z s / (m sqrt(n))): the delta method for log m.

    Means of skewed terms, such as squared errors, are nearer to normal on this scale (Cox & Snell 1981), and the limits
    stay positive. A mean of 0 has the interval [0, 0]. None when n is 0; no interval below two effective events.
    """
    if n <= 0.0:
        return unknown()
    mean = max(total / n, 0.0)
    error = _standard_error(total / design, squares / design, n / design)
    if error is None:
        return Estimate(mean, None, None, n)
    if mean == 0.0:
        return bracketed(0.0, 0.0, z * error, n)
    factor = math.exp(min(z * error / mean, _LOG_FACTOR_MAX))
    return bracketed(mean, mean / factor, mean * factor, n)


def _standard_error(total: float, squares: float, n: float) -> float | None:
    """Return s / sqrt(n) with s² = (squares - total² / n) / (n - 1); None below two events."""
    if n < _EVENTS_MIN:
        return None
    return math.sqrt(max(squares - total * total / n, 0.0) / (n - 1.0) / n)


def difference(now: Estimate, reference: Estimate) -> tuple[float, float, float]:
    """Return now - reference with its limits, from the limits of the two (MOVER; Zou & Donner 2008).

    low = d - sqrt((p - l)² + (U - P)²), high = d + sqrt((u - p)² + (P - L)²), with p, l, u of `now` and P, L, U of
    `reference`, which are independent and have intervals. With Wilson limits it is method 10 of Newcombe (1998).
    """
    value, below, above = _distances(now)
    other, other_below, other_above = _distances(reference)
    gap = value - other
    return gap, gap - math.hypot(below, other_above), gap + math.hypot(above, other_below)


def ratio(now: Estimate, reference: Estimate) -> tuple[float, float, float] | None:
    """Return now / reference with its limits: MOVER for the difference of the logarithms (Zou & Donner 2008).

    None where a value is not positive. A lower limit of 0 in `now` gives the lower limit 0, one in `reference` gives
    the upper limit infinity.
    """
    value, below, above = _distances(now)
    other, other_below, other_above = _distances(reference)
    if value <= 0.0 or other <= 0.0:
        return None
    low = _log_distance(value, value - below, other, other + other_above)
    high = _log_distance(value, value + above, other, other - other_below)
    quotient = value / other
    return quotient, quotient * math.exp(-low), quotient * math.exp(high)


def _distances(estimate: Estimate) -> tuple[float, float, float]:
    """Return the value and how far the limits are below and above it."""
    value, low, high = estimate.value, estimate.low, estimate.high
    assert value is not None, "an estimate without a value cannot be compared"
    assert low is not None, "an estimate without an interval cannot be compared"
    assert high is not None, "an estimate without an interval cannot be compared"
    return value, value - low, high - value


def _log_distance(value: float, limit: float, other: float, other_limit: float) -> float:
    """Return sqrt(log²(value / limit) + log²(other / other_limit)); infinite where a limit is not positive."""
    if limit <= 0.0 or other_limit <= 0.0:
        return math.inf
    distance = math.hypot(math.log(value / limit), math.log(other / other_limit))
    return distance if distance < _LOG_FACTOR_MAX else math.inf


def bracketed(
    value: float,
    low: float,
    high: float,
    support: float,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    error_max: float | None = None,
) -> Estimate:
    """Return the estimate with limits cut to [least, most] and moved, where they must, to hold the value."""
    return Estimate(value, min(max(low, least), value), max(min(high, most), value), support, error_max)
