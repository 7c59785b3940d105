"""All state of one input partition: decodes its records and routes each to the monitor of its model.

Rule 1: every record of a batch becomes an event of exactly one monitor or exactly one dead letter.
Rule 2: outputs leave in the order of the offsets that caused them, however the stream was cut into batches.
Rule 3: whatever is about to change a monitor tells the open cut first.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from operator import attrgetter
from typing import Annotated, Generic, NamedTuple, TypeVar

import msgspec
import numpy as np

from worker.core.alerts import audits
from worker.core.alerts.life import Severity
from worker.core.alerts.silences import SilenceBook, StoredSilences
from worker.core.arrivals import LabelEvents, PredictionEvents
from worker.core.codec import (
    DecodedBatch,
    DecodedLabels,
    Reject,
    dead_letter,
    decode_feedback,
    decode_labels,
    decode_predictions,
    encode,
)
from worker.core.cut import Captured, Cut
from worker.core.events import (
    FeedbackEvent,
    InputTopic,
    Output,
    RawBatch,
    RejectCode,
    SilenceFeedback,
    UndoFeedback,
)
from worker.core.journal import THINNING_MAX
from worker.core.kernels.arrays import I64
from worker.core.maintenance.challengers import ChallengerPool
from worker.core.maintenance.metering import Meter
from worker.core.monitor import Home, Monitor
from worker.core.options import EngineOptions
from worker.core.snapshot import SnapshotError, unpack
from worker.core.state import decoded
from worker.core.telling import Told

_Events = TypeVar("_Events", PredictionEvents, LabelEvents)
_OFFSET = attrgetter("offset")
_TRACE_MASK = 2**64 - 1


class Topics(NamedTuple):
    """Names of the input topics, as evidence and dead letters tell them."""

    predictions: str = "predictions"
    labels: str = "labels"
    feedback: str = "feedback"


class _Routed(NamedTuple, Generic[_Events]):
    """Events (n) model by model, with their offsets and times (ms), and the part of each model."""

    events: _Events
    offsets: I64
    times_ms: I64
    parts: list[tuple[str, slice]]


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a shard knows beside its monitors."""

    last_offset: int
    rejects_trace: int
    silences: StoredSilences
    thinning: Annotated[int, msgspec.Meta(ge=0, le=THINNING_MAX)]


