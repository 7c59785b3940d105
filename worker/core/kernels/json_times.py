"""Timestamps of events as epoch milliseconds: integers, other numbers, RFC 3339 with a time zone."""

import numpy as np

from worker.core.kernels.arrays import U8
from worker.core.kernels.json_numbers import digits_from, scan_number
from worker.core.kernels.json_text import QUOTE, byte, integer, uncounted

TIME_MAX_MS = 253_402_300_799_999
"""The last millisecond of the year 9999."""

NO_TIME = -(1 << 63)
"""Time of an event that has none of its own."""

_WHOLE_DIGITS_MAX = 15
_DAY_MINUTES = 24 * 60
_PLUS, _MINUS, _POINT, _COLON, _DASH = 0x2B, 0x2D, 0x2E, 0x3A, 0x2D


@uncounted
def scan_time(text: U8, at: int) -> tuple[int, int]:
    """Return what follows the timestamp at `at`, and its milliseconds; -1 if not in 1970 ... 9999, and if in doubt."""
    first = byte(text, at)
    if first == QUOTE:
        return _scan_rfc3339(text, at + 1)
    after, whole = digits_from(text, at, np.uint64(0))
    last = byte(text, after)
    ended = last != _POINT and last | 0x20 != 101
    if ended and 0 < after - at <= _WHOLE_DIGITS_MAX and (first != 48 or after == at + 1):
        time_ms = integer(whole)
    else:
        after, number = scan_number(text, at)
        if after < 0 or first == _MINUS or number > TIME_MAX_MS:
            return -1, 0
        time_ms = integer(number)
    return (after, time_ms) if time_ms <= TIME_MAX_MS else (-1, 0)


@uncounted
def _digits(text: U8, at: int, count: int) -> int:
    """Return the number that `count` digits write; a very negative one if they are none."""
    value = 0
    for place in range(at, at + count):
        digit = byte(text, place) - 48
        value = value * 10 + digit if 0 <= digit <= 9 else -1_000_000
    return value


@uncounted
def _days(year: int, month: int, day: int) -> int:
    """Return the days since 1970-01-01 of a Gregorian date (Hinnant, "chrono-compatible low-level date algorithms")."""
    year -= month <= 2
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


@uncounted
def _scan_rfc3339(text: U8, at: int) -> tuple[int, int]:
    """Return what follows the string that begins at `at`, and its milliseconds; -1 for none."""
    year, month, day = _digits(text, at, 4), _digits(text, at + 5, 2), _digits(text, at + 8, 2)
    # The first byte that is wrong ends the look: what comes later may not be there.
    if year < 1 or byte(text, at + 4) != _DASH or month < 1 or byte(text, at + 7) != _DASH or day < 1:
        return -1, 0
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    days = 28 + leap if month == 2 else 30 if month == 4 or month == 6 or month == 9 or month == 11 else 31
    between = byte(text, at + 10)
    if month > 12 or day > days or (between != 84 and between != 116 and between != 32):
        return -1, 0
    hour, minute, second = _digits(text, at + 11, 2), _digits(text, at + 14, 2), _digits(text, at + 17, 2)
    if not (0 <= hour < 24 and 0 <= minute < 60 and 0 <= second < 60):
        return -1, 0
    if byte(text, at + 13) != _COLON or byte(text, at + 16) != _COLON:
        return -1, 0
    at, fraction_ms = _fraction(text, at + 19)
    if at < 0:
        return -1, 0
    at, offset = _offset_minutes(text, at)
    if at < 0 or byte(text, at) != QUOTE:
        return -1, 0
    minutes = _days(year, month, day) * _DAY_MINUTES + hour * 60 + minute - offset
    time_ms = (minutes * 60 + second) * 1000 + fraction_ms
    return (at + 1, time_ms) if 0 <= time_ms <= TIME_MAX_MS else (-1, 0)


@uncounted
def _fraction(text: U8, at: int) -> tuple[int, int]:
    """Return what follows the fraction of a second, if there is one, and its whole milliseconds; -1 if in doubt."""
    if byte(text, at) != _POINT:
        return at, 0
    first, time_ms = at + 1, 0
    at += 1
    nines = True
    while 48 <= byte(text, at) <= 57:
        if at - first < 3:
            time_ms = time_ms * 10 + byte(text, at) - 48
        elif at - first < 6 and byte(text, at) != 57:
            nines = False
        at += 1
    count = at - first
    # The seventh digit rounds the microseconds, which may carry into the milliseconds.
    if count == 0 or (count > 6 and nines):
        return -1, 0
    for _ in range(count, 3):
        time_ms *= 10
    return at, time_ms


@uncounted
def _offset_minutes(text: U8, at: int) -> tuple[int, int]:
    """Return what follows the time zone, and its minutes east of UTC; -1 for none."""
    sign = byte(text, at)
    if sign == 90 or sign == 122:
        return at + 1, 0
    if sign != _PLUS and sign != _MINUS:
        return -1, 0
    hours = _digits(text, at + 1, 2)
    if hours < 0 or byte(text, at + 3) != _COLON:
        return -1, 0
    minutes = _digits(text, at + 4, 2)
    if hours > 23 or not 0 <= minutes <= 59:
        return -1, 0
    return at + 6, hours * 60 + minutes if sign == _PLUS else -hours * 60 - minutes
