"""The output topics as the shipper gets them from Kafka: several topics, many records at a time.

Rule 1: nothing is committed by itself.
Rule 2: callbacks of the group run only inside `fetch` and `serve`.
Rule 3: who reads without joining commits under a static id that no member has: Kafka refuses that while somebody else
ships (as `edges/kafka/group.py` does).
"""

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from worker.edges.kafka import KafkaConnection
from worker.edges.kafka.asking import partitions_of
from worker.edges.kafka.client import MAX_POLL_EXCEEDED, POSITION_GONE, ErrorWatch, blame, close_beside, error_of
from worker.edges.kafka.consuming import CALL_S, NotTakenError, asked, commit, ends_of, start_of
from worker.edges.kafka.reading import unread
from worker.edges.kafka.records import take
from worker.ports import SourceError
from worker.ship.progress import Begin, Mark, Place

_CLOSE_S = 5.0
_SILENT_S_MAX = 10.0
_PROMPT_S = 1.0
"""Of an answer of a Kafka that is there."""
_AHEAD_MAX = 100
_END_S = 1.0
_DEFAULTS = {
    "fetch.min.bytes": 1,
    "fetch.wait.max.ms": 100,
    "queued.max.messages.kbytes": 16_384,
    # After a kill nobody reads before the group has noticed it: with librdkafka's own 45 s that is long.
    "session.timeout.ms": 10_000,
    "heartbeat.interval.ms": 2_000,
}
_FORCED = {"auto.offset.reset": "error", "check.crcs": True, "partition.assignment.strategy": "range"}


class Listener(Protocol):
    """Learns what the group decided."""

    def assigned(self, begins: Mapping[Place, Begin]) -> None:
        """Take over these partitions: they are all that there are now."""
        ...

    def revoked(self) -> None:
        """Give all partitions up; positions can still be committed."""
        ...

    def lost(self) -> None:
        """All partitions are somebody else's already."""
        ...


