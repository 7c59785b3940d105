"""The join of predictions and labels: rings of rows with an index by key, in compact arrays.

A ring holds rows in the order in which they came: row number `r` is in slot r modulo capacity. The index is open
addressing with linear probing over half as many places more; a row that leaves is taken out by shifting back what
follows it (Knuth, TAOCP 3, 6.4, algorithm R), so nothing ever has to be rebuilt but when a ring grows. The number of
places is no power of two: the home of a key is its upper half times that number, divided by 2^32 (Lemire 2019, "Fast
random integer generation in an interval", without his last step).

Rule 1: what happens at a row depends on the rows before it, never on how they were cut into calls.
Rule 2: the latest label wins, by its own timestamp; of two of one timestamp, the one that came later.
"""

from typing import NamedTuple

import numba
import numpy as np

from worker.core.kernels.arrays import F64, I8, I32, I64, U64, Bool

HEAD, TAIL, DUE, WATERMARK, LABELS_MS = 0, 1, 2, 3, 4
"""Places in `meta`: the first row, one behind the last, the first that was not yet asked for its label in time; of the
predictions' ring also the watermark and the latest time of any label."""

UNLABELLED_LATE, UNLABELLED_SIZE, LABEL_LATE, LABEL_SIZE, DUPLICATE_PREDICTIONS = 0, 1, 2, 3, 4
DUPLICATE_LABELS, OUTDATED_LABELS, CORRECTIONS = 5, 6, 7
COUNTERS = 8

NO_LABEL = -1
NOTHING, JOINED, CORRECTED = 0, 1, 2


class Ring(NamedTuple):
    """Rows with a key: keys u64[C, 2], index `table` i32[places] (slot + 1; 0: free), meta i64[5], alive bool[C].

    Keys of one word, u64[C, 1], are the first word of what is asked for.
    """

    keys: U64
    table: I32
    meta: I64
    alive: Bool


class Known(NamedTuple):
    """What the join knows of the rows of a ring: label (C), its kind (NO_LABEL: none), its time; time of the row.

    Label and its time say nothing where there is none. Before the first label they may have no rows at all.
    """

    label: F64
    kind: I8
    label_ms: I64
    time_ms: I64


class Outcome(NamedTuple):
    """What became of each row of a call (n): NOTHING, JOINED or CORRECTED; slot; the label replaced; what holds now.

    A prediction that is labelled in a call can have left at its end, and another can be in its slot.
    """

    what: I8
    slot: I64
    old_label: F64
    old_kind: I8
    time_ms: I64
    label_ms: I64
    label: F64
    kind: I8


def places_of(capacity: int) -> int:
    """Return how many places the index of a ring has: two thirds of them are used at most."""
    return capacity + capacity // 2 + 1


@numba.njit(cache=True, nogil=True)
def _home(ring: Ring, k0: np.uint64) -> int:
    """Return where the index begins to look for a key."""
    home = ((k0 >> np.uint64(32)) * np.uint64(ring.table.shape[0])) >> np.uint64(32)
    return int(np.int64(home))


@numba.njit(cache=True, nogil=True)
def _after(ring: Ring, place: int) -> int:
    return place + 1 if place + 1 < ring.table.shape[0] else 0


@numba.njit(cache=True, nogil=True)
def _steps(ring: Ring, start: int, end: int) -> int:
    """Return how far it is from one place of the index to another one, going on behind the last with the first."""
    return end - start if end >= start else end - start + ring.table.shape[0]


@numba.njit(cache=True, nogil=True)
def find(ring: Ring, k0: np.uint64, k1: np.uint64) -> int:
    """Return the slot of a key, or -1. O(1)."""
    place = _home(ring, k0)
    while ring.table[place] != 0:
        slot = int(ring.table[place]) - 1
        if ring.keys[slot, 0] == k0 and (ring.keys.shape[1] == 1 or ring.keys[slot, 1] == k1):
            return slot
        place = _after(ring, place)
    return -1


@numba.njit(cache=True, nogil=True)
def _enter(ring: Ring, slot: int) -> None:
    """Put a row that is not there into the index."""
    place = _home(ring, ring.keys[slot, 0])
    while ring.table[place] != 0:
        place = _after(ring, place)
    ring.table[place] = slot + 1


@numba.njit(cache=True, nogil=True)
def append(ring: Ring, k0: np.uint64, k1: np.uint64) -> int:
    """Append a row whose key is not there, to a ring that is not full; return its slot. O(1)."""
    slot: int = int(ring.meta[TAIL]) % ring.keys.shape[0]
    ring.meta[TAIL] += 1
    ring.keys[slot, 0] = k0
    if ring.keys.shape[1] > 1:
        ring.keys[slot, 1] = k1
    ring.alive[slot] = True
    _enter(ring, slot)
    return slot


