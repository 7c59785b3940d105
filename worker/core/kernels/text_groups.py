"""Texts in scanned bytes: which are equal, and which feature has which name, by hash tables with open addressing.

The hashes are not keyed, and texts can be made to collide. So all that looks for a text gives up after a number of
steps that others never need; the caller then does without hashes of ours.
"""

import numba
import numpy as np

from worker.core.kernels.arrays import F64, I8, I32, I64, U8
from worker.core.kernels.json_text import integer, same, word
from worker.core.kernels.json_values import NULL, TEXT

EMPTY = -1
GIVEN_UP = -2
_STEPS_MAX = 64
"""Of one search. Tables are at most half full."""
_STEPS_PER_TEXT, _STEPS_MORE = 16, 1024
"""Of all searches together."""
_WORD = 8
_MIXER = np.uint64(0x9E3779B97F4A7C15)
_START = np.uint64(0x243F6A8885A308D3)
_HALF = np.uint64(32)


@numba.njit(cache=True, nogil=True)
def text_hash(text: U8, begin: int, length: int) -> np.uint64:
    """Return a hash of the bytes of a text, which is padded. O(bytes)."""
    mixed = (_START ^ np.uint64(length)) * _MIXER
    while length >= _WORD:
        mixed = (mixed ^ (mixed >> _HALF) ^ word(text, begin)) * _MIXER
        begin, length = begin + _WORD, length - _WORD
    if length > 0:
        mixed = (mixed ^ (mixed >> _HALF) ^ (word(text, begin) << np.uint64(64 - 8 * length))) * _MIXER
    return np.uint64(mixed ^ (mixed >> _HALF))


@numba.njit(cache=True, nogil=True)
def group_spans(text: U8, spans: I32, table: I32, codes: I64, first_rows: I64) -> int:
    """Give equal texts (begin and length, n x 2) equal codes 0, 1, ... as they first appear; return how many there are.

    `table` has a power of two entries, more than n, all EMPTY. Lengths below 0 count as 0. `first_rows` (n) gets the
    row of each code's first text. O(bytes). GIVEN_UP if too many hashes collide: the codes mean nothing then.
    """
    count, mask = 0, np.uint64(table.shape[0] - 1)
    left = _STEPS_PER_TEXT * spans.shape[0] + _STEPS_MORE
    for row in range(spans.shape[0]):
        begin, length = integer(spans[row, 0]), max(integer(spans[row, 1]), 0)
        slot = text_hash(text, begin, length) & mask
        code = integer(table[slot])
        while code != EMPTY:
            other = first_rows[code]
            if max(spans[other, 1], 0) == length and same(text, begin, text, integer(spans[other, 0]), length):
                break
            left -= 1
            if left < 0:
                return GIVEN_UP
            slot = (slot + np.uint64(1)) & mask
            code = integer(table[slot])
        if code == EMPTY:
            code, count = count, count + 1
            table[slot], first_rows[code] = code, row
        codes[row] = code
    return count


@numba.njit(cache=True, nogil=True)
def fill_table(text: U8, spans: I32, table: I32) -> None:
    """Put the texts (n x 2), which differ, into a table as `group_spans` takes it."""
    mask = np.uint64(table.shape[0] - 1)
    for row in range(spans.shape[0]):
        slot = text_hash(text, integer(spans[row, 0]), integer(spans[row, 1])) & mask
        while table[slot] != EMPTY:
            slot = (slot + np.uint64(1)) & mask
        table[slot] = row


@numba.njit(cache=True, nogil=True)
def _find(text: U8, begin: int, length: int, known: U8, known_spans: I32, table: I32) -> int:
    """Return the row of a text among known ones; EMPTY if it is not there, GIVEN_UP if too many have its hash."""
    mask = np.uint64(table.shape[0] - 1)
    slot = text_hash(text, begin, length) & mask
    for _ in range(_STEPS_MAX):
        row = integer(table[slot])
        if row == EMPTY:
            return EMPTY
        if known_spans[row, 1] == length and same(text, begin, known, integer(known_spans[row, 0]), length):
            return row
        slot = (slot + np.uint64(1)) & mask
    return GIVEN_UP


@numba.njit(cache=True, nogil=True)
def fill_cells(
    text: U8,
    first_feature: I64,
    names: I32,
    kinds: I8,
    values: F64,
    texts: I32,
    rows: I64,
    known: U8,
    known_spans: I32,
    table: I32,
    column_kinds: I8,
    cells: F64,
    cell_texts: I32,
) -> bool:
    """Put the features of the rows (r) into cells (r x d): NaN where there is no value. O(features + cells).

    A column of texts has its texts in `cell_texts` (r x d x 2; length -1: none), and NaN as cells; without such columns
    `cell_texts` may be empty. False if a name is there twice, has a value and no column, or a value of a kind that its
    column cannot have, or names were made to collide: the cells mean nothing then.
    """
    width, with_texts = column_kinds.shape[0], cell_texts.shape[0] > 0
    last_row = np.full(width, -1, dtype=np.int64)
    # Where the j-th name of the row before lies, and its column: names that lie at the same place are equal.
    places, columns = np.full(width, -1, dtype=np.int64), np.zeros(width, dtype=np.int64)
    for row in range(rows.shape[0]):
        first, end = first_feature[rows[row]], first_feature[rows[row] + 1]
        for column in range(width):
            cells[row, column] = np.nan
        if with_texts:
            for column in range(width):
                cell_texts[row, column, 0], cell_texts[row, column, 1] = 0, -1
        for pair in range(first, end):
            place, begin, length = pair - first, integer(names[pair, 0]), integer(names[pair, 1])
            if place < width and places[place] == begin:
                column = columns[place]
            else:
                column = EMPTY
                if place < width:
                    guess = columns[place]
                    if known_spans[guess, 1] == length and same(text, begin, known, known_spans[guess, 0], length):
                        column = guess
                if column == EMPTY:
                    column = _find(text, begin, length, known, known_spans, table)
                if column == EMPTY and kinds[pair] == NULL:
                    continue
                if column < 0:
                    return False
                if place < width:
                    places[place], columns[place] = begin, column
            if last_row[column] == row:
                return False
            last_row[column] = row
            kind = kinds[pair]
            if kind == NULL:
                continue
            if kind != column_kinds[column]:
                return False
            if kind == TEXT:
                cell_texts[row, column, 0], cell_texts[row, column, 1] = texts[pair, 0], texts[pair, 1]
            else:
                cells[row, column] = values[pair]
    return True
