"""Points in time as people write them: RFC 3339, milliseconds since the epoch, or a duration from now."""

import re
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(9999, 12, 31, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_PART = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)(ms|[smhdw])")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")
_MILLISECONDS = re.compile(r"\d{10,15}")
_SECONDS_DIGITS = 10
"""As milliseconds they would be a day of 1970."""


class TimeError(ValueError):
    """It is no time; the message says what could be written instead."""


def duration(text: str) -> timedelta:
    """Read `90s`, `30m`, `2h`, `1h30m`, `7d`, `1w`. Raises TimeError."""
    text = text.strip()
    if not _DURATION.fullmatch(text):
        raise TimeError(f"{text!r} is no duration: write it like 90s, 30m, 2h, 1h30m, 7d or 1w")
    try:
        found = timedelta(milliseconds=sum(round(float(n) * _UNITS_MS[unit]) for n, unit in _PART.findall(text)))
    except OverflowError:
        raise TimeError(f"{text!r} is too long") from None
    if not found:
        raise TimeError(f"{text!r} is no time at all")
    return found


def moment(text: str, now: datetime) -> datetime:
    """Read a point in time, to the millisecond, in UTC.

    Args:
        text: RFC 3339 with a time zone, milliseconds since the epoch, or a duration from `now` on: `2h`, `-30m`.
        now: what durations count from.

    Raises:
        TimeError: it is none of these, or not between 1970 and 9999.
    """
    text = text.strip()
    try:
        found = _absolute(text) or now + _signed(text)
    except OverflowError:
        raise TimeError(f"{text!r} is not between 1970 and 9999") from None
    if not EPOCH <= found <= LATEST:
        raise TimeError(f"{text!r} is not between 1970 and 9999")
    return _to_the_millisecond(found)


def current() -> datetime:
    """Return what time it is, to the millisecond."""
    return _to_the_millisecond(datetime.now(UTC))


def _to_the_millisecond(time: datetime) -> datetime:
    return EPOCH + (time - EPOCH) // _MILLISECOND * _MILLISECOND


def _absolute(text: str) -> datetime | None:
    if _MILLISECONDS.fullmatch(text):
        if len(text) == _SECONDS_DIGITS:
            raise TimeError(f"{text!r} looks like seconds: write milliseconds since 1970, 13 digits")
        return from_milliseconds(int(text))
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    if found.tzinfo is None:
        raise TimeError(f"{text!r} has no time zone: end it with Z, or like +01:00")
    return found.astimezone(UTC)


def _signed(text: str) -> timedelta:
    try:
        return -duration(text[1:]) if text.startswith("-") else duration(text.removeprefix("+"))
    except TimeError:
        raise TimeError(
            f"{text!r} is no time: write it like 2026-11-26T22:00:00Z, as milliseconds since 1970, or as a duration "
            "from now, like 2h or -30m"
        ) from None


def milliseconds(time: datetime) -> int:
    """Return the milliseconds since the epoch."""
    return (time - EPOCH) // _MILLISECOND


def from_milliseconds(time_ms: int) -> datetime:
    """Return the time; what no calendar holds is the end of it."""
    return EPOCH + timedelta(milliseconds=min(max(time_ms, 0), milliseconds(LATEST)))


def shown(time: datetime) -> str:
    """Write a time for people: to the second, in UTC."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def shown_duration(span: timedelta) -> str:
    """Write a duration for people, by its two largest units: `2 h`, `1 h 30 min`, `3 d 4 h`."""
    seconds = max(0, round(span.total_seconds()))
    parts = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
