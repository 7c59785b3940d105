"""Streams that used to speak and do not any more: a model's predictions, or its labels.

    times of records ──► usual = second longest pause of three weeks ──► limit = max(least, factor x usual)
    ticks of the clock ─► silent_ms, the time without a record ──► stale when silent_ms >= limit ──► next record: over

What is usual is event time, so it is the same in a backlog. Silence is the time of the journalled clock, as there is no
event to tell the time. A tick adds at most one step (a sixteenth of the limit), whatever has passed since the one
before. So hours in which the worker was away add one step, and a silence needs some 17 ticks, however long it is (fewer
if it is shorter than 160 s: a step is no shorter than 10 s).

One long pause says nothing about what is usual: it may have been the outage that this is about. The second one does.
Labels are called silent only while predictions come: where nothing is predicted, nothing can be labelled.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

import numpy as np
from msgspec import Meta, Struct

from worker.core.events import AlertEvent, AlertKind, EvidenceRow, StaleEvidence
from worker.core.identity import derived_id
from worker.core.kernels.arrays import I64
from worker.core.kernels.pauses import note_pauses
from worker.core.options import StaleOptions
from worker.core.state import COUNT_MAX, refuse_if
from worker.core.telling import Owner, Told

WEEK_MS = 7 * 86_400_000
WEEKS = 3
"""Weeks whose pauses are kept: that of the last record, and the two before with one. Two weekends make one usual."""
STEPS = 16
"""Ticks that make a silence."""
STEP_MS_MIN = 10_000

_STORED = "stored silence"
_Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
_Time = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
_Offset = Annotated[int, Meta(ge=-1)]
_Pauses = tuple[_Time, _Time]
"""The two longest, longest first."""


class StoredPulse(Struct, frozen=True, forbid_unknown_fields=True):
    """What is stored of one stream's pace."""

    records: _Count
    records_at_tick: _Count
    last_ms: _Time
    last_offset: _Offset
    pauses: list[_Pauses]
    """Of each week, the latest first."""
    ticked_ms: _Time
    silent_ms: _Time
    stale: bool


class StoredStream(Struct, frozen=True, forbid_unknown_fields=True):
    """What is stored of one stream: its pace, and the watermark at which its open incident opened."""

    pulse: StoredPulse
    opened_ms: _Time | None


class StoredSilence(Struct, frozen=True, forbid_unknown_fields=True):
    """What is stored of both streams."""

    predictions: StoredStream
    labels: StoredStream
    predictions_at_tick: _Count
    """Predictions at the last tick that counted for labels."""


class PulseOptions(NamedTuple):
    """When one stream is silent."""

    least_ms: int
    factor: float
    records_min: int


