"""k-means of rows with missing values: a seeded start, batch iterations, and a stream in mini-batches.

The start is k-means++ (Arthur & Vassilvitskii 2007, "k-means++: the advantages of careful seeding", section 2.2), the
iterations are Lloyd's (1982, "Least squares quantization in PCM"), the stream is mini-batch k-means (Sculley 2010,
"Web-scale k-means clustering", algorithm 1): while a batch lasts, its rows go to the nearest of the centres as they
were at its beginning, then each centre moves towards the mean of its rows. Here the batch is a pane of a fixed number
of rows, so that no cut of the stream changes anything.

Distances are squared and partial: the sum over the features that are there, times d over their number (Dixon 1979,
"Pattern recognition with partly missing data", section II). Centres are stored as [d, K], so that the loop over them
is the inner one and runs in vector registers; only the first `count` of them are in use. They are finite.
"""

import math

import numba
import numpy as np

from worker.core.kernels.arrays import F64, I64, U64, Bool
from worker.core.kernels.reservoir import next_random
from worker.core.kernels.scale import CENTRE, REACH

UNKNOWN = -1
"""In the place of a cluster: the row has no value at all."""

SEEN, FILL, MISSING, COUNT, PANES, FIRST, LAST, WAIT, NEXT_ID, REFUSED = range(10)
"""Events so far; used rows in this pane, and those of them without any value; centres in use; panes so far; offsets of
the first and the last event of this pane; panes until a new place is looked for again; the next id; new places for
which there was no room."""
COUNTERS = 10


@numba.njit(cache=True, nogil=True)
def nearest(row: F64, centres: F64, count: int, distances: F64) -> int:
    """Return the nearest of the first `count` centres f64[d, K] to a row f64[d], the first one of equals. O(d K).

    `distances` f64[K] receives the squared partial distances. UNKNOWN for a row without values or without centres.
    """
    features = row.shape[0]
    present = 0
    distances[:count] = 0.0
    for j in range(features):
        x = row[j]
        if math.isnan(x):
            continue
        present += 1
        for place in range(count):
            step = x - centres[j, place]
            distances[place] += step * step
    if present == 0 or count == 0:
        return UNKNOWN
    best = 0
    for place in range(1, count):
        if distances[place] < distances[best]:
            best = place
    if present < features:
        for place in range(count):
            distances[place] *= features / present
    return best


@numba.njit(cache=True, nogil=True)
def assign(rows: F64, centres: F64, count: int, distances: F64, places: I64, squares: F64) -> float:
    """Write the nearest centre and the squared distance to it of each row [n, d]; return their sum. O(n d K).

    `places` i64[n] is UNKNOWN and `squares` f64[n] NaN for rows without values. `distances` f64[K] is room to work.
    """
    total = 0.0
    for i in range(rows.shape[0]):
        best = nearest(rows[i], centres, count, distances)
        places[i] = best
        squares[i] = distances[best] if best != UNKNOWN else math.nan
        total += squares[i] if best != UNKNOWN else 0.0
    return total


@numba.njit(cache=True, nogil=True)
def spread(rows: F64, usual: F64, wanted: int, random_state: U64, distances: F64, squares: F64, centres: F64) -> int:
    """Choose up to `wanted` rows [n, d] as centres [d, K] by k-means++; return how many there are. O(n d wanted).

    The first is drawn evenly, each other one in proportion to the squared distance to the nearest chosen before it;
    fewer when no row is left that is elsewhere. `usual` f64[d] stands for what is missing in a chosen row. Rows without
    values are never chosen. `distances` f64[K], `squares` f64[n]: room to work.
    """
    rows_max = rows.shape[0]
    count = 0
    squares[:] = 1.0
    for i in range(rows_max):
        if np.isnan(rows[i]).all():
            squares[i] = 0.0
    while count < wanted:
        total = 0.0
        for i in range(rows_max):
            total += squares[i]
        if not total > 0.0:
            break
        aim = (next_random(random_state) >> np.uint64(11)) * 2.0**-53 * total
        chosen = -1
        for i in range(rows_max):
            if squares[i] > 0.0:
                chosen = i
                aim -= squares[i]
                if aim < 0.0:
                    break
        for j in range(rows.shape[1]):
            x = rows[chosen, j]
            centres[j, count] = usual[j] if math.isnan(x) else x
        count += 1
        for i in range(rows_max):
            if nearest(rows[i], centres, count, distances) == UNKNOWN:
                continue
            last = distances[count - 1]
            squares[i] = last if count == 1 else min(squares[i], last)
    return count


