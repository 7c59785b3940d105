"""Kernels of data quality against what they mean, written down plainly."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]  # scipy ships no types

from worker.core.columns import Column, Kind
from worker.core.kernels import quality as q
from worker.core.kernels.arrays import F64, I64
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


def _naive_tally(cells: F64, times_ms: I64, watermarks_ms: I64, tables: Tables) -> dict[str, Any]:
    """Return the fields of a block, and of what runs on, after all rows (n x c) of an empty block."""
    rows, columns = cells.shape
    width = columns + 1
    bounds, kinds = tables.bounds, tables.kinds
    counts, fresh = np.zeros((q.MEASURES, width), dtype=int), np.zeros((q.MEASURES, width), dtype=int)
    lists: dict[str, list[Any]] = {name: [] for name in ("valid", "code", "other", "ran", "gapped", "sampled")}
    lists |= {name: [] for name in ("minimum", "maximum", "runs", "last", "run", "gap")}
    sample = np.zeros_like(tables.block.sample)
    for column in range(width):
        of_events = column == columns
        values = times_ms.astype(float) if of_events else cells[:, column]
        measured = (watermarks_ms - times_ms).astype(float) if of_events else values
        there = [value for value in values if not np.isnan(value)]
        counts[q.MISSING, column] = rows - len(there)
        lists["valid"].append(len(there))
        runs = [len(list(same)) for _, same in itertools.groupby(there)]
        lists["ran"].append(max(runs[:-1], default=0))
        lists["runs"].append(np.bincount([q.octave(each) for each in runs[:-1]], minlength=q.OCTAVES))
        lists["run"].append(runs[-1] if runs else 0)
        lists["last"].append(there[-1] if there else np.nan)
        gaps = [(missing, len(list(same))) for missing, same in itertools.groupby(np.isnan(values).tolist())]
        ended = gaps[:-1] if gaps[-1][0] else gaps
        lists["gapped"].append(0 if of_events else max((length for missing, length in ended if missing), default=0))
        lists["gap"].append(gaps[-1][1] if gaps[-1][0] else 0)
        is_numeric = kinds[column] in {q.NUMERIC, q.EVENT}
        outside = [
            (q.LOW if x < bounds.low[column] else q.HIGH, place)
            for place, x in enumerate(measured)
            if x < bounds.low[column] or x > bounds.high[column]
        ]
        new = [
            (q.NEW, place)
            for place, x in enumerate(values)
            if kinds[column] == q.CATEGORICAL and (x == 0 or (x > bounds.known[column] and not bounds.other[column]))
        ]
        for measure, place in (outside if is_numeric else []) + new:
            before = [x for x in values[:place] if not np.isnan(x)]
            counts[measure, column] += 1
            fresh[measure, column] += not of_events and (not before or before[-1] != values[place])
        codes = [x for x in there if kinds[column] == q.CATEGORICAL]
        lists["code"].append(max(codes, default=0))
        lists["other"].append(0 in codes)
        usable = [x for x in measured if is_numeric and not np.isnan(x)]
        lists["minimum"].append(min(usable, default=np.inf))
        lists["maximum"].append(max(usable, default=-np.inf))
        kept = [x for x, place in zip(measured, tables.chosen, strict=False) if place >= 0 and not np.isnan(x)]
        sample[column, : len(kept)] = kept if is_numeric else 0.0
        lists["sampled"].append(len(kept) if is_numeric else 0)
    before_each = [0, *watermarks_ms[:-1].tolist()]
    counts[q.SET_BACK, columns] = sum(now < last for now, last in zip(watermarks_ms.tolist(), before_each, strict=True))
    return {"counts": counts, "fresh": fresh, "sample": sample} | lists


_value = st.sampled_from([np.nan, 0.0, 1.0, 2.0, 3.0, -4.0, 1e308])
_code = st.sampled_from([np.nan, 0.0, 1.0, 2.0, 3.0, 4.0])
_row = st.tuples(_value, st.sampled_from([np.nan, 0.0, 1.0]), _code, st.integers(0, 6), st.integers(-2, 4))


@settings(deadline=None)
@given(st.lists(_row, min_size=1, max_size=_ROWS), st.integers(0, 1), st.data())
def test_tally_counts_what_it_says_however_rows_are_cut(
    rows: list[tuple[float, ...]], other_known: int, data: st.DataObject
) -> None:
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
    naive = _naive_tally(cells, times, watermarks, _tables_like(other_known))
    for name, expected in naive.items():
        where = tables.block if name in q.Block._fields else tables.running
        np.testing.assert_array_equal(getattr(where, name), expected, err_msg=name)


def _tables_like(other_known: int) -> Tables:
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


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 4000), st.data())
def test_a_rise_is_judged_by_fishers_exact_test(n: int, learned_n: int, data: st.DataObject) -> None:
    """Without clusters the probability is SciPy's hypergeometric tail."""
    k, learned_k = data.draw(st.integers(1, n)), data.draw(st.integers(0, learned_n))
    expected = stats.hypergeom.sf(k - 1, n + learned_n, k + learned_k, n)
    assert rise_probability(k, n, learned_k, learned_n, 1.0) == pytest.approx(expected, rel=1e-5, abs=1e-300)


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
    assert range_bounds(-1.0, 1.0, 0.0, 3.0, 1) == (-7.0, 7.0)
    low, high = range_bounds(10.0, 20.0, 15.0, 3.0, 1)
    assert (low, high) == (1.0, 50.0)
    assert range_bounds(10.0, 20.0, 15.0, 3.0, 0) == (-20.0, 50.0)
    low, high = range_bounds(0.1, 10.0, 2.0, 3.0, 1)
    assert -1.0 <= low < 0.0
    assert high == pytest.approx(39.7)
    low, high = range_bounds(-20.0, -10.0, -15.0, 3.0, 1)
    assert (low, high) == (-50.0, -1.0)


def test_ranges_of_few_values() -> None:
    """A constant has a range by its size, zero and nothing at all have none, and the largest do not overflow."""
    assert range_bounds(5.0, 5.0, 5.0, 3.0, 1) == (0.5, 20.0)
    assert range_bounds(0.0, 0.0, 0.0, 3.0, 1) == (-np.inf, np.inf)
    assert range_bounds(np.inf, -np.inf, 0.0, 3.0, 1) == (-np.inf, np.inf)
    assert np.isfinite(range_bounds(-1e300, 1e300, 0.0, 3.0, 1)).all()


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), max_size=120), st.integers(1, 20), st.data())
def test_an_id_is_a_duplicate_while_it_is_among_the_latest(ids: list[int], most: int, data: st.DataObject) -> None:
    """An id counts as often as it is among the latest ones, also when they were stored and restored in between."""
    # The upper half of a key decides where the index looks: several have one place, also the last one.
    keys = np.array([[each << 59, each] for each in ids], dtype=np.uint64).reshape(-1, 2)
    latest, expected, got = LatestIds(most), 0, 0
    kept: list[int] = []
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
    assert (latest.arrays["keys"][:, 0] >> np.uint64(59)).tolist() == kept
