"""Takes records from Kafka, makes batches of them, and commits what is settled; `step` is called over and over.

Rule 1: nothing is sent before a ceiling beyond it is committed (`progress.py`).
Rule 2: when partitions are given up, what is out gets a while to be settled; then it is abandoned, and the next owner
looks it up.
Rule 3: records, bytes and batches that are held are bounded: Kafka keeps the rest.
"""

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, Protocol

from confluent_kafka import Message

from worker.edges.kafka.arrived import arrived_of
from worker.elasticsearch_settings import ElasticsearchSettings, Stream
from worker.ports import Clock
from worker.ship.batches import Batch, Collected, Item, stream_name
from worker.ship.figures import Figures
from worker.ship.health import Health
from worker.ship.pool import Pool
from worker.ship.progress import Begin, Mark, Place, Progress

_FETCH_RECORDS_MAX: Final = 500
_COMMIT_MS: Final = 1_000
_LAG_MS: Final = 5_000
_FULL_WAIT_S: Final = 1.0
"""So long a full pool is waited for before the group is served without taking records."""
_NO_MEMBER_MS: Final = 100
"""Between two attempts of one whom the group has put out."""
_HANDOVER_MS: Final = 3_000
_STOP_MS: Final = 10_000
_SLICE_S: Final = 0.1


class Outputs(Protocol):
    """The output topics."""

    def fetch(self, records_max: int, wait_ms: int) -> list[Message]:
        """Return records. Raises SourceError."""
        ...

    def serve(self, wait_ms: int) -> None:
        """Stay in the group without taking records. Raises SourceError."""
        ...

    def commit(self, marks: Mapping[Place, Mark]) -> bool:
        """Commit positions; False if this process is in the group no more. Raises SourceError."""
        ...

    def ends(self, places: Sequence[Place]) -> dict[Place, int]:
        """Return where partitions end, as far as that is known."""
        ...

    def reached(self, places: Sequence[Place]) -> dict[Place, int]:
        """Return up to where partitions were read."""
        ...

    def at_end(self) -> bool:
        """Tell whether all has been taken that was there at the beginning. Raises SourceError."""
        ...


