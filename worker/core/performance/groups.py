"""Labelled events of each value of each segment, by the blocks of the whole model: what is compared came together.

The series of segments have blocks of their own, which end elsewhere. Here each label counts in the block of the whole
model in which it came, so a window of all groups is the same stretch of the stream.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from worker.core.kernels import group_tally as k
from worker.core.kernels.arrays import F64, I32, I64
from worker.core.performance.layout import exact_values
from worker.core.performance.series_keys import Key
from worker.core.performance.tallies import Rows
from worker.core.performance.task import Task
from worker.core.state import COUNT_MAX, AnyArray, Arrays, blank, check_like, outside, refuse_if

_STORED = "stored groups"
WIDTH = 4
"""Class codes of a binary task: other, two classes, and predictions that are none of them."""
RIGHT, WRONG = 0, 1
"""Cells of a task with more classes."""


class Sides(NamedTuple):
    """The groups (g) of one segment in one window: ids of values, counts f64[g, C], and sums f64[g, S] of errors."""

    ids: list[int]
    counts: F64
    sums: F64


class Groups:
    """Tallies of groups in a ring of blocks."""

    def __init__(self, task: Task, segments: int, blocks_max: int) -> None:
        self._task = task
        self._segments = segments
        self._ring = blocks_max
        self._cells = {"binary": WIDTH * WIDTH, "multiclass": 2, "regression": 1}[task.name]
        self._sums_of = k.ERROR_SUMS if task.is_regression else 0
        self.slots: dict[Key, int] = {}
        self._free: list[int] = []
        self._counts: I32 = np.zeros((0, self._ring, self._cells), dtype=np.int32)
        self._sums: I64 = np.zeros((0, self._ring, self._sums_of, k.ERROR_LANES), dtype=np.int64)
        self.block = 0

    def add(self, rows: Rows, blocks: I32, ids: I32, is_live: Callable[[Key], bool]) -> None:
        """Add rows (n) to their groups, or take them away.

        Args:
            rows: what is added.
            blocks: of the whole model (n); what is older than the ring is left out.
            ids: the value of each segment (n x segments).
            is_live: whether a value still counts.
        """
        groups = np.empty(ids.shape, dtype=np.int64)
        for place in range(ids.shape[1]):
            distinct, inverse = np.unique(ids[:, place], return_inverse=True)
            keys = [(place, value_id) for value_id in distinct.tolist()]
            found = [self._slot(key) if is_live(key) else -1 for key in keys]
            groups[:, place] = np.array(found, dtype=np.int64)[inverse]
        known = (blocks > self.block - self._ring) & (blocks >= 0)
        places = np.where(known, blocks % self._ring, -1).astype(np.int64)
        k.add_cells(self._counts, groups, places, rows.signs, self._cells_of(rows))
        if self._task.is_regression:
            labels, predictions = rows.labels.astype(np.float64), rows.predictions.astype(np.float64)
            k.add_errors(self._sums, groups, places, rows.signs, labels, predictions, self._task.unit)

    def _cells_of(self, rows: Rows) -> I64:
        if self._task.is_regression:
            return np.zeros(len(rows.signs), dtype=np.int64)
        labels, predictions = rows.labels.astype(np.int64), rows.predictions.astype(np.int64)
        return labels * WIDTH + predictions if self._task.name == "binary" else (labels != predictions).astype(np.int64)

    def next_block(self) -> None:
        """The block of the whole model is complete: the oldest one gives way to the next."""
        self.block += 1
        self._counts[:, self.block % self._ring] = 0
        self._sums[:, self.block % self._ring] = 0

    def window(self, place: int, size: int) -> Sides:
        """Return the groups of a segment over the latest blocks, so many, in the order of their ids."""
        ids = sorted(value_id for segment, value_id in self.slots if segment == place)
        slots = np.array([self.slots[place, value_id] for value_id in ids], dtype=np.int64)
        blocks = np.arange(max(self.block + 1 - size, 0), self.block + 1) % self._ring
        counts = self._counts[np.ix_(slots, blocks)].sum(axis=1, dtype=np.int64)
        sums = self._sums[np.ix_(slots, blocks)].sum(axis=1)
        values = exact_values(sums.reshape(-1, k.ERROR_LANES)).reshape(len(ids), self._sums_of)
        return Sides(ids, counts.astype(np.float64), values)

    def drop(self, key: Key) -> None:
        """Forget a value that gave way to another."""
        slot = self.slots.pop(key, None)
        if slot is not None:
            self._counts[slot] = 0
            self._sums[slot] = 0
            self._free.append(slot)

    def _slot(self, key: Key) -> int:
        slot = self.slots.get(key)
        if slot is None:
            if not self._free:
                self._grow()
            slot = self.slots[key] = self._free.pop()
        return slot

    def _grow(self) -> None:
        before = len(self._counts)
        after = max(2, 2 * before)
        self._counts = np.concatenate([self._counts, np.zeros((after - before, *self._counts.shape[1:]), np.int32)])
        self._sums = np.concatenate([self._sums, np.zeros((after - before, *self._sums.shape[1:]), np.int64)])
        self._free = list(range(after - 1, before - 1, -1))

    # Storing and restoring.

    def arrays(self) -> dict[str, AnyArray]:
        """Return the groups in the order of their keys: which row holds which is not part of the state."""
        keys = sorted(self.slots)
        slots = [self.slots[key] for key in keys]
        return {
            "keys": np.array(keys, dtype=np.int64).reshape(len(keys), 2),
            "counts": self._counts[slots],
            "sums": self._sums[slots],
        }

    def restore(self, arrays: Arrays, block: int, is_live: Callable[[Key], bool]) -> None:
        """Take over copies of `arrays`; ValueError for what cannot be."""
        keys = arrays.get("keys")
        count = len(keys) if keys is not None and keys.ndim else 0
        like = {
            "keys": blank(np.int64, count, 2),
            "counts": blank(np.int32, count, *self._counts.shape[1:]),
            "sums": blank(np.int64, count, *self._sums.shape[1:]),
        }
        check_like(_STORED, arrays, like)
        found = [(place, value_id) for place, value_id in arrays["keys"].tolist()]
        refuse_if(
            _STORED,
            {
                "a group is there twice": len(set(found)) < len(found),
                "a group has no segment": any(not 0 <= place < self._segments for place, _ in found),
                "a count is negative": outside(arrays["counts"], 0, np.iinfo(np.int32).max),
                "a sum is out of range": outside(arrays["sums"], -COUNT_MAX, COUNT_MAX),
            },
        )
        refuse_if(_STORED, {"a group is of no value": not all(is_live(key) for key in found)})
        self.block = block
        for place, key in enumerate(found):
            slot = self._slot(key)
            self._counts[slot] = arrays["counts"][place]
            self._sums[slot] = arrays["sums"][place]
