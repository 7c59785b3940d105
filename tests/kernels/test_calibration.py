"""Calibration: p-values mean what they say, and the kernel equals a naive twin."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from worker.core.detectors.calibration import Calibration
from worker.core.kernels.calibration import P_VALUE_MIN, TAIL_SHARE, tail_p_value
from worker.core.options import CalibrationOptions

OPTIONS = CalibrationOptions()


def scores(seed: int, count: int, detectors: int = 2) -> NDArray[np.float64]:
    """Return correlated scores of several detectors (k x n)."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=count)
    return np.ascontiguousarray(np.stack([common + rng.normal(size=count) for _ in range(detectors)]))


@pytest.mark.parametrize("alert_rate", [0.01, 0.001])
def test_the_flagged_share_is_the_alert_rate(alert_rate: float) -> None:
    """On stationary streams the share of verdicts at or under the alert rate is the alert rate, within its error."""
    flagged = total = 0
    for seed in range(10):
        verdicts = Calibration(2, OPTIONS, alert_rate, seed).judge(scores(seed, 50_000)).verdicts
        verdicts = verdicts[~np.isnan(verdicts)]
        flagged += int((verdicts <= alert_rate).sum())
        total += len(verdicts)
    expected = total * alert_rate
    # The reference is a sample itself, so the spread is wider than a binomial's.
    assert flagged == pytest.approx(expected, rel=0.25)


def test_p_values_of_a_detector_are_uniform_below_the_tail() -> None:
    """One in ten p-values is under 0.1, and so on: Kolmogorov-Smirnov distance under 2 %."""
    p_values = np.sort(Calibration(1, OPTIONS, 0.001, 1).judge(scores(1, 100_000, 1)).p_values[0][5000:])
    ranks = np.arange(1, len(p_values) + 1) / len(p_values)
    assert np.abs(p_values - ranks).max() < 0.02


def test_there_is_no_verdict_before_there_is_enough_past() -> None:
    """The first verdict comes when the verdict's own past is long enough, and not at all before."""
    verdicts = Calibration(2, OPTIONS, 0.001, 1).judge(scores(1, 2000)).verdicts
    first = OPTIONS.detector_events_min + OPTIONS.verdict_events_min
    assert np.isnan(verdicts[:first]).all()
    assert np.isfinite(verdicts[first:]).all()


def test_when_a_detector_joins_the_verdict_starts_anew() -> None:
    """The fused score changes its law with its members, so its past no longer counts."""
    both = scores(1, 4000)
    both[1, :2000] = np.nan
    verdicts = Calibration(2, OPTIONS, 0.001, 1).judge(both).verdicts
    joined = 2000 + OPTIONS.detector_events_min
    assert np.isfinite(verdicts[700:joined]).all()
    assert np.isnan(verdicts[joined : joined + OPTIONS.verdict_events_min]).all()
    assert np.isfinite(verdicts[joined + OPTIONS.verdict_events_min :]).all()


def test_cuts_change_nothing() -> None:
    """Equal scores give equal bits, however they are cut into calls."""
    whole, parts = Calibration(2, OPTIONS, 0.001, 1), Calibration(2, OPTIONS, 0.001, 1)
    values = scores(3, 5000)
    one = whole.judge(values)
    many = [parts.judge(np.ascontiguousarray(values[:, at : at + 7])) for at in range(0, 5000, 7)]
    assert np.array_equal(np.concatenate([part.verdicts for part in many]), one.verdicts, equal_nan=True)
    for name, array in whole.state().items():
        assert array.tobytes() == parts.state()[name].tobytes()


@pytest.mark.parametrize("seed", range(5))
def test_a_p_value_is_rank_below_the_threshold_and_exponential_above(seed: int) -> None:
    """The compiled tail equals its definition."""
    rng = np.random.default_rng(seed)
    reference = np.sort(rng.gamma(2, size=500).round(1))
    threshold = float(reference[int((1 - TAIL_SHARE) * 499)])
    for score in [*reference[::25], threshold, threshold + 0.1, threshold + 3.0, threshold + 1e9]:
        if score > threshold:
            expected = max(P_VALUE_MIN, TAIL_SHARE * math.exp(-(score - threshold) / 0.7))
        else:
            expected = (np.count_nonzero(reference >= score) + 1) / 501
        assert tail_p_value(float(score), reference, threshold, 0.7) == pytest.approx(expected, rel=1e-12)


def test_constant_scores_are_never_anomalies() -> None:
    """When all scores are equal, an equal one is no surprise, and a higher one is as rare as the past can tell."""
    values = np.zeros((1, 1500))
    values[0, -1] = 1.0
    judged = Calibration(1, OPTIONS, 0.001, 1).judge(values)
    assert judged.p_values[0, -2] == pytest.approx(1.0)
    assert judged.p_values[0, -1] == pytest.approx(1 / 1451, rel=0.1)


def fault(options: CalibrationOptions) -> NDArray[np.float64]:
    """Return the verdicts of a stream that is normal for 3,000 events and far out for the next 3,000."""
    values = scores(5, 6000)
    values[:, 3000:] += 15.0
    return Calibration(2, options, 0.001, 1).judge(values).verdicts[3000:]


def test_a_fault_stays_flagged_as_long_as_it_lasts() -> None:
    """A burst is not learned: three thousand faulty events after three thousand good ones are all flagged."""
    assert (fault(OPTIONS) <= 0.001).mean() > 0.99


def test_a_lasting_change_becomes_the_new_normal() -> None:
    """After `regime_events` flagged events the change is accepted, and flagged no more."""
    flagged = fault(CalibrationOptions(regime_events=500)) <= 0.001
    assert flagged[:500].all()
    assert flagged[2000:].mean() < 0.1
