"""The topic `alerts` as a target gets it, from Kafka.

Rule 1: nothing is committed by itself; positions are committed one by one, after delivery.
Rule 2: where a target begins that was never served is committed at once: what comes later is not skipped by a restart.
Rule 3: who reads without joining commits under a static id that no member has: Kafka refuses that while somebody else
serves the target (as `edges/kafka/group.py` does).
"""

import uuid
from collections import deque
from collections.abc import Sequence
from typing import Literal

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from worker.edges.kafka import KafkaConnection
from worker.edges.kafka.arrived import Arrived, arrived_of
from worker.edges.kafka.asking import partitions_of
from worker.edges.kafka.client import MAX_POLL_EXCEEDED, POSITION_GONE, ErrorWatch, blame, close_beside, error_of
from worker.edges.kafka.consuming import CALL_S, NotTakenError, asked, commit, ends_of, start_of
from worker.edges.kafka.reading import unread
from worker.notify.resending import Log
from worker.ports import SourceError

_CLOSE_S = 5.0
_PASSED_MAX = 1_000
"""Records that nobody wants, after which their positions are committed."""
_LOOK_S = 1.0
"""Of an answer that is only for a look."""
_SILENT_POLLS_MAX = 50
_FORCED = {"auto.offset.reset": "error", "check.crcs": True, "partition.assignment.strategy": "range"}
DEFAULTS = {"fetch.min.bytes": 1, "fetch.wait.max.ms": 100, "queued.max.messages.kbytes": 4_096}
"""Of a consumer that hands on each record as soon as it is there."""


