"""Calibration: p-values mean what they say, and the kernel equals a naive twin."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kernels.test_reservoir import Splitmix64
from worker.core.detectors.calibration import Calibration, Judgement
from worker.core.kernels.calibration import (
    BURST_HORIZON_EVENTS,
    BURST_LEVEL,
    COARSE_RATE,
    COARSE_STEP,
    CONTROL_STEP,
    LOG_COARSE_MIN,
    LOG_FACTOR_MAX,
)
from worker.core.kernels.score_past import P_VALUE_MIN, RENEWAL_EVENTS_MAX, TAIL_SHARE, tail_p_values
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
        verdicts = Calibration([1.0, 1.0], OPTIONS, seed).judge(scores(seed, 50_000), alert_rate)[1].verdicts
        verdicts = verdicts[~np.isnan(verdicts)]
        flagged += int((verdicts <= alert_rate).sum())
        total += len(verdicts)
    expected = total * alert_rate
    assert abs(flagged - expected) <= 1.96 * math.sqrt(expected)


def test_p_values_of_a_detector_are_uniform_below_the_tail() -> None:
    """One in ten p-values is under 0.1, and so on: Kolmogorov-Smirnov distance under 2 %."""
    p_values = np.sort(Calibration([1.0] * 1, OPTIONS, 1).judge(scores(1, 100_000, 1), 0.001)[1].p_values[0][5000:])
    ranks = np.arange(1, len(p_values) + 1) / len(p_values)
    assert np.abs(p_values - ranks).max() < 0.02


def test_there_is_no_verdict_before_there_is_enough_past() -> None:
    """The first verdict comes when the verdict's own past is long enough, and not at all before."""
    verdicts = Calibration([1.0] * 2, OPTIONS, 1).judge(scores(1, 2000), 0.001)[1].verdicts
    first = OPTIONS.detector_events_min + OPTIONS.verdict_events_min
    assert np.isnan(verdicts[:first]).all()
    assert np.isfinite(verdicts[first:]).all()


def test_when_a_detector_joins_the_verdict_starts_anew() -> None:
    """The fused score changes its law with its members, so its past no longer counts."""
    both = scores(1, 4000)
    both[1, :2000] = np.nan
    verdicts = Calibration([1.0] * 2, OPTIONS, 1).judge(both, 0.001)[1].verdicts
    joined = 2000 + OPTIONS.detector_events_min
    assert np.isfinite(verdicts[700:joined]).all()
    assert np.isnan(verdicts[joined : joined + OPTIONS.verdict_events_min]).all()
    assert np.isfinite(verdicts[joined + OPTIONS.verdict_events_min :]).all()


def test_cuts_change_nothing() -> None:
    """Equal scores give equal bits, however they are cut into calls."""
    whole, parts = Calibration([1.0] * 2, OPTIONS, 1), Calibration([1.0] * 2, OPTIONS, 1)
    values = scores(3, 5000)
    one = whole.judge(values, 0.001)[1]
    many = [parts.judge(np.ascontiguousarray(values[:, at : at + 7]), 0.001)[1] for at in range(0, 5000, 7)]
    assert np.array_equal(np.concatenate([part.verdicts for part in many]), one.verdicts, equal_nan=True)
    for name, array in whole.state().items():
        assert array.tobytes() == parts.state()[name].tobytes()


@pytest.mark.parametrize("seed", range(5))
def test_a_p_value_is_rank_below_the_threshold_and_exponential_above(seed: int) -> None:
    """The compiled tail equals its definition."""
    rng = np.random.default_rng(seed)
    reference = np.sort(rng.gamma(2, size=500).round(1).astype(np.float32))
    threshold = float(reference[int((1 - TAIL_SHARE) * 499)])
    values = np.array([*reference[::25], threshold, threshold + 0.1, threshold + 3.0, threshold + 1e9, np.nan])
    p_values = np.empty(len(values))
    tail_p_values(values, reference, threshold, 0.7, p_values, np.empty(len(values), dtype=np.int64))
    for score, p_value in zip(values[:-1], p_values[:-1], strict=True):
        if score > threshold:
            expected = max(P_VALUE_MIN, TAIL_SHARE * math.exp(-(score - threshold) / 0.7))
        else:
            expected = (np.count_nonzero(reference >= score) + 1) / 501
        assert p_value == pytest.approx(expected, rel=1e-12)
    assert np.isnan(p_values[-1])


