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
burst (4)           flagged events among about the last hundred, decayed; events since the burst began (0: there is
                    none); log of the factor that verdicts are multiplied with; log of the coarse factor

A burst (BURST_LEVEL flagged events among about a hundred, where a tenth of one is expected) is a fault until it has
lasted for `regime_events` events: so long its flagged events are not learned, or the fault would soon pass for normal.
Then it is the new normal, and the caller begins anew with its events.

The realised rate: a tail that is fitted to 2,048 scores is off by some ten percent, and an exponential one fits no
mixture. So the verdict is multiplied by a factor that each flagged event raises and each other one lowers in proportion
(online quantile tracking: Gibbs & Candès 2021, NeurIPS, "Adaptive conformal inference under distribution shift",
equation 2, on a log scale). Whatever the stream, |flagged - alert_rate x events| is then at most ln(largest / smallest
factor) / CONTROL_STEP, as long as the factor stays inside of its bounds. These keep true anomalies, whose p-values lie
orders of magnitude lower, flagged. A small rate is learned slowly, so what the Bonferroni rule below is too careful is
learned at COARSE_RATE, by a factor of its own between a half and one.
"""

import math

import numba
import numpy as np

from worker.core.kernels.arrays import F64, I64, U64, Bool
from worker.core.kernels.reservoir import next_random

TAIL_SHARE = 0.02
P_VALUE_MIN = 1e-12
RENEWAL_EVENTS_MAX = 4096

SEEN, LENGTH, RENEWAL = 0, 1, 2
THRESHOLD, MEAN_EXCESS = 0, 1
LEVEL, LASTED, LOG_FACTOR, LOG_COARSE = 0, 1, 2, 3
LEARN_ALWAYS, LEARN_UNLESS_BURST, LEARN_NEVER = 0, 1, 2
CONTROL_STEP = 0.3
LOG_FACTOR_MAX = math.log(10.0)
COARSE_RATE, COARSE_STEP, LOG_COARSE_MIN = 0.01, 0.02, -math.log(2.0)
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
def _with_alone(fused: float, p_values: F64, alone: Bool) -> float:
    """Return the p-value of an event that is unusual to all detectors together or to one of those that may be alone.

    The smallest of m p-values times m is a p-value, whatever their dependence (Bonferroni; Dunn 1961).
    """
    smallest = fused
    count = 1
    for series in range(alone.shape[0]):
        if alone[series] and not math.isnan(p_values[series]):
            smallest = min(smallest, p_values[series])
            count += 1
    together: float = min(1.0, count * smallest) if not math.isnan(fused) else np.nan
    return together


@numba.njit(cache=True, nogil=True)
def _controlled(verdict: float, alert_rate: float, burst: F64) -> float:
    """Return the verdict times the factor, and move the factor on unless there is a burst."""
    if math.isnan(verdict):
        return verdict
    coarse = verdict * math.exp(burst[LOG_COARSE])
    controlled: float = min(1.0, coarse * math.exp(burst[LOG_FACTOR]))
    if burst[LASTED] == 0.0:
        shifted = burst[LOG_COARSE] + COARSE_STEP * ((coarse <= COARSE_RATE) - COARSE_RATE)
        burst[LOG_COARSE] = min(max(shifted, LOG_COARSE_MIN), 0.0)
        moved = burst[LOG_FACTOR] + CONTROL_STEP * ((controlled <= alert_rate) - alert_rate)
        burst[LOG_FACTOR] = min(max(moved, -LOG_FACTOR_MAX), LOG_FACTOR_MAX)
    return controlled


@numba.njit(cache=True, nogil=True)
def _move_burst(flagged: int, burst: F64) -> None:
    """Count an event: a burst begins at BURST_LEVEL and lasts until its level is under one."""
    burst[LEVEL] = burst[LEVEL] * (1.0 - 1.0 / BURST_HORIZON_EVENTS) + flagged
    if burst[LEVEL] < 1.0:
        burst[LASTED] = 0.0
    elif burst[LASTED] > 0.0 or burst[LEVEL] >= BURST_LEVEL:
        burst[LASTED] += 1.0


@numba.njit(cache=True, nogil=True)
def _fused(scores: F64, weights: F64, reference: F64, counters: I64, tail: F64, p_values: F64) -> tuple[float, int]:
    """Write the p-values of one event's scores (k); return the fused score and how many detectors are ready."""
    total = 0.0
    weight = 0.0
    ready = 0
    for series in range(scores.shape[0]):
        p = _p_value(scores[series], reference[series], counters[series], tail[series])
        p_values[series] = p
        if not math.isnan(p):
            total -= weights[series] * math.log10(p)
            weight += weights[series]
            ready += 1
    return total / weight if weight > 0.0 else np.nan, ready


@numba.njit(cache=True, nogil=True)
def judge(
    scores: F64,
    weights: F64,
    alone: Bool,
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
    policy: int,
    fused: F64,
    raw_verdicts: F64,
    p_values: F64,
) -> int:
    """Calibrate and fuse a batch: scores (k x n, NaN = none yet) to p_values ((k + 1) x n), the verdict last.

    `raw_verdicts` (n) are those of the fused score alone, before the factor.

    The fused score is the weighted mean of -log10 p over the detectors that have a p-value (Fisher 1932; Good 1955 with
    weights; up to scale); its own p-value is calibrated the same way, since the parts are not independent. When a
    detector joins, the fused score changes its law, so its past is forgotten. A mean says little when one of many
    detectors is alarmed, so those that are `alone` (k) can flag an event by themselves. An event is judged before any
    of its scores is learned; which flagged events are learned is told by `policy` (LEARN_...).

    Stops after the event at which a burst has lasted for `regime_events`; returns how many rows were judged.
    O(n k log r).
    """
    detectors = scores.shape[0]
    rows: int = scores.shape[1]
    for row in range(rows):
        fused[row], ready = _fused(scores[:, row], weights, reference, counters, tail, p_values[:, row])
        if ready != members[0]:
            members[0] = ready
            counters[detectors, :] = 0
        raw = _p_value(fused[row], reference[detectors], counters[detectors], tail[detectors])
        raw_verdicts[row] = raw
        verdict = _controlled(_with_alone(raw, p_values[:, row], alone), alert_rate, burst)
        p_values[detectors, row] = verdict
        flagged = verdict <= alert_rate
        _move_burst(int(flagged), burst)
        if burst[LASTED] >= regime_events:
            return row + 1
        if flagged and (policy == LEARN_NEVER or (policy == LEARN_UNLESS_BURST and burst[LASTED] > 0.0)):
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
    return rows


@numba.njit(cache=True, nogil=True)
def fuse(scores: F64, weights: F64, reference: F64, counters: I64, tail: F64, fused: F64) -> None:
    """Write the fused scores (n) of scores (k x n) as they would be now; learns nothing. O(n k log r)."""
    p_values = np.empty(scores.shape[0])
    for row in range(scores.shape[1]):
        fused[row] = _fused(scores[:, row], weights, reference, counters, tail, p_values)[0]
