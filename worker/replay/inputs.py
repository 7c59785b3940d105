"""What is played again: which offsets belong to a range of time, and their records. No group is joined."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import NamedTuple

from worker.cluster import TopicsError, connect
from worker.core.events import InputTopic, RawBatch
from worker.edges.kafka.group import KafkaGroup
from worker.edges.kafka.reading import TopicReader
from worker.edges.kafka.topics import TopicAdmin
from worker.ports import Bounds
from worker.replay.merging import Feed, Feeds
from worker.replay.moments import Span, WarmUp
from worker.settings import Settings

AFTER_MS = 60_000
"""So much more is read beyond the end: what opened before it by event time may be known by a later record only."""

_INPUTS = (InputTopic.PREDICTIONS, InputTopic.LABELS, InputTopic.FEEDBACK)


class Range(NamedTuple):
    """Offsets of one partition, `end` not among them."""

    begin: int
    end: int

    @property
    def records(self) -> int:
        """At most so many records; offsets may have gaps."""
        return max(0, self.end - self.begin)


class ShardPlan(NamedTuple):
    """What of the inputs of one shard is played, and which of its incidents count."""

    partition: int
    predictions: Range
    labels: Range
    feedback: Range
    counted: Span
    notes: tuple[str, ...] = ()

    @property
    def records(self) -> int:
        """At most so many records."""
        return self.predictions.records + self.labels.records + self.feedback.records


class Inputs:
    """The topics of one configuration. Close it."""

    def __init__(self, settings: Settings) -> None:
        self._connection = connect(settings)
        self._group_id = settings.kafka.group_id
        names = {role: getattr(settings.topics, role) for role in (*_INPUTS, "alerts")}
        there = TopicAdmin(self._connection, names).partition_counts()
        missing = [name for role, name in names.items() if role != InputTopic.FEEDBACK and role not in there]
        if missing:
            raise TopicsError(f"{' and '.join(missing)}: there is no such topic; is this the right configuration?")
        self._topics = {topic: self._reader(names[topic], there[topic], topic) for topic in _INPUTS if topic in there}
        self.alerts = self._reader(names["alerts"], there["alerts"])
        self._positions = self._committed()

    def close(self) -> None:
        """Ask nothing more."""
        for reader in (*self._topics.values(), self.alerts):
            reader.close()

    @property
    def partitions(self) -> int:
        """How many shards there are."""
        return self._topics[InputTopic.PREDICTIONS].partitions

    def feedback(self) -> Iterator[RawBatch]:
        """Yield all feedback; none if there is no such topic."""
        reader = self._topics.get(InputTopic.FEEDBACK)
        return iter(()) if reader is None else reader.batches()

    def plan(self, partition: int, span: Span, warm_up: WarmUp) -> ShardPlan:
        """Find the offsets that belong to a range of time.

        Without an end it is played as far as the group has come: what it has not seen, it could not publish.
        """
        notes: list[str] = []
        bounds = {topic: self._bounds(topic, partition) for topic in _INPUTS}
        predictions = self._range(InputTopic.PREDICTIONS, partition, bounds, span.to_ms)
        labels = self._range(InputTopic.LABELS, partition, bounds, span.to_ms)
        feedback = self._range(InputTopic.FEEDBACK, partition, bounds, span.to_ms)
        begin = self._begin(partition, predictions, span.from_ms, warm_up)
        counted = span
        if begin > 0 and begin < predictions.end:
            first_ms = self._time_of_first(partition, Range(begin, predictions.end))
            if begin > predictions.begin:
                labels = Range(self._offset_at(InputTopic.LABELS, partition, first_ms, labels), labels.end)
            if span.from_ms is None:
                counted = Span(first_ms, span.to_ms)
            notes.append(
                f"shard {partition}: detectors begin anew at offset {begin}, because the input before it is "
                f"{'gone' if begin == predictions.begin else 'not wanted'}: incidents soon after it can differ"
            )
        if self._positions.get(InputTopic.PREDICTIONS, {}).get(partition) is None:
            notes.append(f"group {self._group_id} has no position in some partitions: all that they hold is played")
        return ShardPlan(partition, Range(begin, predictions.end), labels, feedback, counted, tuple(notes))

    @contextmanager
    def feeds(self, plan: ShardPlan) -> Iterator[Feeds]:
        """Read what is planned for a shard."""
        with ExitStack() as stack:
            ranges = zip(_INPUTS, (plan.predictions, plan.labels, plan.feedback), strict=True)
            yield Feeds(*(self._feed(stack, topic, plan.partition, wanted) for topic, wanted in ranges))

    def _feed(self, stack: ExitStack, topic: InputTopic, partition: int, wanted: Range) -> Feed:
        if not wanted.records:
            return Feed(lambda: None)
        # Of `feedback`, each shard gets the one partition that there is.
        read = stack.enter_context(closing(self._topics[topic].between(_place(topic, partition), *wanted)))
        batches = (batch._replace(partition=partition) for batch in read)
        return Feed(lambda: next(batches, None))

    def _reader(self, name: str, partitions: int, role: InputTopic = InputTopic.PREDICTIONS) -> TopicReader:
        return TopicReader(self._connection, group_id=self._group_id, topic=name, partitions=partitions, role=role)

    def _bounds(self, topic: InputTopic, partition: int) -> Bounds:
        place = _place(topic, partition)
        if topic not in self._topics or place >= self._topics[topic].partitions:
            return Bounds(0, 0)
        return self._topics[topic].bounds(place)

    def _range(self, topic: InputTopic, partition: int, bounds: dict[InputTopic, Bounds], to_ms: int | None) -> Range:
        first, end = bounds[topic]
        position = self._positions.get(topic, {}).get(partition)
        if position is not None:
            end = min(end, max(first, position))
        if to_ms is not None and end > first:
            end = self._offset_at(topic, partition, to_ms + AFTER_MS, Range(first, end))
        return Range(first, end)

    def _begin(self, partition: int, predictions: Range, from_ms: int | None, warm_up: WarmUp) -> int:
        """Return the first offset of `predictions` that is played."""
        if from_ms is None or warm_up == WarmUp() or not predictions.records:
            return predictions.begin
        if warm_up.duration_ms is not None:
            from_ms = max(0, from_ms - warm_up.duration_ms)
        offset = self._offset_at(InputTopic.PREDICTIONS, partition, from_ms, predictions)
        return max(predictions.begin, offset - (warm_up.events or 0))

    def _offset_at(self, topic: InputTopic, partition: int, moment_ms: int, within: Range) -> int:
        """Return the offset of the first record that is not older; the end of the range if there is none in it."""
        if not within.records:
            return within.end
        found = self._topics[topic].offset_at(_place(topic, partition), moment_ms)
        return within.end if found is None else min(max(found, within.begin), within.end)

    def _time_of_first(self, partition: int, wanted: Range) -> int:
        """Return the timestamp of the first prediction in a range; 0 if there is none."""
        with closing(self._topics[InputTopic.PREDICTIONS].between(partition, *wanted, records_max=1)) as read:
            first = next(read, None)
        return 0 if first is None else max(0, first.timestamps_ms[0])

    def _committed(self) -> dict[InputTopic, dict[int, int]]:
        """Look up how far the group has come. It is not joined."""
        group = KafkaGroup(self._connection, group_id=self._group_id)
        try:
            found = {}
            for topic in (InputTopic.PREDICTIONS, InputTopic.LABELS):
                reader = self._topics[topic]
                positions = group.committed(reader.topic, range(reader.partitions))
                found[topic] = {
                    partition: position.offset for partition, position in positions.items() if position is not None
                }
            return found
        finally:
            group.close()


def _place(topic: InputTopic, partition: int) -> int:
    return 0 if topic is InputTopic.FEEDBACK else partition
