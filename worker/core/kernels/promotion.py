"""Is a challenger better than the champion? A sequential paired test on their losses, looked at as often as one likes.

For each label d = ((1 - g) loss of the champion - loss of the challenger) / scale, clipped to [-1, 1]. A challenger
that is better by less than the share g of the champion's loss (`gain_min`) is not worth a promotion, and counts as
equal. Losses are autocorrelated, so it is the means of blocks of labels (200) that are tested, x in units of their
standard deviation s, clipped to +-2 so that no single block decides. Money is bet on each block, with several lambdas:

    money <- (money + stake) exp(lambda x - lambda^2 / 2),      evidence = mean of the money over the lambdas

the likelihood ratio of a shift in mean of a normal law (Robbins 1970, a mixture of them), with a new stake at each
block: the sum over all blocks of "the challenger is better since this one" (Shiryaev-Roberts; Shin, Ramdas and Rinaldo
2024, "E-detectors", NEJSDS 2(2)). So a long equal past does not hide a gain, and nothing has to find when it began.

What is proven: if E[factor | past] <= 1 (x normal, mean at most 0 given the past, s not too small), then
money + (n - k) stake is a non-negative supermartingale for k = 0 .. n blocks, so the chance that money comes to L in n
blocks is at most n stake / L (Ville 1939). With stake = block / span and L = challengers / alpha, the chance that any
challenger that is better in no block, given the past, gets there within `span` labels is at most alpha (a union
bound). Money over a cap is thrown away, which only lowers that chance, and bounds how long old gains speak for it.

What is measured, not proven (benchmarks/promotion.py): that s, which is estimated, and the dependence between blocks,
do no harm. s is the standard deviation of the means of the last ~100 blocks before this one, raised by what it falls
short of with a probability of 0.1 (the chi square quantile, Wilson and Hilferty 1931), so that few blocks do not pass
for calm; and at least what independent labels with the variance in those blocks would have. A block with JUMP times
that variance makes them worthless, and s begins anew: a challenger that was a copy of the champion is one no more.
The evidence must stay at its limit for `hold_labels`: longer than a model lasts between two refits, since one bad
refit does not make a worse kind of model. A difference that wanders for thousands of labels (AR(0.999) with an
amplitude as large as a gain) cannot be told from a gain by this, nor by anything.

A challenger is ready when the evidence has been held and no segment with enough labels is worse than a bound. It stays
so until the evidence falls below 1. Its gain is told since the last block at which the money was worth less than a
new stake: since then, all evidence has come.

State, with c challengers, p places for segments' values:
counts (c x COUNTS), sums (c x SUMS)    as named below
money (c x LAMBDAS)                     as above
segments (c x p x 3)                    labels, sum of gains, sum of squared deviations of each value of a segment, all
                                        halved at SEGMENT_LABELS_MAX labels
"""

import math
from typing import NamedTuple

import numba
import numpy as np

from worker.core.kernels.arrays import F64, I32, I64

BLOCKS_MIN = 3
"""Blocks before the first bet."""
FADING = 0.99
"""Of the memory of blocks, a block."""
CAUTION = -1.2816
"""Standard normal quantile at 0.1."""
RAISE_MIN = 0.05
JUMP = 10.0
MEAN_MAX = 2.0
"""Standard deviations to which a block's mean is clipped."""
CAP = 4.0
"""Natural logarithm of the largest money over the limit."""
VARIANCE_MIN = 1e-9
MONEY_MIN = 1e-300
SEGMENT_LABELS_MAX = 2_000

LABELS, SINCE, BEGUN, STATUS, RUNS, BLOCKS = range(6)
"""Labels so far; how many there were when the evidence came to its limit (-1 = it is below), and when it began; status;
how often evidence has begun; blocks that s is of."""
COUNTS = 6

OPEN, OPEN_SQUARES, WEIGHT, MEANS, MEANS_SQUARED, SQUARES, GAIN, EVIDENCE, VARIANCE, DISPERSION = range(10)
"""Of the open block: sums of d and d^2. Faded sums over blocks: of 1, of their means, squared means, and mean squares.
Sum of gains since `BEGUN`. At the last bet: logarithm of the evidence; variance of d times dispersion; dispersion."""
SUMS = 10

SEGMENT_LABELS, SEGMENT_SUM, SEGMENT_SQUARES = range(3)

TRYING, BLOCKED, READY = range(3)
"""BLOCKED: ready but for a segment that is worse."""

