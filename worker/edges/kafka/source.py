"""The data consumer: reads what owned shards need at explicit offsets, outside of any group protocol.

    predictions[p], labels[p]   of each attached shard p
    feedback[0]                 once, for all of them: from the least offset that one of them wants; each gets what it
                                has not had

Rule 1: it is never subscribed and commits nothing; `attach` alone decides where reading begins.
Rule 2: an offset that is gone stops the worker: to skip silently would break "each record exactly once".
Rule 3: this is the hot path: no Python code runs per record, only C calls mapped over the batch. Feedback is seldom.
Rule 4: all inputs wait in one queue, first in, first out, and librdkafka asks for them in turns: a flood on one of them
delays the others by at most what that queue holds.
Rule 5: a consumer that has stopped reading though there are records (`stalls.py`) is replaced by a new one, which goes
on behind the last record that came.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import cast

from confluent_kafka import Consumer, Message, TopicPartition

from worker.core.events import InputTopic, RawBatch
from worker.edges.kafka.client import POSITION_GONE, ErrorWatch, KafkaConnection, blame, close_beside
from worker.edges.kafka.history import KafkaReader
from worker.edges.kafka.records import batch_of, take
from worker.edges.kafka.stalls import QUESTION_MAX_S, Place, StallWatch
from worker.ports import SourceError

FETCH_SETTINGS = {
    # Answer when there is much, or after so long: an answer for each few records costs the broker, and the engine, more
    # than the records do. A partition that is attached while a fetch is under way waits as long for its first one.
    "fetch.min.bytes": 262_144,
    "fetch.wait.max.ms": 40,
    # Read ahead so far; both bounds hold, and a full queue is looked at again soon, or the loop runs dry. It is half of
    # the labels that may be held: those that are fetched again, as fewer are held, come behind all that was read ahead.
    "queued.min.messages": 25_000,
    "queued.max.messages.kbytes": 65_536,
    "fetch.queue.backoff.ms": 10,
    "fetch.error.backoff.ms": 100,
}
_FORCED = {"auto.offset.reset": "error", "check.crcs": True}
# Only messages that are errors can be without a topic.
_topic_name = cast("Callable[[Message], str]", Message.topic)


class KafkaSource:
    """Implements `ports.Source`.

    Args:
        connection: the cluster.
        group_id: librdkafka wants one. It is only named, never joined; the worker's own group needs no further ACL.
        topics: the names of the topics to read: `predictions`, `labels`, and `feedback`, if there is one.
        silence_s: where nothing has come for so long, it is looked whether there is something.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        *,
        group_id: str,
        topics: Mapping[InputTopic, str],
        silence_s: float = 10.0,
    ) -> None:
        self._names = (topics[InputTopic.PREDICTIONS], topics[InputTopic.LABELS])
        self._topics = {topics[topic]: topic for topic in (InputTopic.PREDICTIONS, InputTopic.LABELS)}
        self._feedback = topics.get(InputTopic.FEEDBACK)
        self._feedback_next: dict[int, int] = {}
        """By attached partition: the offset of the first record of feedback that it has not had."""
        self._feedback_at: int | None = None
        """Where feedback is being read: nothing before it will come any more."""
        self._connection = connection
        self._attached: set[int] = set()
        self._begins: dict[int, int] = {}
        self._paused: set[Place] = set()
        self._forced = {**_FORCED, "group.id": group_id}
        self._stalls = StallWatch(self._end_of, self._probe, silence_s)
        self._watch = ErrorWatch()
        self._consumer = self._built()

    def _built(self) -> Consumer:
        return self._connection.consumer(self._watch, FETCH_SETTINGS, self._forced)

    def attach(self, partition: int, offset: int, label_offset: int, feedback_offset: int) -> None:
        """Start reading for a partition at these offsets of its three inputs."""
        assert partition not in self._attached, f"partition {partition} is attached already"
        assert offset >= 0, f"offset {offset} of partition {partition}"
        assert label_offset >= 0, f"label offset {label_offset} of partition {partition}"
        assert feedback_offset >= 0, f"feedback offset {feedback_offset} of partition {partition}"
        offsets = dict(zip(self._names, (offset, label_offset), strict=True))
        self._consumer.incremental_assign([TopicPartition(name, partition, begin) for name, begin in offsets.items()])
        for name, begin in offsets.items():
            self._stalls.begin(Place(name, partition), begin)
        self._attached.add(partition)
        self._begins[partition] = offset
        if self._feedback is not None:
            self._feedback_next[partition] = feedback_offset
            self._read_feedback_from(feedback_offset)

    def _read_feedback_from(self, offset: int) -> None:
        """Read feedback from this offset on, or go on if it is still to come; others do not get again what they had."""
        if self._feedback_at is None or offset < self._feedback_at:
            if self._feedback_at is not None:
                self._forget_feedback()
            place = Place(str(self._feedback), 0)
            self._consumer.incremental_assign([TopicPartition(*place, offset)])
            self._stalls.begin(place, offset)
            self._feedback_at = offset

    def _forget_feedback(self) -> None:
        place = Place(str(self._feedback), 0)
        self._consumer.incremental_unassign([TopicPartition(*place)])
        self._stalls.forget([place])
        self._feedback_at = None

    def detach(self, partitions: Sequence[int]) -> None:
        """Stop reading partitions; librdkafka throws away what it has read ahead of them."""
        gone = self._attached.intersection(partitions)
        if gone:
            # librdkafka remembers a pause over an assignment: attached again, the labels would never come.
            self._consumer.resume([TopicPartition(self._names[1], partition) for partition in sorted(gone)])
            places = [Place(name, partition) for name in self._names for partition in sorted(gone)]
            self._consumer.incremental_unassign([TopicPartition(*place) for place in places])
            self._stalls.forget(places)
            self._paused.difference_update(places)
            self._attached -= gone
            for partition in gone:
                self._feedback_next.pop(partition, None)
            if self._feedback_at is not None and not self._attached:
                self._forget_feedback()

    def may_have_more(self, partition: int) -> bool:
        """Compare where reading is with the end as the last answer of Kafka told it; before the first one nobody knows.

        The end may be that of a transaction, after which there is no record: then there seems to be more for ever.
        """
        place = TopicPartition(self._names[0], partition)
        _, end = self._consumer.get_watermark_offsets(place, cached=True)
        (position,) = self._consumer.position([place])
        reached = max(position.offset, self._begins[partition])
        return end < 0 or reached < end

    def lag(self) -> dict[tuple[InputTopic, int], int]:
        """Compare where reading is with the end as the last answer of Kafka told it.

        The markers of transactions count like records, until it is proven that there is nothing else.
        """
        found = {}
        for place, position in self._stalls.next_offsets().items():
            _, end = self._consumer.get_watermark_offsets(TopicPartition(*place), cached=True)
            if end >= 0:
                left = 0 if self._stalls.holds_none_before(place, end) else max(0, end - position)
                found[self._topics.get(place.topic, InputTopic.FEEDBACK), place.partition] = left
        return found

    def pause_labels(self, partition: int, *, paused: bool) -> None:
        """Stop or go on to fetch labels of a partition; librdkafka fetches again what it had read ahead of it."""
        place = Place(self._names[1], partition)
        if paused:
            self._consumer.pause([TopicPartition(*place)])
            self._paused.add(place)
        else:
            self._consumer.resume([TopicPartition(*place)])
            self._paused.discard(place)

    def fetch(self, records_max: int, wait_ms: int) -> list[RawBatch]:
        """Return what is there, at most one batch for each topic and shard, waiting at most `wait_ms` for a first.

        Raises:
            SourceError: reading cannot go on; the message says what to do.
        """
        messages = take(self._consumer, records_max, wait_ms)
        drained = len(messages) < records_max
        if self._watch.refusal:
            names = [*self._names, *([self._feedback] if self._feedback else [])]
            raise SourceError(f"topics {', '.join(names)}: {self._watch.refusal}: check the credentials")
        if any(map(Message.error, messages)):
            messages = self._without_errors(messages)
        batches = self._batches(messages)
        stalled = self._stalls.stalled(self._paused, drained=drained)
        if stalled is not None:
            self._begin_anew(stalled)
        return batches

    def _begin_anew(self, stalled: Place) -> None:
        """Go on with a new consumer, each place behind the last record that came. What was read ahead is read again."""
        offsets = self._stalls.next_offsets()
        self._connection.warn(
            f"topic {stalled.topic}, partition {stalled.partition}: reading had stopped at offset {offsets[stalled]}, "
            "though there are records: a new consumer goes on"
        )
        close_beside(self._consumer)
        self._consumer = self._built()
        self._consumer.incremental_assign([TopicPartition(*place, offset) for place, offset in offsets.items()])
        self._consumer.pause([TopicPartition(*place) for place in self._paused])
        for place, offset in offsets.items():
            self._stalls.begin(place, offset)

    def _end_of(self, place: Place) -> int:
        return self._consumer.get_watermark_offsets(TopicPartition(*place), timeout=QUESTION_MAX_S)[1]

    def _probe(self, place: Place, offset: int) -> KafkaReader:
        topic = self._topics.get(place.topic, InputTopic.FEEDBACK)
        return KafkaReader(self._connection, self._forced, topic, TopicPartition(*place, offset), "read_committed")

    def close(self) -> None:
        """Stop reading."""
        self._attached.clear()
        self._stalls.close()
        # It has joined no group and has nothing to commit: there is nothing that this could wait for.
        self._consumer.close()

    def _batches(self, messages: list[Message]) -> list[RawBatch]:
        by_place: dict[tuple[str, int], list[Message]] = {}
        feedback: list[Message] = []
        for name, of_topic in groupby(messages, _topic_name):
            if name == self._feedback:
                feedback.extend(of_topic)
                continue
            for partition, run in groupby(of_topic, Message.partition):
                if partition in self._attached:
                    by_place.setdefault((name, partition), []).extend(run)
        batches = []
        for (name, partition), records in by_place.items():
            batches.append(batch_of(self._topics[name], partition, records))
            self._stalls.heard(Place(name, partition), batches[-1].offsets[-1] + 1)
        return [*batches, *self._fan_out(feedback)] if feedback else batches

    def _fan_out(self, feedback: list[Message]) -> list[RawBatch]:
        """Give each shard the records that it has not had."""
        batches = []
        for partition, begin in self._feedback_next.items():
            own = [message for message in feedback if cast("int", message.offset()) >= begin]
            if own:
                batches.append(batch_of(InputTopic.FEEDBACK, partition, own))
                self._feedback_next[partition] = batches[-1].offsets[-1] + 1
        self._feedback_at = max(self._feedback_at or 0, cast("int", feedback[-1].offset()) + 1)
        self._stalls.heard(Place(str(self._feedback), 0), self._feedback_at)
        return batches

    def _without_errors(self, messages: list[Message]) -> list[Message]:
        records = []
        for message in messages:
            error = message.error()
            if error is None:
                records.append(message)
                continue
            what = f"topic {message.topic()}, partition {message.partition()}"
            if message.topic() == self._feedback and error.code() in POSITION_GONE:
                # Not passed over here: the journal would say that the shard has read them, and could not be replayed.
                raise SourceError(
                    f"{what}: records were removed while they were being read: a restart goes on behind them"
                )
            reason = blame(error, what)
            if reason is not None:
                raise SourceError(reason)
            self._connection.warn(f"{what}: {error.str()}")
        return records
