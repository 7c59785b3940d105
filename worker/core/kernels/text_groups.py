"""Equal texts have equal codes: a hash table over texts that lie in one buffer."""

import numba
import numpy as np

from worker.core.kernels.arrays import I32, I64, U8

_EVEN = np.uint64(0x9E37_79B9_7F4A_7C15)
"""2^64 divided by the golden ratio: the top bits of a product depend on all bits (Knuth, TAOCP 3, 6.4)."""


@numba.njit(cache=True, nogil=True)
def _equal(raw: U8, a: int, b: int, length: int) -> bool:
    for place in range(length):
        if raw[a + place] != raw[b + place]:
            return False
    return True


@numba.njit(cache=True, nogil=True)
def _hashed(raw: U8, begin: int, length: int) -> np.uint64:
    found = np.uint64(length)
    for place in range(begin, begin + length):
        found = (found ^ np.uint64(raw[place])) * _EVEN
        found ^= found >> np.uint64(29)
    return found


@numba.njit(cache=True, nogil=True)
def group_texts(raw: U8, spans: I32) -> tuple[I64, I64]:
    """Return a code for each text (n), 0, 1, ... as they first appear, and the first row of each code.

    `spans` (n x 2): begin and length in `raw`; all lengths <= 0 are the same. O(bytes), unless hashes collide.
    """
    count = spans.shape[0]
    codes, first_rows = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
    size = 4
    while size < 2 * count:
        size *= 2
    table, groups = np.zeros(size, dtype=np.int64), 0
    for row in range(count):
        begin, length = int(spans[row, 0]), max(int(spans[row, 1]), 0)
        if row > 0:
            # Most texts follow one of their kind.
            before, had = int(spans[row - 1, 0]), max(int(spans[row - 1, 1]), 0)
            if had == length and _equal(raw, before, begin, length):
                codes[row] = codes[row - 1]
                continue
        place = np.int64(_hashed(raw, begin, length) >> np.uint64(32)) & (size - 1)
        while table[place] != 0:
            code = table[place] - 1
            first = first_rows[code]
            if max(int(spans[first, 1]), 0) == length and _equal(raw, int(spans[first, 0]), begin, length):
                break
            place = (place + 1) & (size - 1)
        if table[place] == 0:
            first_rows[groups] = row
            groups += 1
            table[place] = groups
        codes[row] = table[place] - 1
    return codes, first_rows[:groups]
