"""JSON numbers as float64, rounded correctly, as `float` and msgspec read them.

Up to 2^53 and powers of ten up to 22: one multiplication or division is exact (Clinger 1990, "How to read floating
point numbers accurately"). Otherwise the way of Eisel and Lemire (Lemire 2021, "Number parsing at a gigabyte per
second"), which always decides for up to 19 digits (Mushtak and Lemire 2023, "Fast number parsing without fallback").
More digits are refused.
"""

import numpy as np

from worker.core.kernels.arrays import U8, U64
from worker.core.kernels.json_text import byte, bytes_below, integer, uncounted, word

DIGITS_MAX = 19
"""Significant digits that always fit into 64 bits."""

_POWER_MIN, _POWER_MAX = -342, 308
_EXPONENT_ENOUGH = 10_000
_MINUS, _POINT = 0x2D, 0x2E
_EXACT_MAX = np.uint64(1 << 53)
_EXACT_POWER = 22
_TENS = np.array([10.0**power for power in range(_EXACT_POWER + 1)])
_WHOLE_TENS = np.array([10**power for power in range(9)], dtype=np.uint64)
_ZEROS = np.uint64(0x3030303030303030)
_TOPS = np.uint64(0x8080808080808080)
_SEVENTYSIX = np.uint64(0x7676767676767676)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_FRACTION_BITS = 52
_INFINITY = np.uint64(2047 << _FRACTION_BITS)
_SPARE = 64 - _FRACTION_BITS - 3


def _powers_of_five() -> U64:
    """Return the highest 128 bits of 5^q, q = -342 ... 308, as u64[n, 2] (high, low): Lemire 2021, section 5."""
    table = []
    for power in range(_POWER_MIN, _POWER_MAX + 1):
        five = 5 ** abs(power)
        if power >= 0:
            shift = 128 - five.bit_length()
            bits = five << shift if shift >= 0 else five >> -shift
        else:
            bits = (1 << (five - 1).bit_length() + 127) // five + 1
            bits >>= max(bits.bit_length() - 128, 0)
        table.append((bits >> 64, bits & 0xFFFF_FFFF_FFFF_FFFF))
    return np.array(table, dtype=np.uint64)


_FIVES = _powers_of_five()


@uncounted
def leading_digits(digits: np.uint64) -> int:
    """Return how many of the first bytes of a word, from which "0" has been taken by xor, are digits: 0 ... 8."""
    # A digit is 0 ... 9 by now: adding 0x76 sets the top bit of all others below 0x80.
    return bytes_below((((digits & ~_TOPS) + _SEVENTYSIX) | digits) & _TOPS)


@uncounted
def eight_digits(digits: np.uint64) -> np.uint64:
    """Return the number that eight digits (0 ... 9, the first one lowest) write (Lemire 2021, section 7)."""
    digits = digits * np.uint64(10) + (digits >> np.uint64(8))
    high = (digits & np.uint64(0x000000FF000000FF)) * np.uint64(0x000F424000000064)
    low = ((digits >> np.uint64(16)) & np.uint64(0x000000FF000000FF)) * np.uint64(0x0000271000000001)
    return np.uint64((high + low) >> _HALF)


@uncounted
def digits_from(text: U8, at: int, number: np.uint64) -> tuple[int, np.uint64]:
    """Put the digits from `at` behind those of a number (modulo 2^64); return what follows them, and the number."""
    while True:
        digits = word(text, at) ^ _ZEROS
        count = leading_digits(digits)
        if count > 0:
            number = number * _WHOLE_TENS[count] + eight_digits(digits << np.uint64(64 - 8 * count))
            at += count
        if count < 8:
            return at, number


