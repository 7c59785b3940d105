"""Frozen robust scales of features: limits for half-space trees, which live in [0, 1]; widths for distances."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from worker.core.kernels.arrays import F32, F64
from worker.core.kernels.scale import REACH, limit_rows, scale_rows
from worker.core.state import Arrays, check_like, outside, refuse_if

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
        quantile_low, quantile_high = column_quantiles(rows, QUANTILES)
        margin = 0.5 * (quantile_high - quantile_low)
        return cls(quantile_low - margin, quantile_high + margin)

    @classmethod
    def unknown(cls, n_columns: int) -> Self:
        """Return the limits of columns without any value."""
        return cls(np.full(n_columns, np.nan), np.full(n_columns, np.nan))

    def restored(self, arrays: Arrays) -> Self:
        """Return copies of the limits of as many columns that `arrays` gave; ValueError if they are none."""
        check_like(_STORED, arrays, self.arrays())
        low, high = arrays["low"].copy(), arrays["high"].copy()
        _check_limits(low, high)
        return type(self)(low, high)

    def arrays(self) -> dict[str, F64]:
        """Return the limits by name."""
        return {"low": self.low, "high": self.high}

    def transform(self, rows: F64) -> F64:
        """Return rows f64[n, d] scaled into [0, 1]: (clip(x) - low) / (high - low); NaN stays NaN.

        A constant column maps its value to 0.5, less to 0, more to 1. A column without limits maps every value to
        0.5: nothing is known of what is low or high there, so that a value is present is all that the trees may see.
        """
        limited = np.empty(rows.shape)
        limit_rows(rows, self.low, self.high, limited)
        return limited

    def to_float32(self, rows: F64) -> F32:
        """Return rows as `transform` does, as float32."""
        limited = np.empty(rows.shape, dtype=np.float32)
        limit_rows(rows, self.low, self.high, limited)
        return limited


@dataclass(frozen=True, slots=True, eq=False)
class RobustScale:
    """What makes the features of a row comparable, so that distances between rows mean something.

    A value becomes (x - low) / (high - low), cut five widths outside of [0, 1] (`kernels/scale.py`): ordinary values
    lie in [0, 1], and one that is a million times too large is as far away as a distance can see, no further.

    `low`, `high` f64[d]: the 2 % and 98 % quantiles of the known rows, or the smallest and the largest value where
    these are equal (a flag that is seldom set); equal for a constant column, NaN for one without any value. `centre`
    f64[d]: the scaled median.
    """

    low: F64
    high: F64
    centre: F64

    @classmethod
    def from_rows(cls, rows: F64) -> Self:
        """Take the scale of rows f64[n, d] (finite, NaN = missing; n may be 0). O(n d log n)."""
        low, median, high, least, most = column_quantiles(rows, (QUANTILES[0], 0.5, QUANTILES[1], 0.0, 1.0))
        is_flat = low == high
        low, high = np.where(is_flat, least, low), np.where(is_flat, most, high)
        centre = np.empty((1, len(low)))
        scale_rows(median[np.newaxis], low, high, centre)
        return cls(low, high, centre[0])

    @classmethod
    def unknown(cls, n_columns: int) -> Self:
        """Return the scale of columns without any value."""
        nothing = np.full(n_columns, np.nan)
        return cls(nothing, nothing, nothing)

    @property
    def features(self) -> int:
        """Number of columns with a scale: the others are of no use."""
        return int(np.isfinite(self.low).sum())

    def to_float32(self, rows: F64) -> F32:
        """Return scaled rows as float32; NaN for what is missing and for columns without a scale."""
        scaled = np.empty(rows.shape, dtype=np.float32)
        scale_rows(rows, self.low, self.high, scaled)
        return scaled

    def to_float64(self, rows: F64) -> F64:
        """Return scaled rows as float64."""
        scaled = np.empty(rows.shape)
        scale_rows(rows, self.low, self.high, scaled)
        return scaled

    def arrays(self) -> dict[str, F64]:
        """Return the scale by name."""
        return {"low": self.low, "high": self.high, "centre": self.centre}

    def restored(self, arrays: Arrays) -> Self:
        """Return copies of the scale of as many columns that `arrays` gave; ValueError if it is none."""
        check_like(_STORED, arrays, self.arrays())
        low, high, centre = (arrays[name].copy() for name in ("low", "high", "centre"))
        _check_limits(low, high)
        known = np.isfinite(low)
        is_wrong = (np.isnan(centre) == known).any() or outside(centre[known], -REACH, 1.0 + REACH)
        refuse_if(_STORED, {"a median is out of range": is_wrong})
        return type(self)(low, high, centre)


def column_quantiles(rows: F64, quantiles: tuple[float, ...]) -> F64:
    """Return quantiles [q, d] of each column of rows f64[n, d] without what is missing; NaN for an empty column.

    Values are cut to LARGEST before, so that no difference of two quantiles overflows.
    """
    found = np.full((len(quantiles), rows.shape[1]), np.nan)
    for column in range(rows.shape[1]):
        values = rows[:, column]
        values = np.clip(values[~np.isnan(values)], -LARGEST, LARGEST)
        if len(values):
            found[:, column] = np.quantile(values, quantiles)
    return found


def _check_limits(low: F64, high: F64) -> None:
    """Refuse what no columns can have as limits."""
    known = np.isfinite(low)
    refuse_if(
        _STORED,
        {
            "a limit is infinite": np.isinf(low).any() or np.isinf(high).any(),
            "a column has one limit": (np.isfinite(high) != known).any(),
            "a lower limit is above the upper one": (low[known] > high[known]).any(),
        },
    )
