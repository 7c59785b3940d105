"""What follows when a worker process ends, and how long a supervisor waits before it starts one again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.supervisor.policy import (
    DECISION_PAUSE_FIRST_S,
    DECISION_PAUSE_MAX_S,
    PAUSE_FIRST_S,
    PAUSE_MAX_S,
    ExitCodes,
    Then,
    after_end,
    most_serious,
    pause_s,
)

CODES = ExitCodes(
    hopeless=frozenset({2, 3, 5}),
    decision=frozenset({6, 8}),
    by_severity=(3, 2, 5, 8, 6, 70, 4, 75),
    temporary=75,
    interrupted=130,
)


@pytest.mark.parametrize(
    ("code", "at_start", "later"),
    [
        (0, Then.RESTART, Then.RESTART),  # somebody stopped it by hand
        (2, Then.END_ALL, Then.RESTART_SELDOM),
        (3, Then.END_ALL, Then.RESTART_SELDOM),
        (5, Then.END_ALL, Then.RESTART_SELDOM),
        (4, Then.RESTART, Then.RESTART),
        (6, Then.RESTART_SELDOM, Then.RESTART_SELDOM),
        (8, Then.RESTART_SELDOM, Then.RESTART_SELDOM),
        (70, Then.RESTART, Then.RESTART),
        (75, Then.RESTART, Then.RESTART),
        (1, Then.RESTART, Then.RESTART),  # faulthandler
        (-9, Then.RESTART, Then.RESTART),
        (-11, Then.RESTART, Then.RESTART),
    ],
)
def test_what_follows_an_end(code: int, at_start: Then, later: Then) -> None:
    """A wrong configuration ends all, but only at the start; a person's decision is waited for; all else returns."""
    assert after_end(code, CODES, proven=False) is at_start
    assert after_end(code, CODES, proven=True) is later


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_pauses_have_bounds(failures: int, draw: float) -> None:
    """No pause is shorter than the first one or longer than the longest, however often a process has failed."""
    assert PAUSE_FIRST_S <= pause_s(Then.RESTART, failures, draw) <= PAUSE_MAX_S
    assert DECISION_PAUSE_FIRST_S <= pause_s(Then.RESTART_SELDOM, failures, draw) <= DECISION_PAUSE_MAX_S


def test_pauses_double() -> None:
    """Pauses double until they are a minute long; chance takes half away at most."""
    assert [pause_s(Then.RESTART, failures, 0.0) for failures in range(1, 8)] == [2, 4, 8, 16, 32, 60, 60]
    assert pause_s(Then.RESTART, 3, 0.5) == 6.0
    assert [pause_s(Then.RESTART_SELDOM, failures, 0.0) for failures in range(1, 6)] == [120, 240, 480, 600, 600]


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ([], 0),
        ([0, 0], 0),
        ([0, 75], 75),
        ([75, 8, 0], 8),
        ([4, 70], 70),
        ([6, 3], 3),
        ([0, -9], 75),
        ([0, 1], 75),
    ],
)
def test_the_exit_code_of_the_whole(ends: list[int], expected: int) -> None:
    """It is 0 after clean ends, else that of the most serious one; what nobody knows is temporary."""
    assert most_serious(ends, CODES) == expected
