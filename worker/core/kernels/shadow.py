"""The shadow pool's rows: losses of all candidates, and which labelled rows are kept to learn from.

Row by row, so that how a stream is cut into batches changes nothing.
"""

import numba
import numpy as np

from worker.core.kernels.arrays import F32, F64, I64, U64, Bool
from worker.core.kernels.reservoir import next_random

BRIER, ERROR, SQUARED = 0, 1, 2
"""Losses: of probabilities (Brier 1950, halved for several classes, so at most 1), of decisions, of numbers."""


@numba.njit(cache=True, nogil=True)
def candidate_losses(loss: int, outputs: F64, targets: F64, threshold: float, scale: float, losses: F64) -> None:
    """Fill `losses` f64[n, C], each in [0, 1], NaN where a candidate had no output. O(n C K).

    Args:
        loss: BRIER, ERROR or SQUARED.
        outputs: f64[n, C, K]; K = 1: the probability of the positive class, or a number; else of each class. NaN in the
            first: none.
        targets: f64[n], the class (0 .. K - 1; of two: 0, 1), or the number.
        threshold: from which a probability of the positive class means that class.
        scale: of squared errors, > 0: larger ones count as 1.
        losses: what is filled.
    """
    for row in range(outputs.shape[0]):
        for candidate in range(outputs.shape[1]):
            losses[row, candidate] = _loss(loss, outputs[row, candidate], targets[row], threshold, scale)


@numba.njit(cache=True, nogil=True)
def _loss(loss: int, output: F64, target: float, threshold: float, scale: float) -> float:
    first: float = output[0]
    if np.isnan(first):
        return np.nan
    if loss == SQUARED:
        error: float = first - target
        return min(error * error / scale, 1.0)
    if output.shape[0] == 1:
        if loss == ERROR:
            return 1.0 if (first >= threshold) != (target > 0.0) else 0.0
        return (first - target) * (first - target)
    if loss == ERROR:
        best = 0
        for code in range(1, output.shape[0]):
            if output[code] > output[best]:
                best = code
        return 0.0 if best == int(target) else 1.0
    total = 0.0
    for code in range(output.shape[0]):
        error = output[code] - (1.0 if code == int(target) else 0.0)
        total += error * error
    return min(0.5 * total, 1.0)


@numba.njit(cache=True, nogil=True)
def keep_rows(
    rows: F32, targets: F64, marks: I64, store: F32, kept_targets: F64, kept_marks: I64, seen: I64, random_state: U64
) -> None:
    """Offer rows f32[n, d] with targets (n) and marks i64[n, m] to a random sample of all rows ever offered. O(n d).

    Vitter 1985, Algorithm R, as `reservoir.add_rows`, which keeps cells alone. The first rows fill the store in order.
    """
    size = store.shape[0]
    for row in range(rows.shape[0]):
        place = seen[0]
        seen[0] += 1
        if place >= size:
            place = np.int64(next_random(random_state) % np.uint64(place + 1))
        if place < size:
            store[place] = rows[row]
            kept_targets[place] = targets[row]
            kept_marks[place] = marks[row]


@numba.njit(cache=True, nogil=True)
def used_by_thinning(first: int, level: int, used: Bool) -> None:
    """Tell which of n events in a row, the first of which has the sequence number `first`, are used. O(n).

    One in 2^level, by a hash of the number (splitmix64's finalizer): every k-th would meet what is periodic.
    """
    mask = np.uint64((1 << level) - 1)
    for row in range(used.shape[0]):
        z = np.uint64(first + row) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        used[row] = ((z ^ (z >> np.uint64(31))) & mask) == np.uint64(0)


@numba.njit(cache=True, nogil=True)
def rows_until_used(first: int, level: int, wanted: int, rows_max: int) -> int:
    """Return the least number of events, from sequence number `first` on, of which `wanted` are used. O(rows_max).

    At most `rows_max`, if fewer of those are used.
    """
    used = np.empty(1, dtype=np.bool_)
    found = 0
    for row in range(rows_max):
        used_by_thinning(first + row, level, used)
        found += used[0]
        if found == wanted:
            return row + 1
    return rows_max


