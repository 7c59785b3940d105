"""What was fetched, on its way into the engine: shards know nothing of one another, so several are worked on at once.

    add ──► lane of its shard ──► a thread that is free ──► finish, until_few_wait: in the order in which they came
             (one thread each)     while the caller fetches more, or commits

Rule 1: the batches of one shard are worked on in the order in which they came, one after the other.
Rule 2: results are told in the order in which the batches came, whichever was done first: so what goes into the
        transaction, and what the observer hears, does not depend on how many threads there are (law 2).
Rule 3: whatever the caller does with shards (tick, cut, restore, positions of a commit, giving one up) comes after
        `finish`. Fetching goes on meanwhile, and waiting for Kafka once it is settled what a transaction holds.
Rule 4: lanes take turns: a thread goes to the lane that has waited longest.
Rule 5: the caller works on few records itself, unless it has something else to do. Much of what they take is Python,
        and threads that wait for one another's lock take more CPU for them, and are done no sooner.
"""

from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from threading import Condition, Lock
from typing import NamedTuple

from worker.core.engine import Engine, Handled
from worker.core.events import RawBatch
from worker.ports import Clock, Effort, Executor


class Done(NamedTuple):
    """A batch that has been worked on."""

    batch: RawBatch
    handled: Handled
    seconds: float
    """That a thread worked on it; others may have worked on others at the same time."""


class _Job(NamedTuple):
    batch: RawBatch
    done: "Future[Done]"


class _Lane:
    """The batches of one shard that nobody has begun with."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._waiting: deque[_Job] = deque()
        self._has_thread = False
        self.is_broken = False
        """Whether the engine has failed at one of its batches."""

    def add(self, job: _Job) -> bool:
        """Let a batch wait; return whether the lane needs a thread."""
        with self._lock:
            self._waiting.append(job)
            needs_one, self._has_thread = not self._has_thread, True
        return needs_one

    def take(self) -> _Job:
        """Return the next batch, for the lane's thread."""
        with self._lock:
            return self._waiting.popleft()

    def leave(self) -> bool:
        """The thread goes; return whether the lane needs another one."""
        with self._lock:
            self._has_thread = bool(self._waiting)
            return self._has_thread


class Dispatch:
    """The batches that are on their way through the engine.

    Args:
        engine: which has a shard for each of them.
        executor: how many shards are worked on at once.
        effort: is told when the engine works, in the thread that does it.
        clock: of the wall.
    """

    def __init__(self, engine: Engine, executor: Executor, effort: Effort, clock: Clock) -> None:
        self._engine = engine
        self._executor = executor
        self._effort = effort
        self._clock = clock
        self._lanes: dict[int, _Lane] = {}
        self._jobs: deque[_Job] = deque()
        self._of_shard: Counter[int] = Counter()
        self.records = 0
        """Of all batches whose results have not been told."""
        self._waiting = 0
        """Of all batches that nobody has begun with."""
        self._fewer = Condition()
        """Told when a batch has been begun with, be it to let it be."""

    def add(self, batch: RawBatch, *, beside: bool = True) -> None:
        """Let a batch be worked on as soon as those of its shard before it are, and a thread is free.

        Not `beside`: the caller is that thread, if none works on the shard.
        """
        job = _Job(batch, Future())
        self._jobs.append(job)
        self._of_shard[batch.partition] += 1
        self.records += len(batch.offsets)
        with self._fewer:
            self._waiting += len(batch.offsets)
        lane = self._lanes.setdefault(batch.partition, _Lane())
        if lane.add(job):
            if beside:
                self._executor.submit(partial(self._work_on, lane))
            else:
                self._work_on(lane)

    def untold(self, partition: int) -> int:
        """Return how many batches of a shard there are whose results have not been told."""
        return self._of_shard[partition]

    def until_few_wait(self, records: int) -> Iterator[Done]:
        """Wait until so many records at most are left that nobody has begun with; tell the results that are there.

        Raises, when nobody works on anything any more, what the engine raised at the first batch that failed.
        """
        with self._fewer:
            self._fewer.wait_for(lambda: self._waiting <= records)
        while self._jobs and self._jobs[0].done.done():
            yield self._next()

    def finish(self) -> Iterator[Done]:
        """Wait for all, and tell their results. Raises as `until_few_wait` does.

        The caller only waits: were it a thread more than there are cores, the batches of all would take longer.
        """
        while self._jobs:
            yield self._next()
        self._lanes.clear()

    def _next(self) -> Done:
        job = self._jobs.popleft()
        self._of_shard[job.batch.partition] -= 1
        self.records -= len(job.batch.offsets)
        if job.done.exception() is not None:
            self._abandon()
        return job.done.result()

    def _abandon(self) -> None:
        """Let nobody begin with anything else, and wait for what is being worked on."""
        begun = [job for job in self._jobs if not job.done.cancel()]
        for job in begun:
            job.done.exception()

    def _work_on(self, lane: _Lane) -> None:
        """Work on the next batch of a shard, in this thread. After one that fails the others are let be."""
        job = lane.take()
        with self._fewer:
            self._waiting -= len(job.batch.offsets)
            self._fewer.notify()
        if not lane.is_broken and job.done.set_running_or_notify_cancel():
            try:
                job.done.set_result(self._handle(job.batch))
            except BaseException as error:  # noqa: BLE001 - raised in the thread of the caller, in its turn
                lane.is_broken = True
                job.done.set_exception(error)
        if lane.leave():
            self._executor.submit(partial(self._work_on, lane))

    def _handle(self, batch: RawBatch) -> Done:
        began_ms = self._clock.monotonic_ms()
        self._effort.begin()
        handled = self._engine.handle(batch)
        self._effort.end()
        return Done(batch, handled, (self._clock.monotonic_ms() - began_ms) / 1000)
