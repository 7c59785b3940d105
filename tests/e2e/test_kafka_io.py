"""The Kafka edge against a real broker: what a reader of committed records sees, and who owns what."""

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined] # not listed in its __all__

from worker.core.events import Output, OutputTopic, RawBatch
from worker.edges.broker import LocalBroker
from worker.edges.kafka import KafkaConnection, KafkaMembership, KafkaSink, KafkaSource
from worker.edges.kafka.oversize import TRUNCATED_HEADER
from worker.ports import CommitOutcome, Position, PositionUnstableError, SinkError, SourceError

_PARTITIONS = 4
_WAIT_MAX_S = 15.0
_QUICK = {"session.timeout.ms": "1500", "heartbeat.interval.ms": "300", "max.poll.interval.ms": "1500"}


class Cluster:
    """One test's corner of the broker: topics, clients with short names, and a way to look at what is committed."""

    def __init__(self, servers: str, prefix: str) -> None:
        self.connection = KafkaConnection(servers, logger=logging.getLogger("tests.kafka"))
        self.servers = servers
        self.group = f"{prefix}group"
        self.input = f"{prefix}predictions"
        self.outputs = {topic: f"{prefix}{topic}" for topic in OutputTopic}
        self._admin = AdminClient({"bootstrap.servers": servers})
        self._closing: list[Callable[[], object]] = []
        self.create(self.input, _PARTITIONS)
        for name in self.outputs.values():
            self.create(name, 2)

    def create(self, topic: str, partitions: int, config: Mapping[str, str] | None = None) -> None:
        """Create a topic and wait for it."""
        new = NewTopic(topic, partitions, 1, config=dict(config or {}))
        self._admin.create_topics([new])[topic].result(_WAIT_MAX_S)

    def delete(self, topic: str) -> None:
        """Delete a topic."""
        self._admin.delete_topics([topic])[topic].result(_WAIT_MAX_S)

    def member(self, properties: Mapping[str, str] | None = None) -> KafkaMembership:
        """Join the group."""
        connection = KafkaConnection(self.servers, properties or {}, self.connection.logger)
        return KafkaMembership(connection, group_id=self.group, topic=self.input)

    def sink(self, member: KafkaMembership, name: str = "worker-0", **timeouts: int) -> KafkaSink:
        """Build a sink fenced by a member; closed at the end."""
        sink = KafkaSink(
            self.connection,
            transactional_id=f"{self.group}-{name}",
            group_metadata=member.group_metadata,
            input_topic=self.input,
            topic_names=self.outputs,
            **timeouts,
        )
        self._closing.append(sink.close)
        return sink

    def source(self, topic: str | None = None, **options: str) -> KafkaSource:
        """Build a source; closed at the end."""
        # A topic that is not known yet gets 30 s to become known, by default.
        connection = KafkaConnection(self.servers, {"topic.metadata.propagation.max.ms": "500"}, self.connection.logger)
        source = KafkaSource(connection, group_id=self.group, topic=topic or self.input, **options)  # type: ignore[arg-type] # start_at
        self._closing.append(source.close)
        return source

    def fill(self, values: Mapping[int, Sequence[bytes]], topic: str | None = None) -> None:
        """Write records into partitions of the input."""
        producer = Producer({"bootstrap.servers": self.servers, "linger.ms": 5})
        for partition, records in values.items():
            for value in records:
                producer.produce(topic or self.input, value, b"key", partition, headers=[("source", b"test")])
        assert producer.flush(_WAIT_MAX_S) == 0

    def visible(self, kind: OutputTopic) -> list[Message]:
        """Return what a reader of committed records finds in an output topic, when no transaction is open there."""
        places = [TopicPartition(self.outputs[kind], partition, 0) for partition in range(2)]
        with closing(self._reader("read_committed")) as reader, closing(self._reader("read_uncommitted")) as all_reader:
            end = time.monotonic() + _WAIT_MAX_S
            while any(_ends(reader, place) != _ends(all_reader, place) for place in places):
                assert time.monotonic() < end, "a transaction stays open"
                time.sleep(0.01)
            reader.assign(places)
            found, ends = [], 0
            while ends < len(places):
                message = reader.poll(_WAIT_MAX_S)
                assert message is not None
                if message.error() is None:
                    found.append(message)
                else:
                    ends += 1
        return found

    def _reader(self, isolation: str) -> Consumer:
        return Consumer(
            {
                "bootstrap.servers": self.servers,
                "group.id": uuid.uuid4().hex,
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": isolation,
            }
        )

    def values(self, kind: OutputTopic) -> list[bytes | None]:
        """Return the visible values of an output topic."""
        return [message.value() for message in self.visible(kind)]

    def close(self) -> None:
        """Close what is still open."""
        for close in self._closing:
            close()