NEWEST, OLDEST, WINDOW, MISSED = 0, 1, 2, 3
"""Places in the clock of waiting rows: rows so far, the oldest one kept, how many are kept, labels that came late."""


@numba.njit(cache=True, nogil=True)
def find_waiting(numbers: I64, newest_at: I64, window_max: int, size: int, clock: I64, places: I64) -> None:
    """Fill `places` with where the rows of these numbers (n) are in a ring of `size`; -1: not kept. O(n log).

    `newest_at` (n): rows there were at each. A row that is gone makes the window as large as it should have been (a
    power of two times what it is), up to `window_max`: from then on more is kept.
    """
    for row in range(numbers.shape[0]):
        number, newest = numbers[row], newest_at[row]
        places[row] = -1
        if number < 0:
            continue
        clock[OLDEST] = max(clock[OLDEST], newest - clock[WINDOW])
        if number >= clock[OLDEST]:
            places[row] = number % size
            continue
        clock[MISSED] += 1
        while clock[WINDOW] < window_max and newest - number > clock[WINDOW]:
            clock[WINDOW] = min(2 * clock[WINDOW], window_max)


@numba.njit(cache=True, nogil=True)
def _wrong(output: F64, target: float, threshold: float, loss: float) -> float:
    """Return whether a decision is wrong; of a model that gives no output but its decision, that is its loss. O(K)."""
    return loss if np.isnan(output[0]) else _loss(ERROR, output, target, threshold, 1.0)


EVENTS, CHAMPION_LOSS, LOSS, CHAMPION_WRONG, WRONG = 0, 1, 2, 3, 4
CHAMPION_SQUARE, SQUARE, TARGET, TARGET_SQUARE = 5, 6, 7, 8
FIGURES = 9
"""Sums over labels of which the champion and a candidate both have an output: how many; losses; wrong decisions (of
numbers: nothing); squared errors of numbers; targets less a shift, and their squares."""


@numba.njit(cache=True, nogil=True)
def add_figures(
    is_number: bool,  # noqa: FBT001 - numba has no keyword-only arguments
    outputs: F64,
    targets: F64,
    losses: F64,
    threshold: float,
    shift: float,
    sums: F64,
) -> None:
    """Add labels (n) to `sums` f64[C, FIGURES]. O(n C K).

    Args:
        is_number: whether outputs are numbers.
        outputs: f64[n, C, K], the champion's first.
        targets: f64[n].
        losses: f64[n, C], NaN: none. Without an output, but with a loss, that is 0 or 1, of the decision.
        threshold: as in `candidate_losses`.
        shift: taken off numbers before they are squared, so that a large mean costs no digits.
        sums: what is added to.
    """
    for row in range(losses.shape[0]):
        if np.isnan(losses[row, 0]):
            continue
        target = targets[row]
        for candidate in range(losses.shape[1]):
            if np.isnan(losses[row, candidate]):
                continue
            sums[candidate, EVENTS] += 1.0
            sums[candidate, CHAMPION_LOSS] += losses[row, 0]
            sums[candidate, LOSS] += losses[row, candidate]
            if is_number:
                first, own = outputs[row, 0, 0] - target, outputs[row, candidate, 0] - target
                sums[candidate, CHAMPION_SQUARE] += first * first
                sums[candidate, SQUARE] += own * own
                sums[candidate, TARGET] += target - shift
                sums[candidate, TARGET_SQUARE] += (target - shift) * (target - shift)
            else:
                sums[candidate, CHAMPION_WRONG] += _wrong(outputs[row, 0], target, threshold, losses[row, 0])
                sums[candidate, WRONG] += _wrong(outputs[row, candidate], target, threshold, losses[row, candidate])
