"""Rows on a common scale, for detectors that measure distances."""

import math

import numba

from worker.core.kernels.arrays import F32, F64

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
def fill_missing(scaled: F32 | F64, centre: F64) -> None:
    """Put `centre` f64[d] in the place of what is missing in rows [n, d]; CENTRE where that is missing, too. O(n d)."""
    for i in range(scaled.shape[0]):
        for j in range(scaled.shape[1]):
            if math.isnan(scaled[i, j]):
                scaled[i, j] = centre[j] if not math.isnan(centre[j]) else CENTRE
