"""A naive twin of the alert desk: it knows no timers and looks at everything after every step."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from tests.incidents import ABSOLUTE, RANK, Happened, Step
from tests.raised import MODEL, PANE_MS
from worker.core.alerts.effects import Likeness
from worker.core.alerts.measures import deviation, direction, headline, strength
from worker.core.alerts.scopes import fits, in_window
from worker.core.alerts.silences import Silence
from worker.core.events import (
    AlertEvent,
    AuditEvent,
    OutputTopic,
)
from worker.core.options import EngineOptions, NoiseOptions
from worker.core.options.alerts import DAY_MS
from worker.core.telling import Told

StepLaw: TypeAlias = Callable[["Twin", "Subject", AlertEvent], None]
"""Looked at for each step that is told, before the twin takes it over."""
RestLaw: TypeAlias = Callable[["Twin", "Subject", Step], None]
"""Looked at for each fingerprint after each step that is played."""


class Subject:
    """What the twin knows of one fingerprint."""

    def __init__(self, record: AlertEvent) -> None:
        self.record = record
        self.is_raised = False
        self.since_ms: int | None = None
        """Since when it qualifies."""
        self.calm_ms: int | None = None
        """Since when it could be over, if it is open."""
        self.panes: set[int] = set()
        """In which it qualified."""
        self.bad_panes: set[int] = set()
        """In which it was raised."""
        self.comings_ms: list[int] = []
        self.flaps = False
        self.resolved_ms: int | None = None
        self.shown: AlertEvent | None = None
        """The latest step of the open incident."""
        self.shown_ms = self.rise_ms = -DAY_MS
        self.reasons: set[str] = set()
        self.flagged_before = 0

    def follow_back(self, now_ms: int) -> None:
        """A wrong clock was found out: what was then is now."""
        for name in ("since_ms", "calm_ms", "resolved_ms", "shown_ms", "rise_ms"):
            value = getattr(self, name)
            setattr(self, name, None if value is None else min(value, now_ms))
        self.comings_ms = [min(each, now_ms) for each in self.comings_ms]
        self.panes = {each for each in self.panes if each <= now_ms // PANE_MS}


class Twin:
    """Follows what happens, and looks at every law at every step."""

    def __init__(
        self, options: EngineOptions, on_step: Sequence[StepLaw] = (), at_rest: Sequence[RestLaw] = ()
    ) -> None:
        self.options = options
        self.on_step = on_step
        self.at_rest = at_rest
        self.subjects: dict[str, Subject] = {}
        self.table: dict[str, AlertEvent] = {}
        self.openings: list[tuple[int, AlertEvent]] = []
        """When which fingerprint opened."""
        self.situation_openings: list[AlertEvent] = []
        """Of the latest situation."""
        self.ids: set[str] = set()
        self.likes: dict[str, Likeness] = {}
        self.effects: dict[str, tuple[str, Likeness]] = {}
        self.silences: list[Silence] = []
        self.versions: list[int] = []
        self.row_panes: set[int] = set()
        self.now_ms = self.clock_ms = self.latest_tick_ms = 0
        self.sequence = -1
        self.calm_ms = -DAY_MS
        self.situation = ""
        self.binds_ms: int | None = None
        self.was_set_back = False

    def rules(self, record: AlertEvent) -> NoiseOptions:
        """Return the noise control of an alert."""
        return self.options.alerts.noise_of(MODEL, record.kind)

    def take(self, happened: Happened, silences: list[Silence]) -> None:
        """Take what has happened, and look at the laws."""
        step = happened.step
        self.silences = silences
        self._go_on(step)
        if happened.judged is not None:
            feedback_id, feedback, incident_id = happened.judged
            self.effects[feedback_id] = feedback, self.likes[incident_id]
        self.effects.pop(happened.undone or "", None)
        for record in step.raises:
            self._raise(record)
        for subject in self.subjects.values():
            self._look(subject)
        assert happened.was_wanted or not happened.told
        for told, following in zip(happened.told, [*happened.told[1:], None], strict=False):
            self._told(told, following)
        for subject in self.subjects.values():
            for law in self.at_rest:
                law(self, subject, step)

    def _go_on(self, step: Step) -> None:
        if step.what == "row":
            self.sequence += 1
            if step.is_new_version:
                self.versions.append(self.sequence)
            if step.now_ms < self.now_ms:
                self._follow_back(step.now_ms)
            self.now_ms = step.now_ms
            self.row_panes.add(step.now_ms // PANE_MS)
        self.clock_ms = self.now_ms
        if step.what == "tick":
            self.clock_ms = step.now_ms
            self.latest_tick_ms = max(self.latest_tick_ms, step.now_ms)

    def _follow_back(self, now_ms: int) -> None:
        self.was_set_back = True
        for subject in self.subjects.values():
            subject.follow_back(now_ms)
        self.openings = [(min(each, now_ms), whose) for each, whose in self.openings]
        self.calm_ms = min(self.calm_ms, now_ms)
        self.binds_ms = None if self.binds_ms is None else min(self.binds_ms, now_ms)

    def _raise(self, record: AlertEvent) -> None:
        if record.status == "resolved":
            subject = self.subjects.get(record.fingerprint)
            if subject is not None:
                subject.is_raised, subject.reasons = False, set()
                subject.flagged_before += record.flagged_events
                subject.record = msgspec.structs.replace(subject.record, flagged_events=0)
            return
        subject = self.subjects.setdefault(record.fingerprint, Subject(record))
        if not subject.is_raised and subject.shown is None:
            subject.flagged_before = 0
        subject.record = msgspec.structs.replace(record, headline=headline(record))
        subject.is_raised = True

    def _look(self, subject: Subject) -> None:
        pane = self.now_ms // PANE_MS
        if subject.is_raised:
            subject.bad_panes.add(pane)
        if not self.reaches(subject):
            subject.since_ms = None
        else:
            if subject.since_ms is None:
                subject.since_ms = self.now_ms
                self._come(subject)
            subject.panes.add(pane)
        if subject.shown is not None and not self.stays(subject):
            subject.calm_ms = self.now_ms if subject.calm_ms is None else subject.calm_ms
        else:
            subject.calm_ms = None

    def _come(self, subject: Subject) -> None:
        rules = self.rules(subject.record)
        subject.comings_ms = [*subject.comings_ms, self.now_ms]
        recent = [each for each in subject.comings_ms if each > self.now_ms - rules.flap_window_ms]
        flaps = 0 < rules.flap_openings <= len(recent)
        subject.flaps = flaps or (subject.flaps and subject.shown is not None)

    def _told(self, told: Told, following: Told | None) -> None:
        record = told.record
        if told.topic is OutputTopic.ALERTS:
            assert isinstance(record, AlertEvent)
            row = None if record.status == "resolved" else record
            assert following == Told(OutputTopic.INCIDENTS, told.offset, record.fingerprint, row)
            subject = self.subjects[record.fingerprint]
            if self.was_set_back or self.latest_tick_ms:
                # What has come to qualify may be forgotten by another clock than that of events.
                subject.flaps = record.flapping
            for law in self.on_step:
                law(self, subject, record)
            self._show(subject, record)
        elif told.topic is OutputTopic.INCIDENTS:
            self.table.pop(told.key, None)
            if isinstance(record, AlertEvent):
                self.table[told.key] = record
        else:
            assert isinstance(record, AuditEvent)
            self._note(record)

    def _show(self, subject: Subject, record: AlertEvent) -> None:
        """Take over a step that was told."""
        situation = record.situation.situation_id if record.situation is not None else ""
        if situation != self.situation:
            self.situation, self.situation_openings = situation, []
        if record.status == "resolved":
            subject.shown, subject.resolved_ms, subject.calm_ms, subject.flaps = None, self.now_ms, None, False
            if subject.is_raised:
                subject.flagged_before = 0
            if not any(each.shown for each in self.subjects.values()):
                self.calm_ms = self.now_ms
            return
        if record.status == "opened":
            subject.reasons, subject.rise_ms = set(), -DAY_MS
            self.openings.append((self.now_ms, record))
            self.situation_openings.append(record)
        elif subject.shown is not None and RANK[record.severity] > RANK[subject.shown.severity]:
            subject.rise_ms = self.now_ms
        subject.shown, subject.shown_ms = record, self.now_ms
        like = Likeness.of(msgspec.structs.replace(subject.record, incident_id=record.incident_id), self.options)
        before = self.likes.pop(record.incident_id, like)
        self.likes[record.incident_id] = like if like.strength >= before.strength else before
        for forgotten in list(self.likes)[: -self.options.alerts.remembered_max]:
            del self.likes[forgotten]

    def _note(self, audit: AuditEvent) -> None:
        assert audit.audit_id not in self.ids
        self.ids.add(audit.audit_id)
        if audit.kind == "alert_budget":
            assert self.binds_ms is None or self.now_ms - self.binds_ms >= DAY_MS, "it is told once a day"
            self.binds_ms = self.now_ms
            return
        subject = self.subjects[audit.fingerprint or ""]
        assert audit.reason not in subject.reasons, "each reason is told once"
        assert audit.reason in self.holding(subject)
        assert self.may_open(subject) or self.is_unsure(subject)
        subject.reasons.add(audit.reason)

    # What holds, looked at anew each time.

    def demand(self, kind: str) -> float:
        """Return what feedback asks of a kind."""
        now = 0.0
        for feedback, like in self.effects.values():
            shift = {"false_positive": 1.0, "true_positive": -1.0}.get(feedback, 0.0) if like.kind == kind else 0.0
            now = min(max(now + shift, 0.0), 4.0)
        return now

    def reaches(self, subject: Subject, share: float = 1.0) -> bool:
        """Tell whether a condition is far enough to open, or, by a share, to stay."""
        record, rules = subject.record, self.rules(subject.record)
        if not subject.is_raised or RANK[record.severity] < RANK[rules.severity_min]:
            return False
        demand = max(rules.strength_min, self.demand(record.kind))
        line, way = headline(record), direction(record)
        assert line is not None
        assert line.expected is not None
        far = max(rules.deviation_min, rules.deviation_share_min * abs(line.expected))
        return (
            strength(record, self.options) >= share * demand
            and (rules.direction == "both" or way in (rules.direction, None))
            and abs(deviation(record) or 0.0) >= share * far
        )

    def stays(self, subject: Subject) -> bool:
        """Tell whether an open incident is still far enough."""
        return self.reaches(subject, self.rules(subject.record).clear_share)

    def may_open(self, subject: Subject) -> bool:
        """Tell whether an incident would open now, if nothing holds it back."""
        rules, pane = self.rules(subject.record), self.now_ms // PANE_MS
        if subject.shown is not None or subject.since_ms is None:
            return False
        rested = subject.resolved_ms is None or self._latest_ms >= subject.resolved_ms + rules.cooldown_ms
        return (
            rested
            and self.clock_ms >= subject.since_ms + rules.duration_ms
            and sum(pane - rules.panes < each <= pane for each in subject.panes) >= rules.panes_min
        )

    def is_unsure(self, subject: Subject) -> bool:
        """Tell whether a clock was set back and panes are counted: in which of them it stood is a matter of taste."""
        return self.was_set_back and self.rules(subject.record).panes > 1

    @property
    def _latest_ms(self) -> int:
        """What has been in any clock: an idle life is forgotten by ticks, and its rest with it."""
        return max(self.clock_ms, self.latest_tick_ms)

    def recent(self) -> list[AlertEvent]:
        """Return the openings within a day."""
        return [whose for each, whose in self.openings if each > self.now_ms - DAY_MS]

    def asked(self) -> float:
        """Return the least rank that opens: half of the budget is free."""
        most, spent = self.options.alerts.openings_per_day_max, len(self.recent())
        if most == 0:
            return 0.0
        return 24.0 * max(0.0, spent - most / 2) / (most - most / 2) if spent < most else float("inf")

    def rank(self, record: AlertEvent) -> float:
        """Return where an alert stands: what has spoken often says less."""
        own = (RANK[each.severity] for each in self.recent() if each.fingerprint == record.fingerprint)
        repeats = sum(severity >= RANK[record.severity] for severity in own)
        return max(0.0, 8.0 * RANK[record.severity] + strength(record, self.options) - 2.0 * repeats)

    def suppressing(self, record: AlertEvent) -> set[str]:
        """Return what suppresses an alert."""
        found = set()
        if any(each.begin_ms <= self.clock_ms < each.end_ms and fits(each.scope, record) for each in self.silences):
            found.add("silence")
        for window in self.options.alerts.windows:
            if fits(window, record) and in_window(window, self.clock_ms):
                found.add("window")
        events = self.options.alerts.rebaseline_events
        if any(begin <= self.sequence < begin + events for begin in self.versions) and record.kind not in ABSOLUTE:
            found.add("version_change")
        like = Likeness.of(record, self.options)
        if any(each == "ignore_like_this" and its.covers(like) for each, its in self.effects.values()):
            found.add("ignored")
        return found

    def holding(self, subject: Subject) -> set[str]:
        """Return what holds an incident back."""
        is_over_budget = self.rank(subject.record) < self.asked()
        return self.suppressing(subject.record) | ({"budget"} if is_over_budget else set())
