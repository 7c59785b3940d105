"""Metrics of a regression from sums over labelled predictions, in the label's own unit, with intervals."""

import math
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import numpy as np

from worker.core.kernels.arrays import F64
from worker.core.performance.intervals import Estimate, bracketed, mean_interval, positive_mean_interval, unknown

# Name: definition with formula; how its interval is made. e = prediction - label.
DEFINITIONS: dict[str, str] = {
    "mse": "Mean squared error: sum e² / n; interval of a mean on the log scale.",
    "rmse": "Root of the mean squared error: sqrt(sum e² / n); roots of the limits of the mean squared error.",
    "mae": "Mean absolute error: sum |e| / n; interval of a mean on the log scale.",
    "median_absolute_error": "Median of |e|, within half a bucket of the histogram; order statistics at the ranks "
    "n / 2 -+ z sqrt(n) / 2.",
    "r2": "Share of the labels' variance that is explained: 1 - sum e² / sum (label - mean label)²; "
    "linearised ratio on the log scale.",
    "bias": "Mean error, positive when predictions are too high: sum e / n; interval of a mean.",
    "mape": "Mean absolute relative error over labels that are not 0: sum |e / label| / n; interval of a mean on the "
    "log scale.",
}

_LABELS_MIN = 2
# Labels vary less than this share of their squares: rounding, so they are constant.
_SPREAD_MIN = 1e-12
_LOG_FACTOR_MAX = 100.0
_ROUNDING = 1e-9


class RegressionFigures(NamedTuple):
    """Sums over n labelled predictions, weighted when the window decays.

    With y' = (label - center) / unit and e' = (prediction - label) / unit: `error`, `absolute`, `squares`, `fourth` are
    the sums of e', |e'|, e'², e'⁴; `label1` to `label4` those of y' to y'⁴; `squares_label1` and `squares_label2` those
    of e'² y' and e'² y'². `percentage` and `percentage_squares` are sums of |e / label| and its square over the
    `percentage_n` labels that are not 0. `absolute_counts` f64[B] counts |e'| in the buckets (bounds[i], bounds[i + 1]]
    of `absolute_bounds` f64[B + 1], ascending and finite. `design` is the design effect (`intervals`).
    """

    n: float
    center: float
    unit: float
    error: float
    absolute: float
    squares: float
    fourth: float
    label1: float
    label2: float
    label3: float
    label4: float
    squares_label1: float
    squares_label2: float
    percentage: float
    percentage_squares: float
    percentage_n: float
    absolute_counts: F64
    absolute_bounds: F64
    design: float = 1.0


def _mse(figures: RegressionFigures, z: float) -> Estimate:
    mean = positive_mean_interval(figures.squares, figures.fourth, figures.n, z, figures.design)
    return _scaled(mean, figures.unit * figures.unit)


def _rmse(figures: RegressionFigures, z: float) -> Estimate:
    value, low, high, support, _ = _mse(figures, z)
    return Estimate(_root(value), _root(low), _root(high), support)


def _root(value: float | None) -> float | None:
    return None if value is None else math.sqrt(value)


def _mae(figures: RegressionFigures, z: float) -> Estimate:
    mean = positive_mean_interval(figures.absolute, figures.squares, figures.n, z, figures.design)
    return _scaled(mean, figures.unit)


def _bias(figures: RegressionFigures, z: float) -> Estimate:
    mean = mean_interval(figures.error, figures.squares, figures.n, z, figures.design)
    return _scaled(mean, figures.unit)


def _mape(figures: RegressionFigures, z: float) -> Estimate:
    sums = figures.percentage, figures.percentage_squares, figures.percentage_n
    return positive_mean_interval(*sums, z, figures.design)


def _scaled(estimate: Estimate, unit: float) -> Estimate:
    """Return an estimate in units of y' in the label's own unit."""
    value, low, high, error_max = (
        None if figure is None else figure * unit
        for figure in (estimate.value, estimate.low, estimate.high, estimate.error_max)
    )
    return Estimate(value, low, high, estimate.support, error_max)


