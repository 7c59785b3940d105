"""Records of `predictions` and `labels` as columns, without a Python object for any of them.

Rule 1: a row is clean only if msgspec accepts its record and gives the same values; whatever is in doubt is not clean.
Rule 2: whatever the bytes are, nothing outside the arrays is touched.
Rule 3: what a row holds depends on its own record alone; the record before only tells what to look for first.
"""

import numba
import numpy as np

from worker.core.kernels.arrays import F64, I8, I32, I64, U8, Bool
from worker.core.kernels.json_text import QUOTE, byte, integer, skip_space, word
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
_ONE = integer(1)
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


@numba.njit(cache=True, nogil=True)
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


@numba.njit(cache=True, nogil=True)
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


@numba.njit(cache=True, nogil=True)
def scan_records(
    text: U8,
    lengths: I64,
    record_bytes_max: int,
    known: int,
    required: int,
    clean: Bool,
    spans: I32,
    times_ms: I64,
    values: F64,
    kinds: I8,
    ends: I64,
    features: Pairs,
    probabilities: Pairs,
    segments: Pairs,
) -> None:
    """Scan n records that lie behind each other in `text`, a NUL byte behind each, padding behind the last. O(bytes).

    `known` and `required` are sets of fields as bits. `spans` (5 x n x 2): event id, model id, version, text of the
    prediction, of the label. `values`, `kinds` (2 x n): prediction, label. `ends` (3 x n + 1): the rows of features,
    probabilities and segments are those from an entry to the next.
    """
    field_guesses = np.zeros((_FIELD_GUESSES, 3), dtype=np.int32)
    guesses = np.zeros((3, _GUESSES, 2), dtype=np.int32)
    distinct = np.zeros((2, 1), dtype=np.int64)
    ends[:, 0] = 0
    # Not literals: numba would compile each callee once more for them.
    found_features, found_probabilities, found_segments = integer(0), integer(0), integer(0)
    begin = integer(0)
    for row in range(lengths.shape[0]):
        at, record_end = skip_space(text, begin), begin + lengths[row]
        begin = record_end + 1
        spans[2, row, 0], spans[2, row, 1] = 0, NO_TEXT
        times_ms[row] = NO_TIME
        values[1, row], kinds[1, row], spans[4, row, 0], spans[4, row, 1] = np.nan, NULL, 0, NO_TEXT
        new_features, new_probabilities, new_segments = found_features, found_probabilities, found_segments
        seen, number = 0, 0
        usable = lengths[row] <= record_bytes_max and byte(text, at) == _OPEN_BRACE
        # An empty object lacks what is required: no need to look for its end.
        at += 1
        while usable:
            usable = False
            at = skip_space(text, at)
            if byte(text, at) != QUOTE:
                break
            # Which field is it? The one that stood here in the record before, most often.
            name = at + 1
            guess = min(number, _FIELD_GUESSES - 1)
            number += 1
            if guessed(text, name, field_guesses[guess, 0], field_guesses[guess, 1]):
                field = integer(field_guesses[guess, 2])
                at = name + integer(field_guesses[guess, 1]) + 1
            else:
                at, length = scan_text(text, name)
                # An escape in the name of a field: in doubt.
                if at < 0 or at - name - 1 != length:
                    break
                field = _field(text, name, length)
                field_guesses[guess, 0], field_guesses[guess, 1], field_guesses[guess, 2] = name, length, field
            at = after_colon(text, at)
            if at < 0:
                break
            bit = _ONE << field
            if known & bit == 0:
                at = skip_value(text, at)
            elif seen & bit != 0:
                break
            elif required & bit == 0 and word(text, at) & _FOUR_BYTES == _NULL:
                at += 4
            elif field == FEATURES:
                at, new_features, _ = scan_pairs(
                    text,
                    at,
                    guesses[0],
                    new_features,
                    features.names,
                    features.kinds,
                    features.values,
                    features.texts,
                )
            elif field == TIMESTAMP:
                at, times_ms[row] = scan_time(text, at)
            elif field == PREDICTION or field == LABEL:
                place = integer(field == LABEL)
                spans[3 + place, row, 0] = at + 1
                at, kinds[place, row], values[place, row], spans[3 + place, row, 1] = scan_scalar(text, at)
                if kinds[place, row] == NULL:
                    break
            elif field == PROBABILITIES:
                at, new_probabilities = _scan_named(
                    text, at, guesses[1], distinct[0], new_probabilities, probabilities, integer(NUMBER)
                )
            elif field == SEGMENT:
                at, new_segments = _scan_named(text, at, guesses[2], distinct[1], new_segments, segments, integer(TEXT))
            else:
                place = 0 if field == EVENT_ID else 1 if field == MODEL_ID else 2
                if byte(text, at) != QUOTE:
                    break
                first = at + 1
                at, length = scan_text(text, first)
                if at < 0 or not is_name(text, first, length):
                    break
                spans[place, row, 0], spans[place, row, 1] = first, length
            if at < 0:
                break
            seen |= bit & known
            at = skip_space(text, at)
            last = byte(text, at)
            if last == _CLOSE_BRACE:
                usable = skip_space(text, at + 1) == record_end and new_features - found_features <= FEATURES_MAX
                break
            usable = last == _COMMA
            at += 1
        clean[row] = usable and seen & required == required
        if clean[row]:
            found_features, found_probabilities, found_segments = new_features, new_probabilities, new_segments
        ends[0, row + 1], ends[1, row + 1], ends[2, row + 1] = found_features, found_probabilities, found_segments
