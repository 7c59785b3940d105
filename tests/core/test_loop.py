"""The loop's order, against scripted ports: what is committed together, sent again, dropped, and when."""

import json
from collections.abc import Mapping, Sequence

import pytest

from tests.streams import SMALL, START_MS, TOPIC, batch
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.engine import Engine
from worker.core.events import Output, OutputTopic, RawBatch
from worker.loop import CommitFailedError, FencedError, Loop, LoopOptions
from worker.ports import CommitOutcome, GroupListener, Position, PositionUnstableError


class World:
    """A broker, a group and a clock in one object, moved by hand."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.group: list[tuple[str, list[int]]] = []
        self.inbox: list[RawBatch] = []
        self.stored: dict[int, Position] = {}
        self.visible: list[Output] = []
        self.outcomes: list[CommitOutcome] = []
        self.sent: list[list[Output]] = []
        self.attached: dict[int, int | None] = {}
        self.unstable = 0
        self.hidden_success = False
        self.replaced = 0
        self.closed: list[str] = []
        self.end: int | None = None

    # Membership

    def poll(self, listener: GroupListener) -> None:
        while self.group:
            what, partitions = self.group.pop(0)
            getattr(listener, what)(partitions)

    def committed(self, partitions: Sequence[int]) -> Mapping[int, Position | None]:
        if self.unstable:
            self.unstable -= 1
            raise PositionUnstableError
        return {partition: self.stored.get(partition) for partition in partitions}

    # Source

    def attach(self, partition: int, offset: int | None) -> int | None:
        self.attached[partition] = offset
        return offset if offset is not None else self.end

    def detach(self, partitions: Sequence[int]) -> None:
        for partition in partitions:
            self.attached.pop(partition, None)

    def fetch(self, records_max: int, wait_ms: int) -> list[RawBatch]:
        self.now_ms += wait_ms
        out, self.inbox = self.inbox, []
        return [raw for raw in out if raw.partition in self.attached]

    # Sink

    def commit(self, outputs: Sequence[Output], positions: Mapping[int, Position]) -> CommitOutcome:
        self.sent.append(list(outputs))
        outcome = self.outcomes.pop(0) if self.outcomes else CommitOutcome.COMMITTED
        if outcome is CommitOutcome.COMMITTED or self.hidden_success:
            self.visible += outputs
            self.stored |= positions
        return outcome

    def replace(self) -> None:
        self.replaced += 1

    # Clock, and the end of all

    def monotonic_ms(self) -> int:
        return self.now_ms

    def pause(self, wait_ms: int) -> None:
        self.now_ms += wait_ms

    def epoch_ms(self) -> int:
        return START_MS + self.now_ms

    def close(self, listener: GroupListener | None = None) -> None:
        self.closed.append("membership" if listener else "other")


@pytest.fixture
def world() -> World:
    """A world in which this worker owns partition 0."""
    made = World()
    made.group.append(("assigned", [0]))
    return made


def loop_of(world: World) -> Loop:
    """Return a loop whose every port is the world."""
    return Loop(Engine(SMALL, TOPIC, InlineRefits()), world, world, world, world, LoopOptions())


def tick_until_idle(world: World, loop: Loop) -> None:
    """Let two ticks pass: at the first one the model has just spoken, at the second one it has been silent."""
    for _ in range(2):
        world.now_ms += LoopOptions().idle_close_ms + SMALL.pane_ms + SMALL.pane_grace_ms
        loop.step()


def bad(partition: int, first: int, count: int) -> RawBatch:
    """Records that each give one output at once: a dead letter."""
    return batch(partition, first, [(b"bad", START_MS)] * count)


def good(partition: int, first: int, count: int) -> RawBatch:
    """Records that give no output yet."""
    event = {"event_id": "e", "model_id": "m", "features": {"a": 1}, "prediction": 1}
    return batch(partition, first, [(json.dumps(event).encode(), START_MS)] * count)


def test_outputs_and_positions_become_visible_together(world: World) -> None:
    """One turn commits what it processed, at the offset after the last record."""
    world.inbox = [bad(0, 5, 3)]
    loop_of(world).step()
    assert [output.offset for output in world.visible] == [5, 6, 7]
    assert world.stored == {0: Position(8)}


def test_reading_begins_at_the_committed_position(world: World) -> None:
    """A partition is attached where the group left it; a new one where the source begins new ones."""
    world.stored = {0: Position(42)}
    world.group.append(("assigned", [1]))
    loop_of(world).step()
    assert world.attached == {0: 42, 1: None}


def test_unstable_positions_are_asked_again(world: World) -> None:
    """While a former owner's transaction is open, the partition is not attached; later it is."""
    world.unstable = 2
    loop = loop_of(world)
    loop.step()
    assert world.attached == {}
    loop.step()
    loop.step()
    assert world.attached == {0: None}


