"""What feedback about incidents does to the alerts of one monitor. Each effect has an author and can be undone.

*Demand* of a kind: how many doublings beyond its configured threshold a condition must be to open. Each false positive
adds one, each true positive takes one away, in the order in which they came, and never does it leave [0, 4]: at most 16
times as much is asked, and never less than what is configured. It is computed from the effects in force, so an
effect that is undone leaves nothing behind.

*Ignored* is what is like an incident: the same kind, segment, leading feature and direction, and at most one
doubling stronger. Something much stronger is still told.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, Struct

from worker.core.alerts.measures import direction, lead, segment_of, strength
from worker.core.events import (
    AlertEvent,
    AlertKind,
    FalsePositiveFeedback,
    IgnoreFeedback,
    IncidentFeedback,
    TruePositiveFeedback,
)
from worker.core.options import EngineOptions
from worker.core.state import refuse_if

DEMAND_MAX = 4.0
STEP = 1.0
STRONGER = 1.0
"""Doublings by which something ignored may be stronger than the incident that it is like."""

_Feedback = Literal["true_positive", "false_positive", "ignore_like_this"]
_FEEDBACK: Mapping[type[IncidentFeedback], _Feedback] = {
    TruePositiveFeedback: "true_positive",
    FalsePositiveFeedback: "false_positive",
    IgnoreFeedback: "ignore_like_this",
}
_Strength = Annotated[float, Meta(ge=0.0, le=8.0)]


class Likeness(Struct, frozen=True, forbid_unknown_fields=True):
    """What is remembered of a told incident, and what another one must share with it to be like it."""

    incident_id: str
    fingerprint: str
    kind: AlertKind
    segment: str | None
    feature: str
    direction: Literal["up", "down"] | None
    strength: _Strength

    @classmethod
    def of(cls, record: AlertEvent, options: EngineOptions) -> "Likeness":
        """Take it from an alert."""
        return cls(
            record.incident_id,
            record.fingerprint,
            record.kind,
            segment_of(record),
            lead(record),
            direction(record),
            strength(record, options),
        )

    def covers(self, other: "Likeness") -> bool:
        """Tell whether another one is like it."""
        mine = self.kind, self.segment, self.feature, self.direction
        its = other.kind, other.segment, other.feature, other.direction
        return mine == its and other.strength <= self.strength + STRONGER


class Effect(Struct, frozen=True, forbid_unknown_fields=True):
    """One effect in force."""

    feedback_id: str
    author: str
    feedback: _Feedback
    like: Likeness

    @property
    def shift(self) -> float:
        """What it does to the demand of its kind."""
        return {"true_positive": -STEP, "false_positive": STEP, "ignore_like_this": 0.0}[self.feedback]


class Verdict(NamedTuple):
    """What a person said of an incident, and how strong it was then."""

    strength: float
    is_right: bool


class StoredEffects(Struct, frozen=True, forbid_unknown_fields=True):
    """What is stored."""

    effects: list[Effect]
    remembered: list[Likeness]
    advised: dict[AlertKind, _Strength]


class Effects:
    """Effects of feedback on one monitor, and the incidents that feedback can be about.

    Args:
        effects_max: effects in force; more are refused.
        remembered_max: told incidents; the oldest are forgotten.
    """

    def __init__(self, effects_max: int, remembered_max: int) -> None:
        self._effects_max = effects_max
        self._remembered_max = remembered_max
        self._effects: dict[str, Effect] = {}
        self._remembered: dict[str, Likeness] = {}
        self._demands: dict[str, float] = {}
        self.advised: dict[AlertKind, float] = {}
        """The least strength of a kind that was last advised (`maintenance.tuning`)."""

    def remember(self, like: Likeness) -> None:
        """An incident has been told: the strongest it has been is what feedback is about."""
        before = self._remembered.pop(like.incident_id, None)
        self._remembered[like.incident_id] = like if before is None or like.strength >= before.strength else before
        if len(self._remembered) > self._remembered_max:
            del self._remembered[next(iter(self._remembered))]

    def demand(self, kind: str) -> float:
        """Return what is asked of a kind, in doublings."""
        return self._demands.get(kind, 0.0)

    def verdicts(self, kind: AlertKind) -> list[Verdict]:
        """Return what is said of incidents of a kind, in the order in which it was said; the last word on each."""
        said: dict[str, Verdict] = {}
        for each in self._effects.values():
            if each.like.kind == kind and each.shift != 0.0:
                said.pop(each.like.incident_id, None)
                said[each.like.incident_id] = Verdict(each.like.strength, each.shift < 0.0)
        return list(said.values())

    def ignoring(self, like: Likeness) -> Effect | None:
        """Return the effect by which something is ignored."""
        ignored = (each for each in self._effects.values() if each.feedback == "ignore_like_this")
        return next((each for each in ignored if each.like.covers(like)), None)

    def refusal(self, event: IncidentFeedback) -> str | None:
        """Tell why feedback can have no effect; None: it can."""
        if event.incident_id not in self._remembered:
            return "unknown_incident: it was not told here, or too long ago (engine.alerts.remembered_max)"
        if len(self._effects) >= self._effects_max:
            return "feedback_max: too many effects are in force (engine.alerts.feedback_max): undo some"
        return None

    def apply(self, event: IncidentFeedback) -> Effect:
        """Take feedback that is not to be refused; return its effect."""
        like = self._remembered[event.incident_id]
        feedback = _FEEDBACK[type(event)]
        effect = Effect(event.feedback_id, event.author, feedback, like)
        self._effects[event.feedback_id] = effect
        self._count()
        return effect

    def is_in_force(self, feedback_id: str) -> bool:
        """Whether there is an effect of that feedback."""
        return feedback_id in self._effects

    def undo(self, feedback_id: str) -> Effect:
        """Take an effect back that is in force."""
        effect = self._effects.pop(feedback_id)
        self._count()
        return effect

    def _count(self) -> None:
        self._demands = {}
        for each in self._effects.values():
            now = self._demands.get(each.like.kind, 0.0) + each.shift
            self._demands[each.like.kind] = min(max(now, 0.0), DEMAND_MAX)

    def state(self) -> StoredEffects:
        """Return what is to be stored."""
        return StoredEffects(list(self._effects.values()), list(self._remembered.values()), self.advised)

    def restore(self, stored: StoredEffects) -> None:
        """Take over what `state` gave; ValueError for what cannot be."""
        self._effects = {each.feedback_id: each for each in stored.effects}
        self._remembered = {each.incident_id: each for each in stored.remembered}
        refuse_if(
            "stored feedback",
            {
                "an effect is there twice": len(self._effects) < len(stored.effects),
                "an incident is there twice": len(self._remembered) < len(stored.remembered),
            },
        )
        self.advised = dict(stored.advised)
        self._count()
