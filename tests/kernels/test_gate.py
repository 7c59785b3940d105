"""The gate: its naive twin, the share that it lets through, and what makes it open."""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.test_reservoir import Splitmix64
from worker.core.detectors.gate import Gate
from worker.core.kernels.arrays import F64
from worker.core.kernels.gate import (
    ADMITTED,
    MEMORY_SCORES,
    PASSED,
    RENEWAL_SCORES_MAX,
    SCORES_MIN,
    GateArrays,
    admits,
    keep_rows,
)


def small_gate(quantile: float, size: int, seed: int) -> GateArrays:
    """A gate with a sample of another size than detectors have."""
    gate = Gate(quantile, seed).for_kernel
    return gate._replace(sample=np.zeros(size))


def naive_answers(scores: list[float], quantile: float, size: int, seed: int) -> list[bool]:
    """The naive twin: a list that is sorted when the threshold is due."""
    generator, sample, threshold, due, answers = Splitmix64(seed), list[float](), float("inf"), 0, []
    for number, score in enumerate(scores, start=1):
        answers.append(score <= threshold)
        place = number - 1 if number <= size else generator.next() % min(number, max(MEMORY_SCORES, size))
        if place == len(sample) < size:
            sample.append(score)
        elif place < size:
            sample[place] = score
        if number >= max(SCORES_MIN, due):
            sample.sort()
            threshold = sample[int(quantile * (len(sample) - 1))]
            due = number + min(max(SCORES_MIN, number // 8), RENEWAL_SCORES_MAX)
    return answers


@given(st.lists(st.floats(-10, 10), max_size=400), st.sampled_from([0.5, 0.9, 0.95]), st.integers(1, 80))
@settings(max_examples=60, deadline=None)
def test_equals_its_naive_twin(scores: list[float], quantile: float, size: int) -> None:
    """Every answer is that of a sorted list with the same draws."""
    gate = small_gate(quantile, size, 5)
    assert [bool(admits(score, gate)) for score in scores] == naive_answers(scores, quantile, size, 5)


def answers(gate: GateArrays, scores: F64) -> Any:  # noqa: ANN401 - an array of booleans
    """Ask about many scores."""
    return np.array([admits(score, gate) for score in scores])


def test_keeps_out_the_share_above_the_quantile() -> None:
    """Of scores of one law a gate at 95 % keeps out one in twenty."""
    admitted = answers(Gate(0.95, 1).for_kernel, np.random.default_rng(1).normal(size=20_000))
    assert 0.04 < np.mean(~admitted[2000:]) < 0.06


def test_a_burst_is_kept_out_and_a_new_regime_let_in() -> None:
    """High scores stay outside while they are rare, and come in when they are more than the share above."""
    rng = np.random.default_rng(2)
    gate = Gate(0.95, 1).for_kernel
    answers(gate, rng.normal(size=20_000))
    assert not answers(gate, rng.normal(10, 1, size=500)).any()
    answers(gate, rng.normal(10, 1, size=2_000))
    assert answers(gate, rng.normal(10, 1, size=5_000)).mean() > 0.3


def test_equal_scores_are_let_in() -> None:
    """Scores that never change are none that stand out."""
    assert answers(Gate(0.95, 1).for_kernel, np.full(1000, 7.0)).all()


def test_a_quantile_of_one_lets_everything_in_and_notes_nothing() -> None:
    """A gate that is off costs nothing."""
    gate = Gate(1.0, 1)
    assert answers(gate.for_kernel, np.arange(500.0)).all()
    assert not gate.for_kernel.sample.any()


def test_rows_are_kept_as_the_gate_and_the_draw_say() -> None:
    """Rows without a score and the first ones are kept unasked; the others are counted as admitted or passed over."""
    rng = np.random.default_rng(3)
    rows, scores = rng.normal(size=(3000, 2)), rng.normal(size=3000)
    rows[:, 0], scores[:50] = np.arange(3000), np.nan
    scores[100:150] = 100.0
    store, counters = np.zeros((40, 2), dtype=np.float32), np.zeros(2, dtype=np.int64)
    keep_rows(rows, scores, 150, 0, store, counters, np.zeros(1, dtype=np.uint64), Gate(0.95, 1).for_kernel)
    assert counters.sum() == 3000
    assert 90 < counters[PASSED] < 200
    assert (store[:, 0] >= 150).mean() > 0.8
    high = scores[store[:, 0].astype(int)] > np.quantile(scores, 0.98)
    assert not high.any()
    assert counters[ADMITTED] > 2700
