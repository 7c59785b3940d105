"""The life of one fingerprint: a raised condition becomes an incident, and is over, by the rules of noise control.

    raised    . . . . ##########. . . . ####. . ####. . ##### . . . . . .     by its source
    qualifies         .....#####        ####    ####    #####                 far enough, right direction
    incident               opened------------------------------------resolved in enough panes, long enough, rested,
                                                                              not suppressed, within the budget

Rule 1: `Life` knows when something could change with time alone (`due_ms`), and nothing changes without a cause.
Rule 2: levels are two: to open, and, lower, to stay open (hysteresis).
"""

from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, Struct

from worker.core.alerts.measures import deviation, direction, lead
from worker.core.codec import TIMESTAMP_MS_MAX
from worker.core.events import AlertEvent, GoodPane
from worker.core.identity import derived_id
from worker.core.options import NoiseOptions
from worker.core.state import COUNT_MAX

Severity = Literal["info", "warning", "critical"]
RANK: dict[Severity, int] = {"info": 0, "warning": 1, "critical": 2}
NEVER = -1

_Time = Annotated[int, Meta(ge=NEVER, le=TIMESTAMP_MS_MAX)]
_Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]


class ToldIncident(Struct, forbid_unknown_fields=True):
    """The open incident as it was last told."""

    incident_id: str
    opened_ms: _Time
    told_ms: _Time
    severity: Severity
    strength: float
    scope: str
    flagged: _Count
    rise_ms: _Time = NEVER
    """When a rise in severity was last told."""
    updates: _Count = 0


class Life(Struct, forbid_unknown_fields=True):
    """What is known of one fingerprint, as it is stored."""

    record: AlertEvent
    """The latest step of its source."""
    strength: Annotated[float, Meta(ge=0.0, le=8.0)] = 0.0
    """In doublings beyond its threshold, when it was last raised."""
    raised: bool = False
    onset_ms: _Time = NEVER
    qualified_ms: _Time = NEVER
    """Since when it qualifies without a break; NEVER: it does not."""
    calm_ms: _Time = NEVER
    """Since when an open incident could be over."""
    panes: list[int] = []
    """In which it qualified, the latest ones."""
    bad_pane: int = NEVER
    """The last one in which it was raised."""
    good: GoodPane | None = None
    comings: list[_Time] = []
    """When it came to qualify within the flap window."""
    flapping: bool = False
    resolved_ms: _Time = NEVER
    open: ToldIncident | None = None
    flagged_before: _Count = 0
    events_before: _Count = 0
    """Of former raises of the same incident."""
    again: _Count = 0
    """Incidents that opened and were resolved while it was raised."""
    held_for: list[str] = []
    """Why it could not open since it was raised; each reason is told once."""
    due_ms: Annotated[int, Meta(ge=NEVER, le=COUNT_MAX)] = NEVER
    """When something could change with time alone; NEVER: it cannot."""
    due_needs_events: bool = False
    """Whether that takes events of that time, too: panes without any say nothing."""

    @property
    def next_id(self) -> str:
        """Of the incident that opens next: what is still raised, was resolved and grows again is another one."""
        source_id = self.record.incident_id
        return derived_id("incident", source_id, self.again) if self.again else source_id

    def follow_back(self, now_ms: int) -> None:
        """Follow a clock that was set back: what was then is at most now."""
        for name in ("onset_ms", "qualified_ms", "calm_ms", "resolved_ms", "due_ms"):
            setattr(self, name, min(getattr(self, name), now_ms))
        self.comings = [min(each, now_ms) for each in self.comings]
        if self.open is not None:
            for name in ("opened_ms", "told_ms", "rise_ms"):
                setattr(self.open, name, min(getattr(self.open, name), now_ms))


class Levels(NamedTuple):
    """How far a raised condition must be to open, or to stay open."""

    rules: NoiseOptions
    demand: float
    """Asked in addition by feedback, in doublings."""
    share: float = 1.0

    def reached(self, life: Life) -> bool:
        """Tell whether a raised condition is that far."""
        rules, record = self.rules, life.record
        if RANK[record.severity] < RANK[rules.severity_min]:
            return False
        if life.strength < self.share * max(rules.strength_min, self.demand):
            return False
        if rules.direction != "both" and direction(record) not in (rules.direction, None):
            return False
        return self._is_far(record)

    def _is_far(self, record: AlertEvent) -> bool:
        rules = self.rules
        if rules.deviation_min == 0.0 and rules.deviation_share_min == 0.0:
            return True
        far = deviation(record)
        if far is None or record.headline is None or record.headline.expected is None:
            return True
        least = max(rules.deviation_min, rules.deviation_share_min * abs(record.headline.expected))
        return abs(far) >= self.share * least


def higher(one: Severity, other: Severity) -> Severity:
    """Return the higher severity."""
    return one if RANK[one] >= RANK[other] else other


def onset_ms(record: AlertEvent) -> int:
    """Return when a raised condition began, as far as its evidence tells."""
    if record.change is not None and record.change.changed:
        return min(record.opened_at_ms, record.change.changed[0].since_ms)
    if record.performance is not None:
        return min(record.opened_at_ms, record.performance.since_ms)
    return record.opened_at_ms if record.stale is None else record.stale.last_ms


def scope_of(record: AlertEvent) -> str:
    """Return what an alert is about at the moment: another scope is worth an update."""
    count = 0 if record.change is None else record.change.changed_count
    return f"{count} {lead(record)}"


def worth_telling(life: Life, rules: NoiseOptions, now_ms: int) -> tuple[bool, int]:
    """Tell whether an open incident has news that may be told now, and otherwise when (NEVER: there is none)."""
    told, record = life.open, life.record
    if told is None:
        return False, NEVER
    rose = RANK[record.severity] > RANK[told.severity]
    if rose and (told.rise_ms == NEVER or now_ms - told.rise_ms >= rules.update_ms):
        return True, NEVER
    grown = life.flagged_before + record.flagged_events >= 2 * max(told.flagged, 1)
    news = rose or grown or scope_of(record) != told.scope or life.strength >= told.strength + 1.0
    if not news:
        return False, NEVER
    after_ms = told.told_ms + rules.update_ms
    return now_ms >= after_ms, after_ms