@numba.njit(cache=True, nogil=True)
def remove(ring: Ring, slot: int) -> None:
    """Take a row out of the index; its slot is free when the head has passed it. O(1)."""
    place = _home(ring, ring.keys[slot, 0])
    while ring.table[place] != slot + 1:
        place = _after(ring, place)
    ring.alive[slot] = False
    free = place
    while True:
        place = _after(ring, place)
        if ring.table[place] == 0:
            break
        home = _home(ring, ring.keys[np.int64(ring.table[place]) - 1, 0])
        # What stands at `place` may move to `free` unless its home lies between the two.
        if _steps(ring, home, place) >= _steps(ring, free, place):
            ring.table[free] = ring.table[place]
            free = place
    ring.table[free] = 0


@numba.njit(cache=True, nogil=True)
def build_index(ring: Ring) -> None:
    """Enter all rows of a ring whose index is empty. O(C)."""
    for row in range(ring.meta[HEAD], ring.meta[TAIL]):
        slot = row % ring.keys.shape[0]
        if ring.alive[slot]:
            _enter(ring, slot)


@numba.njit(cache=True, nogil=True)
def _drop_head(ring: Ring) -> int:
    """Drop the first row; return its slot."""
    slot: int = int(ring.meta[HEAD]) % ring.keys.shape[0]
    if ring.alive[slot]:
        remove(ring, slot)
    ring.meta[HEAD] += 1
    return slot


@numba.njit(cache=True, nogil=True)
def _leave(waiting: Ring, known: Known, counters: I64, reason: int) -> None:
    slot = _drop_head(waiting)
    if known.kind[slot] == NO_LABEL:
        counters[reason] += 1


@numba.njit(cache=True, nogil=True)
def _pass_time(
    waiting: Ring,
    known: Known,
    early: Ring,
    early_known: Known,
    now_ms: int,
    wait_ms: int,
    due_ms: int,
    counters: I64,
    due: I32,
) -> None:
    """Look at labels that are due, and let go what has waited for more than `wait_ms`. O(rows that leave)."""
    capacity = waiting.keys.shape[0]
    while waiting.meta[DUE] < waiting.meta[TAIL]:
        slot = waiting.meta[DUE] % capacity
        # Labels that have not been read that far say nothing: in a backlog, predictions can be far ahead of them.
        if known.time_ms[slot] + due_ms >= min(now_ms, waiting.meta[LABELS_MS]):
            break
        due[0] += 1
        due[1] += known.kind[slot] != NO_LABEL
        waiting.meta[DUE] += 1
    while waiting.meta[HEAD] < waiting.meta[TAIL]:
        if known.time_ms[waiting.meta[HEAD] % capacity] + wait_ms >= now_ms:
            break
        _leave(waiting, known, counters, UNLABELLED_LATE)
        waiting.meta[DUE] = max(waiting.meta[DUE], waiting.meta[HEAD])
    capacity = early.keys.shape[0]
    while early.meta[HEAD] < early.meta[TAIL]:
        slot = early.meta[HEAD] % capacity
        if early.alive[slot]:
            if early_known.label_ms[slot] + wait_ms >= now_ms:
                break
            counters[LABEL_LATE] += 1
        _drop_head(early)


@numba.njit(cache=True, nogil=True)
def _tell(known: Known, slot: int, outcome: Outcome, row: int) -> None:
    outcome.time_ms[row] = known.time_ms[slot]
    outcome.label_ms[row] = known.label_ms[slot]
    outcome.label[row] = known.label[slot]
    outcome.kind[row] = known.kind[slot]


@numba.njit(cache=True, nogil=True)
def _relabel(
    known: Known, slot: int, label: float, kind: int, time_ms: int, counters: I64, outcome: Outcome, row: int
) -> int:
    """Give a row its label; return what that is."""
    before = known.kind[slot]
    same = before == kind and known.label[slot] == label
    if before != NO_LABEL and time_ms < known.label_ms[slot]:
        counters[DUPLICATE_LABELS if same else OUTDATED_LABELS] += 1
        return NOTHING
    if same:
        known.label_ms[slot] = time_ms
        counters[DUPLICATE_LABELS] += 1
        return NOTHING
    outcome.old_label[row] = known.label[slot] if before != NO_LABEL else 0.0
    outcome.old_kind[row] = before
    known.label[slot] = label
    known.kind[slot] = kind
    known.label_ms[slot] = time_ms
    _tell(known, slot, outcome, row)
    if before == NO_LABEL:
        return JOINED
    counters[CORRECTIONS] += 1
    return CORRECTED


@numba.njit(cache=True, nogil=True)
def _take_early(known: Known, slot: int, early: Known, found: int, counters: I64) -> None:
    """Give a new row the label that has waited for it, unless it came with a newer one.

    A label inside the prediction is as old as the prediction. One of the two is told as what it is.
    """
    newer = early.label_ms[found] >= known.time_ms[slot]
    if known.kind[slot] != NO_LABEL:
        same = known.kind[slot] == early.kind[found] and known.label[slot] == early.label[found]
        counters[DUPLICATE_LABELS if same else (CORRECTIONS if newer else OUTDATED_LABELS)] += 1
    if known.kind[slot] == NO_LABEL or newer:
        known.label[slot] = early.label[found]
        known.kind[slot] = early.kind[found]
        known.label_ms[slot] = early.label_ms[found]