@uncounted
def scan_number(text: U8, at: int) -> tuple[int, float]:
    """Return what follows the number that begins at `at`, and its value; -1 for none, or if refused. O(bytes)."""
    negative = byte(text, at) == _MINUS
    if negative:
        at += 1
    first = at
    at, number = digits_from(text, at, np.uint64(0))
    if at == first or (at - first > 1 and byte(text, first) == 48):
        return -1, 0.0
    count, power, whole = at - first, 0, True
    if byte(text, at) == _POINT:
        point = at
        at, number = digits_from(text, at + 1, number)
        power = point + 1 - at
        if power == 0:
            return -1, 0.0
        count, whole = count - power, False
    if count > DIGITS_MAX and _significant(text, first, at) > DIGITS_MAX:
        return -1, 0.0
    if byte(text, at) | 0x20 == 101:
        at, exponent = _exponent(text, at + 1)
        if at < 0:
            return -1, 0.0
        power, whole = power + exponent, False
    if number <= _EXACT_MAX and -_EXACT_POWER <= power <= _EXACT_POWER:
        value = float(number)
        value = value / _TENS[-power] if power < 0 else value * _TENS[power]
    else:
        value = nearest(number, power)
        if value == np.inf:
            return -1, 0.0
    # "-0" is an integer for msgspec, and has no sign.
    if negative and not (whole and number == np.uint64(0)):
        value = -value
    return at, value


@uncounted
def _significant(text: U8, at: int, end: int) -> int:
    """Return the digits from the first one that is not 0."""
    while at < end and (byte(text, at) == 48 or byte(text, at) == _POINT):
        at += 1
    count = 0
    while at < end:
        count += byte(text, at) != _POINT
        at += 1
    return count


@uncounted
def _exponent(text: U8, at: int) -> tuple[int, int]:
    """Return what follows the exponent whose sign or digits begin at `at`, and the exponent; -1 for none."""
    sign = byte(text, at)
    if sign == _MINUS or sign == 43:
        at += 1
    first, exponent = at, 0
    while 48 <= byte(text, at) <= 57:
        exponent = min(exponent * 10 + byte(text, at) - 48, _EXPONENT_ENOUGH)
        at += 1
    # Beyond, zeros in front or behind can take it back into the range of floats, and readers differ.
    if at == first or exponent == _EXPONENT_ENOUGH:
        return -1, 0
    return at, -exponent if sign == _MINUS else exponent


@uncounted
def _product(a: np.uint64, b: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Return the high and the low word of a * b."""
    a0, a1, b0, b1 = a & _LOW, a >> _HALF, b & _LOW, b >> _HALF
    middle = a1 * b0 + ((a0 * b0) >> _HALF)
    other = a0 * b1 + (middle & _LOW)
    return a1 * b1 + (middle >> _HALF) + (other >> _HALF), a * b


@uncounted
def nearest(number: np.uint64, power: int) -> float:
    """Return the float64 that is nearest to number * 10^power; infinity for what is too large (Lemire 2021)."""
    if number == np.uint64(0) or power < _POWER_MIN:
        return 0.0
    if power > _POWER_MAX:
        return np.inf
    zeros = 0
    for step in (32, 16, 8, 4, 2, 1):
        if number >> np.uint64(64 - step) == np.uint64(0):
            number <<= np.uint64(step)
            zeros += step
    row = power - _POWER_MIN
    high, low = _product(number, _FIVES[row, 0])
    if high & np.uint64((1 << _SPARE) - 1) == np.uint64((1 << _SPARE) - 1):
        more, _ = _product(number, _FIVES[row, 1])
        low += more
        if more > low:
            high += np.uint64(1)
    upper = integer(high >> np.uint64(63))
    shift = np.uint64(upper + _SPARE)
    bits = high >> shift
    exponent = ((217706 * power) >> 16) + 63 + upper - zeros + 1023
    if exponent <= 0:
        if -exponent + 1 >= 64:
            return 0.0
        bits >>= np.uint64(-exponent + 1)
        bits = (bits + (bits & np.uint64(1))) >> np.uint64(1)
        # Rounded up to the smallest normal number, its bit is that of the exponent 1.
        return np.float64(np.uint64(bits).view(np.float64))
    # Halfway between two floats, which can only be with powers near 0: to the even one.
    if low <= np.uint64(1) and -4 <= power <= 23 and bits & np.uint64(3) == np.uint64(1) and bits << shift == high:
        bits &= ~np.uint64(1)
    bits = (bits + (bits & np.uint64(1))) >> np.uint64(1)
    # The highest bit of the fraction is not stored: it counts as one more of the exponent, as a carry does.
    bits += np.uint64(exponent - 1) << np.uint64(_FRACTION_BITS)
    if bits >= _INFINITY:
        return np.inf
    return np.float64(np.uint64(bits).view(np.float64))
