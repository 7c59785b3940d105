"""A consumer that has stopped reading without a word, as librdkafka's does now and then after a broker was away."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from confluent_kafka import TopicPartition

from tests.e2e.kafka_corner import Cluster, fetched
from worker.core.events import InputTopic, RawBatch
from worker.edges.kafka import KafkaSource

SILENCE_S = 0.5


@pytest.fixture
def source(cluster: Cluster) -> Iterator[KafkaSource]:
    """A source that is soon suspicious."""
    made = KafkaSource(cluster.connection, group_id=cluster.group, topics=cluster.topics, silence_s=SILENCE_S)
    with closing(made):
        yield made


def stop_reading(source: KafkaSource, topic: str, partition: int) -> None:
    """Let librdkafka ask for nothing more of a partition, and the source not know of it."""
    source._consumer.pause([TopicPartition(topic, partition)])


def until(source: KafkaSource, reached: Callable[[list[RawBatch]], bool], seconds: float = 20.0) -> list[RawBatch]:
    """Fetch until something is so; return all that came."""
    end, batches = time.monotonic() + seconds, list[RawBatch]()
    while not reached(batches):
        assert time.monotonic() < end, "it does not read on"
        batches += source.fetch(1000, 50)
    return batches


def of_place(batches: list[RawBatch], topic: InputTopic, partition: int) -> list[int]:
    """Return the offsets of what came of a place."""
    found = [batch.offsets for batch in batches if (batch.topic, batch.partition) == (topic, partition)]
    return [offset for offsets in found for offset in offsets]


@pytest.mark.parametrize("topic", [InputTopic.PREDICTIONS, InputTopic.LABELS, InputTopic.FEEDBACK])
def test_a_place_that_is_not_read_any_more_is_read_on_by_a_new_consumer(
    cluster: Cluster, source: KafkaSource, caplog: pytest.LogCaptureFixture, topic: InputTopic
) -> None:
    """Each record comes once and in order, also of the partitions that had not stalled; it is told."""
    stuck = 0 if topic is InputTopic.FEEDBACK else 2
    cluster.fill({1: [b"%d" % n for n in range(50)]})
    cluster.fill({stuck: [b"%d" % n for n in range(60)]}, topic)
    source.attach(1, 0, 0, 0)
    source.attach(2, 0, 0, 0)
    own = 2 if topic is InputTopic.FEEDBACK else stuck
    batches = until(source, lambda got: len(of_place(got, topic, own)) == 60)
    stop_reading(source, cluster.topics[topic], stuck)
    cluster.fill({stuck: [b"%d" % n for n in range(60, 100)]}, topic)
    cluster.fill({1: [b"%d" % n for n in range(50, 90)]})
    with caplog.at_level(logging.WARNING, logger="tests.kafka"):
        batches += until(source, lambda got: len(of_place(got, topic, own)) == 40)
        batches += until(source, lambda got: len(of_place([*batches, *got], InputTopic.PREDICTIONS, 1)) == 90)
    assert of_place(batches, topic, own) == list(range(100))
    assert of_place(batches, InputTopic.PREDICTIONS, 1) == list(range(90))
    (said,) = [record.getMessage() for record in caplog.records if "reading had stopped" in record.getMessage()]
    assert f"{cluster.topics[topic]}, partition {stuck}: reading had stopped at offset 60" in said


def test_silence_alone_is_no_stall(cluster: Cluster, source: KafkaSource, caplog: pytest.LogCaptureFixture) -> None:
    """Neither an empty partition, nor the end of a transaction behind the last record, nor labels that are to wait."""
    writer = cluster.writer()
    for end in (writer.commit_transaction, writer.abort_transaction):
        writer.begin_transaction()
        writer.produce(cluster.input, b"1", b"key", 0)
        end(15)
    cluster.fill({0: [b"late"] * 10}, InputTopic.LABELS)
    source.attach(0, 0, 0, 0)
    source.pause_labels(0, paused=True)
    consumer, end_s = source._consumer, time.monotonic() + 7.5
    with caplog.at_level(logging.WARNING, logger="tests.kafka"):
        batches = until(source, lambda _: time.monotonic() > end_s)
    assert of_place(batches, InputTopic.PREDICTIONS, 0) == [0]
    assert source._consumer is consumer
    source.pause_labels(0, paused=False)
    assert sum(len(batch.offsets) for batch in fetched(source, 10)) == 10


def test_labels_that_wait_go_on_waiting_with_the_new_consumer(cluster: Cluster, source: KafkaSource) -> None:
    """What is held back stays so when another partition had stalled, and what has left is not read again."""
    for partition in range(3):
        cluster.fill({partition: [b"0"] * 5})
    cluster.fill({0: [b"0"] * 20}, InputTopic.LABELS)
    for partition in range(3):
        source.attach(partition, 0, 0, 0)
    source.pause_labels(0, paused=True)
    early = until(
        source, lambda got: sum(len(each.offsets) for each in got if each.topic is InputTopic.PREDICTIONS) == 15
    )
    had = len(of_place(early, InputTopic.LABELS, 0))
    source.detach([1])
    stop_reading(source, cluster.input, 2)
    cluster.fill({partition: [b"1"] * 5 for partition in range(3)})
    late = until(source, lambda got: len(of_place(got, InputTopic.PREDICTIONS, 2)) == 5)
    late += until(source, lambda got: len(of_place([*late, *got], InputTopic.PREDICTIONS, 0)) == 5)
    assert of_place(late, InputTopic.LABELS, 0) == of_place(late, InputTopic.PREDICTIONS, 1) == []
    source.pause_labels(0, paused=False)
    rest = until(source, lambda got: had + len(of_place(got, InputTopic.LABELS, 0)) == 20)
    assert of_place([*early, *rest], InputTopic.LABELS, 0) == list(range(20))


def test_who_waits_behind_others_has_not_stalled(
    cluster: Cluster, source: KafkaSource, caplog: pytest.LogCaptureFixture
) -> None:
    """All inputs wait in one queue: while a worker is busy with a flood of one, the other is late, and no more."""
    cluster.fill({0: [b"%d" % n for n in range(2_000)]})
    source.attach(0, 0, 0, 0)
    source.attach(1, 0, 0, 0)
    consumer, end_s = source._consumer, time.monotonic() + 6.0
    first = source.fetch(1, 5000)
    cluster.fill({1: [b"late"]})
    with caplog.at_level(logging.WARNING, logger="tests.kafka"):
        while time.monotonic() < end_s:
            first += source.fetch(5, 50)
            time.sleep(0.02)
    assert of_place(first, InputTopic.PREDICTIONS, 1) == []
    assert source._consumer is consumer
    assert of_place(
        until(source, lambda got: bool(of_place(got, InputTopic.PREDICTIONS, 1))), InputTopic.PREDICTIONS, 1
    )
