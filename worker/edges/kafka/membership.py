"""This worker's part in the consumer group of the `predictions` topic: who owns which partition, and what is committed.

Rule 1: this consumer never reads records. Every partition is paused at once and for ever; the data consumer in
`source.py` reads. Pausing, seeking and resuming group partitions is where librdkafka's bugs live.
Rule 2: callbacks run inside `poll` and `close` only, on the thread that calls them.
Rule 3: partitions are given up only after the listener has returned, so that it can still commit.
Rule 4: partitions are owned under one member id. librdkafka does not always say that it has lost its membership: when
a worker hangs while a rebalance waits for it, it comes back under a new id and keeps, without a callback, partitions
that others have worked on meanwhile (seen in tests). A commit under the new id would even be accepted. So we look at
the id ourselves: no commit under another one, and where the loss was kept from us, a new consumer, and all is lost.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from confluent_kafka import OFFSET_END, OFFSET_INVALID, Consumer, KafkaError, KafkaException, TopicPartition

from worker.edges.kafka.client import (
    MAX_POLL_EXCEEDED,
    Deadline,
    ErrorWatch,
    FencedMemberError,
    KafkaConnection,
    NotAMemberError,
    blame,
    close_beside,
    error_of,
    fenced_member,
)
from worker.ports import GroupListener, Position, PositionUnstableError, SourceError

_EVENTS_PER_POLL_MAX = 100
_DEFAULTS = {
    "group.protocol": "classic",
    "max.poll.interval.ms": 120_000,
    # Nothing is ever fetched; a small queue says so.
    "queued.max.messages.kbytes": 1_024,
}
# 6 s is the least that a broker takes by default: a worker that was killed is replaced within 12 s.
_CLASSIC_DEFAULTS = {"session.timeout.ms": 6_000, "heartbeat.interval.ms": 1_500}
_CLASSIC_FORCED = {"partition.assignment.strategy": "cooperative-sticky"}
# librdkafka's serialised group metadata: magic, int32 generation in machine order, group id NUL, member id NUL, ...
_METADATA_MAGIC = b"CGMDv2:"


class KafkaMembership:
    """Implements `ports.Membership`.

    Args:
        connection: the cluster.
        group_id: the consumer group that all workers share.
        topic: the `predictions` topic.
        instance_id: makes this a static member (`group.instance.id`): it does not leave on `close`, and who comes back
            under the same id within the session timeout has its partitions again, without a rebalance.
        committed_timeout_ms: how long `committed` waits before it says "ask again".
        close_timeout_ms: how long each of the two steps of `close` may wait for the group.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        *,
        group_id: str,
        topic: str,
        instance_id: str | None = None,
        committed_timeout_ms: int = 1_000,
        close_timeout_ms: int = 5_000,
    ) -> None:
        self._connection = connection
        self._topic = topic
        self._group_id = group_id
        self._instance_id = instance_id
        self._committed_timeout_s = committed_timeout_ms / 1000
        self._close_timeout_ms = close_timeout_ms
        self._listener: GroupListener | None = None
        self._closing = False
        self._owned: set[int] = set()
        self._owner_id = b""
        self._hung = False
        self._answered = False
        """The listener knows what is owned, if anything."""
        self._watch = ErrorWatch()
        self._consumer = self._built()
        self._subscribe()

    def poll(self, listener: GroupListener) -> None:
        """Serve the group protocol without waiting. Inside a callback it does nothing: the group is being served.

        Raises:
            FencedMemberError: another process uses the same static member id.
            SourceError: this user may not be in the group, or the topic is gone.
        """
        if self._listener is not None:
            return
        with self._heard_by(listener):
            for _ in range(_EVENTS_PER_POLL_MAX):
                # Having hung, this consumer is served no more: it would join again, and be in the way of a new one.
                if not self._serve(0.0) or self._hung:
                    break
            if self._hung or self._has_new_id():
                self._start_over()
            elif not self._answered and self._is_spare():
                self._answered = True
                listener.assigned([])
        if self._watch.refusal:
            raise SourceError(f"group {self._group_id}: {self._watch.refusal}: check the credentials")

    def committed(self, partitions: Sequence[int]) -> Mapping[int, Position | None]:
        """Return the committed position of each partition; None where there is none.

        Raises:
            PositionUnstableError: a former owner's transaction is open, or the coordinator does not answer: ask again.
            SourceError: this user may not read the group.
        """
        if not partitions:
            return {}
        asked = [TopicPartition(self._topic, partition) for partition in partitions]
        try:
            answers = self._consumer.committed(asked, timeout=self._committed_timeout_s)
        except KafkaException as exception:
            raise self._unstable(error_of(exception), partitions) from None
        found: dict[int, Position | None] = {}
        for answer in answers:
            if answer.error is not None:
                raise self._unstable(answer.error, [answer.partition])
            known = answer.offset != OFFSET_INVALID
            found[answer.partition] = Position(answer.offset, answer.metadata or "") if known else None
        return found

    def group_metadata(self) -> bytes:
        """Return what fences a zombie's commit. It changes without a callback: read it right before each use.

        Raises:
            NotAMemberError: librdkafka has lost the membership, though no callback has said so yet.
        """
        metadata: bytes = self._consumer.consumer_group_metadata()
        generation, member_id = _identity(metadata, self._group_id)
        # Without a generation and an id, a broker takes offsets unchecked, for the sake of clients older than KIP-447.
        if generation < 0 or not member_id or member_id != self._owner_id:
            raise NotAMemberError(f"group {self._group_id}: this worker is not the member any more that it was")
        return metadata

    def close(self, listener: GroupListener) -> None:
        """Give up what is owned, then leave the group. Bounded, also when the coordinator is gone."""
        self._closing = True
        with self._heard_by(listener):
            if self._instance_id is None:
                self._leave()
            if self._owned:
                listener.revoked(sorted(self._owned))
                self._owned.clear()
        closing = close_beside(self._consumer)
        closing.join(self._close_timeout_ms / 1000)
        if closing.is_alive():
            self._warn("was not left: the others notice after the session timeout")

    def _leave(self) -> None:
        """Unsubscribe, and wait until the group has taken back what is owned.

        Not for a static member: librdkafka would take it out of the group, for others to have its partitions at once.
        """
        self._consumer.unsubscribe()
        deadline = Deadline(self._close_timeout_ms)
        while self._owned and not deadline.passed():
            self._serve(0.05)
        if self._owned:
            self._warn(f"does not answer: {sorted(self._owned)} given up without it")

    @contextmanager
    def _heard_by(self, listener: GroupListener) -> Iterator[None]:
        self._listener = listener
        try:
            yield
        finally:
            self._listener = None

    def _serve(self, wait_s: float) -> bool:
        """Serve callbacks; return whether librdkafka had something to say beside them."""
        try:
            message = self._consumer.poll(wait_s)
        except KafkaException as exception:
            self._stop_if_fenced(error_of(exception))
            raise SourceError(f"group {self._group_id}: {error_of(exception).str()}; restart the worker") from exception
        if message is None:
            return False
        error = message.error()
        # A record that slipped in before the pause is not ours to use; the data consumer reads it.
        if error is None:
            return True
        if error.code() == MAX_POLL_EXCEEDED:
            self._hung = True
        self._stop_if_fenced(error)
        reason = blame(error, f"group {self._group_id} on topic {self._topic}")
        if reason is not None:
            raise SourceError(reason)
        self._warn(error.str())
        return True

    def _stop_if_fenced(self, error: KafkaError) -> None:
        if not fenced_member(error):
            return
        if self._owned:
            lost, self._owned = sorted(self._owned), set()
            self._heard().lost(lost)
        # The newer protocol does not hand over the id of one that was killed before its session is over.
        killed = "" if self._is_classic() else "; if it was killed, wait for the session timeout of the broker"
        raise FencedMemberError(
            f"another process uses the static member id {self._instance_id}: "
            f"give each worker its own [worker] instance_id{killed}"
        )

    def _is_classic(self) -> bool:
        return self._connection.properties.get("group.protocol", "classic").lower() == "classic"

    def _unstable(self, error: KafkaError, partitions: Sequence[int]) -> Exception:
        what = f"committed positions of group {self._group_id}, topic {self._topic}, partitions {list(partitions)}"
        reason = blame(error, what)
        return SourceError(reason) if reason is not None else PositionUnstableError(f"{what}: {error.str()}")

    def _has_new_id(self) -> bool:
        """Tell whether what is owned was assigned to a member that this worker is no more (rule 4)."""
        # Without an id librdkafka knows of the loss, and is about to say so.
        return bool(self._owned) and self._member_id() not in (b"", self._owner_id)

    def _member_id(self) -> bytes:
        return _identity(self._consumer.consumer_group_metadata(), self._group_id)[1]

    def _is_spare(self) -> bool:
        """Whether the group has this member and no partition for it. The newer protocol does not say so by itself."""
        return not self._is_classic() and _identity(self._consumer.consumer_group_metadata(), self._group_id)[0] > 0

    def _start_over(self) -> None:
        """Declare everything lost and join again as somebody new."""
        self._warn("the membership was lost meanwhile; joining again")
        lost, self._owned, self._hung, self._answered = sorted(self._owned), set(), False, False
        if lost:
            self._heard().lost(lost)
        former, self._consumer = self._consumer, self._built()
        closing = close_beside(former)
        if self._instance_id is not None:
            # Two consumers with one static id would fence each other.
            closing.join(self._close_timeout_ms / 1000)
        self._subscribe()

    def _subscribe(self) -> None:
        callbacks = {"on_assign": self._on_assign, "on_revoke": self._on_revoke, "on_lost": self._on_lost}
        self._consumer.subscribe([self._topic], **callbacks)

    def _built(self) -> Consumer:
        """Build the consumer. KIP-848 (`group.protocol=consumer`) keeps sessions and assignors on the broker."""
        forced = {"group.id": self._group_id, "auto.offset.reset": "error"}
        if self._instance_id is not None:
            forced["group.instance.id"] = self._instance_id
        if self._is_classic():
            defaults, forced = {**_DEFAULTS, **_CLASSIC_DEFAULTS}, {**forced, **_CLASSIC_FORCED}
            return self._connection.consumer(self._watch, defaults, forced)
        return self._connection.consumer(self._watch, _DEFAULTS, forced)

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # A logical offset keeps librdkafka from looking up the committed one, which can be unstable right now.
        at_end = [TopicPartition(part.topic, part.partition, OFFSET_END) for part in partitions]
        consumer.incremental_assign(at_end)
        consumer.pause(at_end)
        # What a rebalance under way still brings to one who leaves goes back unused.
        if self._closing or consumer is not self._consumer:
            return
        if not self._owned:
            self._owner_id = self._member_id()
        numbers = sorted(part.partition for part in partitions)
        self._owned.update(numbers)
        self._answered = True
        self._heard().assigned(numbers)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = self._owned_of(consumer, partitions)
        if numbers:
            # A revocation can have waited here while the membership was lost: too late to commit.
            tell = self._heard().revoked if self._member_id() == self._owner_id else self._heard().lost
            tell(numbers)
            self._owned.difference_update(numbers)
        consumer.incremental_unassign(partitions)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._answered = False
        numbers = self._owned_of(consumer, partitions)
        if numbers:
            self._heard().lost(numbers)
            self._owned.difference_update(numbers)
        consumer.incremental_unassign(partitions)

    def _owned_of(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> list[int]:
        if consumer is not self._consumer:
            return []
        return sorted(self._owned.intersection(part.partition for part in partitions))

    def _heard(self) -> GroupListener:
        assert self._listener is not None, "a group callback outside of poll and close"
        return self._listener

    def _warn(self, what: str) -> None:
        self._connection.warn(f"group {self._group_id}: {what}")


def _identity(metadata: bytes, group_id: str) -> tuple[int, bytes]:
    """Return the generation and the member id in librdkafka's serialised group metadata; -1 and nothing: no member."""
    start, end = len(_METADATA_MAGIC), len(_METADATA_MAGIC) + 4
    head = _METADATA_MAGIC + metadata[start:end] + group_id.encode() + b"\0"
    assert metadata.startswith(head), "this librdkafka writes group metadata in a form that is not known here"
    generation = int.from_bytes(metadata[start:end], sys.byteorder, signed=True)
    return generation, metadata[len(head) :].partition(b"\0")[0]
