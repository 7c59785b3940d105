"""Values to bins, and counts of bins: what drift is measured on.

Bin k of a numeric column holds the values x with edges[k - 1] < x - center <= edges[k]; edges ascend and are padded
with +inf. A category has the bin that a table gives. The last bin is that of missing values.
"""

import math

import numba
import numpy as np

from worker.core.kernels.arrays import F64, I16, I32, I64, U8, U32, Bool


@numba.njit(cache=True, nogil=True)
def count_bins(
    cells: F64, is_categorical: Bool, center: F64, edges: F64, table: U8, other: int, bins: U8, counts: U32
) -> None:
    """Find the bins (n x c) of cells (n x c), and add them to counts (c x b). O(n c b).

    `center` (c); `edges` (c x e); `table` (c x codes), where a code beyond it is in bin `other`. NaN is in bin b - 1.
    """
    rows, columns = cells.shape
    codes = table.shape[1]
    missing = counts.shape[1] - 1
    # One column after the other, so that its edges stay near. All of them are compared, several at a time: for 15 edges
    # that takes 4 ns, a binary search, whose branches nobody can predict, four times as long.
    for j in range(columns):
        own = edges[j]
        for i in range(rows):
            x = cells[i, j]
            if math.isnan(x):
                place = missing
            elif is_categorical[j]:
                code = int(x)
                place = np.int64(table[j, code]) if 0 <= code < codes else other
            else:
                x -= center[j]
                place = 0
                for k in range(own.shape[0]):
                    place += np.int64(own[k] < x)
            bins[i, j] = place
            counts[j, place] += np.uint32(1)


@numba.njit(cache=True, nogil=True)
def sum_blocks(ring: U32, last: int, blocks: int, total: I64) -> None:
    """Set total (c x b) to the sum of the latest blocks of ring (blocks_max x c x b), `last` the newest. O(size)."""
    size, columns, bins = ring.shape
    total[:] = 0
    for k in range(blocks):
        block = (last - k) % size
        for j in range(columns):
            for b in range(bins):
                total[j, b] += ring[block, j, b]


@numba.njit(cache=True, nogil=True)
def add_differences(
    older: U32, newer: U32, score: I16, variance: F64, is_used: Bool, square_max: float, sums: F64
) -> None:
    """Add the squared difference of two blocks' mean scores, over the variance it should have, to sums (2 x c). O(c b).

    `older`, `newer` (c x b) are counts, the last bin that of missing values; `variance` (c) that of a single score.
    sums[0] counts, sums[1] adds up what is not cut at `square_max`. Columns that are not used, or do not vary, or have
    no value in a block, are left out. Von Neumann's (1941) successive differences: a shift counts once.
    """
    columns, bins = older.shape
    for j in range(columns):
        if not is_used[j] or variance[j] <= 0.0:
            continue
        m = n = before = now = np.int64(0)
        for b in range(bins - 1):
            s = np.int64(score[j, b])
            m += older[j, b]
            n += newer[j, b]
            before += s * older[j, b]
            now += s * newer[j, b]
        if m > 0 and n > 0:
            apart = now / n - before / m
            sums[0, j] += 1.0
            sums[1, j] += min(apart * apart / (variance[j] * (1.0 / m + 1.0 / n)), square_max)


LAGS = (1, 8)
"""Events apart at which autocorrelation is measured; the ring of latest scores is as long as the larger one."""
LAG_SUMS = 12
BATCH = 64
"""Events whose scores are added up to see how far their sums spread."""