class KafkaOutputs:
    """Output topics as a member of the shippers' group: several processes share the partitions.

    Args:
        connection: the cluster.
        topics: their names.
        group_id: the group.
        start_at: where a topic begins that was never shipped.
        listener: is told of assignments.
        log: where it is told what happens.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        *,
        topics: Sequence[str],
        group_id: str,
        start_at: Literal["earliest", "latest"],
        listener: Listener,
        log: Any,  # noqa: ANN401 - structlog's
    ) -> None:
        self._topics = list(topics)
        self._group_id = group_id
        self._start_at = start_at
        self._listener = listener
        self._log = log
        self._watch = ErrorWatch()
        self._consumer = connection.consumer(self._watch, _DEFAULTS, {**_FORCED, **self._identity()})
        self._ahead: list[Message] = []
        """Came while the group was served."""
        self._paused = False
        self._waiting = False
        """Whether no records are taken now."""
        self._begin()

    def fetch(self, records_max: int, wait_ms: int) -> list[Message]:
        """Return records, waiting at most so long when there is none. Raises SourceError."""
        self._waiting = False
        if self._paused:
            self._paused = False
            self._consumer.resume(self._consumer.assignment())
        if self._ahead:
            messages, self._ahead = self._ahead, []
            return messages
        return self._taken(records_max, wait_ms)

    def serve(self, wait_ms: int) -> None:
        """Stay in the group; the few records that come with it wait for `fetch`. Raises SourceError."""
        self._waiting = True
        self._ahead += self._taken(1, wait_ms)
        # Not at once: what librdkafka has read ahead is lost in a pause.
        if len(self._ahead) >= _AHEAD_MAX and not self._paused:
            self._paused = True
            self._consumer.pause(self._consumer.assignment())

    def commit(self, marks: Mapping[Place, Mark]) -> bool:
        """Commit positions; False if this process is in the group no more. Raises SourceError."""
        places = [TopicPartition(*place, mark.offset, mark.metadata) for place, mark in marks.items()]
        try:
            commit(self._consumer, self._group_id, places)
        except NotTakenError as error:
            self._log.warning("positions were not committed: the next owner looks up what is there", reason=str(error))
            return False
        return True

    def ends(self, places: Sequence[Place]) -> dict[Place, int]:
        """Return where partitions end, as far as that is known without waiting for long."""
        found = {}
        # Fetching tells it, too; while nothing is fetched, that gets old.
        cached = not self._waiting
        for topic, partition in places:
            place = TopicPartition(topic, partition)
            try:
                _, high = self._consumer.get_watermark_offsets(place, _END_S, cached=cached)
            except KafkaException:
                # Not once more for each partition: Kafka seems to be away.
                cached = True
                _, high = self._consumer.get_watermark_offsets(place, cached=cached)
            if high >= 0:
                found[topic, partition] = high
        return found

    def reached(self, places: Sequence[Place]) -> dict[Place, int]:
        """Return up to where partitions were read, what is no record included."""
        found = self._consumer.position([TopicPartition(*place) for place in places]) if places else []
        return {(each.topic, each.partition): each.offset for each in found}

    def at_end(self) -> bool:
        """Never: more records will come."""
        return False

    def close(self) -> None:
        """Leave the group; partitions are revoked first."""
        close_beside(self._consumer).join(_CLOSE_S)

    def _identity(self) -> dict[str, object]:
        return {"group.id": self._group_id}

    def _begin(self) -> None:
        self._consumer.subscribe(self._topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def _assigned(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        """Serve librdkafka, within `poll`."""
        self._ahead.clear()
        begins = self._begins([(place.topic, place.partition) for place in places])
        consumer.assign([TopicPartition(*place, begin.offset) for place, begin in begins.items()])
        self._listener.assigned(begins)
        if self._paused:
            consumer.pause(consumer.assignment())

    def _revoked(self, _: Consumer, __: list[TopicPartition]) -> None:
        self._ahead.clear()
        self._listener.revoked()

    def _lost(self, _: Consumer, __: list[TopicPartition]) -> None:
        self._ahead.clear()
        self._listener.lost()

    def _taken(self, records_max: int, wait_ms: int) -> list[Message]:
        try:
            messages = take(self._consumer, records_max, wait_ms)
        except KafkaException as exception:
            raise SourceError(f"topics of group {self._group_id}: {error_of(exception).str()}") from None
        if self._watch.refusal:
            raise SourceError(f"{self._watch.refusal}: check the credentials")
        if any(map(Message.error, messages)):
            return [message for message in messages if self._is_record(message)]
        return messages

    def _is_record(self, message: Message) -> bool:
        error = message.error()
        if error is None:
            return True
        # An error of the group is of no topic.
        what = f"topic {message.topic()}, partition {message.partition()}" if message.topic() else "topics"
        if error.code() in POSITION_GONE:
            # librdkafka reads such a partition no more, and a new start looks up what may be in question.
            raise SourceError(f"{what}: records were removed while they were being read: a restart goes on behind them")
        if error.code() == MAX_POLL_EXCEEDED:
            self._log.warning("the loop took longer than max.poll.interval.ms: joining the group again")
        elif reason := blame(error, what):
            raise SourceError(reason)
        else:
            self._log.warning("reading records", what=what, reason=error.str())
        return False

    def _begins(self, places: Sequence[Place]) -> dict[Place, Begin]:
        """Return where partitions are, and where to begin in each."""
        topics = sorted({topic for topic, _ in places})
        found: dict[Place, Begin] = {}
        for topic in topics:
            everywhere = self._committed(topic)
            for partition in sorted(partition for other, partition in places if other == topic):
                committed = everywhere.get(partition)
                low, high = ends_of(self._consumer, TopicPartition(topic, partition))
                position = committed.offset if committed is not None else None
                begin = start_of(position, low, high, served_before=bool(everywhere), start_at=self._start_at)
                if position is not None and begin != position:
                    self._log.error(
                        "records are gone before they were shipped: retention was faster, or the topic is a new one",
                        topic=topic,
                        partition=partition,
                        committed=position,
                        goes_on_at=begin,
                    )
                # A ceiling of a topic that was there before says nothing of this one.
                ours = committed.metadata if committed is not None and begin >= committed.offset else ""
                found[topic, partition] = Begin(begin, committed is not None, ours, high)
        return found

    def _committed(self, topic: str) -> dict[int, Mark]:
        """Return the committed position of each partition of a topic that has one."""
        places = [TopicPartition(topic, partition) for partition in self._partitions(topic)]
        answers = asked(f"positions of group {self._group_id}", lambda: self._consumer.committed(places, CALL_S))
        return {each.partition: Mark(each.offset, each.metadata or "") for each in answers if each.offset >= 0}

    def _partitions(self, topic: str) -> list[int]:
        return asked(f"partitions of topic {topic}", lambda: partitions_of(self._consumer, topic))


class AssignedOutputs(KafkaOutputs):
    """All partitions without joining the group, up to what is there now. Nobody else may ship meanwhile."""

    _until: list[TopicPartition]
    """Where partitions ended at the beginning."""
    _heard_s: float
    """When the last record came."""

    def at_end(self) -> bool:
        """Tell whether all has been taken that was there at the beginning, as far as Kafka still has it.

        Raises SourceError: nothing comes, and Kafka is away.
        """
        if self._ahead:
            return False
        if not unread(self._consumer, self._until):
            return True
        now_s = time.monotonic()
        if now_s - self._heard_s < _SILENT_S_MAX:
            return False
        ends_of(self._consumer, self._until[0])
        if time.monotonic() - now_s > _PROMPT_S:
            # It was away: what is left may come now.
            self._heard_s = time.monotonic()
            return False
        # The last records are those of aborted transactions, which move no position.
        return True

    def serve(self, wait_ms: int) -> None:
        """Stay without taking records. Raises SourceError."""
        super().serve(wait_ms)
        self._heard_s = time.monotonic()

    def commit(self, marks: Mapping[Place, Mark]) -> bool:
        """Commit positions. Raises SourceError, also if somebody else ships."""
        if not super().commit(marks):
            raise SourceError(
                f"somebody ships already (group {self._group_id} has members): stop that `modelvigil ship` first"
            )
        return True

    def _identity(self) -> dict[str, object]:
        return {"group.id": self._group_id, "group.instance.id": f"modelvigil-once-{uuid.uuid4().hex}"}

    def _begin(self) -> None:
        self._heard_s = time.monotonic()
        begins: dict[Place, Begin] = {}
        for topic in self._topics:
            begins |= self._begins([(topic, partition) for partition in self._partitions(topic)])
        places = [TopicPartition(*place, begin.offset) for place, begin in begins.items()]
        self._until = [TopicPartition(*place, begin.end) for place, begin in begins.items() if begin.offset < begin.end]
        self._consumer.assign(places)
        self._listener.assigned(begins)

    def _taken(self, records_max: int, wait_ms: int) -> list[Message]:
        messages = super()._taken(records_max, wait_ms)
        if messages:
            self._heard_s = time.monotonic()
        return messages


class SeenOutputs(AssignedOutputs):
    """The same, but positions stay as they are: for those who only look."""

    def commit(self, marks: Mapping[Place, Mark]) -> bool:  # noqa: ARG002 - as the others
        """Leave positions where they are."""
        return True

    def _identity(self) -> dict[str, object]:
        return {"group.id": self._group_id}
