"""The budget of model maintenance: too much thins it, little lets it come back, and nothing flutters."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.budget import BudgetOptions, MaintenanceBudget, levels_up
from worker.core.journal import THINNING_MAX
from worker.observer import MaintenanceCost
from worker.ports import Spent

WINDOW_MS = BudgetOptions().window_ms


class Worker:
    """A worker whose windows cost what a test says; its first one, which is not judged, has passed."""

    def __init__(self, options: BudgetOptions | None = None) -> None:
        self.now_ms = 0
        self.spent = Spent(1.0, 0.5, 3.0)
        self.budget = MaintenanceBudget(options or BudgetOptions(), self.now_ms, self.spent)
        self.window(0.0, 0.0)

    def window(self, engine_s: float, process_s: float, children_s: float = 0.0) -> MaintenanceCost:
        """Let a window pass."""
        assert not self.budget.is_due(self.now_ms + WINDOW_MS - 1)
        self.now_ms += WINDOW_MS
        self.spent = Spent(*(sum(pair) for pair in zip(self.spent, (engine_s, process_s, children_s), strict=True)))
        assert self.budget.is_due(self.now_ms)
        return self.budget.judge(self.now_ms, self.spent)

    def twice(self, engine_s: float, process_s: float, children_s: float = 0.0) -> MaintenanceCost:
        """Let two such windows pass."""
        self.window(engine_s, process_s, children_s)
        return self.window(engine_s, process_s, children_s)


def test_maintenance_within_its_share_is_left_alone() -> None:
    """Just within, window after window: level 0."""
    worker = Worker()
    assert {worker.window(2.0, 0.39).level for _ in range(50)} == {0}


@pytest.mark.parametrize(
    ("process_s", "level"),
    [(0.41, 1), (0.6, 1), (0.9, 2), (1.5, 4), (1.9, 4), (2.0, 4)],
)
def test_what_is_too_much_is_thinned_as_far_as_it_takes(process_s: float, level: int) -> None:
    """Of two seconds of work 0.4 are allowed; the level is the first at which the rest would be within the share."""
    worker = Worker()
    assert worker.twice(2.0, process_s).level == level


def test_what_costs_much_once_thins_nothing() -> None:
    """Kernels that are compiled late, a search for regimes; and after it the count begins anew."""
    worker = Worker()
    levels = [worker.window(2.0, process_s).level for process_s in (1.9, 0.1, 1.9, 0.1)]
    assert levels == [0, 0, 0, 0]
    assert [worker.window(2.0, process_s).level for process_s in (1.9, 0.41, 0.41)] == [0, 1, 1]


def test_the_level_ends_somewhere() -> None:
    """Work that thinning does not lessen cannot push the level beyond what a journal holds."""
    worker = Worker()
    assert [worker.twice(1.0, 1.0).level for _ in range(6)] == [4, 8, 12, 16, THINNING_MAX, THINNING_MAX]


def test_it_comes_back_level_by_level_when_it_is_calm() -> None:
    """Under a quarter of the share in six windows, one after the other."""
    worker = Worker()
    worker.twice(2.0, 1.0)
    levels = [worker.window(2.0, 0.09).level for _ in range(12)]
    assert levels == [2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 0]
    assert worker.window(2.0, 0.0).level == 0


def test_one_window_that_is_not_calm_begins_the_count_anew() -> None:
    """Five calm ones, one within the share, five calm ones: nothing changes."""
    worker = Worker()
    worker.twice(2.0, 1.0)
    levels = [worker.window(2.0, process_s).level for process_s in [0.09] * 5 + [0.2] + [0.09] * 5]
    assert set(levels) == {2}


def test_an_idle_worker_is_not_thinned_and_comes_back() -> None:
    """A single fit of several seconds, and hardly any events: no reason. The few events are worth all of them."""
    worker = Worker()
    cost = worker.window(0.2, 0.2, 10.0)
    assert (cost.share, cost.level) == (None, 0)
    assert cost[1:3] == pytest.approx((0.2, 10.0))
    worker = Worker()
    worker.twice(2.0, 0.5)
    assert [worker.window(0.1, 0.1).level for _ in range(6)] == [1, 1, 1, 1, 1, 0]


def test_a_fit_is_spread_over_a_minute() -> None:
    """Two seconds once in a minute are 0.17 s in each window: within the share. Ten seconds are not."""
    worker = Worker()
    assert {worker.window(2.0, 0.1, 2.0 if number % 12 == 0 else 0.0).level for number in range(60)} == {0}
    worker.window(2.0, 0.1, 10.0)
    assert worker.window(2.0, 0.1).level == 1


def test_fits_of_the_past_do_not_thin_again() -> None:
    """After a level up, what fits cost before counts as what it would cost now."""
    worker = Worker()
    worker.window(1.0, 0.0, 12.0)
    assert worker.window(1.0, 0.0).level == 2
    assert {worker.window(1.0, 0.0).level for _ in range(5)} == {2}


def test_what_comes_with_a_start_or_a_restore_is_not_judged() -> None:
    """Kernels are compiled then, and a restore does again what the first run did."""
    worker = Worker()
    budget = MaintenanceBudget(BudgetOptions(), 0, Spent(0.0, 0.0, 0.0))
    assert budget.judge(WINDOW_MS, Spent(10.0, 10.0, 0.0)).level == 0
    assert budget.judge(2 * WINDOW_MS, Spent(20.0, 20.0, 0.0)).level == 0
    assert budget.judge(3 * WINDOW_MS, Spent(30.0, 30.0, 0.0)).level == 4
    assert worker.window(2.0, 2.0).level == 0
    worker.budget.restart(worker.now_ms, Spent(100.0, 99.0, 0.0))
    worker.spent = Spent(100.0, 99.0, 0.0)
    assert [worker.window(2.0, 2.0).level for _ in range(3)] == [0, 0, 4]


def test_a_shard_that_was_thinned_elsewhere_brings_its_level() -> None:
    """What was too much there is too much here; a lower one changes nothing."""
    worker = Worker()
    worker.budget.joined(3)
    worker.budget.joined(1)
    assert worker.budget.level == 3


@settings(deadline=None)
@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_so_many_levels_up_are_enough_and_no_more(share_max: float, share: float) -> None:
    """Halving work beside other work so often brings it within the share; once less would not."""

    def after(levels: int) -> float:
        work = share * 0.5**levels
        return work / (work + 1.0 - share)

    if share <= share_max:
        return
    levels = levels_up(share, share_max)
    assert 1 <= levels <= 4
    assert levels == 4 or after(levels) <= share_max * (1 + 1e-9)
    assert levels == 1 or after(levels - 1) > share_max * (1 - 1e-9)


def test_all_of_the_cpu_is_never_too_much_where_it_is_allowed() -> None:
    """A share of 1 switches the budget off."""
    worker = Worker(BudgetOptions(share_max=1.0))
    assert worker.twice(2.0, 2.0, 100.0).level == 0
    assert math.isclose(worker.window(2.0, 2.0).share or 0.0, 1.0)
