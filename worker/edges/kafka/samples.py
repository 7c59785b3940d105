"""The newest records of a topic, to look at: no group is joined, nothing is committed."""

from collections.abc import Mapping

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from worker.core.events import InputTopic, RawBatch
from worker.edges.kafka.client import Deadline, ErrorWatch, KafkaConnection, blame, close_beside, error_of
from worker.edges.kafka.reading import unread
from worker.edges.kafka.records import batch_of
from worker.ports import SourceError, UnavailableError

_CALL_S = 2.0
_DEFAULTS = {"fetch.min.bytes": 1, "fetch.wait.max.ms": 100, "queued.max.messages.kbytes": 16_384}


def newest(
    connection: KafkaConnection,
    *,
    group_id: str,
    topics: Mapping[InputTopic, tuple[str, int]],
    records_max: int,
    timeout_ms: int,
) -> list[RawBatch]:
    """Read the last records that are committed, about equally many of each partition of a topic.

    Args:
        connection: the cluster.
        group_id: librdkafka wants one. It is only named.
        topics: name and number of partitions of each input.
        records_max: of each topic.
        timeout_ms: for all of it; what has come until then is returned.

    Raises:
        SourceError: a topic cannot be read; the message says what to do.
        UnavailableError: no broker answers.
    """
    deadline = Deadline(timeout_ms)
    watch = ErrorWatch()
    consumer = connection.consumer(watch, _DEFAULTS, {"group.id": group_id, "auto.offset.reset": "earliest"})
    try:
        ends = []
        for name, count in topics.values():
            ends += _ranges(consumer, name, count, records_max, deadline)
        begins = [TopicPartition(end.topic, end.partition, begin) for begin, end in ends]
        consumer.assign(begins)
        messages = _read(consumer, [end for _, end in ends], deadline, records_max * 2 * max(1, len(topics)))
    except KafkaException as exception:
        error = error_of(exception)
        reason = blame(error, "records to look at")
        raise (SourceError(reason) if reason else UnavailableError(error.str())) from None
    finally:
        close_beside(consumer)
    if watch.refusal:
        raise SourceError(f"{watch.refusal}: check the credentials")
    return _batches(topics, messages)


def _ranges(
    consumer: Consumer, topic: str, count: int, records_max: int, deadline: Deadline
) -> list[tuple[int, TopicPartition]]:
    """Return where to begin and end in each partition that holds anything."""
    each = max(1, -(-records_max // count))
    ranges = []
    for partition in range(min(count, records_max)):
        place = TopicPartition(topic, partition)
        first, end = consumer.get_watermark_offsets(place, timeout=min(_CALL_S, deadline.left_s()))
        if first < end:
            ranges.append((max(first, end - each), TopicPartition(topic, partition, end)))
    return ranges


def _read(consumer: Consumer, ends: list[TopicPartition], deadline: Deadline, records_max: int) -> list[Message]:
    messages: list[Message] = []
    while ends and not deadline.passed() and len(messages) < records_max and unread(consumer, ends):
        for message in consumer.consume(1_000, min(0.2, deadline.left_s())):
            error = message.error()
            if error is None:
                messages.append(message)
            elif (reason := blame(error, f"topic {message.topic()}")) is not None:
                raise SourceError(reason)
    return messages


def _batches(topics: Mapping[InputTopic, tuple[str, int]], messages: list[Message]) -> list[RawBatch]:
    roles = {name: role for role, (name, _) in topics.items()}
    by_place: dict[tuple[str, int], list[Message]] = {}
    for message in messages:
        by_place.setdefault((str(message.topic()), int(message.partition() or 0)), []).append(message)
    return [batch_of(roles[topic], partition, by_place[topic, partition]) for topic, partition in sorted(by_place)]
