"""How far out in the tails of its features an event lies; row by row, by what was learned before.

Each feature keeps a reservoir of its values. From time to time these are sorted: the *reference*. A value's surprise is
-ln of its tail probability, the smaller of both sides: counted in the reference while it lies among the values, and
beyond the thresholds the exponential tail of the mean excess (peaks over threshold: Pickands 1975, Annals of Statistics
3, with shape 0, the generalised Pareto distribution of a light tail). The score is the mean of the features' surprises
(summing log tail probabilities as if features were independent: Li, Zhao, Hu, Botta, Ionescu, Chen 2022, "ECOD", TKDE).
"""

import math
from typing import NamedTuple

import numba
import numpy as np

from worker.core.kernels.arrays import F64, I64, U64
from worker.core.kernels.gate import ADMITTED, PASSED, GateArrays, admits
from worker.core.kernels.ordering import count_below, sort_into
from worker.core.kernels.reservoir import next_random
from worker.core.kernels.scale import cut

VALUES_MIN = 64
"""Values before a feature has a surprise, and between two renewals of its reference at least."""
RENEWAL_VALUES_MAX = 4096
BODY_SHARE = 0.98
"""Of the values lie below the upper threshold, and as many above the lower one."""
SURPRISE_AT_THRESHOLD = -math.log(1.0 - BODY_SHARE)
SURPRISE_MAX = -math.log(1e-12)
LARGEST = 1e300
"""Values are cut here: no difference and no sum of them overflows."""
ROWS_PER_BLOCK = 256
LOW, HIGH, LOW_EXCESS, HIGH_EXCESS, USUAL, LOG_COUNT = range(6)


class TailArrays(NamedTuple):
    """What is known of d features, with reservoirs of m values."""

    sample: F64
    """[d, m] values, without missing ones (Algorithm R with a bounded memory)."""
    reference: F64
    """[d, m] the values at the last renewal, sorted."""
    length: I64
    """[d] values in the reference; 0: the feature is of no use yet."""
    kept: I64
    """[d] values admitted so far."""
    renewal: I64
    """[d] the count of admitted values at which the reference is renewed."""
    summary: F64
    """[d, 6] of the reference: both thresholds, mean excesses beyond them, mean surprise, ln(length + 1)."""


class _Room(NamedTuple):
    """Room to work in, for a block of n rows."""

    values: F64
    below: I64
    tied: I64
    up_to: I64


@numba.njit(cache=True, nogil=True)
def score_and_learn(
    rows: F64,
    settle: int,
    memory: int,
    logs: F64,
    tails: TailArrays,
    counters: I64,
    random_state: U64,
    gate: GateArrays,
    scores: F64,
) -> None:
    """Score, then learn, each of the rows f64[n, d] in order (NaN = missing). O(n d log m).

    Scores are as in `score`. The first `settle` rows, and rows without a score, are learned without asking the gate;
    `counters` i64[2] is as in `kernels/gate.py`. An admitted value takes a random place with probability m / (values
    admitted so far), or, from `memory` on, if that is not 0, m / memory, as in `kernels/reservoir.py`. The features of
    a row share one random number: each one's sample is as random as if it had its own.

    Scores change at renewals alone. So rows are scored in blocks, at whose last row the first renewal may be.
    """
    room = _room(rows.shape[0])
    first = 0
    while first < rows.shape[0]:
        last = first + min(rows.shape[0] - first, ROWS_PER_BLOCK, until_due(tails.renewal, tails.kept))
        _score_block(rows[first:last], logs, tails, scores[first:last], room)
        for i in range(first, last):
            is_settled = counters[ADMITTED] + counters[PASSED] >= settle
            if is_settled and not math.isnan(scores[i]) and not admits(scores[i], gate):
                counters[PASSED] += 1
                continue
            bits = np.uint64(0)
            if counters[ADMITTED] >= tails.sample.shape[1]:
                bits = next_random(random_state)
            counters[ADMITTED] += 1
            _learn(i, rows, bits, memory, logs, tails)
        first = last


