"""In a backlog the engine works on the next records while a commit is waited for: whose transaction they are then."""

import time
from collections.abc import Callable

import pytest

from tests.streams import SMALL, START_MS, Record
from tests.world import World
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.engine import Engine, Handled
from worker.core.events import InputTopic, RawBatch
from worker.core.journal import Origin, decode_entries, decode_pointer
from worker.core.shard import Topics
from worker.edges.clock import SystemClock
from worker.edges.threads import ThreadExecutor
from worker.intake import Intake
from worker.lagging import BACKLOG_RECORDS, Lag
from worker.loop import Loop, LoopOptions, Ports
from worker.observer import Observer
from worker.ports import CommitOutcome, Executor, InlineExecutor
from worker.recovery.snapshots import SnapshotOptions
from worker.recovery.track import Identity, Track

IDENTITY = Identity("group", Origin("cluster", "p", "l", "s", "f"), "options", "libraries", policy="alerts")
OPTIONS = LoopOptions(
    snapshots=SnapshotOptions(interval_ms=10**9), fetch_records_max=4, commit_interval_ms=1, few_records=0
)
"""A fetch of two records is one from a backlog, and a turn lasts for one."""


class Backlog(World):
    """Gives one batch at a fetch."""

    def fetch(self, records_max: int, wait_ms: int) -> list[RawBatch]:
        rest, self.inbox = self.inbox[1:], self.inbox[:1]
        found = super().fetch(records_max, wait_ms)
        self.inbox = rest
        return found


class Beside(InlineExecutor):
    """Lets the loop believe that work goes on while it waits."""

    is_beside = True


class Counting(Beside):
    """Counts the pieces of work."""

    def __init__(self) -> None:
        self.pieces = 0

    def submit(self, task: Callable[[], None]) -> None:
        self.pieces += 1
        super().submit(task)


@pytest.fixture
def world() -> World:
    """A world in which this worker owns partition 0."""
    made = Backlog()
    made.group.append(("assigned", [0]))
    return made


@pytest.fixture
def loop(world: World) -> Loop:
    """A loop that goes ahead, and is live in this world."""
    return in_backlog(world, Beside())


def in_backlog(world: World, executor: Executor) -> Loop:
    """Return a loop that is live, and for which five batches of two records wait."""
    loop = loop_of(world, executor)
    live(world, loop)
    for _ in range(5):
        world.give(0, bad(2))
    return loop


def loop_of(world: World, executor: Executor, options: LoopOptions = OPTIONS) -> Loop:
    """Return a loop whose every other port is the world."""
    engine = Engine(SMALL, Topics(), InlineRefits())
    ports = Ports(world, world, world, world, world, executor=executor)
    return Loop(engine, ports, IDENTITY, options)


def live(world: World, loop: Loop) -> None:
    """Let a loop take its partitions: that there is no position must be told twice, half a second apart."""
    for _ in range(5):
        world.now_ms += 500
        loop.step()
    assert loop._tracks


def bad(count: int) -> list[Record]:
    """Records that each give one output at once: a dead letter."""
    return [(b"bad", START_MS)] * count


def told(world: World) -> list[int]:
    """Return the offsets of the records whose outputs can be seen."""
    return [output.offset for output in world.visible]


def taken(world: World) -> int:
    """Return how many records the journal says were taken."""
    return sum(entry.amount for entry in decode_entries(decode_pointer(world.stored[0].metadata).journal))


def test_what_is_done_meanwhile_is_of_the_next_transaction(world: World, loop: Loop) -> None:
    """Outputs, position and journal of the first one are without it; afterwards everything is there once."""
    loop.step()
    assert loop._dispatch.records == 2, "the engine has not gone ahead"
    assert (told(world), world.stored[0].offset, taken(world)) == ([0, 1], 2, 2)
    loop.step()
    assert told(world)[:4] == [0, 1, 2, 3]
    for _ in range(4):
        loop.step()
    assert (told(world), world.stored[0].offset, taken(world)) == (list(range(10)), 10, 10)


