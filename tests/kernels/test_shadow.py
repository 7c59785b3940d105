"""Rows of the shadow pool: losses, samples, thinning, the ring of waiting rows and figures, with their naive twins."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.test_reservoir import Splitmix64
from worker.core.kernels import shadow
from worker.core.kernels.arrays import F64, I64

NAN = math.nan

# -------------------------------------------------------------------------------------------------------------- losses


def naive_loss(loss: int, output: Sequence[float], target: float, threshold: float, scale: float) -> float:
    """The naive twin: the loss of one answer, from the definitions."""
    if math.isnan(output[0]):
        return NAN
    if loss == shadow.SQUARED:
        return min((output[0] - target) ** 2 / scale, 1.0)
    if len(output) == 1:
        said, truth = [1.0 - output[0], output[0]], int(target)
        decision = int(output[0] >= threshold)
    else:
        said, truth = list(output), int(target)
        decision = max(range(len(said)), key=lambda code: (said[code], -code))
    if loss == shadow.ERROR:
        return float(decision != truth)
    return min(0.5 * math.fsum((p - (code == truth)) ** 2 for code, p in enumerate(said)), 1.0)


def answers(rng: np.random.Generator, rows: int, candidates: int, width: int) -> F64:
    """Return probabilities f64[n, C, K], some of them equal, some missing."""
    outputs = np.round(rng.random((rows, candidates, max(width, 2))), 1) + 0.01
    outputs /= outputs.sum(axis=2, keepdims=True)
    outputs[rng.random((rows, candidates)) < 0.2] = NAN
    return outputs[:, :, :width].copy()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([shadow.BRIER, shadow.ERROR]),
    width=st.sampled_from([1, 2, 3, 5]),
    threshold=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
)
def test_losses_of_classes_are_those_of_the_definition(seed: int, loss: int, width: int, threshold: float) -> None:
    """Brier's score and the error of each candidate, within [0, 1], NaN where it said nothing."""
    rng = np.random.default_rng(seed)
    outputs, targets = answers(rng, 12, 3, width), rng.integers(0, max(width, 2), 12).astype(np.float64)
    losses = np.full((12, 3), -1.0)
    shadow.candidate_losses(loss, outputs, targets, threshold, 1.0, losses)
    for row, candidate in np.ndindex(losses.shape):
        expected = naive_loss(loss, outputs[row, candidate].tolist(), float(targets[row]), threshold, 1.0)
        assert losses[row, candidate] == pytest.approx(expected, abs=1e-12, nan_ok=True)
        assert not losses[row, candidate] < 0.0
        assert not losses[row, candidate] > 1.0


@settings(deadline=None)
@given(
    output=st.floats(-1e30, 1e30) | st.just(NAN),
    target=st.floats(-1e30, 1e30),
    scale=st.sampled_from([1e-30, 2.0, 1e30]),
)
def test_losses_of_numbers_are_squares_in_units_and_cut_at_one(output: float, target: float, scale: float) -> None:
    """(error)^2 / scale, at most 1: finite for whatever numbers there can be."""
    losses = np.empty((1, 1))
    shadow.candidate_losses(shadow.SQUARED, np.array([[[output]]]), np.array([target]), 0.5, scale, losses)
    assert losses[0, 0] == pytest.approx(naive_loss(shadow.SQUARED, [output], target, 0.5, scale), nan_ok=True)