def test_an_aborted_transaction_is_sent_again_with_the_same_bytes(world: World) -> None:
    """State is not rolled back; the bytes are kept."""
    world.inbox = [bad(0, 0, 2)]
    world.outcomes = [CommitOutcome.ABORTED, CommitOutcome.ABORTED]
    loop_of(world).step()
    assert world.sent[0] == world.sent[1] == world.sent[2] == world.visible
    assert world.stored == {0: Position(2)}


def test_bytes_of_a_partition_that_went_are_not_sent_again(world: World) -> None:
    """After an abort the group is asked; what is no longer ours is dropped, the rest is sent."""
    world.group.append(("assigned", [1]))
    loop = loop_of(world)
    loop.step()
    world.inbox = [bad(0, 0, 2), bad(1, 0, 1)]
    world.outcomes = [CommitOutcome.ABORTED]
    world.group = []
    commit = world.commit

    def lose_after_abort(outputs: Sequence[Output], positions: Mapping[int, Position]) -> CommitOutcome:
        world.group.append(("lost", [0]))
        return commit(outputs, positions)

    world.commit = lose_after_abort  # type: ignore[method-assign]  # scripted
    loop.step()
    assert {output.shard for output in world.visible} == {1}
    assert world.stored == {1: Position(1)}


def test_a_revocation_between_two_attempts_still_publishes_open_panes(world: World) -> None:
    """No transaction is open then: the partition is drained and committed like at any other time."""
    loop = loop_of(world)
    world.inbox = [good(0, 0, 7)]
    loop.step()
    world.inbox = [good(0, 7, 3)]
    world.outcomes = [CommitOutcome.ABORTED]
    commit = world.commit

    def revoke_after_abort(outputs: Sequence[Output], positions: Mapping[int, Position]) -> CommitOutcome:
        if world.outcomes:
            world.group.append(("revoked", [0]))
        return commit(outputs, positions)

    world.commit = revoke_after_abort  # type: ignore[method-assign]  # scripted
    loop.step()
    (metric,) = world.visible
    assert b'"events":10' in (metric.value or b"")
    assert world.stored[0].offset == 10


def test_a_last_commit_that_fails_is_not_silent(world: World) -> None:
    """What open panes held is lost then: the process must not end as if all were well."""
    loop = loop_of(world)
    world.inbox = [good(0, 0, 7)]
    loop.step()
    world.outcomes = [CommitOutcome.ABORTED] * 5
    with pytest.raises(CommitFailedError, match="last commit"):
        loop.run(lambda: True)
    assert "membership" in world.closed


def test_an_unknown_outcome_that_was_a_success_is_not_repeated(world: World) -> None:
    """The committed positions tell that the transaction went through: nothing is doubled."""
    world.inbox = [bad(0, 0, 2)]
    world.outcomes, world.hidden_success = [CommitOutcome.UNKNOWN], True
    loop_of(world).step()
    assert len(world.visible) == 2
    assert (world.replaced, len(world.sent)) == (1, 1)


def test_an_unknown_outcome_that_was_a_failure_is_repeated(world: World) -> None:
    """The committed positions tell that nothing went through: nothing is lost."""
    world.inbox = [bad(0, 0, 2)]
    world.outcomes = [CommitOutcome.UNKNOWN]
    world.unstable = 0
    loop_of(world).step()
    assert len(world.visible) == 2
    assert (world.replaced, len(world.sent)) == (1, 2)


