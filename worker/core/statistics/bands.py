"""The usual band of each feature: what a value is compared with when it has to be explained."""

from typing import NamedTuple

import numpy as np

from worker.core.kernels.arrays import F32, F64

BAND = (0.05, 0.5, 0.95)
LARGEST = 1e300
"""Values are cut here: numpy interpolates between them, and their difference must not overflow."""


class Usual(NamedTuple):
    """5 % quantile, median and 95 % quantile of each feature (d); NaN where nothing is known."""

    low: F64
    median: F64
    high: F64


def usual_band(rows: F64 | F32) -> Usual:
    """Return the band of rows (n x d, NaN = missing)."""
    low, median, high = (np.full(rows.shape[1], np.nan) for _ in BAND)
    for column in range(rows.shape[1]):
        values = rows[:, column].astype(np.float64)
        values = np.clip(values[~np.isnan(values)], -LARGEST, LARGEST)
        if len(values):
            low[column], median[column], high[column] = np.quantile(values, BAND)
    return Usual(low, median, high)
