"""Distance to the k nearest of the kept rows (Ramaswamy, Rastogi, Shim 2000, SIGMOD), exact, row by row.

State of a detector with d features that keeps m rows:
store (f32, d x m)   kept rows, one in each column, without missing values
counters (i64, 2), random_state (u64, 1) and the gate, as in `kernels/gate.py`.

The store is transposed so that one instruction works on several kept rows. Distances are float32, not negative and
never NaN, so their bits, taken as integers, are in the same order; integers have minima and sums that compilers turn
into vector instructions. Finding the k smallest of m distances costs more than computing them when every comparison is
a branch: half of the branches are guessed wrong. So the search has two steps. The minima over LANES disjoint parts of
the distances are cheap, and the k-th smallest of 16 such minima is a bound that about one and a half times k distances
keep to. Only these are sorted.
"""

import math

import numba
import numpy as np

from worker.core.kernels.arrays import F32, F64, I32, I64, U64
from worker.core.kernels.gate import ADMITTED, GateArrays, next_place

NEIGHBOURS_MAX = 16
LANES = 64
_INFINITY = np.int32(0x7F800000)
"""The bits of infinity in float32."""
_NONE = np.int32(0)


@numba.njit(cache=True, nogil=True)
def score_and_learn(
    rows: F32,
    centre: F64,
    features: int,
    neighbours: int,
    use_mean: int,
    settle: int,
    memory: int,
    store: F32,
    counters: I64,
    random_state: U64,
    scores: F64,
    gate: GateArrays,
) -> None:
    """Score, then learn, each of the scaled rows f32[n, d] in order (NaN = missing). O(n d m).

    Scores are as in `score`; what is kept is as in `kernels/gate.py`: `settle` first rows without asking the gate, then
    with a memory of `memory` rows. `centre` f64[d] stands for what is missing in a kept row.
    """
    size = store.shape[1]
    space = _space(size, store.shape[0], neighbours)
    for i in range(rows.shape[0]):
        length = min(counters[ADMITTED], size)
        scores[i] = _distance(rows[i], features, neighbours, use_mean, store, length, *space)
        place = next_place(scores[i], settle, memory, size, counters, random_state, gate)
        if place >= 0:
            for j in range(store.shape[0]):
                x = rows[i, j]
                store[j, place] = np.float32(centre[j]) if math.isnan(x) else x


@numba.njit(cache=True, nogil=True)
def score(rows: F32, features: int, neighbours: int, use_mean: int, store: F32, counters: I64, scores: F64) -> None:
    """Write the scores of scaled rows f32[n, d] (NaN = missing); learns nothing. O(n d m).

    The distance to the k-th nearest kept row, or the mean of the distances to the k nearest if `use_mean` is not 0;
    NaN while fewer than 2 k rows are kept. A distance is sqrt(features / known x the sum over the known features of
    (x - y)^2), where `features` is the number of columns that are of use at all (Dixon 1979, IEEE Trans. SMC 9, the
    partial distance): what is missing makes an event neither near nor far. An event without any value scores 0.
    """
    size = store.shape[1]
    space = _space(size, store.shape[0], neighbours)
    length = min(counters[ADMITTED], size)
    for i in range(rows.shape[0]):
        scores[i] = _distance(rows[i], features, neighbours, use_mean, store, length, *space)


@numba.njit(cache=True, nogil=True)
def _space(size: int, features: int, neighbours: int) -> tuple[F32, I32, I64, I32, I32, I64]:
    """Return room for distances, minima, lanes, candidates, the nearest, and known columns; LANES x 2^p distances."""
    padded = LANES
    while padded < size:
        padded *= 2
    distances = np.full(padded, np.float32(np.inf), dtype=np.float32)
    return (
        distances,
        np.empty(padded + 2 * NEIGHBOURS_MAX, dtype=np.int32),
        np.empty(LANES, dtype=np.int64),
        np.empty(padded + 1, dtype=np.int32),
        np.empty(neighbours, dtype=np.int32),
        np.empty(features, dtype=np.int64),
    )


@numba.njit(cache=True, nogil=True)
def _distance(
    row: F32,
    features: int,
    neighbours: int,
    use_mean: int,
    store: F32,
    length: int,
    distances: F32,
    minima: I32,
    lanes: I64,
    candidates: I32,
    nearest: I32,
    columns: I64,
) -> float:
    """Return the score of one row against the first `length` kept ones; the last six arrays are room to work in."""
    if length < 2 * neighbours:
        return math.nan
    known = _squared_distances(row, store, columns, distances[:length])
    if known == 0:
        return 0.0
    _smallest(distances.view(np.int32), minima, lanes, candidates, nearest)
    squares = nearest.view(np.float32)
    weight = features / known
    if use_mean == 0:
        return math.sqrt(weight * np.float64(squares[neighbours - 1]))
    total = 0.0
    for place in range(neighbours):
        total += math.sqrt(weight * np.float64(squares[place]))
    return total / neighbours


