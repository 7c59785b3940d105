"""Scores to p-values, event by event, against each score's own past; and their fusion to one verdict.

State of m series (k detectors, then the verdict), beside their pasts (`score_past.py`):
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
from typing import NamedTuple

import numba
import numpy as np

from worker.core.kernels.arrays import F32, F64, I64, U64, Bool
from worker.core.kernels.score_past import PastArrays, learn, until_due, until_first_due, write_p_values

LEVEL, LASTED, LOG_FACTOR, LOG_COARSE = 0, 1, 2, 3
LEARN_ALWAYS, LEARN_UNLESS_BURST, LEARN_NEVER = 0, 1, 2
CONTROL_STEP = 0.3
LOG_FACTOR_MAX = math.log(10.0)
COARSE_RATE, COARSE_STEP, LOG_COARSE_MIN = 0.01, 0.02, -math.log(2.0)
BURST_HORIZON_EVENTS = 100
BURST_LEVEL = 5.0
ROWS_PER_BLOCK = 256
UNSUSPICIOUS = 0.2
"""A p-value above this says that nothing is unusual."""


class _Room(NamedTuple):
    """Room to work in, for a block of n events."""

    counts: I64
    ready: I64
    """How many detectors have a p-value."""
    weight: F64
    learned: Bool


@numba.njit(cache=True, nogil=True)
def judge(
    scores: F64,
    weights: F64,
    alone: Bool,
    pool: F32,
    reference: F32,
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
    """Calibrate and fuse a batch: scores (k x n, of single precision, NaN = none yet) to p_values ((k + 1) x n).

    The last p-values are the verdict's; `raw_verdicts` (n) are those of the fused score alone, before the factor.

    The fused score is the weighted mean of -log10 p over the detectors that have a p-value (Fisher 1932; Good 1955 with
    weights; up to scale); its own p-value is calibrated the same way, since the parts are not independent. When a
    detector joins, the fused score changes its law, so its past is forgotten. A mean says little when one of many
    detectors is alarmed, so those that are `alone` (k) can flag an event by themselves. An event is judged before any
    of its scores is learned; which flagged events are learned is told by `policy` (LEARN_...).

    Rows are taken in runs, at whose last row the first renewal may be: no p-value changes within one, so their searches
    go on at once.

    Stops after the event at which a burst has lasted for `regime_events`; returns how many rows were judged.
    O(n k log r).
    """
    past = PastArrays(pool, reference, counters, tail)
    detectors = scores.shape[0]
    rows: int = scores.shape[1]
    room = _room(rows)
    first = 0
    fused_to = 0
    while first < rows:
        if first == fused_to:
            fused_to = first + min(rows - first, ROWS_PER_BLOCK, until_first_due(counters, events_min))
            part = slice(first, fused_to)
            block = first
            _fuse(scores[:, part], weights, past, fused[part], p_values[:, part], room)
        ready = room.ready[first - block : fused_to - block]
        run = slice(first, first + _length_of_run(ready, members, int(events_min[detectors]), past))
        write_p_values(detectors, fused[run], past, raw_verdicts[run], room.counts)
        last = first + _decide(
            raw_verdicts[run], p_values[:, run], alone, burst, alert_rate, regime_events, policy, room.learned
        )
        for series in range(detectors + 1):
            learned = fused[first:last] if series == detectors else scores[series, first:last]
            state = random_state[series : series + 1]
            learn(series, learned, room.learned, past, state, events_min[series], memory_events)
        first = last
        if burst[LASTED] >= regime_events:
            break
    return first


@numba.njit(cache=True, nogil=True)
def _length_of_run(ready: I64, members: I64, events_min: int, past: PastArrays) -> int:
    """Return for how many rows the same detectors are `ready` (n), and the verdict's reference cannot be renewed.

    Forgets the verdict's past if others are ready than before.
    """
    verdict = past.counters.shape[0] - 1
    if ready[0] != members[0]:
        members[0] = ready[0]
        past.counters[verdict, :] = 0
    rows: int = min(ready.shape[0], until_due(verdict, past.counters, events_min))
    for row in range(1, rows):
        if ready[row] != members[0]:
            return row
    return rows


@numba.njit(cache=True, nogil=True)
def _room(rows: int) -> _Room:
    """Return room for a block of at most so many rows."""
    size = min(rows, ROWS_PER_BLOCK)
    counts, ready = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64)
    return _Room(counts, ready, np.empty(size), np.empty(size, dtype=np.bool_))


@numba.njit(cache=True, nogil=True)
def _fuse(scores: F64, weights: F64, past: PastArrays, fused: F64, p_values: F64, room: _Room) -> None:
    """Write p-values (k x n), fused scores (n), and to the room who is ready, of scores (k x n). O(n k log r).

    Series by series, not event by event: then one reference is near at a time, and many searches go on at once.
    """
    rows: int = scores.shape[1]
    weight, ready = room.weight[:rows], room.ready[:rows]
    fused[:] = 0.0
    weight[:] = 0.0
    ready[:] = 0
    for series in range(scores.shape[0]):
        of_series = p_values[series]
        write_p_values(series, scores[series], past, of_series, room.counts)
        for row in range(rows):
            p = of_series[row]
            if not math.isnan(p):
                fused[row] -= weights[series] * math.log10(p)
                weight[row] += weights[series]
                ready[row] += 1
    for row in range(rows):
        # Of single precision, as its past is (`score_past`).
        fused[row] = np.float64(np.float32(fused[row] / weight[row])) if weight[row] > 0.0 else np.nan


@numba.njit(cache=True, nogil=True)
def _decide(
    raw: F64,
    p_values: F64,
    alone: Bool,
    burst: F64,
    alert_rate: float,
    regime_events: int,
    policy: int,
    is_learned: Bool,
) -> int:
    """Write the verdicts (last row of `p_values`) of events with `raw` ones (n), and which are learned; move the burst.

    Stops after the event at which a burst has lasted for `regime_events`; returns how many events that are.
    """
    verdicts = p_values[alone.shape[0]]
    rows: int = raw.shape[0]
    for row in range(rows):
        verdict = _controlled(_with_alone(raw[row], p_values, row, alone), alert_rate, burst)
        verdicts[row] = verdict
        flagged = verdict <= alert_rate
        _move_burst(int(flagged), burst)
        if burst[LASTED] >= regime_events:
            is_learned[row] = False
            return row + 1
        kept_out = policy == LEARN_NEVER or (policy == LEARN_UNLESS_BURST and burst[LASTED] > 0.0)
        is_learned[row] = not (flagged and kept_out)
    return rows


@numba.njit(cache=True, nogil=True)
def _with_alone(fused: float, p_values: F64, row: int, alone: Bool) -> float:
    """Return the p-value of an event that is unusual to all detectors together or to one of those that may be alone.

    The smallest of m p-values times m is a p-value, whatever their dependence (Bonferroni; Dunn 1961).
    """
    smallest = fused
    count = 1
    for series in range(alone.shape[0]):
        if alone[series] and not math.isnan(p_values[series, row]):
            smallest = min(smallest, p_values[series, row])
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
def fuse(scores: F64, weights: F64, pool: F32, reference: F32, counters: I64, tail: F64, fused: F64) -> None:
    """Write the fused scores (n) of scores (k x n) as they would be now; learns nothing. O(n k log r)."""
    past = PastArrays(pool, reference, counters, tail)
    rows: int = scores.shape[1]
    room = _room(rows)
    p_values = np.empty((scores.shape[0], min(rows, ROWS_PER_BLOCK)))
    for first in range(0, rows, ROWS_PER_BLOCK):
        last = min(rows, first + ROWS_PER_BLOCK)
        _fuse(scores[:, first:last], weights, past, fused[first:last], p_values[:, : last - first], room)


@numba.njit(cache=True, nogil=True)
def disagree(p_values: F64, verdicts: F64, alert_rate: float, found: Bool) -> None:
    """Tell for each event (n) whether detectors contradict each other: p-values (k x n), verdicts (n). O(n k).

    It was flagged although half of the detectors or more see nothing unusual, or it was not, although one of them finds
    it rarer than what is flagged.
    """
    for row in range(verdicts.shape[0]):
        known, calm, alarmed = 0, 0, 0
        for series in range(p_values.shape[0]):
            p = p_values[series, row]
            known += not math.isnan(p)
            calm += p > UNSUSPICIOUS
            alarmed += p <= alert_rate
        if verdicts[row] <= alert_rate:
            found[row] = 2 * calm >= max(known, 1)
        else:
            found[row] = alarmed > 0 and not math.isnan(verdicts[row])