def test_constant_scores_are_never_anomalies() -> None:
    """When all scores are equal, an equal one is no surprise, and a higher one is as rare as the past can tell."""
    # No number of single precision, in which past scores are kept.
    values = np.full((1, 1500), 0.1)
    values[0, -1] = 1.0
    judged = Calibration([1.0] * 1, OPTIONS, 1).judge(values, 0.001)[1]
    assert judged.p_values[0, -2] == pytest.approx(1.0)
    assert judged.p_values[0, -1] == pytest.approx(1 / 1451, rel=0.1)


def test_scores_beyond_single_precision_are_the_largest() -> None:
    """They are no infinity, which would leave no tail to fit: it stays finite, and what is usual stays usual."""
    values = scores(13, 4000, detectors=1)
    values[0, 1000::100] = 1e300
    calibration = Calibration([1.0], OPTIONS, 1)
    judged = calibration.judge(values, 0.001)[1]
    assert np.isfinite(calibration.state()["tail"]).all()
    assert np.nanmedian(judged.p_values) > 0.4
    assert judged.p_values[0, 1000::100].max() < 0.05


def fault(options: CalibrationOptions) -> tuple[int, NDArray[np.float64]]:
    """Feed a stream that is normal for 3,000 events and far out for the next 3,000.

    Return how many of the latter were judged, and their verdicts.
    """
    values = scores(5, 6000)
    values[:, 3000:] += 15.0
    done, judged = Calibration([1.0, 1.0], options, 1).judge(values, 0.001)
    return done - 3000, judged.verdicts[3000:]


def test_a_fault_stays_flagged_as_long_as_it_lasts() -> None:
    """A burst is not learned: three thousand faulty events after three thousand good ones are all flagged."""
    done, verdicts = fault(OPTIONS)
    assert done == 3000
    assert (verdicts <= 0.001).mean() > 0.99


def test_a_lasting_change_is_the_new_normal_after_so_many_events() -> None:
    """A burst that has lasted for `regime_events` stops the judgement: detectors begin anew."""
    done, verdicts = fault(CalibrationOptions(regime_events=500))
    assert 500 <= done < 520
    assert (verdicts <= 0.001).all()


def test_what_is_always_learned_is_normal_soon() -> None:
    """With `learn_flagged = "always"` a fault passes for normal after a while."""
    _, verdicts = fault(CalibrationOptions(learn_flagged="always"))
    assert (verdicts[-500:] <= 0.001).mean() < 0.2


def test_what_is_never_learned_stays_flagged() -> None:
    """With `learn_flagged = "never"` single flagged events are not learned either: their scores never come near."""
    values = scores(6, 20_000)
    values[:, 5_000::50] += 15.0
    never = Calibration([1.0, 1.0], CalibrationOptions(learn_flagged="never"), 1).judge(values, 0.001)[1].verdicts
    assert (never[10_000::50] <= 0.001).mean() > 0.95


@pytest.mark.parametrize("rate", [0.01, 0.001])
@pytest.mark.parametrize("seed", range(4))
def test_the_share_of_flagged_events_is_what_was_wanted(rate: float, seed: int) -> None:
    """Whatever the law of the scores, the flagged share of a stream is within the 95 % interval of the wanted one."""
    rng = np.random.default_rng(seed)
    count = 60_000
    laws = [rng.standard_t(2, (2, count)), rng.normal(size=(2, count)), rng.gamma(0.3, size=(2, count)).round(2)]
    laws.append(np.where(rng.random((2, count)) < 0.004, 50.0, 0.0) + rng.normal(size=(2, count)))
    _, judged = Calibration([1.0, 1.0], CalibrationOptions(), 1).judge(laws[seed], rate)
    counted = np.count_nonzero(~np.isnan(judged.verdicts))
    flagged = np.count_nonzero(judged.verdicts <= rate)
    assert abs(flagged - rate * counted) <= 1.96 * math.sqrt(rate * counted)


def test_weights_decide_who_is_heard() -> None:
    """A detector of no weight to speak of changes the fused score by next to nothing."""
    values = scores(7, 1900)
    # No more events than the memory of scores holds: which are kept from then on depends on how many series there are.
    both = Calibration([1.0, 1e-9], OPTIONS, 1).judge(values, 0.001)[1]
    alone = Calibration([1.0], OPTIONS, 1).judge(np.ascontiguousarray(values[:1]), 0.001)[1]
    ready = ~np.isnan(alone.fused)
    assert both.fused[ready] == pytest.approx(alone.fused[ready], abs=1e-6)


