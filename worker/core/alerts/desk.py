"""The alert desk of one monitor: raised conditions in, incidents out, in the order of offsets.

    sources --raised--> Life of a fingerprint --qualifies--> suppressed? budget? --> opened, updated, resolved

Rule 1: what happens at a row depends on the rows before it: timers are looked at row by row, by the watermark, so how a
        stream is cut into batches changes nothing. At one row, what sources raise comes first.
Rule 2: one incident of a fingerprint is open at most, and each that opened is resolved by a step of its own.
Rule 3: nothing that was raised is lost: it becomes an incident, or it is told what has held it back, or it was over
        before it was long or large enough.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, NamedTuple

import numpy as np
from msgspec import Meta, Struct, structs

from worker.core.alerts.budget import StoredBudget
from worker.core.alerts.deciding import Decider
from worker.core.alerts.effects import Effects, StoredEffects
from worker.core.alerts.life import NEVER, Life, Severity, onset_ms
from worker.core.alerts.measures import headline, strength
from worker.core.alerts.publishing import At
from worker.core.alerts.silences import SilenceBook
from worker.core.alerts.situation import StoredSituation
from worker.core.alerts.suppression import Held, Rebaseline, Span
from worker.core.codec import TIMESTAMP_MS_MAX
from worker.core.events import AlertEvent, GoodPane
from worker.core.kernels.arrays import I64
from worker.core.options import EngineOptions, NoiseOptions
from worker.core.state import COUNT_MAX, refuse_if
from worker.core.telling import Owner, Told

_PANES_KEPT = 64

_Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
_Time = Annotated[int, Meta(ge=NEVER, le=TIMESTAMP_MS_MAX)]


class Rows(NamedTuple):
    """Events (n >= 1) of the monitor in stream order, and the place of the first one in its count."""

    offsets: I64
    watermarks_ms: I64
    first_sequence: int


class StoredDesk(Struct, frozen=True, forbid_unknown_fields=True):
    """What is stored."""

    now_ms: _Time
    sequence: _Count
    lives: list[Life]
    panes: list[int]
    spans: list[Span]
    suppressed: dict[str, _Count]
    budget: StoredBudget
    situation: StoredSituation
    effects: StoredEffects


class AlertDesk:
    """All incidents of one monitor."""

    def __init__(self, owner: Owner, options: EngineOptions, silences: SilenceBook) -> None:
        alerts = options.alerts
        self._owner = owner
        self._options = options
        self._rebaseline = Rebaseline(alerts.rebaseline_events)
        self._decider = Decider(owner, options, silences, self._rebaseline)
        self._lives: dict[str, Life] = {}
        self._panes: list[int] = []
        self._now_ms = 0
        self._sequence = 0

    @property
    def open_incidents(self) -> int:
        """How many incidents are open."""
        return sum(self.open_by_severity.values())

    @property
    def open_by_severity(self) -> Counter[Severity]:
        """How many incidents are open, by the severity that was last told."""
        return Counter(life.open.severity for life in self._lives.values() if life.open is not None)

    # Events.

    def rebaseline(self, sequence: int) -> None:
        """Another version of the model appears, or takes over, with the event of that place."""
        self._rebaseline.begin(sequence)

    def process(self, raised: Sequence[Told], rows: Rows) -> Iterator[Told]:
        """Take what was raised at rows of a batch, in the order of offsets, and the rows themselves."""
        watermarks = rows.watermarks_ms
        is_back = watermarks[1:] < watermarks[:-1]
        breaks = (np.flatnonzero(is_back) + 1).tolist() if is_back.any() else []
        places = np.searchsorted(rows.offsets, [each.offset for each in raised]).tolist() if raised else []
        taken = 0
        for begin, end in zip([0, *breaks], [*breaks, len(watermarks)], strict=True):
            self._follow_back(int(watermarks[begin]))
            row = begin
            while taken < len(raised) and places[taken] < end:
                yield from self._fire(rows, row, places[taken] - 1)
                row = max(places[taken], begin)
                self._reach(rows, row)
                yield from self._take(raised[taken].record, At(self._now_ms, raised[taken].offset, self._sequence))
                taken += 1
            yield from self._fire(rows, row, end - 1)
            self._reach(rows, end - 1)
        self._rebaseline.forget_before(self._sequence)

    def _reach(self, rows: Rows, row: int) -> None:
        """Go on to a row: what comes is told as of it."""
        self._now_ms = int(rows.watermarks_ms[row])
        self._sequence = rows.first_sequence + row

    def _fire(self, rows: Rows, row: int, last_row: int) -> Iterator[Told]:
        """Look at what is due by time, or by the end of a new version's time, from a row to another one."""
        if last_row < row:
            return
        self._note_panes(rows, row, last_row)
        while (found := self._next_due(rows, row, last_row)) is not None:
            row = found
            self._reach(rows, row)
            at = At(self._now_ms, int(rows.offsets[row]), self._sequence)
            ended = self._rebaseline.end_from(self._sequence - 1) == self._sequence
            for life in list(self._lives.values()):
                if NEVER < life.due_ms <= self._now_ms or (ended and _may_wait_for_version(life)):
                    yield from self._decide(life, at, at.now_ms)
            if ended:
                self._rebaseline.forget_before(self._sequence)

    def _next_due(self, rows: Rows, row: int, last_row: int) -> int | None:
        """Return the first row, from `row` on, at which something is due; None if there is none up to `last_row`."""
        found = last_row + 1
        due_ms = min((life.due_ms for life in self._lives.values() if life.due_ms > NEVER), default=NEVER)
        if NEVER < due_ms <= rows.watermarks_ms[last_row]:
            part = rows.watermarks_ms[row : last_row + 1]
            found = row + int(np.searchsorted(part, due_ms))
        ends = self._rebaseline.end_from(rows.first_sequence + row - 1)
        if ends is not None and any(map(_may_wait_for_version, self._lives.values())):
            found = min(found, ends - rows.first_sequence)
        return found if found <= last_row else None

    def _note_panes(self, rows: Rows, row: int, last_row: int) -> None:
        """Note in which panes there were events."""
        pane_ms = self._options.pane_ms
        first, last = int(rows.watermarks_ms[row]) // pane_ms, int(rows.watermarks_ms[last_row]) // pane_ms
        latest = self._panes[-1] if self._panes else NEVER
        if last <= latest:
            return
        new = [last] if first == last else np.unique(rows.watermarks_ms[row : last_row + 1] // pane_ms).tolist()
        self._panes = (self._panes + [each for each in new if each > latest])[-_PANES_KEPT:]

    def _follow_back(self, now_ms: int) -> None:
        """Follow a watermark that was set back (a wrong clock was found out), or timers would wait for ever."""
        if now_ms >= self._now_ms:
            return
        for life in self._lives.values():
            life.follow_back(now_ms)
            life.bad_pane = min(life.bad_pane, now_ms // self._options.pane_ms)
        self._decider.budget.follow_back(now_ms)
        self._decider.situations.follow_back(now_ms)
        self._panes = [each for each in self._panes if each <= now_ms // self._options.pane_ms]
        self._now_ms = now_ms

    # What has no row: labels, ticks, feedback.

    def take(self, raised: Sequence[Told]) -> Iterator[Told]:
        """Take what was raised beside events, at the time that events have reached."""
        for each in raised:
            yield from self._take(each.record, At(self._now_ms, each.offset, self._sequence))

    def tick(self, clock_ms: int, offset: int) -> Iterator[Told]:
        """Look at what is due by the journalled clock, while there are no events."""
        at = At(self._now_ms, offset, self._sequence)
        for life in self._due_by_clock(clock_ms):
            yield from self._decide(life, at, clock_ms)

    def wants_tick(self, clock_ms: int) -> bool:
        """Whether a tick could change anything."""
        return bool(self._due_by_clock(clock_ms))

    def _due_by_clock(self, clock_ms: int) -> list[Life]:
        """Return what a tick could move. What is neither raised nor open is forgotten with events."""
        return [
            life
            for life in self._lives.values()
            if NEVER < life.due_ms <= clock_ms and not life.due_needs_events and (life.open is not None or life.raised)
        ]

    def reconsider(self, offset: int) -> Iterator[Told]:
        """Look again at all that is held back: a reason may have gone."""
        at = At(self._now_ms, offset, self._sequence)
        for life in list(self._lives.values()):
            if life.raised:
                yield from self._decide(life, at, at.now_ms)

    @property
    def effects(self) -> Effects:
        """What feedback does to the incidents of this monitor."""
        return self._decider.effects

    @property
    def holds_back(self) -> bool:
        """Whether something is raised: its opening or, when it is open, its news may be held back."""
        return any(life.raised for life in self._lives.values())

    # One life.

    def _decide(self, life: Life, at: At, clock_ms: int) -> Iterator[Told]:
        """Do what is due of one life. Times are compared with `clock_ms`."""
        yield from self._decider.decide(life, at, clock_ms, self._panes)
        if life.open is None and not life.raised:
            self._forget_later(life, self._decider.rules_of(life.record.kind), clock_ms)

    def _take(self, record: object, at: At) -> Iterator[Told]:
        """Take one raised step."""
        assert isinstance(record, AlertEvent), "only alerts come to the desk"
        life = self._lives.get(record.fingerprint)
        if life is None:
            if record.status == "resolved":
                return
            if not self._has_room():
                yield from self._refuse(record, at)
                return
            life = self._lives[record.fingerprint] = Life(record)
        if record.status == "resolved":
            life.raised, life.held_for = False, []
            life.bad_pane = at.now_ms // self._options.pane_ms
            # What was counted is from now on that of a former raise of the same incident.
            life.flagged_before += record.flagged_events
            life.events_before += record.events
            record = structs.replace(record, flagged_events=0, events=0)
        else:
            if not life.raised:
                self._begin(life, record, at)
            life.strength = strength(record, self._options)
        # Of a condition that is over, the last that was seen of it.
        line = headline(record) or life.record.headline
        life.record = record if line is None else structs.replace(record, headline=line)
        yield from self._decide(life, at, at.now_ms)

    def _begin(self, life: Life, record: AlertEvent, at: At) -> None:
        """A condition is raised that was not."""
        life.raised = True
        began_ms = max(0, min(onset_ms(record), at.now_ms))
        pane = began_ms // self._options.pane_ms
        if life.open is None:
            life.onset_ms = began_ms
            life.flagged_before = life.events_before = 0
            good = max((each for each in self._panes if life.bad_pane < each < pane), default=None)
            if good is not None:
                life.good = GoodPane(good * self._options.pane_ms, (good + 1) * self._options.pane_ms)
            elif life.good is not None and life.good.end_ms > began_ms:
                life.good = None

    # Bounds.

    def _forget_later(self, life: Life, rules: NoiseOptions, clock_ms: int) -> None:
        """Nothing is raised nor open: forget it when neither rest, flapping nor the last good pane needs it."""
        rested_ms = NEVER if life.resolved_ms == NEVER else life.resolved_ms + rules.cooldown_ms
        until_ms = max([rested_ms, *(each + rules.flap_window_ms for each in life.comings)])
        pane = self._now_ms // self._options.pane_ms
        if until_ms > clock_ms:
            life.due_ms = until_ms
        elif self._panes and self._panes[0] <= life.bad_pane:
            life.due_ms, life.due_needs_events = (pane + 1) * self._options.pane_ms, True
        else:
            self._lives.pop(life.record.fingerprint, None)

    def _has_room(self) -> bool:
        """Forget a life that nobody misses, if there are as many as may be; tell whether there is room for another."""
        if len(self._lives) < self._options.alerts.incidents_max:
            return True
        idle = (name for name, life in self._lives.items() if life.open is None and not life.raised)
        fingerprint = next(idle, None)
        if fingerprint is not None:
            del self._lives[fingerprint]
        return fingerprint is not None

    def _refuse(self, record: AlertEvent, at: At) -> Iterator[Told]:
        """Tell, when it is raised, that an incident cannot be followed."""
        if record.status == "opened":
            held = Held("incidents_max", f"{len(self._lives)} fingerprints are followed already")
            yield self._decider.held_back(Life(record), held, at)

    # Storing and restoring.

    def state(self) -> StoredDesk:
        """Return what is to be stored."""
        return StoredDesk(
            self._now_ms,
            self._sequence,
            list(self._lives.values()),
            self._panes,
            self._rebaseline.spans,
            dict(self._decider.suppressed),
            self._decider.budget.state(),
            self._decider.situations.state(),
            self._decider.effects.state(),
        )

    def restore(self, stored: StoredDesk) -> None:
        """Take over what `state` gave, under whatever options of alerts; ValueError for what cannot be."""
        lives = {life.record.fingerprint: life for life in stored.lives}
        refuse_if(
            "stored alerts",
            {
                "a fingerprint is there twice": len(lives) < len(stored.lives),
                "panes are out of order": sorted(set(stored.panes)) != stored.panes,
                "there are too many panes": len(stored.panes) > _PANES_KEPT,
            },
        )
        self._now_ms, self._sequence, self._lives = stored.now_ms, stored.sequence, lives
        self._panes, self._decider.suppressed = list(stored.panes), Counter(stored.suppressed)
        self._rebaseline.spans = list(stored.spans)
        self._decider.budget.restore(stored.budget)
        self._decider.situations.restore(stored.situation)
        self._decider.effects.restore(stored.effects)


def _may_wait_for_version(life: Life) -> bool:
    """Tell whether the end of a new version's time could let an incident open, or let it tell its news."""
    return life.raised and (life.open is not None or "version_change" in life.held_for)
