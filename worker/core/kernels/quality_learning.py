"""What a quality watch knows to be normal, and how blocks become a part of that.

Rule 1: nothing is learned of a column and measure in blocks in which they are found to be wrong, until that has
        been so for long, or has come again and again.
"""

from typing import NamedTuple

import numba
import numpy as np

from worker.core.kernels.arrays import F64, I8, I32, I64, U8
from worker.core.kernels.quality import (
    CATEGORICAL,
    EVENT,
    GAP,
    HIGH,
    LOW,
    MISSING,
    NEW,
    NUMERIC,
    RUN,
    Block,
    Bounds,
    Running,
)
from worker.core.kernels.quality_statistics import range_bounds

LARGEST = 1e300
"""Values are cut here, so that widths and their multiples are finite."""
_EDGE = 0.1
"""The range of a sample leaves out this share on either side."""
_SAMPLE_MIN = 5
_TREND_MEMORY = 64
_USUAL_BLOCKS = 32
_WANDERS_BLOCKS, _WANDERS_SHARE = 4, 0.3
"""Medians of blocks of independent values are apart by a tenth of their width, those of a random walk by half of it."""
_LEARNED_MAX = 1 << 18
"""Events after which the learned counts fade by half."""
_EPISODES = 5
"""What has been wrong, and well again, so many times is how this stream is."""


class Learned(NamedTuple):
    """What is normal.

    Per measure and column [M, C]: i64 `k` of `n`, f64 `square` (sum of k^2/n over the blocks), i64 `blocks`, f64 `most`
    (largest share of a block). `episodes` i64[M + 2, C]: times that something was wrong, and over.

    Per column, f64[C]: `low`, `high` of the widest range; `minimum`, `maximum` of all values; `usual` median, and
    `median` of the last block; mean `step` between medians, mean `spread` of blocks. Per column, i64[C]: whether it
    `wanders`; `rising`, `falling`, and all `medians` (up to a maximum); longest run, longest gap, values. `runs`
    i64[C, OCTAVES]: runs by length.
    """

    k: I64
    n: I64
    square: F64
    blocks: I64
    most: F64
    low: F64
    high: F64
    minimum: F64
    maximum: F64
    usual: F64
    median: F64
    step: F64
    spread: F64
    wanders: I64
    rising: I64
    falling: I64
    medians: I64
    episodes: I64
    longest_run: I64
    runs: I64
    longest_gap: I64
    values: I64


class Recent(NamedTuple):
    """Counts of the last W blocks, i32[W, M, C] and whether they are held back from learning u8[W, M, C].

    `code` i64[W, C]: the largest category of each.
    """

    k: I32
    n: I32
    held: U8
    code: I64


class Verdict(NamedTuple):
    """Per measure, RUN, GAP, and column: corrected p-value f64[M + 2, C] (NaN: not affected), window in blocks."""

    p: F64
    window: I64


@numba.njit(cache=True, nogil=True)
def learn_counts(learned: Learned, m: int, c: int, k: int, n: int) -> None:
    """Take the counts of one block for normal. O(1)."""
    if n <= 0:
        return
    learned.k[m, c] += k
    learned.n[m, c] += n
    learned.square[m, c] += float(k) * k / n
    learned.blocks[m, c] += 1
    learned.most[m, c] = max(learned.most[m, c], k / n)
    if learned.n[m, c] > _LEARNED_MAX:
        learned.k[m, c] //= 2
        learned.n[m, c] //= 2
        learned.square[m, c] *= 0.5
        learned.blocks[m, c] //= 2


@numba.njit(cache=True, nogil=True)
def leave_slot(recent: Recent, slot: int, learned: Learned) -> None:
    """Learn the block that is in a slot, before another one takes it, where it is not held back. O(C)."""
    _, measures, columns = recent.k.shape
    for m in range(measures):
        for c in range(columns):
            if recent.held[slot, m, c] == 0:
                learn_counts(learned, m, c, recent.k[slot, m, c], recent.n[slot, m, c])


@numba.njit(cache=True, nogil=True)
def _sort(values: F64) -> None:
    """Sort a few values in place, by insertion. O(n^2)."""
    for place in range(1, values.shape[0]):
        value = values[place]
        before = place - 1
        while before >= 0 and values[before] > value:
            values[before + 1] = values[before]
            before -= 1
        values[before + 1] = value


