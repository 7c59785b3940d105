"""How far an event is from the running mean, in running standard deviations; event by event."""

import math

import numba
import numpy as np

from worker.core.kernels.arrays import F64, I64
from worker.core.kernels.scale import cut

ROWS_MIN = 16
CLIP = 10.0
"""A value is learned as if it lay at most so many deviations from the mean: no single event blinds a feature."""
STEP = 1e-3
LARGEST = 1e100
"""Values are cut here: their squares must not overflow."""
Z_MAX = 1e6
"""The distance of a value that differs from a feature that has been constant so far."""


@numba.njit(cache=True, nogil=True)
def score_and_learn(rows: F64, low: F64, high: F64, settle: int, count: I64, mean: F64, m2: F64, scores: F64) -> None:
    """Score, then learn, each of the rows (n x d, NaN = missing) in order. O(n d).

    The score is ln(1 + the largest |x - mean| / deviation over the features that have ROWS_MIN values); NaN while no
    feature has, 0 for an event without any of them. Mean and sum of squared deviations (d each) are Welford's (Knuth,
    TAOCP 2, 4.2.2), fed with values clipped to CLIP deviations (Huber 1981, section 1.7, as a bound on influence). The
    first `settle` values of a feature are clipped to [low, high] (d each, NaN = no limit), too, and a value that
    differs from a constant moves it by a small step: no single event, however early, widens the deviation by much.
    """
    n_rows, n_columns = rows.shape
    for row in range(n_rows):
        largest = 0.0
        ready = False
        for column in range(n_columns):
            x = cut(rows[row, column], -LARGEST, LARGEST)
            n = count[column]
            ready = ready or n >= ROWS_MIN
            if math.isnan(x):
                continue
            if n >= ROWS_MIN:
                deviation = math.sqrt(m2[column] / (n - 1))
                distance = abs(x - mean[column])
                largest = max(largest, _in_deviations(distance, deviation))
                reach = CLIP * deviation if deviation > 0.0 else STEP * (1.0 + abs(mean[column]))
                if distance > reach:
                    x = mean[column] + math.copysign(reach, x - mean[column])
            if n < settle and not math.isnan(low[column]):
                x = min(max(x, low[column]), high[column])
            count[column] = n + 1
            delta = x - mean[column]
            mean[column] += delta / (n + 1)
            m2[column] += delta * (x - mean[column])
        scores[row] = math.log1p(largest) if ready else np.nan


@numba.njit(cache=True, nogil=True)
def score(rows: F64, count: I64, mean: F64, m2: F64, scores: F64) -> None:
    """Write the scores of rows (n x d, NaN = missing), as in `score_and_learn`; learns nothing. O(n d)."""
    for row in range(rows.shape[0]):
        largest = 0.0
        ready = False
        for column in range(rows.shape[1]):
            n = count[column]
            ready = ready or n >= ROWS_MIN
            if n >= ROWS_MIN and not math.isnan(rows[row, column]):
                deviation = math.sqrt(m2[column] / (n - 1))
                x = cut(rows[row, column], -LARGEST, LARGEST)
                largest = max(largest, _in_deviations(abs(x - mean[column]), deviation))
        scores[row] = math.log1p(largest) if ready else np.nan


@numba.njit(cache=True, nogil=True)
def _in_deviations(distance: float, deviation: float) -> float:
    """Return a distance from the mean in standard deviations, at most Z_MAX."""
    if deviation > 0.0:
        return min(distance / deviation, Z_MAX)
    return Z_MAX if distance > 0.0 else 0.0