@numba.njit(cache=True, nogil=True)
def add_lags(scores: I16, seen: int, recent: I16, batch: I64, sums: I64) -> None:
    """Add what autocorrelation is computed of: scores (n x c, within -512..512), in order. O(n c).

    `seen` counts the rows before these; `recent` (8 x c) has the latest rows at their count modulo 8, `batch` (2 x c)
    what has been added up since their count was a multiple of BATCH. `sums` (c x LAG_SUMS): n, S s, S s s, S s s1,
    S s s8, then the same four of t = s s / 512; squares of the sums of batches of s, and of t; batches. Whole numbers,
    so that any cut gives the same.
    """
    rows, columns = scores.shape
    for i in range(rows):
        at = (seen + i) & 7
        before = (seen + i - 1) & 7
        ends = (seen + i + 1) % BATCH == 0
        for j in range(columns):
            s = np.int64(scores[i, j])
            one, eight = np.int64(recent[before, j]), np.int64(recent[at, j])
            t, t_one, t_eight = (s * s) >> 9, (one * one) >> 9, (eight * eight) >> 9
            sums[j, 0] += 1
            sums[j, 1] += s
            sums[j, 2] += s * s
            sums[j, 3] += s * one
            sums[j, 4] += s * eight
            sums[j, 5] += t
            sums[j, 6] += t * t
            sums[j, 7] += t * t_one
            sums[j, 8] += t * t_eight
            recent[at, j] = scores[i, j]
            batch[0, j] += s
            batch[1, j] += t
            if ends:
                sums[j, 9] += batch[0, j] * batch[0, j]
                sums[j, 10] += batch[1, j] * batch[1, j]
                sums[j, 11] += 1
                batch[0, j] = 0
                batch[1, j] = 0


@numba.njit(cache=True, nogil=True)
def add_transitions(bins: U8, columns: I64, seen: int, recent: U8, counts: U32) -> None:
    """Count from which bin to which the values of some columns (k) go, in 1 and in 8 events. O(n k).

    `bins` (n x c); `seen` counts the rows before these; `recent` (8 x k) has their latest bins at their count modulo 8.
    `counts`: 2 x k x b x b, from bin to bin.
    """
    for i in range(bins.shape[0]):
        at = (seen + i) & 7
        before = (seen + i - 1) & 7
        for j in range(columns.shape[0]):
            now = bins[i, columns[j]]
            if seen + i >= LAGS[1]:
                counts[0, j, recent[before, j], now] += np.uint32(1)
                counts[1, j, recent[at, j], now] += np.uint32(1)
            recent[at, j] = now


_ITERATIONS = 200
_NOTHING = 1e-18


@numba.njit(cache=True, nogil=True)
def slowest_scores(counts: U32) -> F64:
    """Return the scores (b) of bins whose autocorrelation, at both lags together, is the largest. O(b^2).

    `counts` (2 x b x b) are transitions. That is the first axis of correspondence analysis (Greenacre 1984) of both
    tables, made symmetric: the first eigenvector of D^-1/2 (T - p p') D^-1/2, by power iteration, over D^1/2. Mean 0
    and variance 1; all 0 where there is one bin only.
    """
    bins = counts.shape[1]
    share = np.zeros(bins)
    total = 0.0
    for a in range(bins):
        for b in range(bins):
            both = float(counts[0, a, b]) + float(counts[0, b, a])
            share[a] += both
            total += both
    table = np.zeros((bins, bins))
    vector = np.zeros(bins)
    for a in range(bins):
        # Any beginning will do that no table has for an axis of its own.
        vector[a] = (share[a] / max(total, 1.0)) ** 0.5 * (1.0 + (a * 7) % 5)
        for b in range(bins):
            if share[a] > 0.0 and share[b] > 0.0:
                both = float(counts[0, a, b]) + counts[0, b, a] + counts[1, a, b] + counts[1, b, a]
                middle = share[a] * share[b] / total
                table[a, b] = (both / 2.0 - middle) / (share[a] * share[b]) ** 0.5
    for _ in range(_ITERATIONS):
        # Eigenvalues are within -2 and 2: moved by 2, the largest one is also the largest in size.
        moved = 2.0 * vector
        for a in range(bins):
            for b in range(bins):
                moved[a] += table[a, b] * vector[b]
        across = 0.0
        for a in range(bins):
            across += moved[a] * (share[a] / max(total, 1.0)) ** 0.5
        norm = 0.0
        for a in range(bins):
            # What is left of the trivial axis, all scores alike, would grow.
            moved[a] -= across * (share[a] / max(total, 1.0)) ** 0.5
            norm += moved[a] * moved[a]
        if norm <= _NOTHING:
            return np.zeros(bins)
        for a in range(bins):
            vector[a] = moved[a] / norm**0.5
    for a in range(bins):
        vector[a] = vector[a] / (share[a] / total) ** 0.5 if share[a] > 0.0 else 0.0
    return vector


