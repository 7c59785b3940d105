"""Counts of events in the open panes. A pane has the slot of its index modulo 2, so neighbours never meet."""

import math

import numba

from worker.core.kernels.arrays import F64, I8, I64, Bool


@numba.njit(cache=True, nogil=True)
def count_events(
    panes: I64,
    offsets: I64,
    late: Bool,
    unknown: I64,
    index: I64,
    part: I64,
    events: I64,
    events_late: I64,
    values_unknown: I64,
    first_offset: I64,
    last_offset: I64,
) -> None:
    """Count rows (n), all of them in open panes, in two slots each; a slot taken by another pane is at part 0. O(n).

    `unknown` (n, or 0 where there are none) are values of features without a column.
    """
    for row in range(panes.shape[0]):
        slot = panes[row] & 1
        if index[slot] != panes[row]:
            index[slot] = panes[row]
            part[slot] = 0
        if events[slot] == 0:
            first_offset[slot] = offsets[row]
        last_offset[slot] = offsets[row]
        events[slot] += 1
        events_late[slot] += late[row]
    for row in range(unknown.shape[0]):
        values_unknown[panes[row] & 1] += unknown[row]


@numba.njit(cache=True, nogil=True)
def count_verdicts(slot: I8, verdicts: F64, is_flagged: Bool, scored: I64, flagged: I64) -> None:
    """Count the rows (n) that have a verdict, and those that are flagged, in two slots each. O(n)."""
    for row in range(slot.shape[0]):
        scored[slot[row]] += not math.isnan(verdicts[row])
        flagged[slot[row]] += is_flagged[row]
