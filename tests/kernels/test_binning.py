"""Bins, blocks and what is computed of them: naive twins, scipy as an oracle, and cuts that change nothing."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats  # type: ignore[import-untyped] # no stubs

from worker.core.kernels.arrays import F64, I64
from worker.core.kernels.binning import (
    BATCH,
    CELLS,
    LAG_SUMS,
    add_differences,
    add_lags,
    add_products,
    add_transitions,
    count_bins,
    count_projected,
    project,
    score_bins,
    slowest_scores,
    sum_blocks,
)
from worker.core.kernels.two_sample import EVENTS, FOUND, FREEDOM, PSI, G, Z, compare

OTHER, MISSING = 4, 5
EDGES = np.array([[-1.0, 0.0, 2.0], [0.5, math.inf, math.inf], [math.inf] * 3])
CENTER = np.array([0.0, 10.0, 0.0])
TABLE = np.array([[OTHER] * 3, [OTHER] * 3, [OTHER, 1, 0]], dtype=np.uint8)
IS_CATEGORICAL = np.array([False, False, True])
NUMBERS = st.one_of(st.sampled_from([-1.0, 0.0, 2.0, 10.5, math.nan]), st.floats(-20.0, 20.0))
ROWS = st.lists(st.tuples(NUMBERS, NUMBERS, st.sampled_from([0.0, 1.0, 2.0, 7.0, math.nan])), max_size=20)
COUNTS = hnp.arrays(np.int64, st.tuples(st.just(1), st.integers(3, 8)), elements=st.integers(0, 300))


def naive_bin(column: int, x: float) -> int:
    """The naive twin for one value."""
    if math.isnan(x):
        return MISSING
    if IS_CATEGORICAL[column]:
        return int(TABLE[column, int(x)]) if x < TABLE.shape[1] else OTHER
    return sum(edge < x - CENTER[column] for edge in EDGES[column].tolist())


@given(ROWS)
@settings(max_examples=80, deadline=None)
def test_bins_equal_the_naive_twin(rows: list[tuple[float, float, float]]) -> None:
    """An upper edge belongs to its bin, an unknown category to the others, and a missing value to the last bin."""
    cells = np.array(rows, dtype=np.float64).reshape(-1, 3)
    bins, counts = np.empty(cells.shape, dtype=np.uint8), np.zeros((3, MISSING + 1), dtype=np.uint32)
    count_bins(cells, IS_CATEGORICAL, CENTER, EDGES, TABLE, OTHER, bins, counts)
    expected = [[naive_bin(column, x) for column, x in enumerate(row)] for row in rows]
    assert bins.tolist() == expected
    for column in range(3):
        assert counts[column].tolist() == [[row[column] for row in expected].count(b) for b in range(MISSING + 1)]


def test_the_latest_blocks_are_added_around_the_end_of_the_ring() -> None:
    """A window that begins at the end of the ring goes on at its beginning."""
    ring = np.arange(12, dtype=np.uint32).reshape(4, 1, 3)
    total = np.zeros((1, 3), dtype=np.int64)
    sum_blocks(ring, 1, 3, total)
    np.testing.assert_array_equal(total[0], ring[[3, 0, 1], 0].sum(axis=0))


@given(hnp.arrays(np.int16, st.tuples(st.integers(9, 140), st.just(2)), elements=st.integers(-512, 512)), st.data())
@settings(max_examples=50, deadline=None)
def test_sums_of_autocorrelation_do_not_depend_on_cuts(
    scores: "np.ndarray[tuple[int, int], np.dtype[np.int16]]", data: st.DataObject
) -> None:
    """They are those of the formula, and the same however the events are cut."""
    cut = data.draw(st.integers(0, len(scores)))
    recent, batch = np.zeros((8, 2), dtype=np.int16), np.zeros((2, 2), dtype=np.int64)
    sums = np.zeros((2, LAG_SUMS), dtype=np.int64)
    add_lags(scores[:cut], 0, recent, batch, sums)
    add_lags(scores[cut:], cut, recent, batch, sums)
    s = scores.astype(np.int64)
    t = (s * s) >> 9
    for column in range(2):
        expected = [len(s)]
        for each in (s[:, column], t[:, column]):
            expected += [each.sum(), (each * each).sum(), (each[1:] * each[:-1]).sum(), (each[8:] * each[:-8]).sum()]
        whole = len(s) // BATCH * BATCH
        expected += [int((each[:whole, column].reshape(-1, BATCH).sum(axis=1) ** 2).sum()) for each in (s, t)] + [
            len(s) // BATCH
        ]
        assert sums[column].tolist() == expected


def test_products_and_projections_are_those_of_the_formula() -> None:
    """Sums, differences and signed sums of scores, and the upper triangle of their products."""
    scores = np.random.default_rng(1).integers(-512, 513, size=(50, 5)).astype(np.int16)
    s = scores.astype(np.int64)
    products = np.zeros((5, 5), dtype=np.int64)
    add_products(scores, products)
    np.testing.assert_array_equal(products, np.triu(s.T @ s))
    signs = np.array([[1, -1, 1, 1, -1]], dtype=np.int16)
    projected = np.empty((50, 3), dtype=np.int16)
    first, second = np.array([0, 1], dtype=np.int32), np.array([3, -1 - 4], dtype=np.int32)
    project(scores, first, second, signs, np.array([7]), projected)
    np.testing.assert_array_equal(projected[:, 0], (s[:, 0] + s[:, 3]) // 2)
    np.testing.assert_array_equal(projected[:, 1], (s[:, 1] - s[:, 4]) // 2)
    np.testing.assert_array_equal(projected[:, 2], np.clip((s @ signs[0]) // 7, -512, 512))


def test_slow_categories_are_found_whatever_their_order() -> None:
    """Scores of categories that are cut from a slow process are as autocorrelated as their best order is."""
    rng = np.random.default_rng(2)
    slow = np.zeros(6_000)
    for k in range(1, len(slow)):
        slow[k] = 0.95 * slow[k - 1] + rng.normal()
    shuffled = np.array([3, 0, 5, 1, 4, 2])
    codes = shuffled[np.searchsorted(np.array([-4.0, -2.0, 0.0, 2.0, 4.0]), slow)].astype(np.uint8)
    counts, recent = np.zeros((2, 1, 6, 6), dtype=np.uint32), np.zeros((8, 1), dtype=np.uint8)
    add_transitions(codes[:100, np.newaxis], np.array([0]), 0, recent, counts)
    add_transitions(codes[100:, np.newaxis], np.array([0]), 100, recent, counts)
    scores = slowest_scores(counts[:, 0])
    ranks = np.empty(6)
    ranks[shuffled] = np.arange(6)
    assert autocorrelation(scores[codes]) >= autocorrelation(ranks[codes]) - 0.01 > 0.8


def autocorrelation(values: F64) -> float:
    """Of neighbours."""
    return float(np.corrcoef(values[1:], values[:-1])[0, 1])


def test_differences_of_blocks_count_what_the_scores_do_not_explain() -> None:
    """Two blocks whose means are apart by their standard error add one; a column that is not used adds nothing."""
    older = np.array([[50, 50, 9]] * 2, dtype=np.uint32)
    newer = np.array([[40, 60, 0]] * 2, dtype=np.uint32)
    score = np.array([[-1, 1, 0]] * 2, dtype=np.int16)
    sums = np.zeros((2, 2))
    add_differences(older, newer, score, np.array([2.0, 2.0]), np.array([True, False]), 25.0, sums)
    np.testing.assert_allclose(sums, [[1.0, 0.0], [1.0, 0.0]])


def compared(reference: I64, window: I64, *, ordered: bool = True) -> F64:
    """What the kernel finds for one column."""
    found = np.empty((1, FOUND))
    compare(reference, window, np.array([ordered]), np.ones(1), np.ones(1), found)
    one: F64 = found[0]
    return one


def test_the_statistics_are_those_of_scipy() -> None:
    """G over Williams' correction, and the rank sum with ties, of large counts in all bins."""
    reference, window = np.array([[500, 300, 900, 400, 100]]), np.array([[70, 40, 160, 60, 20]])
    found = compared(reference, window)
    table = np.concatenate([reference, window])
    g = stats.chi2_contingency(table, correction=False, lambda_="log-likelihood")
    total, m, n = table.sum(), reference.sum(), window.sum()
    williams = 1 + (total / m + total / n - 1) * ((total / table.sum(axis=0)).sum() - 1) / (6 * total * 4)
    assert found[FREEDOM] == g.dof
    assert found[G] == pytest.approx(g.statistic / williams, rel=1e-12)
    values = [np.repeat(np.arange(4), counts[0, :4]) for counts in (window, reference)]
    u = stats.mannwhitneyu(*values, use_continuity=False, method="asymptotic")
    assert 2.0 * stats.norm.sf(abs(found[Z])) == pytest.approx(u.pvalue, rel=0.1)
    assert found[EVENTS] == n


