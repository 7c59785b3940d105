"""The moments score beside a naive twin, and what it is for."""

import math

import numpy as np
import pytest

from worker.core.detectors.moments import MomentsDistance
from worker.core.kernels.arrays import F64
from worker.core.kernels.moments_score import CLIP, ROWS_MIN, STEP, Z_MAX, score_and_learn


def compiled(rows: F64) -> F64:
    """Return the kernel's scores from an empty state."""
    columns = rows.shape[1]
    scores = np.empty(len(rows))
    none = np.full(columns, np.nan)
    score_and_learn(rows, none, none, 0, np.zeros(columns, np.int64), np.zeros(columns), np.zeros(columns), scores)
    return scores


def naive(rows: F64) -> F64:
    """Return the same from the definition: mean and deviation of all (clipped) values before each event."""
    past: list[list[float]] = [[] for _ in range(rows.shape[1])]
    scores = []
    for row in rows:
        distances = [0.0] if any(len(values) >= ROWS_MIN for values in past) else []
        for values, given in zip(past, row, strict=True):
            x = float(given)
            if math.isnan(x):
                continue
            if len(values) >= ROWS_MIN:
                mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
                distance = abs(x - mean)
                z = min(distance / deviation, Z_MAX) if deviation > 0 else Z_MAX * (distance > 0)
                distances.append(z)
                reach = CLIP * deviation if deviation > 0 else STEP * (1 + abs(mean))
                if distance > reach:
                    x = mean + math.copysign(reach, x - mean)
            values.append(x)
        scores.append(math.log1p(max(distances)) if distances else np.nan)
    return np.array(scores)


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_of_the_naive_twin(seed: int) -> None:
    """With outliers, missing values and features of very different size."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(200, 3)) * [1, 1000, 0.01] + [0, 5000, -3]
    rows[rng.random(rows.shape) < 0.1] = np.nan
    rows[150] = [50, 5000, -3]
    np.testing.assert_allclose(compiled(rows), naive(rows), rtol=1e-9, atol=1e-12)


def test_a_constant_feature_that_changes_stands_out_as_far_as_it_can() -> None:
    """No spread so far: any other value is at the largest distance, an equal one at none."""
    rows = np.full((30, 1), 7.0)
    rows[20] = 7.5
    scores = compiled(rows)
    assert scores[19] == 0.0
    assert scores[20] == pytest.approx(math.log1p(Z_MAX))


def test_one_event_does_not_blind_a_feature() -> None:
    """After a value of a million deviations, one of fifty still stands out."""
    rows = np.random.default_rng(1).normal(size=(1000, 1))
    rows[500], rows[700] = 1e6, 50.0
    scores = compiled(rows)
    assert scores[700] > np.quantile(scores[100:500], 0.999)


@pytest.mark.parametrize("before", [0, 1000])
def test_not_even_a_first_value_blinds_a_feature(before: int) -> None:
    """A value of a billion as the very first one, or after a thousand zeros: a thousand deviations still stand out."""
    rng = np.random.default_rng(2)
    rows = np.concatenate([np.zeros((before, 1)), [[1e9]], rng.normal(size=(5000, 1)), [[1000.0]]])
    detector = MomentsDistance(1, 256)
    detector.fit(rows[:256])
    scores = detector.score_and_learn(rows)
    assert scores[-1] > np.quantile(scores[-2000:-1], 0.999)
    assert scores[-1] > math.log1p(50)
