"""Counts of category codes in open panes."""

import math

import numba

from worker.core.kernels.arrays import F64, I8, I64, Bool


@numba.njit(cache=True, nogil=True)
def count_codes(cells: F64, slot: I8, is_categorical: Bool, counts: I64) -> None:
    """Count the codes (n x c, NaN = missing) of categorical columns into counts (2 slots x c x codes). O(n c)."""
    rows, columns = cells.shape
    for row in range(rows):
        for column in range(columns):
            if is_categorical[column]:
                code = cells[row, column]
                if not math.isnan(code):
                    counts[slot[row], column, int(code)] += 1
