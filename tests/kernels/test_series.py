"""Features of a series: beside a naive twin, for any cut, without a look ahead, and for what they are there."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.detectors.series import SeriesFeatures
from worker.core.kernels.arrays import F64, I64
from worker.core.kernels.series import HOUR_MS, HOURS
from worker.core.options import UnivariateOptions

OPTIONS = UnivariateOptions(lags=3)
MONDAY_MS = 4 * 24 * HOUR_MS
"""1970-01-05, a Monday."""


def walk(length: int, seed: int, step_ms: int = 2 * HOUR_MS) -> tuple[F64, I64]:
    """Values with a daily shape, outliers and gaps, at times that are sometimes late."""
    rng = np.random.default_rng(seed)
    times = MONDAY_MS + np.arange(length) * step_ms
    values = 10.0 * np.sin(times / (24 * HOUR_MS) * 2.0 * np.pi) + rng.normal(size=length)
    values[rng.random(length) < 0.02] *= 100.0
    values[rng.random(length) < 0.05] = np.nan
    late = rng.random(length) < 0.05
    times[late] -= rng.integers(0, 30 * HOUR_MS, size=late.sum())
    return values, times


class Twin:
    """The features from their definitions, one value at a time, with what was learned in plain Python."""

    def __init__(self, options: UnivariateOptions) -> None:
        self.options = options
        self.events: list[float] = []
        self.known = 0
        self.fast = self.slow = self.distance = 0.0
        self.profile: dict[int, tuple[int, float]] = {}
        self.visit: dict[int, tuple[int, list[float]]] = {}
        self.visit_mean: dict[int, float] = {}

    def take(self, value: float, time_ms: int) -> list[float]:
        """Return the features of a value, then learn it."""
        weeks, hour = divmod(time_ms // HOUR_MS + 72, HOURS)
        week, values = self.visit.get(hour, (weeks, []))
        if values and (weeks > week or weeks < week - 1):
            self._fold(hour)
            week, values = weeks, []
        lags = [self.events[-lag] if len(self.events) >= lag else math.nan for lag in range(1, self.options.lags + 1)]
        fast, slow = (self.fast, self.slow) if self.known else (math.nan, math.nan)
        folded, usual = self.profile.get(hour, (0, 0.0))
        seasonal = value - usual if folded >= 2 else math.nan
        features = [value, value - lags[0], value - fast, value - slow, *lags, seasonal]
        self.events.append(value)
        if not math.isnan(value):
            reach = 5.0 * self.distance if self.known >= 16 and self.distance > 0.0 else 4e100
            self._learn(value, reach)
            if not values:
                values = [value if not folded else clip(value, usual, reach)]
                self.visit_mean[hour] = values[0]
            else:
                values = [*values, value]
                mean = self.visit_mean[hour]
                self.visit_mean[hour] = mean + (clip(value, mean, reach) - mean) / len(values)
            self.visit[hour] = week if len(values) > 1 else weeks, values
        return features

    def _fold(self, hour: int) -> None:
        folded, usual = self.profile.get(hour, (0, 0.0))
        mean = self.visit_mean[hour]
        mean = mean if folded < 2 else clip(mean, usual, 5.0 * self.distance)
        self.profile[hour] = folded + 1, usual + max(1.0 / (folded + 1), 1.0 / 8.0) * (mean - usual)
        self.visit[hour] = 0, []

    def _learn(self, value: float, reach: float) -> None:
        self.known += 1
        if self.known == 1:
            self.fast = self.slow = value
            return
        fast, slow = (
            max(1.0 - 0.5 ** (1.0 / half), 1.0 / self.known)
            for half in (self.options.fast_half_life_events, self.options.slow_half_life_events)
        )
        step = max(1.0 - 0.5 ** (1.0 / self.options.slow_half_life_events), 1.0 / (self.known - 1))
        self.distance += step * (min(abs(value - self.slow), reach) - self.distance)
        self.fast += fast * (clip(value, self.fast, reach) - self.fast)
        self.slow += slow * (clip(value, self.slow, reach) - self.slow)


def clip(value: float, middle: float, reach: float) -> float:
    """Return the nearest value within reach."""
    return min(max(value, middle - reach), middle + reach)


@pytest.mark.parametrize("seed", range(4))
def test_features_are_those_of_the_naive_twin(seed: int) -> None:
    """Over twelve weeks with outliers, gaps and late events."""
    values, times = walk(1_000, seed)
    twin = Twin(OPTIONS)
    naive = [twin.take(float(value), int(time)) for value, time in zip(values, times, strict=True)]
    rows = SeriesFeatures(OPTIONS).rows(values, times)
    np.testing.assert_allclose(rows, np.array(naive), rtol=1e-9, atol=1e-9)
    assert (~np.isnan(rows[:, -1])).mean() > 0.5


def test_names_are_those_of_the_columns() -> None:
    """With and without a season."""
    values, times = walk(10, 0)
    for options in (OPTIONS, UnivariateOptions(lags=1, seasonality=False)):
        series = SeriesFeatures(options)
        assert series.rows(values, times).shape == (10, len(series.names))
    assert SeriesFeatures(OPTIONS).names == [
        "value",
        "difference",
        "fast residual",
        "slow residual",
        "lag 1",
        "lag 2",
        "lag 3",
        "seasonal residual",
    ]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 700), max_size=8), st.integers(0, 5))
def test_any_cut_and_a_restart_give_equal_bits(cuts: list[int], seed: int) -> None:
    """Each part of the stream is processed by another object that was restored."""
    values, times = walk(700, seed)
    whole, now = SeriesFeatures(OPTIONS), SeriesFeatures(OPTIONS)
    expected, parts = whole.rows(values, times), []
    bounds = [0, *sorted(cuts), 700]
    for begin, end in pairwise(bounds):
        successor = SeriesFeatures(OPTIONS)
        successor.restore({name: array.copy() for name, array in now.live().items()})
        parts.append(successor.rows(values[begin:end], times[begin:end]))
        now = successor
    assert np.concatenate(parts).tobytes() == expected.tobytes()
    for name, array in whole.live().items():
        assert array.tobytes() == now.live()[name].tobytes(), name


def test_features_do_not_look_ahead() -> None:
    """Other values after an event, and its own value in what it is compared with, change nothing."""
    values, times = walk(600, 1)
    rows = SeriesFeatures(OPTIONS).rows(values, times)
    other = values.copy()
    other[400:] = 1e6
    changed = SeriesFeatures(OPTIONS).rows(other, times)
    assert rows[:400].tobytes() == changed[:400].tobytes()
    np.testing.assert_allclose(changed[400, 2:4] - rows[400, 2:4], 1e6 - values[400])
    assert rows[400, 4:7].tobytes() == changed[400, 4:7].tobytes()


def test_a_value_of_noon_stands_out_at_night() -> None:
    """After five weeks of a daily shape: within the usual range, but far from the profile of its hour."""
    rng = np.random.default_rng(0)
    times = MONDAY_MS + np.arange(6 * 7 * 24 * 4) * (HOUR_MS // 4)
    values = 10.0 * np.cos(times / (24 * HOUR_MS) * 2.0 * np.pi) + rng.normal(scale=0.3, size=len(times))
    at_night = len(times) - 48
    values[at_night] = -values[at_night]
    residual = SeriesFeatures(OPTIONS).rows(values, times)[:, -1]
    assert np.isnan(residual[: 2 * 7 * 24 * 4]).all()
    later = np.abs(residual[3 * 7 * 24 * 4 :])
    assert np.nanquantile(later, 0.99) < 4.0
    assert abs(residual[at_night]) > 15.0


def test_a_spike_leaves_no_trace_in_the_means() -> None:
    """Right after a spike of a thousand deviations the residuals are about as small as before."""
    values = np.random.default_rng(1).normal(size=600)
    values[500] = 1000.0
    rows = SeriesFeatures(OPTIONS).rows(values, np.arange(600) * 1000)
    assert rows[500, 2] > 900.0
    assert np.abs(rows[501:520, 2:4] - values[501:520, np.newaxis]).max() < 1.5


def test_a_new_level_is_taken_for_normal() -> None:
    """Two hundred deviations higher for good: the fast mean needs 120 values, the slow one 800."""
    values = np.random.default_rng(2).normal(size=2_000)
    values[1_000:] += 200.0
    rows = SeriesFeatures(OPTIONS).rows(values, np.arange(2_000) * 1000)
    assert np.abs(rows[1_120:, 2]).max() < 20.0
    assert np.abs(rows[1_800:, 3]).max() < 20.0


def test_a_profile_that_the_week_of_a_wrong_clock_has_spoiled_goes_on() -> None:
    """An event of the year 2100 does not stop its hour from learning."""
    times = MONDAY_MS + np.arange(10 * HOURS) * HOUR_MS
    times[HOURS] += 130 * 52 * HOURS * HOUR_MS
    residual = SeriesFeatures(OPTIONS).rows(np.ones(len(times)), times)[:, -1]
    assert (residual[4 * HOURS :] == 0.0).all()


@pytest.mark.parametrize("value", [1.7e308, -1.7e308, np.inf, -np.inf, 5e-324])
def test_values_at_the_ends_of_float64_stay_finite(value: float) -> None:
    """No infinite feature, and a state that can be restored."""
    values = np.tile([1.0, value, -2.0, np.nan, value], 400)
    times = np.arange(len(values)) * HOUR_MS
    series = SeriesFeatures(OPTIONS)
    assert not np.isinf(series.rows(values, times)).any()
    SeriesFeatures(OPTIONS).restore(series.live())


@pytest.mark.parametrize(
    ("name", "place", "value", "reason"),
    [
        ("lags", 0, np.inf, "a lag"),
        ("means", 1, np.nan, "a mean"),
        ("count", 0, -1, "a count"),
        ("profile", 3, np.inf, "a profile"),
        ("visit", 3, np.nan, "a profile"),
        ("visits", (3, 0), -1, "a count of a profile"),
        ("visits", (3, 2), 2**60, "a week"),
    ],
)
def test_what_cannot_be_its_state_is_refused(
    name: str, place: int | tuple[int, int], value: float, reason: str
) -> None:
    """With the reason."""
    live = {key: array.copy() for key, array in SeriesFeatures(OPTIONS).live().items()}
    live[name][place] = value
    with pytest.raises(ValueError, match=reason):
        SeriesFeatures(OPTIONS).restore(live)
    with pytest.raises(ValueError, match="instead of"):
        SeriesFeatures(OPTIONS).restore({**live, "lags": np.zeros(7)})
