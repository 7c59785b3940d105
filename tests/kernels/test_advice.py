"""The ranking of the shadow pool beside a naive twin."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.kernels import advice as k
from worker.core.kernels.arrays import F64

FADING, ERRORS, LABELS_MIN = 0.8, 1.5, 300


def fresh(candidates: int) -> k.Pairs:
    """Return a ranking without losses."""
    n = candidates + 1
    counts = np.zeros(k.COUNTS, dtype=np.int64)
    return k.Pairs(np.zeros(n), np.zeros((n, n)), np.zeros((n, n)), np.zeros(2), counts)


def pool(seed: int, rows: int = 3_000) -> F64:
    """Return losses of a champion and three challengers that take turns; a tenth is missing."""
    rng = np.random.default_rng(seed)
    means = 0.2 + 0.15 * rng.random((rows // 500, 4)).repeat(500, axis=0)
    losses = (rng.random((rows, 4)) < means).astype(float)
    losses[rng.random((rows, 4)) < 0.1] = np.nan
    return losses


def naive(losses: F64) -> list[tuple[int, int]]:
    """Return after which rows which candidate is advised, from all blocks at each of them."""
    counted = np.flatnonzero(~np.isnan(losses[:, 0]))
    rows = losses[counted]
    rows = np.where(np.isnan(rows), rows[:, :1], rows)
    advised, told = 0, []
    for blocks in range(3, len(rows) // 100 + 1):
        means = rows[: blocks * 100].reshape(blocks, 100, -1).mean(axis=1)
        weights = FADING ** np.arange(blocks - 1, -1, -1)
        best, largest = advised, 0.0
        for b in range(rows.shape[1]):
            x = means[:, advised] - means[:, b]
            mean = float(weights @ x / weights.sum())
            variance = max(float(weights @ x**2 / weights.sum()) - mean**2, 0.0)
            error = math.sqrt(variance * float(weights @ weights)) / float(weights.sum())
            if mean > largest and (b == 0 or mean > ERRORS * error):
                best, largest = b, mean
        if best != advised:
            advised = best
            told.append((int(counted[blocks * 100 - 1]), best))
    return told


def run(losses: F64, cuts: list[int], pairs: k.Pairs) -> list[tuple[int, int]]:
    """Take losses in batches; return after which rows which candidate is advised."""
    told, edges = [], [0, *sorted(cuts), len(losses)]
    for low, high in pairwise(edges):
        row = 0
        while row < high - low:
            row = k.rank_losses(losses[low:high], row, FADING, ERRORS, LABELS_MIN, pairs)
            if row < high - low:
                told.append((low + row, int(pairs.counts[k.ADVISED])))
            row += 1
    return told


@given(seed=st.integers(0, 999), cuts=st.lists(st.integers(0, 3_000), max_size=6))
@settings(max_examples=30, deadline=None)
def test_advice_is_that_of_the_naive_twin_for_any_cutting(seed: int, cuts: list[int]) -> None:
    """The same switches at the same rows, and the same bytes, however the stream is cut."""
    losses, whole, parts = pool(seed), fresh(4), fresh(4)
    told = run(losses, [], whole)
    assert told == naive(losses)
    assert run(losses, cuts, parts) == told
    assert [each.tobytes() for each in whole] == [each.tobytes() for each in parts]


def test_nothing_is_known_before_the_first_block() -> None:
    """No mean is told of 99 labels; of 100 it is theirs."""
    pairs, losses = fresh(2), np.column_stack([np.ones(100), np.zeros(100)])
    k.rank_losses(losses[:99], 0, FADING, ERRORS, LABELS_MIN, pairs)
    assert math.isnan(k.standing(0, 1, pairs)[0])
    k.rank_losses(losses[99:], 0, FADING, ERRORS, LABELS_MIN, pairs)
    assert k.standing(0, 1, pairs) == pytest.approx((1.0, 0.0))
    assert k.standing(0, 2, pairs)[0] == pytest.approx(1.0)
