"""Keeps maintenance within its share of the CPU: decides from what was spent at which level it is thinned.

At level L one event in 2^L is used for maintenance. What is measured never reaches the core but by that level, which
the journal holds: so a replay does what the first run did, however fast it is.

    window      spent by the engine for live shards, of it for maintenance, and in other processes for fits
    share       (maintenance + fits) / (engine + fits)

What costs much once must thin nothing: so it must be too much in two windows, one after the other, and each fit, which
is rare and long, is spread over the minute that ends with its window.
"""

import math
from collections import deque
from typing import NamedTuple

from worker.core.journal import THINNING_MAX
from worker.observer import MaintenanceCost
from worker.ports import Spent

_STEPS_MAX = 4
"""Levels up at once."""
_CALM = 0.25
"""Below this part of the allowed share ..."""
_CALM_WINDOWS = 6
"""... in so many windows one after the other, one level down: twice the work is still well within the share."""
_FIT_WINDOWS = 12
"""Windows that a fit is spread over."""


class BudgetOptions(NamedTuple):
    """What maintenance may cost, and how it is looked at."""

    share_max: float = 0.2
    window_ms: int = 5_000
    engine_seconds_min: float = 0.25
    """In one window; a worker that does less is idle, and is never thinned."""


class MaintenanceBudget:
    """The level of one worker.

    Args:
        options: what is allowed.
        now_ms: when the first window begins.
        spent: since the start of the process.
    """

    def __init__(self, options: BudgetOptions, now_ms: int, spent: Spent) -> None:
        self._options = options
        self.level = 0
        self._calm = 0
        self._fits: deque[float] = deque([0.0] * _FIT_WINDOWS, _FIT_WINDOWS)
        """What fits cost in the latest windows, as if nothing had been thinned."""
        self.restart(now_ms, spent)

    def joined(self, level: int) -> None:
        """Take over a shard that was thinned to a level where it was before: what was too much there is so here."""
        self.level = max(self.level, level)

    def restart(self, now_ms: int, spent: Spent) -> None:
        """Forget the window so far, and do not judge the next one: kernels are compiled after a start.

        What a restore costs is not judged either: it must do again what the first run did.
        """
        self._began_ms, self._at_begin, self._fresh = now_ms, spent, True
        self._over: float | None = None
        """The share of the window before, if that was too much."""

    def is_due(self, now_ms: int) -> bool:
        """Whether the window is over."""
        return now_ms - self._began_ms >= self._options.window_ms

    def judge(self, now_ms: int, spent: Spent) -> MaintenanceCost:
        """End the window, set the level from here on, and begin the next window."""
        engine_s, process_s, children_s = (now - then for now, then in zip(spent, self._at_begin, strict=True))
        self._fits.append(children_s * 2.0**self.level)
        share = self._share(engine_s, process_s)
        if not self._fresh:
            self.level = max(0, min(THINNING_MAX, self.level + self._step(share)))
        self._began_ms, self._at_begin, self._fresh = now_ms, spent, False
        return MaintenanceCost(share, process_s, children_s, self.level)

    def _share(self, engine_s: float, process_s: float) -> float | None:
        if engine_s < self._options.engine_seconds_min:
            return None
        fits_s = sum(self._fits) / _FIT_WINDOWS / 2.0**self.level
        return min(1.0, (process_s + fits_s) / (engine_s + fits_s))

    def _step(self, share: float | None) -> int:
        """Return by how many levels to go up (positive) or down."""
        share_max = self._options.share_max
        before, self._over = self._over, None
        if share is not None and share > share_max:
            self._calm = 0
            if before is not None:
                return levels_up(min(share, before), share_max)
            self._over = share
            return 0
        self._calm = self._calm + 1 if share is None or share < _CALM * share_max else 0
        if self._calm < _CALM_WINDOWS:
            return 0
        self._calm = 0
        return -1


def levels_up(share: float, share_max: float) -> int:
    """Return how many times the work must be halved, so that its share comes down to what is allowed; 1 to 4.

    With work m beside other work r, the share is m / (m + r), and m / r is the odds of it.
    """
    if share >= 1.0:
        return _STEPS_MAX
    ratio = share / (1.0 - share) * (1.0 - share_max) / share_max
    return max(1, min(_STEPS_MAX, math.ceil(math.log2(ratio))))
