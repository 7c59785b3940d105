"""Kernels of data quality against what they mean, written down plainly."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.naive_quality import naive_tally
from worker.core.columns import Column, Kind
from worker.core.kernels import quality as q
from worker.core.kernels.quality_statistics import design_effect, range_bounds, rise_probability, run_probability
from worker.core.options import QualityOptions
from worker.core.quality.latest_ids import LatestIds
from worker.core.quality.tables import Tables, chosen_rows

_ROWS = 40
_COLUMNS = [Column("prediction", Kind.NUMERIC, {}), Column("b", Kind.BOOLEAN, {}), Column("c", Kind.CATEGORICAL, {})]


def _tables() -> Tables:
    tables = Tables(_COLUMNS, QualityOptions(block_events=_ROWS))
    tables.bounds.low[:] = -1.0, -np.inf, -np.inf, -np.inf
    tables.bounds.high[:] = 2.0, np.inf, np.inf, 3.0
    tables.bounds.known[2] = 2
    return tables


_value = st.sampled_from([np.nan, 0.0, 1.0, 2.0, 3.0, -4.0, 1e308])
_code = st.sampled_from([np.nan, 0.0, 1.0, 2.0, 3.0, 4.0])
_row = st.tuples(_value, st.sampled_from([np.nan, 0.0, 1.0]), _code, st.integers(0, 6), st.integers(-2, 4))


@given(st.lists(_row, min_size=1, max_size=_ROWS), st.booleans(), st.data())
def test_tally_counts_what_it_says_however_rows_are_cut(rows: list, other_known: bool, data: st.DataObject) -> None:  # noqa: FBT001 - drawn
    """Counts, runs, gaps, extremes and the sample are those of the plain loop, whatever the cuts."""
    tables = _tables()
    tables.bounds.other[2] = other_known
    table = np.array(rows)
    cells, times = table[:, :3].copy(), table[:, 3].astype(np.int64)
    watermarks = times + table[:, 4].astype(np.int64)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=3)))
    for begin, end in itertools.pairwise([0, *cuts, len(rows)]):
        q.tally(
            cells,
            times,
            watermarks,
            begin,
            end,
            tables.chosen,
            begin,
            tables.kinds,
            tables.bounds,
            tables.block,
            tables.running,
        )
    naive = naive_tally(cells, times, watermarks, _tables_like(other_known))
    for name, expected in naive.items():
        where = tables.block if name in q.Block._fields else tables.running
        np.testing.assert_array_equal(getattr(where, name), expected, err_msg=name)


def _tables_like(other_known: bool) -> Tables:  # noqa: FBT001 - drawn
    tables = _tables()
    tables.bounds.other[2] = other_known
    return tables


def test_the_sample_is_spread_over_the_block() -> None:
    """The sample has a row in each stretch of a block, at places that do not repeat."""
    for block in (20, 200, 777):
        rows = np.flatnonzero(chosen_rows(block) >= 0)
        assert 15 <= len(rows) <= 60
        assert np.diff(rows).max() <= 2 * max(1, block // 29)
    assert len(np.unique(np.diff(np.flatnonzero(chosen_rows(200) >= 0)))) > 3


@given(st.integers(1, 300), st.integers(1, 4000), st.data())
def test_a_rise_is_judged_by_fishers_exact_test(n: int, learned_n: int, data: st.DataObject) -> None:
    """Without clusters the probability is SciPy's hypergeometric tail."""
    k, learned_k = data.draw(st.integers(1, n)), data.draw(st.integers(0, learned_n))
    expected = stats.hypergeom.sf(k - 1, n + learned_n, k + learned_k, n)
    assert rise_probability(k, n, learned_k, learned_n, 1.0) == pytest.approx(expected, rel=1e-7, abs=1e-300)


def test_clusters_make_a_rise_less_surprising() -> None:
    """Counts by the design effect are what is tested; what cannot be told from one cluster is no surprise."""
    assert rise_probability(40, 200, 10, 2000, 4.0) == pytest.approx(stats.hypergeom.sf(9, 550, 13, 50), rel=1e-7)
    assert rise_probability(40, 200, 0, 2000, 100.0) == 1.0