_LAMBDAS = np.array([0.5, 1.0, 2.0])
LAMBDAS = 3


class Rules(NamedTuple):
    """What is asked of a challenger."""

    scale: float
    limit: float
    """Natural logarithm of challengers / alpha."""
    block_labels: int
    stake: float
    """Labels of a block / those for which alpha holds."""
    gain_min: float
    """Share of the champion's loss."""
    labels_min: int
    hold_labels: int
    segment_loss_max: float
    """A segment may be worse by so much, in units of `scale`."""
    segment_labels_min: int


class Trials(NamedTuple):
    """The state of all trials; see the top of this module."""

    counts: I64
    sums: F64
    money: F64
    segments: F64


@numba.njit(cache=True, nogil=True)
def raised(freedom: float) -> float:
    """Return the factor for a variance from so many degrees of freedom (Wilson and Hilferty 1931)."""
    spread = 2.0 / (9.0 * freedom)
    return float(1.0 / max(1.0 - spread + CAUTION * math.sqrt(spread), RAISE_MIN) ** 3)


@numba.njit(cache=True, nogil=True)
def _within(squares: float, mean: float) -> float:
    """Return a variance of labels."""
    return max(squares - mean * mean, VARIANCE_MIN)


@numba.njit(cache=True, nogil=True)
def _set_variance(block_labels: int, sums: F64) -> None:
    """Set what variance and dispersion the next block is judged by. O(1)."""
    weight = sums[WEIGHT]
    mean = sums[MEANS] / weight
    within = _within(sums[SQUARES] / weight, mean)
    between = max(sums[MEANS_SQUARED] - sums[MEANS] * mean, 0.0) / (weight - 1.0) * raised(weight - 1.0)
    sums[VARIANCE] = max(within, between * block_labels)
    sums[DISPERSION] = sums[VARIANCE] / within


@numba.njit(cache=True, nogil=True)
def _remember(mean: float, squares: float, counts: I64, sums: F64) -> None:
    """Take a block with this mean and mean of squares into the memory of blocks. O(1)."""
    sums[WEIGHT] = sums[WEIGHT] * FADING + 1.0
    sums[MEANS] = sums[MEANS] * FADING + mean
    sums[MEANS_SQUARED] = sums[MEANS_SQUARED] * FADING + mean * mean
    sums[SQUARES] = sums[SQUARES] * FADING + squares
    counts[BLOCKS] += 1


@numba.njit(cache=True, nogil=True)
def _forget_if_jumped(mean: float, squares: float, counts: I64, sums: F64) -> None:
    """Forget the blocks before one that varies far more than they do. O(1)."""
    if counts[BLOCKS] > 0:
        weight = sums[WEIGHT]
        before = _within(sums[SQUARES] / weight, sums[MEANS] / weight)
        if _within(squares, mean) > JUMP * before:
            counts[BLOCKS] = 0
            sums[WEIGHT : SQUARES + 1] = 0.0


@numba.njit(cache=True, nogil=True)
def _bet(mean: float, rules: Rules, counts: I64, sums: F64, money: F64) -> None:
    """Pay out the bets on a block with this mean. O(LAMBDAS)."""
    _set_variance(rules.block_labels, sums)
    x = min(max(mean / math.sqrt(sums[VARIANCE] / rules.block_labels), -MEAN_MAX), MEAN_MAX)
    largest = math.exp(rules.limit + CAP)
    total = 0.0
    for j in range(LAMBDAS):
        factor = math.exp(_LAMBDAS[j] * x - 0.5 * _LAMBDAS[j] * _LAMBDAS[j])
        money[j] = min((money[j] + rules.stake) * factor, largest)
        total += money[j]
    evidence = total / LAMBDAS
    sums[EVIDENCE] = math.log(max(evidence, MONEY_MIN))
    if evidence < rules.stake:
        counts[BEGUN] = counts[LABELS]
        counts[RUNS] += 1
        sums[GAIN] = 0.0


@numba.njit(cache=True, nogil=True)
def worse_segments(segments: F64, rules: Rules) -> int:
    """Return how many values with enough labels have a mean below the bound. O(p)."""
    worse = 0
    for place in range(segments.shape[0]):
        labels = segments[place, SEGMENT_LABELS]
        enough = labels >= rules.segment_labels_min
        worse += enough and segments[place, SEGMENT_SUM] < -rules.segment_loss_max * labels
    return worse


