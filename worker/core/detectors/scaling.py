"""Frozen robust limits that bring features into [0, 1], where half-space trees live."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from worker.core.kernels.arrays import F64
from worker.core.state import Arrays, check_like, refuse_if

QUANTILES = (0.02, 0.98)
# Values are cut here before their limits are taken: four times this is still far from overflow (1.8e308).
LARGEST = 1e300

_STORED = "stored limits"


@dataclass(frozen=True, slots=True, eq=False)
class RobustLimits:
    """Limits of d columns: the 2 % and 98 % quantiles of known rows, each moved out by half of their distance.

    Why frozen, and not River's running MinMaxScaler: that one moves under the trees' feet. A single extreme value
    squeezes all later ordinary values into a corner where no split tells them apart, and the masses learned before
    belong to another scale. Why quantiles: one extreme value among the first rows must not set the scale for good.
    Beyond its limits a value is clipped, that is: as anomalous as the trees can say.

    `low`, `high` f64[d]: equal for a constant column, NaN for a column without any value.
    """

    low: F64
    high: F64

    @classmethod
    def from_rows(cls, rows: F64) -> Self:
        """Take the limits of rows f64[n, d] (finite, NaN = missing; n may be 0). O(n d log n)."""
        n_columns = rows.shape[1]
        low = np.full(n_columns, np.nan)
        high = np.full(n_columns, np.nan)
        for column in range(n_columns):
            values = rows[:, column]
            values = np.clip(values[~np.isnan(values)], -LARGEST, LARGEST)
            if len(values):
                quantile_low, quantile_high = np.quantile(values, QUANTILES)
                margin = 0.5 * (quantile_high - quantile_low)
                low[column] = quantile_low - margin
                high[column] = quantile_high + margin
        return cls(low, high)

    @classmethod
    def unknown(cls, n_columns: int) -> Self:
        """Return the limits of columns without any value."""
        return cls(np.full(n_columns, np.nan), np.full(n_columns, np.nan))

    def restored(self, arrays: Arrays) -> Self:
        """Return copies of the limits of as many columns that `arrays` gave; ValueError if they are none."""
        check_like(_STORED, arrays, self.arrays())
        low, high = arrays["low"].copy(), arrays["high"].copy()
        known = np.isfinite(low)
        refuse_if(
            _STORED,
            {
                "a limit is infinite": np.isinf(low).any() or np.isinf(high).any(),
                "a column has one limit": (np.isfinite(high) != known).any(),
                "a lower limit is above the upper one": (low[known] > high[known]).any(),
            },
        )
        return type(self)(low, high)

    def arrays(self) -> dict[str, F64]:
        """Return the limits by name."""
        return {"low": self.low, "high": self.high}

    def transform(self, rows: F64) -> F64:
        """Return rows f64[n, d] scaled into [0, 1]: (clip(x) - low) / (high - low); NaN stays NaN.

        A constant column maps its value to 0.5, less to 0, more to 1. A column without limits maps every value to
        0.5: nothing is known of what is low or high there, so that a value is present is all that the trees may see.
        """
        width = self.high - self.low
        scaled: F64 = np.clip(rows, self.low, self.high)
        scaled -= self.low
        scaled /= np.where(width > 0.0, width, 1.0)
        for column in np.flatnonzero(~(width > 0.0)):
            values = rows[:, column]
            limit = self.low[column]
            place = np.full(len(values), 0.5) if np.isnan(limit) else 0.5 * (values >= limit) + 0.5 * (values > limit)
            scaled[:, column] = np.where(np.isnan(values), np.nan, place)
        return scaled
