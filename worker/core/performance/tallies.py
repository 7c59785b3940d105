"""Tallies by key (the number of a pane, or of a block), in the rows of two matrices that grow when they must."""

from typing import cast

import numpy as np

from worker.core.kernels import tally as k
from worker.core.kernels.arrays import F64, I8, I16, I32, I64
from worker.core.kernels.exact_sum import carry_all
from worker.core.kernels.histograms import add_rows
from worker.core.performance.layout import Layout, Tally, exact_values
from worker.core.performance.task import Task
from worker.core.state import COUNT_MAX, AnyArray, Arrays, blank, check_like, outside, refuse_if

_FIRST_ROWS = 4
_STORED = "stored tallies"


class Rows:
    """Labelled events to be added or taken away (sign): what kernels need of each, in columns of equal length n."""

    __slots__ = ("keys", "labels", "lag_buckets", "predictions", "probabilities", "signs")

    def __init__(
        self, signs: I8, lag_buckets: I16, labels: F64 | I16, predictions: F64 | I16, probabilities: F64
    ) -> None:
        self.signs = signs
        self.lag_buckets = lag_buckets
        self.labels = labels
        self.predictions = predictions
        self.probabilities = probabilities

    def part(self, rows: slice | I64) -> "Rows":
        """Return some of the rows, in order."""
        return Rows(
            self.signs[rows],
            self.lag_buckets[rows],
            self.labels[rows],
            self.predictions[rows],
            self.probabilities[rows],
        )


