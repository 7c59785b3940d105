"""The alert budget: never more openings than k within a day, and what is left at the end is for the worst."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.alerts.budget import RANK_MAX, Budget, Opening, StoredBudget, Wish
from worker.core.alerts.life import Severity
from worker.core.options.alerts import DAY_MS

HOUR_MS = 3_600_000
NOW_MS = 100 * DAY_MS


def spent(openings_max: int, openings: int, fingerprint: str = "") -> Budget:
    """Return a budget of which so much is spent, an hour apart, the last one now; each by another one by default."""
    budget = Budget(openings_max)
    for number in range(openings):
        budget.spend(
            Wish(fingerprint or f"other {number}", "critical", 0.0), NOW_MS - (openings - 1 - number) * HOUR_MS
        )
    return budget


def rank(severity: Severity, strength: float, budget: Budget | None = None, now_ms: int = NOW_MS) -> float:
    """Return the rank of a condition of the fingerprint `mine`."""
    return (budget or Budget(8)).rank(Wish("mine", severity, strength), now_ms)


def test_ranks_are_by_severity_first_and_then_by_strength() -> None:
    """A severity is worth eight doublings, as many as there can be; what others have told takes nothing away."""
    assert rank("info", 0.0) == 0.0
    assert rank("info", 8.0) == rank("warning", 0.0) == 8.0
    assert rank("critical", 3.0) == rank("critical", 3.0, spent(8, 7)) == 19.0
    assert rank("critical", 8.0) == RANK_MAX


def test_what_has_spoken_often_says_less() -> None:
    """Each opening of its own within a day takes two doublings away; it never falls below nothing."""
    assert [rank("warning", 4.0, spent(24, openings, "mine")) for openings in range(8)] == [12, 10, 8, 6, 4, 2, 0, 0]
    assert rank("critical", 8.0, spent(24, 3, "mine")) == 18.0


def test_a_day_later_it_is_worth_as_much_as_ever() -> None:
    """Openings of its own of exactly a day ago do not count any more."""
    budget = spent(24, 3, "mine")
    times = [NOW_MS, NOW_MS + 22 * HOUR_MS - 1, NOW_MS + 22 * HOUR_MS, NOW_MS + 23 * HOUR_MS, NOW_MS + DAY_MS]
    assert [rank("warning", 4.0, budget, now_ms) for now_ms in times] == [6.0, 6.0, 8.0, 10.0, 12.0]


def test_half_of_the_budget_is_free_for_all() -> None:
    """With eight openings a day four are: anything opens, however slight and often told."""
    assert [spent(8, openings, "mine").threshold(NOW_MS) for openings in range(5)] == [0.0] * 5
    assert rank("info", 0.0, spent(8, 4, "mine")) == 0.0
    assert [spent(8, openings).threshold(NOW_MS) for openings in (5, 6, 7)] == [6.0, 12.0, 18.0]


def test_half_of_an_odd_budget_is_rounded_up() -> None:
    """With five openings a day the third one is free still."""
    assert [spent(5, openings).threshold(NOW_MS) for openings in (2, 3)] == [0.0, pytest.approx(24 * 0.5 / 2.5)]


def test_what_is_left_is_for_critical_ones() -> None:
    """From six of eight on no warning of the threshold's own strength opens, at seven only what is critical."""
    thresholds = [spent(8, openings).threshold(NOW_MS) for openings in range(9)]
    assert thresholds == sorted(thresholds)
    assert thresholds[6] > rank("warning", 0.0)
    assert rank("warning", 8.0) < thresholds[7] <= rank("critical", 8.0)
    assert thresholds[8] == float("inf")


def test_what_repeats_leaves_room_for_others() -> None:
    """A warning that comes and goes all day is held back long before the budget is spent; a new one is not."""
    budget = Budget(24)
    for _ in range(100):
        if rank("warning", 2.0, budget) >= budget.threshold(NOW_MS):
            budget.spend(Wish("mine", "critical", 0.0), NOW_MS)
    assert budget.spent(NOW_MS) == 13
    assert budget.rank(Wish("another", "warning", 2.0), NOW_MS) >= budget.threshold(NOW_MS)


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


def opens(budget: Budget, wish: Wish, now_ms: int) -> bool:
    """Tell whether the budget lets a condition open."""
    return budget.rank(wish, now_ms) >= budget.threshold(now_ms)


OPENINGS = st.lists(st.tuples(st.integers(0, 6 * HOUR_MS), st.sampled_from(["mine", "other"])), max_size=14)


