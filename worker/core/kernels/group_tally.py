"""Counts and exact sums of labelled events by group, in a ring of blocks: what gaps between segments are made of.

An event is of several groups: one for each declared segment. Integers only, so that a correction takes away exactly
what was added (`exact_sum`).
"""

import numba

from worker.core.kernels.arrays import F64, I8, I32, I64
from worker.core.kernels.exact_sum import carry_all, exact_add
from worker.core.kernels.tally import VALUE_MAX

ERROR, ABSOLUTE, SQUARES = 0, 1, 2
ERROR_SUMS = 3
ERROR_LANES = 8
"""Squares are below 2^120, so below 2^(32 (ERROR_LANES - 4))."""


@numba.njit(cache=True, nogil=True)
def add_cells(counts: I32, groups: I64, places: I64, signs: I8, cells: I64) -> None:
    """Add events (n) to `counts` i32[G, R, C], or take them away (sign -1). O(n P).

    Args:
        counts: for each group, place in the ring, and cell.
        groups: n x P, the groups of an event; negative: none.
        places: n, in the ring; negative: nowhere any more.
        signs: n, 1 or -1.
        cells: n, what is counted.
    """
    for row in range(groups.shape[0]):
        if places[row] < 0:
            continue
        for column in range(groups.shape[1]):
            group = groups[row, column]
            if group >= 0:
                counts[group, places[row], cells[row]] += signs[row]


@numba.njit(cache=True, nogil=True)
def add_errors(sums: I64, groups: I64, places: I64, signs: I8, labels: F64, predictions: F64, unit: float) -> None:
    """Add the errors, in units, of events (n) to `sums` i64[G, R, ERROR_SUMS, L], or take them away. O(n P)."""
    for row in range(groups.shape[0]):
        if places[row] < 0:
            continue
        error = (predictions[row] - labels[row]) / unit
        if not abs(error) <= VALUE_MAX:
            # As in `tally`, where they are counted.
            error = min(max(error, -VALUE_MAX), VALUE_MAX)
        for column in range(groups.shape[1]):
            group = groups[row, column]
            if group >= 0:
                total = sums[group, places[row]]
                exact_add(total[ERROR], error, signs[row])
                exact_add(total[ABSOLUTE], abs(error), signs[row])
                exact_add(total[SQUARES], error * error, signs[row])
                carry_all(total)