def test_the_design_effect_is_pearsons_chi_square_by_its_degrees_of_freedom() -> None:
    """Equal blocks have none, clustered ones that of their counts, and few cases are not enlarged."""
    counts, n = np.array([30, 10, 20, 0, 40, 20]), 200
    chi_square = stats.chi2_contingency(np.stack([counts, n - counts]), correction=False).statistic
    expected = chi_square / 5 * (1 + 3 * math.sqrt(2 / 5))
    got = design_effect(counts.sum(), n * len(counts), (counts**2 / n).sum(), len(counts))
    assert got == pytest.approx(expected)
    assert design_effect(6, 1200, 6 / 200, 6) == 1.0
    assert design_effect(8, 1200, 64 / 200, 6) == pytest.approx(8.0, rel=0.01)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_the_bound_of_a_run_holds(share: float) -> None:
    """Of streams of one usual value, a run as unlikely as one in a thousand is hardly ever found."""
    rng = np.random.default_rng(7)
    found = 0
    for _ in range(40):
        values = rng.random(22_000) >= share
        ends = np.flatnonzero(np.diff(values, prepend=~values[:1]))
        lengths, starts = np.diff(ends), ends[:-1]
        early = lengths[starts < 2_000]
        runs = np.bincount([q.octave(int(each)) for each in early], minlength=q.OCTAVES)
        later = lengths[starts >= 2_000].max()
        found += run_probability(int(later), int(early.max()), runs, int(early.sum()), 20_000) <= 1e-3
    assert found <= 1
    assert run_probability(2_000, int(early.max()), runs, int(early.sum()), 200) < (1e-9 if share < 0.95 else 0.5)


def test_ranges_are_widened_but_not_over_zero_nor_towards_it() -> None:
    """A range of both signs is widened on both sides, one far from zero has a factor, one at zero a small margin."""
    assert range_bounds(-1.0, 1.0, -5.0, 5.0, 0.0, 3.0) == (-7.0, 7.0)
    low, high = range_bounds(10.0, 20.0, 9.0, 21.0, 15.0, 3.0)
    assert (low, high) == (1.0, 50.0)
    low, high = range_bounds(0.1, 10.0, 0.0, 30.0, 2.0, 3.0)
    assert -1.0 <= low < 0.0
    assert high == pytest.approx(39.7)
    low, high = range_bounds(-20.0, -10.0, -21.0, -9.0, -15.0, 3.0)
    assert (low, high) == (-50.0, -1.0)


def test_ranges_of_few_values() -> None:
    """A constant has a range by its size, zero and nothing at all have none, and spikes have their extremes."""
    assert range_bounds(5.0, 5.0, 5.0, 5.0, 5.0, 3.0) == (0.5, 20.0)
    assert range_bounds(0.0, 0.0, 0.0, 0.0, 0.0, 3.0) == (-np.inf, np.inf)
    assert range_bounds(np.inf, -np.inf, np.inf, -np.inf, 0.0, 3.0) == (-np.inf, np.inf)
    assert range_bounds(0.0, 0.0, 0.0, 9.0, 0.0, 3.0)[1] == 36.0
    assert np.isfinite(range_bounds(-1e300, 1e300, -1e300, 1e300, 0.0, 3.0)).all()


@given(st.lists(st.integers(0, 30), max_size=120), st.integers(1, 20), st.data())
def test_an_id_is_a_duplicate_while_it_is_among_the_latest(ids: list[int], most: int, data: st.DataObject) -> None:
    """An id counts as often as it is among the latest ones, also when they were stored and restored in between."""
    keys = np.array([[each, each * 7] for each in ids], dtype=np.uint64).reshape(-1, 2)
    latest, kept, expected, got = LatestIds(most), [], 0, 0
    cut = data.draw(st.integers(0, len(ids)))
    for begin, end in ((0, cut), (cut, len(ids))):
        latest.reserve(end - begin)
        got += latest.count(keys, begin, end)
        again = LatestIds(most)
        again.restore(latest.arrays["keys"])
        latest = again
    for each in ids:
        if each in kept:
            expected += 1
        else:
            kept = [*kept, each][-most:]
    assert got == expected
    assert latest.arrays["keys"][:, 0].tolist() == kept