@numba.njit(cache=True, nogil=True)
def join_predictions(
    waiting: Ring,
    known: Known,
    early: Ring,
    early_known: Known,
    keys: U64,
    times_ms: I64,
    watermarks_ms: I64,
    labels: F64,
    kinds: I8,
    behind_ms: int,
    wait_ms: int,
    due_ms: int,
    rows_max: int,
    counters: I64,
    due: I32,
    inserted: I64,
    outcome: Outcome,
) -> None:
    """Take in predictions (n): keys, times, watermarks, and labels that came with them (kind NO_LABEL: none). O(n).

    There must be room for labels in `known` if any of these has one, or any waits in `early`.

    `rows_max` rows are kept at most, and the capacity is at least that, or at least all rows there and these. The
    clock of the horizon is the watermark as it was before a row: one wrong timestamp lets nothing go. While events
    are more than `behind_ms` behind the watermark it is in doubt, and nothing is let go either.

    `inserted` i64[n]: the slot of each new row, -1 for an event that is there already, which may bring a label all
    the same. `due` i32[n, 2] counts, at each row, predictions older than `due_ms` by the watermark and by the latest
    label, and those of them that have a label.
    """
    for row in range(keys.shape[0]):
        before, now = waiting.meta[WATERMARK], watermarks_ms[row]
        waiting.meta[WATERMARK] = now
        waiting.meta[LABELS_MS] = max(waiting.meta[LABELS_MS], times_ms[row] if kinds[row] != NO_LABEL else 0)
        if times_ms[row] + behind_ms >= now:
            _pass_time(waiting, known, early, early_known, min(before, now), wait_ms, due_ms, counters, due[row])
        outcome.what[row] = NOTHING
        inserted[row] = -1
        again = find(waiting, keys[row, 0], keys[row, 1])
        if again >= 0:
            counters[DUPLICATE_PREDICTIONS] += 1
            if kinds[row] != NO_LABEL:
                outcome.slot[row] = again  # sent again, now with its label
                what = _relabel(known, again, labels[row], kinds[row], times_ms[row], counters, outcome, row)
                outcome.what[row] = what
            continue
        if waiting.meta[TAIL] - waiting.meta[HEAD] >= rows_max:
            _leave(waiting, known, counters, UNLABELLED_SIZE)
            waiting.meta[DUE] = max(waiting.meta[DUE], waiting.meta[HEAD])
        slot = append(waiting, keys[row, 0], keys[row, 1])
        known.time_ms[slot] = times_ms[row]
        known.kind[slot] = kinds[row]
        if kinds[row] != NO_LABEL:
            known.label[slot] = labels[row]
            known.label_ms[slot] = times_ms[row]
        found = find(early, keys[row, 0], keys[row, 1])
        if found >= 0:
            _take_early(known, slot, early_known, found, counters)
            remove(early, found)
        inserted[row] = slot
        outcome.slot[row] = slot
        if known.kind[slot] != NO_LABEL:
            outcome.what[row] = JOINED
            _tell(known, slot, outcome, row)


@numba.njit(cache=True, nogil=True)
def join_labels(
    waiting: Ring,
    known: Known,
    early: Ring,
    early_known: Known,
    keys: U64,
    labels: F64,
    kinds: I8,
    times_ms: I64,
    early_max: int,
    counters: I64,
    outcome: Outcome,
) -> None:
    """Take in labels (n). Those without a prediction wait in `early`, at most `early_max` of them. O(n).

    There must be room for labels in `known`.
    """
    for row in range(keys.shape[0]):
        outcome.what[row] = NOTHING
        outcome.slot[row] = -1
        waiting.meta[LABELS_MS] = max(waiting.meta[LABELS_MS], times_ms[row])
        slot = find(waiting, keys[row, 0], keys[row, 1])
        if slot >= 0:
            outcome.slot[row] = slot
            outcome.what[row] = _relabel(known, slot, labels[row], kinds[row], times_ms[row], counters, outcome, row)
            continue
        slot = find(early, keys[row, 0], keys[row, 1])
        if slot >= 0:
            _relabel(early_known, slot, labels[row], kinds[row], times_ms[row], counters, outcome, row)
            continue
        capacity = early.keys.shape[0]
        while early.meta[HEAD] < early.meta[TAIL] and not early.alive[early.meta[HEAD] % capacity]:
            _drop_head(early)
        if early.meta[TAIL] - early.meta[HEAD] >= early_max:
            counters[LABEL_SIZE] += 1
            _drop_head(early)
        slot = append(early, keys[row, 0], keys[row, 1])
        early_known.label[slot] = labels[row]
        early_known.kind[slot] = kinds[row]
        early_known.label_ms[slot] = times_ms[row]
        early_known.time_ms[slot] = 0
