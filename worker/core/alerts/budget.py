"""The alert budget: at most k openings of a model within any 24 hours of event time, met by a threshold that moves.

The *rank* of a raised condition is 8 x severity (0 info, 1 warning, 2 critical) + strength (doublings beyond its own
threshold, 0 to 8) - 2 x the openings of its own fingerprint in the last 24 hours that were at least as severe, and at
least 0: what has spoken often says less. With u openings in the last 24 hours the least rank that opens is

    threshold(u) = 24 x max(0, u - k/2) / (k - k/2)

Half of the budget is free for all; from then on each opening asks more of the next one, and as openings grow older
than a day less is asked again. What is left at the end is for critical incidents, and with u = k nothing opens: the
bound is exact, whatever the stream. (A closed loop on the threshold, as adaptive conformal inference does it on
coverage, Gibbs and Candes 2021, section 2; here the window is hard.)
"""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

from msgspec import Meta, Struct, structs

from worker.core.alerts.life import RANK, Severity
from worker.core.codec import TIMESTAMP_MS_MAX
from worker.core.options.alerts import DAY_MS
from worker.core.state import refuse_if

RANK_MAX = 24.0
_FREE_SHARE = 0.5
_SEVERITY_STEP = 8.0
_REPEAT_STEP = 2.0
_OPENINGS_MAX = 10**6

_Time = Annotated[int, Meta(ge=-1, le=TIMESTAMP_MS_MAX)]


class Opening(Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """One opening within the last day."""

    opened_ms: _Time
    fingerprint: str
    severity: Severity


class StoredBudget(Struct, frozen=True, forbid_unknown_fields=True):
    """What is stored."""

    openings: list[Opening]
    told_ms: _Time


class Wish(NamedTuple):
    """What would like to open."""

    fingerprint: str
    severity: Severity
    strength: float


class Budget:
    """Openings of one monitor within a day.

    Args:
        openings_max: k; 0: there is no budget.
    """

    def __init__(self, openings_max: int) -> None:
        self._max = openings_max
        self._openings: list[Opening] = []
        self._told_ms = -1

    def spent(self, now_ms: int) -> int:
        """Return the openings of the last 24 hours."""
        return len(self._recent(now_ms))

    def _recent(self, now_ms: int) -> list[Opening]:
        # Older ones are kept, too: a clock that is far ahead may be found out to be wrong.
        return [each for each in self._openings if each.opened_ms > now_ms - DAY_MS]

    def threshold(self, now_ms: int) -> float:
        """Return the least rank that opens now; infinity when nothing is left."""
        return self._threshold(self.spent(now_ms))

    def _threshold(self, spent: int) -> float:
        if self._max == 0:
            return 0.0
        if spent >= self._max:
            return float("inf")
        free = _FREE_SHARE * self._max
        return RANK_MAX * max(0.0, spent - free) / (self._max - free)

    def rank(self, wish: Wish, now_ms: int) -> float:
        """Return where a condition stands among all, in [0, 24]."""
        return _rank(wish, _repeats(wish, self._recent(now_ms)))

    def retry_ms(self, wish: Wish, now_ms: int) -> int:
        """Return when a condition that does not open now would, if nothing else opened. O(k log k)."""
        recent = sorted(self._recent(now_ms), key=lambda each: each.opened_ms)
        repeats = _repeats(wish, recent)
        # As openings grow older than a day, less is asked and the rank rises: the first time that is enough is the one.
        for gone, each in enumerate(recent, start=1):
            repeats -= _is_repeat(wish, each)
            if self._threshold(len(recent) - gone) <= _rank(wish, repeats):
                return each.opened_ms + DAY_MS
        return now_ms

    def spend(self, wish: Wish, now_ms: int) -> None:
        """Count an opening. More than the last k cannot matter."""
        if self._max:
            self._openings = [*self._openings, Opening(now_ms, wish.fingerprint, wish.severity)][-self._max :]

    def is_news(self, now_ms: int) -> bool:
        """Tell whether it is to be told that the budget binds: at most once a day."""
        if self._told_ms >= 0 and now_ms - self._told_ms < DAY_MS:
            return False
        self._told_ms = now_ms
        return True

    def follow_back(self, now_ms: int) -> None:
        """Follow a clock that was set back."""
        self._openings = [structs.replace(each, opened_ms=min(each.opened_ms, now_ms)) for each in self._openings]
        self._told_ms = min(self._told_ms, now_ms)

    def state(self) -> StoredBudget:
        """Return what is to be stored."""
        return StoredBudget(list(self._openings), self._told_ms)

    def restore(self, stored: StoredBudget) -> None:
        """Take over what `state` gave, under whatever options; ValueError for what cannot be."""
        refuse_if("stored alert budget", {"it is too long": len(stored.openings) > _OPENINGS_MAX})
        self._openings, self._told_ms = list(stored.openings), stored.told_ms


def _repeats(wish: Wish, openings: Sequence[Opening]) -> int:
    return sum(_is_repeat(wish, each) for each in openings)


def _is_repeat(wish: Wish, opening: Opening) -> bool:
    """A burst is no repeat of single events: only what was at least as severe counts."""
    return opening.fingerprint == wish.fingerprint and RANK[opening.severity] >= RANK[wish.severity]


def _rank(wish: Wish, repeats: int) -> float:
    return max(0.0, _SEVERITY_STEP * RANK[wish.severity] + wish.strength - _REPEAT_STEP * repeats)
