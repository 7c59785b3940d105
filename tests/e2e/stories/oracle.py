"""What must have come out: the inputs, in the order of the committed journals, through one engine, undisturbed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from confluent_kafka import Message

from tests.e2e.stories.commits import CommittedPosition
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.engine import Engine
from worker.core.events import InputTopic, Output, OutputTopic, RawBatch
from worker.core.journal import RANGES, Entry, EntryKind, Journal, Pointer, decode_entries, decode_pointer
from worker.core.options import EngineOptions
from worker.core.shard import Topics
from worker.recovery.reading import rows

_KINDS = {EntryKind.PREDICTIONS: InputTopic.PREDICTIONS, EntryKind.LABELS: InputTopic.LABELS}


@dataclass(slots=True)
class Verdict:
    """What was wrong; all zero and empty if nothing was."""

    lost: int = 0
    doubled: int = 0
    state_differences: int = 0
    problems: list[str] = field(default_factory=list)
    outputs: int = 0
    commits: int = 0


class ShardFold:
    """Folds one shard along its commits."""

    def __init__(
        self, partition: int, options: EngineOptions, topics: Topics, inputs: dict[InputTopic, list[Message]]
    ) -> None:
        self._partition = partition
        self._inputs = {topic: _batch(topic, partition, messages) for topic, messages in inputs.items()}
        self._next = dict.fromkeys(_KINDS.values(), 0)
        self.engine = Engine(options, topics, InlineRefits())
        self.engine.add_shard(partition)
        self.outputs: list[Output] = []

    def follow(self, commits: Sequence[CommittedPosition], verdict: Verdict) -> None:
        """Check that each commit extends the one before it and tells the trace of what was taken."""
        pointers = [decode_pointer(commit.metadata) for commit in commits]
        verdict.commits += len(commits)
        for number, pointer in enumerate(pointers):
            added = _extension(pointers[number - 1] if number else None, pointer)
            if added is None:
                then = _told(commits[number - 1]) if number else "nothing"
                verdict.problems.append(
                    f"shard {self._partition}: commit {number} of {len(commits)} contradicts the one before it: "
                    f"{_told(commits[number])} after {then}"
                )
                return
            for entry in added:
                self._take(entry)
            place = (self._next[InputTopic.PREDICTIONS], self._next[InputTopic.LABELS])
            if place != (commits[number].offset, pointer.label_offset):
                verdict.problems.append(f"shard {self._partition}: commit {number} is not where its journal ends")
                return
            if pointer.trace != self.engine.trace(self._partition):
                verdict.state_differences += 1
                verdict.problems.append(f"shard {self._partition}: commit {number} tells another trace")
                return
        if any(now.generation <= then.generation for then, now in pairwise(pointers)):
            verdict.problems.append(f"shard {self._partition}: generations do not grow")

    def compare(self, visible: dict[OutputTopic, list[tuple[bytes | None, bytes | None]]], verdict: Verdict) -> None:
        """Compare what readers of committed records see with what must be there: the same bytes in the same order."""
        for topic, seen in visible.items():
            due = [(output.key, output.value) for output in self.outputs if output.topic is topic]
            verdict.outputs += len(due)
            if seen == due:
                continue
            lost, doubled = (Counter(due) - Counter(seen)).total(), (Counter(seen) - Counter(due)).total()
            verdict.lost += lost
            verdict.doubled += doubled
            verdict.problems.append(
                f"shard {self._partition}, {topic}: {lost} lost, {doubled} doubled or foreign, of {len(due)}"
            )

    def compare_inputs(self, verdict: Verdict) -> None:
        """Everything that came in has been taken."""
        for topic, batch in self._inputs.items():
            end = batch.offsets[-1] + 1 if batch.offsets else 0
            if self._next[topic] != end:
                verdict.lost += sum(offset >= self._next[topic] for offset in batch.offsets)
                verdict.problems.append(f"shard {self._partition}, {topic}: taken up to {self._next[topic]} of {end}")

    def _take(self, entry: Entry) -> None:
        if entry.kind is EntryKind.TICK:
            self.outputs += self.engine.tick(self._partition, entry.amount)
            return
        if entry.kind is EntryKind.THINNING:
            self.outputs += self.engine.thin(self._partition, entry.amount)
            return
        topic = _KINDS[entry.kind]
        begin = self._next[topic]
        self._next[topic] = end = begin + entry.amount
        self.outputs += self.engine.handle(_between(self._inputs[topic], begin, end)).outputs


def _told(commit: CommittedPosition) -> str:
    """Return what a commit says, for a person."""
    pointer = decode_pointer(commit.metadata)
    entries = [tuple(entry) for entry in decode_entries(pointer.journal)]
    return f"#{pointer.generation} at {commit.offset} from {pointer.base}: {entries[:3]}...{entries[-3:]}"


def _extension(before: Pointer | None, pointer: Pointer) -> list[Entry] | None:
    """Return what a commit adds to the one before it; None if it does not extend it."""
    now = _journal(pointer)
    if before is None:
        is_beginning = pointer.base.snapshot is None and not (pointer.base.offset or pointer.base.label_offset)
        return now if is_beginning else None
    then = _journal(before)
    if before.base == pointer.base:
        return _minus(now, then)
    # The base has moved on along the journal; ticks do not show in positions, so each place that fits is tried.
    for rest in _rests(then, before, pointer):
        added = _minus(now, rest)
        if added is not None:
            return added
    return None


def _journal(pointer: Pointer) -> list[Entry]:
    """Return a journal with ranges that follow each other as one: a cut parts them, a restore joins them again."""
    return Journal(decode_entries(pointer.journal)).entries


def _minus(entries: Sequence[Entry], prefix: Sequence[Entry]) -> list[Entry] | None:
    """Return entries without a prefix whose last range may have grown."""
    if not prefix:
        return list(entries)
    whole, last = prefix[:-1], prefix[-1]
    if list(entries[: len(whole)]) != list(whole) or len(entries) < len(prefix):
        return None
    grown = entries[len(whole)]
    after = list(entries[len(prefix) :])
    if grown == last:
        return after
    if grown.kind is last.kind and grown.kind in RANGES and grown.amount > last.amount:
        return [Entry(grown.kind, grown.amount - last.amount), *after]
    return None


def _rests(then: Sequence[Entry], before: Pointer, pointer: Pointer) -> list[list[Entry]]:
    """Return what is left of a journal behind each place at the positions of a later base."""
    at = {EntryKind.PREDICTIONS: before.base.offset, EntryKind.LABELS: before.base.label_offset}
    goal = {EntryKind.PREDICTIONS: pointer.base.offset, EntryKind.LABELS: pointer.base.label_offset}
    rests = [list(then)] if at == goal else []
    for place, entry in enumerate(then):
        if entry.kind in RANGES:
            over = at[entry.kind] + entry.amount - goal[entry.kind]
            at[entry.kind] += entry.amount
            if over > 0:
                at[entry.kind] -= over
                if at == goal:
                    rests.append([Entry(entry.kind, over), *then[place + 1 :]])
                return rests
        if at == goal:
            rests.append(list(then[place + 1 :]))
    return rests


def _batch(topic: InputTopic, partition: int, messages: Sequence[Message]) -> RawBatch:
    mine = [message for message in messages if message.partition() == partition]
    return RawBatch(
        partition,
        [message.offset() or 0 for message in mine],
        [message.timestamp()[1] for message in mine],
        [message.value() for message in mine],
        [message.key() for message in mine],
        [message.headers() for message in mine],  # type: ignore[misc]  # its stub allows a dict, too
        topic,
    )


def _between(batch: RawBatch, begin: int, end: int) -> RawBatch:
    places = [place for place, offset in enumerate(batch.offsets) if begin <= offset < end]
    return rows(batch, places[0], places[-1] + 1) if places else rows(batch, 0, 0)
