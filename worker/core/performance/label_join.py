"""Predictions that wait for their labels, labels that wait for their predictions, and labelled ones for corrections.

    prediction --label--> joined --a later, other label--> corrected --...
        | no label within `label_wait_max_ms`, or `join_events_max` newer ones
        v
    left without a label (counted)

A waiting prediction is a row in arrays: `BYTES_PER_ROW` and eight for each class with a probability; its id is part of
that, as a key of 128 bits (`kernels.event_keys`). What only labels need has no room before the first one: most models
never get any.
"""

from typing import NamedTuple

import numpy as np

from worker.core.kernels import join as k
from worker.core.kernels.arrays import F64, I8, I16, I32, I64, U64
from worker.core.kernels.key_ring import HEAD, TAIL, Ring, build_index, find, new_ring
from worker.core.kernels.tally import LAG_BUCKETS
from worker.core.options import PerformanceOptions
from worker.core.scanning import BOOLEAN, TEXT
from worker.core.state import COUNT_MAX, AnyArray, Arrays, blank, by_part, check_like, outside, prefixed, refuse_if

_CAPACITY_MIN = 64
_ROOM_MIN = 256
"""Rows that one call can always take, in a ring that is full."""

_STORED = "stored join"
NO_BLOCK = -1

BYTES_PER_ROW = 16 + 6 + 1 + 1 + 8 + 8 + 8 + 1
"""Key, its places in the index, alive; kind of the label; time, offset; prediction and its kind.
Four more for each segment by which metrics are split."""
LABEL_BYTES_PER_ROW = 8 + 8 + 8 + 2 + 4
"""From the first label on: label and its time, the follower's number; lag, block. Four more for each segment."""


class Joined(NamedTuple):
    """Labelled events (n) in the order in which that was found out, with all that their contributions depend on."""

    rows: I64
    """Place of each in the call's batch."""
    slots: I64
    corrected: I8
    """1: the label before must be taken back."""
    times_ms: I64
    label_ms: I64
    labels: F64
    label_kinds: I8
    old_labels: F64
    old_kinds: I8


class Columns:
    """What waits beside the key and the label: rows of arrays that grow together."""

    def __init__(self, segments: int) -> None:
        self.has_labels = False
        self.offset: I64 = np.zeros(0, dtype=np.int64)
        self.number: I64 = np.zeros(0, dtype=np.int64)
        self.prediction: F64 = np.zeros(0)
        self.prediction_kind: I8 = np.zeros(0, dtype=np.int8)
        self.lag_bucket: I16 = np.zeros(0, dtype=np.int16)
        self.probabilities: F64 = np.zeros((0, 0))
        self.segments: I32 = np.zeros((0, segments), dtype=np.int32)
        self.blocks: I32 = np.zeros((0, 1 + segments), dtype=np.int32)

    def widen(self, columns: int) -> None:
        """Make room for probabilities of more classes; rows that had some give a new class 0."""
        had = self.probabilities.shape[1]
        if columns > had:
            more = np.zeros((len(self.probabilities), columns - had))
            if had == 0:
                more[:] = np.nan
            else:
                more[np.isnan(self.probabilities[:, 0])] = np.nan
            self.probabilities = np.concatenate([self.probabilities, more], axis=1)

    def arrays(self) -> dict[str, AnyArray]:
        """Return all arrays; those that only labels need have no rows before the first label."""
        return {name: array for name, array in vars(self).items() if isinstance(array, np.ndarray)}

    def moved(self, places: I64, capacity: int) -> None:
        """Move the rows at `places` to the beginning of arrays of a new capacity."""
        for name, old in self.arrays().items():
            if self.has_labels or name not in _OF_LABELS:
                new = np.zeros((capacity, *old.shape[1:]), dtype=old.dtype)
                new[: len(places)] = old[places]
                setattr(self, name, new)

    def begin_labels(self) -> None:
        """Make room for what labels need: no row has any yet."""
        self.has_labels = True
        for name, filling in _OF_LABELS.items():
            old = getattr(self, name)
            setattr(self, name, np.full((len(self.offset), *old.shape[1:]), filling, dtype=old.dtype))


_OF_LABELS = {"number": -1, "lag_bucket": 0, "blocks": NO_BLOCK}
"""What a row without a label has in the columns that only labels need."""