@numba.njit(cache=True, nogil=True)
def until_due(renewal: I64, kept: I64) -> int:
    """Return how many rows can be learned until a reference is renewed, with the last of them; at least one."""
    least = RENEWAL_VALUES_MAX
    for j in range(kept.shape[0]):
        least = min(least, max(1, max(VALUES_MIN, renewal[j]) - kept[j]))
    return least


@numba.njit(cache=True, nogil=True)
def score(rows: F64, logs: F64, tails: TailArrays, scores: F64) -> None:
    """Write the scores of rows f64[n, d] (NaN = missing); learns nothing. O(n d log m).

    The mean of the surprises over the features that have a reference; NaN while none has. In the place of a missing
    value stands the mean surprise of the feature's own reference: what is missing makes an event neither ordinary nor
    strange, and an event without any value has the mean score of what was learned. `logs` f64[m + 2] is ln of 0, 1, ...
    """
    room = _room(rows.shape[0])
    for first in range(0, rows.shape[0], ROWS_PER_BLOCK):
        last = min(rows.shape[0], first + ROWS_PER_BLOCK)
        _score_block(rows[first:last], logs, tails, scores[first:last], room)


@numba.njit(cache=True, nogil=True)
def _room(rows: int) -> _Room:
    """Return room for a block of at most so many rows."""
    size = min(rows, ROWS_PER_BLOCK)
    counts = np.empty((3, size), dtype=np.int64)
    return _Room(np.empty(size), counts[0], counts[1], counts[2])


@numba.njit(cache=True, nogil=True)
def _score_block(rows: F64, logs: F64, tails: TailArrays, scores: F64, room: _Room) -> None:
    """Write the scores of a block of rows f64[n, d], feature by feature: one reference is searched at a time."""
    features = 0
    scores[:] = 0.0
    for j in range(rows.shape[1]):
        if tails.length[j] > 0:
            features += 1
            _add_surprises(rows[:, j], tails.reference[j, : tails.length[j]], tails.summary[j], logs, scores, room)
    for i in range(rows.shape[0]):
        scores[i] = scores[i] / features if features > 0 else math.nan


@numba.njit(cache=True, nogil=True)
def _add_surprises(column: F64, reference: F64, summary: F64, logs: F64, sums: F64, room: _Room) -> None:
    """Add to `sums` f64[n] -ln of the tail probability of each value x f64[n] of a feature.

    (min(#<=x, #>=x) + 1) / (length + 1) inside, exponential outside. Where all values beyond a threshold are equal to
    it there is no excess, and nothing beyond has ever been seen: the limit of the formula, SURPRISE_MAX. So a constant
    that changes is as surprising as a value can be.
    """
    length, rows = reference.shape[0], column.shape[0]
    values = room.values[:rows]
    for i in range(rows):
        values[i] = _cut(column[i])
    count_below(values, reference, room.below)
    _count_up_to(values, reference, room)
    low, high = summary[LOW], summary[HIGH]
    for i in range(rows):
        x = values[i]
        if x > high:
            surprise = _beyond(x - high, summary[HIGH_EXCESS])
        elif x < low:
            surprise = _beyond(low - x, summary[LOW_EXCESS])
        elif math.isnan(x):
            surprise = summary[USUAL]
        else:
            surprise = summary[LOG_COUNT] - logs[min(room.up_to[i], length - room.below[i]) + 1]
        sums[i] += surprise


@numba.njit(cache=True, nogil=True)
def _count_up_to(values: F64, reference: F64, room: _Room) -> None:
    """Write how many of the sorted reference are x or less: as many as below x, unless x itself is in it. O(n log r).

    `room.below` is known.
    """
    length, found = reference.shape[0], 0
    for i in range(values.shape[0]):
        below = room.below[i]
        room.up_to[i] = below
        room.tied[found] = i
        found += below < length and reference[below] == values[i]
    left = length
    for place in range(found):
        room.up_to[room.tied[place]] = 0
    while left > 1 and found > 0:
        half = left >> 1
        for place in range(found):
            i = room.tied[place]
            up_to = np.uint64(room.up_to[i])
            room.up_to[i] += half if reference[up_to + np.uint64(half - 1)] <= values[i] else 0
        left -= half
    for place in range(found):
        i = room.tied[place]
        room.up_to[i] += reference[np.uint64(room.up_to[i])] <= values[i]