@pytest.mark.parametrize("executor", [InlineExecutor(), ThreadExecutor(1)])
def test_one_thread_does_not_go_ahead(world: World, executor: Executor) -> None:
    """It would keep the commit waiting."""
    loop = in_backlog(world, executor)
    loop.step()
    assert loop._dispatch.records == 0
    assert loop._intake.next is None
    assert told(world) == [0, 1]


def test_outside_of_a_backlog_nobody_goes_ahead(world: World, loop: Loop) -> None:
    """Few records at a time are dear."""
    world.inbox = []
    world.give(0, bad(1))
    world.give(0, bad(1))
    loop.step()
    assert loop._dispatch.records == 0
    assert told(world) == [10]


@pytest.mark.parametrize(("records", "pieces"), [(1, 0), (2, 2)])
def test_few_records_of_all_partitions_are_no_work_for_threads(records: int, pieces: int) -> None:
    """The loop's own thread is done with them as soon; more than three are few no longer."""
    world, executor = World(), Counting()
    world.group.append(("assigned", [0, 1]))
    loop = loop_of(world, executor, OPTIONS._replace(few_records=3, fetch_records_max=40))
    live(world, loop)
    world.give(0, bad(2))
    world.give(1, bad(records))
    loop.step()
    assert executor.pieces == pieces
    assert len(world.visible) == 2 + records


@pytest.mark.parametrize("outcome", [CommitOutcome.ABORTED, CommitOutcome.UNKNOWN])
def test_a_transaction_that_is_sent_again_holds_it_too(world: World, loop: Loop, outcome: CommitOutcome) -> None:
    """The next attempt is for where the engine is then."""
    world.outcomes = [outcome]
    loop.step()
    assert (told(world), world.stored[0].offset, taken(world)) == ([0, 1, 2, 3], 4, 4)


def test_a_transaction_that_went_through_unseen_is_without_it(world: World, loop: Loop) -> None:
    """Nothing is lost or told twice, and who restores from there comes to the same checksum."""
    world.outcomes, world.hidden_success = [CommitOutcome.UNKNOWN], True
    loop.step()
    assert (told(world), world.stored[0].offset) == ([0, 1], 2)
    world.group.append(("assigned", [0]))
    other = loop_of(world, Beside())
    live(world, other)
    assert other._engine.trace(0) == decode_pointer(world.stored[0].metadata).trace


def test_a_shard_that_is_given_up_is_committed_with_it(world: World, loop: Loop) -> None:
    """What the engine has done by then is not done again by the next owner."""
    loop.step()
    world.group.append(("revoked", [0]))
    loop.step()
    assert (told(world), world.stored[0].offset) == ([0, 1, 2, 3], 4)
    assert loop._intake.next is None


def test_of_a_shard_that_is_lost_nothing_is_left(world: World, loop: Loop) -> None:
    """Neither results, nor what was fetched for it."""
    loop.step()
    world.group.append(("lost", [0]))
    loop.step()
    assert (told(world), world.stored[0].offset) == ([0, 1], 2)
    assert (loop._dispatch.records, loop._intake.next) == (0, None)