def test_fused_scores_can_be_asked_for_without_learning() -> None:
    """They are what the next event would get, and asking changes nothing."""
    values = scores(8, 3000)
    first, second = (Calibration([1.0, 2.0], OPTIONS, 1) for _ in range(2))
    for calibration in (first, second):
        calibration.judge(np.ascontiguousarray(values[:, :-1]), 0.001)
    asked = first.fused(np.ascontiguousarray(values[:, -1:]))
    last = np.ascontiguousarray(values[:, -1:])
    assert asked[0] == first.judge(last, 0.001)[1].fused[0]
    second.judge(last, 0.001)
    assert all(array.tobytes() == second.state()[name].tobytes() for name, array in first.state().items())


def test_detectors_that_contradict_each_other_are_told() -> None:
    """Flagged though half see nothing, or not flagged though one is alarmed: disagreement; else there is none."""
    p_values = np.array([[1e-6, 1e-6, 0.5, 1e-6], [0.9, 1e-4, 0.6, 0.9]])
    verdicts = np.array([1e-4, 1e-5, 0.5, 0.01])
    judged = Judgement(p_values, p_values, verdicts, verdicts, verdicts)
    assert judged.disagreements(0.001).tolist() == [True, False, False, True]


def test_a_detector_that_may_be_alone_flags_by_itself() -> None:
    """What one of five detectors finds impossible is lost in a mean, and flagged where that one counts alone."""
    values = scores(9, 6000, detectors=5)
    values[4, 5000::100] += 30.0
    flagged = []
    for alone in ([False] * 5, [False] * 4 + [True]):
        judged = Calibration([2.0, 2.0, 2.0, 2.0, 0.5], OPTIONS, 1, alone).judge(values, 0.001)[1]
        flagged.append(float((judged.verdicts[5000::100] <= 0.001).mean()))
    assert flagged[0] < 0.3
    assert flagged[1] == 1.0


