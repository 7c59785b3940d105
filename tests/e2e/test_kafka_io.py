"""The sink against a real broker: what a reader of committed records sees, and what a commit says of itself."""

import random
import time
import uuid
from collections.abc import Mapping, Sequence

import pytest
from confluent_kafka import KafkaError, KafkaException, Message

from tests.e2e.kafka_corner import WAIT_MAX_S, Cluster, alert, joined
from tests.sim.rigs import Listener
from worker.core.events import InputTopic, Output, OutputTopic
from worker.edges.broker import LocalBroker
from worker.edges.kafka import KafkaMembership
from worker.edges.kafka.client import TIMED_OUT
from worker.edges.kafka.oversize import TRUNCATED_HEADER
from worker.ports import (
    Commit,
    CommitOutcome,
    Position,
    PositionUnstableError,
    SinkError,
    StateRecord,
)

_COMMITTED = Commit(CommitOutcome.COMMITTED)
_ABORTED = Commit(CommitOutcome.ABORTED)


def _settled(member: KafkaMembership) -> Mapping[int, Position | None]:
    end = time.monotonic() + WAIT_MAX_S
    while True:
        try:
            return member.committed([0])
        except PositionUnstableError:
            assert time.monotonic() < end, "the positions stay unstable"


def _stale(metadata: bytes) -> bytes:
    """Return the group metadata as of another generation."""
    return metadata.replace(b"CGMDv2:" + metadata[7:11], b"CGMDv2:" + (99).to_bytes(4, "little"))


def _noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def _where(records: Sequence[Message]) -> list[tuple[int | None, int | None, bytes | None, bytes | None]]:
    return [(record.partition(), record.offset(), record.key(), record.value()) for record in records]


def test_a_transaction_shows_outputs_and_positions_together(cluster: Cluster) -> None:
    """What one commit sends, tombstones too, a reader sees once; position and metadata read back exactly as sent."""
    member, listener = joined(cluster)
    sink = cluster.sink(member)
    assert member.committed([0, 1]) == {0: None, 1: None}
    metadata = "m" * 4000
    positions = {0: Position(7, metadata), 3: Position(11, "")}
    resolved = Output(OutputTopic.INCIDENTS, 0, 0, b"incident", None, (("modelvigil.lag_ms", b"61000"),))
    assert sink.commit([alert(b"one"), alert(b"two"), resolved], positions) == _COMMITTED
    assert cluster.values(OutputTopic.ALERTS) == [b"one", b"two"]
    (tombstone,) = cluster.visible(OutputTopic.INCIDENTS)
    assert (tombstone.key(), tombstone.value()) == (b"incident", None)
    assert tombstone.headers() == [("modelvigil.lag_ms", b"61000")]
    assert cluster.visible(OutputTopic.ALERTS)[0].headers() == [("kind", b"test")]
    assert member.committed([0, 1, 3]) == {0: Position(7, metadata), 1: None, 3: Position(11, "")}
    assert sink.commit([], {}) == _COMMITTED
    member.close(listener)
    assert listener.owned == set()


def test_an_aborted_transaction_leaves_nothing_and_can_be_sent_again(cluster: Cluster) -> None:
    """A stale generation aborts the transaction; the same bytes go through afterwards, once, with the same producer."""
    member, listener = joined(cluster)
    metadata = member.group_metadata()
    answers = [_stale(metadata), metadata]
    sink = cluster.sink(lambda: answers.pop(0))
    outputs, positions = [alert(b"again")], {0: Position(5)}
    assert sink.commit(outputs, positions) == _ABORTED
    assert cluster.values(OutputTopic.ALERTS) == []
    assert member.committed([0]) == {0: None}
    assert sink.commit(outputs, positions) == _COMMITTED
    assert cluster.values(OutputTopic.ALERTS) == [b"again"]
    assert member.committed([0]) == {0: Position(5)}
    member.close(listener)


