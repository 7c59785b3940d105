"""The rig that is a real Kafka, through the worker's own edges: the truth that the model is held against."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from tests.e2e.kafka_corner import QUICK, WAIT_MAX_S, Cluster
from tests.sim.rigs import PARTITIONS, Listener, Member, OpenTransaction
from worker.core.events import InputTopic, OutputTopic
from worker.edges.kafka import KafkaMembership
from worker.ports import History, Position, Sink, Source

_COMPACTED = {
    "cleanup.policy": "compact",
    "delete.retention.ms": "100",
    "min.cleanable.dirty.ratio": "0.01",
    "segment.ms": "100",
}


class KafkaRig:
    """Topics of one test on a broker."""

    def __init__(self, servers: str, prefix: str) -> None:
        self._cluster = Cluster(servers, prefix)
        for topic in OutputTopic:
            self._cluster.outputs[topic] = f"{prefix}{topic}-wide"
            self._cluster.create(self._cluster.outputs[topic], PARTITIONS)
        self._cluster.topics[InputTopic.STATE] = f"{prefix}state-compacted"
        self._cluster.create(self._cluster.topics[InputTopic.STATE], PARTITIONS, _COMPACTED)
        self._members: list[Member] = []

    def member(self, *, hasty: bool = False) -> Member:
        """Join the group."""
        self._members.append(Member(self._cluster.member(QUICK if hasty else {}), Listener()))
        return self._members[-1]

    def sink(self, member: Member, name: str = "worker") -> Sink:
        """Build a sink."""
        return self._cluster.sink(partial(_metadata, member), name)

    def stale_sink(self, member: Member, times: int) -> Sink:
        """Build a sink that tells another generation at first."""
        stale = iter([99] * times)

        def tell() -> bytes:
            metadata = _metadata(member)
            generation = next(stale, None)
            told = metadata[7:11] if generation is None else generation.to_bytes(4, "little")
            return metadata[:7] + told + metadata[11:]

        return self._cluster.sink(tell, "stale")

    def source(self) -> Source:
        """Build a source."""
        return self._cluster.source()

    def history(self) -> History:
        """Build a history."""
        return self._cluster.history()

    def transaction(self, name: str, timeout_ms: int = 60_000) -> OpenTransaction:
        """Begin a transaction."""
        return _KafkaTransaction(self._cluster, name, timeout_ms)

    def fill(self, topic: InputTopic, partition: int, values: Sequence[bytes]) -> None:
        """Write records."""
        self._cluster.fill({partition: values}, topic)

    def forget(self, topic: InputTopic, partition: int, before: int) -> None:
        """Delete records."""
        self._cluster.forget(topic, partition, before)

    def visible(self, topic: InputTopic | OutputTopic, partition: int) -> list[tuple[int, bytes | None]]:
        """Return what is visible."""
        name = self._cluster.outputs[topic] if isinstance(topic, OutputTopic) else self._cluster.topics[topic]
        settings = {"bootstrap.servers": self._cluster.servers, "group.id": "look", "enable.partition.eof": True}
        with closing(Consumer(settings)) as consumer:
            consumer.assign([TopicPartition(name, partition, 0)])
            found: list[tuple[int, bytes | None]] = []
            while (message := consumer.poll(WAIT_MAX_S)) is not None and message.error() is None:
                found.append((message.offset() or 0, message.value()))
        assert message is not None, "the end of the partition does not come"
        return found

    def committed_labels(self) -> list[int]:
        """Return the committed label offsets."""
        return self._cluster.committed_labels()

    def compact_state(self) -> None:
        """The broker does it by itself, if it was started so."""

    def pause(self) -> None:
        """Let time go by."""
        time.sleep(0.01)

    def leave(self, member: Member) -> None:
        """Leave the group."""
        self._members.remove(member)
        member.port.close(member.listener)

    def close(self) -> None:
        """Close everything."""
        for member in self._members:
            member.port.close(Listener())
        self._cluster.close()


def _metadata(member: Member) -> bytes:
    assert isinstance(member.port, KafkaMembership)
    return member.port.group_metadata()


class _KafkaTransaction:
    def __init__(self, cluster: Cluster, name: str, timeout_ms: int) -> None:
        self._cluster = cluster
        self._producer = Producer(
            {
                "bootstrap.servers": cluster.servers,
                "transactional.id": f"{cluster.group}-{name}",
                "transaction.timeout.ms": timeout_ms,
                "message.timeout.ms": timeout_ms,
                "socket.timeout.ms": min(10_000, timeout_ms),
            }
        )
        self._producer.init_transactions(WAIT_MAX_S)
        self._producer.begin_transaction()

    def write(self, topic: InputTopic | OutputTopic, partition: int, value: bytes, key: bytes = b"key") -> None:
        """Write a record."""
        cluster = self._cluster
        name = cluster.outputs[topic] if isinstance(topic, OutputTopic) else cluster.topics[topic]
        self._producer.produce(name, value, key, partition)
        assert self._producer.flush(WAIT_MAX_S) == 0

    def send_positions(self, member: Member, positions: Mapping[int, Position]) -> None:
        """Send positions."""
        places = [
            TopicPartition(self._cluster.input, partition, position.offset, position.metadata)
            for partition, position in positions.items()
        ]
        self._producer.send_offsets_to_transaction(places, _metadata(member), WAIT_MAX_S)

    def end(self, *, committed: bool) -> bool:
        """End it."""
        end: Callable[[float], None] = (
            self._producer.commit_transaction if committed else self._producer.abort_transaction
        )
        try:
            end(WAIT_MAX_S)
        except KafkaException:
            return False
        return True