class NaiveCalibration:
    """The naive twin: one event after the other, one series after the other, lists that are sorted."""

    def __init__(self, weights: list[float], alone: list[bool], options: CalibrationOptions, seed: int) -> None:
        self.weights, self.alone, self.options = weights, alone, options
        series = len(weights) + 1
        self.pools: list[list[float]] = [[] for _ in range(series)]
        self.references: list[list[float]] = [[] for _ in range(series)]
        self.seen, self.due = [0] * series, [0] * series
        self.tails = [(0.0, 0.0)] * series
        self.randoms = [Splitmix64(place + seed * series) for place in range(series)]
        self.members = 0
        self.level, self.lasted, self.log_factor, self.log_coarse = 0.0, 0, 0.0, 0.0

    def p_value(self, place: int, score: float) -> float:
        """Rank below the threshold, exponential above."""
        reference, (threshold, excess) = self.references[place], self.tails[place]
        if not reference or math.isnan(score):
            return math.nan
        if score > threshold and excess > 0.0:
            return max(P_VALUE_MIN, TAIL_SHARE * math.exp(-(score - threshold) / excess))
        return (sum(past >= score for past in reference) + 1.0) / (len(reference) + 1.0)

    def learn(self, place: int, score: float) -> None:
        """Algorithm R with a bounded memory, and a new reference when it is due."""
        size, pool = self.options.scores_max, self.pools[place]
        if self.seen[place] < size:
            pool[self.seen[place] :] = [score]
        else:
            at = self.randoms[place].next() % min(self.seen[place] + 1, max(self.options.memory_events, size))
            if at < size:
                pool[at] = score
        self.seen[place] += 1
        options = self.options
        least = options.verdict_events_min if place == len(self.weights) else options.detector_events_min
        if self.seen[place] >= (self.due[place] if self.references[place] else least):
            ordered = self.references[place] = sorted(pool)
            cut = int((1.0 - TAIL_SHARE) * (len(ordered) - 1))
            excess = 0.0
            for past in ordered[cut + 1 :]:
                excess += past - ordered[cut]
            beyond = len(ordered) - 1 - cut
            self.tails[place] = ordered[cut], excess / beyond if beyond else 0.0
            self.due[place] = self.seen[place] + min(max(least, self.seen[place] // 8), RENEWAL_EVENTS_MAX)

    def judge(self, scores: list[float], alert_rate: float) -> tuple[list[float], float, float, float]:
        """Return the p-values, the fused score, its p-value, and the verdict of an event; learn it."""
        scores = [float(np.float32(score)) for score in scores]
        p_values = [self.p_value(place, score) for place, score in enumerate(scores)]
        total = weight = 0.0
        for p, each in zip(p_values, self.weights, strict=True):
            if not math.isnan(p):
                total -= each * math.log10(p)
                weight += each
        fused = float(np.float32(total / weight)) if weight else math.nan
        ready = sum(not math.isnan(p) for p in p_values)
        if ready != self.members:
            self.members = ready
            self.pools[-1], self.references[-1], self.seen[-1] = [], [], 0
        raw = self.p_value(len(scores), fused)
        heard = [raw, *(p for p, alone in zip(p_values, self.alone, strict=True) if alone and not math.isnan(p))]
        verdict = math.nan if math.isnan(raw) else self.controlled(min(1.0, len(heard) * min(heard)), alert_rate)
        flagged = verdict <= alert_rate
        self.level = self.level * (1.0 - 1.0 / BURST_HORIZON_EVENTS) + flagged
        if self.level < 1.0:
            self.lasted = 0
        elif self.lasted > 0 or self.level >= BURST_LEVEL:
            self.lasted += 1
        if not (flagged and self.lasted > 0):
            for place, score in enumerate([*scores, fused]):
                if not math.isnan(score):
                    self.learn(place, score)
        return p_values, fused, raw, verdict

    def controlled(self, verdict: float, alert_rate: float) -> float:
        """Multiply with both factors, and move them on unless there is a burst."""
        coarse = verdict * math.exp(self.log_coarse)
        controlled = min(1.0, coarse * math.exp(self.log_factor))
        if self.lasted == 0:
            shifted = self.log_coarse + COARSE_STEP * ((coarse <= COARSE_RATE) - COARSE_RATE)
            self.log_coarse = min(max(shifted, LOG_COARSE_MIN), 0.0)
            moved = self.log_factor + CONTROL_STEP * ((controlled <= alert_rate) - alert_rate)
            self.log_factor = min(max(moved, -LOG_FACTOR_MAX), LOG_FACTOR_MAX)
        return controlled


@pytest.mark.parametrize("cuts", [1, 37, 3000])
def test_the_kernel_equals_its_naive_twin(cuts: int) -> None:
    """Detectors that join late, fall silent or say the same twice, bursts, renewals: all bits are the twin's."""
    options = CalibrationOptions(scores_max=128, memory_events=500, detector_events_min=20, verdict_events_min=50)
    values = scores(10, 3000, detectors=3).round(1)
    values[1, :400] = np.nan
    values[2, 1500:1900:7] = np.nan
    values[:, 2000:2040] += 20.0
    values[:, 2500::60] += 9.0
    twin = NaiveCalibration([1.0, 2.0, 0.5], [False, False, True], options, 3)
    ours = Calibration([1.0, 2.0, 0.5], options, 3, [False, False, True])
    for first in range(0, 3000, cuts):
        part = np.ascontiguousarray(values[:, first : first + cuts])
        judged = ours.judge(part, 0.01)[1]
        for row, event in enumerate(part.T.tolist()):
            p_values, fused, raw, verdict = twin.judge(event, 0.01)
            found = [*judged.p_values[:, row], judged.fused[row], judged.raw[row], judged.verdicts[row]]
            np.testing.assert_array_equal(found, [*p_values, fused, raw, verdict])
    for place, pool in enumerate(twin.pools):
        assert ours.state()["pool"][place, : len(pool)].tolist() == pool


@pytest.mark.parametrize("rows", [1, 30])
def test_fused_scores_stay_as_they_are_while_that_is_sure(rows: int) -> None:
    """As long as no reference can be renewed, an event's fused score does not depend on how many came before it."""
    options = CalibrationOptions(scores_max=128, detector_events_min=20, verdict_events_min=50)
    calibration, values, probe = Calibration([1.0, 2.0], options, 1), scores(11, 2000), scores(12, 10)
    said_steady = []
    for first in range(0, 2000 - rows, rows):
        said_steady.append(calibration.steady(rows))
        before = calibration.fused(probe)
        for place in range(first, first + rows):
            calibration.judge(np.ascontiguousarray(values[:, place : place + 1]), 0.001)
            assert not said_steady[-1] or np.array_equal(calibration.fused(probe), before, equal_nan=True)
    assert 0 < sum(said_steady) < len(said_steady)
