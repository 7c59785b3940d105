"""The alert budget: at most k openings of a model within any 24 hours of event time, met by a threshold that moves.

The *rank* of a raised condition is 8 x severity (0 info, 1 warning, 2 critical) + strength (doublings beyond its own
threshold, 0 to 8), so it lies in [0, 24]. With u openings in the last 24 hours the least rank that opens is

    threshold(u) = 24 x max(0, u - k/4) / (k - k/4)

A quarter of the budget is free for all; from then on each opening asks more of the next one, and as openings grow older
than a day less is asked again. What is left at the end is for critical incidents, and with u = k nothing opens: the
bound is exact, whatever the stream. (A closed loop on the threshold, as adaptive conformal inference does it on
coverage, Gibbs and Candes 2021, section 2; here the window is hard.)
"""

from typing import Annotated

from msgspec import Meta, Struct

from worker.core.alerts.life import RANK, Severity
from worker.core.codec import TIMESTAMP_MS_MAX
from worker.core.options.alerts import DAY_MS
from worker.core.state import refuse_if

RANK_MAX = 24.0
_FREE_SHARE = 0.25
_SEVERITY_STEP = 8.0

_Time = Annotated[int, Meta(ge=-1, le=TIMESTAMP_MS_MAX)]


class StoredBudget(Struct, frozen=True, forbid_unknown_fields=True):
    """What is stored."""

    openings: list[_Time]
    told_ms: _Time


def rank(severity: Severity, strength: float) -> float:
    """Return where a condition stands among all, in [0, 24]."""
    return _SEVERITY_STEP * RANK[severity] + strength


class Budget:
    """Openings of one monitor within a day.

    Args:
        openings_max: k; 0: there is no budget.
    """

    def __init__(self, openings_max: int) -> None:
        self._max = openings_max
        self._openings: list[int] = []
        self._told_ms = -1

    def spent(self, now_ms: int) -> int:
        """Return the openings of the last 24 hours."""
        return len(self._recent(now_ms))

    def _recent(self, now_ms: int) -> list[int]:
        # Older ones are kept, too: a clock that is far ahead may be found out to be wrong.
        return [each for each in self._openings if each > now_ms - DAY_MS]

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

    def retry_ms(self, wanted: float, now_ms: int) -> int:
        """Return when a condition of that rank that does not open now would, if nothing else opened."""
        recent = sorted(self._recent(now_ms))
        spent = len(recent)
        left = next((gone for gone in range(1, spent + 1) if self._threshold(spent - gone) <= wanted), spent)
        return recent[left - 1] + DAY_MS if left else now_ms

    def spend(self, now_ms: int) -> None:
        """Count an opening. More than the last k cannot matter."""
        if self._max:
            self._openings = [*self._openings, now_ms][-self._max :]

    def is_news(self, now_ms: int) -> bool:
        """Tell whether it is to be told that the budget binds: at most once a day."""
        if self._told_ms >= 0 and now_ms - self._told_ms < DAY_MS:
            return False
        self._told_ms = now_ms
        return True

    def follow_back(self, now_ms: int) -> None:
        """Follow a clock that was set back."""
        self._openings = [min(each, now_ms) for each in self._openings]
        self._told_ms = min(self._told_ms, now_ms)

    def state(self) -> StoredBudget:
        """Return what is to be stored."""
        return StoredBudget(list(self._openings), self._told_ms)

    def restore(self, stored: StoredBudget) -> None:
        """Take over what `state` gave, under whatever options; ValueError for what cannot be."""
        refuse_if("stored alert budget", {"it is too long": len(stored.openings) > 10**6})
        self._openings, self._told_ms = list(stored.openings), stored.told_ms
