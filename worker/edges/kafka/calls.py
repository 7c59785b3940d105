"""Calls to a transactional producer that are bounded in time, and what their errors mean."""

import time
from collections.abc import Callable

from confluent_kafka import KafkaError, KafkaException, Producer

from worker.edges.kafka import client
from worker.edges.kafka.asking import topic_metadata
from worker.edges.kafka.client import Deadline, blame, error_of
from worker.ports import SinkError

RECORD_BYTES_MAX = 1_000_000
"""`message.max.bytes`, where the user does not say something else."""

_RETRY_PAUSE_S = 0.05


def persist(call: Callable[[], None], deadline: Deadline) -> None:
    """Call again what failed in a way that passes, until the deadline."""
    while True:
        try:
            call()
        except KafkaException as exception:
            if not error_of(exception).retriable() or deadline.passed():
                raise
            time.sleep(_RETRY_PAUSE_S)
        else:
            return


def enqueued(producer: Producer, send: Callable[[], None], deadline: Deadline) -> None:
    """Hand a record to the producer, waiting while its queue is full."""
    while True:
        try:
            send()
        except BufferError:
            if deadline.passed():
                raise timed_out("the queue of the producer stays full") from None
            serving(lambda: producer.poll(_RETRY_PAUSE_S))
        else:
            return


def serving(call: Callable[[], int]) -> int:
    """Make a call that serves callbacks. A fatal error raised in the midst of them comes out wrapped, or is lost."""
    try:
        return call()
    except SystemError as error:
        if isinstance(error.__cause__, KafkaException):
            raise error.__cause__ from None
        raise KafkaException(KafkaError(client.FATAL, f"the client failed: {error}")) from None


def behind(producer: Producer, error: KafkaError) -> KafkaError:
    """Return the error that ended the producer for good: other calls say `_FATAL`, those of transactions name it."""
    if error.code() == client.FATAL:
        try:
            producer.abort_transaction(_RETRY_PAUSE_S)
        except KafkaException as exception:
            return error_of(exception)
    return error


def timed_out(reason: str) -> KafkaException:
    """Return the error of a deadline of ours, as librdkafka would name it."""
    return KafkaException(KafkaError(client.TIMED_OUT, reason))


def too_large(what: str) -> SinkError:
    """Return the error of a record that can never be written."""
    return SinkError(f"{what} is larger than message.max.bytes: raise it in [kafka.properties] and on the topic")


def failure(error: KafkaError, topic: str) -> Exception:
    """Say what a failed delivery means: all but three kinds leave the transaction in an unknown state (rule 1)."""
    if error.code() in client.FENCED:
        return KafkaException(error)
    if error.code() in client.TOO_LARGE:
        return SinkError(
            f"topic {topic} refuses a record as too large: raise its max.message.bytes to {RECORD_BYTES_MAX} or more, "
            "or set message.max.bytes and batch.size in [kafka.properties] to what it takes"
        )
    if error.code() in client.FORBIDDEN:
        return SinkError(str(blame(error, f"topic {topic}")))
    return timed_out(f"a record for topic {topic} was not delivered: {error.str()}")


def partition_count(producer: Producer, topic: str, deadline: Deadline) -> int:
    """Return how many partitions a topic has. Raises SinkError if it cannot be written."""
    metadata = topic_metadata(producer, topic, deadline)
    if metadata is None or metadata.error is not None or not metadata.partitions:
        why = metadata.error.str() if metadata is not None and metadata.error is not None else "not known"
        raise SinkError(f"topic {topic} cannot be written ({why}): run `modelvigil topics create`")
    return len(metadata.partitions)
