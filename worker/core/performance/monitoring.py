"""All that labels say of one model: joins them, infers the task, feeds the series, and tells what is worth telling.

    prediction, label -> join -> task -> contributions -> series (whole, segments) -> limits, drift -> alerts
                                                             '-> panes, windows, lifetime -> metrics

Rule 1: what happens at a record depends on the records before it. A batch is cut where a name, a class or a segment is
        new, and everything that is told is told at the offset that caused it.
Rule 2: statistics are integers. A correction takes away exactly what was added.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from worker.core.arrivals import LabelEvents, PredictionEvents, ValueColumn
from worker.core.kernels.arrays import F64, I8, I32, I64, U64
from worker.core.kernels.waiting import count_panes, fill_rows
from worker.core.options import EngineOptions
from worker.core.performance.batch import Labelled, Pending, labelled
from worker.core.performance.bias import BiasSetup
from worker.core.performance.confidence import Confidences, confidence_bins
from worker.core.performance.following import Arrived, Follower, NoFollower
from worker.core.performance.label_join import NO_BLOCK, LabelJoin
from worker.core.performance.ledger import Ledger
from worker.core.performance.segments import OTHER, Evicted, Segments
from worker.core.performance.series_keys import ARCHIVED, Key, series_code
from worker.core.performance.task import Pairs, Task, infer_task
from worker.core.performance.telling import PerformanceOwner
from worker.core.performance.values import Names, encode_probabilities, encode_values, first_new
from worker.core.scanning import NO_LABEL, NUMBER
from worker.core.telling import Told


class Said(NamedTuple):
    """What predictions (n) say; None for labels and probabilities that no event has."""

    predictions: ValueColumn
    labels: ValueColumn | None
    probabilities: list[dict[str, float] | None] | None

    @classmethod
    def of(cls, events: PredictionEvents) -> "Said":
        """Return what events say."""
        return cls(events.predictions, events.labels, events.probabilities)

    def part(self, begin: int, end: int) -> "Said":
        """Return some of them."""
        if begin == 0 and end == len(self.predictions.kinds):
            return self
        rows = slice(begin, end)
        labels = None if self.labels is None else self.labels.part(rows)
        return Said(
            self.predictions.part(rows), labels, None if self.probabilities is None else self.probabilities[rows]
        )


class PerformanceMonitor:
    """Performance of one model inside one shard. Every method returns what is to be told, by offset."""

    def __init__(self, owner: PerformanceOwner, options: EngineOptions) -> None:
        self._owner = owner
        self.follower: Follower = NoFollower()
        self.options = options.performance
        self._bias = BiasSetup.of(options)
        self._seed = options.seed
        self._known = options.performance.of_model(owner.model_id)
        self.texts = Names(self.options.classes_max)
        self.columns = Names(self.options.classes_max)
        self.segments = Segments(self._known.segments, self.options.segments_max, self.options.segment_idle_events)
        self.join = LabelJoin(self.options, options.future_max_ms, len(self._known.segments))
        self.confidences = Confidences(self.options.panes_max, self.options.reference_labels)
        self.pending: list[Pending] = []
        self.ledger: Ledger | None = None
        self.early_predictions: dict[int, dict[int, int]] = {}
        self.seen = 0
        self._ids: I32 = np.zeros((0, len(self._known.segments)), dtype=np.int32)

    # Predictions.

    def predicted(self, arrived: Arrived) -> list[Told]:
        """Take in predictions (n) in stream order."""
        if not self.options.enabled:
            return []
        events = arrived.events
        keys, said = events.keys(self._seed), Said.of(events)
        told: list[Told] = []
        begin = 0
        while begin < len(events):
            end = begin + self.join.room(self._until_new(said, begin))
            end, more = self._assign_segments(arrived, begin, end)
            told += self._as_of_versions(more, arrived)
            part = arrived.part(begin, end)
            told += self._as_of_versions(self._predicted(part, said.part(begin, end), keys[begin:end]), part)
            begin = end
        return told

    @staticmethod
    def _as_of_versions(told: list[Told], part: Arrived) -> list[Told]:
        """Give what is told the version of the model that the event at its offset has."""
        if not told:
            return told
        versions = dict(zip(part.offsets.tolist(), part.events.versions(), strict=True))
        return [each.of_version(versions.get(each.offset)) for each in told]

    def _until_new(self, said: Said, begin: int) -> int:
        """Return how many events there are up to the next one, after the first, that brings a new name.

        No more than the follower takes at once.
        Where labels can be among them, also no more than could make the task known at the last of them, or change what
        the follower does.
        """
        end = min(len(said.predictions.kinds), begin + self.follower.rows_max)
        if said.labels is not None or self.join.early:
            room = self.follower.room if self.ledger else max(self.options.task_labels - len(self.pending), 1)
            end = min(end, begin + room)
        for column in (said.predictions, said.labels):
            if column is not None:
                end = begin + 1 + first_new(column.part(slice(begin + 1, end)), self.texts)
        if said.probabilities is not None:
            for place, row in enumerate(said.probabilities[begin + 1 : end], start=begin + 1):
                if row is not None and self.columns.first_new(row) is not None:
                    return place - begin
        return end - begin

    def _assign_segments(self, arrived: Arrived, begin: int, end: int) -> tuple[int, list[Told]]:
        """Give the events their segments; return where to stop, and what is told of segments that gave way."""
        self._ids = np.zeros((end - begin, len(self._known.segments)), dtype=np.int32)
        if not self._known.segments:
            self.seen += end - begin
            return end, []
        names = self._known.segments
        values = arrived.events[begin:end].segments(names)
        told = [
            each
            for leaving in self.segments.leaving(values[0], self.seen)
            for each in self._farewell(leaving, int(arrived.offsets[begin]))
        ]
        ids, _ = self.segments.ids(values, self.seen)
        self._ids = np.array(ids, dtype=np.int32).reshape(len(ids), len(names))
        self.seen += len(ids)
        return begin + len(ids), told

    def _farewell(self, leaving: Evicted, offset: int) -> Iterator[Told]:
        """Publish what is left of a value of a segment, resolve its alerts, and forget it."""
        key = leaving.place, leaving.value.id
        self.follower.forget_segment(*key)
        self.early_predictions.pop(series_code(key, len(self._known.segments)), None)
        if self.ledger is not None:
            yield from self.ledger.drop_segment(key, offset, self.confidences, self.join.counters)
        yield self._owner.segment_evicted(self._known.segments[leaving.place], leaving.value.name, offset)

    def _predicted(self, part: Arrived, said: Said, keys: U64) -> list[Told]:
        predictions, kinds = encode_values(said.predictions, self.texts)
        labels, label_kinds = self._labels_of(said)
        probabilities = self._probabilities(said)
        self._learn_names()
        ledger = self.ledger
        due_ms = self.options.label_wait_max_ms if ledger is None else ledger.coverage.due_ms
        joined, slots, due = self.join.predictions(keys, part.times_ms, part.watermarks_ms, labels, label_kinds, due_ms)
        self._fill_columns(slots, part, predictions, kinds, probabilities)
        self._count_predictions(part.times_ms, slots)
        bins = self._confidence_bins(predictions, kinds, probabilities)
        if bins is not None:
            used = slots >= 0
            self.confidences.predicted(part.times_ms[used] // self.options.pane_ms, bins[used])
        told = [] if ledger is None else ledger.due(due, part.times_ms, part.offsets)
        if joined is None:
            return told
        return told + self._pass_on(labelled(joined, self.join.columns, part.offsets), inline=True)

    def _labels_of(self, said: Said) -> tuple[F64, I8]:
        if said.labels is None:
            count = len(said.predictions.kinds)
            return np.zeros(count), np.full(count, NO_LABEL, dtype=np.int8)
        return encode_values(said.labels, self.texts)

    def _probabilities(self, said: Said) -> F64 | None:
        """Return probabilities (n x classes), NaN in a row without any; None while there are no classes."""
        if said.probabilities is None:
            count, classes = len(said.predictions.kinds), len(self.columns)
            return np.full((count, classes), np.nan) if classes else None
        cells = encode_probabilities(said.probabilities, self.columns)
        self.join.columns.widen(len(self.columns))
        # Events before the first one with probabilities can be in a batch with it.
        return cells if len(self.columns) else None

    def _fill_columns(self, slots: I64, part: Arrived, predictions: F64, kinds: I8, probabilities: F64 | None) -> None:
        columns, numbers = self.join.columns, self.follower.predicted(part)
        if not columns.has_labels and (numbers >= 0).any():
            self.join.begin_labels()
        fill_rows(
            slots,
            part.offsets,
            predictions,
            kinds,
            self._ids,
            numbers,
            NO_BLOCK,
            columns.offset,
            columns.prediction,
            columns.prediction_kind,
            columns.segments,
            columns.number,
            columns.lag_bucket,
            columns.blocks,
        )
        if probabilities is not None:
            used = slots >= 0
            columns.probabilities[slots[used]] = probabilities[used]

    def _count_predictions(self, times_ms: I64, slots: I64) -> None:
        """Count predictions (n) that are no duplicates (slot -1) in the panes of their series."""
        segments = self._ids.shape[1]
        self._count(None, times_ms, slots)
        for place in range(segments):
            ids = self._ids[:, place]
            for value_id in np.unique(ids[slots >= 0]).tolist():
                self._count((place, value_id), times_ms, np.where(ids == value_id, slots, -1))

    def _count(self, key: Key | None, times_ms: I64, slots: I64) -> None:
        """Count the predictions of one series."""
        panes, counts = np.empty(len(slots), dtype=np.int64), np.empty(len(slots), dtype=np.int64)
        found = count_panes(times_ms, slots, self.options.pane_ms, panes, counts)
        if self.ledger is None:
            code = series_code(key, self._ids.shape[1])
            self._count_early(code, panes[:found].tolist(), counts[:found].tolist())
        else:
            self.ledger.predicted(key, panes[:found], counts[:found])

    def _count_early(self, code: int, panes: list[int], counts: list[int]) -> None:
        early = self.early_predictions.setdefault(code, {})
        for key, count in zip(panes, counts, strict=True):
            early[key] = early.get(key, 0) + count
        # One more than panes, for those that are gone.
        while len(early) > self.options.panes_max + 1:
            oldest = min(key for key in early if key != ARCHIVED)
            early[ARCHIVED] = early.get(ARCHIVED, 0) + early.pop(oldest)

    def _confidence_bins(self, predictions: F64, kinds: I8, probabilities: F64 | None) -> I64 | None:
        """Return the bin of each confidence, which may be the prediction itself, -1: none; None if nobody has one."""
        if probabilities is None and self.ledger is not None and self.ledger.task.mode in ("score", "text_score"):
            inside = (kinds == NUMBER) & (predictions >= 0.0) & (predictions <= 1.0)
            probabilities = np.where(inside, predictions, np.nan)[:, np.newaxis]
        return None if probabilities is None else confidence_bins(probabilities)

    # Labels.

    def label(self, events: LabelEvents, offsets: I64, times_ms: I64) -> list[Told]:
        """Take in labels (n) in stream order."""
        if not self.options.enabled:
            return []
        keys, said = events.keys(self._seed), events.labels
        told: list[Told] = []
        begin = 0
        while begin < len(events):
            end = begin + 1 + first_new(said.part(slice(begin + 1, None)), self.texts)
            part = slice(begin, end)
            values, kinds = encode_values(said.part(part), self.texts)
            self._learn_names()
            joined = self.join.labels(keys[part], values, kinds, times_ms[part])
            if joined is not None:
                told += self._pass_on(labelled(joined, self.join.columns, offsets[part]), inline=False)
            begin = end
        return told

    def _learn_names(self) -> None:
        """Give new names their classes at once: which ones have one must not depend on what came since."""
        if self.ledger is not None:
            self.ledger.learn(self.texts, self.columns)

    def _pass_on(self, batch: Labelled, *, inline: bool) -> list[Told]:
        """Pass labelled events on, cut before a correction of an event that was labelled in the same batch."""
        if not batch.corrected.any():
            return self._labelled(batch, inline=inline) if batch.size else []
        told: list[Told] = []
        begin, met = 0, set[int]()
        for row, (slot, corrected) in enumerate(zip(batch.slots.tolist(), batch.corrected.tolist(), strict=True)):
            if corrected and slot in met:
                told += self._labelled(batch.part(slice(begin, row)), inline=inline)
                begin, met = row, set()
            met.add(slot)
        rest = batch.part(slice(begin, batch.size))
        return told + (self._labelled(rest, inline=inline) if rest.size else [])

    def _labelled(self, batch: Labelled, *, inline: bool) -> list[Told]:
        """Pass labelled events on, or keep them until there are enough to tell the task by."""
        if self.ledger is None:
            taken = self._pend(batch)
            if len(self.pending) < self.options.task_labels:
                return []
            told = self._begin_ledger(int(batch.causes[taken - 1]))
            self.follower.begin()
            rest = batch.part(slice(taken, batch.size))
            return told + (self._labelled(rest, inline=inline) if rest.size else [])
        told, begin = [], 0
        while begin < batch.size:
            # Cut before a new class: who follows must not know of it before its first label.
            end = begin + self.ledger.until_new(batch.part(slice(begin, batch.size)))
            told += self._book(self.ledger, batch.part(slice(begin, end)), inline=inline)
            begin = end
        return told

    def _book(self, ledger: Ledger, batch: Labelled, *, inline: bool) -> list[Told]:
        """Enter labelled events into the books, and pass them on to who follows."""
        blocks = self.join.columns.blocks[batch.slots]
        told = ledger.labelled(batch._replace(blocks=blocks), self.columns, self.confidences)
        self.join.columns.blocks[batch.slots] = blocks
        self.follower.labelled(batch, ledger, self.columns, inline=inline)
        return told

    def _pend(self, batch: Labelled) -> int:
        """Keep labelled events for later, up to as many as are needed; return how many were looked at."""
        for row in range(batch.size):
            if len(self.pending) >= self.options.task_labels:
                return row
            key = self.join.key(int(batch.slots[row]))
            if batch.corrected[row]:
                for each in self.pending:
                    if each.key == key:
                        each.label, each.label_kind = float(batch.labels[row]), int(batch.label_kinds[row])
                continue
            cells = batch.probabilities[row].tolist()
            self.pending.append(
                Pending(
                    key=key,
                    time_ms=int(batch.times_ms[row]),
                    arrived_ms=int(batch.arrived_ms[row]),
                    label=float(batch.labels[row]),
                    label_kind=int(batch.label_kinds[row]),
                    prediction=float(batch.predictions[row]),
                    prediction_kind=int(batch.prediction_kinds[row]),
                    probabilities=[None if np.isnan(cell) else cell for cell in cells],
                    offset=int(batch.offsets[row]),
                    lag_bucket=int(batch.lag_buckets[row]),
                    segments=batch.segments[row].tolist(),
                    cause=int(batch.causes[row]),
                )
            )
        return batch.size

    def _begin_ledger(self, offset: int) -> list[Told]:
        """The first labelled events are here: tell the task, and count them."""
        pending = self.pending
        pairs = Pairs(
            np.array([each.label for each in pending]),
            np.array([each.label_kind for each in pending], dtype=np.int8),
            np.array([each.prediction for each in pending]),
            np.array([each.prediction_kind for each in pending], dtype=np.int8),
        )
        task = infer_task(pairs, self.texts, self.columns, self._known)
        self.ledger = self.new_ledger(task)
        self.ledger.usual(pairs)
        self.ledger.take_predictions(self.early_predictions)
        self.early_predictions = {}
        told = [self._owner.task_inferred(self.ledger.task, self.ledger.class_names, len(pending), offset)]
        batch = self._batch_of_pending(offset)
        self.pending = []
        blocks = batch.blocks
        told += self.ledger.labelled(batch, self.columns, self.confidences)
        here = batch.slots >= 0
        self.join.columns.blocks[batch.slots[here]] = blocks[here]
        return told

    def new_ledger(self, task: Task, classes: Sequence[str] = ()) -> Ledger:
        """Return empty books for a task."""
        names = self.texts, self.columns
        return Ledger(self._owner, self.options, self._known, task, self.segments, names, self._bias, classes)

    def _batch_of_pending(self, offset: int) -> Labelled:
        """Return what was kept, as if it came now. Events may have left the join meanwhile: slot -1."""
        pending, count = self.pending, len(self.pending)
        width = len(self.columns)
        cells = np.full((count, width), np.nan)
        for row, each in enumerate(pending):
            if each.probabilities and each.probabilities[0] is not None:
                cells[row] = [*each.probabilities, *[0.0] * (width - len(each.probabilities))]
        live = {(place, value.id) for place, each in enumerate(self.segments.all) for value in each.values.values()}
        segments = [
            [each_id if (place, each_id) in live else OTHER for place, each_id in enumerate(each.segments)]
            for each in pending
        ]
        zeros = np.zeros(count, dtype=np.int8)
        return Labelled(
            slots=np.array([self.join.find(each.key) for each in pending], dtype=np.int64),
            corrected=zeros,
            times_ms=np.array([each.time_ms for each in pending], dtype=np.int64),
            arrived_ms=np.array([each.arrived_ms for each in pending], dtype=np.int64),
            labels=np.array([each.label for each in pending]),
            label_kinds=np.array([each.label_kind for each in pending], dtype=np.int8),
            old_labels=np.zeros(count),
            old_kinds=zeros,
            predictions=np.array([each.prediction for each in pending]),
            prediction_kinds=np.array([each.prediction_kind for each in pending], dtype=np.int8),
            probabilities=cells,
            offsets=np.array([each.offset for each in pending], dtype=np.int64),
            lag_buckets=np.array([each.lag_bucket for each in pending], dtype=np.int16),
            segments=np.array(segments, dtype=np.int32).reshape(count, len(self._known.segments)),
            blocks=np.full((count, 1 + len(self._known.segments)), NO_BLOCK, dtype=np.int32),
            causes=np.full(count, offset, dtype=np.int64),
            numbers=np.full(count, -1, dtype=np.int64),
        )

    # Time.

    @property
    def has_news(self) -> bool:
        """Whether there is something that was not published yet."""
        return self.ledger is not None and self.ledger.has_news

    def pane_closed(self) -> None:
        """A pane of the monitor is closed: this is between two events, wherever batches are cut."""
        if self.ledger is not None:
            self.ledger.coverage.pane_closed()

    def flush(self, newest_pane: int | None, offset: int) -> Iterator[Told]:
        """Yield the metrics of all panes that changed, up to `newest_pane` (None: all), and of the windows."""
        if self.ledger is not None:
            yield from self.ledger.flush(newest_pane, offset, self.confidences, self.join.counters)
