"""The reading ports: source, history, readers; and the clock."""

from collections.abc import Sequence

from tests.sim.broker import INPUTS
from tests.sim.faults import Fault, Site
from tests.sim.host import Host
from tests.sim.log import OffsetGoneError, PartitionLog, StoredRecord
from worker.core.events import InputTopic, RawBatch
from worker.ports import Bounds, PositionGoneError, SourceError, UnavailableError


class SimClock:
    """Implements `ports.Clock`."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def monotonic_ms(self) -> int:
        """Return the simulated time."""
        return self._host.broker.now_ms

    def epoch_ms(self) -> int:
        """Return the wall clock's time, which can jump."""
        return self._host.broker.epoch_ms + self._host.broker.now_ms

    def pause(self, wait_ms: int) -> None:
        """Wait."""
        self._host.enter(Site.PAUSE)
        self._host.sleep(wait_ms)


class SimSource:
    """Implements `ports.Source`: batches of chance sizes, topics and partitions in chance order.

    Each shard reads `feedback` for itself.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._positions: dict[tuple[InputTopic, int], int] = {}
        self._paused: set[int] = set()

    def attach(self, partition: int, offset: int, label_offset: int, feedback_offset: int) -> None:
        """Start reading all three inputs."""
        self._host.enter(Site.ATTACH)
        assert (InputTopic.PREDICTIONS, partition) not in self._positions, f"partition {partition} is attached already"
        self._positions[InputTopic.PREDICTIONS, partition] = offset
        self._positions[InputTopic.LABELS, partition] = label_offset
        self._positions[InputTopic.FEEDBACK, partition] = feedback_offset

    def detach(self, partitions: Sequence[int]) -> None:
        """Stop reading partitions."""
        self._host.enter(Site.DETACH)
        for topic in (*INPUTS, InputTopic.FEEDBACK):
            for partition in partitions:
                self._positions.pop((topic, partition), None)
        self._paused.difference_update(partitions)

    def may_have_more(self, partition: int) -> bool:
        """Tell whether there are predictions that were not delivered yet."""
        place = (InputTopic.PREDICTIONS, partition)
        return self._positions[place] != self._host.broker.log(*place).stable_end

    def lag(self) -> dict[tuple[InputTopic, int], int]:
        """Tell how much is left, aborted records and markers among it."""
        return {place: self._log(*place).end - offset for place, offset in self._positions.items()}

    def pause_labels(self, partition: int, *, paused: bool) -> None:
        """Deliver no labels of a partition for now, or go on."""
        assert (InputTopic.LABELS, partition) in self._positions, f"partition {partition} is not attached"
        if paused:
            self._paused.add(partition)
        else:
            self._paused.discard(partition)

    def fetch(self, records_max: int, wait_ms: int) -> list[RawBatch]:
        """Return some of what is there; wait when there is nothing."""
        fault = self._host.enter(Site.FETCH)
        if fault is Fault.SOURCE_DOWN:
            raise SourceError("the source is down")
        batches = [] if fault is Fault.NOTHING_READ else self._take(records_max)
        if not batches:
            self._host.sleep(max(1, wait_ms))
            batches = self._take(records_max)
        return batches

    def close(self) -> None:
        """Stop reading."""
        self._positions.clear()

    def _take(self, records_max: int) -> list[RawBatch]:
        rng = self._host.rng
        places = [place for place, offset in self._positions.items() if offset != self._log(*place).stable_end]
        places = [(topic, part) for topic, part in places if topic is not InputTopic.LABELS or part not in self._paused]
        rng.shuffle(places)
        batches = []
        for topic, partition in places:
            if rng.random() < 0.8:
                size = min(records_max, rng.choice((1, 2, 5, 12, 30, 80)))
                batch = self._read(topic, partition, size)
                if batch.offsets:
                    batches.append(batch)
        return batches

    def _log(self, topic: InputTopic, partition: int) -> PartitionLog:
        return self._host.broker.log(topic, 0 if topic is InputTopic.FEEDBACK else partition)

    def _read(self, topic: InputTopic, partition: int, size: int) -> RawBatch:
        try:
            chunk = self._log(topic, partition).read(self._positions[topic, partition], size, committed=True)
        except OffsetGoneError as error:
            raise SourceError(f"{error}: reset the offset") from None
        self._positions[topic, partition] = chunk.position
        return raw_batch(topic, partition, chunk.records)


class SimHistory:
    """Implements `ports.History`."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def bounds(self, topic: InputTopic, partition: int) -> Bounds:
        """Return what a partition holds."""
        match self._host.enter(Site.BOUNDS):
            case Fault.UNAVAILABLE:
                raise UnavailableError("no answer")
            case Fault.SOURCE_DOWN:
                raise SourceError("the source is down")
        log = self._host.broker.log(topic, partition)
        return Bounds(log.first, log.end)

    def open(self, topic: InputTopic, partition: int, offset: int, *, committed: bool = False) -> "SimReader":
        """Read a partition from an offset on; of `state` all that was ever written, unless told otherwise."""
        self._host.enter(Site.OPEN)
        only_committed = committed or topic is not InputTopic.STATE
        return SimReader(self._host, self._host.broker.log(topic, partition), offset, topic, committed=only_committed)


class SimReader:
    """Implements `ports.Reader`."""

    def __init__(self, host: Host, log: PartitionLog, offset: int, topic: InputTopic, *, committed: bool) -> None:
        self._host = host
        self._log = log
        self._offset = offset
        self._topic = topic
        self._committed = committed
        self._closed = False

    def read(self, records_max: int, wait_ms: int) -> RawBatch:
        """Return some of the next records; wait when there is none."""
        assert not self._closed, "read after close"
        fault = self._host.enter(Site.READ)
        if fault is Fault.SOURCE_DOWN:
            raise SourceError("the source is down")
        records: list[StoredRecord] = []
        if fault is not Fault.NOTHING_READ:
            records = self._take(records_max)
        if not records and wait_ms > 0:
            self._host.sleep(wait_ms)
            records = self._take(records_max)
        return raw_batch(self._topic, self._log.partition, records)

    def seek(self, offset: int) -> None:
        """Go on from another offset."""
        self._offset = offset

    def position(self) -> int:
        """Return the offset that is next; it moves past what is never delivered."""
        return self._offset

    def close(self) -> None:
        """Stop reading."""
        self._closed = True

    def _take(self, records_max: int) -> list[StoredRecord]:
        size = min(records_max, self._host.rng.choice((1, 3, 20, 100)))
        try:
            chunk = self._log.read(self._offset, size, committed=self._committed)
        except OffsetGoneError as error:
            raise PositionGoneError(str(error)) from None
        self._offset = chunk.position
        return chunk.records


def raw_batch(topic: InputTopic, partition: int, records: Sequence[StoredRecord]) -> RawBatch:
    """Return records as columns."""
    return RawBatch(
        partition,
        [record.offset for record in records],
        [record.timestamp_ms for record in records],
        [record.value for record in records],
        [record.key for record in records],
        [record.headers for record in records],
        topic,
    )
