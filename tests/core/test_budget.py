"""The alert budget: never more openings than k within a day, and what is left at the end is for the worst."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.alerts.budget import RANK_MAX, Budget, StoredBudget, rank
from worker.core.options.alerts import DAY_MS

HOUR_MS = 3_600_000
NOW_MS = 100 * DAY_MS


def spent(openings_max: int, openings: int) -> Budget:
    """Return a budget of which so much is spent, an hour apart, the last one now."""
    budget = Budget(openings_max)
    for number in range(openings):
        budget.spend(NOW_MS - (openings - 1 - number) * HOUR_MS)
    return budget


def test_ranks_are_by_severity_first_and_then_by_strength() -> None:
    """A severity is worth eight doublings, as many as there can be."""
    assert rank("info", 0.0) == 0.0
    assert rank("info", 8.0) == rank("warning", 0.0) == 8.0
    assert rank("critical", 3.0) == 19.0
    assert rank("critical", 8.0) == RANK_MAX


def test_the_first_quarter_is_free_for_all() -> None:
    """With eight openings a day two are: anything opens, however slight."""
    assert [spent(8, openings).threshold(NOW_MS) for openings in (0, 1, 2)] == [0.0, 0.0, 0.0]
    assert spent(8, 3).threshold(NOW_MS) > 0.0


def test_what_is_left_is_for_critical_ones() -> None:
    """From five of eight on no warning of the threshold's own strength opens, at seven only what is critical."""
    thresholds = [spent(8, openings).threshold(NOW_MS) for openings in range(9)]
    assert thresholds == sorted(thresholds)
    assert thresholds[5] > rank("warning", 0.0)
    assert rank("warning", 8.0) < thresholds[7] <= rank("critical", 8.0)
    assert thresholds[8] == float("inf")


def test_a_day_later_openings_are_free_again() -> None:
    """Those of exactly a day ago do not count any more."""
    budget = spent(4, 4)
    assert budget.spent(NOW_MS) == 4
    assert budget.spent(NOW_MS + 21 * HOUR_MS - 1) == 4
    assert budget.spent(NOW_MS + 21 * HOUR_MS) == 3
    assert budget.spent(NOW_MS + DAY_MS) == 0


def test_without_a_budget_everything_opens() -> None:
    """K = 0 means none, and nothing is kept."""
    budget = spent(0, 1_000)
    assert budget.threshold(NOW_MS) == 0.0
    assert budget.state().openings == []


def test_it_is_told_when_a_condition_may_open() -> None:
    """At that time its rank is enough, and a millisecond before it is not."""
    budget = spent(8, 8)
    for wanted in (0.0, 8.0, 12.5, 19.0, 24.0):
        at_ms = budget.retry_ms(wanted, NOW_MS)
        assert budget.threshold(at_ms - 1) > wanted >= budget.threshold(at_ms)


def test_that_it_binds_is_news_once_a_day() -> None:
    """Not for each condition that is held back."""
    budget = Budget(2)
    times = [NOW_MS, NOW_MS + HOUR_MS, NOW_MS + DAY_MS - 1, NOW_MS + DAY_MS, NOW_MS + DAY_MS + 1]
    assert [budget.is_news(now_ms) for now_ms in times] == [True, False, False, True, False]


def test_a_clock_that_was_wrong_does_not_lock_the_budget() -> None:
    """Openings of next year count as of now, and are over in a day."""
    budget = Budget(2)
    for _ in range(2):
        budget.spend(NOW_MS + 365 * DAY_MS)
    budget.follow_back(NOW_MS)
    assert budget.spent(NOW_MS) == 2
    assert budget.spent(NOW_MS + DAY_MS) == 0


def test_a_look_from_a_wrong_clock_forgets_nothing() -> None:
    """One event of next year, found out at once: the budget of today is as spent as before."""
    budget = spent(2, 2)
    assert budget.spent(NOW_MS + 365 * DAY_MS) == 0
    budget.follow_back(NOW_MS + 1)
    assert budget.spent(NOW_MS + 1) == 2


def test_a_stored_budget_goes_on_under_another_bound() -> None:
    """A smaller one: nothing opens before enough is a day old. It is never refused for that."""
    stored = spent(8, 8).state()
    smaller, larger = Budget(4), Budget(80)
    smaller.restore(stored)
    larger.restore(stored)
    assert smaller.threshold(NOW_MS) == float("inf")
    assert larger.threshold(NOW_MS) == 0.0
    at_ms = smaller.retry_ms(24.0, NOW_MS)
    assert smaller.threshold(at_ms - 1) == float("inf")
    assert smaller.threshold(at_ms) <= 24.0


def test_absurd_state_is_refused() -> None:
    """More openings than any budget has."""
    with pytest.raises(ValueError, match="too long"):
        Budget(4).restore(StoredBudget([0] * (10**6 + 1), -1))


@given(
    st.integers(1, 12),
    st.lists(st.tuples(st.integers(0, 10 * HOUR_MS), st.sampled_from(["info", "warning", "critical"])), max_size=60),
)
def test_no_day_has_more_openings_than_the_budget(openings_max: int, wishes: list[tuple[int, str]]) -> None:
    """In any 24 hours at most k open; and a critical one of full strength always does, if not k did."""
    budget, now_ms, opened = Budget(openings_max), NOW_MS, list[int]()
    for gap_ms, severity in wishes:
        now_ms += gap_ms
        recent = [each for each in opened if each > now_ms - DAY_MS]
        assert budget.spent(now_ms) == len(recent)
        wanted = {"info": rank("info", 8.0), "warning": rank("warning", 4.0), "critical": RANK_MAX}[severity]
        if wanted >= budget.threshold(now_ms):
            budget.spend(now_ms)
            opened.append(now_ms)
        else:
            assert severity != "critical" or len(recent) == openings_max
    assert all(sum(each - DAY_MS < other <= each for other in opened) <= openings_max for each in opened)
