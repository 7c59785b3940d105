"""The order of things: start, watch, start again, stop.

Rule 1: the first member starts alone, until its kernels are loaded: the first time on a machine it compiles them, and
all others then find them.
Rule 2: a failure of one member is no reason to stop another one. Only a configuration that was wrong from the beginning
ends all.
Rule 3: a stop is bounded: what has not stopped by itself in time is killed, and an ERROR says so. Nothing is lost by
that: work that was not committed is done again.
"""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NamedTuple

from worker.edges.stop_signals import SAME_WISH_S, stop_signals_to
from worker.supervisor.member import Member, State, Status
from worker.supervisor.policy import GOOD_WORK_S, ExitCodes, Then, after_end, end_text, most_serious, pause_s

WARM_S_MAX = 180.0
"""How long the others wait for the first member's kernels."""
_TURN_S = 0.1
_KILL_S = 10.0
"""For the system to end what was killed."""


class Surroundings(NamedTuple):
    """What the supervisor needs from outside. The first two ask a member, for a second at most."""

    is_past_start: Callable[[Member], bool]
    """Whether it has loaded its kernels."""
    is_spare: Callable[[Member], bool]
    """Whether the group has no partition for it."""
    log: Any
    """A structlog logger."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    draw: Callable[[], float] = random.random


class Supervisor:
    """Runs members until it is told to stop.

    Args:
        members: all of them, the first one first.
        codes: what their exit codes mean.
        stop_s: how long a stop may take.
        around: clock, log, and questions to members.
    """

    def __init__(self, members: Sequence[Member], codes: ExitCodes, stop_s: float, around: Surroundings) -> None:
        self._members = members
        self._codes = codes
        self._stop_s = stop_s
        self._is_past_start, self._is_spare, self._log, self._clock, self._sleep, self._draw = around
        self._begun_s = self._beat_s = self._clock()
        self._turns = 0
        self._proven = False
        """Whether any member has got past its start."""
        self._others_may_start = False
        self._statuses = tuple(member.status() for member in members)

    def statuses(self) -> Sequence[Status]:
        """Return how all members were at the last turn; for any thread."""
        return self._statuses

    def beat_age_s(self) -> float:
        """Return how long ago the last turn was; for any thread."""
        return self._clock() - self._beat_s

    def run(self, signals: Sequence[int]) -> int:
        """Work until there is a signal in `signals`, or nothing helps; return the exit code of the whole."""
        hopeless: int | None = None
        while not signals and hopeless is None:
            hopeless = self._turn()
            self._sleep(_TURN_S)
        stopped = self._stop(signals)
        return stopped if hopeless is None else hopeless

    # At work.

    def _turn(self) -> int | None:
        """Look after all members once. Return the exit code if it is hopeless."""
        self._turns += 1
        for member in self._members:
            code = member.ended()
            if code is not None and self._after_end(member, code) is Then.END_ALL:
                return code
        # One in each turn: one that does not answer holds up a turn for a second.
        self._look_at(self._members[self._turns % len(self._members)])
        for member in self._members:
            if not member.is_running and member.due_s <= self._clock() and self._may_start(member):
                self._start(member)
        self._told()
        return None

    def _told(self) -> None:
        """Say to other threads how things are."""
        self._statuses = tuple(member.status() for member in self._members)
        self._beat_s = self._clock()
        if os.getpid() == 1:
            reap_orphans({member.pid for member in self._members})

    def _look_at(self, member: Member) -> None:
        """See whether it has got past its start, or has done good work since."""
        now_s = self._clock()
        if member.state is State.STARTING and self._is_past_start(member):
            member.go(State.WORKING, now_s)
            self._proven = self._others_may_start = True
        elif member.state is State.WORKING and not member.is_proven and now_s - member.since_s >= GOOD_WORK_S:
            member.is_proven, member.failures = True, 0
            if self._is_spare(member):
                self._log.warning(
                    "a process has no partition and waits as a spare: the group has more members than the topic has "
                    "partitions",
                    process_number=member.number,
                )

    def _may_start(self, member: Member) -> bool:
        """Whether rule 1 allows it."""
        if self._clock() - self._begun_s >= WARM_S_MAX:
            self._others_may_start = True
        return self._others_may_start or member is self._members[0]

    def _start(self, member: Member) -> None:
        try:
            member.start(self._clock())
        except OSError as error:
            self._log.error("a process cannot be started", process_number=member.number, error=str(error))
            self._pause(member, Then.RESTART, str(error))
            return
        self._log.info("process started", process_number=member.number, pid=member.pid, starts=member.starts)

    def _after_end(self, member: Member, code: int) -> Then:
        """Note that it has ended, and decide when it starts again."""
        then = after_end(code, self._codes, proven=self._proven)
        end = end_text(code)
        if then is Then.END_ALL:
            self._log.error("a process cannot work, and starting it again does not help: all end", end=end)
            return then
        wait_s = self._pause(member, then, end)
        if then is Then.RESTART_SELDOM:
            # What keeps this one from its work need not keep the others.
            self._others_may_start = True
            say, text = self._log.error, "process ended, and a person must look at why; it is started again seldom"
        else:
            say, text = self._log.warning, "process ended; it is started again"
        say(text, process_number=member.number, end=end, pause_seconds=round(wait_s, 1), failures=member.failures)
        return then

    def _pause(self, member: Member, then: Then, why: str) -> float:
        now_s = self._clock()
        member.failures += 1
        wait_s = pause_s(then, member.failures, self._draw())
        member.wait_until(now_s + wait_s, now_s, f"ended: {why}; starts again in up to {wait_s:.0f} s")
        return wait_s

    # The end.

    def _stop(self, signals: Sequence[int]) -> int:
        """Ask all to stop, wait, kill what is left; return the exit code of the whole."""
        self._log.info("stopping", processes=sum(member.is_running for member in self._members))
        for member in self._members:
            member.terminate()
        ends: list[int] = []
        left = self._wait(self._stop_s, ends, lambda: len(signals) > 1)
        is_cut = len(signals) > 1
        if left and not is_cut:
            numbers = [member.number for member in left]
            self._log.error("processes have not stopped in time and are killed", processes=numbers)
        for member in left:
            member.kill()
        self._wait(_KILL_S, ends, lambda: False)
        if left and is_cut:
            return self._codes.interrupted
        # A worker that was still loading has no handler for the signal yet: it is a clean stop, too.
        return most_serious((code for code in ends if code != -signal.SIGTERM), self._codes)

    def _wait(self, seconds: float, ends: list[int], is_cut: Callable[[], bool]) -> list[Member]:
        """Wait for members to end, and add how they ended to `ends`; return those that still run."""
        until_s = self._clock() + seconds
        while True:
            for member in self._members:
                code = member.ended()
                if code is not None:
                    ends.append(code)
                    member.wait_until(self._clock(), self._clock(), "stopped")
                    self._log.info("process stopped", process_number=member.number, end=end_text(code))
            self._told()
            left = [member for member in self._members if member.is_running]
            if not left or is_cut() or self._clock() >= until_s:
                return left
            self._sleep(_TURN_S / 2)


def reap_orphans(own: set[int | None]) -> None:
    """As process 1 of a container, take note of the end of processes that a killed member has left behind."""
    with suppress(ChildProcessError):  # there is none
        while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and found.si_pid not in own:
            os.waitpid(found.si_pid, 0)


@contextmanager
def noted_signals(members: Sequence[Member]) -> Iterator[list[int]]:
    """Yield a list of the SIGTERMs and SIGINTs that came; members are told of the first one at once.

    Those within half a second are one. Members take it in the same way, and may have got their own: they must not
    wait for the end of a turn.
    """
    received: list[int] = []
    latest_s = [-SAME_WISH_S]

    def note(number: int, _: FrameType | None) -> None:
        now_s = time.monotonic()
        if now_s - latest_s[0] >= SAME_WISH_S:
            received.append(number)
            latest_s[0] = now_s
            for member in members:
                member.terminate()

    with stop_signals_to(note):
        yield received