class Shard:
    """The monitors of one partition."""

    def __init__(
        self, partition: int, topics: Topics, options: EngineOptions, refits: ChallengerPool, meter: Meter
    ) -> None:
        self._partition = partition
        self._topics = topics
        self._options = options
        self._refits = refits
        self._meter = meter
        self._monitors: dict[str, Monitor] = {}
        self._silences = SilenceBook(options.alerts.feedback_max)
        self._last_offset = -1
        self._thinning = 0
        self._rejects_trace = 0
        self._traces: dict[str, int] = {}
        self._trace = 0
        self._untraced: set[str] = set()
        self._changed: dict[str, None] = {}
        self._cut: Cut | None = None

    @property
    def model_ids(self) -> list[str]:
        """The models watched, in the order in which they appeared."""
        return list(self._monitors)

    def open_incidents(self) -> dict[str, Counter[Severity]]:
        """Return how many incidents are open, by model and severity; models without any are left out."""
        found = {model_id: monitor.open_incidents for model_id, monitor in self._monitors.items()}
        return {model_id: counts for model_id, counts in found.items() if counts}

    def handle(self, batch: RawBatch) -> tuple[list[Output], list[Reject]]:
        """Process consecutive records; return the outputs, dead letters among them, and what was rejected."""
        if not batch.offsets:
            return [], []
        match batch.topic:
            case InputTopic.LABELS:
                (out, rejects), topic = self._labels(batch), self._topics.labels
            case InputTopic.FEEDBACK:
                (out, rejects), topic = self._feedback(batch), self._topics.feedback
            case _:
                (out, rejects), topic = self._predictions(batch), self._topics.predictions
        for reject in rejects:
            self._rejects_trace += _hash(f"{topic} {batch.offsets[reject.row]} {reject.code}")
            out.append(dead_letter(batch, reject, topic))
        out.sort(key=_OFFSET)  # stable: the outputs of one event stay in their order
        return out, rejects

    def _predictions(self, batch: RawBatch) -> tuple[list[Output], list[Reject]]:
        options = self._options
        decoded = decode_predictions(
            batch, record_bytes_max=options.record_bytes_max, future_max_ms=options.future_max_ms
        )
        events, offsets, times, parts = self._route(batch, decoded, decoded.events)
        out: list[Output] = []
        for model_id, part in parts:
            out += self._to_change(model_id).process(events[part], offsets[part], times[part])
        self._last_offset = batch.offsets[-1]
        return out, decoded.rejects

    def _labels(self, batch: RawBatch) -> tuple[list[Output], list[Reject]]:
        options = self._options
        decoded = decode_labels(batch, record_bytes_max=options.record_bytes_max, future_max_ms=options.future_max_ms)
        events, offsets, times, parts = self._route(batch, decoded, decoded.events)
        out: list[Output] = []
        for model_id, part in parts:
            out += self._to_change(model_id).label(events[part], offsets[part], times[part])
        return out, decoded.rejects

    def _feedback(self, batch: RawBatch) -> tuple[list[Output], list[Reject]]:
        """Take what people say. Every shard gets the same records, so only the first one keeps what cannot be used."""
        decoded = decode_feedback(batch, record_bytes_max=self._options.record_bytes_max)
        out: list[Output] = []
        for row, event in zip(decoded.rows, decoded.events, strict=True):
            if self._silences.is_new(event):
                out += self._apply(event, batch.offsets[row], batch.timestamps_ms[row])
        return out, decoded.rejects if self._speaks_for_all else []

    @property
    def _speaks_for_all(self) -> bool:
        """Whether this shard tells what concerns all of them."""
        return self._partition == 0

    def _apply(self, event: FeedbackEvent, offset: int, now_ms: int) -> list[Output]:
        """Take one feedback event; `now_ms` is the time of its record."""
        if isinstance(event, SilenceFeedback):
            silence = self._silences.add(event, now_ms)
            if silence is None:
                why = "feedback_max: too many silences are in force (engine.alerts.feedback_max): undo some"
                return self._tell_for_all(audits.refused(event, why, self._partition, offset))
            return self._tell_for_all(audits.silenced(silence, self._partition, offset))
        if isinstance(event, UndoFeedback):
            return self._undo(event, offset)
        if event.shard != self._partition:
            return []
        if event.model_id not in self._monitors:
            why = "unknown_incident: this shard watches no such model"
            return [self._output(audits.refused(event, why, self._partition, offset))]
        return self._to_change(event.model_id).feedback(event, offset)

    def _undo(self, event: UndoFeedback, offset: int) -> list[Output]:
        silence = self._silences.remove(event.undoes)
        if silence is not None:
            out = self._tell_for_all(audits.unsilenced(event, silence, self._partition, offset))
            held = [model_id for model_id, monitor in self._monitors.items() if monitor.holds_back]
            return out + [each for model_id in held for each in self._to_change(model_id).reconsider(offset)]
        whose = next((name for name, monitor in self._monitors.items() if monitor.has_effect(event.undoes)), None)
        if whose is not None:
            self._silences.note_undone(event.undoes, whose)
            return self._to_change(whose).undo(event, offset)
        return self._undo_in_vain(event, offset)

    def _undo_in_vain(self, event: UndoFeedback, offset: int) -> list[Output]:
        """Tell why there is nothing to undo. What is known, and was not undone here, may be for another shard."""
        model_id = self._silences.undone(event.undoes)
        if model_id is not None:
            why = "already_undone: it has been undone before"
            told = audits.refused(event, why, self._partition, offset, model_id or None)
            return [self._output(told)] if model_id else self._tell_for_all(told)
        if self._silences.is_known(event.undoes):
            return []
        why = "unknown_feedback: there was none of that id, or too long ago"
        return self._tell_for_all(audits.refused(event, why, self._partition, offset))

    def _tell_for_all(self, told: Told) -> list[Output]:
        return [self._output(told)] if self._speaks_for_all else []

    def _output(self, told: Told) -> Output:
        value = None if told.record is None else encode(told.record)
        self._rejects_trace += _hash(f"{told.topic} {told.offset} {value!r}")
        return Output(told.topic, self._partition, told.offset, told.key.encode(), value)

    def _route(self, batch: RawBatch, decoded: DecodedBatch | DecodedLabels, events: _Events) -> _Routed[_Events]:
        """Group events by model, in order of first appearance; reject what is beyond `models_max`."""
        codes, model_ids = events.models()
        order = None if len(model_ids) <= 1 else np.argsort(codes, kind="stable")
        ends: list[int] = np.cumsum(np.bincount(codes, minlength=len(model_ids))).tolist()
        parts = []
        for model_id, part in zip(model_ids, map(slice, [0, *ends], ends), strict=False):
            if model_id not in self._monitors:
                if len(self._monitors) >= self._options.models_max:
                    rows = decoded.rows[part] if order is None else decoded.rows[order[part]]
                    decoded.rejects.extend(self._refused(row) for row in rows.tolist())
                    continue
                self._monitors[model_id] = self._new_monitor(model_id)
            parts.append((model_id, part))
        offsets, times = np.array(batch.offsets, dtype=np.int64)[decoded.rows], decoded.timestamps_ms
        if order is not None:
            events, offsets, times = events.ordered(order), offsets[order], times[order]
        return _Routed(events, offsets, times, parts)

    def _refused(self, row: int) -> Reject:
        detail = f"{self._options.models_max} other models are watched already (engine.models_max)"
        return Reject(row, RejectCode.MODELS_MAX, detail)

    def _new_monitor(self, model_id: str) -> Monitor:
        home = Home(self._partition, self._topics.predictions, self._topics.labels)
        monitor = Monitor(model_id, home, self._options, self._refits, self._silences, self._meter)
        if self._thinning:
            monitor.thin(self._thinning, 0)  # it has no labels, so it tells nothing
        return monitor

    def _to_change(self, model_id: str) -> Monitor:
        """Return a monitor that something is about to happen to."""
        monitor = self._monitors[model_id]
        if self._cut is not None:
            self._cut.before(model_id, monitor)
        self._changed[model_id] = None
        self._untraced.add(model_id)
        return monitor

    def wants_tick(self, now_ms: int) -> bool:
        """Whether a tick at `now_ms` could do anything."""
        return any(monitor.wants_tick(now_ms) for monitor in self._monitors.values())

    def tick(self, now_ms: int) -> list[Output]:
        """The partition has been idle: let every monitor close what is over at `now_ms`."""
        wanting = [model_id for model_id, monitor in self._monitors.items() if monitor.wants_tick(now_ms)]
        return [output for model_id in wanting for output in self._to_change(model_id).tick(now_ms, self._last_offset)]

    @property
    def thinning(self) -> int:
        """The level of thinning: one event in 2^level is used for maintenance."""
        return self._thinning

    def thin(self, level: int) -> list[Output]:
        """Use one event in 2^level for maintenance from here on, with all models, also those that appear later."""
        self._thinning = level
        self._rejects_trace += _hash(f"thinning {level} {self._last_offset}")
        return [
            output for model_id in self._monitors for output in self._to_change(model_id).thin(level, self._last_offset)
        ]

    def artefacts_in_use(self) -> set[str]:
        """Return the paths of stored models that may be asked for again."""
        return {path for monitor in self._monitors.values() for path in monitor.artefacts_in_use()}

    # Storing and restoring.

    def begin_cut(self, stored: Mapping[str, int]) -> bytes:
        """Begin a cut here and now; return what the shard knows beside its monitors."""
        if self._cut is not None:
            raise AssertionError("a cut is open already")
        due = [model_id for model_id in self._monitors if model_id in self._changed or model_id not in stored]
        self._cut = Cut(due, stored)
        self._changed = {}
        trace = self._rejects_trace & _TRACE_MASK
        header = _Header(self._last_offset, trace, self._silences.state(), self._thinning)
        return msgspec.msgpack.encode(header)

    def take_captured(self, bytes_max: int) -> list[Captured]:
        """Return more of the open cut, about `bytes_max` bytes of it; nothing when it is complete, which ends it."""
        if self._cut is None:
            return []
        taken = self._cut.take(self._monitors, bytes_max)
        if self._cut.done:
            self._cut = None
        return taken

    def finish_restore(self, header: bytes, model_ids: Sequence[str]) -> None:
        """Take over what `begin_cut` returned, and the order of the monitors. Raises SnapshotError."""
        try:
            known = decoded(header, _Header)
            self._silences.restore(known.silences)
        except ValueError as error:
            raise SnapshotError(f"the header of the shard: {error}") from None
        if self._monitors.keys() != set(model_ids):
            raise SnapshotError("some models of the shard are not stored")
        self._last_offset, self._rejects_trace = known.last_offset, known.rejects_trace
        self._thinning = known.thinning
        # Ticks go from model to model in the order in which they appeared.
        self._monitors = {model_id: self._monitors[model_id] for model_id in model_ids}

    def restore_monitor(self, model_id: str, live: bytes, fitted: bytes | None) -> None:
        """Take over one monitor, in any order. Raises SnapshotError."""
        monitor = self._new_monitor(model_id)
        try:
            monitor.restore(unpack(live), None if fitted is None else unpack(fitted))
        except ValueError as error:
            raise SnapshotError(f"the state of model {model_id} cannot be used: {error}") from None
        self._monitors[model_id] = monitor
        self._untraced.add(model_id)

    def trace(self) -> str:
        """Return a cheap checksum of what has been computed so far: a replay that differs shows up here."""
        for model_id in self._untraced:
            now = _hash(f"{model_id} {self._monitors[model_id].trace}")
            self._trace += now - self._traces.get(model_id, 0)
            self._traces[model_id] = now
        self._untraced.clear()
        # A sum: in which order monitors got their events within a batch does not matter.
        return f"{(self._trace + self._rejects_trace) & _TRACE_MASK:016x}"

    def digest(self) -> str:
        """Return a checksum of all state: equal digests, equal futures. It walks everything; not for every batch."""
        total = blake2b(digest_size=16)
        total.update(f"{self._last_offset} {self._rejects_trace & _TRACE_MASK} {self._thinning}".encode())
        total.update(msgspec.msgpack.encode(self._silences.state()))
        for model_id, monitor in self._monitors.items():
            total.update(model_id.encode())
            for name, array in sorted(monitor.state().items()):
                total.update(f"{name} {array.dtype.str} {array.shape}".encode())
                total.update(np.ascontiguousarray(array).tobytes())
        return total.hexdigest()


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")