class Tallies:
    """One tally for each key. Counts are i32 and sums exact, so all of it is integers that merge by addition."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._slots: dict[int, int] = {}
        self._free: list[int] = []
        self._counts: I32 = np.zeros((0, layout.counts), dtype=np.int32)
        self._sums: I64 = np.zeros((0, layout.sums, layout.lanes), dtype=np.int64)

    def __contains__(self, key: int) -> bool:
        return key in self._slots

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def keys(self) -> list[int]:
        """All keys, ascending."""
        return sorted(self._slots)

    def slot(self, key: int) -> int:
        """Return the row of a key, which is empty if the key is new."""
        slot = self._slots.get(key)
        if slot is None:
            if not self._free:
                self._grow()
            slot = self._slots[key] = self._free.pop()
        return slot

    def slots(self, keys: I64) -> I64:
        """Return the rows of keys (n) that are there, -1 for the others."""
        if len(keys) == 0:
            return np.zeros(0, dtype=np.int64)
        known = distinct(keys)
        places = np.array([self._slots.get(key, -1) for key in known], dtype=np.int64)
        if len(known) == 1:
            return np.full(len(keys), places[0])
        return places[np.searchsorted(np.array(known), keys)]

    def target(self, slots: I64) -> k.Target:
        """Return what `add` adds rows (n) to: their slots, a negative one is none. Good until there is a new key."""
        return k.Target(self._counts, self._sums, slots)

    def take(self, key: int) -> tuple[I64, I64]:
        """Remove a key; return its counts and sums."""
        slot = self._slots[key]
        taken = self._counts[slot].astype(np.int64), self._sums[slot].copy()
        self.drop(key)
        return taken

    def drop(self, key: int) -> None:
        """Remove a key, if it is there."""
        slot = self._slots.pop(key, None)
        if slot is not None:
            self._counts[slot] = 0
            self._sums[slot] = 0
            self._free.append(slot)

    def merged(self, keys: "list[int] | range") -> Tally:
        """Return the sum of the tallies of some keys."""
        counts, sums = self.exact(keys)
        return Tally(counts.astype(np.float64), exact_values(sums))

    def merged_counts(self, keys: "list[int] | range") -> Tally:
        """Return the same without the sums (NaN), for metrics that are made of counts alone."""
        slots = self._slots
        counts = np.zeros(self.layout.counts)
        add_rows(self._counts, np.array([slots[key] for key in keys if key in slots], dtype=np.int64), counts)
        return Tally(counts, np.full(self.layout.sums, np.nan))

    def exact(self, keys: "list[int] | range") -> tuple[I64, I64]:
        """Return the sum of the tallies of some keys, exactly."""
        places = [self._slots[key] for key in keys if key in self._slots]
        return self._counts[places].sum(axis=0, dtype=np.int64), self._sums[places].sum(axis=0)

    def weighted(self, weights: dict[int, float]) -> Tally:
        """Return the weighted sum of some tallies; its design factor is sum w^2 n / sum w n (Kish 1965)."""
        keys = [key for key in weights if key in self._slots]
        places = [self._slots[key] for key in keys]
        counts, sums = np.zeros(self.layout.counts), np.zeros(self.layout.sums)
        total = squares = 0.0
        # One after the other: a matrix product may add in another order on another machine.
        for weight, place in zip([weights[key] for key in keys], places, strict=True):
            counts += weight * self._counts[place]
            sums += weight * exact_values(self._sums[place])
            number = float(self._counts[place, self.layout.at[k.LABELLED]])
            total += weight * number
            squares += weight * weight * number
        return Tally(counts, sums, squares / total if total else 1.0)

    def change_layout(self, layout: Layout) -> None:
        """Move all tallies to a layout with more classes, or with scores."""
        self._counts = layout.moved(self._counts, self.layout)
        sums = np.zeros((len(self._sums), layout.sums, layout.lanes), dtype=np.int64)
        sums[:, : self.layout.sums] = self._sums
        self._sums, self.layout = sums, layout

    def _grow(self) -> None:
        before, after = len(self._counts), max(_FIRST_ROWS, 2 * len(self._counts))
        self._counts = np.concatenate([self._counts, np.zeros((after - before, self.layout.counts), dtype=np.int32)])
        more = np.zeros((after - before, self.layout.sums, self.layout.lanes), dtype=np.int64)
        self._sums = np.concatenate([self._sums, more])
        self._free = list(range(after - 1, before - 1, -1))

    # Storing and restoring.

    def state(self) -> dict[str, AnyArray]:
        """Return the tallies in the order of their keys: which row holds which is not part of the state."""
        keys = self.keys
        places = [self._slots[key] for key in keys]
        return {"keys": np.array(keys, dtype=np.int64), "counts": self._counts[places], "sums": self._sums[places]}

    def restore(self, arrays: Arrays, keys_max: int) -> None:
        """Take over copies of `arrays`, of at most `keys_max` keys; ValueError for what cannot be."""
        keys = arrays.get("keys")
        count = len(keys) if keys is not None and keys.ndim else 0
        refuse_if(_STORED, {"there are too many": count > keys_max})
        like = {
            "keys": blank(np.int64, count),
            "counts": blank(np.int32, count, self.layout.counts),
            "sums": blank(np.int64, count, self.layout.sums, self.layout.lanes),
        }
        check_like(_STORED, arrays, like)
        refuse_if(
            _STORED,
            {
                "keys are out of order": (np.diff(arrays["keys"]) <= 0).any(),
                "a key is out of range": outside(arrays["keys"], 0, COUNT_MAX),
                "a count is negative": outside(arrays["counts"], 0, np.iinfo(np.int32).max),
                "a sum is out of range": outside(arrays["sums"], -COUNT_MAX, COUNT_MAX),
            },
        )
        for place, key in enumerate(arrays["keys"].tolist()):
            slot = self.slot(key)
            self._counts[slot] = arrays["counts"][place]
            self._sums[slot] = arrays["sums"][place]


def add(targets: k.Targets, rows: Rows, task: Task, layout: Layout) -> None:
    """Add rows (n) to the tallies of each target, all of one layout, or take them away."""
    common = targets, rows.signs, rows.lag_buckets
    if task.is_regression:
        labels, predictions = cast("F64", rows.labels), cast("F64", rows.predictions)
        k.add_numbers(*common, labels, predictions, task.center, task.unit, layout.at)
    else:
        codes, others = cast("I16", rows.labels), cast("I16", rows.predictions)
        k.add_classes(*common, codes, others, rows.probabilities, layout.at)


def distinct(keys: I64) -> list[int]:
    """Return the different keys among some (n >= 1), ascending. Most often they are all the same."""
    return [int(keys[0])] if (keys == keys[0]).all() else np.unique(keys).tolist()


def plus(one: tuple[I64, I64], other: tuple[I64, I64]) -> tuple[I64, I64]:
    """Return the sum of two exact tallies, in normal form."""
    counts, sums = one[0] + other[0], one[1] + other[1]
    carry_all(sums)
    return counts, sums


def nothing(layout: Layout) -> tuple[I64, I64]:
    """Return an empty exact tally."""
    return np.zeros(layout.counts, dtype=np.int64), np.zeros((layout.sums, layout.lanes), dtype=np.int64)
