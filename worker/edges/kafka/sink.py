"""The transactional producer: outputs, state records and input positions become visible together, or not at all.

Rule 1: after anything whose outcome is not known, the producer is replaced. To abort in place and go on is what makes
librdkafka hang (kafka-notes A2), and lets a delayed end of one transaction end the next one (A7).
Rule 2: the group metadata is read right before it is sent: an old generation must not commit.
Rule 3: every delivery report is looked at. A record that failed to arrive fails the transaction.
Rule 4: one operation, one deadline: the timeouts of its calls do not add up.
Rule 5: after a commit that librdkafka had to ask for twice the producer is replaced, too, though it was a success. The
first request may still be on its way, and would end the next transaction (seen in tests). librdkafka does not tell, but
it waits before it asks again, so time does.

    begin -> produce ... -> flush -> send offsets -> commit      COMMITTED
      |         |             |          |             |
      +---------+-------------+----------+-------------+-> abort ABORTED  the broker said no, and what that means
                                                       +->       UNKNOWN  timeout, transport, failed delivery
                                                       +->       FENCED   our transactional id has a new owner; or,
                                                                          where nobody else can have it: UNKNOWN
"""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition

from worker.core.events import Output, OutputTopic
from worker.edges.kafka import calls, client, oversize
from worker.edges.kafka.client import Deadline, ErrorWatch, KafkaConnection, blame, error_of
from worker.ports import Commit, CommitOutcome, Position, SinkError, StateRecord

METADATA_BYTES_MAX = 4_095
"""What a broker takes with a committed offset (`offset.metadata.max.bytes` is 4,096 by default)."""

_ASK_AGAIN_MS = 1_000
_SLOW_COMMIT_S = 0.75
"""librdkafka asks again after `_ASK_AGAIN_MS`, give or take a fifth: whatever was quicker was asked for once."""
_NOT_REPORTED = -1
_Report = Callable[[KafkaError | None, Message], None]
_DEFAULTS = {
    "linger.ms": 5,
    "compression.type": "lz4",
    "message.max.bytes": calls.RECORD_BYTES_MAX,
    "queue.buffering.max.messages": 100_000,
    "queue.buffering.max.kbytes": 262_144,
}


