"""Raised conditions as sources give them, and a bench on which an alert desk takes them."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from worker.core.alerts.desk import AlertDesk, Rows, StoredDesk
from worker.core.alerts.silences import SilenceBook
from worker.core.events import (
    AlertEvent,
    AlertKind,
    AuditEvent,
    Changed,
    ChangeEvidence,
    LimitEvidence,
    OutputTopic,
    Scope,
    SegmentName,
    SilenceFeedback,
)
from worker.core.options import AlertOptions, EngineOptions, NoiseOptions
from worker.core.telling import Owner, Told

START_MS = 1_767_225_600_000
PANE_MS = 1_000
MODEL = "fraud"
PLAIN = NoiseOptions(severity_min="info", cooldown_ms=0, update_ms=0, flap_openings=0)
"""Noise control that lets everything through at once."""
_DEFAULTS = EngineOptions()


def options(noise: NoiseOptions = PLAIN, **alerts: Any) -> EngineOptions:  # noqa: ANN401 - options of alerts
    """Return options without a budget and without re-baselining, unless asked for."""
    rules: dict[str, Any] = {"openings_per_day_max": 0, "rebaseline_events": 0, **alerts}
    return EngineOptions(pane_ms=PANE_MS, alerts=AlertOptions(noise=noise, **rules))


def evidence(kind: AlertKind, feature: str, strength: float, deviation: float, since_ms: int) -> dict[str, Any]:
    """Return evidence of a strength in doublings and of a distance from what is expected."""
    if kind == "performance.limit":
        limit = 0.5
        observed = limit * (2.0 - 2.0**strength)
        figures = LimitEvidence(
            metric=feature,
            limit_kind="minimum",
            observed=observed,
            low=observed,
            high=observed,
            confidence=0.99,
            support=100.0,
            limit=limit,
            reference=None,
            since_ms=since_ms,
            labels=100,
            segment=None,
            classes=[],
        )
        return {"performance": figures}
    threshold = {
        "drift.input": _DEFAULTS.drift.psi_min,
        "quality.missing": _DEFAULTS.quality.rise_min,
        "bias.error": _DEFAULTS.bias.gap_max,
    }[kind]
    changed = Changed(
        name=feature,
        measure="psi" if kind == "drift.input" else "missing_share",
        observed=0.5 + deviation,
        expected=0.5,
        effect=threshold * 2.0**strength,
        since_offset=0,
        since_ms=since_ms,
    )
    segment = SegmentName("region", "north") if kind == "bias.error" else None
    return {"change": ChangeEvidence(changed=[changed], changed_count=1, looked_at=5, events=100, segment=segment)}


def raised(
    feature: str = "age",
    *,
    kind: AlertKind = "quality.missing",
    number: int = 0,
    strength: float = 2.0,
    deviation: float = 0.25,
    at_ms: int = START_MS,
    onset_ms: int | None = None,
    **fields: Any,  # noqa: ANN401 - fields of the struct
) -> AlertEvent:
    """Return a step as a source raises it; `number` sets conditions of one fingerprint apart."""
    fingerprint = f"{kind} {fields.pop('subject', feature)}"
    since_ms = at_ms if onset_ms is None else onset_ms
    common: dict[str, Any] = {
        "status": "opened",
        "severity": "warning",
        "summary": f"{feature} {number}",
        "model_version": "1",
        "resolved_at_ms": None,
        **evidence(kind, feature, strength, deviation, since_ms),
        **fields,
    }
    return AlertEvent(
        alert_id=f"{fingerprint} {number} {common['status']} {at_ms}",
        incident_id=f"{fingerprint} {number}",
        fingerprint=fingerprint,
        kind=kind,
        runbook=kind,
        model_id=MODEL,
        shard=0,
        timestamp_ms=at_ms,
        opened_at_ms=at_ms,
        last_flagged_ms=at_ms,
        **common,
    )


def over(feature: str = "age", **fields: Any) -> AlertEvent:  # noqa: ANN401 - as of `raised`
    """Return the last step of a condition: nothing is listed any more."""
    record = raised(feature, status="resolved", **fields)
    if record.change is None:
        return record
    nothing = msgspec.structs.replace(record.change, changed=[], changed_count=0)
    return msgspec.structs.replace(record, change=nothing)


class Bench:
    """A desk at work. Times are ms since `START_MS`; what is told is kept, and a part of it in words."""

    def __init__(self, of: EngineOptions) -> None:
        self.of = of
        self.book = SilenceBook(of.alerts.feedback_max)
        self.desk = self._new_desk()
        self.events = 0
        self.told: list[Told] = []

    def _new_desk(self) -> AlertDesk:
        return AlertDesk(Owner(MODEL, 0, "predictions"), self.of, self.book)

    def event(self, at_ms: int, *records: AlertEvent) -> list[str]:
        """An event comes, and sources raise something at it; return what is told because of it."""
        return self.batch([at_ms], *records)

    def batch(self, at_ms: Sequence[int], *records: AlertEvent) -> list[str]:
        """Several events come in one batch, and sources raise something at the last one."""
        offsets = np.arange(self.events, self.events + len(at_ms))
        rows = Rows(offsets, np.array(at_ms, dtype=np.int64) + START_MS, self.events)
        self.events += len(at_ms)
        told = [Told(OutputTopic.ALERTS, self.events - 1, each.fingerprint, each) for each in records]
        return self._keep(list(self.desk.process(told, rows)))

    def label(self, *records: AlertEvent) -> list[str]:
        """Labels come, which raise something."""
        told = [Told(OutputTopic.ALERTS, 7, each.fingerprint, each) for each in records]
        return self._keep(list(self.desk.take(told)))

    def tick(self, clock_ms: int) -> list[str]:
        """Time passes without events."""
        return self._keep(list(self.desk.tick(START_MS + clock_ms, self.events - 1)))

    def silence(self, begin_ms: int, end_ms: int, feedback_id: str = "s", **scope: str) -> None:
        """Somebody asks for silence."""
        event = SilenceFeedback(
            feedback_id=feedback_id,
            author="ann",
            reason="upgrade",
            scope=Scope(**scope),
            begin=START_MS + begin_ms,
            end=START_MS + end_ms,
        )
        assert self.book.add(event, START_MS) is not None

    def reconsider(self) -> list[str]:
        """A reason to hold something back may have gone."""
        return self._keep(list(self.desk.reconsider(9)))

    def restart(self, of: EngineOptions | None = None) -> None:
        """The worker ends, and another one goes on, perhaps under other options."""
        self.of = of or self.of
        stored = msgspec.msgpack.encode(self.desk.state())
        self.desk = self._new_desk()
        self.desk.restore(msgspec.msgpack.decode(stored, type=StoredDesk))

    def _keep(self, told: list[Told]) -> list[str]:
        self.told += told
        return [in_words(each) for each in told if each.topic is not OutputTopic.INCIDENTS]

    @property
    def alerts(self) -> list[AlertEvent]:
        """All published steps."""
        return [each.record for each in self.told if isinstance(each.record, AlertEvent) and is_step(each)]

    @property
    def audits(self) -> list[AuditEvent]:
        """All notes."""
        return [each.record for each in self.told if isinstance(each.record, AuditEvent)]

    @property
    def last(self) -> AlertEvent:
        """The latest published step."""
        return self.alerts[-1]


def is_step(told: Told) -> bool:
    """Tell whether it belongs to the history of alerts."""
    return told.topic is OutputTopic.ALERTS


def in_words(told: Told) -> str:
    """Return what is told in short: the step and its subject, or why it is held back."""
    record = told.record
    if isinstance(record, AlertEvent):
        return f"{record.status} {record.fingerprint.split()[-1]}"
    assert isinstance(record, AuditEvent)
    return f"{record.kind.removeprefix('alert_')} {record.reason}"


def noise(**fields: Any) -> EngineOptions:  # noqa: ANN401 - fields of noise control
    """Return options that let everything through but for these rules."""
    return options(msgspec.structs.replace(PLAIN, **fields))