@numba.njit(cache=True, nogil=True)
def iterate(
    rows: F64, rounds: int, distances: F64, places: I64, squares: F64, sums: F64, known: I64, centres: F64, count: int
) -> float:
    """Move centres [d, K] to the means of their rows until nothing moves, `rounds` times at most. O(rounds n d K).

    Return the sum of squared distances. A centre without rows, or without values of a feature, stays where it is.
    `places` and `squares` are as in `assign`; `distances` f64[K], `sums` f64[d, K], `known` i64[d, K]: room to work.
    """
    total = assign(rows, centres, count, distances, places, squares)
    for _ in range(rounds):
        sums[:] = 0.0
        known[:] = 0
        for i in range(rows.shape[0]):
            if places[i] != UNKNOWN:
                gather(rows[i], places[i], sums, known)
        for j in range(centres.shape[0]):
            for place in range(count):
                if known[j, place]:
                    centres[j, place] = sums[j, place] / known[j, place]
        before = total
        total = assign(rows, centres, count, distances, places, squares)
        if not total < before:
            break
    return total


@numba.njit(cache=True, nogil=True)
def gather(row: F64, place: int, sums: F64, known: I64) -> None:
    """Add the values of a row f64[d] to `sums` f64[d, K] and count them in `known` i64[d, K]. O(d)."""
    for j in range(row.shape[0]):
        if not math.isnan(row[j]):
            sums[j, place] += row[j]
            known[j, place] += 1


@numba.njit(cache=True, nogil=True)
def watch_rows(
    rows: F64,
    offsets: I64,
    begin: int,
    stride: int,
    pane_rows: int,
    low: F64,
    width: F64,
    centres: F64,
    limits: F64,
    sums: F64,
    known: I64,
    hits: I64,
    totals: I64,
    examples: I64,
    far_rows: F64,
    far_offsets: I64,
    far_counts: I64,
    random_state: U64,
    counters: I64,
    row: F64,
    distances: F64,
) -> int:
    """Take rows[begin:] f64[n, d] (NaN = missing) up to the end of a pane; return the next row, n at the end. O(n d K).

    Every `stride`-th event of the stream is used. It is scaled with `low` and `width` f64[d] (as `kernels.scale`), and
    goes to the nearest centre, if it lies within that one's limit (f64[K], squared distance): `hits` i64[K] counts it
    in this pane, `totals` i64[K] of all times, `examples` i64[K, e] is a ring of the latest offsets, and `sums`,
    `known` [d, K] gather what the centre will move by. Otherwise it is far: slot panes % P of `far_counts` i64[P]
    counts it, and `far_rows` f64[P, F, d] keeps a sample of the slot (Vitter's Algorithm R). `counters` i64[10] are as
    named above; `row` f64[d] and `distances` f64[K] are room to work.
    """
    n = rows.shape[0]
    slot = counters[PANES] % far_counts.shape[0]
    i = begin
    while i < n:
        late = counters[SEEN] % stride
        if late:
            skipped = min(stride - late, n - i)
            counters[SEEN] += skipped
            i += skipped
            continue
        if counters[FILL] == 0:
            counters[FIRST] = offsets[i]
        _scale(rows[i], low, width, row)
        best = nearest(row, centres, counters[COUNT], distances)
        if best == UNKNOWN:
            counters[MISSING] += 1
        elif distances[best] <= limits[best]:
            examples[best, totals[best] % examples.shape[1]] = offsets[i]
            hits[best] += 1
            totals[best] += 1
            gather(row, best, sums, known)
        else:
            _keep_far(row, offsets[i], slot, far_rows, far_offsets, far_counts, random_state)
        counters[LAST] = offsets[i]
        counters[SEEN] += 1
        counters[FILL] += 1
        i += 1
        if counters[FILL] == pane_rows:
            return i
    return int(n)


@numba.njit(cache=True, nogil=True)
def _keep_far(
    row: F64, offset: int, slot: int, far_rows: F64, far_offsets: I64, far_counts: I64, random_state: U64
) -> None:
    """Count a far row f64[d] in its slot, and keep it or not (Vitter's Algorithm R). O(d)."""
    room = far_rows.shape[1]
    place = far_counts[slot]
    far_counts[slot] += 1
    if place >= room:
        place = np.int64(next_random(random_state) % np.uint64(far_counts[slot]))
    if place < room:
        far_rows[slot, place] = row
        far_offsets[slot, place] = offset


@numba.njit(cache=True, nogil=True)
def _scale(values: F64, low: F64, width: F64, row: F64) -> None:
    """Write values f64[d] on a common scale, as `kernels.scale.scale_rows`, but with `width` = high - low. O(d)."""
    for j in range(values.shape[0]):
        x = values[j]
        if math.isnan(x):
            row[j] = x
        elif width[j] > 0.0:
            row[j] = min(max((x - low[j]) / width[j], -REACH), 1.0 + REACH)
        else:
            row[j] = CENTRE + (x > low[j]) - (x < low[j]) if width[j] == 0.0 else math.nan


