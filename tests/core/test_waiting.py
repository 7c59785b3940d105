"""Waiting rows: what was said of an event is there when its label comes, as long as memory lasts, and survives."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.kernels.arrays import F32, I64
from worker.core.maintenance import waiting
from worker.core.maintenance.waiting import NOT_KEPT, PART_ROWS_MAX, WaitingRows
from worker.core.state import AnyArray

ROWS_MAX = 100


@pytest.fixture(autouse=True)
def _small_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin with few rows, so that the memory grows soon."""
    monkeypatch.setattr(waiting, "_WINDOW_MIN", 16)


def add(rows: WaitingRows, count: int, *, outputs: int = 1) -> I64:
    """Keep rows whose only cell is their number, and of which minus that is said; the epoch is the number of a ten."""
    numbers = np.arange(rows.newest, rows.newest + count)
    cells = numbers[:, np.newaxis].astype(np.float32)
    said: F32 = np.repeat(-cells, outputs, axis=1)
    return rows.add(cells, said, (numbers // 10).astype(np.int32), 7)


def ask(rows: WaitingRows, numbers: list[int]) -> list[int]:
    """Return the cell of each row that is still there, -1 for the others; check that all of it is its own."""
    asked = np.array(numbers, dtype=np.int64)
    places = rows.places(asked, np.full(len(numbers), rows.newest, dtype=np.int64))
    found = []
    for number, place in zip(numbers, places.tolist(), strict=True):
        if place >= 0:
            assert rows.outputs[place].tolist() == [-number]
            assert (rows.epochs[place], rows.generations[place]) == (number // 10, 7)
        found.append(int(rows.cells[place, 0]) if place >= 0 else NOT_KEPT)
    rows.grow()
    return found


def test_the_latest_rows_are_kept() -> None:
    """A window of them can be asked for, older ones are missed, and counted; what never was is no miss."""
    rows = WaitingRows(1, 1, 16)
    assert add(rows, 30).tolist() == list(range(30))
    assert ask(rows, [29, 14, 20]) == [29, 14, 20]
    assert rows.missed == 0
    assert ask(rows, [13, 0, NOT_KEPT]) == [NOT_KEPT] * 3
    assert rows.missed == 2


def test_a_miss_makes_the_memory_grow_up_to_its_bound() -> None:
    """Where labels come late, more is remembered from then on; what is gone stays gone."""
    rows = WaitingRows(1, 1, ROWS_MAX)
    add(rows, 60)
    assert ask(rows, [20]) == [NOT_KEPT]
    assert ask(rows, [44, 43]) == [44, NOT_KEPT]
    add(rows, 20)
    assert ask(rows, [44, 79]) == [44, 79]
    for _ in range(20):
        add(rows, 50)
        ask(rows, [0])
    assert ask(rows, [rows.newest - ROWS_MAX, rows.newest - ROWS_MAX - 1]) == [rows.newest - ROWS_MAX, NOT_KEPT]
    assert len(rows.cells) <= ROWS_MAX + PART_ROWS_MAX


def test_a_label_within_a_part_finds_what_the_rest_of_the_part_pushes_out() -> None:
    """A label is told as of its row: at the first of as many rows as one call may bring, the oldest are still there."""
    rows = WaitingRows(1, 1, 16)
    add(rows, 40)
    add(rows, PART_ROWS_MAX)
    asked = np.array([25, 24], dtype=np.int64)
    places = rows.places(asked, np.array([41, 41], dtype=np.int64))
    assert rows.cells[places[0], 0] == 25
    assert places[1] == NOT_KEPT


def test_other_columns_and_outputs_make_room() -> None:
    """New features of rows that wait are missing, new outputs too; void rows have neither outputs nor generation."""
    rows = WaitingRows(1, 1, 16)
    add(rows, 40)
    rows.reshape(3, 1)
    place = rows.places(np.array([39]), np.array([40]))[0]
    assert rows.cells[place, 0] == 39
    assert np.isnan(rows.cells[place, 1:]).all()
    assert rows.outputs[place].tolist() == [-39]
    rows.reshape(3, 2)
    rows.void()
    place = rows.places(np.array([39]), np.array([40]))[0]
    assert rows.cells[place, 0] == 39
    assert np.isnan(rows.outputs[place]).all()
    assert (rows.generations[place], rows.epochs[place]) == (-1, 3)


def restored(rows: WaitingRows) -> WaitingRows:
    """Return other rows with that state, whose arrays are not to be written to."""
    twin = WaitingRows(1, 1, ROWS_MAX)
    stored = {name: array.copy() for name, array in rows.arrays().items()}
    for array in stored.values():
        array.flags.writeable = False
    twin.restore(stored)
    return twin


def same(one: WaitingRows, other: WaitingRows) -> bool:
    """Tell whether two have equal state."""
    return {name: array.tobytes() for name, array in one.arrays().items()} == {
        name: array.tobytes() for name, array in other.arrays().items()
    }


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_cuts_and_restores_change_nothing(seed: int) -> None:
    """Rows one by one, in parts, or restored now and then: the same rows are found, and the same state is left."""
    rng = random.Random(seed)
    whole, ones, chain = (WaitingRows(1, 1, ROWS_MAX) for _ in range(3))
    for _ in range(12):
        count = rng.choice([0, 1, 5, 30, 90])
        add(whole, count)
        for _ in range(count):
            add(ones, 1)
        add(chain, count)
        asked = [rng.randrange(max(whole.newest - 130, -1), whole.newest) for _ in range(rng.choice([0, 1, 4]))]
        found = ask(whole, asked)
        assert [ask(ones, [each])[0] for each in asked] == found
        assert ask(chain, asked) == found
        chain = restored(chain)
        assert same(whole, ones)
        assert same(whole, chain)


def state() -> dict[str, AnyArray]:
    """Return the state of rows some of which are gone."""
    rows = WaitingRows(1, 1, ROWS_MAX)
    add(rows, 60)
    ask(rows, [20])
    return {name: array.copy() for name, array in rows.arrays().items()}


BROKEN: list[tuple[str, int, float]] = [
    ("clock", 0, -1),
    ("clock", 0, 2**60),
    ("clock", 1, 61),
    ("clock", 1, -(2**40)),
    ("clock", 2, 0),
    ("clock", 2, ROWS_MAX + 1),
    ("clock", 2, 2**50),
    ("clock", 3, -1),
    ("generations", 0, -2),
    ("epochs", 0, -2),
    ("cells", 0, np.inf),
    ("outputs", 0, -np.inf),
]


@pytest.mark.parametrize(("name", "place", "value"), BROKEN)
def test_impossible_state_is_refused(name: str, place: int, value: float) -> None:
    """What rows would be looked up beyond their memory with, or what no stream can have made."""
    arrays = state()
    WaitingRows(1, 1, ROWS_MAX).restore(arrays)
    arrays[name].flat[place] = value
    with pytest.raises(ValueError, match="stored waiting rows"):
        WaitingRows(1, 1, ROWS_MAX).restore(arrays)


def test_arrays_of_another_shape_are_refused() -> None:
    """Each array is as long as there are rows, and as wide as a row."""
    for name, array in state().items():
        rest = state()
        for other in (array[:-1], array.astype(np.complex128), np.zeros(())):
            with pytest.raises(ValueError, match="stored waiting rows"):
                WaitingRows(1, 1, ROWS_MAX).restore(rest | {name: other})
        del rest[name]
        with pytest.raises(ValueError, match="stored waiting rows"):
            WaitingRows(1, 1, ROWS_MAX).restore(rest)