@numba.njit(cache=True, nogil=True)
def _judge(rules: Rules, counts: I64, sums: F64, segments: F64) -> None:
    """Renew the status from the evidence of this block. O(p)."""
    labels, evidence = counts[LABELS], sums[EVIDENCE]
    bets = counts[BLOCKS] > BLOCKS_MIN
    if not bets or labels < rules.labels_min or evidence < rules.limit:
        counts[SINCE] = -1
        if counts[STATUS] == BLOCKED or (counts[STATUS] == READY and evidence < 0.0):
            counts[STATUS] = TRYING
        return
    if counts[SINCE] < 0:
        counts[SINCE] = labels
    if counts[STATUS] != READY and labels - counts[SINCE] >= rules.hold_labels:
        counts[STATUS] = BLOCKED if worse_segments(segments, rules) else READY


@numba.njit(cache=True, nogil=True)
def _end_block(rules: Rules, counts: I64, sums: F64, money: F64, segments: F64) -> bool:
    """Bet on the block that is full, remember it, judge; return whether the status is another one. O(LAMBDAS + p)."""
    before = counts[STATUS]
    mean, squares = sums[OPEN] / rules.block_labels, sums[OPEN_SQUARES] / rules.block_labels
    _forget_if_jumped(mean, squares, counts, sums)
    if counts[BLOCKS] >= BLOCKS_MIN:
        _bet(mean, rules, counts, sums, money)
    _remember(mean, squares, counts, sums)
    _judge(rules, counts, sums, segments)
    sums[OPEN], sums[OPEN_SQUARES] = 0.0, 0.0
    return bool(counts[STATUS] != before)


@numba.njit(cache=True, nogil=True)
def _add_to_segments(gain: float, places: I32, segments: F64) -> None:
    """Take one gain for each value that the event has (s, -1 = none). O(s)."""
    for place in places:
        if place >= 0:
            labels = segments[place, SEGMENT_LABELS]
            if labels >= SEGMENT_LABELS_MAX:
                for column in range(3):
                    segments[place, column] *= 0.5
                labels = segments[place, SEGMENT_LABELS]
            mean = segments[place, SEGMENT_SUM] / labels if labels > 0.0 else 0.0
            segments[place, SEGMENT_SQUARES] += (gain - mean) * (gain - mean)
            segments[place, SEGMENT_SUM] += gain
            segments[place, SEGMENT_LABELS] = labels + 1.0


@numba.njit(cache=True, nogil=True)
def begin_trial(counts: I64, sums: F64, money: F64, segments: F64) -> None:
    """Forget all that is known of a challenger. O(p)."""
    counts[:] = 0
    counts[SINCE], counts[RUNS] = -1, 1
    sums[:] = 0.0
    sums[DISPERSION] = 1.0
    money[:] = 0.0
    segments[:] = 0.0


@numba.njit(cache=True, nogil=True)
def take_losses(losses: F64, places: I32, begin: int, rules: Rules, trials: Trials) -> int:
    """Take rows[begin:] in order, up to the first one after which the status of a challenger is another one.

    Args:
        losses: n x (1 + c), first the champion's; NaN = none: the row does not count for this challenger (all, if it
            is the champion's).
        places: n x s, the place of each segment's value, -1 = none.
        begin: the first row.
        rules: what is asked.
        trials: their state; changed.

    Returns that row (go on with the next one), or n. O(n c s), O(c p) more at each block.
    """
    n: int = losses.shape[0]
    columns = losses.shape[1]
    for row in range(begin, n):
        is_told = False
        for k in range(columns - 1):
            gain = (losses[row, 0] - losses[row, k + 1]) / rules.scale
            if math.isnan(gain):
                continue
            counts, sums = trials.counts[k], trials.sums[k]
            difference = ((1.0 - rules.gain_min) * losses[row, 0] - losses[row, k + 1]) / rules.scale
            difference = min(max(difference, -1.0), 1.0)
            gain = min(max(gain, -1.0), 1.0)
            sums[OPEN] += difference
            sums[OPEN_SQUARES] += difference * difference
            sums[GAIN] += gain
            _add_to_segments(gain, places[row], trials.segments[k])
            counts[LABELS] += 1
            if counts[LABELS] % rules.block_labels == 0:
                is_told |= _end_block(rules, counts, sums, trials.money[k], trials.segments[k])
        if is_told:
            return row
    return n
