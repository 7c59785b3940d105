"""What has been read and not yet given to the engine, in the order in which it is given.

    fetch ──► predictions, feedback ─────────────────► ready ──► the loop takes one batch after the other
          └─► labels ──► held back (`alignment.py`) ──┘

Rule 1: what is in here was not taken. When its partition goes, it goes, too, and whoever gets the partition reads it.
Rule 2: the batches of one shard and topic leave in the order in which they came.
Rule 3: records that trickle are gathered. The engine takes 0.6 ms for one event of a model, and 0.7 for ten: to take
        whatever has just come keeps a whole core busy with a thousand events a second.
"""

from collections import deque
from collections.abc import Sequence

from worker.alignment import Alignment
from worker.core.events import InputTopic, RawBatch
from worker.observer import Observer
from worker.ports import Clock, Source

FEW_SHARE = 4
"""Records are few if they are less than one part in so many of what a fetch may have."""


class Intake:
    """The way of records from the source to the engine.

    Args:
        source: reads.
        clock: of the wall.
        observer: is told.
        records_max: records taken at once.
        label_hold_ms: how long labels wait for predictions that may not come; 0: they do not wait.
        held_labels_max: more held labels of a partition than this, and no more of them are fetched.
        gather_ms: after two fetches in a row that had few records, the next one begins so much later at the earliest.
    """

    def __init__(
        self,
        source: Source,
        clock: Clock,
        observer: Observer,
        *,
        records_max: int,
        label_hold_ms: int,
        held_labels_max: int,
        gather_ms: int,
    ) -> None:
        self._source = source
        self._clock = clock
        self._observer = observer
        self._records_max = records_max
        self._gather_ms = gather_ms
        self._not_before_ms: int | None = None
        self._were_few = False
        self._holds = label_hold_ms > 0
        self._alignment = Alignment(label_hold_ms, held_labels_max)
        self._paused: set[int] = set()
        self._ready: deque[RawBatch] = deque()

    def attach(self, partition: int, offset: int, label_offset: int, feedback_offset: int) -> None:
        """Begin to read for a shard that is live from here on."""
        self._alignment.begin(partition, self._clock.monotonic_ms())
        self._source.attach(partition, offset, label_offset, feedback_offset)

    def forget(self, partitions: Sequence[int]) -> None:
        """Shards are gone: read no more for them, and let go of what was read."""
        self._source.detach(partitions)
        self._alignment.forget(partitions)
        self._paused -= set(partitions)
        self._ready = deque(batch for batch in self._ready if batch.partition not in partitions)

    def fetch(self, wait_ms: int) -> int:
        """Read once, waiting at most so long for a first record; return how many records came."""
        wait_ms -= self._gather(wait_ms)
        started_ms = self._clock.monotonic_ms()
        batches = self._source.fetch(self._records_max, wait_ms)
        self._observer.fetched(batches, (self._clock.monotonic_ms() - started_ms) / 1000)
        records, live = sum(len(batch.offsets) for batch in batches), self._alignment.partitions
        # Nobody waits for the first ones after a silence, nor in a backlog when there were few once.
        are_few = 0 < records < self._records_max // FEW_SHARE
        self._not_before_ms = started_ms + self._gather_ms if are_few and self._were_few else None
        self._were_few = are_few
        for batch in batches:
            if batch.partition not in live:
                continue
            if self._holds and batch.topic is InputTopic.LABELS:
                self._alignment.hold(batch, self._clock.monotonic_ms())
                continue
            self._ready.append(batch)
            if batch.topic is InputTopic.PREDICTIONS:
                self._alignment.predictions_came(batch)
        if self._holds:
            now_ms, may_have_more = self._clock.monotonic_ms(), self._source.may_have_more
            self._ready.extend(self._alignment.release(now_ms, may_have_more, is_dry=records < self._records_max))
            self._pause_labels()
        return records

    def _gather(self, wait_ms: int) -> int:
        """Let records gather, for as long as may be waited; return how long that was."""
        if self._not_before_ms is None:
            return 0
        pause_ms = min(self._not_before_ms - self._clock.monotonic_ms(), wait_ms)
        if pause_ms <= 0:
            return 0
        self._clock.pause(pause_ms)
        return pause_ms

    def _pause_labels(self) -> None:
        """Fetch no more labels of a shard while enough of them wait."""
        for partition in self._alignment.partitions:
            full = self._alignment.is_full(partition)
            if full != (partition in self._paused):
                self._source.pause_labels(partition, paused=full)
                self._paused ^= {partition}

    @property
    def next(self) -> RawBatch | None:
        """The batch that is given to the engine next."""
        return self._ready[0] if self._ready else None

    @property
    def records(self) -> int:
        """How many records there are for the engine."""
        return sum(len(batch.offsets) for batch in self._ready)

    def take(self) -> RawBatch:
        """Take it out."""
        return self._ready.popleft()
