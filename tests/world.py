"""A broker, a group and a clock in one object, moved by hand: for tests that script what happens at each step."""

from collections.abc import Mapping, Sequence
from itertools import islice

from tests.streams import START_MS, Record, batch
from worker.core.events import InputTopic, Output, RawBatch
from worker.ports import (
    Bounds,
    Commit,
    CommitOutcome,
    GroupListener,
    Position,
    PositionGoneError,
    PositionUnstableError,
    StateRecord,
)


class World:
    """Implements every port. `inbox` is what the source delivers next; `logs` is what can be read again."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.group: list[tuple[str, list[int]]] = []
        self.inbox: list[RawBatch] = []
        self.logs: dict[tuple[InputTopic, int], list[tuple[int, bytes | None, bytes | None, int]]] = {}
        self.first: dict[tuple[InputTopic, int], int] = {}
        self.stored: dict[int, Position] = {}
        self.visible: list[Output] = []
        self.outcomes: list[CommitOutcome] = []
        self.sent: list[list[Output]] = []
        self.attached: dict[int, tuple[int, int, int]] = {}
        self.unstable = 0
        self.hidden_success = False
        self.replaced = 0
        self.closed: list[str] = []
        self.paused: set[int] = set()
        self.behind: set[int] = set()

    # What a test does.

    def give(self, partition: int, part: Sequence[Record], topic: InputTopic = InputTopic.PREDICTIONS) -> None:
        """Append records to an input; the source delivers them in the next fetch."""
        log = self.logs.setdefault((topic, partition), [])
        begin = log[-1][0] + 1 if log else self.first.get((topic, partition), 0)
        raw = batch(partition, begin, part)._replace(topic=topic)
        log.extend(zip(raw.offsets, raw.keys, raw.values, raw.timestamps_ms, strict=True))
        self.inbox.append(raw)

    # Membership

    def poll(self, listener: GroupListener) -> None:
        while self.group:
            what, partitions = self.group.pop(0)
            getattr(listener, what)(partitions)

    def committed(self, partitions: Sequence[int]) -> Mapping[int, Position | None]:
        if self.unstable:
            self.unstable -= 1
            raise PositionUnstableError
        found = {partition: self.stored.get(partition) for partition in partitions}
        return {partition: place and place._replace(label_offset=None) for partition, place in found.items()}

    # Source

    def attach(self, partition: int, offset: int, label_offset: int, feedback_offset: int) -> None:
        self.attached[partition] = (offset, label_offset, feedback_offset)

    def detach(self, partitions: Sequence[int]) -> None:
        for partition in partitions:
            self.attached.pop(partition, None)

    def may_have_more(self, partition: int) -> bool:
        return partition in self.behind

    def lag(self) -> dict[tuple[InputTopic, int], int]:
        return {(InputTopic.PREDICTIONS, partition): len(self.inbox) for partition in self.attached}

    def pause_labels(self, partition: int, *, paused: bool) -> None:
        if paused:
            self.paused.add(partition)
        else:
            self.paused.discard(partition)

    def fetch(self, records_max: int, wait_ms: int) -> list[RawBatch]:
        self.now_ms += max(wait_ms, 1)
        out, self.inbox = self.inbox, []
        return [raw for raw in out if raw.partition in self.attached]

    # History

    def bounds(self, topic: InputTopic, partition: int) -> Bounds:
        log = self.logs.get((topic, partition), [])
        first = self.first.get((topic, partition), 0)
        return Bounds(first, log[-1][0] + 1 if log else first)

    def open(self, topic: InputTopic, partition: int, offset: int, *, committed: bool = False) -> "WorldReader":
        return WorldReader(self, topic, partition, offset)

    # Sink

    def commit(
        self, outputs: Sequence[Output], positions: Mapping[int, Position], state: Sequence[StateRecord] = ()
    ) -> Commit:
        self.sent.append(list(outputs))
        outcome = self.outcomes.pop(0) if self.outcomes else CommitOutcome.COMMITTED
        if outcome is not CommitOutcome.COMMITTED and not (outcome is CommitOutcome.UNKNOWN and self.hidden_success):
            return Commit(outcome)
        self.visible += outputs
        self.stored |= positions
        return Commit(outcome, tuple(map(self._store, state)))

    def _store(self, record: StateRecord) -> int:
        log = self.logs.setdefault((InputTopic.STATE, record.partition), [])
        offset = log[-1][0] + 2 if log else 0  # a control record lies between two transactions
        log.append((offset, record.key, record.value, 0))
        return offset

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


class WorldReader:
    """Reads one log of a world."""

    def __init__(self, world: World, topic: InputTopic, partition: int, offset: int) -> None:
        self._world = world
        self._place = (topic, partition)
        self._next = offset
        self.closed = False

    def read(self, records_max: int, wait_ms: int) -> RawBatch:
        self._world.now_ms += 1
        if self._next < self._world.first.get(self._place, 0):
            raise PositionGoneError(f"offset {self._next} is gone")
        log = self._world.logs.get(self._place, [])
        found = list(islice((row for row in log if row[0] >= self._next), records_max))
        if found:
            self._next = found[-1][0] + 1
        elif log:
            self._next = max(self._next, log[-1][0] + 1)
        offsets, keys, values, stamps = zip(*found, strict=True) if found else ((), (), (), ())
        topic, partition = self._place
        return RawBatch(partition, offsets, stamps, values, keys, [None] * len(found), topic)

    def position(self) -> int:
        return self._next

    def seek(self, offset: int) -> None:
        self._next = offset

    def close(self) -> None:
        self.closed = True
