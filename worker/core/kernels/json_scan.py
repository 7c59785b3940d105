"""Records of `predictions` and `labels` as columns, without a Python object for any of them.

Rule 1: a row is clean only if msgspec accepts its record and gives the same values; whatever is in doubt is not clean.
Rule 2: whatever the bytes are, nothing outside the arrays is touched.
Rule 3: what a row holds depends on its own record alone; the record before only tells what to look for first.
"""

from typing import NamedTuple

import numpy as np

from worker.core.kernels.arrays import F64, I8, I32, I64, U8, Bool
from worker.core.kernels.json_text import QUOTE, byte, integer, skip_space, uncounted, word
from worker.core.kernels.json_times import NO_TIME, scan_time
from worker.core.kernels.json_values import (
    NO_TEXT,
    NULL,
    NUMBER,
    TEXT,
    Pairs,
    after_colon,
    guessed,
    is_distinct,
    is_name,
    scan_pairs,
    scan_scalar,
    scan_text,
    skip_value,
)

EVENT_ID, MODEL_ID, FEATURES, PREDICTION, TIMESTAMP, VERSION, PROBABILITIES, SEGMENT, LABEL, UNKNOWN = range(10)
"""Fields of an event."""

FEATURES_MAX = 10_000
_NAMED_MAX = 64
"""Probabilities, and segments, of an event: with more it is not clean, as each name is compared with all others."""

_GUESSES = 512
_FIELD_GUESSES = 16
_COMMA, _OPEN_BRACE, _CLOSE_BRACE = 0x2C, 0x7B, 0x7D
_NULL = np.uint64(int.from_bytes(b"null", "little"))
_FOUR_BYTES = np.uint64(0xFFFFFFFF)
_FIELD_NAMES = (
    b"event_id",
    b"model_id",
    b"features",
    b"prediction",
    b"timestamp",
    b"model_version",
    b"probabilities",
    b"segment",
    b"label",
)
_FIELD_TEXTS = np.array([list(name.ljust(16, b"\0")) for name in _FIELD_NAMES], dtype=np.uint8)
_FIELD_LENGTHS = np.array([len(name) for name in _FIELD_NAMES])


class Before(NamedTuple):
    """What the records before looked like; nothing yet: 0 everywhere.

    `fields` (k x 3): begin, length and number of the j-th field. `names` (3 x k x 2): those of features, probabilities
    and segments. `distinct` (2 x 1): how many names of probabilities and segments are known to differ. `found` (3):
    pairs of each.
    """

    fields: I32
    names: I32
    distinct: I64
    found: I64


def nothing_before() -> Before:
    """Return what there is before the first record."""
    return Before(
        np.zeros((_FIELD_GUESSES, 3), dtype=np.int32),
        np.zeros((3, _GUESSES, 2), dtype=np.int32),
        np.zeros((2, 1), dtype=np.int64),
        np.zeros(3, dtype=np.int64),
    )


@uncounted
def _field(text: U8, begin: int, length: int) -> int:
    """Return which field has a name."""
    for field in range(UNKNOWN):
        if _FIELD_LENGTHS[field] == length:
            place = 0
            while place < length and byte(text, begin + place) == _FIELD_TEXTS[field, place]:
                place += 1
            if place == length:
                return field
    return UNKNOWN


@uncounted
def _scan_named(text: U8, at: int, guesses: I32, distinct: I64, found: int, pairs: Pairs, kind: int) -> tuple[int, int]:
    """Put an object of probabilities (`kind` NUMBER) or segments (TEXT) into rows; return what follows, and free row.

    `distinct` (1) is how many of the guesses are known to differ.
    """
    first = found
    at, found, all_guessed = scan_pairs(text, at, guesses, found, pairs.names, pairs.kinds, pairs.values, pairs.texts)
    count = found - first
    if at < 0:
        distinct[0] = 0
        return -1, first
    if not all_guessed or count > distinct[0]:
        distinct[0] = 0
        if count > _NAMED_MAX or not is_distinct(text, pairs.names, first, found):
            return -1, first
        distinct[0] = count
    for row in range(first, found):
        if pairs.kinds[row] != kind:
            return -1, first
        if kind == NUMBER and not 0.0 <= pairs.values[row] <= 1.0:
            return -1, first
        if kind == TEXT and not is_name(text, integer(pairs.texts[row, 0]), integer(pairs.texts[row, 1])):
            return -1, first
    return at, found


