"""Calibration and gaps from counts: values of plain formulas on single events, and intervals that hold the truth."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from worker.core.kernels import tally as k
from worker.core.kernels.arrays import F64, I64
from worker.core.performance.calibration import SCORE_BINS, calibration_in_the_large, calibration_slope
from worker.core.performance.gaps import Gap, GapKind, Rules, error_gaps, gap_kinds, share_gaps
from worker.core.performance.groups import Sides
from worker.core.performance.intervals import Estimate

Z = 1.959963984540054
RULES = Rules(support_min=1, gap_max=0.0, confidence=0.95)


def expit(logits: F64) -> F64:
    """The probability of a logit."""
    chances: F64 = 1.0 / (1.0 + np.exp(-logits))
    return chances


def logit(chances: F64) -> F64:
    """The logit of a probability."""
    logits: F64 = np.log(chances / (1.0 - chances))
    return logits


def counts_of(chances: F64, labels: I64) -> F64:
    """Histograms of the scores of negatives and of positives."""
    bins = np.empty(len(chances), dtype=np.int64)
    k.bin_scores(chances, bins)
    counts = np.zeros((2, k.SCORE_BINS))
    np.add.at(counts, (labels, bins), 1.0)
    return counts


@given(st.lists(st.one_of(st.floats(0.0, 1.0), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, 1e-9])), min_size=1))
@settings(max_examples=200, deadline=None)
def test_a_score_is_within_the_bounds_of_its_bin(values: list[float]) -> None:
    """The declared bounds are those of the kernel, and rise."""
    bins = np.empty(len(values), dtype=np.int64)
    k.bin_scores(np.array(values), bins)
    bounds = SCORE_BINS.bounds
    assert (bounds[bins] <= values).all()
    assert (np.array(values) <= bounds[bins + 1]).all()
    assert (np.diff(bounds) > 0.0).all()
    assert (bounds[0], bounds[-1], len(bounds)) == (0.0, 1.0, k.SCORE_BINS + 1)


def drawn(seed: int, n: int, base: float, spread: float, slope: float) -> tuple[F64, I64]:
    """Probabilities with normal logits, and labels whose logits are those times a slope."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(base, spread, n)
    return expit(logits), (rng.random(n) < expit(slope * logits)).astype(np.int64)


@given(
    seed=st.integers(0, 1_000),
    n=st.integers(60, 2_000),
    base=st.floats(-2.0, 2.0),
    spread=st.floats(0.5, 3.0),
    slope=st.floats(0.3, 2.0),
)
@settings(max_examples=25, deadline=None)
def test_values_are_those_of_the_single_events(seed: int, n: int, base: float, spread: float, slope: float) -> None:
    """Within the error that the bins can add: the mean signed error, and scikit-learn's unpenalised slope."""
    chances, labels = drawn(seed, n, base, spread, slope)
    counts = counts_of(chances, labels)
    large = calibration_in_the_large(counts, SCORE_BINS, Z, 1.0)
    assert large.value is not None
    assert large.error_max is not None
    assert abs(large.value - float((chances - labels).mean())) <= large.error_max + 1e-12
    assert large.error_max <= 0.03125
    found = calibration_slope(counts, SCORE_BINS, Z, 1.0)
    if found.value is None or found.error_max is None:
        # The classes do not overlap but inside of a bin.
        apart = np.array([chances[labels == 0].max(initial=0.0), chances[labels == 1].min(initial=1.0)])
        assert np.diff(logit(apart))[0] > -0.6
        return
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=2_000)
    wanted = model.fit(logit(chances)[:, np.newaxis], labels).coef_[0, 0]
    assert abs(found.value - wanted) <= 1.1 * found.error_max


def test_what_is_undefined_is_none() -> None:
    """No events, one class, or scores that do not overlap have no slope; few events of a class give no interval."""
    nothing = np.zeros((2, k.SCORE_BINS))
    assert calibration_in_the_large(nothing, SCORE_BINS, Z, 1.0) == Estimate(None, None, None, 0.0)
    assert calibration_slope(nothing, SCORE_BINS, Z, 1.0).value is None
    chances = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.7])
    for labels in ([0] * 6, [0, 0, 0, 1, 1, 1], [1, 1, 0, 0, 0, 0]):
        assert calibration_slope(counts_of(chances, np.array(labels)), SCORE_BINS, Z, 1.0).value is None
    few = calibration_slope(counts_of(chances, np.array([0, 1, 0, 0, 1, 1])), SCORE_BINS, Z, 1.0)
    assert few.value is not None
    assert few.low is None
    one = calibration_in_the_large(counts_of(np.array([0.7]), np.array([1])), SCORE_BINS, Z, 1.0)
    assert one.value == pytest.approx(-0.3, abs=0.04)
    assert one.low is None


