"""One number per event as features: its own past, fast and slow means, and a profile by hour of the week.

State:
lags (L)              the latest values, the latest first; NaN = missing, or none so far
means (3)             fast mean, slow mean, mean distance from the slow mean
count (1)             values so far
profile (168)         usual value of each hour of the week, Monday 00:00 UTC first
visit (168)           mean of the values of the latest week in which that hour had any
visits (168 x 3)      weeks in the profile, values in `visit`, and its week
"""

import math

import numba
import numpy as np

from worker.core.kernels.arrays import F64, I64

HOURS = 168
HOUR_MS = 3_600_000
_MONDAY = 72
"""Hours from the Monday before 1970-01-01, a Thursday, to that day."""
WEEKS_MIN = 2
"""Weeks from which on the profile of an hour is used."""
WEEKS_MAX = 8
"""Weeks from which on the past of a profile fades."""
CLIP = 5.0
"""A value is learned as if it lay at most so many mean distances away."""
CLIP_VALUES_MIN = 16
LARGEST = 1e100
"""Values are cut here: no sum of a few overflows."""

FAST, SLOW, DISTANCE = 0, 1, 2
WEEKS, VALUES, WEEK = 0, 1, 2
BEFORE_LAGS = 4
"""Columns in front of the lags: value, difference, fast residual, slow residual."""


@numba.njit(cache=True, nogil=True)
def _near(value: float, mean: float, reach: float) -> float:
    """Return the value, or the nearest one within `reach` of the mean (Huber 1981, section 1.7)."""
    near: float = min(max(value, mean - reach), mean + reach)
    return near


@numba.njit(cache=True, nogil=True)
def _learn(value: float, means: F64, count: I64, fast: float, slow: float) -> float:
    """Move the means by a value that is not missing; return how far a value may lie away to be learned as it is."""
    n = count[0]
    distance = means[DISTANCE]
    reach = CLIP * distance if n >= CLIP_VALUES_MIN and distance > 0.0 else 4.0 * LARGEST
    if n == 0:
        means[FAST] = means[SLOW] = value
    else:
        # Plain means at first, so that the first value does not weigh more than others.
        even = 1.0 / (n + 1)
        away = min(abs(value - means[SLOW]), reach)
        means[DISTANCE] += max(slow, 1.0 / n) * (away - distance)
        means[FAST] += max(fast, even) * (_near(value, means[FAST], reach) - means[FAST])
        means[SLOW] += max(slow, even) * (_near(value, means[SLOW], reach) - means[SLOW])
    count[0] = n + 1
    return reach


@numba.njit(cache=True, nogil=True)
def _fold(hour: int, week: int, reach: float, profile: F64, visit: F64, visits: I64) -> None:
    """Begin another week of an hour: the values of the one before go into the profile, as one."""
    if visits[hour, VALUES] > 0:
        weeks = visits[hour, WEEKS]
        mean = visit[hour] if weeks < WEEKS_MIN else _near(visit[hour], profile[hour], reach)
        profile[hour] += max(1.0 / (weeks + 1), 1.0 / WEEKS_MAX) * (mean - profile[hour])
        visits[hour, WEEKS] = weeks + 1
    visit[hour] = 0.0
    visits[hour, VALUES] = 0
    visits[hour, WEEK] = week


@numba.njit(cache=True, nogil=True)
def series_features(
    values: F64,
    times_ms: I64,
    fast: float,
    slow: float,
    seasonal: int,
    lags: F64,
    means: F64,
    count: I64,
    profile: F64,
    visit: F64,
    visits: I64,
    rows: F64,
) -> None:
    """Write the features of values (n, NaN = missing) to rows (n x (4 + L + seasonal)), then learn each. O(n L).

    Columns: value, difference to the value before, distances from the fast and the slow mean, the L values before, and
    with `seasonal` the distance from the profile. What is not known yet is NaN. A mean moves by the share `fast` or
    `slow` of its distance to each value.
    """
    n_lags = lags.shape[0]
    for row in range(values.shape[0]):
        value = min(max(values[row], -LARGEST), LARGEST) if not math.isnan(values[row]) else np.nan
        known = count[0] > 0
        rows[row, 0] = value
        rows[row, 1] = value - lags[0]
        rows[row, 2] = value - means[FAST] if known else np.nan
        rows[row, 3] = value - means[SLOW] if known else np.nan
        for lag in range(n_lags):
            rows[row, BEFORE_LAGS + lag] = lags[lag]
        for lag in range(n_lags - 1, 0, -1):
            lags[lag] = lags[lag - 1]
        lags[0] = value
        hours = times_ms[row] // HOUR_MS + _MONDAY
        hour, week = hours % HOURS, hours // HOURS
        if seasonal:
            # An event that is late counts to the latest week; far behind, it was the latest week that was wrong.
            if visits[hour, VALUES] > 0 and (week > visits[hour, WEEK] or week < visits[hour, WEEK] - 1):
                _fold(hour, week, CLIP * means[DISTANCE], profile, visit, visits)
            in_use = visits[hour, WEEKS] >= WEEKS_MIN
            rows[row, BEFORE_LAGS + n_lags] = value - profile[hour] if in_use else np.nan
        if math.isnan(value):
            continue
        reach = _learn(value, means, count, fast, slow)
        if seasonal:
            before = visits[hour, VALUES]
            if before == 0:
                visits[hour, WEEK] = week
                visit[hour] = value if not visits[hour, WEEKS] else _near(value, profile[hour], reach)
            else:
                visit[hour] += (_near(value, visit[hour], reach) - visit[hour]) / (before + 1)
            visits[hour, VALUES] = before + 1
