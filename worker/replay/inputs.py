"""What is played again: which offsets belong to a range of time, and their records. No group is joined."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import NamedTuple

from confluent_kafka import TopicPartition

from worker.cluster import TopicsError, connect
from worker.core.events import InputTopic
from worker.edges.kafka import KafkaHistory
from worker.edges.kafka.group import KafkaGroup
from worker.edges.kafka.topics import TopicAdmin
from worker.ports import Bounds
from worker.replay.merging import Feed, Feeds
from worker.replay.moments import Span, WarmUp
from worker.replay.reading import Log, batches_of, offset_for, patiently
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
        topics = settings.topics
        self._group_id = settings.kafka.group_id
        self._topics = {
            InputTopic.PREDICTIONS: topics.predictions,
            InputTopic.LABELS: topics.labels,
            InputTopic.FEEDBACK: topics.feedback,
        }
        roles = {topic.value: name for topic, name in self._topics.items()} | {"alerts": topics.alerts}
        self._partitions = TopicAdmin(self._connection, roles).partition_counts()
        missing = [roles[role] for role in roles if role != InputTopic.FEEDBACK and role not in self._partitions]
        if missing:
            raise TopicsError(f"{' and '.join(missing)}: there is no such topic; is this the right configuration?")
        self._history = KafkaHistory(self._connection, group_id=self._group_id, topics=self._topics)
        self.published = Log(self._connection, self._group_id, topics.alerts, self._partitions["alerts"])
        self._positions = self._committed()

    def close(self) -> None:
        """Ask nothing more."""
        self._history.close()
        self.published.close()

    @property
    def partitions(self) -> int:
        """How many shards there are."""
        return self._partitions[InputTopic.PREDICTIONS]

    def feedback_log(self) -> "Log | None":
        """Return all feedback, None if there is no such topic. Close it."""
        if InputTopic.FEEDBACK not in self._partitions:
            return None
        return Log(self._connection, self._group_id, self._topics[InputTopic.FEEDBACK], 1)

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
        reader = self._history.open(topic, _place(topic, partition), wanted.begin)
        stack.callback(reader.close)
        what = f"{self._topics[topic]}[{_place(topic, partition)}]"
        batches = (batch._replace(partition=partition) for batch in batches_of(reader, wanted.end, what))
        return Feed(lambda: next(batches, None))

    def _bounds(self, topic: InputTopic, partition: int) -> Bounds:
        if topic not in self._partitions or _place(topic, partition) >= self._partitions[topic]:
            return Bounds(0, 0)
        return patiently(lambda: self._history.bounds(topic, _place(topic, partition)))

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
        place = TopicPartition(self._topics[topic], _place(topic, partition), moment_ms)
        found = offset_for(self._connection, self._group_id, place)
        return within.end if found is None else min(max(found, within.begin), within.end)

    def _time_of_first(self, partition: int, wanted: Range) -> int:
        """Return the timestamp of the first prediction in a range; 0 if there is none."""
        what = f"{self._topics[InputTopic.PREDICTIONS]}[{partition}]"
        with closing(self._history.open(InputTopic.PREDICTIONS, partition, wanted.begin)) as reader:
            first = next(batches_of(reader, wanted.end, what, 1), None)
        return 0 if first is None else max(0, first.timestamps_ms[0])

    def _committed(self) -> dict[InputTopic, dict[int, int]]:
        """Look up how far the group has come. It is not joined."""
        group = KafkaGroup(self._connection, group_id=self._group_id)
        try:
            found = {}
            for topic in (InputTopic.PREDICTIONS, InputTopic.LABELS):
                positions = group.committed(self._topics[topic], range(self._partitions[topic]))
                found[topic] = {
                    partition: position.offset for partition, position in positions.items() if position is not None
                }
            return found
        finally:
            group.close()


def _place(topic: InputTopic, partition: int) -> int:
    return 0 if topic is InputTopic.FEEDBACK else partition
