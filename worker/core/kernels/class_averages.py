"""Averages over the classes of a confusion matrix, for limits: they are looked at after every few labels."""

import math

import numba
import numpy as np

from worker.core.kernels.arrays import F64

VALUE, LOW, HIGH, SUPPORT = 0, 1, 2, 3
"""Places in what `f1_macro` gives."""
FOUND = 4


@numba.njit(cache=True, nogil=True)
def occurring(matrix: F64, found: F64) -> int:
    """Return how many classes m of a matrix f64[k, k] occur in labels (rows) or predictions. O(k²).

    The beginning of `found` f64[k² + 2 k] gets their cells (m², row by row), the sums of rows (m) and of columns (m).
    """
    width, m = matrix.shape[0], 0
    places = np.empty(width, np.int64)
    for k in range(width):
        events = 0.0
        for other in range(width):
            events += matrix[k, other] + matrix[other, k]
        if events > 0.0:
            places[m] = k
            m += 1
    labels, predictions = m * m, m * m + m
    found[labels : predictions + m] = 0.0
    for row in range(m):
        for column in range(m):
            count = matrix[places[row], places[column]]
            found[row * m + column] = count
            found[labels + row] += count
            found[predictions + column] += count
    return m


@numba.njit(cache=True, nogil=True)
def f1_macro(cells: F64, labels: F64, predictions: F64, z: float, design: float, found: F64) -> None:
    """Put the mean F1 of m >= 1 classes that occur, its limits and its support into `found` (`FOUND`). O(m²).

    `performance.confusion.f1_macro` says where the formulas are from.
    """
    m = len(labels)
    value, slope, variance = np.empty(m), np.empty(m), np.empty(m)
    below, above = np.empty(m), np.empty(m)
    n, total, rarest = 0.0, 0.0, math.inf
    for k in range(m):
        hits, both = cells[k, k], labels[k] + predictions[k]
        low, high = _f1_limits(hits / design, (both - hits) / design, z)
        value[k] = 2.0 * hits / both
        below[k], above[k] = value[k] - low, high - value[k]
        slope[k] = value[k] / both
        variance[k] = (2.0 / both - 2.0 * slope[k]) ** 2 * hits + slope[k] ** 2 * (both - 2.0 * hits)
        n += labels[k]
        total += value[k]
        rarest = min(rarest, both / 2.0)
    down, up = 0.0, 0.0
    for k in range(m):
        for other in range(m):
            correlation = 1.0
            if k != other:
                scale = math.sqrt(max(variance[k] * variance[other], 0.0))
                covariance = slope[k] * slope[other] * (cells[k, other] + cells[other, k])
                correlation = covariance / scale if scale > 0.0 else 0.0
            down += below[k] * correlation * below[other]
            up += above[k] * correlation * above[other]
    mean = total / m
    found[VALUE], found[SUPPORT] = mean, min(m * rarest, n)
    found[LOW], found[HIGH] = mean - math.sqrt(max(down, 0.0)) / m, mean + math.sqrt(max(up, 0.0)) / m


@numba.njit(cache=True, nogil=True)
def _f1_limits(successes: float, n: float, z: float) -> tuple[float, float]:
    """Return Wilson limits of a share (`intervals.wilson_limits`), transformed to F1."""
    square = z * z
    n = max(n, 0.0)
    successes = min(max(successes, 0.0), n)
    centre = successes + square / 2.0
    spread = successes * (n - successes) / n if n > 0.0 else 0.0
    half = z * math.sqrt(spread + square / 4.0)
    low, high = max((centre - half) / (n + square), 0.0), min((centre + half) / (n + square), 1.0)
    return 2.0 * low / (1.0 + low), 2.0 * high / (1.0 + high)
