"""What is known of series of scores: each one's own past, as a sample, sorted, and with a tail; and p-values by it.

The tail: at or below the 98 % quantile of the reference the p-value is the share of past scores that are as large
(with one added above and below, so never 0: Davison & Hinkley 1997, section 4.2); above it an exponential tail is
fitted to the excesses (peaks over threshold with shape 0: Pickands 1975, Embrechts et al. 1997, section 6.5), so
that far rarer events than the reference has seen still differ in their p-values.

Past scores are kept in single precision. So scores must be of single precision, too, or equal ones would differ.

p-values change at renewals of the reference alone. So they are made for many scores at once, up to the score with which
a renewal may come.
"""

import math
from typing import NamedTuple

import numba
import numpy as np

from worker.core.kernels.arrays import F32, F64, I64, U64, Bool
from worker.core.kernels.ordering import count_below, sort_into
from worker.core.kernels.reservoir import next_random

TAIL_SHARE = 0.02
P_VALUE_MIN = 1e-12
RENEWAL_EVENTS_MAX = 4096

SEEN, LENGTH, RENEWAL = 0, 1, 2
THRESHOLD, MEAN_EXCESS = 0, 1


class PastArrays(NamedTuple):
    """The pasts of m series with a reservoir of r scores each."""

    pool: F32
    """[m, r] scores kept so far (Vitter's Algorithm R with a bounded memory)."""
    reference: F32
    """[m, r] a sorted copy of the pool, renewed now and then."""
    counters: I64
    """[m, 3] scores seen, length of the reference, count at which it is renewed."""
    tail: F64
    """[m, 2] threshold and mean excess of the reference."""


@numba.njit(cache=True, nogil=True)
def write_p_values(series: int, scores: F64, past: PastArrays, p_values: F64, counts: I64) -> None:
    """Write the p-values of scores f64[n] in one series, as `tail_p_values`."""
    reference = past.reference[series, : past.counters[series, LENGTH]]
    threshold, mean_excess = past.tail[series, THRESHOLD], past.tail[series, MEAN_EXCESS]
    tail_p_values(scores, reference, threshold, mean_excess, p_values, counts)


@numba.njit(cache=True, nogil=True)
def tail_p_values(
    scores: F64, reference: F32, threshold: float, mean_excess: float, p_values: F64, counts: I64
) -> None:
    """Write the p-values of scores f64[n] (NaN stays NaN) against a sorted reference f32[r]; all NaN if r = 0.

    `counts` i64[n] is room to work in. O(n log r).
    """
    length = reference.shape[0]
    rows = scores.shape[0]
    if length == 0:
        p_values[:rows] = np.nan
        return
    count_below(scores, reference, counts)
    for row in range(rows):
        p_values[row] = (length - counts[row] + 1.0) / (length + 1.0)
    if mean_excess > 0.0:
        for row in range(rows):
            if scores[row] > threshold:
                beyond = TAIL_SHARE * math.exp(-(scores[row] - threshold) / mean_excess)
                p_values[row] = max(P_VALUE_MIN, beyond)
    for row in range(rows):
        p_values[row] = np.nan if math.isnan(scores[row]) else p_values[row]


@numba.njit(cache=True, nogil=True)
def _due(series: int, counters: I64, events_min: int) -> np.int64:
    """Return the count of scores at which the reference is renewed."""
    return counters[series, RENEWAL] if counters[series, LENGTH] > 0 else np.int64(events_min)


@numba.njit(cache=True, nogil=True)
def until_due(series: int, counters: I64, events_min: int) -> int:
    """Return how many scores can be learned until the reference is renewed, with the last of them; at least one."""
    left: int = max(1, _due(series, counters, events_min) - counters[series, SEEN])
    return left


@numba.njit(cache=True, nogil=True)
def until_first_due(counters: I64, events_min: I64) -> int:
    """Return the least `until_due` of all series but the last."""
    least = RENEWAL_EVENTS_MAX
    for series in range(counters.shape[0] - 1):
        least = min(least, until_due(series, counters, events_min[series]))
    return least


@numba.njit(cache=True, nogil=True)
def learn(
    series: int,
    scores: F64,
    is_learned: Bool,
    past: PastArrays,
    random_state: U64,
    events_min: int,
    memory_events: int,
) -> None:
    """Put those scores f64[n], of single precision, that `is_learned` (n) names into the pool of one series; no NaN.

    Each with probability max(r / seen, r / memory); the reference is renewed when due. `random_state` u64[1].
    """
    pool, counters = past.pool[series], past.counters
    size = pool.shape[0]
    choices_max = max(memory_events, size)
    due = _due(series, counters, events_min)
    for row in range(scores.shape[0]):
        score = scores[row]
        if not is_learned[row] or math.isnan(score):
            continue
        seen = counters[series, SEEN]
        if seen < size:
            pool[seen] = score
        else:
            place = next_random(random_state) % np.uint64(min(seen + 1, choices_max))
            if place < np.uint64(size):
                pool[place] = score
        counters[series, SEEN] = seen + 1
        if seen + 1 >= due:
            _renew(pool, past.reference[series], counters[series], past.tail[series], events_min)
            due = _due(series, counters, events_min)


@numba.njit(cache=True, nogil=True)
def _renew(pool: F32, reference: F32, counters: I64, tail: F64, events_min: int) -> None:
    """Sort the pool into the reference and fit the tail. O(r), amortised over an eighth of the past."""
    seen = counters[SEEN]
    length = min(seen, pool.shape[0])
    ordered = pool[:length].astype(np.float64)
    sort_into(ordered, ordered)
    reference[:length] = ordered
    cut = int((1.0 - TAIL_SHARE) * (length - 1))
    threshold = ordered[cut]
    excess = 0.0
    for place in range(cut + 1, length):
        excess += ordered[place] - threshold
    beyond = length - 1 - cut
    counters[LENGTH] = length
    counters[RENEWAL] = seen + min(max(events_min, seen >> 3), RENEWAL_EVENTS_MAX)
    tail[THRESHOLD] = threshold
    tail[MEAN_EXCESS] = excess / beyond if beyond > 0 else 0.0
