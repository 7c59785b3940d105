"""Law 2 with several threads: how many work on the shards shows in nothing that comes out."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.core.test_loop import IDENTITY, NEVER, digest_of, live
from tests.streams import SMALL, Record, batch, records
from tests.world import World
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.engine import Engine, Handled
from worker.core.events import InputTopic, Output, OutputTopic, RawBatch
from worker.core.journal import decode_pointer
from worker.core.shard import Topics
from worker.dispatch import Dispatch, Done
from worker.edges.threads import ThreadExecutor
from worker.loop import Loop, LoopOptions, Ports
from worker.observer import Observer
from worker.ports import Executor, Position

SHARDS = 6
ROUNDS = 5
RECORDS = 900
OPTIONS = LoopOptions(snapshots=NEVER, few_records=0)
AHEAD = OPTIONS._replace(fetch_records_max=40, ahead_records_min=1, idle_close_ms=10**9, census_ms=0)
"""Several fetches in a turn, each as soon as few of the batches before it wait; no ticks, whose time is the turns'."""


class Rationed(World):
    """Gives one batch at a fetch, of which a turn has time for a few."""

    def fetch(self, records_max: int, wait_ms: int) -> list[RawBatch]:
        rest, self.inbox = self.inbox[1:], self.inbox[:1]
        found = super().fetch(records_max, 60)
        self.inbox = rest
        return found


class Heard(Observer):
    """What the loop has told of batches."""

    def __init__(self) -> None:
        self.handled_: list[tuple[int, int, int]] = []

    def handled(self, handled: Handled, seconds: float) -> None:
        self.handled_.append((handled.events, handled.labels, len(handled.outputs)))


def _labels(stream: list[Record]) -> list[Record]:
    """Return labels of every third record, bad ones among them."""
    return [
        (b'{"event_id":"e%d","model_id":"m%d","label":"yes"}' % (number, number % 3), stamp)
        for number, (_, stamp) in enumerate(stream)
        if number % 3 == 0
    ]


