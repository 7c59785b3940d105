"""One test's corner of the broker: its topics, clients with short names, and a way to look at what is committed."""

import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial

from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined] # not listed in its __all__

from tests.sim.rigs import PARTITIONS, Listener
from worker.core.events import InputTopic, Output, OutputTopic, RawBatch
from worker.edges.kafka import KafkaConnection, KafkaHistory, KafkaMembership, KafkaReader, KafkaSink, KafkaSource

WAIT_MAX_S = 15.0
QUICK = {"session.timeout.ms": "1500", "heartbeat.interval.ms": "300", "max.poll.interval.ms": "1500"}


class Cluster:
    """Topics and a group that no other test uses."""

    def __init__(self, servers: str, prefix: str) -> None:
        self.connection = KafkaConnection(servers, logger=logging.getLogger("tests.kafka"))
        self.servers = servers
        self.group = f"{prefix}group"
        self.topics = {topic: f"{prefix}{topic}" for topic in InputTopic}
        self.outputs = {topic: f"{prefix}{topic}" for topic in OutputTopic}
        self.admin = AdminClient({"bootstrap.servers": servers})
        self._closing: list[Callable[[], object]] = []
        for topic, name in self.topics.items():
            self.create(name, 1 if topic is InputTopic.FEEDBACK else PARTITIONS)
        for name in self.outputs.values():
            self.create(name, 2)

    @property
    def input(self) -> str:
        """The name of the `predictions` topic."""
        return self.topics[InputTopic.PREDICTIONS]

    def create(self, topic: str, partitions: int, config: Mapping[str, str] | None = None) -> None:
        """Create a topic and wait for it: a broker tells of it some time after the controller has it."""
        new = NewTopic(topic, partitions, 1, config=dict(config or {}))
        self.admin.create_topics([new])[topic].result(WAIT_MAX_S)
        until(lambda: self._is_led(topic))

    def _is_led(self, topic: str) -> bool:
        """Whether the broker tells of a topic, and who leads its partitions."""
        seen = self.admin.list_topics(topic, WAIT_MAX_S).topics[topic]
        return seen.error is None and all(each.leader >= 0 for each in seen.partitions.values())

    def delete(self, topic: str) -> None:
        """Delete a topic."""
        self.admin.delete_topics([topic])[topic].result(WAIT_MAX_S)

    def forget(self, topic: InputTopic, partition: int, before: int) -> None:
        """Delete the records before an offset, as retention does."""
        place = TopicPartition(self.topics[topic], partition, before)
        self.admin.delete_records([place])[place].result(WAIT_MAX_S)

    def with_properties(self, properties: Mapping[str, str]) -> KafkaConnection:
        """Return a connection with librdkafka settings of a user."""
        return KafkaConnection(self.servers, properties, self.connection.logger)

    def member(self, properties: Mapping[str, str] | None = None, instance_id: str | None = None) -> KafkaMembership:
        """Join the group."""
        connection = self.with_properties(properties or {})
        return KafkaMembership(connection, group_id=self.group, topic=self.input, instance_id=instance_id)

    def sink(
        self,
        member: KafkaMembership | Callable[[], bytes],
        name: str = "worker-0",
        connection: KafkaConnection | None = None,
        *,
        exclusive: bool = False,
        **timeouts: int,
    ) -> KafkaSink:
        """Build a sink fenced by a member, or by the group metadata of a function; closed at the end."""
        sink = KafkaSink(
            connection or self.connection,
            transactional_id=f"{self.group}-{name}",
            group_metadata=member.group_metadata if isinstance(member, KafkaMembership) else member,
            input_topic=self.input,
            label_topic=self.topics[InputTopic.LABELS],
            state_topic=self.topics[InputTopic.STATE],
            topic_names=self.outputs,
            exclusive=exclusive,
            **timeouts,
        )
        self._closing.append(sink.close)
        return sink

    def source(self) -> KafkaSource:
        """Build a source; closed at the end."""
        source = KafkaSource(self.connection, group_id=self.group, topics=self.topics)
        self._closing.append(source.close)
        return source

    def history(self) -> KafkaHistory:
        """Build a history; closed at the end."""
        history = KafkaHistory(self.connection, group_id=self.group, topics=self.topics)
        self._closing.append(history.close)
        return history

    def reader(self, topic: InputTopic, partition: int, offset: int) -> KafkaReader:
        """Open a reader; closed at the end."""
        reader = self.history().open(topic, partition, offset)
        self._closing.append(reader.close)
        return reader

    def fill(self, values: Mapping[int, Sequence[bytes]], topic: InputTopic = InputTopic.PREDICTIONS) -> None:
        """Write records into partitions of an input."""
        producer = Producer({"bootstrap.servers": self.servers, "linger.ms": 5})
        for partition, records in values.items():
            for value in records:
                send = partial(producer.produce, self.topics[topic], value, b"key", partition)
                patiently(producer, partial(send, headers=[("source", b"test")]))
        assert producer.flush(WAIT_MAX_S) == 0

    def writer(self) -> Producer:
        """Return somebody else's transactional producer."""
        producer = Producer({"bootstrap.servers": self.servers, "transactional.id": uuid.uuid4().hex})
        producer.init_transactions(WAIT_MAX_S)
        return producer

    def visible(self, kind: OutputTopic) -> list[Message]:
        """Return what a reader of committed records finds in an output topic, when no transaction is open there."""
        return self._visible(self.outputs[kind], range(2))

    def visible_state(self) -> list[Message]:
        """Return what a reader of committed records finds in the state topic, when no transaction is open there."""
        return self._visible(self.topics[InputTopic.STATE], range(PARTITIONS))

    def _visible(self, topic: str, partitions: range) -> list[Message]:
        places = [TopicPartition(topic, partition, 0) for partition in partitions]
        with closing(self._reader("read_committed")) as reader, closing(self._reader("read_uncommitted")) as all_reader:
            end = time.monotonic() + WAIT_MAX_S
            while any(_end(reader, place) != _end(all_reader, place) for place in places):
                assert time.monotonic() < end, "a transaction stays open"
                time.sleep(0.01)
            reader.assign(places)
            found, ends = [], 0
            while ends < len(places):
                message = reader.poll(WAIT_MAX_S)
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

    def committed_labels(self) -> list[int]:
        """Return the committed offset of each partition of `labels`, as a lag tool sees it; negative: none."""
        places = [TopicPartition(self.topics[InputTopic.LABELS], partition) for partition in range(PARTITIONS)]
        with closing(Consumer({"bootstrap.servers": self.servers, "group.id": self.group})) as consumer:
            return [place.offset for place in consumer.committed(places, WAIT_MAX_S)]

    def close(self) -> None:
        """Close what is still open."""
        for close in self._closing:
            close()


