"""The way into the engine with several threads: who waits for whom, and what an error ends."""

import threading
from collections.abc import Iterator

import pytest

from tests.streams import SMALL
from tests.world import World
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.engine import Engine, Handled
from worker.core.events import RawBatch
from worker.core.shard import Topics
from worker.dispatch import Dispatch
from worker.edges.threads import ThreadExecutor
from worker.ports import InlineExecutor, NoEffort

LONG_S = 30


def _batch(partition: int, number: int) -> RawBatch:
    return RawBatch(partition, range(number, number + 10), [0] * 10, [b""] * 10, [None] * 10, [None] * 10)


class Held(Engine):
    """Notes what it is given, holds it until it may go on, and fails at one batch."""

    def __init__(self, fails_at: RawBatch | None = None) -> None:
        super().__init__(SMALL, Topics(), InlineRefits())
        self.fails_at = fails_at
        self.begun: list[RawBatch] = []
        self.finished: list[RawBatch] = []
        self.threads: dict[int, threading.Thread] = {}
        self.two_begun, self.may_go_on = threading.Event(), threading.Event()

    def handle(self, batch: RawBatch) -> Handled:
        self.begun.append(batch)
        self.threads[id(batch)] = threading.current_thread()
        if len(self.begun) == 2:
            self.two_begun.set()
        if batch is self.fails_at:
            self.two_begun.wait(LONG_S)
            raise ValueError("a bug")
        self.may_go_on.wait(LONG_S)
        self.finished.append(batch)
        return Handled([], len(batch.offsets), 0, [])


@pytest.fixture
def executor() -> Iterator[ThreadExecutor]:
    """Two threads."""
    with ThreadExecutor(2) as executor:
        yield executor


def test_the_caller_goes_on_while_the_engine_works(executor: ThreadExecutor) -> None:
    """It waits until there are few batches that nobody has begun with; what comes second for a shard waits its turn."""
    engine = Held()
    dispatch = Dispatch(engine, executor, NoEffort(), World())
    given = [_batch(partition, number) for number in (0, 10) for partition in range(3)]
    for batch in given[:2]:
        dispatch.add(batch)
    assert list(dispatch.until_few_wait(0)) == []
    assert engine.finished == []
    for batch in given[2:]:
        dispatch.add(batch)
    assert (dispatch.records, dispatch.untold(0)) == (60, 2)
    assert list(dispatch.until_few_wait(40)) == []
    assert len(engine.begun) == 2
    engine.may_go_on.set()
    told = [each.batch for each in dispatch.until_few_wait(0)]
    assert len(engine.begun) == 6
    told += [each.batch for each in dispatch.finish()]
    assert told == given
    assert (dispatch.records, dispatch.untold(0)) == (0, 0)
    for partition in range(3):
        assert [each for each in engine.begun if each.partition == partition] == given[partition::3]


def test_shards_take_turns(executor: ThreadExecutor) -> None:
    """However much there is for two of them, the third one is begun with after a batch of each."""
    engine = Held()
    dispatch = Dispatch(engine, executor, NoEffort(), World())
    for partition, number in [(0, 0), (1, 0), (0, 10), (1, 10), (0, 20), (1, 20), (2, 0)]:
        dispatch.add(_batch(partition, number))
    engine.may_go_on.set()
    assert len(list(dispatch.finish())) == 7
    assert 2 in [each.partition for each in engine.begun[:4]]


def test_after_an_error_nothing_is_begun_and_all_that_was_is_finished(executor: ThreadExecutor) -> None:
    """Nobody works on a shard any more when the error is raised: the process can end."""
    first, other = _batch(0, 0), _batch(1, 0)
    engine = Held(fails_at=first)
    dispatch = Dispatch(engine, executor, NoEffort(), World())
    for batch in (first, other, _batch(0, 10), _batch(1, 10)):
        dispatch.add(batch)
    threading.Timer(0.2, engine.may_go_on.set).start()
    with pytest.raises(ValueError, match="a bug"):
        list(dispatch.finish())
    assert engine.finished == [other]
    assert sorted(engine.begun) == sorted([first, other])


def test_the_caller_works_itself_where_it_wants_to(executor: ThreadExecutor) -> None:
    """A batch is done then when it has been added, unless more of its shard are before it."""
    engine = Held()
    dispatch = Dispatch(engine, executor, NoEffort(), World())
    beside, after_it, own = _batch(0, 0), _batch(0, 10), _batch(1, 0)
    dispatch.add(beside)
    dispatch.add(after_it, beside=False)
    assert engine.finished == []
    engine.may_go_on.set()
    dispatch.add(own, beside=False)
    assert own in engine.finished
    assert [each.batch for each in dispatch.finish()] == [beside, after_it, own]
    here = threading.current_thread()
    assert [engine.threads[id(each)] is here for each in (beside, after_it, own)] == [False, False, True]


def test_one_thread_does_it_at_once() -> None:
    """Results are there when the batch has been added."""
    engine = Held()
    engine.may_go_on.set()
    dispatch = Dispatch(engine, InlineExecutor(), NoEffort(), World())
    given = [_batch(0, 0), _batch(1, 0), _batch(0, 10)]
    for batch in given:
        dispatch.add(batch)
        assert engine.finished[-1] is batch
    assert [each.batch for each in dispatch.until_few_wait(0)] == given
