"""What follows when a member ends: a pure function of its exit code. And how all of them together end."""

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

PAUSE_FIRST_S, PAUSE_MAX_S = 1.0, 60.0
"""Before a start that may succeed at any time."""
DECISION_PAUSE_FIRST_S, DECISION_PAUSE_MAX_S = 60.0, 600.0
"""Before a start that succeeds once a person has done something."""
GOOD_WORK_S = 60.0
"""After so long at work, what failed before counts no more."""
_DOUBLINGS_MAX = 16
_JITTER = 0.5


class ExitCodes(NamedTuple):
    """Exit codes of a worker by what they mean to a supervisor. All others: starting it again helps."""

    hopeless: frozenset[int]
    """The configuration is wrong, for every member."""
    decision: frozenset[int]
    """A person must decide about this member; others may go on."""
    by_severity: tuple[int, ...]
    """The most serious one first."""
    temporary: int
    """Of a member that did not stop in time, was ended by a signal, or ended with a code that nobody knows."""
    interrupted: int
    """Of this process, when a second signal cut the stop short."""


class Then(Enum):
    """What follows when a member has ended."""

    END_ALL = "end_all"
    RESTART = "restart"
    RESTART_SELDOM = "restart_seldom"


def after_end(code: int, codes: ExitCodes, *, proven: bool) -> Then:
    """Return what follows.

    Args:
        code: of the process; negative: the signal that ended it.
        codes: what they mean.
        proven: whether any member has got past its start. The configuration was right then, and what has become wrong
            since must not stop those that work.
    """
    if code in codes.hopeless:
        return Then.RESTART_SELDOM if proven else Then.END_ALL
    return Then.RESTART_SELDOM if code in codes.decision else Then.RESTART


def pause_s(then: Then, failures: int, draw: float) -> float:
    """Return how long to wait before the next start: it doubles with each failure.

    Args:
        then: what follows.
        failures: ends without good work before, this one included.
        draw: a random number in [0, 1). It takes away up to half, so that not all members come back at once.
    """
    assert failures >= 1
    first_s, max_s = PAUSE_FIRST_S, PAUSE_MAX_S
    if then is Then.RESTART_SELDOM:
        first_s, max_s = DECISION_PAUSE_FIRST_S, DECISION_PAUSE_MAX_S
    return min(max_s, first_s * 2.0 ** min(failures, _DOUBLINGS_MAX)) * (1.0 - _JITTER * draw)


def most_serious(ends: Iterable[int], codes: ExitCodes) -> int:
    """Return the exit code of the whole: 0 if all members stopped cleanly, else that of the worst end."""
    failed = {code if code in codes.by_severity else codes.temporary for code in ends if code}
    return min(failed, key=codes.by_severity.index, default=0)


def end_text(code: int) -> str:
    """Say how a process ended."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"
