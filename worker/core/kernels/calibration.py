"""Scores to p-values, event by event, against each score's own past; and their fusion to one verdict.

The tail: at or below the 98 % quantile of the reference the p-value is the share of past scores that are as large
(with one added above and below, so never 0: Davison & Hinkley 1997, section 4.2); above it an exponential tail is
fitted to the excesses (peaks over threshold with shape 0: Pickands 1975, Embrechts et al. 1997, section 6.5), so
that far rarer events than the reference has seen still differ in their p-values.

State of m series (k detectors, then the verdict) with a reservoir of r scores each:
pool (m x r)        scores kept so far (Vitter's Algorithm R with a bounded memory)
reference (m x r)   a sorted copy of the pool, renewed now and then
counters (m x 3)    scores seen, length of the reference, count at which it is renewed
tail (m x 2)        threshold and mean excess of the reference
random_state (m)    splitmix64 states
members (1)         detectors that were ready at the last event
burst (2)           flagged events among about the last hundred, decayed; flagged events held back in this burst

A burst (BURST_LEVEL flagged events among about a hundred, where a tenth of one is expected) is a fault until it has
lasted for `regime_events` flagged events: so long its scores are not learned, or the fault would soon pass for normal.
"""

import math

import numba
import numpy as np

from worker.core.kernels.arrays import F64, I64, U64
from worker.core.kernels.reservoir import next_random

TAIL_SHARE = 0.02
P_VALUE_MIN = 1e-12
RENEWAL_EVENTS_MAX = 4096

SEEN, LENGTH, RENEWAL = 0, 1, 2
THRESHOLD, MEAN_EXCESS = 0, 1
LEVEL, HELD = 0, 1
BURST_HORIZON_EVENTS = 100
BURST_LEVEL = 5.0


@numba.njit(cache=True, nogil=True)
def tail_p_value(score: float, reference: F64, threshold: float, mean_excess: float) -> float:
    """Return the p-value of a score against a sorted reference (r). O(log r)."""
    length = reference.shape[0]
    if score > threshold and mean_excess > 0.0:
        beyond: float = max(P_VALUE_MIN, TAIL_SHARE * math.exp(-(score - threshold) / mean_excess))
        return beyond
    low, high = 0, length
    while low < high:
        middle = (low + high) >> 1
        if reference[middle] < score:
            low = middle + 1
        else:
            high = middle
    rank: float = (length - low + 1.0) / (length + 1.0)
    return rank


@numba.njit(cache=True, nogil=True)
def _renew(pool: F64, reference: F64, counters: I64, tail: F64, events_min: int) -> None:
    """Sort the pool into the reference and fit the tail. O(r log r), amortised over an eighth of the past."""
    seen = counters[SEEN]
    length = min(seen, pool.shape[0])
    reference[:length] = pool[:length]
    reference[:length].sort()
    cut = int((1.0 - TAIL_SHARE) * (length - 1))
    threshold = reference[cut]
    excess = 0.0
    for place in range(cut + 1, length):
        excess += reference[place] - threshold
    beyond = length - 1 - cut
    counters[LENGTH] = length
    counters[RENEWAL] = seen + min(max(events_min, seen >> 3), RENEWAL_EVENTS_MAX)
    tail[THRESHOLD] = threshold
    tail[MEAN_EXCESS] = excess / beyond if beyond > 0 else 0.0


@numba.njit(cache=True, nogil=True)
def _learn(
    score: float,
    pool: F64,
    reference: F64,
    counters: I64,
    tail: F64,
    random_state: U64,
    events_min: int,
    memory_events: int,
) -> None:
    """Put a score into the pool with probability max(r / seen, r / memory), and renew the reference when due."""
    size = pool.shape[0]
    seen = counters[SEEN]
    if seen < size:
        pool[seen] = score
    else:
        place = next_random(random_state) % np.uint64(min(seen + 1, max(memory_events, size)))
        if place < np.uint64(size):
            pool[place] = score
    counters[SEEN] = seen + 1
    due = counters[RENEWAL] if counters[LENGTH] > 0 else events_min
    if seen + 1 >= due:
        _renew(pool, reference, counters, tail, events_min)


@numba.njit(cache=True, nogil=True)
def _p_value(score: float, reference: F64, counters: I64, tail: F64) -> float:
    """Return the p-value of a score in one series; NaN while its reference is empty or there is no score."""
    length = counters[LENGTH]
    if length == 0 or math.isnan(score):
        return np.nan
    p: float = tail_p_value(score, reference[:length], tail[THRESHOLD], tail[MEAN_EXCESS])
    return p


@numba.njit(cache=True, nogil=True)
def _holds_back(verdict: float, alert_rate: float, regime_events: int, burst: F64) -> bool:
    """Move the burst on by one event; return whether the event must not be learned."""
    flagged = verdict <= alert_rate
    burst[LEVEL] = burst[LEVEL] * (1.0 - 1.0 / BURST_HORIZON_EVENTS) + flagged
    if burst[LEVEL] < 1.0:
        burst[HELD] = 0.0
    if not flagged or burst[LEVEL] < BURST_LEVEL or burst[HELD] >= regime_events:
        return False
    burst[HELD] += 1.0
    return True


@numba.njit(cache=True, nogil=True)
def judge(
    scores: F64,
    pool: F64,
    reference: F64,
    counters: I64,
    tail: F64,
    random_state: U64,
    members: I64,
    burst: F64,
    events_min: I64,
    memory_events: int,
    alert_rate: float,
    regime_events: int,
    fused: F64,
    p_values: F64,
) -> None:
    """Calibrate and fuse a batch: scores (k x n, NaN = none yet) to p_values ((k + 1) x n), the verdict last.

    The fused score is the mean of -log10 p over the detectors that have a p-value (Fisher 1932 up to scale); its own
    p-value is calibrated the same way, since the parts are not independent. When a detector joins, the fused score
    changes its law, so its past is forgotten. An event is judged before any of its scores is learned; in a burst
    flagged events are not learned, up to `regime_events` of them. O(n k log r).
    """
    detectors, rows = scores.shape
    for row in range(rows):
        total = 0.0
        ready = 0
        for series in range(detectors):
            p = _p_value(scores[series, row], reference[series], counters[series], tail[series])
            p_values[series, row] = p
            if not math.isnan(p):
                total -= math.log10(p)
                ready += 1
        if ready != members[0]:
            members[0] = ready
            counters[detectors, :] = 0
        fused[row] = total / ready if ready > 0 else np.nan
        verdict = _p_value(fused[row], reference[detectors], counters[detectors], tail[detectors])
        p_values[detectors, row] = verdict
        if _holds_back(verdict, alert_rate, regime_events, burst):
            continue
        for series in range(detectors + 1):
            score = fused[row] if series == detectors else scores[series, row]
            if not math.isnan(score):
                _learn(
                    score,
                    pool[series],
                    reference[series],
                    counters[series],
                    tail[series],
                    random_state[series : series + 1],
                    int(events_min[series]),
                    memory_events,
                )
