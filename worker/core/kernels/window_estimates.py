"""Estimates that limits and calibration are looked at by after every few labels: values with their intervals.

Each is a row f64[FIGURES]. `performance.intervals`, `performance.confusion` and `performance.calibration` say where the
formulas are from.
"""

import math

import numba
import numpy as np

from worker.core.kernels import class_averages as averages
from worker.core.kernels import histograms, logistic
from worker.core.kernels.arrays import F64

VALUE, LOW, HIGH, SUPPORT, ERROR_MAX = 0, 1, 2, 3, 4
"""Places in a row. NaN: there is no such figure."""
FIGURES = 5

ACCURACY, PRECISION, RECALL, F1, SELECTION_RATE, F1_MACRO = 0, 1, 2, 3, 4, 5
"""Rows of what `of_classes` gives."""
OF_CLASSES = 6

_EVENTS_MIN = 2.0
"""Below it there is no spread to measure."""
_OF_EACH_MIN = 10.0
"""Events of the class, and not of it, from which the slope has an interval (ten for each coefficient: Peduzzi et al.
1996)."""
_DEVIATIONS = 3.0


@numba.njit(cache=True, nogil=True)
def _put(value: float, low: float, high: float, support: float, least: float, most: float, row: F64) -> None:
    """Cut limits to [least, most], and move them, where they must, to hold the value."""
    row[VALUE], row[SUPPORT] = value, support
    row[LOW], row[HIGH] = min(max(low, least), value), max(min(high, most), value)


@numba.njit(cache=True, nogil=True)
def _wilson(successes: float, n: float, z: float, design: float, row: F64) -> None:
    if n <= 0.0:
        return
    share = min(max(successes / n, 0.0), 1.0)
    size, square = n / design, z * z
    centre = size * share + square / 2.0
    half = z * math.sqrt(size * share * (1.0 - share) + square / 4.0)
    _put(share, (centre - half) / (size + square), (centre + half) / (size + square), n, 0.0, 1.0, row)


@numba.njit(cache=True, nogil=True)
def of_classes(
    counts: F64, begin: int, width: int, classes: int, positive: int, z: float, design: float, found: F64
) -> None:
    """Put estimates of metrics of a confusion matrix into `found` f64[OF_CLASSES, FIGURES]. O(classes²).

    Args:
        counts: a tally, with the matrix (width²; rows for labels) from `begin` on.
        begin: see there.
        width: rows that the matrix has room for.
        classes: so many of them are in use.
        positive: the row of the positive class, or -1.
        z: the normal quantile of the confidence.
        design: the design effect (`intervals`).
        found: filled in.
    """
    found[:] = np.nan
    found[:, SUPPORT] = 0.0
    matrix = np.maximum(counts[begin : begin + width * width], 0.0).reshape(width, width)[:classes, :classes].copy()
    n, correct = matrix.sum(), np.trace(matrix)
    _wilson(correct, n, z, design, found[ACCURACY])
    if positive >= 0:
        hits, labels, predictions = matrix[positive, positive], matrix[positive].sum(), matrix[:, positive].sum()
        _wilson(hits, predictions, z, design, found[PRECISION])
        _wilson(hits, labels, z, design, found[RECALL])
        _wilson(predictions, n, z, design, found[SELECTION_RATE])
        _f1(hits, labels + predictions, z, design, found[F1])
    if n > 0.0:
        _f1_macro(matrix, z, design, found[F1_MACRO])


@numba.njit(cache=True, nogil=True)
def _f1(hits: float, both: float, z: float, design: float, row: F64) -> None:
    _wilson(hits, both - hits, z, design, row)
    low, high = 2.0 * row[LOW] / (1.0 + row[LOW]), 2.0 * row[HIGH] / (1.0 + row[HIGH])
    if row[SUPPORT] > 0.0:
        _put(2.0 * hits / both, low, high, row[SUPPORT], -math.inf, math.inf, row)