@numba.njit(cache=True, nogil=True)
def _cut(x: float) -> float:
    """Return a value cut to LARGEST, and 0 instead of -0."""
    return cut(x, -LARGEST, LARGEST) + 0.0


@numba.njit(cache=True, nogil=True)
def _beyond(excess: float, mean_excess: float) -> float:
    """Return the surprise of a value that lies `excess` beyond a threshold."""
    if mean_excess > 0.0:
        return min(SURPRISE_MAX, SURPRISE_AT_THRESHOLD + excess / mean_excess)
    return SURPRISE_MAX


@numba.njit(cache=True, nogil=True)
def _learn(i: int, rows: F64, bits: np.uint64, memory: int, logs: F64, tails: TailArrays) -> None:
    """Offer the values of row i to the samples; `bits` is random. O(d), and amortised the renewals."""
    size = tails.sample.shape[1]
    drawn_of = -1
    drawn = np.int64(0)
    for j in range(rows.shape[1]):
        x = _cut(rows[i, j])
        if math.isnan(x):
            continue
        kept = tails.kept[j]
        place = kept
        if kept >= size:
            if kept != drawn_of:
                choices = kept + 1 if memory == 0 else min(kept + 1, max(memory, size))
                drawn = np.int64(bits % np.uint64(choices))
                drawn_of = kept
            place = drawn
        tails.kept[j] = kept + 1
        if place < size:
            tails.sample[j, place] = x
        if kept + 1 >= max(VALUES_MIN, tails.renewal[j]):
            _renew(j, logs, tails)


@numba.njit(cache=True, nogil=True)
def _renew(j: int, logs: F64, tails: TailArrays) -> None:
    """Sort the sample of feature j, and sum it up. O(m log m), after an eighth of its past, at most RENEWAL_VALUES_MAX.

    The sample is sorted in place: Algorithm R replaces a random place, so the order of the places says nothing.
    """
    kept = tails.kept[j]
    length = min(kept, tails.sample.shape[1])
    tails.renewal[j] = kept + min(max(VALUES_MIN, kept >> 3), RENEWAL_VALUES_MAX)
    tails.length[j] = length
    reference = tails.reference[j, :length]
    sort_into(tails.sample[j, :length], tails.sample[j, :length])
    reference[:] = tails.sample[j, :length]
    summary = tails.summary[j]
    upper = int(BODY_SHARE * (length - 1))
    beyond = length - 1 - upper
    summary[HIGH] = reference[upper]
    summary[LOW] = reference[beyond]
    over = 0.0
    under = 0.0
    for place in range(beyond):
        over += reference[upper + 1 + place] - summary[HIGH]
        under += summary[LOW] - reference[place]
    summary[HIGH_EXCESS] = over / beyond
    summary[LOW_EXCESS] = under / beyond
    summary[LOG_COUNT] = logs[length + 1]
    summary[USUAL] = _mean_surprise(reference, summary, logs)


@numba.njit(cache=True, nogil=True)
def _mean_surprise(reference: F64, summary: F64, logs: F64) -> float:
    """Return the mean surprise of the values of a reference. O(m)."""
    length = reference.shape[0]
    total = 0.0
    start = 0
    while start < length:
        x = reference[start]
        stop = start + 1
        while stop < length and reference[stop] == x:
            stop += 1
        if x > summary[HIGH]:
            surprise = _beyond(x - summary[HIGH], summary[HIGH_EXCESS])
        elif x < summary[LOW]:
            surprise = _beyond(summary[LOW] - x, summary[LOW_EXCESS])
        else:
            surprise = summary[LOG_COUNT] - logs[min(stop, length - start) + 1]
        total += (stop - start) * surprise
        start = stop
    mean: float = total / length
    return mean