@numba.njit(cache=True, nogil=True)
def _squared_distances(row: F32, store: F32, columns: I64, distances: F32) -> int:
    """Write the sums of squared differences over the known columns; return how many these are. O(d m)."""
    length = distances.shape[0]
    known = 0
    for j in range(row.shape[0]):
        if not math.isnan(row[j]):
            columns[known] = j
            known += 1
    distances[:] = np.float32(0.0)
    in_fours = known - known % 4
    for place in range(0, in_fours, 4):
        a, b, c, d = columns[place], columns[place + 1], columns[place + 2], columns[place + 3]
        _add_four(
            row[a],
            row[b],
            row[c],
            row[d],
            store[a, :length],
            store[b, :length],
            store[c, :length],
            store[d, :length],
            distances,
        )
    for place in range(in_fours, known):
        _add_one(row[columns[place]], store[columns[place], :length], distances)
    return known


@numba.njit(cache=True, nogil=True)
def _add_four(
    a: np.float32, b: np.float32, c: np.float32, d: np.float32, of_a: F32, of_b: F32, of_c: F32, of_d: F32, sums: F32
) -> None:
    """Add the squared differences of four columns: four at once spare three of four loads and stores of the sums."""
    for place in range(sums.shape[0]):
        x = a - of_a[place]
        y = b - of_b[place]
        z = c - of_c[place]
        w = d - of_d[place]
        sums[place] += (x * x + y * y) + (z * z + w * w)


@numba.njit(cache=True, nogil=True)
def _add_one(a: np.float32, of_a: F32, sums: F32) -> None:
    """Add the squared differences of one column."""
    for place in range(sums.shape[0]):
        x = a - of_a[place]
        sums[place] += x * x


@numba.njit(cache=True, nogil=True)
def _smallest(distances: I32, minima: I32, lanes: I64, candidates: I32, nearest: I32) -> None:
    """Write the k smallest of the distances (their bits, LANES x 2^p), smallest first. O(m + k^2) on average."""
    width = distances.shape[0]
    if width == LANES:
        minima[:LANES] = distances
    while width > LANES:
        half = width // 2
        source = distances if width == distances.shape[0] else minima
        _minima_of_halves(source[:half], source[half:width], minima[:half])
        width = half
    few = minima[-2 * NEIGHBOURS_MAX :]
    _minima_of_halves(minima[: LANES // 2], minima[LANES // 2 : LANES], few)
    _minima_of_halves(few[:NEIGHBOURS_MAX], few[NEIGHBOURS_MAX:], few[:NEIGHBOURS_MAX])
    bound = _bound(few[:NEIGHBOURS_MAX], nearest.shape[0])
    # Which lanes these are cannot be guessed either: all are written down, and the next one over those that are not.
    near = 0
    for lane in range(LANES):
        lanes[np.uint64(near)] = lane
        near += minima[lane] <= bound
    found = 0
    for lane in lanes[:near]:
        for place in range(lane, distances.shape[0], LANES):
            candidates[np.uint64(found)] = distances[place]
            found += distances[place] <= bound
    _sort_in(candidates[:found], nearest)


@numba.njit(cache=True, nogil=True)
def _minima_of_halves(left: I32, right: I32, minima: I32) -> None:
    """Write the smaller one of each pair; `minima` may be `left`."""
    for place in range(minima.shape[0]):
        minima[place] = min(left[place], right[place])


@numba.njit(cache=True, nogil=True)
def _bound(minima: I32, neighbours: int) -> np.int32:
    """Return the k-th smallest of 16 minima (k <= 16), by counting for each how many are smaller: no branches."""
    bound = _NONE
    for place in range(NEIGHBOURS_MAX):
        value = minima[place]
        smaller = _NONE
        for other in range(NEIGHBOURS_MAX):
            smaller += np.int32(minima[other] < value)
        bound = max(bound, value if smaller < neighbours else _NONE)
    return bound


@numba.njit(cache=True, nogil=True)
def _sort_in(candidates: I32, nearest: I32) -> None:
    """Write the smallest of the candidates, in order: each one is handed down past the smaller ones. O(n k)."""
    nearest[:] = _INFINITY
    for candidate in range(candidates.shape[0]):
        value = candidates[candidate]
        for place in range(nearest.shape[0]):
            smaller = min(nearest[place], value)
            value = max(nearest[place], value)
            nearest[place] = smaller
