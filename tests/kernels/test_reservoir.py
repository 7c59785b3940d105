"""The reservoir: its naive twin, batch cuts, and that its samples are as uniform, or as young, as promised."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.kernels.arrays import F32, F64
from worker.core.kernels.reservoir import add_rows, next_random

_MASK = 2**64 - 1


class Splitmix64:
    """The published generator in Python integers."""

    def __init__(self, state: int) -> None:
        self.state = state

    def next(self) -> int:
        """Return the next 64 bits."""
        self.state = (self.state + 0x9E3779B97F4A7C15) & _MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)


def naive_sample(rows: F64, size: int, seed: int, memory: int) -> list[list[float]]:
    """The naive twin: Algorithm R on a list."""
    generator = Splitmix64(seed)
    kept: list[list[float]] = []
    for number, row in enumerate(rows.tolist(), start=1):
        if number <= size:
            kept.append(row)
            continue
        place = generator.next() % (number if memory == 0 else min(number, max(memory, size)))
        if place < size:
            kept[place] = row
    return kept


def sample(parts: list[F64], size: int, seed: int, memory: int) -> tuple[F32, int, int]:
    """The kernel over a stream cut into parts: what it keeps, rows seen, random state."""
    store = np.full((size, parts[0].shape[1]), np.nan, dtype=np.float32)
    seen = np.zeros(1, dtype=np.int64)
    random_state = np.array([seed], dtype=np.uint64)
    for part in parts:
        add_rows(part, store, seen, random_state, memory)
    return store, int(seen[0]), int(random_state[0])


def test_splitmix64_gives_the_published_numbers() -> None:
    """From seed 1234567 the first numbers are those of the reference implementation."""
    state = np.array([1234567], dtype=np.uint64)
    numbers = [int(next_random(state)) for _ in range(3)]
    assert numbers == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(
    n_rows=st.integers(0, 80),
    size=st.integers(1, 20),
    memory=st.sampled_from([0, 5, 30]),
    seed=st.integers(0, _MASK),
    cuts=st.lists(st.integers(0, 80), max_size=5),
)
@settings(max_examples=100, deadline=None)
def test_equals_its_naive_twin_in_any_cut(n_rows: int, size: int, memory: int, seed: int, cuts: list[int]) -> None:
    """Kept rows, their places, and the random state are those of Algorithm R, however the stream is cut."""
    rows = np.arange(n_rows * 2, dtype=np.float64).reshape(n_rows, 2)
    parts = np.split(rows, sorted(min(cut, n_rows) for cut in cuts))
    store, seen, state = sample(parts, size, seed, memory)
    assert seen == n_rows
    np.testing.assert_array_equal(
        store[: min(n_rows, size)], np.array(naive_sample(rows, size, seed, memory)).reshape(-1, 2)
    )
    assert (store, seen, state)[1:] == sample([rows], size, seed, memory)[1:]


def kept_numbers(memory: int) -> F64:
    """The numbers of the rows that 100 samples of 20 out of 1,000 kept."""
    rows = np.arange(1000.0)[:, np.newaxis]
    return np.concatenate([sample([rows], 20, seed, memory)[0][:, 0] for seed in range(100)]).astype(np.float64)


def test_sample_is_uniform_without_memory() -> None:
    """Every tenth of the stream gives its tenth of 2,000 kept rows, within five standard deviations."""
    per_tenth = np.histogram(kept_numbers(0), bins=10, range=(0, 1000))[0]
    assert np.abs(per_tenth - 200).max() < 5 * np.sqrt(2000 * 0.1 * 0.9)


def test_past_fades_with_memory() -> None:
    """With a memory of 100 rows a row that is a rows old is kept with probability e^(-a / 100)."""
    age = 999.0 - kept_numbers(100)
    assert np.mean(age) == pytest.approx(100.0, rel=0.1)
    assert np.mean(age > 100.0 * np.log(2.0)) == pytest.approx(0.5, abs=0.06)


def test_values_are_cut_and_missing_stays_missing() -> None:
    """What float32 cannot hold is cut to a finite value, and float32 rows are taken as well."""
    rows = np.array([[1e300, -1e300, np.nan]])
    store = sample([rows], 1, 0, 0)[0]
    assert np.isfinite(store[0, :2]).all()
    assert np.isnan(store[0, 2])
    again = np.zeros((1, 3), dtype=np.float32)
    add_rows(store, again, np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.uint64), 0)
    np.testing.assert_array_equal(again, store)
