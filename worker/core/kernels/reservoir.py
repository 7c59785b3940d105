"""A random sample of a stream in bounded memory (Vitter 1985, "Random sampling with a reservoir", Algorithm R).

The random numbers are splitmix64 (Steele, Lea, Flood 2014, OOPSLA), whose whole state is one u64: a sample is a
function of the seed and the rows, however they are cut into batches.
"""

import numba
import numpy as np

from worker.core.kernels.arrays import F32, F64, I64, U64

# A quarter of the largest float32, as in `detectors.isolation_forest.to_forest_rows`: no kept value is infinite.
LARGEST = float(np.finfo(np.float32).max) / 4.0


@numba.njit(cache=True, nogil=True)
def next_random(random_state: U64) -> np.uint64:
    """Return 64 random bits and move `random_state` u64[1] on. O(1). Every seed is as good as any other."""
    random_state[0] += np.uint64(0x9E3779B97F4A7C15)
    z: np.uint64 = random_state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@numba.njit(cache=True, nogil=True)
def add_rows(rows: F64 | F32, store: F32, seen: I64, random_state: U64, memory: int) -> None:
    """Offer rows [n, d] (NaN = missing), in order, to `store` f32[m, d]. O(n + kept d).

    The first m rows fill the store in order. From then on row number s (from 1) replaces a random one with
    probability m / s (`memory` = 0: every row of the past is kept with equal probability), or else with probability
    max(m / s, m / memory): from row number `memory` on the past fades, with a half-life of ln(2) x memory rows
    (Aggarwal 2006, VLDB, section 2). A memory under m counts as m: every row is kept then.

    `seen` i64[1] counts all rows offered. One random number is used for each row once the store is full. The modulo
    prefers low places by less than s / 2^64.
    """
    size = store.shape[0]
    for i in range(rows.shape[0]):
        number = seen[0] + 1
        seen[0] = number
        place = number - 1
        if number > size:
            choices = number if memory == 0 else min(number, max(memory, size))
            place = np.int64(next_random(random_state) % np.uint64(choices))
        if place < size:
            for j in range(rows.shape[1]):
                store[place, j] = min(max(rows[i, j], -LARGEST), LARGEST)
