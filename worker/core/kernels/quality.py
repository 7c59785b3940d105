"""One pass over the cells of a block for data quality: what is missing, new, out of range, repeated, late.

A monitor of c columns has C = c + 1 here: the last one, EVENT, is the events themselves. It takes the same arrays: its
value is the event time, its range is that of the lateness (watermark less event time), and in two places of `counts` it
has a meaning of its own: DUPLICATE for INVALID, SET_BACK (the watermark fell) for NEW.

Rule 1: what happens at a row depends on the rows before it, never on how they were cut into calls.
"""

from typing import NamedTuple

import numba
import numpy as np

from worker.core.kernels.arrays import F64, I8, I64, U64
from worker.core.kernels.key_ring import HEAD, TAIL, Ring, append, drop_head, find

MISSING, INVALID, NEW, LOW, HIGH = 0, 1, 2, 3, 4
MEASURES = 5
DUPLICATE, SET_BACK = INVALID, NEW
RUN, GAP = MEASURES, MEASURES + 1
"""Places behind the counts, where all of them are looked at together: a value that stays, a feature that vanished."""

OCTAVES = 20
"""Lengths of runs: [1, 2), [2, 4), [4, 8), ...; the last one is open."""

NUMERIC, BOOLEAN, CATEGORICAL, EVENT = 0, 1, 2, 3


class Block(NamedTuple):
    """What was seen of the current block: nothing of it outlives the block.

    `counts` i64[MEASURES, C], and `fresh` those of them that do not repeat the value before; `valid` i64[C] values that
    are there; `code` i64[C] the largest category, `other` i64[C] whether a category came without a code; `minimum`,
    `maximum` f64[C] (+inf, -inf when empty); `ran`, `gapped` i64[C] the longest run of equal values, and of missing
    ones, that ended; `runs` i64[C, OCTAVES] runs that ended, by length; `sample` f64[C, S], `sampled` i64[C] of it.
    """

    counts: I64
    fresh: I64
    valid: I64
    code: I64
    other: I64
    minimum: F64
    maximum: F64
    ran: I64
    runs: I64
    gapped: I64
    sample: F64
    sampled: I64


class Running(NamedTuple):
    """What goes on from block to block (C): last value, its run, rows since a value; `clock` i64[1]: the watermark."""

    last: F64
    run: I64
    gap: I64
    clock: I64


class Bounds(NamedTuple):
    """What rows are compared with (C): values outside of [low, high] and codes above `known` are counted.

    Where `other` is not 0, categories without a code are known, and they alone are counted.
    """

    low: F64
    high: F64
    known: I64
    other: I64


@numba.njit(cache=True, nogil=True)
def octave(run: int) -> int:
    """Return the octave of a length of at least 1. O(OCTAVES)."""
    place = 0
    while run > 1 and place < OCTAVES - 1:
        run >>= 1
        place += 1
    return place


@numba.njit(cache=True, nogil=True)
def _follow(values: F64, block: Block, running: Running, column: int) -> None:
    """Count values that are missing, and the runs of missing and of equal ones. O(rows)."""
    last, run, gap = running.last[column], running.run[column], running.gap[column]
    ran, gapped = block.ran[column], block.gapped[column]
    missing = single = 0
    for row in range(values.shape[0]):
        value = values[row]
        if value == last:
            run += 1
            if gap == 0:
                continue
        elif np.isnan(value):
            missing += 1
            gap += 1
            continue
        else:
            if run == 1:
                single += 1
            elif run > 1:
                block.runs[column, octave(run)] += 1
            ran = max(ran, run)
            last, run = value, 1
        gapped = max(gapped, gap)
        gap = 0
    running.last[column], running.run[column], running.gap[column] = last, run, gap
    block.ran[column], block.gapped[column] = ran, gapped
    block.runs[column, 0] += single
    block.counts[MISSING, column] += missing
    block.valid[column] += values.shape[0] - missing


