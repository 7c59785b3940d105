"""The history against a real broker: what a partition holds, and readers that end where it ends."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer

from tests.e2e.kafka_corner import WAIT_MAX_S, Cluster
from worker.core.events import InputTopic, RawBatch
from worker.edges.broker import LocalBroker
from worker.edges.kafka import KafkaHistory, KafkaReader, records
from worker.edges.kafka.client import TIMED_OUT
from worker.ports import Bounds, PositionGoneError, SourceError, UnavailableError

_TASKS = Path("/proc/self/task")
_QUICK_CLEANER = {"log.cleaner.backoff.ms": "100", "log.initial.task.delay.ms": "100"}


def _read(reader: KafkaReader, end: int) -> list[RawBatch]:
    """Read up to an end."""
    batches: list[RawBatch] = []
    until = time.monotonic() + WAIT_MAX_S
    while reader.position() < end:
        assert time.monotonic() < until, f"{reader.position()} of {end}"
        batches.append(reader.read(100, 10))
    return batches


def _threads() -> int:
    return len(list(_TASKS.iterdir()))


def _bounds(history: KafkaHistory, topic: InputTopic, partition: int) -> Bounds:
    """Ask until there is an answer: a broker that is busy gives none in time."""
    end = time.monotonic() + WAIT_MAX_S
    while True:
        try:
            return history.bounds(topic, partition)
        except UnavailableError:
            assert time.monotonic() < end, "the broker does not answer"


def _offsets(batches: list[RawBatch]) -> list[int]:
    return [offset for batch in batches for offset in batch.offsets]


def _values(batches: list[RawBatch]) -> list[bytes | None]:
    return [value for batch in batches for value in batch.values]


def _in_transaction(cluster: Cluster, topic: InputTopic, values: list[bytes], *, commit: bool) -> None:
    writer = cluster.writer()
    writer.begin_transaction()
    for value in values:
        writer.produce(cluster.topics[topic], value, partition=0)
    assert writer.flush(WAIT_MAX_S) == 0
    (writer.commit_transaction if commit else writer.abort_transaction)()


def test_bounds_are_the_first_offset_and_the_one_after_the_last(cluster: Cluster) -> None:
    """Empty, filled, and with the oldest records gone; each partition for itself."""
    history = cluster.history()
    assert _bounds(history, InputTopic.LABELS, 1) == Bounds(0, 0)
    cluster.fill({1: [b"x"] * 70}, InputTopic.LABELS)
    assert _bounds(history, InputTopic.LABELS, 1) == Bounds(0, 70)
    cluster.forget(InputTopic.LABELS, 1, 30)
    assert _bounds(history, InputTopic.LABELS, 1) == Bounds(30, 70)
    assert _bounds(history, InputTopic.LABELS, 2) == _bounds(history, InputTopic.PREDICTIONS, 1) == Bounds(0, 0)


def test_an_open_transaction_counts_for_bounds_and_is_read_of_state_alone(cluster: Cluster) -> None:
    """The end is the high watermark. Inputs wait for the transaction; the state does not."""
    writer = cluster.writer()
    writer.begin_transaction()
    for topic in (InputTopic.STATE, InputTopic.PREDICTIONS):
        writer.produce(cluster.topics[topic], b"open", partition=0)
    assert writer.flush(WAIT_MAX_S) == 0
    history = cluster.history()
    assert _bounds(history, InputTopic.STATE, 0) == _bounds(history, InputTopic.PREDICTIONS, 0) == Bounds(0, 1)
    assert _values(_read(cluster.reader(InputTopic.STATE, 0, 0), 1)) == [b"open"]
    predictions = cluster.reader(InputTopic.PREDICTIONS, 0, 0)
    assert list(predictions.read(10, 500).offsets) == []
    assert predictions.position() == 0
    writer.commit_transaction()
    assert _values(_read(predictions, 2)) == [b"open"]


def test_a_partition_that_does_not_exist_is_named(cluster: Cluster) -> None:
    """Neither a topic nor a partition is taken for an empty one, and it does not take long to know."""
    cluster.topics[InputTopic.LABELS] = "nowhere-labels"
    history = cluster.history()
    started = time.monotonic()
    with pytest.raises(SourceError, match=r"nowhere-labels, partition 0: .*does not exist"):
        _bounds(history, InputTopic.LABELS, 0)
    with pytest.raises(SourceError, match=r"predictions, partition 9: .*does not exist"):
        _bounds(history, InputTopic.PREDICTIONS, 9)
    assert time.monotonic() - started < 5.0


def test_a_reader_reads_from_its_offset_to_the_end(cluster: Cluster) -> None:
    """Batches are named, bounded and in order; a read that does not wait returns at once."""
    values = [b"%d" % n for n in range(500)]
    cluster.fill({3: values}, InputTopic.LABELS)
    reader = cluster.reader(InputTopic.LABELS, 3, 17)
    assert reader.position() == 17
    batches = _read(reader, 500)
    assert _offsets(batches) == list(range(17, 500))
    assert _values(batches) == values[17:]
    assert {(batch.topic, batch.partition) for batch in batches} == {(InputTopic.LABELS, 3)}
    assert max(len(batch.offsets) for batch in batches) <= 100
    assert batches[-1].headers[-1] == [("source", b"test")]
    seconds = []
    for _ in range(5):
        started = time.monotonic()
        assert reader.read(100, 0) == RawBatch(3, [], [], [], [], [], InputTopic.LABELS)
        seconds.append(time.monotonic() - started)
    assert min(seconds) < 0.01
    assert reader.position() == 500


def test_the_first_record_comes_within_100_ms(cluster: Cluster) -> None:
    """A restore opens readers one after the other: each of them connects, asks and answers quickly."""
    cluster.fill({0: [b"x"] * 10})
    seconds = []
    for _ in range(5):
        started = time.monotonic()
        reader = cluster.reader(InputTopic.PREDICTIONS, 0, 5)
        assert reader.read(10, 5_000).offsets[0] == 5
        seconds.append(time.monotonic() - started)
    assert min(seconds) < 0.1


def test_what_is_no_record_is_passed(cluster: Cluster) -> None:
    """Markers and aborted records take offsets at the end, too: a reader says that it is past them."""
    for topic in (InputTopic.PREDICTIONS, InputTopic.STATE):
        _in_transaction(cluster, topic, [b"a", b"b"], commit=True)
        _in_transaction(cluster, topic, [b"aborted"] * 3, commit=False)
        _in_transaction(cluster, topic, [b"c"], commit=True)
        _in_transaction(cluster, topic, [b"aborted"], commit=False)
    history = cluster.history()
    assert _bounds(history, InputTopic.PREDICTIONS, 0) == _bounds(history, InputTopic.STATE, 0) == Bounds(0, 11)
    predictions = _read(cluster.reader(InputTopic.PREDICTIONS, 0, 0), 11)
    assert (_offsets(predictions), _values(predictions)) == ([0, 1, 7], [b"a", b"b", b"c"])
    # What is aborted is told from the rest by the pointer that names the records of a snapshot.
    assert _offsets(_read(cluster.reader(InputTopic.STATE, 0, 0), 11)) == [0, 1, 3, 4, 5, 7, 9]
    # Who has no pointer must not take it for real.
    committed = history.open(InputTopic.STATE, 0, 0, committed=True)
    assert _offsets(_read(committed, 11)) == [0, 1, 7]
    committed.close()
    nothing = cluster.reader(InputTopic.PREDICTIONS, 0, 9)
    assert _offsets(_read(nothing, 11)) == []
    nothing.seek(8)
    assert nothing.position() == 8
    assert _offsets(_read(nothing, 11)) == []


def test_seek_drops_what_was_read_ahead(cluster: Cluster) -> None:
    """Forwards and backwards, in the midst of reading: the next record is the one that was asked for."""
    cluster.fill({0: [b"%d" % n for n in range(20_000)]})
    reader = cluster.reader(InputTopic.PREDICTIONS, 0, 0)
    for offset in (15_000, 3, 19_999, 0, 7_000, 6_999, 6_999, 12_345):
        reader.seek(offset)
        assert reader.position() == offset
        assert (batch := reader.read(50, 5_000)).offsets[0] == offset
        assert list(batch.values) == [b"%d" % n for n in batch.offsets]
        assert reader.position() == batch.offsets[-1] + 1


def test_an_offset_that_is_gone_is_told_apart(cluster: Cluster) -> None:
    """Before the first record or after the end: told each time, until the reader is sent elsewhere."""
    cluster.fill({0: [b"%d" % n for n in range(100)]}, InputTopic.STATE)
    cluster.forget(InputTopic.STATE, 0, 50)
    reader = cluster.reader(InputTopic.STATE, 0, 10)
    for offset in (10, 10, 101):
        reader.seek(offset)
        for _ in range(2):
            with pytest.raises(PositionGoneError, match=rf"state, partition 0: offset {offset} is not there"):
                reader.read(10, 5_000)
    reader.seek(50)
    assert _offsets(_read(reader, 100)) == list(range(50, 100))


def test_an_error_that_passes_loses_nothing(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was delivered before it counts; what came behind it is read again."""
    cluster.fill({0: [b"%d" % n for n in range(100)]})
    reader = cluster.reader(InputTopic.PREDICTIONS, 0, 0)
    take, failures = records.take, [1, 2]

    def failing(consumer: Consumer, records_max: int, wait_ms: int) -> list[Message]:
        messages = take(consumer, records_max, wait_ms)
        if len(messages) > 5 and failures:
            failures.pop()
            messages.insert(5, Message(topic=cluster.input, partition=0, error=KafkaError(TIMED_OUT)))
        return messages

    monkeypatch.setattr("worker.edges.kafka.history.take", failing)
    assert _offsets(_read(reader, 100)) == list(range(100))
    assert failures == []


