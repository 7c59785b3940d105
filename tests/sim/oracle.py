"""What must have happened: the journals of all commits, folded by a fresh engine without a broker and without faults.

For each shard: the journal of each commit extends what the commits before it said was taken. Folding what it adds gives
the outputs that its transaction must hold, byte for byte and in order, and the trace that it must tell.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from tests.sim.broker import SimBroker
from tests.sim.group import Committed
from tests.sim.log import StoredRecord
from tests.sim.reading import raw_batch
from tests.sim.refits import RememberedRefits
from tests.sim.scenario import ENGINE
from worker.core.engine import Engine
from worker.core.events import InputTopic, Output, OutputTopic
from worker.core.journal import RANGES, Base, EntryKind, Pointer, decode_entries, decode_pointer
from worker.core.shard import Topics
from worker.lagging import LAG_HEADER

Step = tuple[EntryKind, int]
"""One offset taken from a topic (the number is 0), one tick at a time, or one level of thinning."""
_TOPICS = {
    EntryKind.PREDICTIONS: InputTopic.PREDICTIONS,
    EntryKind.LABELS: InputTopic.LABELS,
    EntryKind.FEEDBACK: InputTopic.FEEDBACK,
}


@dataclass(slots=True)
class Findings:
    """What the checks found wrong; all empty and zero if nothing is."""

    problems: list[str] = field(default_factory=list)
    lost: int = 0
    doubled: int = 0
    state_differences: int = 0


class ShardOracle:
    """Folds one shard along its commits and notes what differs."""

    def __init__(self, broker: SimBroker, partition: int, findings: Findings) -> None:
        self.partition = partition
        self.engine = Engine(ENGINE, Topics(), RememberedRefits())
        self.engine.add_shard(partition)
        self.known: list[Step] = []
        self.audits: dict[int, str] = {}
        """After so many commits, this digest came out of what was stored."""
        self._broker = broker
        self._findings = findings
        self._next = dict.fromkeys(_TOPICS.values(), 0)
        self._start = dict(self._next)
        self._generation = 0
        self._expected: dict[OutputTopic, list[tuple[object, ...]]] = {topic: [] for topic in OutputTopic}

    def fold(self, history: Sequence[Committed], *, from_start: bool) -> None:
        """Follow all commits of the shard."""
        for number, (position, transaction) in enumerate(history):
            pointer = decode_pointer(position.metadata)
            if number == 0:
                self._begin(pointer, from_start=from_start)
            added = self._added(pointer)
            if added is None:
                self._wrong(f"commit {number}: its journal does not extend what was committed before")
                return
            self._take(added, transaction)
            where = tuple(self._next.values())
            told = (position.offset, pointer.label_offset, pointer.feedback_offset)
            if where != told or position.label_offset != pointer.label_offset:
                self._wrong(f"commit {number}: its journal ends at {where}, the position is {told}")
                return
            if pointer.generation <= self._generation:
                self._wrong(f"commit {number}: generation {pointer.generation} after {self._generation}")
            self._generation = pointer.generation
            if pointer.trace != self.engine.trace(self.partition):
                self._findings.state_differences += 1
                self._wrong(f"commit {number}: another trace")
            if number + 1 in self.audits:
                self.compare_state(self.audits[number + 1], f"whoever restores commit {number}")

    def compare_outputs(self) -> None:
        """Hold what is visible against what must be."""
        for topic, expected in self._expected.items():
            visible = [_shown(record) for record in self._broker.log(topic, self.partition).committed_records()]
            if visible == expected:
                continue
            is_there = Counter(record[1:] for record in visible)
            must_be = Counter(record[1:] for record in expected)
            lost, doubled = (must_be - is_there).total(), (is_there - must_be).total()
            self._findings.lost += lost
            self._findings.doubled += doubled
            kind = (
                f"{lost} lost, {doubled} doubled or foreign" if lost or doubled else "in another transaction or order"
            )
            self._wrong(f"{topic}: {kind}")

    def compare_state(self, digest: str, whose: str) -> None:
        """Hold somebody's state against what it must be."""
        if digest != self.engine.digest(self.partition):
            self._findings.state_differences += 1
            self._wrong(f"the state of {whose} is another")

    def _begin(self, pointer: Pointer, *, from_start: bool) -> None:
        self._next = _offsets(pointer.base)
        self._start = dict(self._next)
        if pointer.base.snapshot is not None or (from_start and any(self._next.values())):
            self._wrong(f"the first commit begins at {pointer.base}")

    def _added(self, pointer: Pointer) -> list[Step] | None:
        """Return the steps that a commit adds; None if it contradicts what is known."""
        journal = list(_steps(pointer))
        for begin in self._places(_offsets(pointer.base)):
            rest = self.known[begin:]
            if journal[: len(rest)] == rest:
                added = journal[len(rest) :]
                self.known += added
                return added
        return None

    def _places(self, wanted: dict[InputTopic, int]) -> Iterator[int]:
        """Give the places in the known steps at which the shard is at these offsets (only ranges move it)."""
        at = dict(self._start)
        for place in range(len(self.known) + 1):
            if at == wanted:
                yield place
            if place < len(self.known) and self.known[place][0] in RANGES:
                at[_TOPICS[self.known[place][0]]] += 1

    def _take(self, added: Sequence[Step], transaction: int) -> None:
        for step, same in groupby(added):
            for output in self._fold_step(step, len(list(same))):
                self._expected[output.topic].append((transaction, *_content(output.key, output.value, output.headers)))

    def _fold_step(self, step: Step, count: int) -> list[Output]:
        kind, amount = step
        if kind is EntryKind.TICK:
            return [output for _ in range(count) for output in self.engine.tick(self.partition, amount)]
        if kind is EntryKind.THINNING:
            return [output for _ in range(count) for output in self.engine.thin(self.partition, amount)]
        topic = _TOPICS[kind]
        begin = self._next[topic]
        self._next[topic] = end = begin + count
        log = self._broker.log(topic, 0 if topic is InputTopic.FEEDBACK else self.partition)
        records = log.committed_records(begin, end)
        return self.engine.handle(raw_batch(topic, self.partition, records)).outputs

    def _wrong(self, what: str) -> None:
        self._findings.problems.append(f"shard {self.partition}: {what}")


def _offsets(base: Base) -> dict[InputTopic, int]:
    offsets = (base.offset, base.label_offset, base.feedback_offset)
    return dict(zip(_TOPICS.values(), offsets, strict=True))


def _steps(pointer: Pointer) -> Iterator[Step]:
    for kind, amount in decode_entries(pointer.journal):
        if kind in RANGES:
            for _ in range(amount):
                yield kind, 0
        else:
            yield kind, amount


def _shown(record: StoredRecord) -> tuple[object, ...]:
    return (record.transaction, *_content(record.key, record.value, record.headers or ()))


def _content(key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> tuple[object, ...]:
    # How late a result came depends on the clock, not on the journal.
    return key, value, tuple(header for header in headers if header[0] != LAG_HEADER)