# -------------------------------------------------------------------------------------------------------------- sample


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), size=st.integers(1, 6), cuts=st.lists(st.integers(0, 9), max_size=6))
def test_kept_rows_are_those_of_algorithm_r(seed: int, size: int, cuts: list[int]) -> None:
    """Row, target and marks stay together, and how rows are cut into batches changes nothing."""
    count = sum(cuts)
    numbers = np.arange(count, dtype=np.float64)
    rows = np.stack([numbers, -numbers], axis=1).astype(np.float32)
    store, targets = np.full((size, 2), -9.0, dtype=np.float32), np.full(size, -9.0)
    marks, seen = np.full((size, 1), -9, dtype=np.int64), np.zeros(1, dtype=np.int64)
    state = np.array([seed], dtype=np.uint64)
    begin = 0
    for each in cuts:
        part = slice(begin, begin + each)
        own = numbers[part].astype(np.int64)[:, np.newaxis]
        shadow.keep_rows(rows[part], numbers[part] + 0.5, own, store, targets, marks, seen, state)
        begin += each
    generator = Splitmix64(seed)
    kept: list[float] = [-9.0] * size
    for number in range(count):
        place = number if number < size else generator.next() % (number + 1)
        if place < size:
            kept[place] = number
    assert store[:, 0].tolist() == kept
    assert marks[:, 0].tolist() == kept
    assert [each - 0.5 for each in targets if each >= 0] == [each for each in kept if each >= 0]
    assert (int(seen[0]), int(state[0])) == (count, generator.state)


# ------------------------------------------------------------------------------------------------------------ thinning


@settings(deadline=None)
@given(first=st.integers(0, 2**53), level=st.integers(0, 16), cut=st.integers(0, 40))
def test_thinning_depends_on_the_number_of_an_event_alone(first: int, level: int, cut: int) -> None:
    """However events are cut; and who is used at a level is used at each lower one."""

    def used(begin: int, count: int, at: int) -> list[bool]:
        found = np.empty(count, dtype=np.bool)
        shadow.used_by_thinning(begin, at, found)
        return found.tolist()

    def naive(number: int) -> bool:
        # The generator adds its constant before it mixes; here the number times it is mixed.
        return bool(Splitmix64((number - 1) * 0x9E3779B97F4A7C15 & (2**64 - 1)).next() % 2**level == 0)

    whole = used(first, 40, level)
    assert whole == used(first, cut, level) + used(first + cut, 40 - cut, level)
    assert whole == [naive(first + row) for row in range(40)]
    assert all(lower or not here for lower, here in zip(used(first, 40, max(level - 1, 0)), whole, strict=True))


@pytest.mark.parametrize("level", [1, 3, 6])
def test_thinning_uses_about_as_many_as_it_says(level: int) -> None:
    """One in 2^level, also of every second, of every eighth event (within five standard errors)."""
    found = np.empty(80_000, dtype=np.bool)
    shadow.used_by_thinning(0, level, found)
    for step in (1, 2, 8):
        share, count = found[::step].mean(), len(found[::step])
        assert abs(share - 2.0**-level) < 5 * math.sqrt(2.0**-level / count)


# ------------------------------------------------------------------------------------------------------- waiting rows


class NaiveRing:
    """The naive twin: which numbers can still be asked for."""

    def __init__(self, window: int, window_max: int) -> None:
        self.window, self.window_max, self.oldest, self.missed = window, window_max, 0, 0

    def find(self, number: int, newest: int) -> bool:
        """Tell whether a row is there, `newest` rows being there so far."""
        if number < 0:
            return False
        self.oldest = max(self.oldest, newest - self.window)
        if number >= self.oldest:
            return True
        self.missed += 1
        wanted = newest - number
        while wanted > self.window and self.window < self.window_max:
            self.window = min(self.window * 2, self.window_max)
        return False


@settings(max_examples=80, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(0, 30), st.integers(-1, 150)), max_size=40),
    cuts=st.sets(st.integers(0, 40)),
    window_max=st.sampled_from([8, 20, 100]),
)
def test_the_ring_finds_what_its_twin_finds(steps: list[tuple[int, int]], cuts: set[int], window_max: int) -> None:
    """Rows that are kept, misses, and how the memory grows, wherever labels are cut into batches."""
    twin, size, newest = NaiveRing(8, window_max), 1_000, 0
    clock: I64 = np.array([0, 0, 8, 0], dtype=np.int64)
    asked: list[tuple[int, int]] = []
    for more, back in steps:
        newest += more
        asked.append((min(max(newest - back, -1), newest - 1), newest))
    found, expected = [], [twin.find(*each) for each in asked]
    places = sorted({0, len(asked), *(each for each in cuts if each < len(asked))})
    for begin, end in itertools.pairwise(places):
        part = np.array(asked[begin:end], dtype=np.int64).reshape(-1, 2)
        out = np.empty(len(part), dtype=np.int64)
        shadow.find_waiting(part[:, 0].copy(), part[:, 1].copy(), window_max, size, clock, out)
        found += out.tolist()
    assert [each >= 0 for each in found] == expected
    assert all(place == number % size for place, (number, _) in zip(found, asked, strict=True) if place >= 0)
    assert clock[shadow.OLDEST :].tolist() == [twin.oldest, twin.window, twin.missed]


