"""Values of JSON: a scalar as kind, number and text; any value skipped; objects of scalars as columns, a pair a row."""

from typing import NamedTuple

import numpy as np

from worker.core.kernels.arrays import F64, I8, I32, U8
from worker.core.kernels.json_numbers import scan_number
from worker.core.kernels.json_text import (
    QUOTE,
    byte,
    characters,
    integer,
    same,
    skip_space,
    string_end,
    uncounted,
    unescape,
    word,
)

NULL, NUMBER, BOOLEAN, TEXT = -1, 0, 1, 2
"""Kinds of values."""

NAME_CHARS_MAX = 256
NO_TEXT = -1
"""Length of a text that is not there."""

_DEPTH_MAX = 32
_NULL, _TRUE, _ALSE = (np.uint64(int.from_bytes(text, "little")) for text in (b"null", b"true", b"alse"))
_FOUR_BYTES = np.uint64(0xFFFFFFFF)
_MINUS, _COLON, _COMMA = 0x2D, 0x3A, 0x2C
_OPEN_BRACKET, _CLOSE_BRACKET, _OPEN_BRACE, _CLOSE_BRACE = 0x5B, 0x5D, 0x7B, 0x7D


class Pairs(NamedTuple):
    """Names and values of objects, one pair a row; texts as begin and length in the scanned bytes."""

    names: I32
    kinds: I8
    values: F64
    texts: I32


@uncounted
def scan_text(text: U8, at: int) -> tuple[int, int]:
    """Return what follows the string whose first byte (after its quote) is at `at`, and its length without escapes.

    -1 for what is no string. Escapes are replaced where they lie. O(bytes).
    """
    end, escaped = string_end(text, at)
    if end < 0:
        return -1, 0
    return end + 1, unescape(text, at, end) if escaped else end - at


@uncounted
def is_name(text: U8, begin: int, length: int) -> bool:
    """Tell whether a text has 1 ... NAME_CHARS_MAX characters."""
    return length > 0 and (length <= NAME_CHARS_MAX or characters(text, begin, length) <= NAME_CHARS_MAX)


@uncounted
def scan_scalar(text: U8, at: int) -> tuple[int, int, float, int]:
    """Return what follows the scalar at `at`; its kind, its number, and the length of a text, which begins at at + 1.

    -1 for what is no scalar. O(bytes).
    """
    first = byte(text, at)
    if first == _MINUS or 48 <= first <= 57:
        at, number = scan_number(text, at)
        return at, NUMBER, number, NO_TEXT
    if first == QUOTE:
        at, length = scan_text(text, at + 1)
        return at, TEXT, np.nan, length
    if word(text, at) & _FOUR_BYTES == _NULL:
        return at + 4, NULL, np.nan, NO_TEXT
    if word(text, at) & _FOUR_BYTES == _TRUE:
        return at + 4, BOOLEAN, 1.0, NO_TEXT
    if first == 102 and word(text, at + 1) & _FOUR_BYTES == _ALSE:
        return at + 5, BOOLEAN, 0.0, NO_TEXT
    return -1, NULL, np.nan, NO_TEXT


@uncounted
def skip_value(text: U8, at: int) -> int:
    """Return what follows the value at `at`; -1 for what is none or is nested too deeply. O(bytes)."""
    depth, objects = 0, np.uint64(0)  # the lowest bit of `objects`: whether the innermost is one
    while True:
        first = byte(text, at)
        if first == _OPEN_BRACE or first == _OPEN_BRACKET:
            depth, objects = depth + 1, (objects << np.uint64(1)) | np.uint64(first == _OPEN_BRACE)
            if depth > _DEPTH_MAX:
                return -1
            at = skip_space(text, at + 1)
            if byte(text, at) != first + 2:
                if first == _OPEN_BRACE:
                    at = _skip_name(text, at)
                    if at < 0:
                        return -1
                continue
        else:
            at, _, _, _ = scan_scalar(text, at)
            if at < 0:
                return -1
        while depth > 0:
            at = skip_space(text, at)
            last = byte(text, at)
            inside = objects & np.uint64(1) == np.uint64(1)
            if last == _COMMA:
                break
            if last != (_CLOSE_BRACE if inside else _CLOSE_BRACKET):
                return -1
            depth, objects, at = depth - 1, objects >> np.uint64(1), at + 1
        if depth == 0:
            return at
        at = skip_space(text, at + 1)
        if inside:
            at = _skip_name(text, at)
            if at < 0:
                return -1


