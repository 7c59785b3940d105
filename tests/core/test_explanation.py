"""Explanations: parts that add up to the score, equal to all orders tried one by one, and what is told of them."""

import itertools
import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.alerts.explanation import Explainer, contributions, explain
from worker.core.alerts.shapley import ORDERS_MIN, ROWS_MAX, trials
from worker.core.columns import Column, Kind
from worker.core.detectors.forest_fit import fit_forest
from worker.core.kernels.arrays import F64
from worker.core.statistics.bands import Usual, usual_band

Scorer = Callable[[F64], F64]


def mean_of(scores: F64) -> F64:
    """A fused score: the mean over the detectors that have one."""
    fused: F64 = np.nanmean(scores, axis=0)
    return fused


def explainer_of(usual: Usual, scorers: Mapping[str, Scorer], fused: Scorer = mean_of) -> Explainer:
    """Explain numeric columns f0, f1, ..."""
    columns = [Column(f"f{place}", Kind.NUMERIC, {}) for place in range(len(usual.median))]
    return Explainer(columns, usual, scorers, fused)


def unit_usual(features: int) -> Usual:
    """Median 0, band from -1 to 1."""
    return Usual(np.full(features, -1.0), np.zeros(features), np.ones(features))


def bumpy(rows: F64) -> F64:
    """A score with interactions of neighbours, saturation, and a value for what is missing."""
    known = np.nan_to_num(rows, nan=0.3)
    pairs = known * np.roll(known, 1, axis=1)
    score: F64 = np.tanh(known).sum(axis=1) + 0.5 * np.abs(pairs).sum(axis=1) + np.log1p(np.abs(known).max(axis=1))
    return score


def all_orders(score: Scorer, row: F64, usual: F64) -> F64:
    """The naive twin: the mean over all orders, one feature after the other, from the definition."""
    added = np.zeros(len(row))
    orders = list(itertools.permutations(range(len(row))))
    for order in orders:
        now = usual.copy()
        for place in order:
            before = score(now[np.newaxis])[0]
            now[place] = row[place]
            added[place] += score(now[np.newaxis])[0] - before
    return added / len(orders)


def test_few_features_have_the_mean_over_all_orders() -> None:
    """Equal to the definition for one to six features."""
    for features in range(1, 7):
        row = np.random.default_rng(features).normal(size=features) * 3.0
        parts = contributions(explainer_of(unit_usual(features), {"bumpy": bumpy}), row, seed=0)
        naive = all_orders(bumpy, row, np.zeros(features))
        np.testing.assert_allclose(parts.fused, naive, rtol=0, atol=1e-12)
        np.testing.assert_allclose(parts.detectors["bumpy"], naive, rtol=0, atol=1e-12)


@pytest.mark.parametrize("features", [1, 2, 10, 11, 12, 40, 124, 125, 126, 256, 700])
def test_contributions_add_up_to_the_score_for_any_number_of_features(features: int) -> None:
    """All coalitions, drawn orders and features that join: the sum is score(event) - score(usual) to 1e-9."""
    rng = np.random.default_rng(features)
    row = rng.normal(size=features) * 2.0
    parts = contributions(explainer_of(unit_usual(features), {"bumpy": bumpy, "sum": sum_of}), row, seed=7)
    rows = np.stack([np.zeros(features), row])
    for name, scorer in {"bumpy": bumpy, "sum": sum_of}.items():
        usual, event = scorer(rows)
        assert math.isclose(parts.detectors[name].sum(), event - usual, rel_tol=0, abs_tol=1e-9)
    usual, event = mean_of(np.stack([bumpy(rows), sum_of(rows)]))
    assert math.isclose(parts.fused.sum(), event - usual, rel_tol=0, abs_tol=1e-9)


def sum_of(rows: F64) -> F64:
    """A score without interactions."""
    total: F64 = np.nansum(rows, axis=1)
    return total


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.one_of(st.just(np.nan), st.floats(-1e6, 1e6)), min_size=1, max_size=30),
    medians=st.lists(st.one_of(st.just(np.nan), st.floats(-3, 3)), min_size=30, max_size=30),
    seed=st.integers(0, 2**32 - 1),
)
def test_whatever_is_missing_or_usual_the_parts_add_up(values: list[float], medians: list[float], seed: int) -> None:
    """A missing value, and one that is equal to the usual one, adds nothing; the others add up."""
    row, median = np.array(values), np.array(medians[: len(values)])
    usual = Usual(median - 1.0, median, median + 1.0)
    parts = contributions(explainer_of(usual, {"bumpy": bumpy}), row, seed)
    same = np.isnan(row) | (row == median)
    assert not parts.fused[same].any()
    before, event = bumpy(np.stack([np.where(same, row, median), row]))
    assert math.isclose(parts.fused.sum(), event - before, rel_tol=1e-9, abs_tol=1e-9)


def test_without_interactions_each_feature_has_its_own_part() -> None:
    """Drawn orders are exact for a sum: what a feature adds is the same in each of them."""
    row = np.arange(1.0, 21.0)
    parts = contributions(explainer_of(unit_usual(20), {"sum": sum_of}), row, seed=3)
    np.testing.assert_allclose(parts.fused, row, rtol=1e-12)


def test_drawn_orders_come_close_to_all_of_them() -> None:
    """Twelve features (too many to try all): at most 3 % of the score away from the exact values."""
    rng = np.random.default_rng(5)
    row = rng.normal(size=12) * 3.0
    drawn = contributions(explainer_of(unit_usual(12), {"bumpy": bumpy}), row, seed=1).fused
    every = trials(np.abs(row), seed=0, rows_max=2**12)
    assert every.ranks is None
    exact = every.parts(bumpy(every.rows(row, np.zeros(12)))[np.newaxis])[0]
    assert np.abs(drawn - exact).max() < 0.03 * abs(exact.sum())