class Shipper:
    """One process's part of the work. Implements `outputs.Listener`.

    Args:
        settings: pace and bounds.
        streams: by topic.
        empty: streams of which nothing was in the cluster when this process began.
        pool: settles batches.
        health: is told of the group, and that this is alive.
        figures: gets the lag.
        clock: the clock.
        log: where it is told what happens.
    """

    def __init__(
        self,
        settings: ElasticsearchSettings,
        streams: Mapping[str, Stream],
        empty: Collection[Stream],
        pool: Pool,
        health: Health,
        figures: Figures,
        clock: Clock,
        log: Any,  # noqa: ANN401 - structlog's
    ) -> None:
        self._settings = settings
        self._streams = streams
        self._names = {stream: stream_name(stream, settings.namespace) for stream in streams.values()}
        self._empty = empty
        self._pool = pool
        self._health = health
        self._figures = figures
        self._clock = clock
        self._log = log
        self._outputs: Outputs | None = None
        self._progress: dict[Place, Progress] = {}
        self._generation = 0
        self._rest: deque[Message] = deque()
        """Taken, but not looked at yet."""
        self._collected = Collected()
        self._committed_ms = self._lag_ms = clock.monotonic_ms()
        self.records = 0
        """Settled so far."""

    def read_from(self, outputs: Outputs) -> None:
        """Say where records come from."""
        self._outputs = outputs

    @property
    def _source(self) -> Outputs:
        assert self._outputs is not None, "read_from comes first"
        return self._outputs

    @property
    def finished(self) -> bool:
        """Whether all is settled that was there at the beginning."""
        return self._pool.idle and not self._rest and not self._collected.items and self._source.at_end()

    def step(self, wait_ms: int) -> None:
        """Do the next thing; wait at most so long when there is none.

        Raises:
            SourceError: Kafka cannot be read, or positions cannot be committed.
            SinkError: a dead letter cannot be written.
        """
        self._health.beat()
        self._settle(self._pool.finished(_FULL_WAIT_S if self._pool.full else 0.0))
        if self._pool.full:
            self._source.serve(0)
        elif self._is_due():
            self._dispatch()
        else:
            self._take(wait_ms)
        now_ms = self._clock.monotonic_ms()
        if now_ms - self._committed_ms >= _COMMIT_MS:
            self._committed_ms = now_ms
            self._commit({place: progress.mark() for place, progress in self._progress.items()})
        if now_ms - self._lag_ms >= _LAG_MS:
            self._lag_ms = now_ms
            self._figures.lag = self._lag()

    def stop(self) -> None:
        """Wait for what is out, but not for long, and commit. Raises as `step`."""
        self._drain(_STOP_MS)
        self._give_up(commit=True)
        self._pool.close()

    def assigned(self, begins: Mapping[Place, Begin]) -> None:
        """Take over partitions: they are all that there are now."""
        self._give_up(commit=False)
        self._progress = {
            place: Progress(begin, empty=self._streams[place[0]] in self._empty) for place, begin in begins.items()
        }
        self._health.joined(joined=True)
        self._log.info("partitions assigned", partitions=len(begins))

    def revoked(self) -> None:
        """Give all partitions up; positions can still be committed."""
        self._drain(_HANDOVER_MS)
        self._give_up(commit=True)
        self._health.joined(joined=False)

    def lost(self) -> None:
        """All partitions are somebody else's already."""
        self._give_up(commit=False)
        self._health.joined(joined=False)

    def _is_due(self) -> bool:
        """Tell whether the records that were collected are to be sent now."""
        collected, settings = self._collected, self._settings
        if not collected.items:
            return False
        if len(collected.items) >= settings.bulk_records_max or collected.size >= settings.bulk_bytes_max:
            return True
        lingered_ms = self._clock.monotonic_ms() - collected.since_ms
        return not self._rest and (lingered_ms >= settings.linger_ms or self._source.at_end())

    def _take(self, wait_ms: int) -> None:
        """Collect records up to the size of a request."""
        collected, settings = self._collected, self._settings
        if not self._rest:
            wait_ms = min(wait_ms, settings.linger_ms) if collected.items else wait_ms
            self._rest.extend(self._source.fetch(_FETCH_RECORDS_MAX, wait_ms))
        now_ms = self._clock.monotonic_ms()
        while (
            self._rest and len(collected.items) < settings.bulk_records_max and collected.size < settings.bulk_bytes_max
        ):
            arrived = arrived_of(self._rest.popleft())
            progress = self._progress.get((arrived.topic, arrived.partition))
            if progress is not None:
                stream = self._streams[arrived.topic]
                doubtful = arrived.offset < progress.doubtful_before
                collected.add(Item(stream, arrived, self._names[stream], doubtful=doubtful), now_ms)

    def _dispatch(self) -> None:
        """Send what was collected, if the ceilings allow it or can be raised."""
        ends = self._collected.ends
        if any(self._progress[place].is_far(end) for place, end in ends.items()):
            self._settle(self._pool.finished(_FULL_WAIT_S))
            self._source.serve(0)
            return
        low = {place: end for place, end in ends.items() if not self._progress[place].may_send(end)}
        if low and not self._commit({place: self._progress[place].mark(taken=end) for place, end in low.items()}):
            self._source.serve(_NO_MEMBER_MS)
            return
        portions = [(place, self._progress[place].send(end)) for place, end in ends.items()]
        self._pool.submit(Batch(self._collected.items, portions, self._generation))
        self._collected.clear()

    def _settle(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            if batch.settled and batch.generation == self._generation:
                self.records += len(batch.items)
                for place, portion in batch.portions:
                    self._progress[place].settle(portion)

    def _commit(self, marks: Mapping[Place, Mark | None]) -> bool:
        wanted = {place: mark for place, mark in marks.items() if mark is not None}
        if not wanted:
            return True
        if not self._source.commit(wanted):
            return False
        for place, mark in wanted.items():
            self._progress[place].committed(mark)
        return True

    def _drain(self, wait_ms: int) -> None:
        """Wait for what is out."""
        until_ms = self._clock.monotonic_ms() + wait_ms
        while not self._pool.idle and self._clock.monotonic_ms() < until_ms:
            self._settle(self._pool.finished(_SLICE_S))

    def _give_up(self, *, commit: bool) -> None:
        """Drop all partitions, after a last commit where that is still ours to do."""
        if commit:
            self._commit({place: progress.mark(last=True) for place, progress in self._progress.items()})
        self._pool.abandon()
        self._generation += 1
        self._progress.clear()
        self._rest.clear()
        self._collected.clear()
        self._figures.lag = {}

    def _lag(self) -> dict[Place, int]:
        places = list(self._progress)
        ends, reached = self._source.ends(places), self._source.reached(places)
        found = {}
        for place, end in ends.items():
            position = self._progress[place].position
            if self._progress[place].settled and place not in self._collected.ends and not self._rest:
                # Behind the last record there are markers of transactions.
                position = max(position, reached.get(place, position))
            found[place] = max(0, end - position)
        return found
