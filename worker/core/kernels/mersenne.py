"""The Mersenne Twister (Matsumoto, Nishimura 1998), seeded and drawn from as `numpy.random.RandomState` does.

numpy's generator objects take 10 µs to seed and cannot be used in kernels; scikit-learn's forests seed three for each
tree. State is a u32[625]: the 624 words, then the place of the next one.
"""

import numba
import numpy as np

from worker.core.kernels.arrays import I64, U32, Bool

WORDS = 624
_MIDDLE = 397
_FULL = 0xFFFFFFFF
_TRACKED_SHARE_MAX = 0.01
_PERMUTED_SHARE_MAX = 0.99


@numba.njit(cache=True, nogil=True)
def seed_words(state: U32, seed: int) -> None:
    """Seed as `RandomState(seed)` does. O(624)."""
    word = np.uint64(seed & _FULL)
    for place in range(WORDS):
        state[place] = word
        word = (np.uint64(1812433253) * (word ^ (word >> np.uint64(30))) + np.uint64(place + 1)) & np.uint64(_FULL)
    state[WORDS] = WORDS


@numba.njit(cache=True, nogil=True)
def _twist(state: U32) -> None:
    """Make the next 624 words. O(624)."""
    for place in range(WORDS - _MIDDLE):
        state[place] = state[place + _MIDDLE] ^ _mixed(state[place], state[place + 1])
    for place in range(WORDS - _MIDDLE, WORDS - 1):
        state[place] = state[place + _MIDDLE - WORDS] ^ _mixed(state[place], state[place + 1])
    state[WORDS - 1] = state[_MIDDLE - 1] ^ _mixed(state[WORDS - 1], state[0])
    state[WORDS] = 0


@numba.njit(cache=True, nogil=True)
def _mixed(word: np.uint32, following: np.uint32) -> np.uint32:
    """Return what is added to the word that lies 397 further on."""
    joined = (word & np.uint32(0x80000000)) | (following & np.uint32(0x7FFFFFFF))
    return (joined >> np.uint32(1)) ^ ((joined & np.uint32(1)) * np.uint32(0x9908B0DF))


@numba.njit(cache=True, nogil=True)
def next_word(state: U32) -> int:
    """Return 32 random bits."""
    if state[WORDS] == WORDS:
        _twist(state)
    word = int(state[int(state[WORDS])])
    state[WORDS] += 1
    word ^= word >> 11
    word ^= (word << 7) & 0x9D2C5680
    word ^= (word << 15) & 0xEFC60000
    return word ^ (word >> 18)


@numba.njit(cache=True, nogil=True)
def below(state: U32, bound: int) -> int:
    """Return an integer in [0, bound), as `RandomState.randint(bound)`: bits above the bound are drawn again."""
    largest = bound - 1
    if largest == 0:
        return 0
    mask = 1
    while mask < largest:
        mask = 2 * mask + 1
    return _up_to(state, largest, mask)


@numba.njit(cache=True, nogil=True)
def _up_to(state: U32, largest: int, mask: int) -> int:
    """Return an integer in [0, largest]; `mask` is the least 2^b - 1 that is not below it."""
    drawn = next_word(state) & mask
    while drawn > largest:
        drawn = next_word(state) & mask
    return drawn


@numba.njit(cache=True, nogil=True)
def sample_places(state: U32, population: int, sample: I64) -> None:
    """Fill `sample` i64[k] with k of `population` places, rising: those of scikit-learn's sample_without_replacement.

    It shuffles all, unless k is nearly nothing (then it draws until a new one comes) or nearly all (a reservoir).
    O(population + k log k).
    """
    size = len(sample)
    share = size / population
    if share <= _TRACKED_SHARE_MAX:
        _draw_new_ones(state, population, sample)
    elif share < _PERMUTED_SHARE_MAX:
        sample[:] = _shuffled(state, population)[:size]
    else:
        sample[:] = np.arange(size)
        for place in range(size, population):
            other = below(state, place + 1)
            if other < size:
                sample[other] = place
    sample.sort()


@numba.njit(cache=True, nogil=True)
def _shuffled(state: U32, population: int) -> I64:
    """Return the places below `population` as `RandomState.permutation` orders them."""
    places = np.arange(population)
    mask = 1
    while mask < population - 1:
        mask = 2 * mask + 1
    for last in range(population - 1, 0, -1):
        if mask >> 1 >= last:
            mask >>= 1
        other = _up_to(state, last, mask)
        places[last], places[other] = places[other], places[last]
    return places


@numba.njit(cache=True, nogil=True)
def _draw_new_ones(state: U32, population: int, sample: I64) -> None:
    """Fill `sample` with different places below `population`."""
    drawn: Bool = np.zeros(population, dtype=np.bool_)
    for place in range(len(sample)):
        other = below(state, population)
        while drawn[other]:
            other = below(state, population)
        drawn[other] = True
        sample[place] = other
