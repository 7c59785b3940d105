"""A test by betting on the share of unusual events, event by event: has it risen, and later, is it back?

A gambler bets against "the probability that an event is unusual is at most b, given all before it". With the bet on
an alternative q > b each event multiplies the money by a likelihood ratio, q / b if it is unusual and (1 - q) / (1 - b)
if not, so that on average it does not grow while that is true (a test supermartingale: Ville 1939; Ramdas, Grünwald,
Vovk, Shafer 2023, "Game-theoretic statistics and safe anytime-valid inference"). The gambler starts with 1, divided
over alternatives (a mixture: Robbins 1970) and over the blocks of BLOCK_EVENTS events in which the change may come. The
part of block j is F(j) - F(j + 1) with F(j) = 1 / (1 + ln(1 + j)), so that all parts make 1 and a late change costs
little. So the probability that the money ever comes to 1 / alpha is at most alpha (Ville's inequality), however often
one looks. (The same sum over beginnings without these weights is the e-detector of Shin, Ramdas, Rinaldo 2023,
"E-detectors", which bounds the mean time between false alarms and not their probability.)

The bound holds for a conditional probability, but p-values are calibrated on a sample and come in clusters. So:
* b is `rise` times (in odds) the expected share: the given one, or what the stream itself has shown for long, if that
  is more, plus one standard error. It is learned HELD_BLOCKS blocks late, and never from those before an alarm, so that
  a rise is not learned before it is found.
* Bets are to the power of 1 / dispersion: how much more the counts of a block, or of a window of WINDOW_BLOCKS, vary
  than those of independent events. By Jensen's inequality this takes nothing from the bound above; for clusters it
  makes up approximately. It is half the mean squared difference of successive counts (von Neumann, Kent, Bellinson,
  Hart 1941, "The mean square successive difference"), which a change of level moves but once, over the variance that
  independent events would have. It is learned SETTLE_BLOCKS blocks late, so that the beginning of a rise does not
  weaken the bets that are to find it; only the first SETTLE_BLOCKS count at once, while there are no bets.

The best single bet is kept beside its beginning (Page 1954): the most likely place of the change.

State, with K alternatives:
wealth (K)       money that is bet on each alternative
peaks (K)        the best single bet on each, begun at the best moment with 1
starts (K x 2)   offset and time of the event at which that one began
runs (K x 2)     events and unusual events since then
held (h)         unusual events of the latest blocks, a ring; their share is not learned yet
counts (10)      as named below
incident (4)     events and unusual events since the most likely beginning of the risen share; its offset and time
learned (8)      as named below
ratios (2 x K)   what a usual and an unusual event multiply money by; follows from the rest, need not be stored
"""

import math

import numba
import numpy as np

from worker.core.kernels.arrays import F64, I64

ALTERNATIVES = 5
BLOCK_EVENTS = 64
HELD_BLOCKS = 128
WINDOW_BLOCKS = 16
SETTLE_BLOCKS = 32
"""The first blocks, without bets: dispersion is learned from them, and from later ones when so many others are past."""
MEMORY_BLOCKS = 2048
"""Blocks from which on the past fades."""

FILL, HITS, HELD, PLACE, BLOCKS, WINDOW, WINDOW_HITS, WINDOW_BEFORE, SETTLED, STANDING = range(10)
"""Events and unusual ones in this block; blocks in the ring, and its next place; blocks begun since the test began;
blocks and unusual events in this window; unusual events in the window before, -1 = there is none; the first
2 SETTLE_BLOCKS blocks, counted; 1 while the share has risen and is not back."""
COUNTS = 10

EVENTS, UNUSUAL, OFFSET, TIME_MS = range(4)

SHARE_HITS, SHARE_EVENTS, NARROW, NARROW_VARIANCE, WIDE, WIDE_VARIANCE, BOUND, TEMPER = range(8)
"""Unusual events and events learned, faded; half the squared differences of counts, and the variances of independent
events, of blocks, then of windows, faded; the share that is bet against, and the power of the bets."""
LEARNED = 8

PRIOR_EVENTS = 1024.0
PRIOR_DISPERSION = 1.5
PRIOR_BLOCKS = 16.0
PRIOR_WINDOWS = 4.0
"""What counts beside the stream's own past: events at the given share; dispersion of blocks and windows."""

