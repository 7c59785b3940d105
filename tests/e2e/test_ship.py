"""`modelvigil ship elasticsearch` on a real Kafka: each record once, whatever the cluster or a kill does."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import structlog
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined] # not listed in its __all__

from tests.core.test_notify_messages import event
from tests.e2e.stub_cluster import StubCluster, at_most, every_second, refuse, take_then
from worker.core.codec import encode
from worker.edges.kafka import KafkaConnection
from worker.ports import SourceError
from worker.ship.outputs import SeenOutputs
from worker.ship.progress import Begin, Place

WAIT_MAX_S = 30.0
PARTITIONS = 2
ALERTS = "modelvigil-alerts-default"
LETTERS = "modelvigil-dead-letters-default"
PASSWORD = "sEcReT"  # noqa: S105 - of a test


class Nobody:
    """Has nothing to do with assignments."""

    def assigned(self, begins: Mapping[Place, Begin]) -> None: ...

    def revoked(self) -> None: ...

    def lost(self) -> None: ...


class Story:
    """Topics, a cluster, and shippers in processes."""

    def __init__(self, servers: str, prefix: str, folder: Path) -> None:
        self.servers = servers
        self.topics = {name: f"{prefix}{name}" for name in ("alerts", "metrics", "maintenance", "dead_letters")}
        self.group = f"{prefix}ship"
        self.cluster = StubCluster()
        self.config = folder / "ship.toml"

    def create_topics(self) -> None:
        """Create them."""
        admin = AdminClient({"bootstrap.servers": self.servers})
        for created in admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in self.topics.values()]).values():
            created.result(WAIT_MAX_S)

    def configure(self, **elasticsearch: object) -> None:
        """Write the configuration."""
        fields = {"urls": [self.cluster.url], "bulk_records_max": 20, "linger_ms": 20, "retry_ms": 20, "ops_port": 0}
        head = [f"[kafka]\nbootstrap_servers = '{self.servers}'\n[kafka.properties]\nsession.timeout.ms = 1500"]
        head += ["heartbeat.interval.ms = 300", "[topics]"]
        head += [f"{role} = '{name}'" for role, name in self.topics.items()]
        head += [f"[elasticsearch]\ngroup_id = '{self.group}'"]
        lines = [f"{name} = {json.dumps(value)}" for name, value in {**fields, **elasticsearch}.items()]
        self.config.write_text("\n".join([*head, *lines]), encoding="utf-8")

    def publish(self, count: int, begin: int = 0, odd: dict[int, bytes] | None = None) -> None:
        """Write alerts as a worker does: in a transaction. Some places may hold something else."""
        producer = Producer({"bootstrap.servers": self.servers, "transactional.id": f"{self.group}-writer"})
        producer.init_transactions(WAIT_MAX_S)
        producer.begin_transaction()
        for place in range(begin, begin + count):
            value = (odd or {}).get(place) or encode(event(alert_id=f"a{place}", summary=f"s{place}"))
            producer.produce(self.topics["alerts"], value, b"f1", partition=place % PARTITIONS)
        producer.commit_transaction(WAIT_MAX_S)

    @contextmanager
    def ship(self, *more: str, environ: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
        """Run `modelvigil ship elasticsearch`."""
        command = [sys.executable, "-m", "worker", "ship", "elasticsearch", "--config", str(self.config), *more]
        pipe, environment = subprocess.PIPE, os.environ | (environ or {})
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
            try:
                yield process
            finally:
                process.kill()

    def published(self, stream: str = ALERTS) -> Counter[str]:
        """Return how many times what was told is in the cluster, by message."""
        indices = self.cluster.streams.get(stream, [])
        return Counter(source["message"] for index in indices for source in list(index.values()))

    def committed(self) -> list[int]:
        """Return the positions in the topic of alerts."""
        places = [TopicPartition(self.topics["alerts"], partition) for partition in range(PARTITIONS)]
        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": self.group})
        try:
            return [place.offset for place in consumer.committed(places, WAIT_MAX_S)]
        finally:
            consumer.close()


@pytest.fixture
def story(kafka: str, topic_prefix: str, tmp_path: Path) -> Iterator[Story]:
    """A story on a broker."""
    story = Story(kafka, topic_prefix, tmp_path)
    story.create_topics()
    yield story
    story.cluster.close()


def until(reached: Callable[[], bool], what: str) -> None:
    """Wait until something is so."""
    end = time.monotonic() + WAIT_MAX_S
    while not reached():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def expected(places: range, without: set[int]) -> Counter[str]:
    """Return each message once."""
    return Counter(f"s{place}" for place in places if place not in without)


def test_every_record_is_one_document_whatever_happens(story: Story) -> None:
    """Overload, a lost answer and roll-overs, a kill with documents in flight; what is refused is a dead letter."""
    story.configure(username="shipper", requests_max=2)
    cluster = story.cluster
    cluster.poison = {"s77"}
    # The first one of each partition: one of them is a dead letter before the kill, and again after it
    # unless its position was committed between.
    story.publish(200, odd={0: b"no alert", 1: b"no alert"})
    secret = {"MODELVIGIL_ELASTICSEARCH_PASSWORD": PASSWORD}
    with story.ship(environ=secret) as process:

        def kill(stub: StubCluster) -> None:
            os.kill(process.pid, signal.SIGKILL)
            stub.roll_over()

        cluster.faults = [
            refuse(429),
            take_then(None),
            every_second(429, "es_rejected_execution_exception"),
            at_most(7),
            take_then(503),
            take_then(None, kill),
        ]
        assert process.wait(WAIT_MAX_S) == -signal.SIGKILL
    before = sum(story.published().values())
    assert 40 < before < 197
    with story.ship(environ=secret) as process:
        until(lambda: sum(story.published().values()) >= 197, "records are lost")
        until(lambda: sum(story.published(LETTERS).values()) >= 3, "dead letters are lost")
        story.publish(1, begin=200)
        until(lambda: sum(story.published().values()) >= 198, "a later record is lost")
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=WAIT_MAX_S)
        assert process.returncode == 0, log
    # 101 and 100 records, and the marker of the first transaction; that of the last one is no record.
    assert story.committed() == [102, 100]
    with story.ship("--once", environ=secret) as process:
        assert process.wait(WAIT_MAX_S) == 0
    assert story.published() == expected(range(201), {0, 1, 77})
    assert set(cluster.stored(ALERTS).values()) == {1}
    assert cluster.looked_up >= before
    letters = [source["modelvigil"] for index in cluster.streams[LETTERS] for source in index.values()]
    assert sorted(letter["offset"] for letter in letters) == [0, 0, 38]
    assert {(letter["reason"], letter["target"]) for letter in letters} == {("shipping_refused", "elasticsearch")}
    assert cluster.authorizations == {"Basic c2hpcHBlcjpzRWNSZVQ="}
    assert PASSWORD not in log


def test_partitions_change_hands_without_a_repeat(story: Story) -> None:
    """A second process joins in the midst, the first one is killed, and the streams roll over all the time."""
    story.configure(bulk_records_max=5, requests_max=3)
    cluster = story.cluster
    cluster.bulk_s = 0.05
    story.publish(300)
    with story.ship() as first:
        until(lambda: cluster.bulks >= 5, "nothing is shipped")
        with story.ship() as second:
            until(lambda: cluster.bulks >= 25, "nothing more is shipped")
            cluster.roll_over()
            first.kill()
            cluster.bulk_s = 0.0
            cluster.roll_over()
            until(lambda: sum(story.published().values()) >= 300, "records are lost")
            second.send_signal(signal.SIGTERM)
            assert second.wait(WAIT_MAX_S) == 0
    assert story.published() == expected(range(300), set())


def test_once_ends_when_all_is_there_and_a_dry_run_changes_nothing(story: Story) -> None:
    """A second run, after a clean stop, neither sends nor looks up anything."""
    story.configure()
    story.publish(30)
    with story.ship("--once", "--dry-run") as process:
        printed, _ = process.communicate(timeout=WAIT_MAX_S)
        assert process.returncode == 0
    assert sum(line.startswith("modelvigil-alerts-default ") for line in printed.splitlines()) == 30
    assert story.cluster.streams == {}
    assert max(story.committed()) < 0
    for _ in range(2):
        with story.ship("--once") as process:
            assert process.wait(WAIT_MAX_S) == 0
    assert story.published() == expected(range(30), set())
    assert story.committed() == [15, 15]
    assert story.cluster.looked_up == 0


def seen(story: Story) -> SeenOutputs:
    """Return the alerts as one who only looks gets them."""
    return SeenOutputs(
        KafkaConnection(story.servers),
        topics=[story.topics["alerts"]],
        group_id=story.group,
        start_at="earliest",
        listener=Nobody(),
        log=structlog.get_logger(),
    )


def test_records_that_retention_removes_end_it_and_a_new_start_goes_on_behind_them(story: Story) -> None:
    """As when the cluster was away for longer than Kafka keeps records; nobody is told of a bug."""
    story.publish(20)
    with closing(seen(story)) as outputs:
        assert outputs.fetch(1, 10_000)
        admin = AdminClient({"bootstrap.servers": story.servers})
        places = [TopicPartition(story.topics["alerts"], partition, 4) for partition in range(PARTITIONS)]
        for deleted in admin.delete_records(places).values():
            deleted.result(WAIT_MAX_S)
        for place in places:
            outputs._consumer.seek(TopicPartition(place.topic, place.partition, 2))
        with pytest.raises(SourceError, match="a restart goes on behind them"):
            deque(iter(lambda: outputs.fetch(500, 100), None), maxlen=0)
    story.configure()
    with story.ship("--once") as process:
        assert process.wait(WAIT_MAX_S) == 0
    assert story.published() == expected(range(8, 20), set())


def test_silence_is_the_end_only_where_kafka_answers(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last records may be of aborted transactions; but `--once` must not say that all is shipped in an outage."""
    story.publish(20)
    with closing(seen(story)) as outputs:
        assert not outputs.at_end()
        outputs._heard_s -= 60
        assert outputs.at_end()

        def away(*_: object) -> None:
            raise SourceError("ends of a topic: no answer")

        monkeypatch.setattr("worker.ship.outputs.ends_of", away)
        with pytest.raises(SourceError, match="no answer"):
            outputs.at_end()


