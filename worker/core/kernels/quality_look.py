"""The look at a block of events for data quality: shares against those learned, runs against the longest.

A share must rise by a least amount, exceed that of every block learned, and be no chance (`quality_statistics`).
Windows are the block, and the last W blocks together. What is found stays so until it would not be noteworthy at all:
an alert that hovers at its threshold does not open and close.
"""

import numba
import numpy as np

from worker.core.kernels.arrays import F64, I8, I64
from worker.core.kernels.quality import (
    CATEGORICAL,
    EVENT,
    GAP,
    HIGH,
    INVALID,
    LOW,
    MEASURES,
    MISSING,
    NEW,
    NUMERIC,
    RUN,
    SET_BACK,
    Block,
    Bounds,
    Running,
)
from worker.core.kernels.quality_learning import Learned, Recent, Verdict, learn, leave_slot, set_bounds
from worker.core.kernels.quality_statistics import design_effect, rise_probability, run_probability

_RUN_MARGIN = 2
"""A gap, and set-backs of the clock in a block, must be more than this many times the longest so far."""
_TREND_MIN = 8
_TREND_SHARE = 10
_GAP_MAX = 1 << 18
_STAYS = 0.01
"""What was found is still so while its p-value, of itself, is below this; and the share above half the least rise."""
_NOTHING = 2.0
"""A p-value of what was not tested."""


@numba.njit(cache=True, nogil=True)
def enter_block(recent: Recent, slot: int, block: Block, kinds: I8, rows: int) -> None:
    """Enter the counts of a block into its slot. Invalid values are not there, but not missing. O(C)."""
    for c in range(kinds.shape[0]):
        kind = kinds[c]
        for m in range(MEASURES):
            recent.k[slot, m, c] = block.counts[m, c]
            recent.n[slot, m, c] = block.valid[c]
            recent.held[slot, m, c] = 0
        recent.n[slot, MISSING, c] = recent.n[slot, INVALID, c] = rows
        if kind == EVENT:
            recent.n[slot, MISSING, c] = recent.n[slot, LOW, c] = 0
            continue
        recent.k[slot, MISSING, c] -= block.counts[INVALID, c]
        if kind != NUMERIC:
            recent.n[slot, LOW, c] = recent.n[slot, HIGH, c] = 0
        if kind != CATEGORICAL:
            recent.n[slot, NEW, c] = 0


@numba.njit(cache=True, nogil=True)
def _cluster(learned: Learned, block: Block, m: int, c: int) -> float:
    """Return how many cases of a block are one, as they repeat a value: no more than usual for the column. O(OCTAVES).

    Twice the mean run is the mean run that a random event of a geometric law lies in.
    """
    if m in {MISSING, INVALID} or block.fresh[m, c] == 0:
        return 1.0
    usual = 2.0 * learned.values[c] / max(learned.runs[c].sum(), 1) if learned.longest_run[c] > 0 else 1.0
    mean = float(block.counts[m, c]) / float(block.fresh[m, c])
    return float(max(min(mean, usual), 1.0))


@numba.njit(cache=True, nogil=True)
def _rise(
    recent: Recent, slot: int, filled: int, learned: Learned, block: Block, m: int, c: int, rise_min: float, stood: int
) -> tuple[float, int]:
    """Return the p-value of the share of a block, or of all recent ones if that is less, and the window. O(W)."""
    slots = recent.k.shape[0]
    k, n = recent.k[slot, m, c], recent.n[slot, m, c]
    learned_k, learned_n = float(learned.k[m, c]), float(learned.n[m, c])
    usual, least = learned_k / learned_n, rise_min * (0.5 if stood > 0 else 1.0)
    # What was is over when the last block alone shows nothing of it.
    if k <= (usual + 0.5 * rise_min) * n:
        return _NOTHING, 1
    phi = design_effect(learned_k, learned_n, learned.square[m, c], learned.blocks[m, c])
    phi = max(phi, _cluster(learned, block, m, c))
    p, window = _NOTHING, 1
    if k >= (usual + least) * n and (stood > 0 or k > learned.most[m, c] * n):
        p = rise_probability(k, n, learned_k, learned_n, phi)
    if filled < slots:
        return p, window
    k_all = n_all = 0
    for each in range(slots):
        k_all += recent.k[each, m, c]
        n_all += recent.n[each, m, c]
    if n_all > n and k_all >= (usual + least) * n_all:
        p_all = rise_probability(k_all, n_all, learned_k, learned_n, phi)
        if p_all < p:
            p, window = p_all, slots
    return p, window