@pytest.mark.skipif(not _TASKS.exists(), reason="threads are counted by Linux")
def test_closed_readers_leave_no_threads(cluster: Cluster) -> None:
    """Also while reading, after a seek, and unused; closing does not wait, and does no harm twice."""
    cluster.fill({0: [b"x"] * 1000})
    history = cluster.history()
    _bounds(history, InputTopic.PREDICTIONS, 0)
    before, seconds = _threads(), 0.0
    for number in range(30):
        reader = history.open(InputTopic.PREDICTIONS, 0, number)
        if number % 3:
            reader.read(10, 1_000)
        if number % 3 == 2:
            reader.seek(5)
        started = time.monotonic()
        reader.close()
        reader.close()
        seconds += time.monotonic() - started
    assert seconds < 1.0
    end = time.monotonic() + WAIT_MAX_S
    while _threads() > before:
        assert time.monotonic() < end, f"{_threads() - before} threads are left"
        time.sleep(0.05)


@contextmanager
def _own_broker(prefix: str) -> Iterator[tuple[LocalBroker, Cluster]]:
    with LocalBroker(properties=_QUICK_CLEANER) as broker:
        cluster = Cluster(broker.bootstrap_servers, prefix)
        yield broker, cluster
        cluster.close()


def _write_again_and_again(cluster: Cluster) -> None:
    """Fill a compacted state topic: ten keys, twenty times each, one of them with a tombstone at last."""
    name = f"{cluster.topics[InputTopic.STATE]}-compacted"
    config = {"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.01"}
    cluster.create(name, 1, config)
    cluster.topics[InputTopic.STATE] = name
    producer = Producer({"bootstrap.servers": cluster.servers})
    for number in range(20):
        for key in range(10):
            value = None if (number, key) == (19, 9) else b"%d" % number
            producer.produce(name, value, b"%d" % key, 0)
        assert producer.flush(WAIT_MAX_S) == 0
        time.sleep(0.11)