def test_the_lag_grows_while_nothing_is_taken(story: Story) -> None:
    """For hours perhaps, as the cluster is away: no records are fetched then. Afterwards none is missing."""
    story.publish(300)
    outputs = seen(story)
    places = [(story.topics["alerts"], partition) for partition in range(PARTITIONS)]
    with closing(outputs):
        taken = outputs.fetch(1, 10_000)
        assert taken
        for _ in range(120):
            outputs.serve(100)
        # Each transaction ends with a marker in each partition.
        assert sum(outputs.ends(places).values()) == 302
        story.publish(300, begin=300)
        until(lambda: sum(outputs.ends(places).values()) == 604, "what has come since is no lag")
        end = time.monotonic() + WAIT_MAX_S
        while len(taken) < 600 and time.monotonic() < end:
            taken += outputs.fetch(500, 100)
    assert sorted((each.partition(), each.offset()) for each in taken) == [
        (partition, offset) for partition in range(PARTITIONS) for offset in range(301) if offset != 150
    ]


def test_what_waiting_does_not_mend_ends_the_command_at_its_start(story: Story) -> None:
    """A wrong password, a cluster without templates: one line that says what to do, without the password."""
    story.configure(username="shipper", password=PASSWORD)
    story.cluster.status = 401
    with story.ship() as process:
        _, log = process.communicate(timeout=WAIT_MAX_S)
        assert process.returncode == 3
    assert "the cluster refuses this user (HTTP 401" in log
    assert PASSWORD not in log
    story.cluster.status, story.cluster.templates = 0, False
    with story.ship() as process:
        _, log = process.communicate(timeout=WAIT_MAX_S)
        assert process.returncode == 3
    assert "run `modelvigil ship elasticsearch --setup`" in log
