"""A gate before learning: rows whose own score is among the highest are not learned.

A detector that learns anomalies takes them for normal; one that learns nothing above a fixed limit never follows a
change. This gate compares with a quantile of *all* scores, those of the rows it kept out too. So it lets in a new
regime by itself, as soon as that makes more than the share of scores that lies above the quantile.

The sample is sorted in place when the threshold is renewed: Algorithm R replaces a random place, so the order of the
places says nothing.

What the gate admits goes into a reservoir: `counters` i64[2] of a detector count the rows that it has admitted (those
that lost the draw or were replaced since, too) and the rows that its gate has passed over.
"""

import math
from typing import NamedTuple

import numba
import numpy as np

from worker.core.kernels.arrays import F32, F64, I64, U64
from worker.core.kernels.ordering import sort_into
from worker.core.kernels.reservoir import next_random

SEEN, RENEWAL = 0, 1
ADMITTED, PASSED = 0, 1
SCORES_MIN = 64
"""Scores before the gate keeps anything out, and between two renewals at least."""
RENEWAL_SCORES_MAX = 1024
MEMORY_SCORES = 100_000
"""From so many scores on the past fades."""


class GateArrays(NamedTuple):
    """A gate, as kernels take it: one argument, since several kernels hand it on."""

    quantile: float
    """Of all scores; 1 admits all."""
    sample: F64
    """[r] scores so far (Algorithm R with a bounded memory)."""
    counters: I64
    """[2] scores seen, and the count at which the threshold is renewed."""
    threshold: F64
    """[1] infinite while there are too few scores."""
    random_state: U64
    """[1]"""


@numba.njit(cache=True, nogil=True)
def admits(score: float, gate: GateArrays) -> bool:
    """Return whether a row with this score is to be learned, then learn the score. Amortised O(1): see `_renew`.

    A quantile of 1 admits all and learns nothing. Scores equal to the threshold are admitted: a detector that says the
    same of every row keeps learning.
    """
    if gate.quantile >= 1.0:
        return True
    admitted: bool = score <= gate.threshold[0]
    seen = gate.counters[SEEN]
    size = gate.sample.shape[0]
    place = seen
    if seen >= size:
        place = np.int64(next_random(gate.random_state) % np.uint64(min(seen + 1, max(MEMORY_SCORES, size))))
    if place < size:
        gate.sample[place] = score
    gate.counters[SEEN] = seen + 1
    if seen + 1 >= max(SCORES_MIN, gate.counters[RENEWAL]):
        _renew(gate)
    return admitted


@numba.njit(cache=True, nogil=True)
def _renew(gate: GateArrays) -> None:
    """Take the threshold from the sample. O(r), after every eighth of the past, at most RENEWAL_SCORES_MAX."""
    seen = gate.counters[SEEN]
    length = min(seen, gate.sample.shape[0])
    sort_into(gate.sample[:length], gate.sample[:length])
    gate.threshold[0] = gate.sample[int(gate.quantile * (length - 1))]
    gate.counters[RENEWAL] = seen + min(max(SCORES_MIN, seen >> 3), RENEWAL_SCORES_MAX)


@numba.njit(cache=True, nogil=True)
def next_place(
    score: float, settle: int, memory: int, size: int, counters: I64, random_state: U64, gate: GateArrays
) -> int:
    """Return the place in a reservoir of `size` rows that the next row takes; -1 if it is not kept. Counts it. O(1).

    The first `settle` rows, and rows without a score (NaN), are admitted without asking the gate. An admitted row takes
    the place of a random one with probability size / (rows admitted so far); from `memory` admitted rows on, if that is
    not 0, with size / memory, as in `kernels/reservoir.py`.
    """
    admitted = counters[ADMITTED]
    if admitted + counters[PASSED] >= settle and not math.isnan(score) and not admits(score, gate):
        counters[PASSED] += 1
        return -1
    counters[ADMITTED] = admitted + 1
    place = admitted
    if admitted >= size:
        choices = admitted + 1 if memory == 0 else min(admitted + 1, max(memory, size))
        place = np.int64(next_random(random_state) % np.uint64(choices))
    return place if place < size else -1


@numba.njit(cache=True, nogil=True)
def keep_rows(
    rows: F64, scores: F64, settle: int, memory: int, store: F32, counters: I64, random_state: U64, gate: GateArrays
) -> None:
    """Offer rows f64[n, d] with their scores f64[n], in order, to `store` f32[m, d]. O(n + kept d)."""
    for i in range(rows.shape[0]):
        place = next_place(scores[i], settle, memory, store.shape[0], counters, random_state, gate)
        if place >= 0:
            for j in range(rows.shape[1]):
                store[place, j] = rows[i, j]
