"""Points in time and warm-ups as people write them on a command line."""

import re
from datetime import datetime
from typing import NamedTuple

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"(\d{1,12})(ms|s|m|h|d)")
_DIGITS = re.compile(r"\d{1,15}")


class MomentError(ValueError):
    """A text is no point in time, or no warm-up; the message says what would be."""


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
    """Read RFC 3339 with a time zone, epoch milliseconds, or `-24h` (so long before `now_ms`). Raises MomentError."""
    text = text.strip()
    if _DIGITS.fullmatch(text):
        return int(text)
    if text.startswith("-") and (length := _duration_ms(text[1:])) is not None:
        return max(0, now_ms - length)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise MomentError(
            f"{text} is no point in time: write 2026-11-26T08:00:00Z (with a time zone), epoch milliseconds, or a "
            "duration before now, like -24h, -90m or -7d"
        )
    return max(0, round(moment.timestamp() * 1000))


def warm_up_of(text: str) -> WarmUp:
    """Read a number of events, a duration like 6h, or `all`. Raises MomentError."""
    text = text.strip()
    if text == "all":
        return WarmUp()
    if _DIGITS.fullmatch(text):
        return WarmUp(events=int(text))
    length = _duration_ms(text)
    if length is None:
        raise MomentError(f"{text} is no warm-up: write a number of events, a duration like 6h, or all")
    return WarmUp(duration_ms=length)


def _duration_ms(text: str) -> int | None:
    found = _DURATION.fullmatch(text)
    return None if found is None else int(found[1]) * _UNITS_MS[found[2]]