def test_without_room_in_the_journal_it_waits_for_the_next_turn(
    world: World, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To make room takes a commit, and one is under way."""
    monkeypatch.setattr(Track, "has_room", lambda _track, _entries: False)
    loop.step()
    assert loop._dispatch.records == 0
    assert loop._intake.next is not None
    for _ in range(5):
        loop.step()
    assert told(world) == list(range(10))


def test_in_a_backlog_the_next_fetch_does_not_wait_for_the_last_batch() -> None:
    """Half of a fetch may be left then; where few records come, all of them are begun with before."""
    lag = Lag(1_000)
    assert lag.ahead_records == 0
    for records, expected in ((BACKLOG_RECORDS, BACKLOG_RECORDS // 2), (BACKLOG_RECORDS - 1, 0), (40_000, 20_000)):
        lag.fetched(records, 40_000)
        assert lag.ahead_records == expected


def test_what_was_fetched_for_a_shard_goes_with_it(world: World) -> None:
    """Labels that are held, and predictions that are ready: attached again, it begins where it is told to."""
    intake = Intake(world, world, Observer(), records_max=4, label_hold_ms=1_000, held_labels_max=10, gather_ms=0)
    intake.attach(0, 0, 0, 0)
    world.give(0, [(b"label", START_MS + 10_000)], InputTopic.LABELS)
    world.give(0, bad(1))
    assert (intake.fetch(0), intake.fetch(0)) == (1, 1)
    ready = intake.next
    assert ready is not None
    assert ready.topic is InputTopic.PREDICTIONS
    intake.forget([0])
    world.now_ms += 100_000
    assert intake.fetch(0) == 0
    assert intake.next is None
    intake.attach(0, 0, 0, 0)
    world.now_ms += 100_000
    assert intake.fetch(0) == 0
    assert intake.next is None


class Paced(World):
    """Takes no time to fetch, and notes what it is told to wait for a first record."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[int] = []

    def fetch(self, records_max: int, wait_ms: int) -> list[RawBatch]:
        self.waits.append(wait_ms)
        now_ms, found = self.now_ms, super().fetch(records_max, wait_ms)
        self.now_ms = now_ms
        return found


def test_records_that_trickle_are_gathered() -> None:
    """The fetch after two of few records begins later, if there is time for that; not after silence or many of them."""
    world = Paced()
    intake = Intake(world, world, Observer(), records_max=40, label_hold_ms=0, held_labels_max=10, gather_ms=40)
    intake.attach(0, 0, 0, 0)

    def paused_and_waited(records: int, wait_ms: int, work_ms: int = 0) -> tuple[int, int]:
        """How long it paused before a fetch of so many, and waited for a first record of it; then the engine works."""
        began_ms = world.now_ms
        if records:
            world.give(0, bad(records))
        assert intake.fetch(wait_ms) == records
        paused_ms = world.now_ms - began_ms
        world.now_ms += work_ms
        return paused_ms, world.waits[-1]

    assert paused_and_waited(1, 50) == (0, 50)  # nothing was before it
    assert paused_and_waited(1, 50) == (0, 50)  # few once are no trickle
    assert paused_and_waited(9, 50, work_ms=15) == (40, 10)
    assert paused_and_waited(9, 50, work_ms=60) == (25, 25)
    assert paused_and_waited(9, 50) == (0, 50)  # the engine took longer
    assert paused_and_waited(9, 30) == (30, 0)  # a commit is due
    assert paused_and_waited(9, 0) == (0, 0)
    assert paused_and_waited(10, 50) == (40, 10)
    assert paused_and_waited(0, 50) == (0, 50)  # ten are many
    assert paused_and_waited(1, 50) == (0, 50)  # after silence
    assert paused_and_waited(1, 50) == (0, 50)
    assert paused_and_waited(1, 50) == (40, 10)


def test_what_goes_on_leaves_time_for_restores() -> None:
    """Though each batch takes longer than a turn may, a shard that is assigned meanwhile comes back."""
    world = Backlog()
    world.group.append(("assigned", [0]))
    engine = Engine(SMALL, Topics(), InlineRefits())
    with ThreadExecutor(2) as executor:
        ports = Ports(world, world, world, world, _Timed(), executor=executor)
        loop = Loop(engine, ports, IDENTITY, OPTIONS._replace(commit_interval_ms=10))
        deadline = time.monotonic() + 30
        while not loop._tracks:
            loop.step()
        handle = engine.handle

        def slowly(batch: RawBatch) -> Handled:
            world.give(0, bad(2))
            time.sleep(0.02)
            return handle(batch)

        engine.handle = slowly  # type: ignore[method-assign]  # the point of the test
        world.give(0, bad(2))
        world.give(0, bad(2))
        loop.step()
        world.group.append(("assigned", [1]))
        while 1 not in loop._tracks and time.monotonic() < deadline:
            loop.step()
        engine.handle = handle  # type: ignore[method-assign]  # so that the threads come to an end
        loop._finish()
    assert 1 in loop._tracks


class _Timed(SystemClock):
    """The real time that goes by; the day is that of the records."""

    def epoch_ms(self) -> int:
        return START_MS
