"""Categories as numbers that a detector can use: how surprising each was, given the ones before it."""

import math

import numba
import numpy as np

from worker.core.kernels.arrays import F64, I64, Bool


@numba.njit(cache=True, nogil=True)
def replace_by_surprisal(rows: F64, is_categorical: Bool, totals: I64) -> None:
    """Replace codes in rows f64[n, c] (NaN = missing) by -ln p(code), in place, then count them. O(n c + c K).

    The classes of a column are the `used` codes seen so far, and all that has not been seen as one more. With 1/2
    added to each count (Krichevsky & Trofimov 1981, IEEE Trans. Inf. Theory 27, section III) the probabilities

        p(code) = (count + 1/2) / (total + (used + 1) / 2),    count = 0 for a code not seen

    sum to one over these classes. Each row is measured by the rows before it, then counted into `totals` i64[c, K].
    The first value of a column becomes NaN: nothing was known to be surprised by. Codes are 0 to K - 1; anything else
    counts as 0, "other". Columns that are not categorical stay as they are. Any cut of the rows gives the same bits.
    """
    n_codes = totals.shape[1]
    for j in range(rows.shape[1]):
        if not is_categorical[j]:
            continue
        total = 0
        used = 0
        for code in range(n_codes):
            total += totals[j, code]
            used += totals[j, code] > 0
        for i in range(rows.shape[0]):
            value = rows[i, j]
            if np.isnan(value):
                continue
            code = int(value) if 0.0 <= value < n_codes else 0
            count = totals[j, code]
            rows[i, j] = -math.log((count + 0.5) / (total + 0.5 * (used + 1))) if total > 0 else np.nan
            totals[j, code] = count + 1
            total += 1
            used += count == 0
