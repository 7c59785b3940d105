"""Rings of rows with an index by key, in compact arrays.

A ring holds rows in the order in which they came: row number `r` is in slot r modulo capacity. The index is open
addressing with linear probing over half as many places more; a row that leaves is taken out by shifting back what
follows it (Knuth, TAOCP 3, 6.4, algorithm R), so nothing ever has to be rebuilt but when a ring grows. The number of
places is no power of two: the home of a key is its upper half times that number, divided by 2^32 (Lemire 2019, "Fast
random integer generation in an interval", without his last step). An entry of the index also tells how far from its
home it stands: a key that is looked for can only be in an entry that is as far from home as the search has come, and
what is shifted back need not be looked up. Keys are all over the memory, and each costs a cache miss.
"""

from typing import NamedTuple

import numba
import numpy as np

from worker.core.kernels.arrays import I64, U32, U64, Bool

HEAD, TAIL, READ = 0, 1, 5
"""Places in `meta`: the first row, one behind the last, and what `read_ahead` left; others are for a ring's owner."""
META = 6

SLOT_BITS = 26
_SLOT = (1 << SLOT_BITS) - 1
FAR = (1 << (32 - SLOT_BITS)) - 1

AHEAD = 128
"""Places of the index are read for so many rows at once, before these are looked at one after the other: the processor
waits for many of them at the same time then."""


class Ring(NamedTuple):
    """Rows with a key: keys u64[C, 2], index `table` u32[places], meta i64[META], alive bool[C].

    Keys of one word, u64[C, 1], are the first word of what is asked for. An entry of the index is slot + 1 in its lower
    `SLOT_BITS`, above it how far from home it stands, `FAR` for that far or farther; a free one is 0.
    """

    keys: U64
    table: U32
    meta: I64
    alive: Bool


def places_of(capacity: int) -> int:
    """Return how many places the index of a ring has: two thirds of them are used at most."""
    return capacity + capacity // 2 + 1


def new_ring(capacity: int, words: int) -> Ring:
    """Return an empty ring of so many rows, with keys of so many words."""
    return Ring(
        np.zeros((capacity, words), dtype=np.uint64),
        np.zeros(places_of(capacity), dtype=np.uint32),
        np.zeros(META, dtype=np.int64),
        np.zeros(capacity, dtype=np.bool),
    )


@numba.njit(cache=True, nogil=True)
def _home(ring: Ring, k0: np.uint64) -> int:
    """Return where the index begins to look for a key."""
    home = ((k0 >> np.uint64(32)) * np.uint64(ring.table.shape[0])) >> np.uint64(32)
    return int(np.int64(home))


@numba.njit(cache=True, nogil=True)
def _after(ring: Ring, place: int) -> int:
    return place + 1 if place + 1 < ring.table.shape[0] else 0


@numba.njit(cache=True, nogil=True)
def _steps(ring: Ring, start: int, end: int) -> int:
    """Return how far it is from one place of the index to another one, going on behind the last with the first."""
    return end - start if end >= start else end - start + ring.table.shape[0]


@numba.njit(cache=True, nogil=True)
def _entry(slot: int, far: int) -> np.uint32:
    return np.uint32((min(far, FAR) << SLOT_BITS) | (slot + 1))


@numba.njit(cache=True, nogil=True)
def find(ring: Ring, k0: np.uint64, k1: np.uint64) -> int:
    """Return the slot of a key, or -1. O(1)."""
    place, far = _home(ring, k0), 0
    while ring.table[place] != 0:
        entry = np.int64(ring.table[place])
        if entry >> SLOT_BITS == min(far, FAR):
            slot = int(entry & _SLOT) - 1
            if ring.keys[slot, 0] == k0 and (ring.keys.shape[1] == 1 or ring.keys[slot, 1] == k1):
                return slot
        place, far = _after(ring, place), far + 1
    return -1


@numba.njit(cache=True, nogil=True)
def _enter(ring: Ring, slot: int) -> None:
    """Put a row that is not there into the index."""
    place, far = _home(ring, ring.keys[slot, 0]), 0
    while ring.table[place] != 0:
        place, far = _after(ring, place), far + 1
    ring.table[place] = _entry(slot, far)


@numba.njit(cache=True, nogil=True)
def append(ring: Ring, k0: np.uint64, k1: np.uint64) -> int:
    """Append a row whose key is not there, to a ring that is not full; return its slot. O(1)."""
    slot: int = int(ring.meta[TAIL]) % ring.keys.shape[0]
    ring.meta[TAIL] += 1
    ring.keys[slot, 0] = k0
    if ring.keys.shape[1] > 1:
        ring.keys[slot, 1] = k1
    ring.alive[slot] = True
    _enter(ring, slot)
    return slot


@numba.njit(cache=True, nogil=True)
def _far(ring: Ring, place: int) -> int:
    """Return how far from home the entry at a place stands."""
    entry = np.int64(ring.table[place])
    if entry >> SLOT_BITS < FAR:
        return int(entry >> SLOT_BITS)
    return _steps(ring, _home(ring, ring.keys[(entry & _SLOT) - 1, 0]), place)


@numba.njit(cache=True, nogil=True)
def remove(ring: Ring, slot: int) -> None:
    """Take a row out of the index; its slot is free when the head has passed it. O(1)."""
    place = _home(ring, ring.keys[slot, 0])
    while np.int64(ring.table[place]) & _SLOT != slot + 1:
        place = _after(ring, place)
    ring.alive[slot] = False
    free = place
    while True:
        place = _after(ring, place)
        if ring.table[place] == 0:
            break
        # What stands at `place` may move to `free` unless its home lies between the two.
        far, steps = _far(ring, place), _steps(ring, free, place)
        if far >= steps:
            ring.table[free] = _entry(int(np.int64(ring.table[place]) & _SLOT) - 1, far - steps)
            free = place
    ring.table[free] = 0


@numba.njit(cache=True, nogil=True)
def build_index(ring: Ring) -> None:
    """Enter all rows of a ring whose index is empty. O(C)."""
    for row in range(ring.meta[HEAD], ring.meta[TAIL]):
        slot = row % ring.keys.shape[0]
        if ring.alive[slot]:
            _enter(ring, slot)


@numba.njit(cache=True, nogil=True)
def drop_head(ring: Ring) -> int:
    """Drop the first row; return its slot."""
    slot: int = int(ring.meta[HEAD]) % ring.keys.shape[0]
    if ring.alive[slot]:
        remove(ring, slot)
    ring.meta[HEAD] += 1
    return slot


@numba.njit(cache=True, nogil=True)
def read_ahead(waiting: Ring, keys: U64, row: int, rows_max: int) -> None:
    """Bring the places of the index that the next keys want into the cache, and those of as many rows if these leave.

    The sum of what was read says nothing; were it not kept, the compiler would leave out the reading.
    """
    if row % AHEAD != 0:
        return
    count = min(AHEAD, keys.shape[0] - row)
    total = 0
    for place in range(row, row + count):
        total += waiting.table[_home(waiting, keys[place, 0])]
    head = waiting.meta[HEAD]
    if waiting.meta[TAIL] - head + count > rows_max:
        for place in range(head, head + count):
            total += waiting.table[_home(waiting, waiting.keys[place % waiting.keys.shape[0], 0])]
    waiting.meta[READ] = total
