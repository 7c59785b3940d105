"""Tail surprise beside a naive twin: the formula from its definition, and what is kept, value by value."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.detectors.gate import Gate
from worker.core.detectors.tails import TailSurprise
from worker.core.kernels.arrays import F64
from worker.core.kernels.gate import admits
from worker.core.kernels.reservoir import next_random
from worker.core.kernels.tails import SURPRISE_MAX, VALUES_MIN
from worker.core.options import TailsOptions


def naive_surprise(x: float, reference: list[float]) -> float:
    """-ln of the smaller tail probability: beyond the 98 % threshold with the mean excess, else by counting."""
    length = len(reference)
    upper = int(0.98 * (length - 1))
    high, low = reference[upper], reference[length - 1 - upper]
    if low <= x <= high:
        rarer = min(sum(value <= x for value in reference), sum(value >= x for value in reference))
        return -math.log((rarer + 1) / (length + 1))
    excesses = [v - high for v in reference[upper + 1 :]] if x > high else [low - v for v in reference if v < low]
    excess = x - high if x > high else low - x
    if sum(excesses) == 0:
        return -math.log(1e-12)
    return min(-math.log(1e-12), -math.log(0.02) + excess / (sum(excesses) / (length - 1 - upper)))


@dataclass
class NaiveFeature:
    """The reservoir of one feature as a list."""

    size: int
    memory: int
    kept: int = 0
    renewal: int = VALUES_MIN
    sample: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)
    usual: float = math.nan

    def surprise(self, x: float) -> float:
        """The mean over the reference for a missing value."""
        return self.usual if math.isnan(x) else naive_surprise(x, self.reference)

    def learn(self, x: float, bits: int) -> None:
        """Algorithm R with a bounded memory; renewed after each eighth of the past, and after 64 values at least."""
        self.kept += 1
        if len(self.sample) < self.size:
            self.sample.append(x)
        else:
            place = bits % min(self.kept, max(self.memory, self.size) if self.memory else self.kept)
            if place < self.size:
                self.sample[place] = x
        if self.kept >= self.renewal:
            self.sample.sort()
            self.reference = list(self.sample)
            self.usual = float(np.mean([naive_surprise(value, self.reference) for value in self.reference]))
            self.renewal = self.kept + min(max(64, self.kept // 8), 4096)


def naive_scores(rows: F64, options: TailsOptions, settle: int, seed: int) -> F64:
    """The mean surprise of each row, then what the gate and the reservoirs make of it."""
    features = [NaiveFeature(options.rows_max, options.memory_events) for _ in range(rows.shape[1])]
    gate, random_state = Gate(options.gate_quantile, seed + 1).for_kernel, np.full(1, seed, dtype=np.uint64)
    scores, admitted = np.full(len(rows), np.nan), 0
    for number, row in enumerate(rows.tolist()):
        known = [(feature, x) for feature, x in zip(features, row, strict=True) if feature.reference]
        if known:
            scores[number] = sum(feature.surprise(x) for feature, x in known) / len(known)
        if number >= settle and known and not admits(scores[number], gate):
            continue
        bits = int(next_random(random_state)) if admitted >= options.rows_max else 0
        admitted += 1
        for feature, x in zip(features, row, strict=True):
            if not math.isnan(x):
                feature.learn(x, bits)
    return scores


def mixed_stream(seed: int, count: int = 700) -> F64:
    """Rows of a Gaussian, a heavy tail, a small integer, a flag that is seldom set, and a constant; some missing."""
    rng = np.random.default_rng(seed)
    rows = np.column_stack(
        [
            rng.normal(size=count),
            rng.standard_t(2, size=count) * 1e6,
            rng.poisson(2.0, size=count),
            rng.random(count) < 0.01,
            np.full(count, 7.5),
        ]
    )
    rows[500, 4] = 7.6
    rows[rng.random(rows.shape) < [0.0, 0.1, 0.3, 0.1, 0.0]] = np.nan
    return rows


@pytest.mark.parametrize(
    "options",
    [
        TailsOptions(rows_max=64, memory_events=150),
        TailsOptions(rows_max=101, memory_events=0, gate_quantile=0.8),
        TailsOptions(rows_max=128, memory_events=10, gate_quantile=1.0),
    ],
)
def test_scores_are_those_of_the_naive_twin(options: TailsOptions) -> None:
    """With ties, constants, heavy tails, missing values and a gate."""
    rows = mixed_stream(1)
    detector = TailSurprise(rows.shape[1], options, settle=100, seed=5)
    expected = naive_scores(rows, options, settle=100, seed=5)
    np.testing.assert_allclose(detector.score_and_learn(rows), expected, rtol=1e-9)
    assert np.isnan(expected).sum() == VALUES_MIN


@given(
    values=st.lists(st.integers(-3, 3) | st.floats(-100, 100), min_size=VALUES_MIN, max_size=2 * VALUES_MIN),
    probes=st.lists(st.integers(-4, 4) | st.floats(-1000, 1000), min_size=1, max_size=20),
)
@settings(max_examples=60, deadline=None)
def test_any_value_against_any_reference(values: list[float], probes: list[float]) -> None:
    """However values tie, and wherever a value lies, its surprise is that of the definition."""
    detector = TailSurprise(1, TailsOptions(rows_max=128), settle=1000, seed=0)
    detector.score_and_learn(np.array(values, dtype=np.float64)[:, np.newaxis])
    length = int(detector.live()["length"][0])
    reference = sorted(values[:length])
    probes = [*probes, *reference]
    scores = detector.score(np.array(probes, dtype=np.float64)[:, np.newaxis])
    np.testing.assert_allclose(scores, [naive_surprise(x, reference) for x in probes], rtol=1e-9, atol=1e-12)
    assert ((scores >= 0.0) & (scores <= SURPRISE_MAX)).all()


def test_a_feature_is_worth_what_is_known_of_its_distribution() -> None:
    """Of a known distribution, the surprise is about -ln of its tail probability, far beyond the sample, too."""
    rng = np.random.default_rng(2)
    detector = TailSurprise(1, TailsOptions(rows_max=8192, memory_events=0, gate_quantile=1.0), settle=0, seed=1)
    detector.score_and_learn(rng.exponential(size=(8192, 1)))
    far = np.array([[1.0], [3.0], [6.0], [12.0]])
    np.testing.assert_allclose(detector.score(far), far[:, 0], rtol=0.2)
