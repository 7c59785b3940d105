"""Plays the inputs of one shard through an engine, with the ticks that a worker that keeps up would give.

A worker ticks by its own clock, every `idle_close_ms`. Here the timestamps of the records are the clock.
"""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from worker.core.engine import Engine
from worker.core.events import AlertEvent, InputTopic, Output, OutputTopic, RawBatch
from worker.replay.incidents import IncidentBook
from worker.replay.merging import Feeds

TICKS_PER_GAP_MAX = 20_000
"""A gap that is longer than so many ticks gets them at longer intervals."""

_NEVER_MS = 2**62

_decode: Callable[[bytes], AlertEvent] = msgspec.json.Decoder(AlertEvent).decode


class Pace(NamedTuple):
    """When ticks come (ms)."""

    idle_close_ms: int
    until_ms: int | None = None
    """Ticks go on until then, when the records have ended before."""


class Counted(msgspec.Struct):
    """What was played."""

    predictions: int = 0
    labels: int = 0
    feedback: int = 0
    rejected: int = 0
    ticks: int = 0

    def add(self, other: "Counted") -> None:
        """Add the counts of another shard."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class ShardReplay:
    """One shard of an engine; it is dropped at the end.

    Args:
        engine: must not have the shard yet.
        partition: the shard.
        feeds: its inputs.
        pace: its ticks.
        progress: is told how many records were taken, after each batch.
    """

    def __init__(
        self, engine: Engine, partition: int, feeds: Feeds, pace: Pace, progress: Callable[[int], None]
    ) -> None:
        self._engine = engine
        self._partition = partition
        self._feeds = feeds
        self._pace = pace
        self._progress = progress
        self._next_tick_ms: int | None = None
        self.book = IncidentBook()
        self.counted = Counted()

    def run(self) -> None:
        """Play all of it."""
        self._engine.add_shard(self._partition)
        try:
            self._begin_ticks()
            while (now_ms := self._feeds.next_ms()) is not None:
                self._tick_until(now_ms)
                for batch in self._feeds.take(self._end_ms()):
                    self._handle(batch)
            if self._pace.until_ms is not None:
                self._tick_until(self._pace.until_ms)
        finally:
            self._engine.drop_shard(self._partition)

    def _end_ms(self) -> int:
        """Return up to when nothing has to come between predictions."""
        ends = [end for end in (self._feeds.slot_end_ms(), self._next_tick_ms) if end is not None]
        return min(ends, default=_NEVER_MS)

    def _handle(self, batch: RawBatch) -> None:
        handled = self._engine.handle(batch)
        self._note(handled.outputs)
        counted, count = self.counted, len(batch.offsets)
        match batch.topic:
            case InputTopic.LABELS:
                counted.labels += count
            case InputTopic.FEEDBACK:
                counted.feedback += count
            case _:
                counted.predictions += count
        counted.rejected += len(handled.rejects)
        self._progress(count)

    def _begin_ticks(self) -> None:
        """Ticks begin with the first prediction: without one there is nothing to tell, and feedback may be old."""
        first_ms = self._feeds.predictions.next_ms()
        if first_ms is not None:
            self._next_tick_ms = first_ms + self._pace.idle_close_ms

    def _tick_until(self, now_ms: int) -> None:
        """Give the ticks that are due up to a time, this one included."""
        if self._next_tick_ms is None or self._next_tick_ms > now_ms:
            return
        interval_ms = self._pace.idle_close_ms
        ticks = (now_ms - self._next_tick_ms) // interval_ms + 1
        interval_ms *= -(-ticks // TICKS_PER_GAP_MAX)
        while self._next_tick_ms <= now_ms:
            if self._engine.wants_tick(self._partition, self._next_tick_ms):
                self._note(self._engine.tick(self._partition, self._next_tick_ms))
                self.counted.ticks += 1
            self._next_tick_ms += interval_ms

    def _note(self, outputs: list[Output]) -> None:
        for output in outputs:
            if output.topic is OutputTopic.ALERTS and output.value is not None:
                self.book.add(_decode(output.value))
