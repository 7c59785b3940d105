"""Labelled rows to learn from: the latest ones and a fair sample of all, corrected, widened, stored."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.maintenance.labelled_buffer import NUMBER, OFFSET, LabelledBuffer
from worker.core.state import AnyArray

RECENT, SAMPLED, FEATURES = 6, 4, 2


def buffer(features: int = FEATURES) -> LabelledBuffer:
    """Return an empty buffer."""
    return LabelledBuffer(RECENT, SAMPLED, features, 5)


def add(kept: LabelledBuffer, first: int, count: int) -> None:
    """Add rows whose cells and targets are their number, and whose offsets are ten times that."""
    numbers = np.arange(first, first + count, dtype=np.int64)
    rows = np.repeat(numbers[:, np.newaxis], kept.features, axis=1).astype(np.float32)
    kept.add(rows, numbers.astype(np.float64), np.stack([numbers, 10 * numbers, numbers], axis=1))


def numbers(kept: LabelledBuffer) -> tuple[list[int], list[int]]:
    """Return the numbers of the latest rows and of the sample; check that all of a row stays together."""
    recent, sampled = kept.recent(RECENT, 0), kept.sampled(0)
    for labelled, marks in ((recent, kept.recent_marks()), (sampled, kept.sampled_marks())):
        assert labelled.rows[:, 0].tolist() == labelled.targets.tolist() == marks[:, NUMBER].tolist()
        assert (marks[:, OFFSET] == 10 * marks[:, NUMBER]).all()
    return kept.recent_marks()[:, NUMBER].tolist(), kept.sampled_marks()[:, NUMBER].tolist()


@settings(max_examples=60, deadline=None)
@given(cuts=st.lists(st.integers(0, 2 * RECENT), max_size=8))
def test_the_latest_rows_and_a_sample_are_kept_however_they_come(cuts: list[int]) -> None:
    """The latest ones, oldest first; a sample without repetition; one by one or in batches larger than the memory."""
    whole, ones = buffer(), buffer()
    for count in cuts:
        add(whole, whole.seen, count)
        for _ in range(count):
            add(ones, ones.seen, 1)
    seen = sum(cuts)
    recent, sampled = numbers(whole)
    assert recent == list(range(max(seen - RECENT, 0), seen))
    assert len(set(sampled)) == len(sampled) == min(seen, SAMPLED)
    assert set(sampled) <= set(range(seen))
    assert numbers(ones) == (recent, sampled)
    assert {name: array.tobytes() for name, array in ones.arrays().items()} == {
        name: array.tobytes() for name, array in whole.arrays().items()
    }
    assert whole.recent(2, 0).targets.tolist() == recent[-2:]


def test_every_row_is_as_likely_in_the_sample() -> None:
    """Of 40 rows each is kept in a tenth of the buffers (chi square beyond its 99.9 % quantile fails)."""
    counts = np.zeros(40)
    for seed in range(600):
        kept = LabelledBuffer(RECENT, SAMPLED, 1, seed)
        add(kept, 0, 40)
        counts[kept.sampled_marks()[:, NUMBER]] += 1
    expected = 600 * SAMPLED / 40
    assert ((counts - expected) ** 2 / expected).sum() < 72.1


def test_a_corrected_label_is_put_right_where_the_row_still_is() -> None:
    """In both stores; a row that is gone, or that never was, changes nothing, least of all an empty place."""
    kept = buffer()
    kept.correct(0, 99.0)
    assert not np.any(kept.arrays()["recent.targets"])
    add(kept, 0, 3)
    kept.correct(1, -1.0)
    assert kept.recent(RECENT, 0).targets.tolist() == [0.0, -1.0, 2.0]
    assert kept.sampled(0).targets.tolist() == [0.0, -1.0, 2.0]
    add(kept, 3, 20)
    kept.correct(2, -2.0)
    assert kept.recent(RECENT, 0).targets.tolist() == list(range(17, 23))


def test_what_is_handed_out_is_no_view() -> None:
    """A fit that takes its time must not see rows that came since."""
    kept = buffer()
    add(kept, 0, 8)
    recent, sampled = kept.recent(RECENT, 3), kept.sampled(3)
    before = recent.targets.tolist(), sampled.targets.tolist()
    add(kept, 100, 50)
    kept.correct(7, 1.0)
    assert (recent.targets.tolist(), sampled.targets.tolist()) == before
    assert recent.n_classes == sampled.n_classes == 3


def test_new_features_are_missing_in_rows_so_far() -> None:
    """And are kept from then on."""
    kept = buffer()
    add(kept, 0, 5)
    kept.widen(3)
    add(kept, 5, 1)
    assert np.isnan(kept.recent(RECENT, 0).rows[:5, 2]).all()
    assert kept.recent(RECENT, 0).rows[5].tolist() == [5.0, 5.0, 5.0]
    assert (kept.features, kept.sampled(0).rows.shape) == (3, (SAMPLED, 3))


def state() -> dict[str, AnyArray]:
    """Return the state of a buffer of classes 0 and 1."""
    kept = buffer()
    count = 9
    kept.add(
        np.ones((count, FEATURES), dtype=np.float32),
        (np.arange(count) % 2).astype(np.float64),
        np.zeros((count, 3), dtype=np.int64),
    )
    return {name: array.copy() for name, array in kept.arrays().items()}


def test_a_restored_buffer_goes_on_as_before() -> None:
    """With the same rows, and the same chance."""
    kept, twin = buffer(), buffer()
    add(kept, 0, 9)
    twin.restore({name: array.copy() for name, array in kept.arrays().items()}, 0)
    for each in (kept, twin):
        add(each, 9, 30)
    assert numbers(twin) == numbers(kept)


BROKEN: list[tuple[str, float]] = [
    ("own.seen", -1),
    ("own.seen", 2**60),
    ("recent.rows", np.inf),
    ("recent.targets", 2),
    ("recent.targets", -1),
    ("recent.targets", 0.5),
    ("recent.targets", np.nan),
    ("sampled.targets", np.inf),
    ("sampled.marks", -2),
    ("recent.marks", 2**62),
]


@pytest.mark.parametrize(("name", "value"), BROKEN)
def test_impossible_state_is_refused(name: str, value: float) -> None:
    """What no stream can have made: a fit would fail on it, or a kernel read out of bounds."""
    arrays = state()
    buffer().restore(arrays, 2)
    arrays[name].flat[0] = value
    with pytest.raises(ValueError, match="stored labelled rows"):
        buffer().restore(arrays, 2)


def test_arrays_of_another_shape_are_refused() -> None:
    """Each array must be as it was, and no other."""
    for name, array in state().items():
        for other in (np.zeros(()), np.concatenate([array, array]), array.astype(np.complex128)):
            with pytest.raises(ValueError, match="stored labelled rows"):
                buffer().restore(state() | {name: other}, 2)
    with pytest.raises(ValueError, match="stored labelled rows"):
        buffer().restore(state() | {"more": np.zeros(1)}, 2)