@numba.njit(cache=True, nogil=True)
def _gap(learned: Learned, running: Running, c: int) -> float:
    """Return the p-value of a feature that has no value in a block, 2 where that is no wonder."""
    k, n = float(learned.k[MISSING, c]), float(learned.n[MISSING, c])
    gap = min(running.gap[c], _GAP_MAX)
    if n == 0.0 or k >= n or gap <= _RUN_MARGIN * learned.longest_gap[c]:
        return _NOTHING
    phi = design_effect(k, n, learned.square[MISSING, c], learned.blocks[MISSING, c])
    return rise_probability(gap, gap, k, n, phi)


@numba.njit(cache=True, nogil=True)
def _moves(there: int, back: int) -> bool:
    """Whether medians of blocks go one way: a counter, a time, a trend leaves its range without a fault."""
    return there >= _TREND_MIN and back * _TREND_SHARE <= there


@numba.njit(cache=True, nogil=True)
def _trends(learned: Learned, m: int, c: int) -> bool:
    """Whether a column leaves its range on this side because it moves all the time."""
    if m == HIGH:
        return _moves(learned.rising[c], learned.falling[c])
    return m == LOW and _moves(learned.falling[c], learned.rising[c])


@numba.njit(cache=True, nogil=True)
def judge(
    recent: Recent,
    slot: int,
    filled: int,
    learned: Learned,
    running: Running,
    block: Block,
    kinds: I8,
    declared: F64,
    stood: I64,
    rows: int,
    ready_blocks: int,
    run_min: int,
    rise_min: float,
    alpha: float,
    verdict: Verdict,
) -> int:
    """Judge a block of so many rows, which takes a slot; what was there is learned. Return what is affected. O(W C).

    `filled` slots are in use: none while the reference is taken, and then only declared bounds, f64[2, C] where finite,
    are looked at. Any value beyond a declared bound counts. `stood` i64[M + 2, C]: looks at which each was affected.

    `alpha` is the probability of any finding in a look at a stream that is as it was learned: Bonferroni.
    """
    measures, columns = block.counts.shape
    tests = columns * (2 * measures + 2)
    affected = 0
    leave_slot(recent, slot, learned)
    enter_block(recent, slot, block, kinds, rows)
    for c in range(columns):
        for m in range(measures + 2):
            p, window = _NOTHING, 1
            if m in {LOW, HIGH} and np.isfinite(declared[m - LOW, c]):
                p = 0.0 if recent.k[slot, m, c] > 0 else _NOTHING
            elif filled == 0:
                pass
            elif m == RUN:
                if running.run[c] >= run_min and learned.longest_run[c] > 0 and block.valid[c] > 0:
                    p = run_probability(
                        running.run[c], learned.longest_run[c], learned.runs[c], learned.values[c], rows
                    )
            elif m == GAP:
                if kinds[c] != EVENT and recent.k[slot, MISSING, c] == rows:
                    p = _gap(learned, running, c)
            elif kinds[c] == EVENT and m == SET_BACK:
                # A clock is set back at most once in three events: a share says little.
                p = 0.0 if recent.k[slot, m, c] > _RUN_MARGIN * learned.most[m, c] * rows else _NOTHING
            elif (
                recent.k[slot, m, c] > 0
                and learned.n[m, c] > 0
                and learned.blocks[m, c] >= ready_blocks
                and (kinds[c] == EVENT or not _trends(learned, m, c))
            ):
                p, window = _rise(recent, slot, filled, learned, block, m, c, rise_min, stood[m, c])
            wrong = p * tests <= alpha or (stood[m, c] > 0 and p <= _STAYS)
            verdict.p[m, c] = min(p * tests, 1.0) if wrong else np.nan
            verdict.window[m, c] = window
            affected += wrong
    return affected


@numba.njit(cache=True, nogil=True)
def judge_and_learn(
    recent: Recent,
    slot: int,
    filled: int,
    learned: Learned,
    running: Running,
    block: Block,
    bounds: Bounds,
    kinds: I8,
    declared: F64,
    stood: I64,
    rows: int,
    ready_blocks: int,
    run_min: int,
    rise_min: float,
    alpha: float,
    adopt_blocks: int,
    at_once: I64,
    widths: float,
    late_min_ms: float,
    n_open: int,
    verdict: Verdict,
) -> int:
    """Judge a block; when nothing is affected or open, learn it and renew the bounds. Return what is affected. O(W C).

    Nearly all blocks end so, and one call costs less than three: 40 arrays are handed over.
    """
    affected: int = judge(
        recent,
        slot,
        filled,
        learned,
        running,
        block,
        kinds,
        declared,
        stood,
        rows,
        ready_blocks,
        run_min,
        rise_min,
        alpha,
        verdict,
    )
    if affected + n_open == 0:
        learn(recent, slot, learned, running, block, bounds, kinds, declared, stood, verdict, adopt_blocks, at_once)
        set_bounds(learned, declared, kinds, widths, late_min_ms, bounds)
    return affected