@numba.njit(cache=True, nogil=True)
def score_bins(bins: U8, score: I16, scores: I16) -> None:
    """Look the scores (n x c) of bins (n x c) up in score (c x b). O(n c)."""
    rows, columns = bins.shape
    for i in range(rows):
        for j in range(columns):
            scores[i, j] = score[j, bins[i, j]]


@numba.njit(cache=True, nogil=True)
def add_products(scores: I16, products: I64) -> None:
    """Add s s' of each row of scores (n x c) to products (c x c), its upper triangle. O(n c^2)."""
    rows, columns = scores.shape
    for i in range(rows):
        for j in range(columns):
            s = np.int64(scores[i, j])
            if s != 0:
                for k in range(j, columns):
                    products[j, k] += s * scores[i, k]


@numba.njit(cache=True, nogil=True)
def project(scores: I16, first: I32, second: I32, signs: I16, divisors: I64, projected: I16) -> None:
    """Project scores (n x c, within -512..512) on pairs (p) and on sums over all columns (q). O(n (p + q c)).

    Pair k is (s[first] + s[second]) / 2, or minus where `second` is stored as -1 - column. Sums have the signs
    (q x c, each -1, 0 or 1), and are divided by `divisors` (q), cut to -512..512. `projected` is n x (p + q).
    """
    rows, columns = scores.shape
    pairs = first.shape[0]
    for i in range(rows):
        for k in range(pairs):
            other = second[k]
            if other >= 0:
                projected[i, k] = (np.int64(scores[i, first[k]]) + scores[i, other]) >> 1
            else:
                projected[i, k] = (np.int64(scores[i, first[k]]) - scores[i, -1 - other]) >> 1
        for q in range(signs.shape[0]):
            total = np.int64(0)
            for j in range(columns):
                total += np.int64(signs[q, j]) * scores[i, j]
            projected[i, pairs + q] = min(max(total // divisors[q], -512), 512)


CELLS = 257
"""Cells of four scores each that projections are counted in before they have bins."""


@numba.njit(cache=True, nogil=True)
def count_cells(projected: I16, counts: U32) -> None:
    """Count projections (n x r) in cells (r x CELLS). O(n r)."""
    rows, columns = projected.shape
    for i in range(rows):
        for j in range(columns):
            counts[j, (projected[i, j] + 512) >> 2] += np.uint32(1)


@numba.njit(cache=True, nogil=True)
def count_projected(
    bins: U8, score: I16, first: I32, second: I32, signs: I16, divisors: I64, table: U8, counts: U32
) -> None:
    """Count projections in the bins (r x b) that table (r x CELLS) gives. O(n (p + q c)).

    They are those of `project`, of the scores that `score_bins` looks up for bins (n x c): in one call, and without
    storing what is between, because it is made for every event.
    """
    columns, pairs = signs.shape[1], first.shape[0]
    scores = np.empty(columns, dtype=np.int64)
    for i in range(bins.shape[0]):
        for j in range(columns):
            scores[j] = score[j, bins[i, j]]
        for k in range(pairs):
            other = second[k]
            both = scores[first[k]] + scores[other] if other >= 0 else scores[first[k]] - scores[-1 - other]
            counts[k, table[k, ((both >> 1) + 512) >> 2]] += np.uint32(1)
        for q in range(signs.shape[0]):
            total = np.int64(0)
            for j in range(columns):
                total += np.int64(signs[q, j]) * scores[j]
            cut = min(max(total // divisors[q], -512), 512)
            counts[pairs + q, table[pairs + q, (cut + 512) >> 2]] += np.uint32(1)