def test_the_same_transactional_id_fences_the_older_producer(cluster: Cluster) -> None:
    """A second process with this worker's name ends the first one, and only the first one."""
    member, listener = joined(cluster)
    older = cluster.sink(member)
    newer = cluster.sink(member)
    assert older.commit([alert(b"older")], {0: Position(1)}) == Commit(CommitOutcome.FENCED)
    assert newer.commit([alert(b"newer")], {0: Position(2)}) == _COMMITTED
    newer.replace()
    assert newer.commit([alert(b"newest")], {0: Position(3)}) == _COMMITTED
    assert cluster.values(OutputTopic.ALERTS) == [b"newer", b"newest"]
    member.close(listener)


def test_one_who_is_alone_with_its_name_goes_on_when_kafka_fences_it(cluster: Cluster) -> None:
    """Then a transaction has outlived its timeout: the outcome is looked up, and a new producer goes on."""
    member, listener = joined(cluster)
    sink = cluster.sink(member, exclusive=True)
    cluster.sink(member)  # takes the name over, as the coordinator does
    assert sink.commit([alert(b"once")], {0: Position(1)}) == Commit(CommitOutcome.UNKNOWN)
    sink.replace()
    assert sink.commit([alert(b"once")], {0: Position(1)}) == _COMMITTED
    assert cluster.values(OutputTopic.ALERTS) == [b"once"]
    member.close(listener)


def test_a_shard_keeps_to_one_partition_of_an_output_topic(cluster: Cluster) -> None:
    """Outputs of one shard are read in their order, also where the topic has fewer partitions than there are shards."""
    member, listener = joined(cluster)
    outputs = [alert(b"%d" % number, shard=number % 3) for number in range(30)]
    assert cluster.sink(member).commit(outputs, {}) == _COMMITTED
    found = cluster.visible(OutputTopic.ALERTS)
    for shard in range(3):
        of_shard = [m for m in found if m.value() and int(m.value() or b"") % 3 == shard]
        assert [m.value() for m in of_shard] == [b"%d" % number for number in range(shard, 30, 3)]
        assert {m.partition() for m in of_shard} == {shard % 2}
    member.close(listener)


def test_oversize_dead_letters_are_cut_and_other_outputs_refused(cluster: Cluster) -> None:
    """A dead letter too large for the topic arrives in part, marked; an alert stops the worker with a clear message."""
    member, listener = joined(cluster)
    sink = cluster.sink(member)
    headers = (("modelvigil.reason", b"too_large"), ("foreign", b"h" * 600_000))
    large = Output(OutputTopic.DEAD_LETTERS, 0, 3, b"k" * 500_000, b"v" * 3_000_000, headers)
    small = Output(OutputTopic.DEAD_LETTERS, 0, 4, None, None, ())
    assert sink.commit([large, small], {0: Position(5)}) == _COMMITTED
    cut, whole = cluster.visible(OutputTopic.DEAD_LETTERS)
    assert len(cut.value() or b"") > 700_000
    assert len(cut.key() or b"") > 200_000
    mark = (TRUNCATED_HEADER, b"value=3000000 key=500000 headers=2")
    assert cut.headers() == [("modelvigil.reason", b"too_large"), mark]
    assert (whole.key(), whole.value()) == (None, None)
    with pytest.raises(SinkError, match=r"2000011 bytes .* message\.max\.bytes"):
        sink.commit([alert(b"before"), alert(b"x" * 2_000_000)], {0: Position(6)})
    assert cluster.values(OutputTopic.ALERTS) == []
    assert sink.commit([alert(b"after")], {0: Position(6)}) == _COMMITTED
    member.close(listener)


def test_a_topic_that_takes_less_than_the_producer_sends_is_named(cluster: Cluster) -> None:
    """The broker's own limit is only known after sending: the message says which topic and what to set."""
    member, listener = joined(cluster)
    cluster.create(f"{cluster.input}-narrow", 1, {"max.message.bytes": "1000"})
    cluster.outputs[OutputTopic.METRICS] = f"{cluster.input}-narrow"
    noise = b"".join(uuid.uuid4().bytes for _ in range(200))
    with pytest.raises(SinkError, match=r"narrow refuses a record .* max\.message\.bytes"):
        cluster.sink(member).commit([Output(OutputTopic.METRICS, 0, 0, None, noise)], {0: Position(1)})
    assert member.committed([0]) == {0: None}
    member.close(listener)