class Listener:
    """Writes down what the group decides."""

    def __init__(self, on_revoke: Callable[[Sequence[int]], object] | None = None) -> None:
        self.owned: set[int] = set()
        self.lost_ones: set[int] = set()
        self._on_revoke = on_revoke

    def assigned(self, partitions: Sequence[int]) -> None:
        """Take over."""
        self.owned.update(partitions)

    def revoked(self, partitions: Sequence[int]) -> None:
        """Give up."""
        if self._on_revoke is not None:
            self._on_revoke(partitions)
        self.owned.difference_update(partitions)

    def lost(self, partitions: Sequence[int]) -> None:
        """Forget."""
        self.lost_ones.update(partitions)
        self.owned.difference_update(partitions)


@pytest.fixture
def cluster(kafka: str, topic_prefix: str) -> Iterator[Cluster]:
    """Topics of this test alone."""
    cluster = Cluster(kafka, topic_prefix)
    yield cluster
    cluster.close()


def _ends(reader: Consumer, place: TopicPartition) -> int:
    return reader.get_watermark_offsets(place, timeout=_WAIT_MAX_S)[1]


def _until(reached: Callable[[], bool], *members: tuple[KafkaMembership, Listener]) -> None:
    end = time.monotonic() + _WAIT_MAX_S
    while not reached():
        assert time.monotonic() < end, "the group did not settle"
        for member, listener in members:
            member.poll(listener)
        time.sleep(0.01)


def _joined(cluster: Cluster, properties: Mapping[str, str] | None = None) -> tuple[KafkaMembership, Listener]:
    member, listener = cluster.member(properties), Listener()
    _until(lambda: len(listener.owned) == _PARTITIONS, (member, listener))
    return member, listener


def _settled(member: KafkaMembership) -> Mapping[int, Position | None]:
    end = time.monotonic() + _WAIT_MAX_S
    while True:
        try:
            return member.committed([0])
        except PositionUnstableError:
            assert time.monotonic() < end, "the positions stay unstable"


def _alert(value: bytes, shard: int = 0, offset: int = 0) -> Output:
    return Output(OutputTopic.ALERTS, shard, offset, b"key", value, (("kind", b"test"),))


def _fetched(source: KafkaSource, count: int) -> list[RawBatch]:
    batches: list[RawBatch] = []
    end = time.monotonic() + _WAIT_MAX_S
    while sum(len(batch.offsets) for batch in batches) < count:
        assert time.monotonic() < end, "the records did not come"
        batches += source.fetch(1000, 100)
    return batches


def test_a_transaction_shows_outputs_and_positions_together(cluster: Cluster) -> None:
    """What one commit sends, a reader sees once; the position and its metadata read back exactly as sent."""
    member, listener = _joined(cluster)
    sink = cluster.sink(member)
    assert member.committed([0, 1]) == {0: None, 1: None}
    metadata = "m" * 4000
    positions = {0: Position(7, metadata), 3: Position(11, "")}
    assert sink.commit([_alert(b"one"), _alert(b"two")], positions) is CommitOutcome.COMMITTED
    assert cluster.values(OutputTopic.ALERTS) == [b"one", b"two"]
    assert cluster.visible(OutputTopic.ALERTS)[0].headers() == [("kind", b"test")]
    assert member.committed([0, 1, 3]) == {0: Position(7, metadata), 1: None, 3: Position(11, "")}
    assert sink.commit([], {}) is CommitOutcome.COMMITTED
    member.close(listener)
    assert listener.owned == set()