@uncounted
def _skip_name(text: U8, at: int) -> int:
    """Return where the value begins whose name's quote is at `at`; -1 if there is none."""
    if byte(text, at) != QUOTE:
        return -1
    at, _ = string_end(text, at + 1)
    return -1 if at < 0 else after_colon(text, at + 1)


@uncounted
def after_colon(text: U8, at: int) -> int:
    """Return where the value begins whose name ends before `at`; -1 if there is no colon."""
    at = skip_space(text, at)
    return skip_space(text, at + 1) if byte(text, at) == _COLON else -1


@uncounted
def guessed(text: U8, at: int, guess_begin: int, guess_length: int) -> bool:
    """Tell whether the string that begins at `at` is that of a guess (begin and length), its quote included."""
    begin, length = integer(guess_begin), integer(guess_length)
    # A guess holds no NUL byte: what is the same so far has not ended.
    return length > 0 and same(text, at, text, begin, length) and byte(text, at + length) == QUOTE


@uncounted
def scan_pairs(
    text: U8, at: int, guesses: I32, found: int, names: I32, kinds: I8, values: F64, texts: I32
) -> tuple[int, int, bool]:
    """Put the object of scalars at `at` into rows from `found` on. O(bytes).

    `guesses` (k x 2) are the names of the object before: equal names keep the first one's place, so that equal places
    are equal names. Returns what follows the object (-1: it is none, or a name has not 1 ... NAME_CHARS_MAX
    characters), the first row that is free, and whether all names were guessed.
    """
    if byte(text, at) != _OPEN_BRACE:
        return -1, found, False
    first, all_guessed = found, True
    at = skip_space(text, at + 1)
    if byte(text, at) == _CLOSE_BRACE:
        return at + 1, found, True
    while True:
        if byte(text, at) != QUOTE:
            return -1, found, False
        begin, place = at + 1, found - first
        if place < guesses.shape[0] and guessed(text, begin, guesses[place, 0], guesses[place, 1]):
            names[found, 0], names[found, 1] = guesses[place, 0], guesses[place, 1]
            at = begin + integer(guesses[place, 1]) + 1
        else:
            all_guessed = False
            at, length = scan_text(text, begin)
            if at < 0 or not is_name(text, begin, length):
                return -1, found, False
            names[found, 0], names[found, 1] = begin, length
            if place < guesses.shape[0]:
                # A name that was escaped can not be compared with bytes that are to come.
                guesses[place, 0], guesses[place, 1] = begin, length if at - begin - 1 == length else NO_TEXT
        at = after_colon(text, at)
        if at < 0:
            return -1, found, False
        texts[found, 0] = at + 1
        at, kinds[found], values[found], texts[found, 1] = scan_scalar(text, at)
        if at < 0:
            return -1, found, False
        found += 1
        at = skip_space(text, at)
        last = byte(text, at)
        if last == _CLOSE_BRACE:
            return at + 1, found, all_guessed
        if last != _COMMA:
            return -1, found, False
        at = skip_space(text, at + 1)


@uncounted
def is_distinct(text: U8, names: I32, first: int, end: int) -> bool:
    """Tell whether the names of rows first ... end - 1 differ. O(n^2)."""
    for a in range(first, end):
        for b in range(first, a):
            length = integer(names[a, 1])
            if length == names[b, 1] and same(text, integer(names[a, 0]), text, integer(names[b, 0]), length):
                return False
    return True
