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
from worker.core.kernels.reservoir import next_random

VALUES_MIN = 64
"""Values before a feature has a surprise, and between two renewals of its reference at least."""
RENEWAL_VALUES_MAX = 4096
BODY_SHARE = 0.98
"""Of the values lie below the upper threshold, and as many above the lower one."""
SURPRISE_AT_THRESHOLD = -math.log(1.0 - BODY_SHARE)
SURPRISE_MAX = -math.log(1e-12)
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
    """Score, then learn, each of the rows f64[n, d] in order (finite, no -0, NaN = missing). O(n d log m).

    Scores are as in `score`. The first `settle` rows, and rows without a score, are learned without asking the gate;
    `counters` i64[2] is as in `kernels/gate.py`. An admitted value takes a random place with probability m / (values
    admitted so far), or, from `memory` on, if that is not 0, m / memory, as in `kernels/reservoir.py`. The features of
    a row share one random number: each one's sample is as random as if it had its own.
    """
    reference, length, summary = tails.reference, tails.length, tails.summary
    for i in range(rows.shape[0]):
        scores[i] = _score_of(i, rows, reference, length, summary, logs)
        is_settled = counters[ADMITTED] + counters[PASSED] >= settle
        if is_settled and not math.isnan(scores[i]) and not admits(scores[i], gate):
            counters[PASSED] += 1
            continue
        bits = np.uint64(0)
        if counters[ADMITTED] >= tails.sample.shape[1]:
            bits = next_random(random_state)
        counters[ADMITTED] += 1
        _learn(i, rows, bits, memory, logs, tails)


@numba.njit(cache=True, nogil=True)
def score(rows: F64, logs: F64, tails: TailArrays, scores: F64) -> None:
    """Write the scores of rows f64[n, d] (finite, no -0, NaN = missing); learns nothing. O(n d log m).

    The mean of the surprises over the features that have a reference; NaN while none has. In the place of a missing
    value stands the mean surprise of the feature's own reference: what is missing makes an event neither ordinary nor
    strange, and an event without any value has the mean score of what was learned. `logs` f64[m + 2] is ln of 0, 1, ...
    """
    reference, length, summary = tails.reference, tails.length, tails.summary
    for i in range(rows.shape[0]):
        scores[i] = _score_of(i, rows, reference, length, summary, logs)


# From here on arrays are passed whole, with the row or the feature that is meant: a slice for each value would cost as
# much as the search.
@numba.njit(cache=True, nogil=True)
def _score_of(i: int, rows: F64, reference: F64, length: I64, summary: F64, logs: F64) -> float:
    """Return the score of row i."""
    total = 0.0
    features = 0
    for j in range(rows.shape[1]):
        if length[j] > 0:
            features += 1
            x = rows[i, j]
            total += summary[j, USUAL] if math.isnan(x) else _surprise(x, j, reference, length[j], summary, logs)
    return total / features if features > 0 else math.nan


@numba.njit(cache=True, nogil=True)
def _surprise(x: float, j: int, reference: F64, length: int, summary: F64, logs: F64) -> float:
    """Return -ln of the tail probability of x: (min(#<=x, #>=x) + 1) / (length + 1) inside, exponential outside.

    Where all values beyond a threshold are equal to it there is no excess, and nothing beyond has ever been seen: the
    limit of the formula, SURPRISE_MAX. So a constant that changes is as surprising as a value can be.
    """
    if x > summary[j, HIGH]:
        return _beyond(x - summary[j, HIGH], summary[j, HIGH_EXCESS])
    if x < summary[j, LOW]:
        return _beyond(summary[j, LOW] - x, summary[j, LOW_EXCESS])
    below = _count_below(x, j, reference, length)
    up_to = below
    if reference[j, below] == x:
        up_to = _count_up_to(x, j, reference, length)
    rarer = min(np.int64(up_to), length - np.int64(below))
    surprise: float = summary[j, LOG_COUNT] - logs[rarer + 1]
    return surprise


@numba.njit(cache=True, nogil=True)
def _beyond(excess: float, mean_excess: float) -> float:
    """Return the surprise of a value that lies `excess` beyond a threshold."""
    if mean_excess > 0.0:
        return min(SURPRISE_MAX, SURPRISE_AT_THRESHOLD + excess / mean_excess)
    return SURPRISE_MAX


# Which half of a reference a value is in cannot be guessed, and wrong guesses took more than half of the time of a
# search. So there is no branch in it: the sign of a difference, spread over all bits, is the mask of a step. (Compilers
# make a branch of a comparison, even where it is a factor.)
@numba.njit(cache=True, nogil=True)
def _mask_if_negative(difference: float) -> np.uint64:
    """Return all bits if the difference is negative, none if it is 0 or more."""
    return np.uint64(np.float64(difference).view(np.int64) >> np.int64(63))


@numba.njit(cache=True, nogil=True)
def _count_below(x: float, j: int, reference: F64, length: int) -> np.uint64:
    """Return how many of the first `length` - 1 sorted values of feature j are less than x. O(log length)."""
    first = np.uint64(0)
    left = np.uint64(length)
    while left > np.uint64(1):
        half = left >> np.uint64(1)
        first += half & _mask_if_negative(reference[j, first + half - np.uint64(1)] - x)
        left -= half
    return first


@numba.njit(cache=True, nogil=True)
def _count_up_to(x: float, j: int, reference: F64, length: int) -> np.uint64:
    """Return how many of the first `length` sorted values of feature j are x or less. O(log length)."""
    first = np.uint64(0)
    left = np.uint64(length)
    while left > np.uint64(1):
        half = left >> np.uint64(1)
        first += half & ~_mask_if_negative(x - reference[j, first + half - np.uint64(1)])
        left -= half
    return first + np.uint64(reference[j, first] <= x)


@numba.njit(cache=True, nogil=True)
def _learn(i: int, rows: F64, bits: np.uint64, memory: int, logs: F64, tails: TailArrays) -> None:
    """Offer the values of row i to the samples; `bits` is random. O(d), and amortised the renewals."""
    size = tails.sample.shape[1]
    drawn_of = -1
    drawn = np.int64(0)
    for j in range(rows.shape[1]):
        x = rows[i, j]
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
    tails.sample[j, :length].sort()
    reference = tails.reference[j, :length]
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
