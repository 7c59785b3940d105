"""Predictions that begin to wait for their label: their rows beside the join, and how many each pane has."""

import numba

from worker.core.kernels.arrays import F64, I8, I16, I32, I64


@numba.njit(cache=True, nogil=True)
def fill_rows(
    slots: I64,
    offsets: I64,
    predictions: F64,
    kinds: I8,
    segments: I32,
    numbers: I64,
    no_block: int,
    waiting_offset: I64,
    waiting_prediction: F64,
    waiting_kind: I8,
    waiting_segments: I32,
    waiting_number: I64,
    waiting_lag: I16,
    waiting_blocks: I32,
) -> None:
    """Write predictions (n) into the rows `slots` (n; -1: a duplicate, not written) of what waits. O(n).

    Number, lag and blocks have no rows before the first label.
    """
    for row in range(slots.shape[0]):
        slot = slots[row]
        if slot < 0:
            continue
        waiting_offset[slot] = offsets[row]
        waiting_prediction[slot] = predictions[row]
        waiting_kind[slot] = kinds[row]
        for place in range(segments.shape[1]):
            waiting_segments[slot, place] = segments[row, place]
        if waiting_blocks.shape[0] == 0:
            continue
        waiting_number[slot] = numbers[row]
        waiting_lag[slot] = 0
        for place in range(waiting_blocks.shape[1]):
            waiting_blocks[slot, place] = no_block


@numba.njit(cache=True, nogil=True)
def count_panes(times_ms: I64, slots: I64, pane_ms: int, panes: I64, counts: I64) -> int:
    """Count the rows (n) with a slot (>= 0) by pane, into `panes` and `counts` (n); return how many panes there are.

    Panes are in rising order. O(n) for a few panes.
    """
    found = 0
    for row in range(slots.shape[0]):
        if slots[row] < 0:
            continue
        pane = times_ms[row] // pane_ms
        place = found
        while place > 0 and panes[place - 1] >= pane:
            place -= 1
        if place < found and panes[place] == pane:
            counts[place] += 1
            continue
        for other in range(found, place, -1):
            panes[other], counts[other] = panes[other - 1], counts[other - 1]
        panes[place], counts[place] = pane, 1
        found += 1
    return found