SHARE_MAX = 1.0 - 1e-12
"""Nothing is bet against more than this: there must be room for a larger share."""

NOTHING, CROSSED, BLOCK_END = 0, 1, 2

_ODDS = np.array([1.5, 2.5, 4.0, 8.0, 20.0])
"""Alternatives: the odds of an unusual event are so many times what is bet against."""


@numba.njit(cache=True, nogil=True)
def times_odds(share: float, factor: float) -> float:
    """Return the share whose odds are `factor` times those of another one in (0, 1)."""
    odds: float = factor * share
    return odds / (1.0 - share + odds)


@numba.njit(cache=True, nogil=True)
def expected_share(learned: F64, share: float) -> float:
    """Return the share of unusual events so far, shrunk to the given one; at least the given one."""
    mean: float = (share * PRIOR_EVENTS + learned[SHARE_HITS]) / (PRIOR_EVENTS + learned[SHARE_EVENTS])
    return max(share, mean)


@numba.njit(cache=True, nogil=True)
def dispersion(learned: F64, share: float) -> float:
    """Return the variance of counts against that of independent events: the larger one of two scales, at least 1."""
    blocks = PRIOR_BLOCKS * BLOCK_EVENTS * share * (1.0 - share)
    windows = PRIOR_WINDOWS * WINDOW_BLOCKS * BLOCK_EVENTS * share * (1.0 - share)
    narrow = (PRIOR_DISPERSION * blocks + learned[NARROW]) / (blocks + learned[NARROW_VARIANCE])
    wide = (PRIOR_DISPERSION * windows + learned[WIDE]) / (windows + learned[WIDE_VARIANCE])
    spread: float = max(1.0, narrow, wide)
    return spread


@numba.njit(cache=True, nogil=True)
def largest_expected(learned: F64, share: float, rise: float) -> float:
    """Return the share that is bet against: the largest one that is no alarm."""
    mean = expected_share(learned, share)
    error = math.sqrt(mean * (1.0 - mean) * dispersion(learned, share) / (PRIOR_EVENTS + learned[SHARE_EVENTS]))
    return min(times_odds(min(mean + error, 0.5 * (1.0 + mean)), rise), SHARE_MAX)


@numba.njit(cache=True, nogil=True)
def set_ratios(learned: F64, standing: int, ratios: F64) -> None:
    """Compute what an event multiplies money by: on higher shares than the bound, or on lower ones while standing."""
    bound, temper = learned[BOUND], learned[TEMPER]
    for k in range(ALTERNATIVES):
        factor = 1.0 / _ODDS[k] if standing else _ODDS[k]
        usual = math.log(1.0 - bound + factor * bound)
        ratios[0, k] = math.exp(-temper * usual)
        ratios[1, k] = math.exp(temper * (math.log(factor) - usual))


@numba.njit(cache=True, nogil=True)
def _learn_difference(before: int, hits: int, events: int, at: int, fading: float, learned: F64) -> None:
    """Learn how successive counts of so many events differ; `at` and behind it are the sums."""
    mean = (before + hits) / (2.0 * events)
    learned[at] = learned[at] * fading + 0.5 * (hits - before) * (hits - before)
    learned[at + 1] = learned[at + 1] * fading + events * mean * (1.0 - mean)


@numba.njit(cache=True, nogil=True)
def _learn_dispersion(behind: int, held: I64, counts: I64, learned: F64) -> None:
    """Learn dispersion from the block in the ring that so many others are behind."""
    place = (counts[PLACE] - 1 - behind) % HELD_BLOCKS
    hits = held[place]
    if counts[HELD] > behind + 1:
        before = held[(place - 1) % HELD_BLOCKS]
        _learn_difference(before, hits, BLOCK_EVENTS, NARROW, 1.0 - 1.0 / MEMORY_BLOCKS, learned)
    counts[WINDOW] += 1
    counts[WINDOW_HITS] += hits
    if counts[WINDOW] == WINDOW_BLOCKS:
        if counts[WINDOW_BEFORE] >= 0:
            fading = 1.0 - WINDOW_BLOCKS / MEMORY_BLOCKS
            events = WINDOW_BLOCKS * BLOCK_EVENTS
            _learn_difference(counts[WINDOW_BEFORE], counts[WINDOW_HITS], events, WIDE, fading, learned)
        counts[WINDOW_BEFORE] = counts[WINDOW_HITS]
        counts[WINDOW] = 0
        counts[WINDOW_HITS] = 0


