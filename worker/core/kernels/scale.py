"""Rows as detectors take them: on a common scale, within limits, in single precision."""

import math

import numba
import numpy as np

from worker.core.kernels.arrays import F32, F64, I64

REACH = 5.0
"""Values are cut this many widths outside of the limits, so no square of a difference is larger than 121."""
CENTRE = 0.5


@numba.njit(cache=True, nogil=True)
def scale_rows(rows: F64, low: F64, high: F64, scaled: F32 | F64) -> None:
    """Write (x - low) / (high - low), cut to [-REACH, 1 + REACH], of rows f64[n, d]. NaN stays NaN. O(n d).

    `low`, `high` f64[d], finite, or NaN for a column of which nothing is known: its values become NaN. Where both are
    equal, that value becomes CENTRE, less one less, more one more. `scaled` [n, d] may be float32.
    """
    for j in range(rows.shape[1]):
        width = high[j] - low[j]
        for i in range(rows.shape[0]):
            x = rows[i, j]
            if width > 0.0:
                x = min(max((x - low[j]) / width, -REACH), 1.0 + REACH) if not math.isnan(x) else x
            elif not math.isnan(x):
                x = CENTRE + (x > low[j]) - (x < low[j]) if width == 0.0 else math.nan
            scaled[i, j] = x


@numba.njit(cache=True, nogil=True)
def limit_rows(rows: F64, low: F64, high: F64, limited: F32 | F64) -> None:
    """Write (clip(x) - low) / (high - low), in [0, 1], of rows f64[n, d]. NaN stays NaN. O(n d).

    `low`, `high` f64[d], finite, or NaN for a column of which nothing is known: its values become CENTRE. Where both
    are equal, that value becomes CENTRE, less 0, more 1. `limited` [n, d] may be float32.
    """
    for j in range(rows.shape[1]):
        width = high[j] - low[j]
        for i in range(rows.shape[0]):
            x = rows[i, j]
            if math.isnan(x):
                limited[i, j] = math.nan
            elif width > 0.0:
                limited[i, j] = (cut(x, low[j], high[j]) - low[j]) / width
            elif width == 0.0:
                limited[i, j] = CENTRE * (x >= low[j]) + CENTRE * (x > low[j])
            else:
                limited[i, j] = CENTRE


@numba.njit(cache=True, nogil=True)
def cut(x: float, low: float, high: float) -> float:
    """Return x within [low, high]; NaN stays NaN."""
    if x < low:
        return low
    return min(x, high)


@numba.njit(cache=True, nogil=True)
def cut_rows(rows: F64, largest: float, single: F32) -> None:
    """Write rows f64[n, d], cut to [-largest, largest], as float32. NaN stays NaN. O(n d)."""
    for i in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            single[i, j] = np.float32(cut(rows[i, j], -largest, largest))


@numba.njit(cache=True, nogil=True)
def keep_latest(rows: F64, largest: float, ring: F32, seen: I64) -> None:
    """Write rows f64[n, d], cut to [-largest, largest], to a ring f32[m, d], and count them in `seen` i64[1]. O(n d).

    Row number s (from 0) is at place s mod m.
    """
    size = ring.shape[0]
    for i in range(rows.shape[0]):
        place = (seen[0] + i) % size
        for j in range(rows.shape[1]):
            ring[place, j] = np.float32(cut(rows[i, j], -largest, largest))
    seen[0] += rows.shape[0]


@numba.njit(cache=True, nogil=True)
def fill_missing(scaled: F32 | F64, centre: F64) -> None:
    """Put `centre` f64[d] in the place of what is missing in rows [n, d]; CENTRE where that is missing, too. O(n d)."""
    for i in range(scaled.shape[0]):
        for j in range(scaled.shape[1]):
            if math.isnan(scaled[i, j]):
                scaled[i, j] = centre[j] if not math.isnan(centre[j]) else CENTRE