@numba.njit(cache=True, nogil=True)
def _measure(values: F64, last: float, chosen: I64, bounds: Bounds, block: Block, column: int) -> None:
    """Count values out of range, and keep a sample; `last` is the value before these. O(rows)."""
    least, most = block.minimum[column], block.maximum[column]
    low, high = bounds.low[column], bounds.high[column]
    below = above = below_fresh = above_fresh = 0
    for row in range(values.shape[0]):
        value = values[row]
        if np.isnan(value):
            continue
        if value < low:
            below += 1
            below_fresh += value != last
        elif value > high:
            above += 1
            above_fresh += value != last
        least = min(least, value)
        most = max(most, value)
        last = value
        if chosen[row] >= 0:
            block.sample[column, block.sampled[column]] = value
            block.sampled[column] += 1
    block.counts[LOW, column] += below
    block.counts[HIGH, column] += above
    block.fresh[LOW, column] += below_fresh
    block.fresh[HIGH, column] += above_fresh
    block.minimum[column], block.maximum[column] = least, most


@numba.njit(cache=True, nogil=True)
def _sort_codes(values: F64, last: float, bounds: Bounds, block: Block, column: int) -> None:
    """Count categories that are not known; `last` is the value before these. O(rows)."""
    known = np.inf if bounds.other[column] != 0 else float(bounds.known[column])
    largest = float(block.code[column])
    new = fresh = other = 0
    for row in range(values.shape[0]):
        value = values[row]
        if np.isnan(value):
            continue
        if value == 0.0 or value > known:
            other += value == 0.0
            new += 1
            fresh += value != last
        largest = max(largest, value)
        last = value
    block.counts[NEW, column] += new
    block.fresh[NEW, column] += fresh
    block.code[column] = int(largest)
    block.other[column] = max(block.other[column], np.int64(other > 0))


@numba.njit(cache=True, nogil=True)
def tally(
    cells: F64,
    times_ms: I64,
    watermarks_ms: I64,
    begin: int,
    end: int,
    chosen: I64,
    place: int,
    kinds: I8,
    bounds: Bounds,
    block: Block,
    running: Running,
) -> None:
    """Take rows [begin, end) of cells (n x c), the first of which is number `place` of its block. O(rows x c).

    `chosen` (block_events) is not negative at the rows of which values are kept as the sample; kinds (C).
    """
    columns = cells.shape[1]
    rows = chosen[place : place + end - begin]
    # Column by column, so that what is counted stays in registers; a block is small enough for the cache.
    for column in range(columns):
        values = cells[begin:end, column]
        last = running.last[column]
        _follow(values, block, running, column)
        if kinds[column] == NUMERIC:
            _measure(values, last, rows, bounds, block, column)
        elif kinds[column] == CATEGORICAL:
            _sort_codes(values, last, bounds, block, column)
    _tally_times(times_ms[begin:end], watermarks_ms[begin:end], rows, bounds, block, running)


@numba.njit(cache=True, nogil=True)
def _tally_times(
    times_ms: I64, watermarks_ms: I64, chosen: I64, bounds: Bounds, block: Block, running: Running
) -> None:
    """Take the times of events: runs of equal ones, how late they are, whether the clock was set back. O(rows)."""
    event = block.valid.shape[0] - 1
    for row in range(times_ms.shape[0]):
        block.valid[event] += 1
        time = float(times_ms[row])
        if time == running.last[event]:
            running.run[event] += 1
        else:
            if running.run[event] > 0:
                block.runs[event, octave(running.run[event])] += 1
            block.ran[event] = max(block.ran[event], running.run[event])
            running.last[event] = time
            running.run[event] = 1
        late = float(watermarks_ms[row] - times_ms[row])
        block.counts[HIGH, event] += late > bounds.high[event]
        block.minimum[event] = min(block.minimum[event], late)
        block.maximum[event] = max(block.maximum[event], late)
        if chosen[row] >= 0:
            block.sample[event, block.sampled[event]] = late
            block.sampled[event] += 1
        block.counts[SET_BACK, event] += watermarks_ms[row] < running.clock[0]
        running.clock[0] = watermarks_ms[row]


@numba.njit(cache=True, nogil=True)
def count_duplicates(ring: Ring, keys: U64, begin: int, end: int, rows_max: int) -> int:
    """Return how many of the keys u64[n, 2] in rows [begin, end) are in the ring; take the others in. O(rows).

    The ring keeps the latest `rows_max` keys, and has room for them.
    """
    again = 0
    for row in range(begin, end):
        if find(ring, keys[row, 0], keys[row, 1]) >= 0:
            again += 1
            continue
        if ring.meta[TAIL] - ring.meta[HEAD] >= rows_max:
            drop_head(ring)
        append(ring, keys[row, 0], keys[row, 1])
    return again