def until(reached: Callable[[], bool], *members: tuple[KafkaMembership, Listener]) -> None:
    """Serve the group until something is so."""
    end = time.monotonic() + WAIT_MAX_S
    while not reached():
        assert time.monotonic() < end, "the group did not settle"
        for member, listener in members:
            member.poll(listener)
        time.sleep(0.01)


def joined(
    cluster: Cluster, properties: Mapping[str, str] | None = None, instance_id: str | None = None
) -> tuple[KafkaMembership, Listener]:
    """Return a member that owns all partitions."""
    member, listener = cluster.member(properties, instance_id), Listener()
    until(lambda: len(listener.owned) == PARTITIONS, (member, listener))
    return member, listener


def alert(value: bytes, shard: int = 0, offset: int = 0) -> Output:
    """Return an output."""
    return Output(OutputTopic.ALERTS, shard, offset, b"key", value, (("kind", b"test"),))


def fetched(source: KafkaSource, count: int) -> list[RawBatch]:
    """Fetch until so many records have come."""
    batches: list[RawBatch] = []
    end = time.monotonic() + WAIT_MAX_S
    while sum(len(batch.offsets) for batch in batches) < count:
        assert time.monotonic() < end, "the records did not come"
        batches += source.fetch(1000, 100)
    return batches


def patiently(producer: Producer, send: Callable[[], None]) -> None:
    """Send, as soon as the queue of the producer has room."""
    while True:
        try:
            send()
        except BufferError:
            producer.poll(0.01)
        else:
            return


def _end(reader: Consumer, place: TopicPartition) -> int:
    return reader.get_watermark_offsets(place, timeout=WAIT_MAX_S)[1]