@numba.njit(cache=True, nogil=True)
def _widen(learned: Learned, block: Block, c: int) -> None:
    """Let the range of a column take in the block's."""
    count = block.sampled[c]
    if count == 0:
        return
    learned.minimum[c] = min(learned.minimum[c], max(block.minimum[c], -LARGEST))
    learned.maximum[c] = max(learned.maximum[c], min(block.maximum[c], LARGEST))
    if count < _SAMPLE_MIN:
        return
    ordered = block.sample[c, :count]
    _sort(ordered)
    edge = int(_EDGE * count)
    median = min(max(ordered[count // 2], -LARGEST), LARGEST)
    learned.low[c] = min(learned.low[c], max(ordered[edge], -LARGEST))
    learned.high[c] = max(learned.high[c], min(ordered[count - 1 - edge], LARGEST))
    if learned.low[c] == learned.high[c]:
        # One value nearly all the time. For good: bounds that narrow would make what was counted worthless.
        learned.low[c], learned.high[c] = learned.minimum[c], learned.maximum[c]
    weight = 1.0 / min(learned.medians[c] + 1, _USUAL_BLOCKS)
    spread = max(ordered[count - 1 - edge], -LARGEST) - min(ordered[edge], LARGEST)
    learned.spread[c] += weight * (min(spread, LARGEST) - learned.spread[c])
    if learned.medians[c] > 0:
        step = abs(median - learned.median[c])
        learned.step[c] += weight * (min(step, LARGEST) - learned.step[c])
        learned.rising[c] += median > learned.median[c]
        learned.falling[c] += median < learned.median[c]
        if learned.rising[c] + learned.falling[c] >= _TREND_MEMORY:
            learned.rising[c] //= 2
            learned.falling[c] //= 2
    learned.medians[c] = min(learned.medians[c] + 1, _USUAL_BLOCKS)
    if learned.medians[c] >= _WANDERS_BLOCKS and learned.step[c] > _WANDERS_SHARE * learned.spread[c]:
        learned.wanders[c] = 1
    learned.median[c] = median
    learned.usual[c] += median / learned.medians[c] - learned.usual[c] / learned.medians[c]


@numba.njit(cache=True, nogil=True)
def _know(learned: Learned, recent: Recent, block: Block, bounds: Bounds, code: int, c: int) -> None:
    """Take categories up to a code for known. When codes have run out, what has none becomes one more of them."""
    bounds.known[c] = max(bounds.known[c], code)
    if block.other[c] == 0 or bounds.other[c] != 0:
        return
    bounds.other[c] = 1
    learned.k[NEW, c] = learned.n[NEW, c] = learned.blocks[NEW, c] = 0
    learned.square[NEW, c] = learned.most[NEW, c] = 0.0
    recent.k[:, NEW, c] = 0
    recent.n[:, NEW, c] = 0


@numba.njit(cache=True, nogil=True)
def _adopt(learned: Learned, recent: Recent, running: Running, block: Block, bounds: Bounds, m: int, c: int) -> None:
    """Take what is wrong, and has been for long, for normal from now on."""
    if m == RUN:
        learned.longest_run[c] = running.run[c]
        return
    if m == GAP:
        learned.longest_gap[c] = running.gap[c]
        m = MISSING
    if m == NEW:
        _know(learned, recent, block, bounds, block.code[c], c)
    if m in {LOW, HIGH}:
        _widen(learned, block, c)
    learned.k[m, c] = learned.n[m, c] = learned.blocks[m, c] = 0
    learned.square[m, c] = learned.most[m, c] = 0.0
    for slot in range(recent.k.shape[0]):
        learn_counts(learned, m, c, recent.k[slot, m, c], recent.n[slot, m, c])
        recent.k[slot, m, c] = recent.n[slot, m, c] = 0
        recent.held[slot, m, c] = 0


@numba.njit(cache=True, nogil=True)
def clear(block: Block) -> None:
    """Make a block empty. O(C)."""
    block.counts[:] = 0
    block.fresh[:] = 0
    block.valid[:] = 0
    block.code[:] = 0
    block.other[:] = 0
    block.minimum[:] = np.inf
    block.maximum[:] = -np.inf
    block.ran[:] = 0
    block.runs[:] = 0
    block.gapped[:] = 0
    block.sampled[:] = 0


@numba.njit(cache=True, nogil=True)
def learn(
    recent: Recent,
    slot: int,
    learned: Learned,
    running: Running,
    block: Block,
    bounds: Bounds,
    kinds: I8,
    declared: F64,
    stood: I64,
    verdict: Verdict,
    adopt_blocks: int,
    at_once: I64,
) -> None:
    """Learn ranges, categories and runs of a block that was judged, and hold back the counts of what is affected.

    `stood` i64[M + 2, C]: looks in a row at which each was affected; at `adopt_blocks` it becomes normal, unless a
    declared bound says otherwise. O(W C).

    `at_once` i64[M] is not empty while the reference is taken: not negative for measures that are learned at once.
    """
    slots, measures, columns = recent.k.shape
    for c in range(columns):
        # A run, or gap, that has just ended and was affected at the last look is not to be learned.
        if stood[RUN, c] == 0 or learned.episodes[RUN, c] >= _EPISODES:
            learned.longest_run[c] = max(learned.longest_run[c], block.ran[c])
            learned.runs[c] += block.runs[c]
        if stood[GAP, c] == 0 or learned.episodes[GAP, c] >= _EPISODES:
            learned.longest_gap[c] = max(learned.longest_gap[c], block.gapped[c])
        learned.values[c] += block.valid[c]
        for m in range(measures + 2):
            affected = verdict.p[m, c] >= 0.0
            learned.episodes[m, c] += stood[m, c] > 0 and not affected
            stood[m, c] = stood[m, c] + 1 if affected else 0
            if affected and m != RUN and learned.episodes[m, c] < _EPISODES:
                counted = MISSING if m == GAP else m
                for back in range(verdict.window[m, c]):
                    recent.held[(slot - back) % slots, counted, c] = 1
        recent.code[slot, c] = block.code[c]
        if verdict.p[NEW, c] != verdict.p[NEW, c] and kinds[c] == CATEGORICAL:
            # A new category is known when it has been looked at for W blocks: a first few must not hide the many.
            oldest = slot if at_once.shape[0] > 0 else (slot + 1) % slots
            _know(learned, recent, block, bounds, recent.code[oldest, c], c)
        if kinds[c] in {NUMERIC, EVENT} and stood[LOW, c] == 0 and stood[HIGH, c] == 0:
            _widen(learned, block, c)
        for m in range(measures + 2):
            fixed = m in {LOW, HIGH} and np.isfinite(declared[m - LOW, c])
            if stood[m, c] >= adopt_blocks and not fixed:
                _adopt(learned, recent, running, block, bounds, m, c)
                stood[m, c] = 0
                if m == MISSING:
                    # What is normally missing may be so for as long as it has been: adopted with it.
                    stood[GAP, c] = 0
    for m in range(at_once.shape[0]):
        for c in range(columns):
            if at_once[m] >= 0:
                learn_counts(learned, m, c, recent.k[slot, m, c], recent.n[slot, m, c])
            recent.k[slot, m, c] = recent.n[slot, m, c] = 0
    clear(block)


@numba.njit(cache=True, nogil=True)
def set_bounds(learned: Learned, declared: F64, kinds: I8, widths: float, late_min_ms: float, bounds: Bounds) -> None:
    """Renew the bounds of numeric columns; declared f64[2, C] holds where it is not NaN. O(C)."""
    for c in range(kinds.shape[0]):
        if kinds[c] not in {NUMERIC, EVENT}:
            continue
        is_calm = 1 - learned.wanders[c]
        low, high = range_bounds(learned.low[c], learned.high[c], learned.usual[c], widths, is_calm)
        if kinds[c] == EVENT and learned.low[c] <= learned.high[c]:
            low, high = -np.inf, max(high, late_min_ms) if high < np.inf else late_min_ms
        bounds.low[c] = low if np.isnan(declared[0, c]) else declared[0, c]
        bounds.high[c] = high if np.isnan(declared[1, c]) else declared[1, c]