# ------------------------------------------------------------------------------------------------------------- figures


def naive_figures(
    outputs: F64, targets: F64, losses: F64, threshold: float, shift: float, *, is_number: bool
) -> list[list[float]]:
    """The naive twin: the sums of each candidate, from the definitions."""
    sums = []
    for candidate in range(losses.shape[1]):
        both = [row for row in range(len(losses)) if not np.isnan(losses[row, [0, candidate]]).any()]
        columns = [[1.0, losses[row, 0], losses[row, candidate], *[0.0] * 6] for row in both]
        for row, own in zip(both, columns, strict=True):
            target = targets[row]
            for place, who in enumerate((0, candidate)):
                output = outputs[row, who].tolist()
                if is_number:
                    own[shadow.CHAMPION_SQUARE + place] = (output[0] - target) ** 2
                else:
                    error = naive_loss(shadow.ERROR, output, target, threshold, 1.0)
                    own[shadow.CHAMPION_WRONG + place] = losses[row, who] if math.isnan(error) else error
            if is_number:
                own[shadow.TARGET], own[shadow.TARGET_SQUARE] = target - shift, (target - shift) ** 2
        sums.append([math.fsum(column) for column in zip(*columns, strict=True)] or [0.0] * shadow.FIGURES)
    return sums


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), width=st.sampled_from([1, 3]), is_number=st.booleans(), has_outputs=st.booleans())
def test_figures_are_sums_over_labels_that_both_have(
    seed: int,
    width: int,
    is_number: bool,  # noqa: FBT001 - drawn by Hypothesis
    has_outputs: bool,  # noqa: FBT001 - drawn by Hypothesis
) -> None:
    """Of the champion and of each candidate; a champion that says no probabilities has the errors of its decisions."""
    rng, rows = np.random.default_rng(seed), 9
    width = 1 if is_number else width
    outputs = answers(rng, rows, 3, width)
    targets = rng.normal(5, 2, rows) if is_number else rng.integers(0, max(width, 2), rows).astype(np.float64)
    losses = np.empty((rows, 3))
    shadow.candidate_losses(shadow.SQUARED if is_number else shadow.ERROR, outputs, targets, 0.4, 9.0, losses)
    if not (has_outputs or is_number):
        outputs[:, 0] = NAN
        losses[:, 0] = rng.integers(0, 2, rows)
    sums: F64 = np.zeros((3, shadow.FIGURES))
    for part in (slice(0, 4), slice(4, 9)):
        shadow.add_figures(is_number, outputs[part], targets[part], losses[part], 0.4, 5.0, sums)
    expected = naive_figures(outputs, targets, losses, 0.4, 5.0, is_number=is_number)
    np.testing.assert_allclose(sums, expected, rtol=1e-12, atol=1e-12)


@settings(deadline=None)
@given(first=st.integers(0, 2**40), level=st.integers(0, 6), wanted=st.integers(1, 20), rows_max=st.integers(1, 300))
def test_rows_up_to_the_wanted_one_hold_so_many_used_events(first: int, level: int, wanted: int, rows_max: int) -> None:
    """The last of them is used and no fewer hold as many; or there are all of them, because they hold fewer."""
    used = np.empty(rows_max, dtype=np.bool_)
    shadow.used_by_thinning(first, level, used)
    places = np.flatnonzero(used)
    expected = places[wanted - 1] + 1 if len(places) >= wanted else rows_max
    assert shadow.rows_until_used(first, level, wanted, rows_max) == expected