class KafkaAlerts:
    """Implements `ports.Alerts` as a member of the target's group: several processes share the partitions.

    Args:
        connection: the cluster.
        topic: the topic `alerts`.
        group_id: the group of the target.
        start_at: where a target begins that was never served.
        log: bound to the target.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        *,
        topic: str,
        group_id: str,
        start_at: Literal["earliest", "latest"],
        log: Log,
    ) -> None:
        self._topic = topic
        self._group_id = group_id
        self._start_at = start_at
        self._log = log
        self._watch = ErrorWatch()
        self._consumer = connection.consumer(self._watch, DEFAULTS, {**_FORCED, **self._identity()})
        self._owned: dict[int, int] = {}
        """Partition to a number that is new with each assignment."""
        self._generation = 0
        self._taken: dict[int, int] = {}
        """The generation in which the record in hand was taken, by partition."""
        self._ahead: deque[Message] = deque()
        """Came while the group was served."""
        self._paused = False
        self._to_commit: dict[int, int] = {}
        self._passed = 0
        self._behind: dict[int, int] = {}
        """Behind the last record that is delivered or passed over, by partition."""
        self._in_hand: int | None = None
        """The partition of the record that was taken last, until it is delivered or passed over."""
        self.joined = False
        """Whether partitions are assigned, be it none."""
        self._begin()

    def next(self, wait_ms: int) -> Arrived | None:
        """Return the next record, waiting at most so long. Raises SourceError."""
        self._resume()
        message = self._ahead.popleft() if self._ahead else self._polled(wait_ms)
        self._in_hand = None
        if message is None:
            self._flush()
            return None
        arrived = arrived_of(message)
        self._in_hand = arrived.partition
        self._taken[arrived.partition] = self._owned.get(arrived.partition, 0)
        return arrived

    def wait(self, wait_ms: int) -> None:
        """Wait and stay in the group, without taking a record. Raises SourceError."""
        if not self._paused:
            self._paused = True
            self._consumer.pause(self._consumer.assignment())
        message = self._polled(wait_ms)
        if message is not None:
            # Of a partition that came after the pause, or already on its way.
            self._ahead.append(message)
            self._consumer.pause(self._consumer.assignment())

    def owns(self, arrived: Arrived) -> bool:
        """Tell whether a record is still this process's to deliver."""
        generation = self._owned.get(arrived.partition)
        return generation is not None and generation == self._taken.get(arrived.partition)

    def done(self, arrived: Arrived) -> None:
        """Commit the position behind a record. Raises SourceError."""
        self._went_by(arrived)
        self._flush()

    def pass_over(self, arrived: Arrived) -> None:
        """Note that nobody wants a record; it is committed some time later."""
        self._went_by(arrived)
        self._passed += 1
        if self._passed >= _PASSED_MAX:
            self._flush()

    def lag(self) -> dict[int, int] | None:
        """Return the records that wait, that in hand included; None if Kafka does not answer promptly."""
        places = [TopicPartition(self._topic, partition) for partition in self._behind]
        try:
            # Who has no partition wants to know whether Kafka is there, too.
            looked_at = places or [TopicPartition(self._topic, 0)]
            ends = {place.partition: self._consumer.get_watermark_offsets(place, _LOOK_S)[1] for place in looked_at}
            reached = {place.partition: place.offset for place in self._consumer.position(places)}
        except KafkaException:
            return None
        taken = {self._in_hand, *(message.partition() for message in self._ahead)}
        # Behind the last record there are markers of transactions, so what was reached may be further.
        return {
            partition: max(0, ends[partition] - (behind if partition in taken else max(behind, reached[partition])))
            for partition, behind in self._behind.items()
        }

    def at_end(self) -> bool:
        """Never: more alerts will come."""
        return False

    def close(self) -> None:
        """Commit what was passed over, and leave the group."""
        try:
            self._flush()
        finally:
            close_beside(self._consumer).join(_CLOSE_S)

    def _identity(self) -> dict[str, object]:
        return {"group.id": self._group_id}

    def _begin(self) -> None:
        self._consumer.subscribe([self._topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def _assigned(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        """Serve librdkafka, within `poll`."""
        self._forget()
        self._generation += 1
        begins = self._begins([place.partition for place in places])
        consumer.assign([TopicPartition(self._topic, partition, offset) for partition, offset in begins.items()])
        self._owned = dict.fromkeys(begins, self._generation)
        self._behind = begins
        self.joined = True
        if self._paused:
            consumer.pause(consumer.assignment())

    def _revoked(self, _: Consumer, __: list[TopicPartition]) -> None:
        """Commit what was passed over, while it can still be."""
        self._flush()
        self._forget()

    def _lost(self, _: Consumer, __: list[TopicPartition]) -> None:
        self._forget()

    def _forget(self) -> None:
        self._owned.clear()
        self._ahead.clear()
        self._to_commit.clear()
        self._passed = 0
        self._behind = {}
        self._in_hand = None
        self.joined = False

    def _went_by(self, arrived: Arrived) -> None:
        self._to_commit[arrived.partition] = arrived.offset + 1
        if arrived.partition in self._behind:
            self._behind[arrived.partition] = arrived.offset + 1
        self._in_hand = None

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._consumer.resume(self._consumer.assignment())

    def _polled(self, wait_ms: int) -> Message | None:
        try:
            message = self._consumer.poll(max(0, wait_ms) / 1000)
        except KafkaException as exception:
            raise SourceError(f"topic {self._topic}: {error_of(exception).str()}") from None
        if self._watch.refusal:
            raise SourceError(f"topic {self._topic}: {self._watch.refusal}: check the credentials")
        error = message.error() if message is not None else None
        if message is None or error is None:
            return message
        if error.code() in POSITION_GONE:
            # librdkafka reads such a partition no more.
            raise SourceError(
                f"topic {self._topic}, partition {message.partition()}: records were removed while they were being "
                "read: a restart goes on behind them"
            )
        if error.code() == MAX_POLL_EXCEEDED:
            self._log.warning("a delivery took longer than max.poll.interval.ms: joining the group again")
        elif reason := blame(error, f"topic {self._topic}, partition {message.partition()}"):
            raise SourceError(reason)
        else:
            self._log.warning("reading alerts", reason=error.str())
        return None

    def _begins(self, partitions: Sequence[int]) -> dict[int, int]:
        """Return where to begin in each partition; what is not committed yet will be with the next commit."""
        everywhere = self._committed()
        found: dict[int, int] = {}
        for partition in partitions:
            committed = everywhere.get(partition)
            low, high = ends_of(self._consumer, TopicPartition(self._topic, partition))
            begin = start_of(committed, low, high, served_before=bool(everywhere), start_at=self._start_at)
            found[partition] = begin
            if committed is not None and begin != committed:
                self._log.error(
                    "alerts are gone before they were delivered: retention was faster, or the topic was created again",
                    partition=partition,
                    committed=committed,
                    goes_on_at=begin,
                )
            if committed is None:
                self._to_commit[partition] = begin
        return found

    def _committed(self) -> dict[int, int]:
        """Return the committed position of each partition of the topic that has one."""
        places = [TopicPartition(self._topic, partition) for partition in self._partitions()]
        answers = asked(f"positions of group {self._group_id}", lambda: self._consumer.committed(places, CALL_S))
        return {answer.partition: answer.offset for answer in answers if answer.offset >= 0}

    def _partitions(self) -> list[int]:
        return asked(f"partitions of topic {self._topic}", lambda: partitions_of(self._consumer, self._topic))

    def _flush(self) -> None:
        """Commit what is to be committed."""
        self._passed = 0
        if self._to_commit:
            places = [TopicPartition(self._topic, partition, offset) for partition, offset in self._to_commit.items()]
            self._to_commit.clear()
            self._commit(places)

    def _commit(self, places: list[TopicPartition]) -> None:
        try:
            commit(self._consumer, self._group_id, places)
        except NotTakenError as error:
            # The new owner of the partition begins at the former position: alerts come twice, not never.
            self._log.warning("a position was not committed, alerts may be delivered again", reason=str(error))


class AssignedAlerts(KafkaAlerts):
    """All partitions without joining the group, up to what is there now. Nobody else may serve the target meanwhile."""

    def at_end(self) -> bool:
        """Tell whether all has been taken that was there at the beginning, as far as Kafka still has it."""
        if self._ahead:
            return False
        # The last records may be those of aborted transactions, which move no position.
        return not unread(self._consumer, self._until) or self._silent_polls >= _SILENT_POLLS_MAX

    def wait(self, wait_ms: int) -> None:
        """Wait and take nothing. Raises SourceError."""
        super().wait(wait_ms)
        self._silent_polls = 0

    def _identity(self) -> dict[str, object]:
        return {"group.id": self._group_id, "group.instance.id": f"modelvigil-once-{uuid.uuid4().hex}"}

    def _begin(self) -> None:
        self._silent_polls = 0
        begins = self._begins(self._partitions())
        places = [TopicPartition(self._topic, partition, offset) for partition, offset in begins.items()]
        ends = [TopicPartition(self._topic, place.partition, ends_of(self._consumer, place)[1]) for place in places]
        self._until = [end for end in ends if begins[end.partition] < end.offset]
        self._consumer.assign(places)
        self._generation = 1
        self._owned = dict.fromkeys(begins, self._generation)
        self._behind = dict(begins)
        self.joined = True
        # All of them, also those that are committed already: so somebody else is noticed before anything is sent.
        self._to_commit = dict(begins)
        self._flush()

    def _polled(self, wait_ms: int) -> Message | None:
        message = super()._polled(wait_ms)
        self._silent_polls = 0 if message is not None else self._silent_polls + 1
        return message

    def _commit(self, places: list[TopicPartition]) -> None:
        try:
            commit(self._consumer, self._group_id, places)
        except NotTakenError:
            raise SourceError(
                f"somebody serves this target already (group {self._group_id} has members): stop that "
                "`modelvigil notify` first"
            ) from None


class SeenAlerts(AssignedAlerts):
    """The same, but positions stay as they are: for those who only look. May go on for ever."""

    def _identity(self) -> dict[str, object]:
        return {"group.id": self._group_id}

    def _commit(self, places: list[TopicPartition]) -> None:
        """Leave the position where it is."""