def test_a_model_that_was_never_wrong_is_not_certain() -> None:
    """The interval of the mean signed error has a width though all terms are alike."""
    found = calibration_in_the_large(counts_of(np.full(100, 0.99), np.ones(100, dtype=np.int64)), SCORE_BINS, Z, 1.0)
    assert found.low is not None
    assert found.high is not None
    assert found.low < -0.03 < 0.01 < found.high


@pytest.mark.parametrize(("base", "spread", "slope"), [(0.0, 1.0, 1.0), (-2.5, 1.5, 0.6), (0.0, 2.5, 1.3)])
def test_intervals_of_calibration_cover(base: float, spread: float, slope: float) -> None:
    """In 500 samples of 500 events they hold the truth at least 93 times in a hundred."""
    nodes = NormalDist(base, spread)
    grid = np.array([nodes.inv_cdf((i + 0.5) / 4_000) for i in range(4_000)])
    large = float((expit(grid) - expit(slope * grid)).mean())
    held = np.zeros(2)
    for seed in range(500):
        counts = counts_of(*drawn(seed, 500, base, spread, slope))
        for place, (truth, found) in enumerate(
            [
                (large, calibration_in_the_large(counts, SCORE_BINS, Z, 1.0)),
                (slope, calibration_slope(counts, SCORE_BINS, Z, 1.0)),
            ]
        ):
            assert found.low is not None
            assert found.high is not None
            held[place] += found.low <= truth <= found.high
    assert (held >= 465).all(), held


# ---------------------------------------------------------------------------------------------------------------- gaps


def naive_newcombe(one: tuple[float, float], other: tuple[float, float], z: float) -> tuple[float, float, float]:
    """Method 10 of Newcombe (1998), written out: the score limits are the roots of (p - x)² = z² x (1 - x) / n."""

    def limits(hits: float, n: float) -> tuple[float, float]:
        p = hits / n
        roots = np.roots([1.0 + z * z / n, -2.0 * p - z * z / n, p * p])
        return float(min(roots.real)), float(max(roots.real))

    p, q = one[0] / one[1], other[0] / other[1]
    (low, high), (other_low, other_high) = limits(*one), limits(*other)
    below = math.sqrt((p - low) ** 2 + (other_high - q) ** 2)
    above = math.sqrt((high - p) ** 2 + (q - other_low) ** 2)
    return p - q, p - q - below, p - q + above


def sides_of(labels: I64, predictions: I64, groups: I64, count: int) -> Sides:
    """Confusion matrices of groups: codes 1 and 2."""
    cells = np.zeros((count, 16))
    np.add.at(cells, (groups, 4 * labels + predictions), 1.0)
    return Sides(list(range(count)), cells, np.zeros((count, 0)))


ROWS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=80)


@given(rows=ROWS, kind=st.sampled_from(gap_kinds("binary")))
@settings(max_examples=150, deadline=None)
def test_gaps_of_shares_are_those_of_the_rows(rows: list[tuple[int, int, int]], kind: GapKind) -> None:
    """Every group against all the others, with Newcombe's interval at the confidence over all comparisons."""
    labels, predictions, groups = (np.array(column) for column in zip(*rows, strict=True))
    found, compared = share_gaps(kind, sides_of(labels, predictions, groups, 4), 2, RULES, [str(i) for i in range(4)])
    used = labels == 2 if kind == "bias.true_positive_rate" else np.ones(len(rows), dtype=bool)
    hits = labels != predictions if kind == "bias.error" else predictions == 2
    least = 30 if kind == "bias.true_positive_rate" else 1
    mine = [used & (groups == group) for group in range(4)]
    wanted = [group for group in range(4) if min(mine[group].sum(), used.sum() - mine[group].sum()) >= least]
    assert [gap.value_id for gap in found] == wanted
    assert compared == len(wanted)
    z = NormalDist().inv_cdf(1.0 - 0.05 / (2.0 * (1 if compared == 2 else max(compared, 1))))
    for gap in found:
        here, rest = mine[gap.value_id], used & (groups != gap.value_id)
        one, other = (float(hits[here].sum()), float(here.sum())), (float(hits[rest].sum()), float(rest.sum()))
        assert gap.events == (groups == gap.value_id).sum()
        assert (gap.value, gap.others) == pytest.approx((one[0] / one[1], other[0] / other[1]))
        if gap.gap:
            assert (gap.gap, gap.low, gap.high) == pytest.approx(naive_newcombe(one, other, z), abs=1e-6)


