"""The ring with an index: what is found, also far from home, while rows leave from the middle and the front."""

import random
from collections.abc import Callable

import numpy as np
import pytest

from worker.core.kernels.key_ring import FAR, HEAD, TAIL, Ring, append, build_index, drop_head, find, new_ring, remove

HOMES: dict[str, Callable[[int], int]] = {
    "all of one home": lambda _: 5,
    "home is the last place": lambda _: (1 << 32) - 1,
    "two homes side by side": lambda number: (number % 2) * 2**22,
    "anywhere": lambda number: number * 2_654_435_761 % 2**32,
}


def key_of(home: Callable[[int], int], number: int, words: int) -> tuple[np.uint64, np.uint64]:
    """Return a key of a row; with one word, only the first counts."""
    return np.uint64(home(number) << 32 | (number if words == 1 else 0)), np.uint64(number)


def slots_of(ring: Ring, home: Callable[[int], int], numbers: range, words: int) -> dict[int, int]:
    """Return where each number is found, of those that are."""
    found = {number: find(ring, *key_of(home, number, words)) for number in numbers}
    return {number: slot for number, slot in found.items() if slot >= 0}


@pytest.mark.parametrize("words", [1, 2])
@pytest.mark.parametrize("name", HOMES)
def test_rows_are_found_until_they_leave_and_no_longer(name: str, words: int) -> None:
    """More than FAR rows stand behind one home; they leave in any order, from the front, and their slots come again."""
    home, rng, capacity = HOMES[name], random.Random(7), 3 * FAR
    ring = new_ring(capacity, words)
    there: dict[int, int] = {}
    numbers = range(6 * FAR)
    for number in numbers:
        if number >= capacity:
            drop_head(ring)
            there.pop(number - capacity, None)
        there[number] = append(ring, *key_of(home, number, words))
        if rng.random() < 0.3:
            gone = rng.choice(list(there))
            remove(ring, there.pop(gone))
        if number % FAR == 0 or number == numbers[-1]:
            assert slots_of(ring, home, numbers, words) == there
    assert len(there) > FAR


@pytest.mark.parametrize("name", HOMES)
def test_an_index_that_is_built_finds_what_the_one_before_did(name: str) -> None:
    """Rows that have gone are not entered."""
    home, numbers = HOMES[name], range(3 * FAR)
    ring, again = new_ring(len(numbers), 2), new_ring(len(numbers), 2)
    for number in numbers:
        append(ring, *key_of(home, number, 2))
    for slot in range(0, len(numbers), 3):
        remove(ring, slot)
    again.keys[:], again.alive[:] = ring.keys, ring.alive
    again.meta[[HEAD, TAIL]] = ring.meta[[HEAD, TAIL]]
    build_index(again)
    assert slots_of(again, home, numbers, 2) == slots_of(ring, home, numbers, 2) == {n: n for n in numbers if n % 3}