@numba.njit(cache=True, nogil=True)
def _learn_block(held: I64, counts: I64, learned: F64) -> None:
    """Put the block that is over into the ring; learn the share of the one that leaves it, and dispersion."""
    place = counts[PLACE]
    if counts[HELD] == HELD_BLOCKS:
        fading = 1.0 - 1.0 / MEMORY_BLOCKS
        learned[SHARE_HITS] = learned[SHARE_HITS] * fading + held[place]
        learned[SHARE_EVENTS] = learned[SHARE_EVENTS] * fading + BLOCK_EVENTS
    else:
        counts[HELD] += 1
    held[place] = counts[HITS]
    counts[PLACE] = (place + 1) % HELD_BLOCKS
    if counts[SETTLED] < 2 * SETTLE_BLOCKS:
        counts[SETTLED] += 1
    if counts[SETTLED] <= SETTLE_BLOCKS:
        _learn_dispersion(0, held, counts, learned)
    elif counts[SETTLED] == 2 * SETTLE_BLOCKS and counts[HELD] >= SETTLE_BLOCKS:
        _learn_dispersion(SETTLE_BLOCKS - 1, held, counts, learned)


@numba.njit(cache=True, nogil=True)
def _begin_block(wealth: F64, counts: I64) -> None:
    """Bet the money that was kept for a change in this block."""
    begun = counts[BLOCKS]
    part = 1.0 / (1.0 + math.log(1.0 + begun)) - 1.0 / (1.0 + math.log(2.0 + begun))
    for k in range(ALTERNATIVES):
        wealth[k] += part / ALTERNATIVES
    counts[BLOCKS] = begun + 1


@numba.njit(cache=True, nogil=True)
def watch_share(
    verdicts: F64,
    begin: int,
    offsets: I64,
    times_ms: I64,
    share: float,
    rise: float,
    limit: float,
    limit_back: float,
    wealth: F64,
    peaks: F64,
    starts: I64,
    runs: I64,
    held: I64,
    counts: I64,
    incident: I64,
    learned: F64,
    ratios: F64,
) -> tuple[int, int]:
    """Take verdicts[begin:] (n, NaN = none: no event of the test) in order, up to the first row to be told of.

    Returns that row and CROSSED (the money has come to `limit`, or while standing to `limit_back`) or BLOCK_END (a
    block is over, while standing), or n and NOTHING. Go on with the next row. O(n K), O(K) more at each block.
    """
    n = verdicts.shape[0]
    set_ratios(learned, counts[STANDING], ratios)
    for row in range(begin, n):
        p_value = verdicts[row]
        if math.isnan(p_value):
            continue
        if counts[FILL] == 0:
            if not counts[STANDING]:
                learned[BOUND] = largest_expected(learned, share, rise)
                learned[TEMPER] = 1.0 / dispersion(learned, share)
                set_ratios(learned, 0, ratios)
            if counts[SETTLED] >= SETTLE_BLOCKS:
                _begin_block(wealth, counts)
        hit = 1 if p_value <= share else 0
        money = 0.0
        for k in range(ALTERNATIVES):
            ratio = ratios[hit, k]
            wealth[k] *= ratio
            money += wealth[k]
            if peaks[k] <= 1.0:
                peaks[k] = 1.0
                starts[k, 0] = offsets[row]
                starts[k, 1] = times_ms[row]
                runs[k, 0] = 0
                runs[k, 1] = 0
            peaks[k] *= ratio
            runs[k, 0] += 1
            runs[k, 1] += hit
        counts[FILL] += 1
        counts[HITS] += hit
        is_over = counts[FILL] == BLOCK_EVENTS
        if is_over:
            if not counts[STANDING]:
                _learn_block(held, counts, learned)
            counts[FILL] = 0
            counts[HITS] = 0
        if counts[STANDING]:
            incident[EVENTS] += 1
            incident[UNUSUAL] += hit
            if money >= limit_back:
                return row, CROSSED
            if is_over:
                return row, BLOCK_END
        elif money >= limit:
            return row, CROSSED
    return n, NOTHING
