"""All state of one model inside one shard, and the path of its events.

    columns -> panes -> judge (detectors score, then learn; verdict) -> watchers (quality, drift, rate)
                     '-> performance (waits for labels)               `-> raised alerts -> desk -> incidents

Rule 1: what happens at an event depends on the events before it, never on how they were cut into batches. So a batch
        is worked off in segments that end where something is due: a pane to close, the end of the warm-up, another
        version of the model.
Rule 2: an event is scored before it is learned.
Rule 3: outputs leave in the order of the offsets that caused them.
"""

import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Annotated, NamedTuple

import msgspec
import numpy as np

from worker.core.alerts.desk import AlertDesk, Rows, StoredDesk
from worker.core.alerts.incident import Step
from worker.core.alerts.life import Severity
from worker.core.alerts.silences import SilenceBook
from worker.core.arrivals import LabelEvents, PredictionEvents
from worker.core.codec import TIMESTAMP_MS_MAX, encode
from worker.core.columns import ColumnTable, Matrix, StoredColumn
from worker.core.events import (
    AlertEvent,
    IncidentFeedback,
    LabelEvent,
    Output,
    OutputTopic,
    PredictionEvent,
    UndoFeedback,
)
from worker.core.feedback import FeedbackHandler
from worker.core.judging import Judge, StoredJudge
from worker.core.kernels.arrays import I64
from worker.core.kernels.event_time import BEHIND, BEHIND_EVENTS, NO_PANE, OLDEST, WATERMARK, assign_panes
from worker.core.maintenance.challengers import ChallengerPool
from worker.core.maintenance.maintainer import Maintainer, StoredMaintainer
from worker.core.maintenance.metering import Meter, NoMeter
from worker.core.options import EngineOptions
from worker.core.pane_records import PaneOwner, pane_records
from worker.core.performance import storing
from worker.core.performance.following import Arrived
from worker.core.performance.monitoring import PerformanceMonitor
from worker.core.performance.telling import PerformanceOwner
from worker.core.seen import EventRows
from worker.core.silence import SilenceWatch, StoredSilence
from worker.core.state import COUNT_MAX, AnyArray, State, by_part, decoded, prefixed, refuse_if
from worker.core.statistics.panes import PaneCounts, PaneSlots
from worker.core.telling import Told
from worker.core.versions import StoredVersions, VersionWatch
from worker.core.watching import StoredWatching, Watching

_STORED = "stored monitor"
_OFFSET = attrgetter("offset")
_Count = Annotated[int, msgspec.Meta(ge=0, le=COUNT_MAX)]
_Checksum = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]


