"""The paired test of the promotion gate beside a naive twin, and what its factors must be."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.kernels import promotion as k
from worker.core.kernels.arrays import F64

RULES = k.Rules(
    scale=2.0,
    limit=math.log(20.0),
    block_labels=200,
    stake=0.01,
    gain_min=0.02,
    labels_min=1_000,
    hold_labels=400,
    segment_loss_max=0.05,
    segment_labels_min=100,
)
LIMIT, CAP = 20.0, 20.0 * math.exp(4.0)


def fresh(challengers: int = 1, places: int = 2) -> k.Trials:
    """Return trials without evidence."""
    shapes = [(challengers, k.SUMS), (challengers, k.LAMBDAS), (challengers, places, 3)]
    trials = k.Trials(np.zeros((challengers, k.COUNTS), dtype=np.int64), *(np.zeros(shape) for shape in shapes))
    for challenger in range(challengers):
        k.begin_trial(*(each[challenger] for each in trials))
    return trials


class Twin:
    """Keeps every block."""

    def __init__(self) -> None:
        self.blocks: list[F64] = []
        self.gains: list[float] = []
        self.money = [0.0, 0.0, 0.0]
        self.status, self.since, self.begun, self.labels = k.TRYING, -1, 0, 0

    def within(self) -> float:
        """Return the variance of a label in the blocks so far."""
        weights = 0.99 ** np.arange(len(self.blocks))[::-1]
        usual = np.average([each.mean() for each in self.blocks], weights=weights)
        squares = np.average([(each**2).mean() for each in self.blocks], weights=weights)
        return max(float(squares - usual**2), 1e-9)

    def variance(self) -> float:
        """Return the same, but of a label in means of blocks."""
        weights = 0.99 ** np.arange(len(self.blocks))[::-1]
        means = np.array([each.mean() for each in self.blocks])
        usual = np.average(means, weights=weights)
        freedom = weights.sum() - 1.0
        between = (weights * (means - usual) ** 2).sum() / freedom
        a = 2.0 / (9.0 * freedom)
        between *= max(1.0 - a - 1.2816 * math.sqrt(a), 0.05) ** -3
        return max(self.within(), 200.0 * float(between))

    def add(self, champion: F64, challenger: F64) -> None:
        """Take one block."""
        self.labels += 200
        self.gains += list((champion - challenger) / RULES.scale)
        block = (0.98 * champion - challenger) / RULES.scale
        if self.blocks and block.var() > 10.0 * self.within():
            self.blocks = []
        if len(self.blocks) >= 3:
            x = float(np.clip(block.mean() / math.sqrt(self.variance() / 200.0), -2.0, 2.0))
            for j, bet in enumerate((0.5, 1.0, 2.0)):
                self.money[j] = min((self.money[j] + 0.01) * math.exp(bet * x - bet**2 / 2.0), CAP)
            if math.fsum(self.money) / 3.0 < 0.01:
                self.begun = self.labels
        self.blocks.append(block)
        self.judge(math.fsum(self.money) / 3.0)

    def judge(self, evidence: float) -> None:
        """Renew the status."""
        if self.labels < RULES.labels_min or evidence < LIMIT or len(self.blocks) <= 3:
            self.since = -1
            if 0.0 < evidence < 1.0:
                self.status = k.TRYING
        else:
            self.since = self.labels if self.since < 0 else self.since
            if self.labels - self.since >= RULES.hold_labels:
                self.status = k.READY


def stream(seed: int, gains: list[float]) -> F64:
    """Return 0/1 losses (times the scale) of a champion and a challenger with each gain for 2,000 labels; NaN: a copy.

    They err independently of each other, the champion in 30 %.
    """
    rng = np.random.default_rng(seed)
    gain = np.repeat(gains, 2_000)
    wrong = rng.random((len(gain), 2)) < np.column_stack([np.full(len(gain), 0.3), 0.3 - np.nan_to_num(gain)])
    wrong[:, 1] = np.where(np.isnan(gain), wrong[:, 0], wrong[:, 1])
    return RULES.scale * wrong.astype(np.float64)


def run(losses: F64, cuts: list[int], trials: k.Trials) -> list[tuple[int, int]]:
    """Take a stream in batches; return after which labels the status was which."""
    told = []
    for low, high in pairwise([0, *sorted(cuts), len(losses)]):
        places = np.where(np.arange(low, high) % 3 == 0, 1, -1).astype(np.int32)[:, np.newaxis]
        row = 0
        while row < high - low:
            row = k.take_losses(losses[low:high], places, row, RULES, trials) + 1
            if row <= high - low:
                told.append((low + row, int(trials.counts[0, k.STATUS])))
    return told


@pytest.mark.parametrize(
    "gains", [[0.0] * 6, [0.1, 0.1, -0.2], [-0.1, 0.2, 0.2], [math.nan, 0.15, 0.1, -0.1, -0.1, 0.2], [0.1, -0.02] * 3]
)
def test_statuses_and_money_are_those_of_the_naive_twin(gains: list[float]) -> None:
    """A twin that keeps every block decides the same at every block, whether a challenger wins, loses or is a copy."""
    losses, trials, twin = stream(3, gains), fresh(), Twin()
    told, status = [], k.TRYING
    for begin in range(0, len(losses), 200):
        twin.add(*losses[begin : begin + 200].T)
        if twin.status != status:
            status = twin.status
            told.append((begin + 200, status))
    assert run(losses, [], trials) == told
    assert trials.counts[0, [k.LABELS, k.SINCE, k.BEGUN, k.BLOCKS]].tolist() == [
        len(losses),
        twin.since,
        twin.begun,
        len(twin.blocks),
    ]
    assert trials.money[0] == pytest.approx(twin.money, rel=1e-6)
    assert trials.sums[0, k.GAIN] == pytest.approx(math.fsum(twin.gains[twin.begun :]))


@given(
    seed=st.integers(0, 99),
    gains=st.lists(st.sampled_from([-0.1, 0.0, 0.05, 0.2, math.nan]), min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 2_000), max_size=8),
)
@settings(max_examples=30, deadline=None)
def test_any_cutting_gives_the_same_bytes(seed: int, gains: list[float], cuts: list[int]) -> None:
    """State and what is told do not depend on how the stream is cut into batches."""
    whole, parts, losses = fresh(), fresh(), stream(seed, gains)
    assert run(losses, [], whole) == run(losses, cuts, parts)
    assert [each.tobytes() for each in whole] == [each.tobytes() for each in parts]


def test_money_does_not_grow_in_the_mean_where_nothing_is_gained() -> None:
    """Over 400 equal challengers, less than all stakes is left, with any lambda: bets are fair, or cautious."""
    left, rules = np.zeros(k.LAMBDAS), RULES._replace(gain_min=0.0)
    for seed in range(400):
        trials, losses = fresh(), stream(seed, [0.0])
        k.take_losses(losses, np.full((2_000, 1), -1, dtype=np.int32), 0, rules, trials)
        left += trials.money[0] / (7 * rules.stake) / 400
    assert 0.5 < left.max() < 1.0


def test_raised_is_the_chi_square_quantile() -> None:
    """A variance from n degrees of freedom is raised to what its tenth of smallest values come to."""
    rng = np.random.default_rng(5)
    for freedom in (2, 5, 20, 100):
        low = float(np.quantile(rng.chisquare(freedom, 200_000) / freedom, 0.1))
        assert k.raised(float(freedom)) == pytest.approx(1.0 / low, rel=0.08)


def test_old_gains_speak_for_a_bounded_time() -> None:
    """However long a challenger has been 20 points better, 2,000 labels of 20 points worse take its money away."""
    trials = fresh()
    told = run(np.concatenate([stream(1, [0.2] * 10), stream(2, [-0.2])]), [], trials)
    assert [status for _, status in told] == [k.READY, k.TRYING]
    assert told[1][0] <= 22_000


def test_a_segment_remembers_its_latest_labels() -> None:
    """A value of a segment has at most 2,000 labels; beyond, all its figures are halved and its mean stays."""
    trials, places = fresh(places=1), np.zeros((2_001, 1), dtype=np.int32)
    losses = np.tile([[0.0, 2.0], [0.0, 0.0]], (1_001, 1))[:2_001]
    k.take_losses(losses[:2_000], places[:2_000], 0, RULES, trials)
    full = trials.segments[0, 0].copy()
    k.take_losses(losses[2_000:], places[2_000:], 0, RULES, trials)
    assert full.tolist() == [2_000.0, -1_000.0, pytest.approx(500.0, rel=0.01)]
    assert trials.segments[0, 0].tolist() == pytest.approx([1_001.0, -501.0, full[2] / 2.0 + 0.25])


def test_one_challenger_does_not_touch_another() -> None:
    """Rows without a loss of one challenger count for the other one only; infinite losses are clipped."""
    both, alone = fresh(2), fresh(1)
    losses = np.column_stack([stream(1, [0.1]), np.full(2_000, np.nan)])
    losses[7, 0], losses[8, 1] = math.inf, math.inf
    places = np.full((2_000, 1), -1, dtype=np.int32)
    k.take_losses(losses, places, 0, RULES, both)
    k.take_losses(losses[:, :2].copy(), places, 0, RULES, alone)
    assert [each[0].tobytes() for each in both] == [each[0].tobytes() for each in alone]
    assert np.isfinite(alone.sums).all()
    assert both.counts[1, k.LABELS] == 0


def test_a_copy_that_becomes_another_model_is_not_taken_for_calm() -> None:
    """A challenger that was the champion's copy, and then differs in long swings, is not ready for that."""
    ready = 0
    for seed in range(40):
        swings = np.repeat(np.random.default_rng(seed).normal(0.0, 0.08, 20), 200)
        losses = stream(seed, [math.nan, math.nan, 0.0, 0.0])
        rng = np.random.default_rng([seed, 1])
        losses[4_000:, 1] = RULES.scale * (rng.random(4_000) < 0.3 - swings)
        trials = fresh()
        ready += k.READY in [status for _, status in run(losses, [], trials)]
    assert ready == 0