@given(COUNTS, st.data())
@settings(max_examples=80, deadline=None)
def test_equal_shares_are_no_change(reference: I64, data: st.DataObject) -> None:
    """The same counts again give no statistic at all; and whatever the counts, nothing is NaN or negative."""
    same = compared(reference, reference.copy())
    np.testing.assert_allclose(same[[G, Z, PSI]], 0.0, atol=1e-7)
    window = data.draw(hnp.arrays(np.int64, st.just(reference.shape), elements=st.integers(0, 300)))
    found = compared(reference, window)
    assert np.isfinite(found).all()
    assert found[G] >= 0.0
    assert found[PSI] >= 0.0
    assert 0 <= found[FREEDOM] < reference.shape[1]


def test_rare_events_do_not_look_like_a_drift() -> None:
    """Of a boolean that is true for 1 %, 20 true ones of 500 are as improbable as they are: about one in 10^6."""
    found = compared(np.array([[99_000, 1_000, 0]]), np.array([[480, 20, 0]]))
    assert found[FREEDOM] == 1
    exact = stats.binom.sf(19, 500, 0.01)
    assert 0.1 < stats.chi2.sf(found[G], 1) / exact < 10.0


@given(st.integers(0, 40), st.integers(0, 4), st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_projections_are_counted_as_by_one_step_after_the_other(rows: int, sums: int, seed: int) -> None:
    """The naive twin looks scores up, projects them, and counts the bins of their cells."""
    rng = np.random.default_rng(seed)
    columns, pairs, bins = 5, 3, 6
    places = rng.integers(0, bins, (rows, columns)).astype(np.uint8)
    score = rng.integers(-512, 513, (columns, bins)).astype(np.int16)
    first, second = (rng.integers(low, columns, pairs).astype(np.int32) for low in (0, -columns))
    signs = rng.choice([-1, 1], (sums, columns)).astype(np.int16)
    divisors = rng.integers(1, 4, sums)
    table = rng.integers(0, bins, (pairs + sums, CELLS)).astype(np.uint8)
    counts = np.zeros((pairs + sums, bins), dtype=np.uint32)
    count_projected(places, score, first, second, signs, divisors, table, counts)
    scores = np.empty((rows, columns), dtype=np.int16)
    projected = np.empty((rows, pairs + sums), dtype=np.int16)
    score_bins(places, score, scores)
    project(scores, first, second, signs, divisors, projected)
    for place in range(pairs + sums):
        found = table[place, (projected[:, place].astype(int) + 512) >> 2]
        assert counts[place].tolist() == np.bincount(found, minlength=bins).tolist()
