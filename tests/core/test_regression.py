"""Metrics of a regression: the values of scikit-learn, and intervals that hold the truth as often as they say."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from worker.core.kernels.arrays import F64
from worker.core.performance.intervals import Estimate
from worker.core.performance.regression import DEFINITIONS, RegressionFigures, regression_metrics

Z = 1.959963984540054
# Buckets of base 2^(1/32) from 1e-12 to 1e9, and a first one for what is smaller.
BOUNDS = np.concatenate([[0.0], 1e-12 * 2.0 ** (np.arange(2250) / 32.0)])
BUCKET_ERROR = (2.0 ** (1.0 / 32.0) - 1.0) / 2.0


def figures_of(labels: F64, predictions: F64, center: float = 0.0, unit: float = 1.0) -> RegressionFigures:
    """Sum rows in the obvious way."""
    y, e = (labels - center) / unit, (predictions - labels) / unit
    used = labels != 0.0
    relative = np.abs((predictions - labels)[used] / labels[used])
    places = np.maximum(np.searchsorted(BOUNDS, np.abs(e)) - 1, 0)
    counts = np.bincount(places, minlength=len(BOUNDS) - 1).astype(float)
    return RegressionFigures(
        n=float(len(y)),
        center=center,
        unit=unit,
        error=float(e.sum()),
        absolute=float(np.abs(e).sum()),
        squares=float((e**2).sum()),
        fourth=float((e**4).sum()),
        label1=float(y.sum()),
        label2=float((y**2).sum()),
        label3=float((y**3).sum()),
        label4=float((y**4).sum()),
        squares_label1=float((e**2 * y).sum()),
        squares_label2=float((e**2 * y**2).sum()),
        percentage=float(relative.sum()),
        percentage_squares=float((relative**2).sum()),
        percentage_n=float(used.sum()),
        absolute_counts=counts,
        absolute_bounds=BOUNDS,
    )


def scaled(figures: RegressionFigures, by: float, design: float) -> RegressionFigures:
    """All counts and sums times a factor."""
    kept = {"center", "unit", "absolute_bounds", "design"}
    return figures._replace(
        **{name: getattr(figures, name) * by for name in figures._fields if name not in kept}, design=design
    )


NUMBERS = st.floats(-100.0, 100.0).map(lambda value: round(value, 3))
ROWS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=40)


@given(rows=ROWS, center=st.floats(-50.0, 50.0), unit=st.floats(0.5, 20.0))
@settings(max_examples=200, deadline=None)
def test_values_are_those_of_scikit_learn(rows: list[tuple[float, float]], center: float, unit: float) -> None:
    """Whatever center and unit, values are equal in the label's own unit; the median is within `error_max`."""
    labels, predictions = (np.array(column) for column in zip(*rows, strict=True))
    found = regression_metrics(figures_of(labels, predictions, center, unit), Z)
    assert found.keys() == DEFINITIONS.keys()
    error = predictions - labels
    expected = {
        "mse": sk.mean_squared_error(labels, predictions),
        "rmse": sk.root_mean_squared_error(labels, predictions),
        "mae": sk.mean_absolute_error(labels, predictions),
        "bias": error.mean(),
    }
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, rel=1e-9, abs=1e-9), name
        assert found[name].support == len(rows)
    used = labels != 0.0
    if used.any():
        expected_share = sk.mean_absolute_percentage_error(labels[used], predictions[used])
        assert found["mape"].value == pytest.approx(expected_share)
    else:
        assert found["mape"].value is None
    median, exact = found["median_absolute_error"], sk.median_absolute_error(labels, predictions)
    assert median.value is not None
    assert median.error_max is not None
    assert abs(median.value - exact) <= median.error_max * (1.0 + 1e-9) + 1e-9
    assert median.error_max <= 1.01 * BUCKET_ERROR * max(exact, 0.0) * 1.1 + 1e-9
    if np.ptp(labels) > 0.01:
        assert found["r2"].value == pytest.approx(sk.r2_score(labels, predictions), rel=1e-6, abs=1e-6)
    for name, estimate in found.items():
        if estimate.value is not None and estimate.low is not None and estimate.high is not None:
            assert estimate.low <= estimate.value <= estimate.high, name
            assert name in {"r2", "bias"} or estimate.low >= 0.0


def test_what_is_undefined_is_none() -> None:
    """Nothing is known of no events; r2 needs two that differ, mape a label that is not 0, an interval some events."""
    nothing = figures_of(np.zeros(0), np.zeros(0))
    assert all(estimate == Estimate(None, None, None, 0.0) for estimate in regression_metrics(nothing, Z).values())
    empty = nothing._replace(absolute_counts=np.zeros(0), absolute_bounds=np.zeros(1))
    assert regression_metrics(empty, Z)["median_absolute_error"].value is None
    one = regression_metrics(figures_of(np.array([0.0]), np.array([2.0])), Z)
    assert one["r2"].value is one["mape"].value is None
    assert one["mse"] == Estimate(4.0, None, None, 1.0)
    assert one["median_absolute_error"].low is None
    constant = regression_metrics(figures_of(np.full(20, 0.1), np.arange(20.0), center=7.3, unit=0.3), Z)
    assert constant["r2"].value is None
    assert constant["mse"].value is not None