@numba.njit(cache=True, nogil=True)
def _f1_macro(matrix: F64, z: float, design: float, row: F64) -> None:
    width = matrix.shape[0]
    room, found = np.empty(width * (width + 2)), np.empty(averages.FOUND)
    m = averages.occurring(matrix, room)
    cells = room[: m * m].reshape(m, m)
    averages.f1_macro(cells, room[m * m : m * m + m], room[m * m + m : m * m + 2 * m], z, design, found)
    value, low, high = found[averages.VALUE], found[averages.LOW], found[averages.HIGH]
    _put(value, low, high, found[averages.SUPPORT], 0.0, 1.0, row)


@numba.njit(cache=True, nogil=True)
def in_the_large(negatives: F64, positives: F64, middles: F64, halves: F64, z: float, design: float, row: F64) -> None:
    """Put the estimate of `performance.calibration.calibration_in_the_large` into `row`. O(B)."""
    sums = np.empty(histograms.SCORE_SUMS)
    histograms.score_sums(negatives, positives, middles, halves, sums)
    row[:], row[SUPPORT] = np.nan, 0.0
    of_class, squares = sums[histograms.POSITIVES], sums[histograms.SQUARES]
    n = sums[histograms.NEGATIVES] + of_class
    if n <= 0.0:
        return
    value, size = (sums[histograms.SCORES] - of_class) / n, n / design
    row[VALUE], row[SUPPORT], row[ERROR_MAX] = value, n, sums[histograms.HALVES] / n
    if size >= _EVENTS_MIN:
        variance = max(squares / n - value * value, 0.0) + z * z / 2.0 / size
        reach = z * math.sqrt(variance / (size - 1.0))
        _put(value, value - reach, value + reach, n, -1.0, 1.0, row)


@numba.njit(cache=True, nogil=True)
def slope(negatives: F64, positives: F64, logits: F64, logit_halves: F64, z: float, design: float, row: F64) -> None:
    """Put the estimate of `performance.calibration.calibration_slope` into `row`. O(B rounds)."""
    row[:] = np.nan
    without, of_class = negatives.sum(), positives.sum()
    row[SUPPORT] = without + of_class
    fitted = np.empty(logistic.FITTED)
    if not logistic.fit_logistic(logits, logit_halves, negatives, positives, fitted):
        return
    value = fitted[logistic.SLOPE]
    row[VALUE], row[ERROR_MAX] = value, _slope_error(fitted)
    if min(without, of_class) / design >= _OF_EACH_MIN:
        reach = z * math.sqrt(_slope_variance(fitted) * design)
        _put(value, value - reach, value + reach, row[SUPPORT], -math.inf, math.inf, row)


@numba.njit(cache=True, nogil=True)
def _slope_variance(fitted: F64) -> float:
    """Return the variance of the slope: the last entry of A^-1 or, if that is larger, of A^-1 B A^-1."""
    a, b, c = fitted[logistic.WEIGHT], fitted[logistic.WEIGHT_X], fitted[logistic.WEIGHT_XX]
    p, q, r = fitted[logistic.SCORE], fitted[logistic.SCORE_X], fitted[logistic.SCORE_XX]
    determinant = a * c - b * b
    robust = (b * b * p - 2.0 * a * b * q + a * a * r) / (determinant * determinant)
    return float(max(a / determinant, robust))


@numba.njit(cache=True, nogil=True)
def _slope_error(fitted: F64) -> float:
    """Return `error_max` of `performance.calibration.calibration_slope`."""
    a, b, c = fitted[logistic.WEIGHT], fitted[logistic.WEIGHT_X], fitted[logistic.WEIGHT_XX]
    spread = c - b * b / a
    alike = abs(fitted[logistic.SLOPE]) * math.sqrt(fitted[logistic.WEIGHT_HH] / spread)
    return float(alike + _DEVIATIONS * math.sqrt(fitted[logistic.SCORE_HH] / 3.0) / spread)