class _Live(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The plain part of what changes with events."""

    model_id: str
    shard: int
    model_version: str | None
    fitted_version: _Count
    seen: _Count
    seen_at_tick: _Count
    labels: _Count
    labels_untold: _Count
    outputs_checksum: _Checksum
    watermark_ms: Annotated[int, msgspec.Meta(ge=0, le=TIMESTAMP_MS_MAX)]
    behind: Annotated[int, msgspec.Meta(ge=0, lt=BEHIND_EVENTS)]
    columns: list[StoredColumn]
    judge: StoredJudge
    watching: StoredWatching
    versions: StoredVersions
    silence: StoredSilence
    desk: StoredDesk
    closed_pane: int
    pane_at_tick: int
    labels_at_tick: _Count
    performance: storing.StoredPerformance
    maintenance: StoredMaintainer


class _Fitted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The plain part of what seldom changes."""

    model_id: str
    shard: int
    version: _Count


REGIME_GRID_EVENTS = 4_096
"""Whether inputs have drifted for long is looked at after so many events."""


class Home(NamedTuple):
    """Where a monitor lives: its shard, and the topics where its records can be read again."""

    shard: int
    predictions: str
    labels: str


class Monitor:
    """Watches one model. `process` takes its events in stream order and returns the outputs they cause."""

    def __init__(
        self,
        model_id: str,
        home: Home,
        options: EngineOptions,
        refits: ChallengerPool,
        silences: SilenceBook,
        meter: Meter | None = None,
    ) -> None:
        shard = home.shard
        self._options = options = options.of_model(model_id)
        self._model_id = model_id
        self._model_version: str | None = None
        self._shard = shard
        self._seen = 0
        self._seen_at_tick = 0
        self._labels = 0
        self._labels_untold = 0
        self._outputs_checksum = 0
        self._clock = np.array([0, NO_PANE, 0], dtype=np.int64)
        self._columns = ColumnTable(features_max=options.features_max, categories_max=options.categories_max)
        self._slots = PaneSlots(options.buckets_max, options.categories_max + 1)
        self._counts = PaneCounts()
        self._owner = PerformanceOwner(model_id, shard, home.predictions)
        self._judge = Judge(self._owner, self._columns, options, refits)
        self._watching = Watching(self._owner, self._columns, options)
        self._versions = VersionWatch()
        self._silence = SilenceWatch(self._owner, options.alerts.stale, home.labels)
        self._desk = AlertDesk(self._owner, options, silences)
        self._feedback = FeedbackHandler(self._owner, self._desk, self._judge, options)
        self._performance = PerformanceMonitor(self._owner, options)
        self._maintainer = Maintainer(
            self._owner, home.labels, options, self._columns, self._performance.segments, refits, meter or NoMeter()
        )
        self._performance.follower = self._maintainer
        self._closed_pane = -1
        self._pane_at_tick = -1
        self._labels_at_tick = 0
        self._told: list[Told] = []

    def process(self, events: Sequence[PredictionEvent], offsets: I64, times_ms: I64) -> list[Output]:
        """Process events (n) in stream order; offsets and times (ms) are n long."""
        events = PredictionEvents.of(events)
        rows, count = EventRows.of(events, offsets, times_ms), len(events)
        start, first = 0, self._seen
        while start < count:
            taken = self._versions.until_takeover(events[start:])
            for place in self._versions.appeared_at:
                self._desk.rebaseline(self._seen + place)
            stop = count if taken is None else start + taken
            self._process_version(rows, start, stop)
            if taken is not None:
                step = self._step(int(offsets[stop - 1]))
                self._told += self._judge.begin_anew(step) + self._watching.stop(step)
                self._maintainer.take_version(self._versions.current)
            start = stop
        # A silence can only end with the first event.
        over = self._silence.predicted(rows.watermarks_ms, offsets)
        self._told += [each.of_version(events.version(0)) for each in over]
        return self._take_output(Rows(offsets, rows.watermarks_ms, first) if count else None)

    def _process_version(self, rows: EventRows, start: int, count: int) -> None:
        """Process rows [start, count), before which and within which no other version of the model takes over."""
        while start < count:
            stop = count
            if not self._columns.frozen:
                # A warm-up segment must not reach past its end: from there on no column is added.
                stop = min(count, start + self._judge.warmup_left(self._seen))
                self._columns.learn(rows.events[start:stop])
                self._slots.grow(len(self._columns))
            self._process_matrix(rows, self._columns.matrix(rows.events[start:stop]), start, stop)
            start = stop

    def _process_matrix(self, rows: EventRows, matrix: Matrix, start: int, stop: int) -> None:
        """Work off rows [start, stop) of a batch, whose cells are in `matrix`, segment by segment."""
        options = self._options
        begin = start
        while begin < stop:
            end = assign_panes(
                rows.times_ms,
                begin,
                min(stop, begin + REGIME_GRID_EVENTS - self._seen % REGIME_GRID_EVENTS),
                self._clock,
                options.pane_ms,
                options.pane_grace_ms,
                options.future_max_ms,
                rows.panes,
                rows.watermarks_ms,
                rows.late,
            )
            if end == begin:
                self._close_oldest(int(rows.offsets[begin]))
                continue
            self._process_segment(rows, matrix, begin, end, start)
            begin = end

    def _process_segment(self, rows: EventRows, matrix: Matrix, begin: int, end: int, first: int) -> None:
        """Process rows [begin, end) between which nothing is due; row `first` of the batch is row 0 of the matrix."""
        part = slice(begin, end)
        slot = (rows.panes[part] & 1).astype(np.int8)
        seen = rows.seen(part, matrix, first, self._seen)
        self._counts.add(rows.panes[part], rows.offsets[part], rows.late[part], seen.unknown)
        self._slots.add(seen.cells, slot, self._columns.is_numeric)
        if len(seen.invalid):
            self._slots.add_invalid(seen.invalid, slot)
        self._model_version = rows.events.version(end - 1)
        was_frozen = self._columns.frozen
        judged, told = self._judge.process(seen)
        self._counts.add_verdicts(slot, judged.verdicts, judged.flagged)
        if was_frozen:
            told += self._watching.process(seen, judged.raw, judged.anew)
        elif self._columns.frozen:
            self._watching.begin()
        self._told += [each.of_version(seen.version_at(each.offset)) for each in told]
        self._seen += end - begin
        self._owner.model_version = self._model_version
        self._accept_drift(int(rows.offsets[end - 1]))
        cells = seen.cells[:, 1:] if was_frozen else None
        arrived = Arrived(seen.events, seen.offsets, seen.times_ms, seen.watermarks_ms, cells)
        self._told += self._performance.predicted(arrived)
        if was_frozen:
            self._maintainer.inputs(judged.rows, self._columns.feature_names, seen)
        self._told += self._maintainer.take_told()

    def _accept_drift(self, offset: int) -> None:
        """Let detectors begin anew when their inputs have drifted for long. Looked at now and then only."""
        if self._seen % REGIME_GRID_EVENTS:
            return
        drifted_for = self._watching.drift.inputs_drifted_for
        is_new = self._judge.accepted_at < self._seen - drifted_for
        if drifted_for >= self._options.calibration.regime_events and is_new:
            told = self._judge.accept_regime(self._step(offset))
            if told:
                self._watching.begin_rate()
            self._told += told

    def _step(self, offset: int) -> Step:
        """Return the end of an incident at the latest event, or after it."""
        return Step("resolved", self._seen - 1, offset, int(self._clock[WATERMARK]), self._model_version)

    def tick(self, now_ms: int, offset: int) -> list[Output]:
        """Tell which streams are silent; close panes that are over by the clock and resolve what is quiet, if idle.

        Idle is: no event since the last tick. `now_ms` comes from a journalled tick; `offset` is that of the last
        record of the shard. What labels have changed is published when they, too, have been idle, or once a pane.
        """
        idle, self._seen_at_tick = self._seen == self._seen_at_tick, self._seen
        idle_labels, self._labels_at_tick = self._labels == self._labels_at_tick, self._labels
        self._told += self._silence.tick(now_ms, offset, int(self._clock[WATERMARK]))
        self._maintainer.tick(offset)
        self._told += self._maintainer.take_told()
        if idle:
            self._tick_idle(now_ms, offset, idle_labels=idle_labels)
        out = self._take_output()
        return out + self._encoded(self._desk.tick(now_ms, offset)) if idle else out

    def _tick_idle(self, now_ms: int, offset: int, *, idle_labels: bool) -> None:
        pane = now_ms // self._options.performance.pane_ms
        if self._performance.has_news and (idle_labels or pane != self._pane_at_tick):
            self._pane_at_tick = pane
            self._told += self._performance.flush(None, offset)
        while (slot := self._counts.oldest()) is not None:
            end_ms = (int(self._counts.index[slot]) + 1) * self._options.pane_ms
            if now_ms < end_ms + self._options.pane_grace_ms:
                break
            self._close_oldest(offset)
        self._told += self._judge.tick(now_ms, self._step(offset))

    def wants_tick(self, now_ms: int) -> bool:
        """Whether a tick at `now_ms` could do anything: there were events since the last one, or something is open."""
        return (
            self._seen != self._seen_at_tick
            or self._labels != self._labels_at_tick
            or self._counts.oldest() is not None
            or self._judge.is_open
            or self._performance.has_news
            or self._silence.wants_tick(now_ms)
            or self._maintainer.wants_tick
            or self._desk.wants_tick(now_ms)
        )

    def label(self, events: Sequence[LabelEvent], offsets: I64, times_ms: I64) -> list[Output]:
        """Take in labels (n) in stream order; return the outputs they cause. The next metric record counts them."""
        self._labels += len(events)
        self._labels_untold += len(events)
        self._told += self._silence.labelled(times_ms, offsets)
        self._told += self._performance.label(LabelEvents.of(events), offsets, times_ms)
        self._told += self._maintainer.take_told()
        return self._take_output()

    def thin(self, level: int, offset: int) -> list[Output]:
        """Use one in 2^level events for maintenance from now on."""
        self._maintainer.thin(level, offset)
        self._told += self._maintainer.take_told()
        return self._take_output()

    def artefacts_in_use(self) -> set[str]:
        """Return where models lie that are in service, or may be taken."""
        return self._maintainer.artefacts_in_use()

    # Feedback.

    def feedback(self, event: IncidentFeedback, offset: int) -> list[Output]:
        """Take what a person says of an incident of this model."""
        return self._encoded(self._feedback.take(event, offset, int(self._clock[WATERMARK]), self._seen))

    def undo(self, event: UndoFeedback, offset: int) -> list[Output]:
        """Take an effect of feedback back that is in force here."""
        return self._encoded(self._feedback.undo(event, offset, int(self._clock[WATERMARK])))

    def reconsider(self, offset: int) -> list[Output]:
        """Look again at what was held back: a silence has been taken back."""
        return self._encoded(self._desk.reconsider(offset))

    def has_effect(self, feedback_id: str) -> bool:
        """Whether feedback of that id is in force here."""
        return self._desk.effects.is_in_force(feedback_id)

    @property
    def open_incidents(self) -> Counter[Severity]:
        """How many incidents are open, by severity."""
        return self._desk.open_by_severity

    @property
    def holds_back(self) -> bool:
        """Whether something is raised: its opening or, when it is open, its news may be held back."""
        return self._desk.holds_back

    def _close_oldest(self, offset: int) -> None:
        slot = self._counts.oldest()
        if slot is None:
            raise AssertionError("no pane is open")
        owner = PaneOwner(
            model_id=self._model_id,
            model_version=self._model_version,
            shard=self._shard,
            phase=self._judge.phase,
            labels=self._labels_untold,
            drift_psi=self._watching.drift.latest_psi,
        )
        for metric in pane_records(owner, self._counts, self._slots, self._columns, slot, self._options.pane_ms):
            self._told.append(Told(OutputTopic.METRICS, offset, self._model_id, metric))
            self._counts.part[slot] += 1
        self._labels_untold = 0
        closed = (int(self._counts.index[slot]) + 1) * self._options.pane_ms // self._options.performance.pane_ms
        self._counts.clear(slot)
        self._slots.clear(slot)
        self._clock[OLDEST] = self._oldest_pane()
        self._performance.pane_closed()
        if closed != self._closed_pane:
            self._closed_pane = closed
            self._told += self._performance.flush(closed - 1, offset)

    def _oldest_pane(self) -> int:
        slot = self._counts.oldest()
        return NO_PANE if slot is None else int(self._counts.index[slot])

    def _take_output(self, rows: Rows | None = None) -> list[Output]:
        """Pass raised alerts through the desk, with the rows they were raised at, and encode all that is told."""
        told, self._told = self._told, []
        told.sort(key=_OFFSET)
        raised = [each for each in told if each.topic is OutputTopic.ALERTS]
        told = [each for each in told if each.topic is not OutputTopic.ALERTS]
        told += self._desk.take(raised) if rows is None else self._desk.process(raised, rows)
        return self._encoded(told)

    def _encoded(self, told: Iterable[Told]) -> list[Output]:
        """Encode what is told, in the order of offsets; what one record caused stays in its order."""
        out = []
        for topic, offset, key, record, artefact in sorted(told, key=_OFFSET):
            if isinstance(record, AlertEvent) and record.status == "opened":
                self._maintainer.opened(record)
            value = None if record is None else encode(record)
            # Two steps, so that the value need not be copied.
            seen = zlib.crc32(f"{topic} {offset} ".encode(), self._outputs_checksum)
            self._outputs_checksum = zlib.crc32(value or b"", seen)
            out.append(Output(topic, self._shard, offset, key.encode(), value, artefact=artefact))
        return out

    # Storing and restoring.

    @property
    def trace(self) -> int:
        """64 bits of all that was computed so far: fused scores, outputs, counts. A replay that differs shows here."""
        counts = f"{self._seen} {self._labels}".encode()
        return self._judge.scores_checksum << 32 | zlib.crc32(counts, self._outputs_checksum)

    @property
    def fitted_version(self) -> int:
        """Changes exactly when the fitted state does; 0 in the warm-up, when nothing is fitted."""
        return self._judge.fitted_version

    def live_state(self) -> State:
        """Return what changes with events. Arrays are the live ones."""
        plain = _Live(
            model_id=self._model_id,
            shard=self._shard,
            model_version=self._model_version,
            fitted_version=self.fitted_version,
            seen=self._seen,
            seen_at_tick=self._seen_at_tick,
            labels=self._labels,
            labels_untold=self._labels_untold,
            outputs_checksum=self._outputs_checksum,
            watermark_ms=int(self._clock[WATERMARK]),
            behind=int(self._clock[BEHIND]),
            columns=self._columns.state(),
            judge=self._judge.plain(),
            watching=self._watching.plain(),
            versions=self._versions.state(),
            silence=self._silence.state(),
            desk=self._desk.state(),
            closed_pane=self._closed_pane,
            pane_at_tick=self._pane_at_tick,
            labels_at_tick=self._labels_at_tick,
            performance=storing.plain_state(self._performance),
            maintenance=self._maintainer.plain(),
        )
        arrays = prefixed("panes", self._slots.arrays) | prefixed("counts", self._counts.state())
        arrays |= prefixed("performance", storing.arrays_state(self._performance))
        arrays |= prefixed("watching", self._watching.arrays()) | prefixed("maintenance", self._maintainer.arrays())
        return State(msgspec.msgpack.encode(plain), arrays | prefixed("judge", self._judge.live()))

    def fitted_state(self) -> State:
        """Return what changes with `fitted_version` alone."""
        plain = _Fitted(self._model_id, self._shard, self.fitted_version)
        return State(msgspec.msgpack.encode(plain), self._judge.fitted())

    def restore(self, live: State, fitted: State | None) -> None:
        """Become, from new, the monitor of the same model and options that gave these states (None: version 0).

        Copies the arrays. Raises ValueError, with the reason, if they cannot be that; the monitor is of no use then.
        """
        fitted = self.fitted_state() if fitted is None else fitted
        plain, fitted_plain = decoded(live.plain, _Live), decoded(fitted.plain, _Fitted)
        self._check(plain, fitted_plain)
        names = ("panes", "counts", "judge", "watching", "performance", "maintenance")
        parts = by_part(_STORED, live.arrays, names)
        self._columns.restore(plain.columns, frozen=False)
        self._slots.restore(len(self._columns), parts["panes"])
        self._counts.restore(plain.watermark_ms // self._options.pane_ms, parts["counts"])
        self._judge.restore(plain.seen, plain.judge, parts["judge"], fitted.arrays)
        self._watching.restore(plain.watching, parts["watching"])
        self._versions.restore(plain.versions)
        self._silence.restore(plain.silence)
        self._desk.restore(plain.desk)
        refuse_if(_STORED, {"its fitted part is of another version": self.fitted_version != plain.fitted_version})
        storing.restore(self._performance, plain.performance, parts["performance"])
        self._maintainer.restore(plain.maintenance, parts["maintenance"], self._performance.ledger)
        self._closed_pane, self._pane_at_tick = plain.closed_pane, plain.pane_at_tick
        self._labels_at_tick = plain.labels_at_tick
        self._owner.model_version = plain.model_version
        self._model_version = plain.model_version
        self._seen, self._seen_at_tick = plain.seen, plain.seen_at_tick
        self._labels, self._labels_untold = plain.labels, plain.labels_untold
        self._outputs_checksum = plain.outputs_checksum
        self._clock[[WATERMARK, OLDEST, BEHIND]] = plain.watermark_ms, self._oldest_pane(), plain.behind

    def _check(self, plain: _Live, fitted: _Fitted) -> None:
        refuse_if(
            _STORED,
            {
                "it is of another model": (plain.model_id, plain.shard) != (self._model_id, self._shard),
                "its fitted part is another's": fitted != _Fitted(self._model_id, self._shard, plain.fitted_version),
                "it has events without columns, or the reverse": bool(plain.columns) != bool(plain.seen),
                "its last tick is ahead of it": plain.seen_at_tick > plain.seen,
            },
        )

    def state(self) -> dict[str, AnyArray]:
        """Return all that later events depend on as named arrays; what is not an array is msgpack in one."""
        state: dict[str, AnyArray] = {}
        for part, (plain, arrays) in (("live", self.live_state()), ("fitted", self.fitted_state())):
            state |= {part: np.frombuffer(plain, dtype=np.uint8)} | prefixed(part, arrays)
        return state