def _median(figures: RegressionFigures, z: float) -> Estimate:
    """Return the median of |e| from its histogram; `error_max` is how far a value in these buckets can be from it.

    The value is the middle of the bucket of the median, or of the two where it lies between two buckets. The limits are
    the outer bounds of the buckets of the order statistics n / 2 - z sqrt(n) / 2 and n / 2 + z sqrt(n) / 2 + 1 (Hahn &
    Meeker 1991), so they cover the error of the histogram too. No interval when there are fewer events
    than these ranks need.
    """
    counts, bounds = figures.absolute_counts, np.maximum(figures.absolute_bounds, 0.0)
    cumulated = np.cumsum(counts)
    n = float(cumulated[-1]) if len(cumulated) else 0.0
    if n <= 0.0:
        return unknown()
    # With an even number of events the median lies between two of them, also where their weights are rounded.
    lower = _bucket_of(cumulated, n / 2.0 * (1.0 - _ROUNDING))
    upper = _bucket_of(cumulated, n / 2.0 * (1.0 + _ROUNDING))
    least, most = float(bounds[lower] + bounds[upper]) / 2.0, float(bounds[lower + 1] + bounds[upper + 1]) / 2.0
    value, error_max = (least + most) / 2.0, (most - least) / 2.0
    size, reach = n / figures.design, z * math.sqrt(n / figures.design) / 2.0
    first, last = size / 2.0 - reach, size / 2.0 + reach + 1.0
    if first <= 0.0 or last > size:
        return _scaled(Estimate(value, None, None, n, error_max), figures.unit)
    low = float(bounds[_bucket_of(cumulated, first * figures.design)])
    high = float(bounds[_bucket_of(cumulated, last * figures.design) + 1])
    return _scaled(bracketed(value, low, high, n, error_max=error_max), figures.unit)


def _bucket_of(cumulated: F64, rank: float) -> int:
    """Return the bucket that holds the event of this rank."""
    return min(int(np.searchsorted(cumulated, rank)), len(cumulated) - 1)


def _r2(figures: RegressionFigures, z: float) -> Estimate:
    """Return 1 - Q with Q = SSE / SST; None below two events or when the labels are constant.

    An event has the influence u = (e² - Q d²) / (SST / n) on Q, d = label - mean label, and the variance of Q is
    sum u² / (n (n - 1)): the linearised ratio (Cochran 1977, chapter 6). The limits of Q are Q exp(-+ z se / Q), so the
    upper limit of r2 stays below 1.
    """
    n = figures.n
    if n < _LABELS_MIN:
        return unknown(n)
    mean = figures.label1 / n
    spread = figures.label2 - n * mean * mean
    if spread <= _SPREAD_MIN * figures.label2:
        return unknown(n)
    quotient = figures.squares / spread
    size = n / figures.design
    if size < _LABELS_MIN:
        return Estimate(1.0 - quotient, None, None, n)
    if quotient <= 0.0:
        return Estimate(1.0, 1.0, 1.0, n)
    error = math.sqrt(_residual_squares(figures, mean, quotient) / (n * (size - 1.0))) * n / spread
    factor = math.exp(min(z * error / quotient, _LOG_FACTOR_MAX))
    return bracketed(1.0 - quotient, 1.0 - quotient * factor, 1.0 - quotient / factor, n, most=1.0)


def _residual_squares(figures: RegressionFigures, mean: float, quotient: float) -> float:
    """Return sum (e'² - Q d²)², d = y' - mean, from the sums of powers of y'."""
    f = figures
    mixed = f.squares_label2 - 2.0 * mean * f.squares_label1 + mean**2 * f.squares
    fourth = f.label4 - 4.0 * mean * f.label3 + 6.0 * mean**2 * f.label2 - 3.0 * f.n * mean**4
    return max(f.fourth - 2.0 * quotient * mixed + quotient**2 * fourth, 0.0)


def label_deviation(figures: RegressionFigures) -> float | None:
    """Return the standard deviation of the labels in their own unit; None below two events, or when it is 0."""
    n = figures.n
    if n < _LABELS_MIN:
        return None
    spread = figures.label2 - figures.label1 * figures.label1 / n
    return math.sqrt(spread / (n - 1.0)) * figures.unit if spread > _SPREAD_MIN * figures.label2 else None


_METRICS: Mapping[str, Callable[[RegressionFigures, float], Estimate]] = {
    "mse": _mse,
    "rmse": _rmse,
    "mae": _mae,
    "median_absolute_error": _median,
    "r2": _r2,
    "bias": _bias,
    "mape": _mape,
}


def regression_metrics(
    figures: RegressionFigures, z: float, *, names: Collection[str] | None = None
) -> dict[str, Estimate]:
    """Return the metrics of `DEFINITIONS`, or those in `names`, in its order."""
    assert names is None or DEFINITIONS.keys() >= set(names), "no such metric"
    return {name: metric(figures, z) for name, metric in _METRICS.items() if names is None or name in names}