def test_gaps_of_compaction_are_passed_and_a_dead_broker_is_waited_for(topic_prefix: str) -> None:
    """A reader of compacted state finds the latest of each key; while Kafka is away, it finds nothing, and goes on."""
    with _own_broker(topic_prefix) as (broker, cluster):
        _write_again_and_again(cluster)
        history = cluster.history()
        end = _bounds(history, InputTopic.STATE, 0).end
        assert end == 200
        until = time.monotonic() + 30
        while len(offsets := _offsets(batches := _read(cluster.reader(InputTopic.STATE, 0, 0), end))) > 100:
            assert time.monotonic() < until, "the broker does not compact"
            time.sleep(0.5)
        assert offsets == sorted(set(offsets))
        latest = {key: value for batch in batches for key, value in zip(batch.keys, batch.values, strict=True)}
        assert latest == {b"%d" % key: None if key == 9 else b"19" for key in range(10)}
        reader = cluster.reader(InputTopic.STATE, 0, end)
        assert list(reader.read(10, 100).offsets) == []
        broker.kill()
        started = time.monotonic()
        for _ in range(2):
            with pytest.raises(UnavailableError, match="compacted, partition 0"):
                history.bounds(InputTopic.STATE, 0)
            assert list(reader.read(10, 10).offsets) == []
        late = history.open(InputTopic.STATE, 0, end)
        assert list(late.read(10, 10).offsets) == []
        late.close()
        assert time.monotonic() - started < 5.0
        broker.start()
        producer = Producer({"bootstrap.servers": cluster.servers})
        producer.produce(cluster.topics[InputTopic.STATE], b"back", b"k", 0)
        assert producer.flush(WAIT_MAX_S) == 0
        assert _values(_read(reader, end + 1)) == [b"back"]
