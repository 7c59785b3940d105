"""ADWIN, adaptive windowing: a window over a stream that drops its old part when the mean has changed.

Bifet and Gavalda 2007, "Learning from time-changing data with adaptive windowing", SDM, algorithm ADWIN2, with the
variance of buckets from Babcock, Datar, Motwani, O'Callaghan 2003, "Maintaining variance and k-medians over data
stream windows", PODS. Every rounding is that of River 0.26.1, so decisions, total and variance are its own.

The window is an exponential histogram: row r holds up to m buckets of 2^r values each, oldest first; an (m + 1)st
merges the row's two oldest into one of the next row. State, all 0 when empty:

* `buckets` i64[R]: buckets in each row; the rows in use are the first ones, without a gap;
* `totals`, `variances` f64[R, m + 1]: sum, and sum of squared deviations from the mean, of each bucket;
* `width` i64[1]: values in the window, which are the values since the last alarm;
* `window` f64[2]: sum, and sum of squared deviations from the mean, of the window;
* `change` f64[2]: means before and after the most likely place of the last change; stays until the next alarm.

R = 60 rows hold any stream: with m = 5, row r is begun by value 5 x 2^r - 4, so 2^53 values use 51 rows.
"""

import math

import numba

from worker.core.kernels.arrays import F64, I64

ROWS = 60
"""R: rows that the caller allocates."""


@numba.njit(cache=True, nogil=True)
def _shift(row: int, by: int, buckets: I64, totals: F64, variances: F64) -> None:
    """Remove the `by` oldest buckets of a row. O(m)."""
    kept = buckets[row] - by
    for k in range(kept):
        totals[row, k] = totals[row, k + by]
        variances[row, k] = variances[row, k + by]
    for k in range(kept, buckets[row]):
        totals[row, k] = 0.0
        variances[row, k] = 0.0
    buckets[row] = kept


@numba.njit(cache=True, nogil=True)
def _merge_oldest(row: int, buckets: I64, totals: F64, variances: F64) -> None:
    """Make one bucket of the next row from the two oldest of this one. O(m). Babcock et al. 2003."""
    assert row + 1 < totals.shape[0], "more than 2^53 values"
    size = float(1 << row)
    difference = totals[row, 0] / size - totals[row, 1] / size
    place = buckets[row + 1]
    totals[row + 1, place] = totals[row, 0] + totals[row, 1]
    variances[row + 1, place] = variances[row, 0] + variances[row, 1] + size * 0.5 * difference * difference
    buckets[row + 1] = place + 1
    _shift(row, 2, buckets, totals, variances)


@numba.njit(cache=True, nogil=True)
def _insert(value: float, buckets: I64, totals: F64, variances: F64, width: I64, window: F64) -> None:
    """Add a value as a bucket of its own. O(1) amortized, O(m log n) at worst."""
    if width[0] > 0:
        before = float(width[0])
        difference = value - window[0] / before
        window[1] += before * difference * difference / (before + 1.0)
    window[0] += value
    width[0] += 1
    totals[0, buckets[0]] = value
    variances[0, buckets[0]] = 0.0
    buckets[0] += 1
    row = 0
    while buckets[row] == totals.shape[1]:
        _merge_oldest(row, buckets, totals, variances)
        row += 1


@numba.njit(cache=True, nogil=True)
def _last_row(buckets: I64) -> int:
    """Return the row of the oldest bucket. O(log n)."""
    row = 0
    while row + 1 < buckets.shape[0] and buckets[row + 1] > 0:
        row += 1
    return row


@numba.njit(cache=True, nogil=True)
def _has_cut(buckets: I64, totals: F64, width: I64, window: F64, delta: float, min_window_length: int) -> bool:
    """Return whether the window can be cut in two parts whose means differ too much. O(m log n).

    The paper's bound for a part of known variance, with delta' = delta / ln(width); both parts count
    `min_window_length` - 1 values less than they hold, as in MOA and River.
    """
    if window[1] < 0.0:
        return False  # only rounding gets here; River then compares with the root of it, which is NaN
    log_term = math.log(2.0 * math.log(float(width[0])) / delta)
    variance = window[1] / width[0]
    n_old, n_new = 0.0, float(width[0])
    total_old, total_new = 0.0, window[0]
    for row in range(_last_row(buckets), -1, -1):
        size = float(1 << row)
        for k in range(buckets[row]):
            n_old += size
            n_new -= size
            total_old += totals[row, k]
            total_new -= totals[row, k]
            if n_new < min_window_length:
                return False
            if n_old < min_window_length:
                continue
            shares = 1.0 / (n_old - min_window_length + 1.0) + 1.0 / (n_new - min_window_length + 1.0)
            bound = math.sqrt(2.0 * shares * variance * log_term) + 2.0 / 3.0 * log_term * shares
            if abs(total_old / n_old - total_new / n_new) > bound:
                return True
    return False


@numba.njit(cache=True, nogil=True)
def _note_change(buckets: I64, totals: F64, width: I64, window: F64, min_window_length: int, change: F64) -> None:
    """Note the means on both sides of the cut at which they differ most, in standard errors. O(m log n).

    What ADWIN keeps is mostly from before the change: it drops no more than it must. So its two parts say little of
    how much has changed; the most likely cut does (the maximum likelihood place of a change of the mean).
    """
    n_old, n_new = 0.0, float(width[0])
    total_old, total_new, best = 0.0, window[0], -1.0
    for row in range(_last_row(buckets), -1, -1):
        for k in range(buckets[row]):
            n_old += float(1 << row)
            n_new -= float(1 << row)
            total_old += totals[row, k]
            total_new -= totals[row, k]
            if n_old < min_window_length or n_new < min_window_length:
                continue
            difference = total_old / n_old - total_new / n_new
            weight = difference * difference * n_old * n_new
            if weight > best:
                best = weight
                # Sums of values in [0, 1] are exact to their last bits only: the means are kept in that range.
                change[0] = min(max(total_old / n_old, 0.0), 1.0)
                change[1] = min(max(total_new / n_new, 0.0), 1.0)


@numba.njit(cache=True, nogil=True)
def adwin(
    values: F64,
    begin: int,
    buckets: I64,
    totals: F64,
    variances: F64,
    width: I64,
    window: F64,
    change: F64,
    delta: float,
    clock: int,
    min_window_length: int,
    grace_period: int,
) -> int:
    """Take values f64[n], each in [0, 1], from `begin` to the first that alarms; return its index, or n if none does.

    Amortized O(1) for a value, and O(m log n) for each `clock`th, where all cuts are tried. An alarm notes `change`
    and empties the window, as River does before the next value. So River's tick
    is the width. `min_window_length` >= 1, `grace_period` >= 1, m >= 2.
    """
    for i in range(begin, len(values)):
        _insert(values[i], buckets, totals, variances, width, window)
        if width[0] % clock != 0 or width[0] <= grace_period:
            continue
        if _has_cut(buckets, totals, width, window, delta, min_window_length):
            # River drops old buckets now, one by one, and all the rest before the next value.
            _note_change(buckets, totals, width, window, min_window_length, change)
            buckets[:] = 0
            totals[:] = 0.0
            variances[:] = 0.0
            width[0] = 0
            window[:] = 0.0
            return i
    return len(values)