def test_a_missing_topic_is_named(cluster: Cluster) -> None:
    """A sink without its topics does not start."""
    member = cluster.member()
    state, cluster.topics[InputTopic.STATE] = cluster.topics[InputTopic.STATE], "nowhere-state"
    with pytest.raises(SinkError, match=r"nowhere-state cannot be written.*topics create"):
        cluster.sink(member)
    cluster.topics[InputTopic.STATE] = state
    cluster.outputs[OutputTopic.METRICS] = "nowhere-metrics"
    with pytest.raises(SinkError, match=r"nowhere-metrics cannot be written.*topics create"):
        cluster.sink(member)
    member.close(Listener())


def test_a_broker_that_dies_leaves_an_unknown_outcome_and_a_new_producer_goes_on(topic_prefix: str) -> None:
    """No call hangs, nothing is doubled: the position that is read back says whether to send again."""
    with LocalBroker() as broker:
        cluster = Cluster(broker.bootstrap_servers, topic_prefix)
        # Longer than the broker is away: by then, the member would have to join anew.
        member, listener = joined(cluster, {"session.timeout.ms": "60000"})
        sink = cluster.sink(member, commit_timeout_ms=1_500, start_timeout_ms=10_000)
        assert sink.commit([alert(b"before")], {0: Position(1)}) == _COMMITTED
        broker.kill()
        started, unknown = time.monotonic(), Commit(CommitOutcome.UNKNOWN)
        assert sink.commit([alert(b"after")], {0: Position(2)}, [StateRecord(0, b"k", b"v")]) == unknown
        with pytest.raises(PositionUnstableError):
            member.committed([0])
        assert time.monotonic() - started < 5.0
        broker.start()
        sink.replace()
        assert _settled(member) == {0: Position(1)}
        assert sink.commit([alert(b"after")], {0: Position(2)}) == _COMMITTED
        assert cluster.values(OutputTopic.ALERTS) == [b"before", b"after"]
        member.close(listener)
        cluster.close()
    with pytest.raises(SinkError, match="no transactions possible"):
        cluster.sink(member, start_timeout_ms=300)


def test_state_records_keep_to_their_partition_and_tell_their_offsets(cluster: Cluster) -> None:
    """Each goes to its shard's partition; their offsets come back in the order in which they were given."""
    member, listener = joined(cluster)
    sink = cluster.sink(member)
    records = [StateRecord(3, b"a", b"1"), StateRecord(0, b"b", b"2"), StateRecord(3, b"c", b"3")]
    first = sink.commit([alert(b"beside")], {3: Position(5)}, records)
    assert first == Commit(CommitOutcome.COMMITTED, (0, 0, 1))
    # The marker of the first transaction has taken an offset in each of the two partitions.
    second = sink.commit([], {}, [StateRecord(3, b"a", None), StateRecord(0, b"b", b"4")])
    assert second == Commit(CommitOutcome.COMMITTED, (3, 2))
    assert sorted(_where(cluster.visible_state()), key=lambda found: found[:2]) == [
        (0, 0, b"b", b"2"),
        (0, 2, b"b", b"4"),
        (3, 0, b"a", b"1"),
        (3, 1, b"c", b"3"),
        (3, 3, b"a", None),
    ]
    assert cluster.values(OutputTopic.ALERTS) == [b"beside"]
    member.close(listener)


def test_an_aborted_transaction_names_no_state_and_the_next_one_the_right_one(cluster: Cluster) -> None:
    """Aborted records keep their offsets in the log: those of the second attempt are other ones, and are told."""
    member, listener = joined(cluster)
    metadata = member.group_metadata()
    answers = [_stale(metadata), _stale(metadata), metadata]
    sink = cluster.sink(lambda: answers.pop(0))
    records, positions = [StateRecord(1, b"k", b"%d" % n) for n in range(3)], {1: Position(5, "", 6)}
    for _ in range(2):
        assert sink.commit([], positions, records) == _ABORTED
    assert cluster.visible_state() == []
    again = sink.commit([], positions, records)
    assert again == Commit(CommitOutcome.COMMITTED, (8, 9, 10))
    assert _where(cluster.visible_state()) == [(1, 8 + n, b"k", b"%d" % n) for n in range(3)]
    member.close(listener)