def _capacity(wanted: int, now: int, most: int) -> int:
    """Return the capacity of a ring that must grow: by a quarter at least, but not beyond what it will ever need."""
    return max(_CAPACITY_MIN, min(max(wanted, now + now // 4), most))


def _known(capacity: int, *, has_labels: bool) -> k.Known:
    labels = capacity if has_labels else 0
    return k.Known(
        np.zeros(labels),
        np.full(capacity, k.NO_LABEL, dtype=np.int8),
        np.zeros(labels, dtype=np.int64),
        np.zeros(capacity, dtype=np.int64),
    )


def _without_labels(known: k.Known) -> k.Known:
    return known._replace(label=known.label[:0].copy(), label_ms=known.label_ms[:0].copy())


def _grown(ring: Ring, known: k.Known, capacity: int) -> tuple[Ring, k.Known, I64]:
    """Return the same rows in arrays of another capacity, first row first, and where they were."""
    head, tail = int(ring.meta[HEAD]), int(ring.meta[TAIL])
    places = np.arange(head, tail) % len(ring.keys)
    new, new_known = new_ring(capacity, 2), _known(capacity, has_labels=len(known.label) > 0)
    arrays = new_known._asdict()
    for name, old_array in known._asdict().items():
        if len(old_array):
            arrays[name][: len(places)] = old_array[places]
    new.keys[: len(places)] = ring.keys[places]
    new.alive[: len(places)] = ring.alive[places]
    new.meta[:] = ring.meta
    new.meta[: k.WATERMARK] = 0, len(places), max(int(ring.meta[k.DUE]) - head, 0)
    build_index(new)
    return new, new_known, places


class LabelJoin:
    """The two rings of one model."""

    def __init__(self, options: PerformanceOptions, behind_ms: int, segments: int) -> None:
        self._options = options
        self._behind_ms = behind_ms
        self._waiting, self._known = new_ring(_CAPACITY_MIN, 2), _known(_CAPACITY_MIN, has_labels=False)
        self._early, self._early_known = new_ring(_CAPACITY_MIN, 2), _known(_CAPACITY_MIN, has_labels=True)
        self.columns = Columns(segments)
        self.columns.moved(np.zeros(0, dtype=np.int64), _CAPACITY_MIN)
        self.counters: I64 = np.zeros(k.COUNTERS, dtype=np.int64)

    @property
    def waiting(self) -> int:
        """Predictions kept, with and without a label."""
        return int(self._waiting.meta[TAIL] - self._waiting.meta[HEAD])

    @property
    def early(self) -> int:
        """Labels that wait for their prediction."""
        return int(self._early.alive.sum())

    @property
    def bytes(self) -> int:
        """Bytes of all arrays."""
        arrays: list[AnyArray] = [*self._waiting, *self._known, *self._early, *self._early_known]
        return sum(array.nbytes for array in [*arrays, *self.columns.arrays().values()])

    def room(self, count: int) -> int:
        """Return how many of so many predictions one call can take, at least one, and make room for them.

        No slot is used twice within a call, so what is looked up after it is still there.
        """
        limit = max(_CAPACITY_MIN, self._options.join_events_max + _ROOM_MIN)
        wanted = self.waiting + count
        if wanted > len(self._waiting.keys) and len(self._waiting.keys) < limit:
            self._waiting, self._known, places = _grown(
                self._waiting, self._known, _capacity(wanted, len(self._waiting.keys), limit)
            )
            self.columns.moved(places, len(self._waiting.keys))
        return min(count, len(self._waiting.keys) - self.waiting)

    def find(self, key: tuple[int, int]) -> int:
        """Return the slot of an event, -1 if it is not here."""
        return int(find(self._waiting, np.uint64(key[0]), np.uint64(key[1])))

    def key(self, slot: int) -> tuple[int, int]:
        """Return the key of the event in a slot."""
        first, second = self._waiting.keys[slot].tolist()
        return first, second

    def predictions(
        self, keys: U64, times_ms: I64, watermarks_ms: I64, labels: F64, kinds: I8, due_ms: int
    ) -> tuple[Joined | None, I64, I32]:
        """Take in predictions (n); return those labelled now (None: none is), slots (-1: a duplicate) and `due`.

        There must be `room` for them. The caller fills `columns` at these slots. `due`: see the kernel.
        """
        if self._early.meta[TAIL] > self._early.meta[HEAD] or (kinds != k.NO_LABEL).any():
            self.begin_labels()
        count, rows_max = len(keys), self._options.join_events_max
        outcome, due = _outcome(count), np.zeros((count, 2), dtype=np.int32)
        inserted = np.empty(count, dtype=np.int64)
        k.join_predictions(
            self._waiting,
            self._known,
            self._early,
            self._early_known,
            keys,
            times_ms,
            watermarks_ms,
            labels,
            kinds,
            self._behind_ms,
            self._options.label_wait_max_ms,
            due_ms,
            rows_max,
            self.counters,
            due,
            inserted,
            outcome,
        )
        return self._joined(outcome), inserted, due

    def labels(self, keys: U64, labels: F64, kinds: I8, times_ms: I64) -> Joined | None:
        """Take in labels (n); return the predictions that are labelled, or corrected, by them; None for none."""
        self.begin_labels()
        wanted = int(self._early.meta[TAIL] - self._early.meta[HEAD]) + len(keys)
        early_max = self._options.early_labels_max
        if wanted > len(self._early.keys) and len(self._early.keys) < early_max:
            capacity = _capacity(wanted, len(self._early.keys), early_max)
            self._early, self._early_known, _ = _grown(self._early, self._early_known, capacity)
        outcome = _outcome(len(keys))
        k.join_labels(
            self._waiting,
            self._known,
            self._early,
            self._early_known,
            keys,
            labels,
            kinds,
            times_ms,
            early_max,
            self.counters,
            outcome,
        )
        return self._joined(outcome)

    def begin_labels(self) -> None:
        """Make room for what labels need, if there is none yet."""
        if not self.columns.has_labels:
            self.columns.begin_labels()
            room = _known(len(self._known.kind), has_labels=True)
            self._known = self._known._replace(label=room.label, label_ms=room.label_ms)

    def _joined(self, outcome: k.Outcome) -> Joined | None:
        if not outcome.what.any():
            return None
        rows = np.flatnonzero(outcome.what)
        slots = outcome.slot[rows]
        return Joined(
            rows,
            slots,
            (outcome.what[rows] == k.CORRECTED).astype(np.int8),
            outcome.time_ms[rows],
            outcome.label_ms[rows],
            outcome.label[rows],
            outcome.kind[rows],
            outcome.old_label[rows],
            outcome.old_kind[rows],
        )

    # Storing and restoring.

    def state(self) -> dict[str, AnyArray]:
        """Return the rows in the order in which they came, and the counters: capacity and index are not state."""
        waiting, early = self._places(self._waiting), self._places(self._early)
        meta = self._waiting.meta
        due = max(int(meta[k.DUE]) - int(meta[HEAD]), 0)
        arrays = {
            "counters": self.counters,
            "clock": np.array([due, meta[k.WATERMARK], meta[k.LABELS_MS]], dtype=np.int64),
            **prefixed("waiting", _rows(self._waiting, self._known, waiting)),
            **prefixed("columns", self._stored_columns(waiting)),
            **prefixed("early", _rows(self._early, self._early_known, early)),
        }
        return dict(arrays)

    def _stored_columns(self, places: I64) -> dict[str, AnyArray]:
        return {
            name: array[places]
            if len(array)
            else np.full((len(places), *array.shape[1:]), _OF_LABELS[name], dtype=array.dtype)
            for name, array in self.columns.arrays().items()
        }

    def restore(self, arrays: Arrays, probabilities: int) -> None:
        """Take over what `state` gave, with so many columns of probabilities; ValueError for what cannot be."""
        own = {name: arrays[name] for name in ("counters", "clock") if name in arrays}
        check_like(_STORED, own, {"counters": self.counters, "clock": blank(np.int64, 3)})
        rest = {name: array for name, array in arrays.items() if name not in own}
        parts = by_part(_STORED, rest, ("waiting", "columns", "early"))
        options = self._options
        self._waiting, self._known = _restored(parts["waiting"], options.join_events_max)
        self._early, self._early_known = _restored(parts["early"], options.early_labels_max)
        self.columns.widen(probabilities)
        count = self.waiting
        like = {name: blank(array.dtype.type, count, *array.shape[1:]) for name, array in self.columns.arrays().items()}
        check_like(_STORED, parts["columns"], like)
        due, watermark, labels_ms = own["clock"].tolist()
        columns = parts["columns"]
        refuse_if(
            _STORED,
            {
                "a counter is out of range": outside(own["counters"], 0, COUNT_MAX),
                "its clock is out of range": not 0 <= due <= count or outside(own["clock"], 0, COUNT_MAX),
                "a prediction left the middle of the row": not self._waiting.alive[:count].all(),
                "a kind of a prediction is unknown": outside(columns["prediction_kind"], 0, TEXT),
                "a prediction is none of its kind": _misfit(columns["prediction"], columns["prediction_kind"]),
                "a probability is out of range": _no_probabilities(columns["probabilities"]),
                "a number of the follower is out of range": outside(columns["number"], -1, COUNT_MAX),
                "a lag is out of range": outside(columns["lag_bucket"], 0, LAG_BUCKETS - 1),
                "an early label is none": outside(self._early_known.kind[self._early.alive], 0, TEXT),
            },
        )
        self.columns.moved(np.zeros(0, dtype=np.int64), len(self._waiting.keys))
        unlabelled = (self._known.kind == k.NO_LABEL).all()
        if unlabelled and all((columns[name] == filling).all() for name, filling in _OF_LABELS.items()):
            self._known = _without_labels(self._known)
        else:
            self.columns.begin_labels()
        for name, array in self.columns.arrays().items():
            if len(array):
                array[:count] = columns[name]
        self._waiting.meta[[k.DUE, k.WATERMARK, k.LABELS_MS]] = due, watermark, labels_ms
        self.counters[:] = own["counters"]

    @staticmethod
    def _places(ring: Ring) -> I64:
        return np.arange(ring.meta[HEAD], ring.meta[TAIL]) % len(ring.keys)


def _outcome(count: int) -> k.Outcome:
    return k.Outcome(
        np.empty(count, np.int8),
        np.empty(count, np.int64),
        np.zeros(count),
        np.zeros(count, np.int8),
        np.zeros(count, np.int64),
        np.zeros(count, np.int64),
        np.zeros(count),
        np.zeros(count, np.int8),
    )


def _rows(ring: Ring, known: k.Known, places: I64) -> dict[str, AnyArray]:
    """Return rows as they are stored: a label that is none, and its time, are 0."""
    kinds = known.kind[places]
    labels = {
        name: np.where(kinds != k.NO_LABEL, array[places], array.dtype.type(0))
        if len(array)
        else np.zeros(len(places), dtype=array.dtype)
        for name, array in (("label", known.label), ("label_ms", known.label_ms))
    }
    rows: dict[str, AnyArray] = {"keys": ring.keys[places], "alive": ring.alive[places]}
    return rows | labels | {"kind": kinds, "time_ms": known.time_ms[places]}


def _misfit(values: AnyArray, kinds: AnyArray) -> bool:
    """Tell whether a value is not finite, or a boolean neither 0 nor 1."""
    return not np.isfinite(values).all() or outside(values[kinds == BOOLEAN], 0, 1)


def _no_probabilities(cells: AnyArray) -> bool:
    """Tell whether a row has something else than probabilities, or NaN in every column for none."""
    missing = np.isnan(cells)
    return bool((missing.any(axis=1) & ~missing.all(axis=1)).any()) or outside(cells[~missing], 0, 1)


def _restored(arrays: Arrays, rows_max: int) -> tuple[Ring, k.Known]:
    """Return a ring with these rows; ValueError for what cannot be."""
    count = len(arrays["keys"]) if "keys" in arrays and arrays["keys"].ndim else 0
    refuse_if(_STORED, {"there are too many rows": count > rows_max})
    capacity = max(_CAPACITY_MIN, count + _ROOM_MIN)
    ring, known = new_ring(capacity, 2), _known(capacity, has_labels=True)
    like = {"keys": blank(np.uint64, count, 2), "alive": blank(np.bool, count)}
    check_like(_STORED, arrays, like | {name: blank(each.dtype.type, count) for name, each in known._asdict().items()})
    keys = arrays["keys"][arrays["alive"]]
    times = ("label_ms", "time_ms")
    refuse_if(
        _STORED,
        {
            "an event is there twice": len(np.unique(keys, axis=0)) < len(keys),
            "a kind of a label is unknown": outside(arrays["kind"], k.NO_LABEL, TEXT),
            "a label is none of its kind": _misfit(arrays["label"], arrays["kind"]),
            "a time is out of range": any(outside(arrays[name], 0, COUNT_MAX) for name in times),
        },
    )
    ring.keys[:count], ring.alive[:count] = arrays["keys"], arrays["alive"]
    for name, array in known._asdict().items():
        array[:count] = arrays[name]
    ring.meta[TAIL] = count
    build_index(ring)
    return ring, known