def test_a_fenced_worker_leaves(world: World) -> None:
    """Somebody else writes under this identity: the loop ends with an error, nothing is visible."""
    world.inbox = [bad(0, 0, 1)]
    world.outcomes = [CommitOutcome.FENCED]
    with pytest.raises(FencedError):
        loop_of(world).step()
    assert world.visible == []


def test_attempts_are_bounded(world: World) -> None:
    """A transaction that never goes through ends the process; the next start tries again."""
    world.inbox = [bad(0, 0, 1)]
    world.outcomes = [CommitOutcome.ABORTED] * 100
    with pytest.raises(CommitFailedError):
        loop_of(world).step()
    assert len(world.sent) == LoopOptions().commit_attempts_max


def test_a_revoked_partition_is_published_and_committed_first(world: World) -> None:
    """Open panes of a partition that goes are published as parts, so that no event is missing in the metrics."""
    loop = loop_of(world)
    world.inbox = [good(0, 0, 7)]
    loop.step()
    assert world.visible == []
    world.group = [("revoked", [0])]
    loop.step()
    (metric,) = world.visible
    assert metric.topic is OutputTopic.METRICS
    assert b'"events":7' in (metric.value or b"")
    assert world.attached == {}


def test_a_lost_partition_is_dropped_without_a_commit(world: World) -> None:
    """Somebody else owns it already: nothing of it is sent."""
    loop = loop_of(world)
    world.inbox = [good(0, 0, 7)]
    loop.step()
    sent = len(world.sent)
    world.group = [("lost", [0])]
    loop.step()
    assert len(world.sent) == sent
    assert world.visible == []


def test_an_idle_partition_closes_its_panes(world: World) -> None:
    """When nothing comes any more, the pane is published without waiting for a later event."""
    loop = loop_of(world)
    world.inbox = [good(0, 0, 7)]
    loop.step()
    tick_until_idle(world, loop)
    (metric,) = world.visible
    assert b'"complete":true' in (metric.value or b"")
    assert world.stored[0].offset == 7


def test_an_idle_tick_in_doubt_is_neither_lost_nor_doubled(world: World) -> None:
    """The mark in the position tells whether the outputs of a tick became visible, though the offset is the same."""
    for hidden in (False, True):
        world.visible, world.sent, world.replaced = [], [], 0
        loop = loop_of(world)
        world.group = [("assigned", [0])]
        world.inbox = [good(0, 0, 7)]
        loop.step()
        world.outcomes, world.hidden_success = [CommitOutcome.UNKNOWN], hidden
        tick_until_idle(world, loop)
        world.hidden_success = False
        assert len(world.visible) == 1
        assert world.replaced == 1


def test_the_end_where_a_new_partition_begins_is_committed_at_once(world: World) -> None:
    """With `start_at = "latest"` a crash before the first record must not move the beginning."""
    world.end = 33
    loop_of(world).step()
    assert world.stored == {0: Position(33)}


def test_a_revoke_that_cannot_commit_leaves_the_work_to_the_new_owner(world: World) -> None:
    """Nothing is visible, nothing is kept, and the worker goes on."""
    loop = loop_of(world)
    world.inbox = [good(0, 0, 7)]
    loop.step()
    world.group = [("revoked", [0])]
    world.outcomes = [CommitOutcome.ABORTED] * LoopOptions().revoke_attempts_max
    loop.step()
    loop.step()
    assert world.visible == []
    assert len(world.sent) == 1 + LoopOptions().revoke_attempts_max


def test_stopping_leaves_cleanly(world: World) -> None:
    """A stop finishes the batch, publishes open panes, commits, and closes everything."""
    world.inbox = [good(0, 0, 3)]
    turns = iter([False, False, True])
    loop = loop_of(world)
    loop.run(lambda: next(turns, True))
    (metric,) = world.visible
    assert b'"complete":false' in (metric.value or b"")
    assert world.stored[0].offset == 3
    assert world.closed == ["membership", "other", "other"]
