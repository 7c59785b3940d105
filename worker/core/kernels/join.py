"""The join of predictions and labels: two rings of rows with an index by key, and what is known of each row.

Rule 1: what happens at a row depends on the rows before it, never on how they were cut into calls.
Rule 2: the latest label wins, by its own timestamp; of two of one timestamp, the one that came later.
"""

from typing import NamedTuple

import numba

from worker.core.kernels.arrays import F64, I8, I32, I64, U64
from worker.core.kernels.key_ring import AHEAD, HEAD, TAIL, Ring, append, drop_head, find, read_ahead, remove

DUE, WATERMARK, LABELS_MS = 2, 3, 4
"""Places in `meta` of the predictions' ring: the first that was not yet asked for its label in time, the watermark, the
latest time of any label."""

UNLABELLED_LATE, UNLABELLED_SIZE, LABEL_LATE, LABEL_SIZE, DUPLICATE_PREDICTIONS = 0, 1, 2, 3, 4
DUPLICATE_LABELS, OUTDATED_LABELS, CORRECTIONS = 5, 6, 7
COUNTERS = 8

NO_LABEL = -1
NOTHING, JOINED, CORRECTED = 0, 1, 2


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


@numba.njit(cache=True, nogil=True)
def _leave(waiting: Ring, known: Known, counters: I64, reason: int) -> None:
    slot = drop_head(waiting)
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
        drop_head(early)


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
        read_ahead(waiting, keys, row, rows_max)
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
    waiting_max = waiting.keys.shape[0] + AHEAD
    for row in range(keys.shape[0]):
        read_ahead(waiting, keys, row, waiting_max)  # none of those that wait leaves
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
            drop_head(early)
        if early.meta[TAIL] - early.meta[HEAD] >= early_max:
            counters[LABEL_SIZE] += 1
            drop_head(early)
        slot = append(early, keys[row, 0], keys[row, 1])
        early_known.label[slot] = labels[row]
        early_known.kind[slot] = kinds[row]
        early_known.label_ms[slot] = times_ms[row]
        early_known.time_ms[slot] = 0