@numba.njit(cache=True, nogil=True)
def count_along(rows: F64, places: I64, centres: F64, one: int, other: int, strips: I64) -> None:
    """Count the rows of two clusters in strips along the line between their centres. O(n d).

    `strips` i64[13] receives how many rows lie within [-0.15, -0.05), ..., [1.05, 1.15) of the way from one centre to
    the other. What is missing in a row is taken to be as in its own centre.
    """
    strips[:] = 0
    length = 0.0
    for j in range(centres.shape[0]):
        step = centres[j, other] - centres[j, one]
        length += step * step
    if not length > 0.0:
        return
    for i in range(rows.shape[0]):
        if places[i] not in (one, other):
            continue
        along = 0.0
        for j in range(centres.shape[0]):
            x = rows[i, j] if not math.isnan(rows[i, j]) else centres[j, places[i]]
            along += (x - centres[j, one]) * (centres[j, other] - centres[j, one])
        strip = math.floor(along / length * 10.0 + 1.5)
        if 0 <= strip < strips.shape[0]:
            strips[int(strip)] += 1


@numba.njit(cache=True, nogil=True)
def densest(rows: F64, reach: float, centre: F64, members: Bool) -> int:
    """Find the ball of squared radius `reach` with the most rows [m, d]; return how many. O(m^2 d).

    It is centred first on a row (the first of equals), then moved twice to the mean of its rows (mean shift: Fukunaga &
    Hostetler 1975). `centre` f64[d] receives its centre, and `members` bool[m] which rows lie within it. Features that
    no row within it has keep what `centre` held. Rows without values count nowhere.
    """
    count, features = rows.shape
    best = 0
    chosen = -1
    for one in range(count):
        within = 0
        for other in range(count):
            within += _square(rows[one], rows[other]) <= reach
        if within > best:
            best, chosen = within, one
    members[:] = False
    if chosen < 0:
        return 0
    for j in range(features):
        if not math.isnan(rows[chosen, j]):
            centre[j] = rows[chosen, j]
    for _ in range(3):
        best = 0
        for i in range(count):
            members[i] = _square(rows[i], centre) <= reach
            best += members[i]
        for j in range(features):
            total = 0.0
            known = 0
            for i in range(count):
                if members[i] and not math.isnan(rows[i, j]):
                    total += rows[i, j]
                    known += 1
            if known:
                centre[j] = total / known
    return best


@numba.njit(cache=True, nogil=True)
def _square(one: F64, other: F64) -> float:
    """Squared partial distance of two rows f64[d]; NaN where they have no feature in common."""
    total = 0.0
    present = 0
    for j in range(one.shape[0]):
        step = one[j] - other[j]
        if not math.isnan(step):
            total += step * step
            present += 1
    return total * one.shape[0] / present if present else math.nan


@numba.njit(cache=True, nogil=True)
def pairwise(rows: F64, distances: F64) -> None:
    """Write the distances f64[n, n] of all pairs of rows f64[n, d], none missing. O(n^2 d)."""
    for one in range(rows.shape[0]):
        distances[one, one] = 0.0
        for other in range(one):
            total = 0.0
            for j in range(rows.shape[1]):
                step = rows[one, j] - rows[other, j]
                total += step * step
            distances[one, other] = distances[other, one] = math.sqrt(total)


@numba.njit(cache=True, nogil=True)
def silhouette(distances: F64, places: I64, sizes: I64, sums: F64) -> float:
    """Return the mean silhouette of rows in clusters `places` i64[n], from their distances f64[n, n]. O(n^2).

    (b - a) / max(a, b) with a the mean distance to the rest of the own cluster, and b that to the nearest other one; 0
    for a row that is alone (Rousseeuw 1987, "Silhouettes", equation 1). `sizes` i64[k] are the rows of each cluster, of
    which two at least are not empty; `sums` f64[k] is room to work.
    """
    total = 0.0
    for one in range(places.shape[0]):
        own = places[one]
        if sizes[own] <= 1:
            continue
        sums[:] = 0.0
        for other in range(places.shape[0]):
            sums[places[other]] += distances[one, other]
        within = sums[own] / (sizes[own] - 1)
        nearest_other = math.inf
        for place in range(sizes.shape[0]):
            if place != own and sizes[place]:
                nearest_other = min(nearest_other, sums[place] / sizes[place])
        larger = max(within, nearest_other)
        total += (nearest_other - within) / larger if larger > 0.0 else 0.0
    return float(total / places.shape[0])
