"""A model whose events are one number: features from the number's own past, so that detectors work on plain metrics.

A spike shows in the difference, a change of level in the residual to the slow mean, a shape that never was in the
lags (a *shingle*), and a value that is usual at noon but not at night in the seasonal residual.
"""

import numpy as np

from worker.core.kernels.arrays import F64, I64
from worker.core.kernels.series import BEFORE_LAGS, HOURS, LARGEST, VALUES, WEEK, WEEKS, series_features
from worker.core.options import UnivariateOptions
from worker.core.state import COUNT_MAX, Arrays, check_like, fill, outside, refuse_if

_STORED = "stored series"


class SeriesFeatures:
    """Turns each value into k features before it learns the value. Memory is fixed."""

    def __init__(self, options: UnivariateOptions) -> None:
        self._seasonal = int(options.seasonality)
        self._fast = _step(options.fast_half_life_events)
        self._slow = _step(options.slow_half_life_events)
        self._lags = np.full(options.lags, np.nan)
        self._means = np.zeros(3)
        self._count: I64 = np.zeros(1, dtype=np.int64)
        hours = HOURS * self._seasonal
        self._profile = np.zeros(hours)
        self._visit = np.zeros(hours)
        self._visits: I64 = np.zeros((hours, 3), dtype=np.int64)

    @property
    def names(self) -> list[str]:
        """Return the names of the features, in the order of their columns (k)."""
        lags = [f"lag {lag}" for lag in range(1, len(self._lags) + 1)]
        seasonal = ["seasonal residual"] * self._seasonal
        return ["value", "difference", "fast residual", "slow residual", *lags, *seasonal]

    def rows(self, values: F64, times_ms: I64) -> F64:
        """Return the features (n x k) of values (n, NaN = missing) at event times in stream order, and learn them."""
        rows = np.empty((len(values), BEFORE_LAGS + len(self._lags) + self._seasonal))
        series_features(
            values,
            times_ms,
            self._fast,
            self._slow,
            self._seasonal,
            self._lags,
            self._means,
            self._count,
            self._profile,
            self._visit,
            self._visits,
            rows,
        )
        return rows

    # Storing and restoring.

    def live(self) -> Arrays:
        """Return all that changes, as live arrays."""
        return {
            "lags": self._lags,
            "means": self._means,
            "count": self._count,
            "profile": self._profile,
            "visit": self._visit,
            "visits": self._visits,
        }

    def restore(self, live: Arrays) -> None:
        """Take over copies; ValueError for what cannot be."""
        check_like(_STORED, live, self.live())
        lags, visits = live["lags"], live["visits"]
        refuse_if(
            _STORED,
            {
                "a lag is out of range": outside(lags[~np.isnan(lags)], -LARGEST, LARGEST),
                "a mean is out of range": outside(live["means"], -2.0 * LARGEST, 2.0 * LARGEST),
                "a count is out of range": outside(live["count"], 0, COUNT_MAX),
                "a profile is out of range": outside(live["profile"], -2.0 * LARGEST, 2.0 * LARGEST)
                or outside(live["visit"], -2.0 * LARGEST, 2.0 * LARGEST),
                "a count of a profile is out of range": outside(visits[:, [WEEKS, VALUES]], 0, COUNT_MAX),
                "a week is out of range": outside(visits[:, WEEK], -COUNT_MAX, COUNT_MAX),
            },
        )
        fill(self.live(), live)


def _step(half_life: float) -> float:
    """Return by which share a mean moves towards each value, so that one counts half after `half_life` others."""
    return float(1.0 - 0.5 ** (1.0 / half_life))