def test_only_what_is_beyond_the_limit_or_wanted_is_given() -> None:
    """Gaps within the limit cost nothing, and groups without enough events are not compared."""
    cells = np.zeros((4, 2))
    cells[:] = [[90.0, 10.0], [80.0, 20.0], [50.0, 50.0], [9.0, 1.0]]
    sides = Sides([1, 5, 7, 9], cells, np.zeros((4, 0)))
    rules = Rules(support_min=50, gap_max=0.1, confidence=0.95)
    found, compared = share_gaps("bias.error", sides, None, rules, ())
    assert compared == 3
    assert [gap.value_id for gap in found] == [1, 7]
    found, _ = share_gaps("bias.error", sides, None, rules, ("5", "9"))
    assert [(gap.value_id, gap.low is None) for gap in found] == [(1, False), (5, True), (7, False)]
    assert share_gaps("bias.selection_rate", Sides([1], np.zeros((1, 16)), cells), None, rules, ()) == ([], 0)


def interval_holds(gaps: Sequence[Gap], truths: Sequence[float]) -> bool:
    """Whether all intervals hold."""
    return all(gap.low is None or gap.high is None or gap.low <= truths[gap.value_id] <= gap.high for gap in gaps)


@pytest.mark.parametrize("rates", [(0.3, 0.3, 0.3, 0.5), (0.05, 0.1, 0.05, 0.05)])
def test_all_intervals_of_shares_hold_together(rates: tuple[float, ...]) -> None:
    """Over 4 groups, in 500 samples: at the confidence of 95 % all of them at least 93 times in a hundred."""
    rng = np.random.default_rng(1)
    sizes = np.array([80, 150, 300, 500])
    truths = [rates[i] - float(np.delete(sizes * rates, i).sum() / np.delete(sizes, i).sum()) for i in range(4)]
    held = 0
    for _ in range(500):
        wrong = rng.binomial(sizes, rates).astype(float)
        sides = Sides([0, 1, 2, 3], np.stack([sizes - wrong, wrong], axis=1), np.zeros((4, 0)))
        held += interval_holds(share_gaps("bias.error", sides, None, RULES, ())[0], truths)
    assert held >= 465


def errors_of(errors: Sequence[F64], unit: float) -> Sides:
    """Sums of groups, in units."""
    sums = np.array([[e.sum() / unit, np.abs(e).sum() / unit, (e**2).sum() / unit**2] for e in errors])
    return Sides(list(range(len(errors))), np.array([[float(len(e))] for e in errors]), sums)


def test_gaps_of_errors_are_those_of_the_rows() -> None:
    """Of mean absolute errors in shares of all, of signed ones in deviations of the label; the larger one is told."""
    rng = np.random.default_rng(2)
    errors = [rng.normal(0.0, 2.0, 400), rng.normal(0.0, 2.0, 500), rng.normal(0.0, 5.0, 600)]
    found, compared = error_gaps(errors_of(errors, 4.0), 4.0, 10.0, RULES, ())
    assert compared == 3
    worst = max(found, key=lambda gap: abs(gap.gap))
    rest = np.concatenate(errors[:2])
    everything = np.abs(np.concatenate(errors)).mean()
    assert (worst.value_id, worst.measure) == (2, "mae")
    assert worst.value == pytest.approx(np.abs(errors[2]).mean())
    assert worst.others == pytest.approx(np.abs(rest).mean())
    assert worst.gap == pytest.approx((np.abs(errors[2]).mean() - np.abs(rest).mean()) / everything)
    assert worst.low is not None
    assert worst.high is not None
    assert worst.low < worst.gap < worst.high
    signed = [rng.choice([-1.0, 1.0], 500), rng.choice([-1.0, 1.0], 500) + 1.0]
    signed[1] = np.where(rng.random(500) < 0.5, 1.0, 1.0)
    found, _ = error_gaps(errors_of(signed, 0.5), 0.5, 2.0, RULES, ())
    assert {gap.measure for gap in found} == {"bias"}
    assert found[1].gap == pytest.approx((signed[1].mean() - signed[0].mean()) / 2.0)
    assert error_gaps(errors_of([np.zeros(50), np.zeros(50)], 1.0), 1.0, None, RULES, ()) == ([], 2)


def test_all_intervals_of_errors_hold_together() -> None:
    """In 500 samples of exponential errors in 3 groups, at least 93 times in a hundred."""
    rng = np.random.default_rng(3)
    sizes, scales = (300, 400, 600), (1.0, 1.0, 1.5)
    truths = []
    for place in range(3):
        others = [(n, s) for i, (n, s) in enumerate(zip(sizes, scales, strict=True)) if i != place]
        truths.append(scales[place] - sum(n * s for n, s in others) / sum(n for n, _ in others))
    mean = sum(n * s for n, s in zip(sizes, scales, strict=True)) / sum(sizes)
    held = 0
    for _ in range(500):
        errors = [rng.exponential(s, n) for n, s in zip(sizes, scales, strict=True)]
        gaps, _ = error_gaps(errors_of(errors, 1.0), 1.0, None, RULES, ())
        held += interval_holds(gaps, [truth / mean for truth in truths])
    assert held >= 465