@uncounted
def _scan_field_name(text: U8, name: int, guesses: I32, number: int) -> tuple[int, int]:
    """Return where the value of a record's field number `number` begins, and which field; -1 for none.

    `guesses` (k x 3) are begin, length and number of the fields of the record before.
    """
    guess = min(number, _FIELD_GUESSES - 1)
    begin, length = integer(guesses[guess, 0]), integer(guesses[guess, 1])
    if guessed(text, name, begin, length):
        return after_colon(text, name + length + 1), integer(guesses[guess, 2])
    at, length = scan_text(text, name)
    # With an escape in it, it is in doubt.
    if at < 0 or at - name - 1 != length:
        return -1, UNKNOWN
    field = _field(text, name, length)
    guesses[guess, 0], guesses[guess, 1], guesses[guess, 2] = name, length, field
    return after_colon(text, at), field


@uncounted
def _scan_single(text: U8, at: int, row: int, field: int, spans: I32, times_ms: I64, values: F64, kinds: I8) -> int:
    """Put the value of a field that is a scalar; return what follows it, -1 for what it can not be."""
    if field == TIMESTAMP:
        at, times_ms[row] = scan_time(text, at)
        return at
    first = at + 1
    if field == PREDICTION or field == LABEL:
        place = integer(field == LABEL)
        at, kind, values[place, row], length = scan_scalar(text, at)
        kinds[place, row] = kind
        spans[3 + place, row, 0], spans[3 + place, row, 1] = first, length
        return at if kind != NULL else -1
    place = 0 if field == EVENT_ID else 1 if field == MODEL_ID else 2
    if byte(text, at) != QUOTE:
        return -1
    at, length = scan_text(text, first)
    spans[place, row, 0], spans[place, row, 1] = first, length
    return at if at >= 0 and is_name(text, first, length) else -1


@uncounted
def _nothing_yet(row: int, spans: I32, times_ms: I64, values: F64, kinds: I8) -> None:
    """Fill in what a row has without the fields that it need not have."""
    for place in range(2, spans.shape[0]):
        spans[place, row, 0], spans[place, row, 1] = 0, NO_TEXT
    times_ms[row], values[1, row], kinds[1, row] = NO_TIME, np.nan, NULL


@uncounted
def scan_records(
    text: U8,
    lengths: I64,
    known: int,
    required: int,
    clean: Bool,
    spans: I32,
    times_ms: I64,
    values: F64,
    kinds: I8,
    ends: I64,
    pairs: tuple[Pairs, Pairs, Pairs],
    before: Before,
) -> None:
    """Scan n records that lie behind each other in `text`, a NUL byte behind each, padding behind the last. O(bytes).

    `known` and `required` are sets of fields as bits: others are skipped; these must be there. `spans` (5 x n x 2):
    event id, model id, version, text of the prediction, of the label. `values`, `kinds` (2 x n): prediction, label.
    `ends` (3 x n + 1): the rows of features, probabilities and segments (`pairs`) are those from an entry to the next.
    """
    fields, names, distinct, found = before
    features, probabilities, segments = pairs
    for each in range(3):
        ends[each, 0] = 0
    end = integer(-1)
    for row in range(lengths.shape[0]):
        at, end = skip_space(text, end + 1), end + 1 + lengths[row]
        _nothing_yet(row, spans, times_ms, values, kinds)
        seen, number, usable = integer(0), 0, byte(text, at) == _OPEN_BRACE
        while usable:
            usable = False
            # An empty object lacks what is required: no need to look for its end.
            at = skip_space(text, at + 1)
            if byte(text, at) != QUOTE:
                break
            at, field = _scan_field_name(text, at + 1, fields, number)
            bit = integer(1) << field
            if at < 0 or seen & bit != 0:
                break
            if known & bit == 0:
                at = skip_value(text, at)
            elif required & bit == 0 and word(text, at) & _FOUR_BYTES == _NULL:
                at += 4
            elif field == FEATURES:
                at, found[0], _ = scan_pairs(
                    text, at, names[0], found[0], features.names, features.kinds, features.values, features.texts
                )
            elif field == PROBABILITIES:
                at, found[1] = _scan_named(text, at, names[1], distinct[0], found[1], probabilities, integer(NUMBER))
            elif field == SEGMENT:
                at, found[2] = _scan_named(text, at, names[2], distinct[1], found[2], segments, integer(TEXT))
            else:
                at = _scan_single(text, at, row, field, spans, times_ms, values, kinds)
            if at < 0:
                break
            seen, number, at = seen | (bit & known), number + 1, skip_space(text, at)
            if byte(text, at) == _CLOSE_BRACE:
                usable = skip_space(text, at + 1) == end and seen & required == required
                break
            usable = byte(text, at) == _COMMA
        clean[row] = usable and found[0] - ends[0, row] <= FEATURES_MAX
        for each in range(3):
            if not clean[row]:
                found[each] = ends[each, row]
            ends[each, row + 1] = found[each]
