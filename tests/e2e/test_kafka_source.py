"""The source against a real broker: both inputs at explicit offsets, each record once, in order."""

import time

import pytest

from tests.e2e.kafka_corner import Cluster, fetched
from tests.sim.rigs import PARTITIONS
from worker.core.events import InputTopic
from worker.ports import SourceError


def test_a_source_delivers_columns_in_order(cluster: Cluster) -> None:
    """5,000 records in four partitions: every one once, in order, with its key, headers and time."""
    values = {partition: [b"%d-%d" % (partition, n) for n in range(1250)] for partition in range(PARTITIONS)}
    before_ms = int(time.time() * 1000)
    cluster.fill(values)
    source = cluster.source()
    for partition in range(PARTITIONS):
        source.attach(partition, 0, 0, 0)
    batches = fetched(source, 5000)
    for partition in range(PARTITIONS):
        of_partition = [batch for batch in batches if batch.partition == partition]
        assert [value for batch in of_partition for value in batch.values] == values[partition]
        assert [offset for batch in of_partition for offset in batch.offsets] == list(range(1250))
    for batch in batches:
        assert len({len(column) for column in batch[1:6]}) == 1
        assert set(batch.keys) == {b"key"}
        assert batch.headers[0] == [("source", b"test")]
        assert min(batch.timestamps_ms) >= before_ms - 1000
    assert source.fetch(100, 0) == []


def test_a_source_starts_exactly_where_it_is_told(cluster: Cluster) -> None:
    """An offset means that record first; detached partitions are silent; attached again, they begin where told."""
    cluster.fill({0: [b"%d" % n for n in range(2000)], 1: [b"other"] * 2000})
    source = cluster.source()
    source.attach(0, 17, 0, 0)
    source.attach(1, 0, 0, 0)
    assert source.fetch(1, 5000)
    source.detach([0, 1, 3])
    assert source.fetch(1000, 200) == []
    source.attach(0, 1234, 0, 0)
    (first, *_) = fetched(source, 10)
    assert (first.partition, first.offsets[0], first.values[0]) == (0, 1234, b"1234")


def test_a_source_whose_offset_is_gone_says_what_to_do(cluster: Cluster) -> None:
    """An offset that the partition does not have stops the worker: nothing is skipped silently."""
    source = cluster.source()
    source.attach(0, 999, 0, 0)
    with pytest.raises(SourceError, match=r"partition 0: .* reset the offset"):
        fetched(source, 1)


def test_predictions_and_labels_come_side_by_side(cluster: Cluster) -> None:
    """One batch for each topic and partition in each fetch, named, in order, from the two offsets of the shard."""
    values = {partition: [b"%d-%d" % (partition, n) for n in range(1000)] for partition in range(PARTITIONS)}
    cluster.fill(values)
    cluster.fill(values, InputTopic.LABELS)
    source = cluster.source()
    for partition in range(PARTITIONS):
        source.attach(partition, 10 * partition, 100, 0)
    found: dict[tuple[InputTopic, int], list[int]] = {}
    while sum(map(len, found.values())) < 7540:
        batches = source.fetch(300, 1000)
        assert len({(batch.topic, batch.partition) for batch in batches}) == len(batches)
        for batch in batches:
            assert list(batch.values) == [values[batch.partition][offset] for offset in batch.offsets]
            found.setdefault((batch.topic, batch.partition), []).extend(batch.offsets)
    for partition in range(PARTITIONS):
        assert found[InputTopic.PREDICTIONS, partition] == list(range(10 * partition, 1000))
        assert found[InputTopic.LABELS, partition] == list(range(100, 1000))


@pytest.mark.parametrize(
    ("flooded", "other"),
    [(InputTopic.PREDICTIONS, InputTopic.LABELS), (InputTopic.LABELS, InputTopic.PREDICTIONS)],
)
def test_a_flood_on_one_topic_does_not_starve_the_other(
    cluster: Cluster, flooded: InputTopic, other: InputTopic
) -> None:
    """What comes in during a flood is read after at most what is read ahead, not after the flood."""
    cluster.fill({0: [b"x" * 100] * 400_000}, flooded)
    source = cluster.source()
    source.attach(0, 0, 0, 0)
    read = sum(len(batch.offsets) for batch in fetched(source, 1000))
    time.sleep(1.0)  # until the queue is full
    cluster.fill({0: [b"in the midst"]}, other)
    while True:
        batches = source.fetch(1000, 1000)
        if any(batch.topic is other for batch in batches):
            break
        read += sum(len(batch.offsets) for batch in batches)
    assert 1000 <= read < 300_000


def test_records_of_aborted_transactions_are_passed_over(cluster: Cluster) -> None:
    """An upstream that writes in transactions is read committed; offsets then have gaps."""
    writer = cluster.writer()
    for number in range(4):
        writer.begin_transaction()
        writer.produce(cluster.input, b"%d" % number, partition=0)
        writer.flush()
        (writer.abort_transaction if number % 2 else writer.commit_transaction)()
    source = cluster.source()
    source.attach(0, 0, 0, 0)
    batches = fetched(source, 2)
    assert [offset for batch in batches for offset in batch.offsets] == [0, 4]
    assert [value for batch in batches for value in batch.values] == [b"0", b"2"]


def test_a_pause_ends_with_the_assignment(cluster: Cluster) -> None:
    """A partition that goes away with its labels paused, and comes back, gives its labels again."""
    cluster.fill({0: [b"%d" % n for n in range(50)]}, InputTopic.LABELS)
    source = cluster.source()
    source.attach(0, 0, 0, 0)
    fetched(source, 10)
    source.pause_labels(0, paused=True)
    source.detach([0])
    source.attach(0, 0, 20, 0)
    batches = fetched(source, 30)
    assert [offset for batch in batches for offset in batch.offsets] == list(range(20, 50))


def test_a_source_tells_whether_there_is_more(cluster: Cluster) -> None:
    """Before the first answer, and while records are left, there may be more; at the end there is not."""
    source = cluster.source()
    cluster.fill({0: [b"%d" % n for n in range(500)]})
    source.attach(0, 0, 0, 0)
    source.attach(1, 0, 0, 0)
    assert source.may_have_more(0)
    fetched(source, 500)
    assert not source.may_have_more(0)
    for _ in range(20):
        source.fetch(10, 100)
    assert not source.may_have_more(1)


def test_paused_labels_go_on_where_they_stopped(cluster: Cluster) -> None:
    """While labels are paused predictions come alone; afterwards every label comes, once, in order."""
    values = [b"%d" % n for n in range(3000)]
    cluster.fill({0: values})
    cluster.fill({0: values}, InputTopic.LABELS)
    source = cluster.source()
    source.attach(0, 0, 0, 0)
    labels: list[int] = []
    predictions = 0
    while len(labels) < 500:
        for batch in source.fetch(100, 1000):
            if batch.topic is InputTopic.LABELS:
                labels += batch.offsets
            else:
                predictions += len(batch.offsets)
    source.pause_labels(0, paused=True)
    while predictions < 3000:
        for batch in source.fetch(100, 1000):
            assert batch.topic is InputTopic.PREDICTIONS
            predictions += len(batch.offsets)
    assert source.fetch(100, 300) == []
    source.pause_labels(0, paused=False)
    while len(labels) < 3000:
        for batch in source.fetch(100, 1000):
            labels += batch.offsets
    assert labels == list(range(3000))