class KafkaSink:
    """Implements `ports.Sink`.

    Args:
        connection: the cluster.
        transactional_id: names this worker; a new producer with the same name fences the old one.
        group_metadata: tells the member's current generation (`KafkaMembership.group_metadata`); while there is none
            it raises NotAMemberError, and the transaction is aborted.
        input_topic: the topic whose positions are committed.
        label_topic: the topic whose label offsets are committed, for those who watch the lag.
        state_topic: where state records go.
        topic_names: the topic behind each kind of output.
        transaction_timeout_ms: after this long the broker aborts an orphaned transaction.
        commit_timeout_ms: bound of one `commit`; an abort after it may take as long again.
        start_timeout_ms: bound of building a producer, here and in `replace`.
        exclusive: nobody else can have this transactional id. Then only Kafka itself can have fenced us, which it does
            when a transaction outlives its timeout: a new producer goes on.
    """

    def __init__(  # noqa: PLR0913 - the one place that knows all topics which are written; all are given by name
        self,
        connection: KafkaConnection,
        *,
        transactional_id: str,
        group_metadata: Callable[[], object],
        input_topic: str,
        label_topic: str,
        state_topic: str,
        topic_names: Mapping[OutputTopic, str],
        transaction_timeout_ms: int = 15_000,
        commit_timeout_ms: int = 10_000,
        start_timeout_ms: int = 20_000,
        exclusive: bool = False,
    ) -> None:
        self._connection = connection
        self._transactional_id = transactional_id
        self._group_metadata = group_metadata
        self._input_topic = input_topic
        self._label_topic = label_topic
        self._state_topic = state_topic
        self._topic_names = dict(topic_names)
        self._transaction_timeout_ms = transaction_timeout_ms
        # A commit that outlives its transaction could only learn that it has been aborted meanwhile.
        self._commit_timeout_ms = min(commit_timeout_ms, transaction_timeout_ms)
        self._start_timeout_ms = start_timeout_ms
        self._fenced = CommitOutcome.UNKNOWN if exclusive else CommitOutcome.FENCED
        self._failed_delivery: tuple[KafkaError, str] | None = None
        self._partitions: dict[OutputTopic, int] = {}
        self._state_partitions = 0
        self._watch = ErrorWatch()
        self._producer: Producer | None = None
        self.replace()

    def commit(
        self, outputs: Sequence[Output], positions: Mapping[int, Position], state: Sequence[StateRecord] = ()
    ) -> Commit:
        """Send all of it in one transaction, bounded in time.

        Raises:
            SinkError: a record can never be written; nothing of the transaction is visible.
        """
        if not outputs and not positions and not state:
            return Commit(CommitOutcome.COMMITTED)
        producer = self._producer
        assert producer is not None, "commit after an unknown outcome: replace the sink first"
        offsets = self._offsets(positions)
        # Of this transaction alone: a report that comes late finds the list of its own.
        reported = [_NOT_REPORTED] * len(state)
        deadline = Deadline(self._commit_timeout_ms)
        try:
            producer.begin_transaction()
            self._deliver(producer, outputs, state, reported, deadline)
            if offsets:
                calls.persist(lambda: self._send_offsets(producer, offsets, deadline), deadline)
            begun_s = time.monotonic()
            calls.persist(lambda: producer.commit_transaction(deadline.left_s()), deadline)
        except KafkaException as exception:
            return _commit(self._settle(producer, error_of(exception)), reported)
        except client.NotAMemberError as exception:
            return _commit(self._concluded(self._abort(producer), str(exception)), reported)
        except SinkError:
            self._abort(producer)
            raise
        if time.monotonic() - begun_s > _SLOW_COMMIT_S:
            self._connection.warn("transaction committed, but slowly: new producer, so that nothing of it comes late")
            self.replace()
        return _commit(CommitOutcome.COMMITTED, reported)

    def replace(self) -> None:
        """Throw the producer away and start a new one with the same identity, which fences the old one.

        Raises:
            SinkError: Kafka did not answer in time, or refuses; the message says what to do.
        """
        self._discard()
        self._watch = ErrorWatch()
        self._producer = self._connection.producer(self._watch, _DEFAULTS, self._forced())
        try:
            self._start(self._producer, Deadline(self._start_timeout_ms))
        except KafkaException as exception:
            error = error_of(exception)
            # Serves `error_cb`, which alone knows of refused credentials. After a fatal error it raises that again.
            with contextlib.suppress(KafkaException):
                self._producer.poll(0.0)
            self._discard()
            what = f"transactional id {self._transactional_id}"
            why = self._watch.refusal or error.str()
            raise SinkError(blame(error, what) or f"{what}: no transactions possible: {why}") from None
        except SinkError:
            self._discard()
            raise

    def close(self) -> None:
        """Close the producer. Every `commit` ends its transaction itself, so there is none to abort."""
        self._discard()

    def _start(self, producer: Producer, deadline: Deadline) -> None:
        calls.persist(lambda: producer.init_transactions(deadline.left_s()), deadline)
        for kind, name in self._topic_names.items():
            self._partitions[kind] = calls.partition_count(producer, name, deadline)
        self._state_partitions = calls.partition_count(producer, self._state_topic, deadline)

    def _forced(self) -> dict[str, object]:
        return {
            "transactional.id": self._transactional_id,
            "transaction.timeout.ms": self._transaction_timeout_ms,
            # librdkafka wants these two inside the transaction's own timeout.
            "message.timeout.ms": self._commit_timeout_ms,
            "socket.timeout.ms": min(10_000, self._transaction_timeout_ms),
            "enable.idempotence": True,
            "acks": "all",
            # Rule 5 relies on both.
            "retry.backoff.ms": _ASK_AGAIN_MS,
            "retry.backoff.max.ms": _ASK_AGAIN_MS,
        }

    def _offsets(self, positions: Mapping[int, Position]) -> list[TopicPartition]:
        for partition, position in positions.items():
            # The broker would refuse it, and refuse it again: nothing would ever be committed.
            size = len(position.metadata.encode())
            assert size <= METADATA_BYTES_MAX, f"{size} bytes of metadata for partition {partition}"
        return [
            *(
                TopicPartition(self._input_topic, partition, position.offset, position.metadata)
                for partition, position in sorted(positions.items())
            ),
            *(
                TopicPartition(self._label_topic, partition, position.label_offset)
                for partition, position in sorted(positions.items())
                if position.label_offset is not None
            ),
        ]

    def _deliver(
        self,
        producer: Producer,
        outputs: Sequence[Output],
        state: Sequence[StateRecord],
        reported: list[int],
        deadline: Deadline,
    ) -> None:
        """Return when the broker has all records, or raise."""
        self._failed_delivery = None
        for output in outputs:
            self._produce(producer, output, deadline)
        for index, record in enumerate(state):
            self._produce_state(producer, record, partial(self._on_state_delivery, reported, index), deadline)
        left = calls.serving(lambda: producer.flush(deadline.left_s()))
        if self._failed_delivery is not None:
            raise calls.failure(*self._failed_delivery)
        if left:
            raise calls.timed_out(f"{left} records were not delivered in time")

    def _produce(self, producer: Producer, output: Output, deadline: Deadline) -> None:
        try:
            self._enqueue(producer, output, deadline)
        except KafkaException as exception:
            if error_of(exception).code() not in client.TOO_LARGE:
                raise
            if output.topic is not OutputTopic.DEAD_LETTERS:
                place = f"topic {self._topic_names[output.topic]} (shard {output.shard}, offset {output.offset})"
                raise calls.too_large(f"an output of {oversize.size_of(output)} bytes for {place}") from None
            limit = int(self._connection.properties.get("message.max.bytes", calls.RECORD_BYTES_MAX))
            self._enqueue(producer, oversize.truncated(output, limit), deadline)

    def _enqueue(self, producer: Producer, output: Output, deadline: Deadline) -> None:
        """Hand an output to the producer.

        A shard always writes to the same partition of a topic, so that its outputs are read in their order.
        """
        send = partial(
            producer.produce,
            self._topic_names[output.topic],
            output.value,
            output.key,
            output.shard % self._partitions[output.topic],
            on_delivery=self._on_delivery,
            headers=list(output.headers),
        )
        calls.enqueued(producer, send, deadline)

    def _produce_state(self, producer: Producer, record: StateRecord, report: _Report, deadline: Deadline) -> None:
        """Hand a state record to the producer, for the partition that has the shard's number, or none."""
        if record.partition >= self._state_partitions:
            raise SinkError(
                f"topic {self._state_topic} has {self._state_partitions} partitions, and none for shard "
                f"{record.partition}: grow it with kafka-topics --alter to as many as there are of predictions, then "
                "start the worker again"
            )
        topic = self._state_topic
        send = partial(producer.produce, topic, record.value, record.key, record.partition, on_delivery=report)
        try:
            calls.enqueued(producer, send, deadline)
        except KafkaException as exception:
            if error_of(exception).code() not in client.TOO_LARGE:
                raise
            size = len(record.key) + len(record.value or b"")
            raise calls.too_large(
                f"a state record of {size} bytes for topic {topic} (shard {record.partition})"
            ) from None

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and self._failed_delivery is None:
            self._failed_delivery = (error, str(message.topic()))

    def _on_state_delivery(self, reported: list[int], index: int, error: KafkaError | None, message: Message) -> None:
        self._on_delivery(error, message)
        offset = message.offset()
        if error is None and offset is not None:
            reported[index] = offset

    def _send_offsets(self, producer: Producer, offsets: list[TopicPartition], deadline: Deadline) -> None:
        producer.send_offsets_to_transaction(offsets, self._group_metadata(), deadline.left_s())

    def _settle(self, producer: Producer, error: KafkaError) -> CommitOutcome:
        """Find out what an error makes of the transaction."""
        error = calls.behind(producer, error)
        code = error.code()
        if code in client.FENCED:
            outcome = self._fenced
        elif code in client.FORBIDDEN:
            self._abort(producer)
            raise SinkError(str(blame(error, f"transaction of {self._transactional_id}")))
        elif code in client.INDEFINITE or not error.txn_requires_abort():
            outcome = CommitOutcome.UNKNOWN
        else:
            outcome = self._abort(producer)
        return self._concluded(outcome, f"{error.name()}: {error.str()}")

    def _concluded(self, outcome: CommitOutcome, reason: str) -> CommitOutcome:
        if outcome is not CommitOutcome.ABORTED:
            self._discard()
        self._connection.warn(f"transaction {outcome.value}: {reason}")
        return outcome

    def _abort(self, producer: Producer) -> CommitOutcome:
        deadline = Deadline(self._commit_timeout_ms)
        try:
            calls.persist(lambda: producer.abort_transaction(deadline.left_s()), deadline)
        except KafkaException as exception:
            fenced = error_of(exception).code() in client.FENCED
            return self._fenced if fenced else CommitOutcome.UNKNOWN
        return CommitOutcome.ABORTED

    def _discard(self) -> None:
        """Forget the producer. Destroying one can wait for a dead broker, so that happens beside us."""
        if self._producer is not None:
            holder = [self._producer]
            self._producer = None
            threading.Thread(target=_destroy, args=(holder,), name="producer-destroy", daemon=True).start()


def _commit(outcome: CommitOutcome, reported: Sequence[int]) -> Commit:
    """Name the offsets of state records only where they count: all of them, of what is visible or may be."""
    maybe_visible = outcome in {CommitOutcome.COMMITTED, CommitOutcome.UNKNOWN}
    return Commit(outcome, tuple(reported) if maybe_visible and _NOT_REPORTED not in reported else ())


def _destroy(holder: list[Producer]) -> None:
    holder.pop().purge(blocking=False)
