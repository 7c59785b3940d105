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

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from worker.edges.kafka import KafkaConnection
from worker.edges.kafka.asking import partitions_of
from worker.edges.kafka.client import MAX_POLL_EXCEEDED, POSITION_GONE, ErrorWatch, blame, close_beside, error_of
from worker.edges.kafka.reading import unread
from worker.notify.asking import CALL_S, DEFAULTS, arrived_of, asked, ends_of
from worker.notify.records import Arrived
from worker.notify.resending import Log
from worker.ports import SourceError

_CLOSE_S = 5.0
_PASSED_MAX = 1_000
"""Records that nobody wants, after which their positions are committed."""
_SILENT_POLLS_MAX = 50
_FORCED = {"auto.offset.reset": "error", "check.crcs": True, "partition.assignment.strategy": "range"}
_NOT_A_MEMBER = frozenset(
    {
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.UNKNOWN_MEMBER_ID,
    }
)


class _NotTakenError(Exception):
    """Kafka does not take positions from this member (any more)."""


def start_of(
    committed: int | None, low: int, high: int, *, served_before: bool, start_at: Literal["earliest", "latest"]
) -> int:
    """Return where to begin in a partition.

    Args:
        committed: the committed position, None without one.
        low: the first offset that is still there.
        high: the end.
        served_before: the target has a position in another partition, so that this one is new: nothing of it is old.
        start_at: where a target begins that was never served.
    """
    if committed is None:
        return low if served_before or start_at == "earliest" else high
    # Beyond the end: the topic was created again. Before the beginning: retention was faster.
    return low if committed > high or committed < low else committed


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
        self._begin()

    def next(self, wait_ms: int) -> Arrived | None:
        """Return the next record, waiting at most so long. Raises SourceError."""
        self._resume()
        message = self._ahead.popleft() if self._ahead else self._polled(wait_ms)
        if message is None:
            self._flush()
            return None
        arrived = arrived_of(message)
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
        self._to_commit[arrived.partition] = arrived.offset + 1
        self._flush()

    def pass_over(self, arrived: Arrived) -> None:
        """Note that nobody wants a record; it is committed some time later."""
        self._to_commit[arrived.partition] = arrived.offset + 1
        self._passed += 1
        if self._passed >= _PASSED_MAX:
            self._flush()

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
            self._begin_anew(message.partition())
        elif error.code() == MAX_POLL_EXCEEDED:
            self._log.warning("a delivery took longer than max.poll.interval.ms: joining the group again")
        elif reason := blame(error, f"topic {self._topic}, partition {message.partition()}"):
            raise SourceError(reason)
        else:
            self._log.warning("reading alerts", reason=error.str())
        return None

    def _begin_anew(self, partition: int | None) -> None:
        """Go on where there are records again, after retention has removed the next one."""
        assert partition is not None, "an error of a position has a partition"
        offset = self._begins([partition])[partition]
        self._consumer.seek(TopicPartition(self._topic, partition, offset))

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
            asked(f"commit of group {self._group_id}", lambda: self._commit_once(places))
        except _NotTakenError as error:
            # The new owner of the partition begins at the former position: alerts come twice, not never.
            self._log.warning("a position was not committed, alerts may be delivered again", reason=str(error))

    def _commit_once(self, places: list[TopicPartition]) -> None:
        try:
            answers = self._consumer.commit(offsets=places, asynchronous=False)
        except KafkaException as exception:
            if error_of(exception).code() in _NOT_A_MEMBER:
                raise _NotTakenError(error_of(exception).str()) from None
            raise
        for answer in answers or ():
            if answer.error is not None:
                raise KafkaException(answer.error)


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
        # All of them, also those that are committed already: so somebody else is noticed before anything is sent.
        self._to_commit = dict(begins)
        self._flush()

    def _polled(self, wait_ms: int) -> Message | None:
        message = super()._polled(wait_ms)
        self._silent_polls = 0 if message is not None else self._silent_polls + 1
        return message

    def _commit(self, places: list[TopicPartition]) -> None:
        try:
            asked(f"commit of group {self._group_id}", lambda: self._commit_once(places))
        except _NotTakenError:
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