def turns() -> list[list[tuple[int, list[Record], InputTopic]]]:
    """Return what each fetch brings: predictions and labels of each shard. The last shard has most to do."""
    out: list[list[tuple[int, list[Record], InputTopic]]] = [[] for _ in range(ROUNDS)]
    for shard in range(SHARDS):
        stream = records(shard, RECORDS // (SHARDS - shard))
        for topic, part in ((InputTopic.PREDICTIONS, stream), (InputTopic.LABELS, _labels(stream))):
            size = len(part) // ROUNDS
            for turn in range(ROUNDS):
                out[turn].append((shard, part[turn * size : (turn + 1) * size], topic))
    return out


def worked(
    executor: Executor | None, options: LoopOptions = OPTIONS, world: World | None = None
) -> tuple[list[Output], list[str], dict[int, Position], list[tuple[int, ...]]]:
    """Let a loop work through the streams; return all that can be seen of it."""
    world, heard = world or World(), Heard()
    world.group.append(("assigned", list(range(SHARDS))))
    engine = Engine(SMALL, Topics(), InlineRefits())
    ports = Ports(world, world, world, world, world, executor=executor)
    loop = live(world, Loop(engine, ports, IDENTITY, options, heard))
    for turn in turns():
        for shard, part, topic in turn:
            world.give(shard, part, topic)
        loop.step()
    for _ in range(20):  # what is left, and what the engine has gone ahead with
        loop.step()
    assert not world.inbox
    return world.visible, [digest_of(loop, shard) for shard in range(SHARDS)], world.stored, list(heard.handled_)


@pytest.fixture(scope="module")
def alone() -> tuple[list[Output], list[str], dict[int, Position], list[tuple[int, ...]]]:
    """What one thread gives."""
    return worked(None)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_the_number_of_threads_shows_in_nothing(
    threads: int, alone: tuple[list[Output], list[str], dict[int, Position], list[tuple[int, ...]]]
) -> None:
    """Outputs in their order, states, positions with their journals and traces, and what the observer hears."""
    with ThreadExecutor(threads) as executor:
        assert worked(executor) == alone


@pytest.mark.parametrize("threads", [2, 4])
def test_fetching_ahead_shows_in_nothing(threads: int) -> None:
    """Whatever the engine has done when the next records come."""
    ahead = meanwhile = 0
    wait, go_ahead = Dispatch.until_few_wait, Loop._go_ahead

    def counted(dispatch: Dispatch, records: int) -> Iterator[Done]:
        nonlocal ahead
        ahead += dispatch.records > 0
        return wait(dispatch, records)

    def counted_too(loop: Loop) -> None:
        nonlocal meanwhile
        meanwhile += loop._intake.next is not None
        go_ahead(loop)
        time.sleep(0.003)  # so that threads are at work on it, whatever comes now

    found_busy: list[str] = []
    with ThreadExecutor(threads) as executor, pytest.MonkeyPatch.context() as patch:
        _guard(patch, found_busy)
        patch.setattr(Dispatch, "until_few_wait", counted)
        patch.setattr(Loop, "_go_ahead", counted_too)
        found = worked(executor, AHEAD, Rationed())
    assert ahead > ROUNDS, "the fetches were not ahead of the engine"
    assert meanwhile > ROUNDS, "there was nothing to do while a commit was waited for"
    outputs, digests, positions, heard = worked(None, AHEAD, Rationed())
    assert found[:2] == (outputs, digests)
    assert found[3] == heard
    assert {shard: _where(place) for shard, place in found[2].items()} == {s: _where(p) for s, p in positions.items()}
    assert not found_busy, "the engine was asked for something while its threads were at work"


def _where(place: Position) -> tuple[int, str]:
    """Return what of a position does not depend on how many commits there were."""
    return place.offset, decode_pointer(place.metadata).trace


_BY_THE_LOOP = ("add_shard", "artefacts_in_use", "begin_cut", "drop_shard", "model_ids", "open_incidents")
_BY_THE_LOOP_TOO = ("take_captured", "thin", "thinning", "tick", "trace", "wants_tick")


def _guard(patch: pytest.MonkeyPatch, found: list[str]) -> None:
    """Note which calls of the loop come while a thread works on a batch; working takes long enough to be met."""
    busy, lock = 0, threading.Lock()
    handle = Engine.handle

    def guarded(engine: Engine, batch: RawBatch) -> Handled:
        nonlocal busy
        with lock:
            busy += 1
        time.sleep(0.005)
        try:
            return handle(engine, batch)
        finally:
            with lock:
                busy -= 1

    def asked(name: str, call: Callable[..., object], *args: object) -> object:
        if busy and threading.current_thread() is threading.main_thread():
            found.append(name)
        return call(*args)

    patch.setattr(Engine, "handle", guarded)
    for name in (*_BY_THE_LOOP, *_BY_THE_LOOP_TOO):
        call = getattr(Engine, name)
        patch.setattr(Engine, name, lambda *args, name=name, call=call: asked(name, call, *args))


def test_results_come_in_the_order_of_the_fetch(
    alone: tuple[list[Output], list[str], dict[int, Position], list[tuple[int, ...]]],
) -> None:
    """As if the engine were given one batch after the other, though the shard with the most work begins."""
    engine, ends = Engine(SMALL, Topics(), InlineRefits()), dict[tuple[int, InputTopic], int]()
    for shard in range(SHARDS):
        engine.add_shard(shard)
    outputs, heard = list[Output](), list[tuple[int, ...]]()
    for shard, part, topic in (each for turn in turns() for each in turn):
        begin = ends.get((shard, topic), 0)
        ends[shard, topic] = begin + len(part)
        handled = engine.handle(batch(shard, begin, part)._replace(topic=topic))
        outputs += handled.outputs
        heard.append((handled.events, handled.labels, len(handled.outputs)))
    assert alone[0] == outputs
    assert alone[1] == [engine.digest(shard) for shard in range(SHARDS)]
    assert alone[3] == heard


def test_the_streams_have_something_to_show(
    alone: tuple[list[Output], list[str], dict[int, Position], list[tuple[int, ...]]],
) -> None:
    """There are alerts, metrics and dead letters of several shards; labels were taken."""
    outputs, digests, _, heard = alone
    for topic in (OutputTopic.ALERTS, OutputTopic.METRICS, OutputTopic.DEAD_LETTERS):
        assert len({output.shard for output in outputs if output.topic is topic}) > 1
    assert len(set(digests)) == SHARDS
    assert sum(labels for _, labels, _ in heard) > RECORDS // 5


class Broken(Engine):
    """Cannot work on one of its shards."""

    def handle(self, batch: RawBatch) -> Handled:
        if batch.partition == 1:
            raise AssertionError("a bug in shard 1")
        return super().handle(batch)


def test_an_error_in_one_shard_ends_the_worker_and_nothing_is_committed() -> None:
    """As with one thread: also what the others have done comes again after the restart."""
    world = World()
    world.group.append(("assigned", [0, 1, 2]))
    with ThreadExecutor(2) as executor:
        ports = Ports(world, world, world, world, world, executor=executor)
        loop = live(world, Loop(Broken(SMALL, Topics(), InlineRefits()), ports, IDENTITY, OPTIONS))
        before = dict(world.stored)
        for shard in range(3):
            world.give(shard, records(shard, 50, bad=0.5))
        with pytest.raises(AssertionError, match="a bug in shard 1"):
            loop.run(lambda: False)
    assert world.stored == before
    assert world.visible == []