@pytest.mark.parametrize("features", [0, 1, 10, 12])
def test_scores_together_have_the_parts_that_each_has_alone(features: int) -> None:
    """Bit for bit, whether all coalitions are there or drawn orders: an explanation is one call for all detectors."""
    rng = np.random.default_rng(7)
    chosen = trials(rng.uniform(0.5, 2.0, size=features), seed=3)
    scores = rng.normal(size=(5, len(chosen.members))) * np.logspace(-3, 3, 5)[:, np.newaxis]
    alone = [chosen.parts(each[np.newaxis])[0] for each in scores]
    np.testing.assert_array_equal(chosen.parts(scores), alone)


@pytest.mark.parametrize("features", [0, 1, 10, 11, 125, 126, 2000])
def test_rows_are_bounded_and_decided_by_the_seed(features: int) -> None:
    """At most ROWS_MAX rows, in at least ORDERS_MIN orders; equal seeds give equal rows."""
    far = np.linspace(1.0, 2.0, features)
    first, again, other = (trials(far, seed) for seed in (4, 4, 5))
    assert len(first.members) <= ROWS_MAX
    np.testing.assert_array_equal(first.members, again.members)
    if first.ranks is not None:
        assert len(first.ranks) >= ORDERS_MIN
        assert (first.members != other.members).any()


def test_of_too_many_features_the_nearest_to_usual_join_and_share_by_distance() -> None:
    """The culprits among 1,000 features stand alone, and are found with exactly what they add."""
    rng = np.random.default_rng(2)
    row = rng.uniform(0.1, 0.9, size=1000)
    row[[3, 700]] = 50.0, 80.0
    parts = contributions(explainer_of(unit_usual(1000), {"sum": sum_of}), row, seed=0).fused
    np.testing.assert_allclose(parts[[3, 700]], [50.0, 80.0], rtol=1e-9)
    np.testing.assert_allclose(parts, row, rtol=1e-9)


def test_the_broken_features_of_a_forest_are_told_first() -> None:
    """Two of ten features far out: both come first, with the band, and all parts add up to the forest's score."""
    rng = np.random.default_rng(0)
    past = rng.normal(size=(2000, 10))
    forest = fit_forest(past, n_trees=100, sample_size=256, seed=1)
    usual = usual_band(past)
    row = rng.normal(size=10)
    row[[2, 7]] = 9.0, -8.0
    features = explain(explainer_of(usual, {"forest": forest.score}), row, row, seed=0, features_max=10)
    assert {each.name for each in features[:2]} == {"f2", "f7"}
    assert [each.contribution for each in features] == sorted((each.contribution for each in features), reverse=True)
    assert features[0].expected_high is not None
    assert features[0].expected_high < 2.0
    before, event = forest.score(np.stack([usual.median, row]))
    assert math.isclose(sum(each.contribution for each in features), event - before, abs_tol=1e-9)
    assert math.isclose(sum(each.contributions["forest"] for each in features), event - before, abs_tol=1e-9)


def test_only_the_largest_parts_are_told() -> None:
    """At most `features_max`, and nothing that adds nothing; what makes the event more usual comes last."""
    row = np.array([5.0, -2.0, 0.0, 1.0, np.nan])
    explainer = explainer_of(unit_usual(5), {"sum": sum_of})
    told = [(each.name, each.contribution) for each in explain(explainer, row, row, seed=0, features_max=5)]
    assert [name for name, _ in told] == ["f0", "f3", "f1"]
    np.testing.assert_allclose([added for _, added in told], [5.0, 1.0, -2.0], atol=1e-12)
    assert [each.name for each in explain(explainer, row, row, seed=0, features_max=2)] == ["f0", "f3"]


def nothing(rows: F64) -> F64:
    """A detector that is not ready."""
    return np.full(len(rows), np.nan)


def test_a_detector_without_a_score_is_left_out() -> None:
    """The others explain the event, and still add up."""
    row = np.array([5.0, -2.0])
    parts = contributions(explainer_of(unit_usual(2), {"none": nothing, "sum": sum_of}), row, seed=0)
    assert list(parts.detectors) == ["sum"]
    np.testing.assert_allclose(parts.fused, row)


@pytest.mark.parametrize("scorers", [{}, {"none": nothing}])
def test_before_there_is_a_score_the_distance_from_the_band_is_told(scorers: dict[str, Scorer]) -> None:
    """No detector, or none that is ready: features outside of their band, in widths of it; none inside."""
    row = np.array([0.5, 5.0, -2.0])
    told = explain(explainer_of(unit_usual(3), scorers), row, row, seed=0, features_max=3)
    assert [(each.name, each.contribution, each.contributions) for each in told] == [("f1", 2.0, {}), ("f2", 0.5, {})]


def test_values_at_the_ends_of_float64_are_explained() -> None:
    """Nothing overflows into a part that is not finite."""
    row = np.array([1.7e308, -1.7e308, 5e-324])
    usual = Usual(np.array([-1e300, 0.0, 0.0]), np.array([-1e300, 0.0, 0.0]), np.array([1e300, 0.0, 0.0]))
    parts = contributions(explainer_of(usual, {"tanh": lambda rows: np.tanh(rows).sum(axis=1)}), row, seed=0)
    assert np.isfinite(parts.fused).all()
    assert parts.fused.sum() == pytest.approx(1.0, abs=1e-9)
