"""Records that a receiver does not take, kept in the topic of dead letters."""

from collections.abc import Callable
from functools import partial

from confluent_kafka import KafkaError, KafkaException

from worker.core.events import Output, OutputTopic
from worker.edges.kafka import oversize
from worker.edges.kafka.arrived import Arrived
from worker.edges.kafka.calls import RECORD_BYTES_MAX, enqueued
from worker.edges.kafka.client import TOO_LARGE, Deadline, ErrorWatch, KafkaConnection, error_of
from worker.ports import SinkError

_WRITE_MS = 30_000
_FORCED = {
    "acks": "all",
    "enable.idempotence": True,
    "linger.ms": 0,
    "message.timeout.ms": _WRITE_MS,
}
_DEFAULTS = {"message.max.bytes": RECORD_BYTES_MAX}
_DETAIL_CHARS = 500


class KafkaDeadLetters:
    """All threads may use it.

    Args:
        connection: the cluster.
        topic: the topic of dead letters.
    """

    def __init__(self, connection: KafkaConnection, topic: str) -> None:
        self._topic = topic
        self._limit_bytes = int(connection.properties.get("message.max.bytes", RECORD_BYTES_MAX))
        self._producer = connection.producer(ErrorWatch(), _DEFAULTS, _FORCED)

    def bury(self, arrived: Arrived, *, reason: str, detail: str, target: str) -> None:
        """Write a record that was given up, byte for byte; return when Kafka has it. Raises SinkError."""
        output = letter(arrived, reason, detail, target)
        try:
            self._write(output)
        except KafkaException as exception:
            if error_of(exception).code() not in TOO_LARGE:
                raise SinkError(f"topic {self._topic}: {error_of(exception).str()}") from None
            self._write(oversize.truncated(output, self._limit_bytes))

    def _write(self, output: Output) -> None:
        failed: list[KafkaError | None] = []
        deadline = Deadline(_WRITE_MS)
        send = partial(
            self._producer.produce,
            self._topic,
            output.value,
            output.key,
            on_delivery=lambda error, _: failed.append(error),
            headers=list(output.headers),
        )
        enqueued(self._producer, send, deadline)
        while not failed and not deadline.passed():
            self._producer.poll(0.1)
        error = failed[0] if failed else KafkaError(KafkaError.REQUEST_TIMED_OUT, "not delivered in time")
        if error is not None:
            raise KafkaException(error)


class NoDeadLetters:
    """In its place for those who only look: says what would become a dead letter, and writes nothing.

    Args:
        say: takes a text.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def bury(self, arrived: Arrived, *, reason: str, detail: str, target: str) -> None:
        """Print it."""
        where = f"{arrived.topic}, partition {arrived.partition}, offset {arrived.offset}"
        self._say(f"dead letter ({target}): {reason}, {where}: {detail}")


def letter(arrived: Arrived, reason: str, detail: str, target: str) -> Output:
    """Return the dead letter of a record: its headers and those of all dead letters, and whom it was for."""
    origin = (
        ("modelvigil.topic", arrived.topic.encode()),
        ("modelvigil.partition", str(arrived.partition).encode()),
        ("modelvigil.offset", str(arrived.offset).encode()),
        ("modelvigil.timestamp", str(arrived.timestamp_ms).encode()),
        ("modelvigil.reason", reason.encode()),
        ("modelvigil.detail", detail[:_DETAIL_CHARS].encode(errors="backslashreplace")),
        ("modelvigil.target", target.encode()),
    )
    headers = (*arrived.headers, *origin)
    return Output(OutputTopic.DEAD_LETTERS, arrived.partition, arrived.offset, arrived.key, arrived.value, headers)
