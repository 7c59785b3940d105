"""Bytes of JSON (RFC 8259): white space, strings, UTF-8. No kernel reads as far as `PADDING` bytes behind a NUL byte.

Every text ends with at least `PADDING` NUL bytes: a NUL is nowhere allowed in JSON, so each loop stops at it and needs
no look at the length. Words of eight bytes are looked at as in "Hacker's Delight" (Warren), "find first 0-byte".
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

from worker.core.kernels.arrays import U8

PADDING = 16
"""NUL bytes behind a text."""

QUOTE, BACKSLASH, SPACE = 0x22, 0x5C, 0x20
_ONES = np.uint64(0x0101010101010101)
_TOPS = np.uint64(0x8080808080808080)
_QUOTES = np.uint64(0x2222222222222222)
_BACKSLASHES = np.uint64(0x5C5C5C5C5C5C5C5C)
_SPACES = np.uint64(0x2020202020202020)
_WORD = 8


_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])


def uncounted(function: _Kernel) -> _Kernel:
    """Compile a kernel that allocates nothing, without counting references to its arrays: that cost a third."""
    compiled: _Kernel = numba.njit(cache=True, nogil=True, _nrt=False)(function)  # type: ignore[call-overload]  # `_nrt` is not in its stub
    return compiled


@uncounted
def integer(number: Any) -> int:  # noqa: ANN401 - any number of numpy
    """Return a number as int64, which is what numba takes an `int` for; a literal is one no more, either."""
    return np.int64(number)  # type: ignore[return-value]  # as said


@uncounted
def word(text: U8, at: int) -> np.uint64:
    """Return the eight bytes from `at`, the first one lowest: LLVM makes one load of it."""
    # An unsigned index is not looked at for counting from the end.
    u = np.uint64(at)
    return np.uint64(
        np.uint64(text[u])
        | np.uint64(text[u + np.uint64(1)]) << np.uint64(8)
        | np.uint64(text[u + np.uint64(2)]) << np.uint64(16)
        | np.uint64(text[u + np.uint64(3)]) << np.uint64(24)
        | np.uint64(text[u + np.uint64(4)]) << np.uint64(32)
        | np.uint64(text[u + np.uint64(5)]) << np.uint64(40)
        | np.uint64(text[u + np.uint64(6)]) << np.uint64(48)
        | np.uint64(text[u + np.uint64(7)]) << np.uint64(56)
    )


@uncounted
def byte(text: U8, at: int) -> int:
    """Return the byte at `at`, which is not negative."""
    return integer(text[np.uint64(at)])


@uncounted
def bytes_below(tops: np.uint64) -> int:
    """Return how many bytes of a word lie below its first one with its top bit set; 8 if there is none."""
    lowest = tops & (~tops + np.uint64(1))
    below = (lowest >> np.uint64(7)) - np.uint64(1)
    return integer(((below & _ONES) * _ONES) >> np.uint64(56))


@uncounted
def skip_space(text: U8, at: int) -> int:
    """Return where the next byte is that is no white space."""
    while True:
        this = byte(text, at)
        if this > SPACE or (this != SPACE and this != 10 and this != 13 and this != 9):
            return at
        at += 1


@uncounted
def same(text: U8, a: int, other: U8, b: int, length: int) -> bool:
    """Tell whether `length` bytes from `a` of one text are those from `b` of another. Both are padded."""
    while length >= _WORD:
        if word(text, a) != word(other, b):
            return False
        a, b, length = a + _WORD, b + _WORD, length - _WORD
    if length <= 0:
        return True
    return bool((word(text, a) ^ word(other, b)) << np.uint64(64 - 8 * length) == np.uint64(0))


@uncounted
def string_end(text: U8, at: int) -> tuple[int, bool]:
    """Return where the quote is that ends the string which begins at `at`, and whether it holds a backslash.

    -1 for what is no string: a control character, a wrong escape or surrogate, UTF-8 that is none. O(bytes).
    """
    escaped = False
    while True:
        w = word(text, at)
        quotes, backslashes = w ^ _QUOTES, w ^ _BACKSLASHES
        # A borrow makes false marks, but only above a true one: the lowest mark is right.
        marks = (
            ((quotes - _ONES) & ~quotes) | ((backslashes - _ONES) & ~backslashes) | ((w - _SPACES) & ~w) | w
        ) & _TOPS
        at += bytes_below(marks)
        if marks == np.uint64(0):
            continue
        this = byte(text, at)
        if this == QUOTE:
            return at, escaped
        if this == BACKSLASH:
            escaped = True
            at = _after_escape(text, at)
        elif this >= 0x80:
            at = _after_character(text, at)
        else:
            return -1, escaped
        if at < 0:
            return -1, escaped


@uncounted
def _after_character(text: U8, at: int) -> int:
    """Return what follows a character of two to four bytes (RFC 3629, section 4); -1 if it is none."""
    first, second = byte(text, at), byte(text, at + 1)
    if first < 0xC2 or first > 0xF4 or second & 0xC0 != 0x80:
        return -1
    if first < 0xE0:
        return at + 2
    if byte(text, at + 2) & 0xC0 != 0x80:
        return -1
    if first < 0xF0:
        wrong = (first == 0xE0 and second < 0xA0) or (first == 0xED and second >= 0xA0)
        return -1 if wrong else at + 3
    wrong = (first == 0xF0 and second < 0x90) or (first == 0xF4 and second >= 0x90)
    return -1 if wrong or byte(text, at + 3) & 0xC0 != 0x80 else at + 4


@uncounted
def _hex4(text: U8, at: int) -> int:
    """Return the number that four hexadecimal digits write; -1 if they are none."""
    value = 0
    for place in range(4):
        this = byte(text, at + place)
        letter = this | 0x20
        if 48 <= this <= 57:
            value = value * 16 + this - 48
        elif 97 <= letter <= 102:
            value = value * 16 + letter - 87
        else:
            return -1
    return value


@uncounted
def _after_escape(text: U8, at: int) -> int:
    r"""Return what follows the escape whose backslash is at `at`; -1 for a wrong one, and for half a surrogate pair."""
    kind = byte(text, at + 1)
    if kind != 117:  # u
        # " \ / b f n r t
        known = kind == 34 or kind == 92 or kind == 47 or kind == 98 or kind == 102 or kind == 110 or kind == 114
        return at + 2 if known or kind == 116 else -1
    code = _hex4(text, at + 2)
    if code < 0 or 0xDC00 <= code <= 0xDFFF:
        return -1
    if code < 0xD800 or code > 0xDFFF:
        return at + 6
    if byte(text, at + 6) != BACKSLASH or byte(text, at + 7) != 117 or not 0xDC00 <= _hex4(text, at + 8) <= 0xDFFF:
        return -1
    return at + 12


@uncounted
def unescape(text: U8, begin: int, end: int) -> int:
    """Replace the escapes of a string that `string_end` accepted, where it lies; return its new length. O(bytes)."""
    at = out = begin
    while at < end:
        this = byte(text, at)
        if this != BACKSLASH:
            text[out] = this
            at, out = at + 1, out + 1
            continue
        kind = byte(text, at + 1)
        code = kind
        if kind == 98:
            code = 8
        elif kind == 102:
            code = 12
        elif kind == 110:
            code = 10
        elif kind == 114:
            code = 13
        elif kind == 116:
            code = 9
        elif kind == 117:
            code = _hex4(text, at + 2)
        after = _after_escape(text, at)
        if after - at == 12:
            code = 0x10000 + ((code - 0xD800) << 10) + _hex4(text, at + 8) - 0xDC00
        out, at = _put(text, out, code), after
    return out - begin


@uncounted
def _put(text: U8, out: int, code: int) -> int:
    """Write a character as UTF-8; return what follows it."""
    if code < 0x80:
        text[out] = code
        return out + 1
    size = 2 if code < 0x800 else 3 if code < 0x10000 else 4
    for place in range(size - 1, 0, -1):
        text[out + place] = 0x80 | (code & 0x3F)
        code >>= 6
    text[out] = (0xF00 >> size) & 0xFF | code
    return out + size


@uncounted
def characters(text: U8, begin: int, length: int) -> int:
    """Return how many characters UTF-8 has: bytes that do not continue one. O(bytes)."""
    count = 0
    for at in range(begin, begin + length):
        count += byte(text, at) & 0xC0 != 0x80
    return count


@uncounted
def count_byte(text: U8, this: int) -> int:
    """Return how often a byte is there. O(bytes), many at a time."""
    count = 0
    for at in range(text.shape[0]):
        count += text[at] == this
    return count