def test_label_offsets_are_committed_with_the_position_or_not_at_all(cluster: Cluster) -> None:
    """Lag tools see the labels of the same transaction; the metadata stays with the predictions."""
    member, listener = joined(cluster)
    metadata = member.group_metadata()
    answers = [_stale(metadata), metadata, metadata]
    sink = cluster.sink(lambda: answers.pop(0))
    positions = {0: Position(7, "zero", 70), 2: Position(9, "two")}
    assert sink.commit([], positions) == _ABORTED
    assert cluster.committed_labels() == [-1001, -1001, -1001, -1001]
    assert sink.commit([], positions) == _COMMITTED
    assert cluster.committed_labels() == [70, -1001, -1001, -1001]
    assert member.committed([0, 2]) == {0: Position(7, "zero"), 2: Position(9, "two")}
    assert sink.commit([], {0: Position(8, "", 0)}) == _COMMITTED
    assert cluster.committed_labels()[0] == 0
    member.close(listener)


def test_a_snapshot_larger_than_the_queue_goes_through_in_one_transaction(cluster: Cluster) -> None:
    """20 MB of state in records of 900 kB, through a queue of 2 MB: it waits for room, and all of it arrives."""
    member, listener = joined(cluster)
    sink = cluster.sink(member, connection=cluster.with_properties({"queue.buffering.max.kbytes": "2048"}))
    records = [StateRecord(n % 2, b"%d" % n, _noise(900_000 + n)) for n in range(22)]
    outcome, offsets = sink.commit([alert(b"beside")], {0: Position(1)}, records)
    assert outcome is CommitOutcome.COMMITTED
    assert offsets == tuple(n // 2 for n in range(22))
    found = {(message.partition(), message.offset()): message for message in cluster.visible_state()}
    assert len(found) == len(records)
    for record, offset in zip(records, offsets, strict=True):
        message = found[record.partition, offset]
        assert (message.key(), message.value()) == (record.key, record.value)
    member.close(listener)


def test_a_state_record_that_cannot_be_written_stops_the_worker(cluster: Cluster) -> None:
    """Too large, or for a shard that the state topic has no partition for: what to do is said, nothing is visible."""
    member, listener = joined(cluster)
    sink = cluster.sink(member)
    with pytest.raises(SinkError, match=r"a state record of 2000001 bytes .*state \(shard 0\).* message\.max\.bytes"):
        sink.commit([alert(b"beside")], {0: Position(1)}, [StateRecord(0, b"k", b"x" * 2_000_000)])
    with pytest.raises(SinkError, match=r"state has 4 partitions, and none for shard 4: grow it"):
        sink.commit([alert(b"beside")], {0: Position(1)}, [StateRecord(4, b"k", b"v")])
    assert cluster.values(OutputTopic.ALERTS) == []
    assert sink.commit([alert(b"after")], {0: Position(1)}) == _COMMITTED
    member.close(listener)


def test_an_unknown_outcome_tells_the_offsets_that_the_broker_has_confirmed(cluster: Cluster) -> None:
    """After the last report, and before the end, Kafka is gone: the records may be visible, so they are named."""
    member, listener = joined(cluster)

    def gone() -> bytes:
        raise KafkaException(KafkaError(TIMED_OUT, "gone"))

    sink = cluster.sink(gone)
    records = [StateRecord(0, b"k", b"v"), StateRecord(0, b"l", b"w")]
    assert sink.commit([], {0: Position(1)}, records) == Commit(CommitOutcome.UNKNOWN, (0, 1))
    sink.replace()
    assert member.committed([0]) == {0: None}
    assert cluster.visible_state() == []
    member.close(listener)
