"""The test by betting beside a naive twin, and why its bound holds."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.kernels.arrays import F64
from worker.core.kernels.betting import (
    ALTERNATIVES,
    BLOCK_EVENTS,
    BOUND,
    CROSSED,
    HELD_BLOCKS,
    LEARNED,
    MEMORY_BLOCKS,
    NOTHING,
    SETTLE_BLOCKS,
    TEMPER,
    WINDOW_BLOCKS,
    set_ratios,
    times_odds,
)
from worker.core.options import RateOptions
from worker.core.rate.share_test import ShareTest

ODDS = [1.5, 2.5, 4.0, 8.0, 20.0]


def unusual_at(share: float | F64, length: int, seed: int) -> F64:
    """P-values of which a share is at most 2 %; a twentieth is missing."""
    rng = np.random.default_rng(seed)
    values = np.where(rng.random(length) < share, 0.02 * rng.random(length), 0.03 + 0.9 * rng.random(length))
    values[rng.random(length) < 0.05] = np.nan
    return values


def faded(values: list[float], memory: float) -> float:
    """Return the sum of values, the latest one in full and each one before it a little less."""
    return math.fsum(value * (1.0 - 1.0 / memory) ** age for age, value in enumerate(reversed(values)))


def spread(counts: list[int], events: int, prior: float, memory: float, share: float) -> float:
    """Return half the squared differences of successive counts over the variance of independent events."""
    pairs = list(pairwise(counts))
    means = [(a + b) / (2 * events) for a, b in pairs]
    own = prior * events * share * (1 - share)
    half = faded([(b - a) ** 2 / 2 for a, b in pairs], memory)
    return (1.5 * own + half) / (own + faded([events * m * (1 - m) for m in means], memory))


class Twin:
    """The test as it is defined: every bet on every alternative from every block is kept by itself."""

    def __init__(self, share: float, rise: float) -> None:
        self.share, self.rise = share, rise
        self.blocks: list[int] = []
        self.block: list[int] = []
        self.bets = [np.zeros(0) for _ in ODDS]
        self.best = [(1.0, 0, 0)] * len(ODDS)
        self.bound = self.temper = math.nan

    def money(self) -> float:
        """Return all money that is bet."""
        return math.fsum(float(bets.sum()) for bets in self.bets)

    def take(self, place: int, unusual: int) -> None:
        """Bet on one event at a place in the stream."""
        if not self.block:
            self._begin_block()
        for k, factor in enumerate(ODDS):
            higher = factor * self.bound / (1 - self.bound + factor * self.bound)
            ratio = (higher / self.bound if unusual else (1 - higher) / (1 - self.bound)) ** self.temper
            self.bets[k] = self.bets[k] * ratio
            won, start, events = self.best[k] if self.best[k][0] > 1.0 else (1.0, place, 0)
            self.best[k] = won * ratio, start, events + 1
        self.block.append(unusual)
        if len(self.block) == BLOCK_EVENTS:
            self.blocks.append(sum(self.block))
            self.block = []

    def _begin_block(self) -> None:
        share, blocks = self.share, self.blocks
        learned = [float(hits) for hits in blocks[:-HELD_BLOCKS]]
        events = 1024.0 + faded([float(BLOCK_EVENTS)] * len(learned), MEMORY_BLOCKS)
        mean = max(share, (1024.0 * share + faded(learned, MEMORY_BLOCKS)) / events)
        late = blocks[: max(min(len(blocks), SETTLE_BLOCKS), len(blocks) - SETTLE_BLOCKS + 1)]
        whole = len(late) // WINDOW_BLOCKS
        windows = [sum(late[WINDOW_BLOCKS * i : WINDOW_BLOCKS * (i + 1)]) for i in range(whole)]
        dispersion = max(
            1.0,
            spread(late, BLOCK_EVENTS, 16.0, MEMORY_BLOCKS, share),
            spread(windows, WINDOW_BLOCKS * BLOCK_EVENTS, 4.0, MEMORY_BLOCKS / WINDOW_BLOCKS, share),
        )
        high = mean + math.sqrt(mean * (1 - mean) * dispersion / events)
        self.bound = self.rise * high / (1 - high + self.rise * high)
        self.temper = 1.0 / dispersion
        begun = len(blocks) - SETTLE_BLOCKS
        if begun >= 0:
            part = 1 / (1 + math.log(1 + begun)) - 1 / (1 + math.log(2 + begun))
            self.bets = [np.append(bets, part / len(ODDS)) for bets in self.bets]


@pytest.mark.parametrize("seed", range(3))
def test_money_and_beginnings_are_those_of_the_naive_twin(seed: int) -> None:
    """Over a stream that is long enough for shares to be learned, clustered, with a rise in it that is not enough."""
    options = RateOptions(false_alarm_probability=1e-12)
    share = np.full(14_000, 0.02)
    share[::100] = 0.5
    share[13_600:] = 0.06
    verdicts = unusual_at(share, len(share), seed)
    places = np.arange(len(verdicts))
    compiled, twin = ShareTest(options), Twin(options.share, options.rise_min)
    begin = 0
    for end in (1000, 3000, 9000, 13_700, 14_000):
        row, what = compiled.process(verdicts[:end], begin, places, places)
        assert (row, what) == (end, NOTHING)
        for place in range(begin, end):
            if not np.isnan(verdicts[place]):
                twin.take(place, int(verdicts[place] <= options.share))
        arrays = compiled.arrays()
        assert arrays["learned"][BOUND] == pytest.approx(twin.bound, rel=1e-9)
        assert arrays["learned"][TEMPER] == pytest.approx(twin.temper, rel=1e-9)
        assert arrays["wealth"].sum() == pytest.approx(twin.money(), rel=1e-9)
        np.testing.assert_allclose(arrays["peaks"], [won for won, _, _ in twin.best], rtol=1e-9)
        assert arrays["starts"][:, 0].tolist() == [start for _, start, _ in twin.best]
        assert arrays["runs"][:, 0].tolist() == [events for _, _, events in twin.best]
        begin = end


def test_the_row_that_is_told_is_the_one_at_which_the_money_comes_to_the_limit() -> None:
    """The twin has less at all rows before it."""
    options = RateOptions()
    verdicts = unusual_at(np.repeat([0.02, 0.3], [3000, 500]), 3500, seed=1)
    places = np.arange(len(verdicts))
    row, what = ShareTest(options).process(verdicts, 0, places, places)
    assert what == CROSSED
    twin = Twin(options.share, options.rise_min)
    for place in range(row + 1):
        assert twin.money() < 1.0 / options.false_alarm_probability
        if not np.isnan(verdicts[place]):
            twin.take(place, int(verdicts[place] <= options.share))
    assert twin.money() >= 1.0 / options.false_alarm_probability


@given(
    bound=st.floats(1e-9, 1.0 - 1e-9),
    temper=st.floats(1e-3, 1.0),
    standing=st.sampled_from([0, 1]),
    inside=st.floats(0.0, 1.0),
)
def test_no_bet_wins_on_average_while_the_share_is_within_the_bound(
    bound: float, temper: float, standing: int, inside: float
) -> None:
    """For every share up to the bound (down to it, while betting that it is back), however bold the bet."""
    learned, ratios = np.zeros(LEARNED), np.empty((2, ALTERNATIVES))
    learned[BOUND], learned[TEMPER] = bound, temper
    set_ratios(learned, standing, ratios)
    share = bound + inside * (1.0 - bound) if standing else bound * inside
    assert (share * ratios[1] + (1.0 - share) * ratios[0] <= 1.0 + 1e-9).all()


@given(st.floats(1e-12, 1.0 - 1e-12), st.floats(1e-3, 1e3))
def test_times_odds_multiplies_the_odds(share: float, factor: float) -> None:
    """And stays a share."""
    other = times_odds(share, factor)
    assert 0.0 < other <= 1.0
    assert other / max(1.0 - other, 1e-300) == pytest.approx(factor * share / (1.0 - share), rel=1e-3) or other > 0.999