@given(
    openings_max=st.integers(1, 12),
    openings=OPENINGS,
    severity=st.sampled_from(["info", "warning", "critical"]),
    strength=st.sampled_from([0.0, 0.5, 4.5, 8.0]),
)
def test_it_is_told_when_a_condition_may_open(
    openings_max: int, openings: list[tuple[int, str]], severity: Severity, strength: float
) -> None:
    """At that time its rank is enough, its own openings counted, and a millisecond before it is not."""
    budget, now_ms, wish = Budget(openings_max), NOW_MS, Wish("mine", severity, strength)
    for gap_ms, fingerprint in openings:
        now_ms += gap_ms
        budget.spend(Wish(fingerprint, "critical", 0.0), now_ms)
    if opens(budget, wish, now_ms):
        return
    at_ms = budget.retry_ms(wish, now_ms)
    assert at_ms > now_ms
    assert opens(budget, wish, at_ms)
    assert not opens(budget, wish, at_ms - 1)


def test_a_burst_is_no_repeat_of_single_events() -> None:
    """Only openings that were at least as severe count against it."""
    budget = Budget(24)
    for _ in range(4):
        budget.spend(Wish("mine", "warning", 0.0), NOW_MS)
    ranks = [budget.rank(Wish("mine", severity, 1.0), NOW_MS) for severity in ("info", "warning", "critical")]
    assert ranks == [0.0, 1.0, 17.0]


def test_what_repeats_waits_longer() -> None:
    """It may open when what has spoken less would have opened hours ago."""
    wish = Wish("mine", "warning", 0.0)
    assert spent(8, 8).retry_ms(wish, NOW_MS) == NOW_MS - 5 * HOUR_MS + DAY_MS
    assert spent(8, 8, "mine").retry_ms(wish, NOW_MS) == NOW_MS - 4 * HOUR_MS + DAY_MS


def test_that_it_binds_is_news_once_a_day() -> None:
    """Not for each condition that is held back."""
    budget = Budget(2)
    times = [NOW_MS, NOW_MS + HOUR_MS, NOW_MS + DAY_MS - 1, NOW_MS + DAY_MS, NOW_MS + DAY_MS + 1]
    assert [budget.is_news(now_ms) for now_ms in times] == [True, False, False, True, False]


def test_a_clock_that_was_wrong_does_not_lock_the_budget() -> None:
    """Openings of next year count as of now, and are over in a day."""
    budget = Budget(2)
    for _ in range(2):
        budget.spend(Wish("mine", "critical", 0.0), NOW_MS + 365 * DAY_MS)
    budget.follow_back(NOW_MS)
    assert budget.spent(NOW_MS) == 2
    assert rank("warning", 4.0, budget) == 8.0
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
    at_ms = smaller.retry_ms(Wish("mine", "critical", 8.0), NOW_MS)
    assert smaller.threshold(at_ms - 1) == float("inf")
    assert smaller.threshold(at_ms) <= 24.0


def test_what_has_spoken_is_known_after_a_restart() -> None:
    """Whose openings they were is stored with them."""
    budget, other = spent(8, 3, "mine"), Budget(8)
    other.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(budget.state()), type=StoredBudget))
    assert rank("warning", 8.0, other) == rank("warning", 8.0, budget) == 10.0


def test_absurd_state_is_refused() -> None:
    """More openings than any budget has."""
    with pytest.raises(ValueError, match="too long"):
        Budget(4).restore(StoredBudget([Opening(0, "mine", "info")] * (10**6 + 1), -1))


@given(
    st.integers(1, 12),
    st.lists(
        st.tuples(
            st.integers(0, 10 * HOUR_MS),
            st.sampled_from("ab"),
            st.sampled_from([("info", 8), ("warning", 4), ("critical", 8)]),
        ),
        max_size=60,
    ),
)
def test_no_day_has_more_openings_than_the_budget(
    openings_max: int, wishes: list[tuple[int, str, tuple[Severity, int]]]
) -> None:
    """In any 24 hours at most k open; and a critical one of full strength that is new always does, if not k did."""
    budget, now_ms, opened = Budget(openings_max), NOW_MS, list[tuple[int, str]]()
    for gap_ms, fingerprint, (severity, strength) in wishes:
        now_ms += gap_ms
        recent = [whose for each, whose in opened if each > now_ms - DAY_MS]
        assert budget.spent(now_ms) == len(recent)
        if opens(budget, Wish(fingerprint, severity, strength), now_ms):
            budget.spend(Wish(fingerprint, "critical", 0.0), now_ms)
            opened.append((now_ms, fingerprint))
        else:
            is_new = fingerprint not in recent
            assert severity != "critical" or not is_new or len(recent) == openings_max
    times = [each for each, _ in opened]
    assert all(sum(each - DAY_MS < other <= each for other in times) <= openings_max for each in times)
