"""The supervisor in a simulated world: processes that follow a script, and a clock that moves when it sleeps."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.test_supervisor_policy import CODES
from worker.supervisor.member import Member, State
from worker.supervisor.supervising import WARM_S_MAX, Supervisor, Surroundings

STOP_S = 65.0
FOREVER = 1e9


class Life(NamedTuple):
    """How one process behaves, in seconds since its start or since it was asked to stop."""

    ends_s: float = FOREVER
    code: int = 75
    loaded_s: float = 3.0
    stops_s: float = 0.5
    stop_code: int = 0


class World:
    """A machine on which processes are started; `lives` says how those of each member behave, the last one for good."""

    def __init__(self, lives: dict[int, list[Life]], count: int) -> None:
        self.now_s = 1000.0
        self.lives = lives
        self.starts: dict[int, list[float]] = {number: [] for number in range(count)}
        self.running: dict[int, ScriptedProcess] = {}
        self.said: list[tuple[str, str, dict[str, Any]]] = []
        self.signals: list[int] = []
        self.signal_s: list[float] = []
        self.are_spare = False
        self.members = [Member(number, Path(f"{number}.sock"), self.start) for number in range(count)]
        around = Surroundings(
            is_past_start=lambda member: self.running[member.number].is_loaded,
            is_spare=lambda _: self.are_spare,
            log=Log(self.said),
            clock=lambda: self.now_s,
            sleep=self.sleep,
            draw=random.Random(1).random,
        )
        self.supervisor = Supervisor(self.members, CODES, STOP_S, around)

    def start(self, number: int, _: Path) -> Any:  # noqa: ANN401 - in place of a Popen
        """Start a process."""
        life = self.lives.get(number, [Life()])
        started = self.starts[number]
        process = ScriptedProcess(self, life[min(len(started), len(life) - 1)])
        assert number not in self.running or self.running[number].poll() is not None, "started twice"
        started.append(self.now_s - 1000)
        self.running[number] = process
        return process

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds
        while self.signal_s and self.signal_s[0] <= self.now_s - 1000:
            self.signals.append(15)
            for member in self.members:
                member.terminate()
            del self.signal_s[0]

    def run(self, *signal_s: float) -> int:
        """Run the supervisor with signals at these times; return its exit code. Nothing runs after that."""
        self.signal_s = list(signal_s)
        code = self.supervisor.run(self.signals)
        assert all(process.poll() is not None for process in self.running.values())
        return code


class ScriptedProcess:
    """In place of a `Popen`."""

    pid = 4711

    def __init__(self, world: World, life: Life) -> None:
        self._world = world
        self._life = life
        self._begun_s = world.now_s
        self._is_asked = False
        self._ends_s, self._code = world.now_s + life.ends_s, life.code

    @property
    def is_loaded(self) -> bool:
        return self.poll() is None and self._world.now_s - self._begun_s >= self._life.loaded_s

    def poll(self) -> int | None:
        return self._code if self._world.now_s >= self._ends_s else None

    def terminate(self) -> None:
        assert not self._is_asked, "a second signal would cut its stop short"
        self._is_asked = True
        if self.poll() is None and self._world.now_s + self._life.stops_s < self._ends_s:
            self._ends_s, self._code = self._world.now_s + self._life.stops_s, self._life.stop_code

    def kill(self) -> None:
        if self.poll() is None:
            self._ends_s, self._code = self._world.now_s, -9


class Log:
    """Keeps what was said."""

    def __init__(self, said: list[tuple[str, str, dict[str, Any]]]) -> None:
        self._said = said

    def __getattr__(self, level: str) -> Callable[..., None]:
        return lambda text, **fields: self._said.append((level, text, fields))


def levels(world: World) -> set[str]:
    """Return how serious it got."""
    return {level for level, _, _ in world.said}


def test_others_wait_for_the_kernels_of_the_first() -> None:
    """The first process starts at once, all others together when it has loaded; a stop is clean and ends with 0."""
    world = World({0: [Life(loaded_s=12.0)]}, 3)
    assert world.run(60.0) == 0
    assert world.starts[0] == [0.0]
    assert [len(world.starts[number]) for number in (1, 2)] == [1, 1]
    assert all(12.0 <= world.starts[number][0] <= 13.0 for number in (1, 2))
    assert levels(world) == {"info"}


def test_a_first_one_that_never_loads_does_not_stop_the_others_for_good() -> None:
    """Others wait for three minutes, not longer."""
    world = World({0: [Life(loaded_s=FOREVER)]}, 2)
    assert world.run(WARM_S_MAX + 20) == 0
    assert WARM_S_MAX <= world.starts[1][0] <= WARM_S_MAX + 1


@pytest.mark.parametrize("code", [2, 3, 5])
def test_a_wrong_configuration_ends_all(code: int) -> None:
    """At the start it is told once, and its exit code is that of the whole: nothing is started again."""
    world = World({0: [Life(ends_s=1.0, code=code)]}, 3)
    assert world.run() == code
    assert world.starts == {0: [0.0], 1: [], 2: []}
    assert [level for level, _, _ in world.said if level != "info"] == ["error"]


@pytest.mark.parametrize("code", [3, 6, 8])
def test_a_decision_is_waited_for(code: int) -> None:
    """One that needs a person, or whose configuration became wrong later, is started seldom; others never stop."""
    world = World({1: [Life(ends_s=30.0, code=code), Life(ends_s=5.0, code=code)]}, 3)
    assert world.run(1800.0) == 0
    assert [len(world.starts[number]) for number in (0, 2)] == [1, 1]
    gaps = [later - earlier for earlier, later in pairwise(world.starts[1])]
    assert min(gaps) >= 60
    assert 3 <= len(gaps) <= 12
    assert "error" in levels(world)


def test_a_first_one_that_is_refused_does_not_hold_up_the_others() -> None:
    """State that cannot be used for one member is no reason to keep all others waiting."""
    world = World({0: [Life(ends_s=2.0, code=8, loaded_s=FOREVER)]}, 2)
    assert world.run(30.0) == 0
    assert world.starts[1][0] <= 3.0


def test_one_that_crashes_again_and_again_is_started_ever_more_seldom() -> None:
    """Pauses grow to a minute; the others go on; a member that waits when all stop is no failure."""
    world = World({1: [Life(ends_s=1.0, code=-11)]}, 2)
    assert world.run(1000.0) == 0
    gaps = [later - earlier for earlier, later in pairwise(world.starts[1])]
    assert 2.0 <= gaps[0] <= 3.3
    assert max(gaps) > 30
    assert 15 <= len(gaps) <= 40
    assert len(world.starts[0]) == 1
    assert levels(world) == {"info", "warning"}


def test_good_work_is_rewarded() -> None:
    """After a minute of work the next failure counts as the first one."""
    bad, good = Life(ends_s=1.0), Life(ends_s=80.0)
    world = World({1: [*[bad] * 5, good, Life()]}, 2)
    world.run(400.0)
    after_good = world.starts[1][6] - (world.starts[1][5] + 80.0)
    assert after_good <= 2.3
    assert world.starts[1][5] - world.starts[1][4] > 10


def test_a_stop_while_one_still_loads() -> None:
    """A worker has no handler for the signal while it loads: that it is ended by it is a clean stop."""
    world = World({1: [Life(loaded_s=FOREVER, stop_code=-15)]}, 2)
    assert world.run(10.0) == 0


def test_a_stop_that_fails_is_told() -> None:
    """A member whose last commit failed makes the whole end with its code."""
    world = World({1: [Life(stop_code=75)]}, 2)
    assert world.run(10.0) == 75


def test_one_that_does_not_stop_is_killed() -> None:
    """A stop has an end: what hangs is killed with an ERROR, and the exit code says that it was not clean."""
    world = World({1: [Life(stops_s=FOREVER)]}, 2)
    assert world.run(30.0) == 75
    assert world.now_s - 1000 <= 30 + STOP_S + 1
    assert [fields for level, _, fields in world.said if level == "error"] == [{"processes": [1]}]


def test_a_second_signal_kills() -> None:
    """Whoever asks twice does not want to wait."""
    world = World({1: [Life(stops_s=30.0)]}, 2)
    assert world.run(30.0, 32.0) == 130
    assert world.now_s - 1000 <= 33


def test_spares_are_told_once() -> None:
    """A member without a partition is a warning after a minute, once."""
    world = World({}, 2)
    world.are_spare = True
    world.run(300.0)
    warnings = [fields["process_number"] for level, _, fields in world.said if level == "warning"]
    assert sorted(warnings) == [0, 1]


def test_a_machine_without_processes_to_give_is_asked_again() -> None:
    """When the system refuses to start one, it is tried again with pauses."""
    world = World({}, 1)
    with refusing(world, until_s=5.0):
        assert world.run(30.0) == 0
    assert len(world.starts[0]) == 1
    assert world.starts[0][0] >= 5.0


@contextmanager
def refusing(world: World, until_s: float) -> Iterator[None]:
    """Let starts fail until then."""

    def start(number: int, path: Path) -> Any:  # noqa: ANN401 - as World.start
        if world.now_s - 1000 < until_s:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return world.start(number, path)

    for member in world.members:
        member._start = start
    yield


LIVES = st.builds(
    Life,
    ends_s=st.sampled_from([0.0, 0.5, 5.0, 70.0, FOREVER]),
    code=st.sampled_from([0, 1, 4, 6, 8, 70, 75, 130, -9, -11]),
    loaded_s=st.sampled_from([0.0, 2.0, FOREVER]),
    stops_s=st.sampled_from([0.0, 3.0, FOREVER]),
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.integers(0, 2), st.lists(LIVES, min_size=1, max_size=4)), st.integers(1, 3))
def test_whatever_processes_do(lives: dict[int, list[Life]], count: int) -> None:
    """No two processes of a member at once, a pause before each start, all started in the end, nobody left behind."""
    world = World(lives, count)
    world.run(200.0)
    for starts in world.starts.values():
        assert starts
        assert all(later - earlier >= 1.0 for earlier, later in pairwise(starts))
        assert len(starts) <= 30
    assert world.now_s - 1000 <= 200 + STOP_S + 1
    assert all(status.state is State.WAITING for status in world.supervisor.statuses())
