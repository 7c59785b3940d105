"""Ranges of time and warm-ups as people write them on a command line."""

import re
from typing import NamedTuple

from worker.times import TimeError, duration, from_milliseconds, milliseconds, moment

_DIGITS = re.compile(r"\d{1,15}")


class WarmUp(NamedTuple):
    """How much of the input before the range is read; without any bound, all that is still there."""

    events: int | None = None
    """Predictions of each partition."""
    duration_ms: int | None = None


class Span(NamedTuple):
    """A range of time in milliseconds, the end not in it; None: without a bound."""

    from_ms: int | None = None
    to_ms: int | None = None

    def covers(self, moment_ms: int) -> bool:
        """Whether a point in time lies in it."""
        after = self.from_ms is None or moment_ms >= self.from_ms
        return after and (self.to_ms is None or moment_ms < self.to_ms)


def moment_of(text: str, now_ms: int) -> int:
    """Read RFC 3339 with a time zone, epoch milliseconds, or `-24h` (so long before `now_ms`). Raises TimeError."""
    return milliseconds(moment(text, from_milliseconds(now_ms)))


def warm_up_of(text: str) -> WarmUp:
    """Read a number of events, a duration like 6h, or `all`. Raises TimeError."""
    text = text.strip()
    if text == "all":
        return WarmUp()
    if _DIGITS.fullmatch(text):
        return WarmUp(events=int(text))
    try:
        return WarmUp(duration_ms=round(duration(text).total_seconds() * 1_000))
    except TimeError:
        raise TimeError(f"{text} is no warm-up: write a number of events, a duration like 6h, or all") from None