def test_an_aborted_transaction_leaves_nothing_and_can_be_sent_again(cluster: Cluster) -> None:
    """A stale generation aborts the transaction; the same bytes go through afterwards, once, with the same producer."""
    member, listener = _joined(cluster)
    metadata = member.group_metadata()
    stale = metadata.replace(b"CGMDv2:" + metadata[7:11], b"CGMDv2:" + (99).to_bytes(4, "little"))
    answers = [stale, metadata]
    sink = KafkaSink(
        cluster.connection,
        transactional_id=f"{cluster.group}-x",
        group_metadata=lambda: answers.pop(0),
        input_topic=cluster.input,
        topic_names=cluster.outputs,
    )
    outputs, positions = [_alert(b"again")], {0: Position(5)}
    assert sink.commit(outputs, positions) is CommitOutcome.ABORTED
    assert cluster.values(OutputTopic.ALERTS) == []
    assert member.committed([0]) == {0: None}
    assert sink.commit(outputs, positions) is CommitOutcome.COMMITTED
    assert cluster.values(OutputTopic.ALERTS) == [b"again"]
    assert member.committed([0]) == {0: Position(5)}
    sink.close()
    member.close(listener)


def test_two_members_share_and_hand_over(cluster: Cluster) -> None:
    """The second member gets half, with what the first one committed while giving it up; then all, when that leaves."""
    first = cluster.member()
    sink = cluster.sink(first)
    outcomes: list[CommitOutcome] = []

    def commit(partitions: Sequence[int]) -> None:
        positions = {partition: Position(100 + partition) for partition in partitions}
        outcomes.append(sink.commit([_alert(b"handed over")], positions))

    one, two = Listener(commit), Listener()
    _until(lambda: len(one.owned) == _PARTITIONS, (first, one))
    second = cluster.member()
    _until(lambda: len(one.owned) == len(two.owned) == _PARTITIONS // 2, (first, one), (second, two))
    assert one.owned.isdisjoint(two.owned)
    assert second.committed(sorted(two.owned)) == {partition: Position(100 + partition) for partition in two.owned}
    first.close(one)
    _until(lambda: len(two.owned) == _PARTITIONS, (second, two))
    assert second.committed([0, 1, 2, 3]) == {partition: Position(100 + partition) for partition in range(4)}
    assert set(outcomes) == {CommitOutcome.COMMITTED}
    assert cluster.values(OutputTopic.ALERTS) == [b"handed over"] * len(outcomes)
    second.close(two)


def test_a_zombie_cannot_commit(cluster: Cluster) -> None:
    """A worker that hung until others took its partitions gets nothing through, before and after it learns of it."""
    hung, mine = _joined(cluster, _QUICK)
    sink = cluster.sink(hung, "hung")
    successor, theirs = cluster.member(), Listener()
    _until(lambda: len(theirs.owned) == _PARTITIONS, (successor, theirs))
    heir = cluster.sink(successor, "heir")
    assert heir.commit([_alert(b"heir")], {0: Position(20)}) is CommitOutcome.COMMITTED
    assert sink.commit([_alert(b"zombie")], {0: Position(10)}) is CommitOutcome.ABORTED
    _until(lambda: mine.lost_ones == {0, 1, 2, 3}, (hung, mine))
    assert sink.commit([_alert(b"zombie")], {0: Position(10)}) is CommitOutcome.ABORTED
    assert cluster.values(OutputTopic.ALERTS) == [b"heir"]
    assert successor.committed([0]) == {0: Position(20)}
    hung.close(mine)
    successor.close(theirs)


def test_the_same_transactional_id_fences_the_older_producer(cluster: Cluster) -> None:
    """A second process with this worker's name ends the first one, and only the first one."""
    member, listener = _joined(cluster)
    older = cluster.sink(member)
    newer = cluster.sink(member)
    assert older.commit([_alert(b"older")], {0: Position(1)}) is CommitOutcome.FENCED
    assert newer.commit([_alert(b"newer")], {0: Position(2)}) is CommitOutcome.COMMITTED
    newer.replace()
    assert newer.commit([_alert(b"newest")], {0: Position(3)}) is CommitOutcome.COMMITTED
    assert cluster.values(OutputTopic.ALERTS) == [b"newer", b"newest"]
    member.close(listener)


def test_a_shard_keeps_to_one_partition_of_an_output_topic(cluster: Cluster) -> None:
    """Outputs of one shard are read in their order, also where the topic has fewer partitions than there are shards."""
    member, listener = _joined(cluster)
    outputs = [_alert(b"%d" % number, shard=number % 3) for number in range(30)]
    assert cluster.sink(member).commit(outputs, {}) is CommitOutcome.COMMITTED
    found = cluster.visible(OutputTopic.ALERTS)
    for shard in range(3):
        of_shard = [m for m in found if m.value() and int(m.value() or b"") % 3 == shard]
        assert [m.value() for m in of_shard] == [b"%d" % number for number in range(shard, 30, 3)]
        assert {m.partition() for m in of_shard} == {shard % 2}
    member.close(listener)


def test_oversize_dead_letters_are_cut_and_other_outputs_refused(cluster: Cluster) -> None:
    """A dead letter too large for the topic arrives in part, marked; an alert stops the worker with a clear message."""
    member, listener = _joined(cluster)
    sink = cluster.sink(member)
    headers = (("modelvigil.reason", b"too_large"), ("foreign", b"h" * 600_000))
    large = Output(OutputTopic.DEAD_LETTERS, 0, 3, b"k" * 500_000, b"v" * 3_000_000, headers)
    small = Output(OutputTopic.DEAD_LETTERS, 0, 4, None, None, ())
    assert sink.commit([large, small], {0: Position(5)}) is CommitOutcome.COMMITTED
    cut, whole = cluster.visible(OutputTopic.DEAD_LETTERS)
    assert len(cut.value() or b"") > 700_000
    assert len(cut.key() or b"") > 200_000
    mark = (TRUNCATED_HEADER, b"value=3000000 key=500000 headers=2")
    assert cut.headers() == [("modelvigil.reason", b"too_large"), mark]
    assert (whole.key(), whole.value()) == (None, None)
    with pytest.raises(SinkError, match=r"2000011 bytes .* message\.max\.bytes"):
        sink.commit([_alert(b"before"), _alert(b"x" * 2_000_000)], {0: Position(6)})
    assert cluster.values(OutputTopic.ALERTS) == []
    assert sink.commit([_alert(b"after")], {0: Position(6)}) is CommitOutcome.COMMITTED
    member.close(listener)


def test_a_topic_that_takes_less_than_the_producer_sends_is_named(cluster: Cluster) -> None:
    """The broker's own limit is only known after sending: the message says which topic and what to set."""
    member, listener = _joined(cluster)
    cluster.create(f"{cluster.input}-narrow", 1, {"max.message.bytes": "1000"})
    cluster.outputs[OutputTopic.METRICS] = f"{cluster.input}-narrow"
    noise = b"".join(uuid.uuid4().bytes for _ in range(200))
    with pytest.raises(SinkError, match=r"narrow refuses a record .* max\.message\.bytes"):
        cluster.sink(member).commit([Output(OutputTopic.METRICS, 0, 0, None, noise)], {0: Position(1)})
    assert member.committed([0]) == {0: None}
    member.close(listener)


def test_a_missing_output_topic_is_named(cluster: Cluster) -> None:
    """A sink without its topics does not start."""
    member = cluster.member()
    cluster.outputs[OutputTopic.METRICS] = f"{cluster.input}-nowhere"
    with pytest.raises(SinkError, match=r"nowhere cannot be written.*topics create"):
        cluster.sink(member)
    member.close(Listener())


def test_a_source_delivers_columns_in_order(cluster: Cluster) -> None:
    """5,000 records in four partitions: every one once, in order, with its key, headers and time."""
    values = {partition: [b"%d-%d" % (partition, n) for n in range(1250)] for partition in range(_PARTITIONS)}
    before_ms = int(time.time() * 1000)
    cluster.fill(values)
    source = cluster.source()
    for partition in range(_PARTITIONS):
        source.attach(partition, None)
    batches = _fetched(source, 5000)
    for partition in range(_PARTITIONS):
        of_partition = [batch for batch in batches if batch.partition == partition]
        assert [value for batch in of_partition for value in batch.values] == values[partition]
        assert [offset for batch in of_partition for offset in batch.offsets] == list(range(1250))
    for batch in batches:
        assert len({len(column) for column in batch[1:]}) == 1
        assert set(batch.keys) == {b"key"}
        assert batch.headers[0] == [("source", b"test")]
        assert min(batch.timestamps_ms) >= before_ms - 1000
    assert source.fetch(100, 0) == []


def test_a_source_starts_exactly_where_it_is_told(cluster: Cluster) -> None:
    """An offset means that record first; detached partitions are silent; attached again, they begin where told."""
    cluster.fill({0: [b"%d" % n for n in range(2000)], 1: [b"other"] * 2000})
    source = cluster.source()
    source.attach(0, 17)
    source.attach(1, 0)
    assert source.fetch(1, 5000)
    source.detach([0, 1, 3])
    assert source.fetch(1000, 200) == []
    source.attach(0, 1234)
    (first, *_) = _fetched(source, 10)
    assert (first.partition, first.offsets[0], first.values[0]) == (0, 1234, b"1234")


def test_latest_means_the_end_at_the_time_of_attaching(cluster: Cluster) -> None:
    """What is written between attaching and the first fetch is read; what was there before is not."""
    cluster.fill({2: [b"old"] * 50})
    source = cluster.source(start_at="latest")
    source.attach(2, None)
    cluster.fill({2: [b"new"]})
    (batch,) = _fetched(source, 1)
    assert (list(batch.offsets), list(batch.values)) == ([50], [b"new"])


def test_a_source_whose_offset_is_gone_says_what_to_do(cluster: Cluster) -> None:
    """An offset that the partition does not have stops the worker: nothing is skipped silently."""
    source = cluster.source()
    source.attach(0, 999)
    with pytest.raises(SourceError, match=r"partition 0: .* reset the offset"):
        _fetched(source, 1)


def test_a_topic_that_is_deleted_stops_the_worker(cluster: Cluster) -> None:
    """A worker without its topic must not look idle. The data consumer does not notice; the membership does."""
    member, listener = _joined(cluster, {"topic.metadata.refresh.interval.ms": "300"})
    cluster.delete(cluster.input)
    with pytest.raises(SourceError, match="does not exist"):
        _until(lambda: False, (member, listener))
    member.close(listener)


def test_a_group_without_its_topic_says_so(cluster: Cluster) -> None:
    """A group whose topic does not exist never assigns anything: it says so instead of waiting."""
    cluster.input = "no-such-topic"
    member, listener = cluster.member({"topic.metadata.propagation.max.ms": "500"}), Listener()
    with pytest.raises(SourceError, match="does not exist"):
        _until(lambda: False, (member, listener))
    member.close(listener)


def test_an_exception_in_a_group_callback_reaches_the_loop(cluster: Cluster) -> None:
    """A failed assertion inside a callback must crash the worker, not vanish in librdkafka."""

    class Broken(Listener):
        def assigned(self, partitions: Sequence[int]) -> None:
            assert not partitions, "broken on purpose"

    member = cluster.member()
    with pytest.raises(AssertionError, match="on purpose"):
        _until(lambda: False, (member, Broken()))
    member.close(Listener())


def test_a_broker_that_dies_leaves_an_unknown_outcome_and_a_new_producer_goes_on(topic_prefix: str) -> None:
    """No call hangs, nothing is doubled: the position that is read back says whether to send again."""
    with LocalBroker() as broker:
        cluster = Cluster(broker.bootstrap_servers, topic_prefix)
        member, listener = _joined(cluster)
        sink = cluster.sink(member, commit_timeout_ms=1_500, start_timeout_ms=10_000)
        assert sink.commit([_alert(b"before")], {0: Position(1)}) is CommitOutcome.COMMITTED
        broker.kill()
        started = time.monotonic()
        assert sink.commit([_alert(b"after")], {0: Position(2)}) is CommitOutcome.UNKNOWN
        with pytest.raises(PositionUnstableError):
            member.committed([0])
        assert time.monotonic() - started < 5.0
        broker.start()
        sink.replace()
        assert _settled(member) == {0: Position(1)}
        assert sink.commit([_alert(b"after")], {0: Position(2)}) is CommitOutcome.COMMITTED
        assert cluster.values(OutputTopic.ALERTS) == [b"before", b"after"]
        member.close(listener)
        cluster.close()
    with pytest.raises(SinkError, match="no transactions possible"):
        cluster.sink(member, start_timeout_ms=300)
