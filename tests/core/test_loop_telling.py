"""What the loop tells of alerts and models: how long an alert took until it was visible, and what there is."""

from collections.abc import Sequence

import pytest

from tests.core.test_loop import IDENTITY, NEVER, good, live
from tests.raised import Bench, options, over, raised
from tests.streams import SMALL, START_MS, batch
from tests.world import World
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.engine import Engine, Handled
from worker.core.events import InputTopic, Output, OutputTopic, RawBatch
from worker.core.shard import Topics
from worker.lagging import AlertCause, alert_causes
from worker.loop import Loop, LoopOptions, Ports
from worker.observer import Census, Observer
from worker.ports import CommitOutcome


class Alerting(Engine):
    """Tells an alert at the last record of each batch."""

    def handle(self, batch: RawBatch) -> Handled:
        handled = super().handle(batch)
        handled.outputs.append(Output(OutputTopic.ALERTS, batch.partition, batch.offsets[-1], b"f", b"{}"))
        return handled


class Listener(Observer):
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.delays: list[float] = []
        self.counted: list[Census] = []

    def alerted(self, seconds: Sequence[float]) -> None:
        self.delays += seconds

    def census(self, census: Census) -> None:
        self.counted.append(census)


@pytest.fixture
def world() -> World:
    """A world in which this worker owns two partitions."""
    made = World()
    made.group.append(("assigned", [0, 1]))
    return made


def loop_of(world: World, listener: Observer) -> Loop:
    """Return a loop that works on both, and has nothing to do."""
    engine = Alerting(SMALL, Topics(), InlineRefits())
    options = LoopOptions(snapshots=NEVER, retry_pause_ms=700)
    return live(world, Loop(engine, Ports(world, world, world, world, world), IDENTITY, options, listener))


def test_an_alert_takes_until_its_transaction_is_visible(world: World) -> None:
    """From Kafka's timestamp of its record, by the wall clock; what had to be sent again took longer."""
    listener = Listener()
    loop = loop_of(world, listener)
    behind_s = world.epoch_ms() / 1000 - START_MS / 1000
    world.give(0, good(2))
    loop.step()
    world.give(1, good(1))
    world.outcomes = [CommitOutcome.ABORTED, CommitOutcome.ABORTED]
    loop.step()
    quick, slow = listener.delays
    assert behind_s <= quick < behind_s + 0.5
    assert slow - quick >= 1.4


def test_what_is_done_after_the_commit_is_not_counted_as_delay(world: World) -> None:
    """To read figures out of the published records takes time, and nobody waits for an alert meanwhile."""

    class Slow(Listener):
        def committed(self, outputs: Sequence[Output], seconds: float) -> None:
            world.pause(5_000)

    listener = Slow()
    loop = loop_of(world, listener)
    world.give(0, good(1))
    behind_s = world.epoch_ms() / 1000 - START_MS / 1000
    loop.step()
    assert behind_s <= listener.delays[0] < behind_s + 0.5


def test_alerts_of_a_partition_that_has_gone_are_not_told(world: World) -> None:
    """Its new owner makes them visible, and tells how long that took."""
    listener = Listener()
    loop = loop_of(world, listener)
    world.give(0, good(1))
    world.give(1, good(1))
    world.outcomes = [CommitOutcome.ABORTED]
    poll, polls = world.poll, iter([None, ("lost", [0])])

    def losing(loop_: Loop) -> None:
        what = next(polls, None)
        world.group = [] if what is None else [what]
        poll(loop_)

    world.poll = losing  # type: ignore[assignment, method-assign]  # the second poll is the one after the abort
    loop.step()
    assert len(listener.delays) == 1


def test_what_there_is_is_told_every_few_seconds(world: World) -> None:
    """Models by shard and what waits; not at each turn, because it takes a walk over all of them."""
    listener = Listener()
    loop = loop_of(world, listener)
    world.give(1, good(1))
    turns = 30
    for _ in range(turns):
        loop.step()
    latest = listener.counted[-1]
    assert latest.models == {0: [], 1: ["m"]}
    assert latest.incidents == {}
    assert latest.lag == {(InputTopic.PREDICTIONS, 0): 0, (InputTopic.PREDICTIONS, 1): 0}
    assert 2 <= len(listener.counted) <= turns * LoopOptions().commit_interval_ms / LoopOptions().census_ms + 2


def test_a_partition_that_has_gone_is_not_told_any_more(world: World) -> None:
    """At once: its new owner tells the same figures, and sums over workers must not count them twice."""
    listener = Listener()
    loop = loop_of(world, listener)
    while not listener.counted[-1].models:
        loop.step()
    assert set(listener.counted[-1].models) == {0, 1}
    world.group.append(("lost", [0]))
    loop.step()
    assert set(listener.counted[-1].models) == {1}


def test_the_cause_of_an_alert_is_the_record_of_its_offset() -> None:
    """Offsets can have gaps; a record without a timestamp, or of another batch, is no cause; nor is another output."""
    raw = batch(3, 10, [(b"", START_MS + number) for number in range(4)])
    raw = raw._replace(offsets=[10, 12, 13, 20], timestamps_ms=[1, 2, -1, 4])
    outputs = [Output(OutputTopic.ALERTS, 3, offset, b"", b"") for offset in (10, 11, 12, 12, 13, 20, 21)]
    outputs.append(Output(OutputTopic.METRICS, 3, 10, b"", b""))
    assert alert_causes(raw, outputs) == [AlertCause(3, each) for each in (1, 2, 2, 4)]


def test_open_incidents_are_known_after_a_restart() -> None:
    """Without a new step; whatever has been resolved is left out."""
    bench = Bench(options())
    bench.event(0, raised("age"), raised("amount"))
    assert sum(bench.desk.open_by_severity.values()) == 2
    bench.event(1, over("amount"))
    assert bench.desk.open_by_severity == {"warning": 1}
    bench.restart()
    assert bench.desk.open_by_severity == {"warning": 1}
