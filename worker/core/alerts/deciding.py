"""What is due of one life: an incident opens, is updated, is over, or is held back and why.

Rule 1: an incident opens when its condition has qualified in enough panes and for long enough, it has rested, nothing
        suppresses it, and the budget allows it, in that order; what holds it back is told once for each raise.
Rule 2: whenever time alone could change the answer, `due_ms` says when.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from msgspec import structs

from worker.core.alerts.budget import Budget, Wish
from worker.core.alerts.effects import Effects, Likeness
from worker.core.alerts.life import NEVER, Levels, Life, ToldIncident, higher, scope_of, worth_telling
from worker.core.alerts.publishing import At, Publisher
from worker.core.alerts.silences import SilenceBook
from worker.core.alerts.situation import Member, Situations
from worker.core.alerts.suppression import Held, Rebaseline, Suppression
from worker.core.options import EngineOptions, NoiseOptions
from worker.core.telling import Owner, Told


class Decider:
    """Decides about the incidents of one monitor."""

    def __init__(self, owner: Owner, options: EngineOptions, silences: SilenceBook, rebaseline: Rebaseline) -> None:
        alerts = options.alerts
        self._owner = owner
        self._options = options
        self._publisher = Publisher(owner, options)
        self._rules: dict[str, NoiseOptions] = {}
        self.effects = Effects(alerts.feedback_max, alerts.remembered_max)
        self.budget = Budget(alerts.openings_per_day_max)
        self.situations = Situations(alerts.situation_gap_ms, alerts.incidents_max)
        self.suppressed: Counter[str] = Counter()
        """Openings that were held back, by reason."""
        self._suppression = Suppression(options, silences, self.effects, rebaseline)

    def rules_of(self, kind: str) -> NoiseOptions:
        """Return the rules of a kind."""
        rules = self._rules.get(kind)
        if rules is None:
            rules = self._rules[kind] = self._options.alerts.noise_of(self._owner.model_id, kind)
        return rules

    def held_back(self, life: Life, held: Held, at: At) -> Told:
        """Count and tell an opening that is held back."""
        self.suppressed[held.reason] += 1
        return self._publisher.held(life, held, self.suppressed[held.reason], at)

    def decide(self, life: Life, at: At, clock_ms: int, panes: Sequence[int]) -> Iterator[Told]:
        """Do what is due of one life, and note when the next thing is.

        Args:
            life: whose incident it is.
            at: when and where.
            clock_ms: what times are compared with: that of events, or a journalled clock that is ahead of it.
            panes: in which there were events, the latest ones.
        """
        rules = self.rules_of(life.record.kind)
        demand = self.effects.demand(life.record.kind)
        qualifies = life.raised and Levels(rules, demand).reached(life)
        self._note_standing(life, rules, at, panes, qualifies=qualifies)
        life.due_ms, life.due_needs_events = NEVER, False
        if life.open is not None:
            stays = life.raised and Levels(rules, demand, rules.clear_share).reached(life)
            yield from self._go_on(life, life.open, rules, at, clock_ms, stays=stays)
        elif qualifies:
            yield from self._try_to_open(life, rules, at, clock_ms)

    def _note_standing(self, life: Life, rules: NoiseOptions, at: At, panes: Sequence[int], *, qualifies: bool) -> None:
        """Note since when, and in which panes, a condition has qualified."""
        pane = at.now_ms // self._options.pane_ms
        stood = set(life.panes)
        if life.qualified_ms != NEVER and rules.panes > 1:
            # It has stood since then, and nothing was due in the panes between.
            since = life.qualified_ms // self._options.pane_ms
            stood.update(each for each in panes if since <= each <= pane)
        if life.raised:
            life.bad_pane = pane
        if not qualifies:
            life.qualified_ms = NEVER
        elif life.qualified_ms == NEVER:
            life.qualified_ms = at.now_ms
            _note_coming(life, rules, at.now_ms)
        if qualifies:
            stood.add(pane)
        life.panes = sorted(each for each in stood if pane - rules.panes < each <= pane)

    def _go_on(
        self, life: Life, told: ToldIncident, rules: NoiseOptions, at: At, clock_ms: int, *, stays: bool
    ) -> Iterator[Told]:
        """Update or resolve an open incident."""
        if not stays:
            if life.calm_ms == NEVER:
                life.calm_ms = at.now_ms
            over_ms = life.calm_ms + (max(rules.flap_clear_ms, rules.clear_ms) if life.flapping else rules.clear_ms)
            if clock_ms >= over_ms:
                yield from self._resolve(life, told, at)
            else:
                life.due_ms = over_ms
            return
        life.calm_ms = NEVER
        now, later_ms = worth_telling(life, rules, clock_ms)
        if now:
            held = self._suppression.holds(life.record, max(clock_ms, at.now_ms), at.sequence)
            if held is None:
                yield from self._update(life, told, at)
                return
            later_ms = held.until_ms
        if later_ms > clock_ms:
            life.due_ms = later_ms

    def _update(self, life: Life, told: ToldIncident, at: At) -> Iterator[Told]:
        record = life.record
        severity = higher(told.severity, record.severity)
        if severity != told.severity:
            told.rise_ms = at.now_ms
        told.severity, told.told_ms, told.scope = severity, at.now_ms, scope_of(record)
        told.strength = max(told.strength, life.strength)
        told.flagged = life.flagged_before + record.flagged_events
        told.updates += 1
        self._remember(life, told)
        yield from self._publisher.step("updated", life, self.situations.now(), at)

    def _resolve(self, life: Life, told: ToldIncident, at: At) -> Iterator[Told]:
        situation = self.situations.resolved(told.incident_id, at.now_ms)
        yield from self._publisher.step("resolved", life, situation, at)
        life.open, life.resolved_ms, life.calm_ms = None, at.now_ms, NEVER
        life.flapping, life.qualified_ms = False, NEVER
        if life.raised:
            # It is still raised, but not far enough: if it grows again, that is another incident.
            life.onset_ms = at.now_ms
            life.flagged_before = life.events_before = 0
        life.again = life.again + 1 if life.raised else 0

    def _try_to_open(self, life: Life, rules: NoiseOptions, at: At, clock_ms: int) -> Iterator[Told]:
        """Open an incident if nothing holds it back; otherwise note when that may be over."""
        if len(life.panes) < rules.panes_min:
            life.due_ms, life.due_needs_events = (at.now_ms // self._options.pane_ms + 1) * self._options.pane_ms, True
            return
        rested_ms = NEVER if life.resolved_ms == NEVER else life.resolved_ms + rules.cooldown_ms
        from_ms = max(life.qualified_ms + rules.duration_ms, rested_ms)
        if from_ms > clock_ms:
            life.due_ms = from_ms
            return
        held = self._suppression.holds(life.record, max(clock_ms, at.now_ms), at.sequence)
        held = held or self._over_budget(life, at)
        if held is None:
            yield from self._open(life, at)
            return
        if held.reason == "budget":
            # Openings are counted in event time: no other clock makes room.
            life.due_ms, life.due_needs_events = held.until_ms, True
        elif held.until_ms > clock_ms:
            life.due_ms = held.until_ms
        if held.reason not in life.held_for:
            life.held_for = [*life.held_for, held.reason]
            yield self.held_back(life, held, at)
            if held.reason == "budget" and self.budget.is_news(at.now_ms):
                spent, threshold = self.budget.spent(at.now_ms), self.budget.threshold(at.now_ms)
                yield self._publisher.budget_binds(spent, threshold, at)

    def _over_budget(self, life: Life, at: At) -> Held | None:
        wish = _wish(life)
        has, asked = self.budget.rank(wish, at.now_ms), self.budget.threshold(at.now_ms)
        if has >= asked:
            return None
        text = f"rank {has:.1f} of 24, {asked:.1f} is asked after {self.budget.spent(at.now_ms)} openings"
        return Held("budget", text, self.budget.retry_ms(wish, at.now_ms))

    def _open(self, life: Life, at: At) -> Iterator[Told]:
        record = life.record
        told = ToldIncident(
            incident_id=life.next_id,
            opened_ms=at.now_ms,
            told_ms=at.now_ms,
            severity=record.severity,
            strength=life.strength,
            scope=scope_of(record),
            flagged=life.flagged_before + record.flagged_events,
        )
        life.open, life.calm_ms, life.held_for = told, NEVER, []
        self.budget.spend(_wish(life), at.now_ms)
        self._remember(life, told)
        member = Member(told.incident_id, record.kind, life.onset_ms, record.summary)
        situation = self.situations.opened(member, at.now_ms)
        yield from self._publisher.step("opened", life, situation, at)

    def _remember(self, life: Life, told: ToldIncident) -> None:
        like = Likeness.of(life.record, self._options)
        self.effects.remember(structs.replace(like, incident_id=told.incident_id))


def _wish(life: Life) -> Wish:
    return Wish(life.record.fingerprint, life.record.severity, life.strength)


def _note_coming(life: Life, rules: NoiseOptions, now_ms: int) -> None:
    """A condition has come to qualify: often enough within the window is flapping."""
    known = [each for each in life.comings if each > now_ms - rules.flap_window_ms]
    life.comings = [*known, now_ms][-max(rules.flap_openings, 1) :]
    flaps = 0 < rules.flap_openings <= len(life.comings)
    # Only what is open goes on flapping: what could not open then may have been calm for long.
    life.flapping = flaps or (life.flapping and life.open is not None)