class Pulse:
    """The pace of one stream, and how long it has been silent."""

    def __init__(self, options: PulseOptions) -> None:
        self._options = options
        self._records_at_tick = 0
        self._pauses: I64 = np.zeros((WEEKS, 2), dtype=np.int64)
        self._ticked_ms = 0
        self.records = 0
        self.last_ms = 0
        """Event time of the last record: the latest up to it."""
        self.last_offset = -1
        self.silent_ms = 0
        """By the clock, up to the last tick; it stands still once the stream is stale."""
        self.stale = False

    @property
    def usual_ms(self) -> int:
        """The second longest pause that is kept."""
        return sorted(self._pauses.ravel().tolist())[-2]

    @property
    def limit_ms(self) -> int:
        """The stream is stale when it has been silent for so long."""
        options = self._options
        return max(1, options.least_ms, int(options.factor * self.usual_ms))

    @property
    def _step_ms(self) -> int:
        return max(STEP_MS_MIN, -(-self.limit_ms // STEPS))

    @property
    def _fresh(self) -> bool:
        return self.records != self._records_at_tick

    def came(self, times_ms: I64, last_offset: int) -> None:
        """Take in records (n >= 1) in stream order: the latest event time up to each (ms), the last one's offset. O(n).

        A watermark that was set back makes a pause of 0. All is integers, and the order of the pauses of a week does
        not matter, so batches can be cut anywhere.
        """
        note_pauses(self.last_ms if self.records else int(times_ms[0]), times_ms, WEEK_MS, self._pauses)
        self.records += len(times_ms)
        self.last_ms, self.last_offset = int(times_ms[-1]), last_offset
        self.silent_ms, self.stale = 0, False

    def tick(self, now_ms: int) -> bool:
        """Take the time of the journalled clock; return whether the stream has become stale with it.

        The first tick after a record begins at 0. A clock that was set back adds nothing.
        """
        if self.stale:
            return False
        if not self._fresh:
            self.silent_ms += max(0, min(now_ms - self._ticked_ms, self._step_ms))
        self._records_at_tick, self._ticked_ms = self.records, now_ms
        self.stale = self.records >= self._options.records_min and self.silent_ms >= self.limit_ms
        return self.stale

    def wants_tick(self, now_ms: int) -> bool:
        """Whether a tick could bring it on: none since the last record, or one step ago (or the clock was set back)."""
        if self.stale or self.records < self._options.records_min:
            return False
        return self._fresh or abs(now_ms - self._ticked_ms) >= self._step_ms

    def state(self) -> StoredPulse:
        """Return what is to be stored."""
        return StoredPulse(
            self.records,
            self._records_at_tick,
            self.last_ms,
            self.last_offset,
            [(longest, second) for longest, second in self._pauses.tolist()],
            self._ticked_ms,
            self.silent_ms,
            self.stale,
        )

    def restore(self, stored: StoredPulse) -> None:
        """Take over what `state` gave; ValueError for what cannot be."""
        fresh = stored.records != stored.records_at_tick
        refuse_if(
            _STORED,
            {
                "it has pauses of other weeks": len(stored.pauses) != WEEKS,
                "its pauses are not the longest first": any(longest < second for longest, second in stored.pauses),
                "its last tick is ahead of it": stored.records_at_tick > stored.records,
                "it has a last record without any, or the reverse": (stored.records == 0) != (stored.last_offset == -1),
                "it has been silent since before its last record": fresh and (stored.silent_ms > 0 or stored.stale),
            },
        )
        self.records, self._records_at_tick = stored.records, stored.records_at_tick
        self.last_ms, self.last_offset = stored.last_ms, stored.last_offset
        self._pauses[:], self._ticked_ms = stored.pauses, stored.ticked_ms
        self.silent_ms, self.stale = stored.silent_ms, stored.stale


class _Wording(NamedTuple):
    """What sets the alerts of the streams apart."""

    kind: AlertKind
    severity: Literal["warning", "critical"]
    one: str
    many: str
    condition: str


_PREDICTIONS = _Wording("stale.predictions", "critical", "prediction", "predictions", "")
_LABELS = _Wording("stale.labels", "warning", "label", "labels", " while predictions come")


class _Step(NamedTuple):
    """The beginning of a silence that is told, or its end."""

    offset: int
    """The record that caused it."""
    silent_ms: int
    opened_ms: int
    """Watermark."""
    resolved_ms: int | None
    """Time of the record that ended it."""


class _Stream:
    """One stream and the incident of its silence; `opened_ms` is the watermark at which it opened."""

    def __init__(self, wording: _Wording, topic: str, owner: Owner, options: PulseOptions) -> None:
        self._wording = wording
        self._topic = topic
        self._owner = owner
        self.pulse = Pulse(options)
        self.opened_ms: int | None = None

    def came(self, times_ms: I64, offsets: I64) -> list[Told]:
        """Take in records (n); the first one ends an open incident."""
        if not len(offsets):
            return []
        told = self._over(int(times_ms[0]), int(offsets[0]))
        self.pulse.came(times_ms, int(offsets[-1]))
        return told

    def tick(self, now_ms: int, offset: int, event_ms: int) -> list[Told]:
        """Take the time; open an incident if the stream has become stale."""
        if not self.pulse.tick(now_ms):
            return []
        self.opened_ms = event_ms
        return [self._told(_Step(offset, self.pulse.silent_ms, event_ms, None))]

    def _over(self, time_ms: int, offset: int) -> list[Told]:
        opened_ms, self.opened_ms = self.opened_ms, None
        if opened_ms is None:
            return []
        silent_ms = max(self.pulse.silent_ms, time_ms - self.pulse.last_ms)
        return [self._told(_Step(offset, silent_ms, opened_ms, max(opened_ms, time_ms)))]

    def _told(self, step: _Step) -> Told:
        """Build the record. Its ids rest on an offset of this stream alone, not on how streams and ticks interleave."""
        owner, pulse, kind = self._owner, self.pulse, self._wording.kind
        fingerprint = derived_id("fingerprint", kind, owner.model_id, owner.shard)
        incident_id = derived_id("incident", fingerprint, pulse.last_offset)
        status: Literal["opened", "resolved"] = "opened" if step.resolved_ms is None else "resolved"
        usual_ms = pulse.usual_ms
        record = AlertEvent(
            alert_id=derived_id("alert", incident_id, status, pulse.last_offset),
            incident_id=incident_id,
            fingerprint=fingerprint,
            kind=kind,
            status=status,
            severity=self._wording.severity,
            summary=_summary(self._wording, owner.model_id, step, usual_ms),
            runbook=kind,
            model_id=owner.model_id,
            model_version=owner.model_version,
            shard=owner.shard,
            timestamp_ms=step.opened_ms if step.resolved_ms is None else step.resolved_ms,
            opened_at_ms=step.opened_ms,
            last_flagged_ms=step.opened_ms,
            resolved_at_ms=step.resolved_ms,
            evidence=[EvidenceRow(self._topic, owner.shard, pulse.last_offset, None, pulse.last_ms, None)],
            stale=StaleEvidence(
                silent_ms=step.silent_ms,
                usual_ms=usual_ms,
                limit_ms=pulse.limit_ms,
                last_ms=pulse.last_ms,
                last_offset=pulse.last_offset,
                records=pulse.records,
            ),
        )
        return owner.alert(record, step.offset)

    def state(self) -> StoredStream:
        """Return what is to be stored."""
        return StoredStream(self.pulse.state(), self.opened_ms)

    def restore(self, stored: StoredStream) -> None:
        """Take over what `state` gave; ValueError for what cannot be."""
        refuse_if(
            _STORED,
            {"it is stale without an incident, or the reverse": stored.pulse.stale != (stored.opened_ms is not None)},
        )
        self.pulse.restore(stored.pulse)
        self.opened_ms = stored.opened_ms


def _summary(wording: _Wording, model_id: str, step: _Step, usual_ms: int) -> str:
    """One sentence for a person who is woken by it."""
    silent = _duration(step.silent_ms)
    if step.resolved_ms is not None:
        return f"{wording.many} of {model_id} come again, after {silent}"
    usual = f"pauses up to {_duration(usual_ms)}" if usual_ms >= _SECOND_MS else "pauses under 1 s"
    return f"no {wording.one} of {model_id} for {silent}{wording.condition}; usual are {usual}"


_SECOND_MS = 1_000
_UNITS: Mapping[str, int] = {"d": 86_400_000, "h": 3_600_000, "min": 60_000}


def _duration(length_ms: int) -> str:
    """Return a length in the largest unit of which there are two or more, or a whole one."""
    for unit, unit_ms in _UNITS.items():
        if length_ms >= 2 * unit_ms or length_ms == unit_ms:
            return f"{length_ms // unit_ms} {unit}"
    return f"{length_ms // _SECOND_MS} s"


class SilenceWatch:
    """Watches both streams of one model in one shard. Switched off, it learns what is usual but opens nothing.

    Args:
        owner: the monitor that speaks.
        options: when a stream is silent.
        label_topic: where labels can be read again.
    """

    def __init__(self, owner: Owner, options: StaleOptions, label_topic: str = "labels") -> None:
        self._enabled = options.enabled
        of_predictions = PulseOptions(options.predictions_ms, options.factor, options.records_min)
        of_labels = of_predictions._replace(least_ms=options.labels_ms)
        self._predictions = _Stream(_PREDICTIONS, owner.topic, owner, of_predictions)
        self._labels = _Stream(_LABELS, label_topic, owner, of_labels)
        self._predictions_at_tick = 0

    @property
    def is_open(self) -> bool:
        """Whether a stream is called silent."""
        return self._predictions.opened_ms is not None or self._labels.opened_ms is not None

    @property
    def _predictions_come(self) -> bool:
        """Whether there were predictions since the last tick that counted for labels."""
        return self._predictions.pulse.records != self._predictions_at_tick

    def predicted(self, times_ms: I64, offsets: I64) -> list[Told]:
        """Take in predictions (n): watermarks (ms) and offsets, in stream order. The first ends an open incident."""
        return self._predictions.came(times_ms, offsets)

    def labelled(self, times_ms: I64, offsets: I64) -> list[Told]:
        """Take in labels (n): their times (ms) and offsets, in stream order."""
        latest = np.maximum.accumulate(np.maximum(times_ms, self._labels.pulse.last_ms))
        return self._labels.came(latest, offsets)

    def tick(self, now_ms: int, offset: int, event_ms: int) -> list[Told]:
        """Take the time `now_ms` of the journalled clock; return what has become silent with it.

        What is told is caused by `offset`, the last record of the shard, at the monitor's watermark `event_ms`.
        """
        if not self._enabled:
            return []
        told = self._predictions.tick(now_ms, offset, event_ms)
        if self._predictions_come:
            self._predictions_at_tick = self._predictions.pulse.records
            told += self._labels.tick(now_ms, offset, event_ms)
        return told

    def wants_tick(self, now_ms: int) -> bool:
        """Whether a tick at `now_ms` could bring on a silence; if not, there is nothing to journal."""
        if not self._enabled:
            return False
        labels_want = self._predictions_come and self._labels.pulse.wants_tick(now_ms)
        return labels_want or self._predictions.pulse.wants_tick(now_ms)

    def state(self) -> StoredSilence:
        """Return what is to be stored."""
        return StoredSilence(self._predictions.state(), self._labels.state(), self._predictions_at_tick)

    def restore(self, stored: StoredSilence) -> None:
        """Take over what `state` gave; ValueError for what cannot be. Options may have changed meanwhile."""
        at_tick, predictions = stored.predictions_at_tick, stored.predictions.pulse.records
        refuse_if(_STORED, {"its last tick is ahead of its predictions": at_tick > predictions})
        self._predictions.restore(stored.predictions)
        self._labels.restore(stored.labels)
        self._predictions_at_tick = at_tick
