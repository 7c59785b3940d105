"""What was fetched, on its way into the engine: shards know nothing of one another, so several are worked on at once.

Rule 1: the batches of one shard are worked on in the order in which they came, one after the other.
Rule 2: results are told in the order in which the batches came, whichever was done first: so what goes into the
        transaction, and what the observer hears, does not depend on how many threads there are (law 2).
Rule 3: nothing else happens meanwhile: no poll of the group, no commit, no restore.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from worker.core.engine import Engine, Handled
from worker.core.events import RawBatch
from worker.ports import Clock, Effort, Executor


class Done(NamedTuple):
    """A batch that has been worked on."""

    batch: RawBatch
    handled: Handled
    seconds: float
    """Its part of the time that went by: all of them together make up the whole."""


class _Timed(NamedTuple):
    handled: Handled
    took_ms: int


class Dispatch:
    """The batches that wait for the engine.

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
        self._waiting: list[RawBatch] = []
        self._of_shard: Counter[int] = Counter()

    def add(self, batch: RawBatch) -> None:
        """Let a batch wait."""
        self._waiting.append(batch)
        self._of_shard[batch.partition] += 1

    def waiting(self, partition: int) -> int:
        """Return how many batches of a shard wait."""
        return self._of_shard[partition]

    def work(self) -> list[Done]:
        """Work on all that waits."""
        waiting, lanes = self._waiting, [*self._of_shard]
        self._waiting, self._of_shard = [], Counter()
        began_ms = self._clock.monotonic_ms()
        places = {lane: [place for place, batch in enumerate(waiting) if batch.partition == lane] for lane in lanes}
        # The most work first: otherwise one thread may begin with it when the others have nothing left.
        lanes.sort(key=lambda lane: -sum(len(waiting[place].offsets) for place in places[lane]))
        results = self._executor.run(
            [partial(self._handle, [waiting[place] for place in places[lane]]) for lane in lanes]
        )
        timed: dict[int, _Timed] = {}
        for lane, result in zip(lanes, results, strict=True):
            timed.update(zip(places[lane], result, strict=True))
        gone_by_ms, all_ms = self._clock.monotonic_ms() - began_ms, sum(each.took_ms for each in timed.values())
        part = gone_by_ms / all_ms if all_ms else 0.0
        return [
            Done(batch, timed[place].handled, timed[place].took_ms * part / 1000) for place, batch in enumerate(waiting)
        ]

    def _handle(self, batches: Sequence[RawBatch]) -> list[_Timed]:
        """Work on the batches of one shard, in one thread."""
        return [self._handle_one(batch) for batch in batches]

    def _handle_one(self, batch: RawBatch) -> _Timed:
        began_ms = self._clock.monotonic_ms()
        self._effort.begin()
        handled = self._engine.handle(batch)
        self._effort.end()
        return _Timed(handled, self._clock.monotonic_ms() - began_ms)