def test_perfect_predictions() -> None:
    """Errors of 0 are 0 and r2 is 1; nothing overflows."""
    labels = np.arange(30.0)
    found = regression_metrics(figures_of(labels, labels), Z)
    for name in ("mse", "rmse", "mae", "bias", "mape"):
        assert found[name][:3] == (0.0, 0.0, 0.0)
    assert found["median_absolute_error"].value == pytest.approx(0.0, abs=1e-12)
    assert found["r2"][:3] == (1.0, 1.0, 1.0)


@given(seed=st.integers(0, 10_000), by=st.floats(0.2, 30.0))
@settings(max_examples=60, deadline=None)
def test_intervals_grow_with_z_shrink_with_events_and_divide_by_the_design(seed: int, by: float) -> None:
    """More confidence widens, more events narrow, and a design effect takes back what a factor of counts gave."""
    figures = figures_of(*draw(np.random.default_rng(seed), 60, "normal"), center=3.0, unit=2.0)
    base, sure = regression_metrics(figures, Z), regression_metrics(figures, 4.4)
    more = regression_metrics(scaled(figures, 40.0, 1.0), Z)
    designed = regression_metrics(scaled(figures, by, by), Z)
    for name, estimate in base.items():
        assert width(estimate) < width(sure[name]), name
        assert width(more[name]) < width(estimate), name
        assert more[name].value == pytest.approx(estimate.value)
        assert designed[name][:3] == pytest.approx(estimate[:3], rel=0.02 if name.startswith("median") else 1e-6), name


def width(estimate: Estimate) -> float:
    """The width of the interval."""
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.high - estimate.low


def test_names_choose_metrics() -> None:
    """Only the metrics that were asked for come back, with the values they have among all; a strange name is a bug."""
    figures = figures_of(*draw(np.random.default_rng(3), 60, "normal"))
    for name, estimate in regression_metrics(figures, Z).items():
        assert regression_metrics(figures, Z, names=[name]) == {name: estimate}
    with pytest.raises(AssertionError):
        regression_metrics(figures, Z, names=["mea"])


ERRORS: dict[str, Callable[[np.random.Generator, F64], F64]] = {
    "normal": lambda random, y: 0.3 + random.normal(size=len(y)),
    "laplace": lambda random, y: random.laplace(size=len(y)),
    "heavy": lambda random, y: random.standard_t(6, len(y)),
    "growing": lambda random, y: random.normal(size=len(y)) * np.abs(y) * 0.2,
}


def draw(random: np.random.Generator, n: int, errors: str) -> tuple[F64, F64]:
    """Labels and predictions of a model with errors of a kind."""
    labels = 5.0 + 2.0 * random.normal(size=n)
    return labels, labels + ERRORS[errors](random, labels)


def coverage(n: int, errors: str, samples: int) -> dict[str, float]:
    """The share of simulated samples whose interval holds the value of a sample of 1,000,000 rows."""
    random = np.random.default_rng(20260102)
    truth = regression_metrics(figures_of(*draw(random, 1_000_000, errors)), Z)
    held = dict.fromkeys(truth, 0)
    for _ in range(samples):
        for name, estimate in regression_metrics(figures_of(*draw(random, n, errors), 5.0, 2.0), Z).items():
            true = truth[name].value
            assert true is not None
            assert estimate.low is not None
            assert estimate.high is not None
            held[name] += estimate.low <= true <= estimate.high
    return {name: count / samples for name, count in held.items()}


@pytest.mark.parametrize("errors", ERRORS)
@pytest.mark.parametrize("n", [300, 1000])
def test_intervals_cover_the_truth(n: int, errors: str) -> None:
    """In 400 samples, 95 % intervals hold the true value at least nine times in ten.

    The mean relative error is left out: labels near 0 give it a distribution without a mean.
    """
    for name, share in coverage(n, errors, 400).items():
        assert share >= 0.9 or name == "mape", f"{name}: {share}"


def test_mape_covers_the_truth_when_labels_keep_away_from_zero() -> None:
    """With labels of at least 1, the mean relative error is an ordinary mean."""
    random, held = np.random.default_rng(9), 0
    labels = 1.0 + random.exponential(3.0, size=(400, 300))
    errors = random.normal(size=labels.shape)
    everything = 1.0 + random.exponential(3.0, size=1_000_000)
    truth = math.sqrt(2.0 / math.pi) * float((1.0 / everything).mean())
    for y, e in zip(labels, errors, strict=True):
        estimate = regression_metrics(figures_of(y, y + e), Z, names=["mape"])["mape"]
        assert estimate.low is not None
        assert estimate.high is not None
        held += estimate.low <= truth <= estimate.high
    assert held >= 0.9 * 400
