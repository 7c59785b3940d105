"""The local Kafka: it works, keeps its data over a crash, and leaves nothing behind."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.e2e.harness import is_alive
from worker.edges.broker import BrokerError, LocalBroker, jars

_WAIT_MAX_S = 20.0


def _create(servers: str, topic: str) -> None:
    client = AdminClient({"bootstrap.servers": servers})
    client.create_topics([NewTopic(topic, 1, 1)])[topic].result(_WAIT_MAX_S)


def _write_transaction(servers: str, topic: str, value: bytes, *, commit: bool) -> None:
    producer = Producer({"bootstrap.servers": servers, "transactional.id": topic, "linger.ms": 0})
    producer.init_transactions(_WAIT_MAX_S)
    producer.begin_transaction()
    producer.produce(topic, value)
    assert producer.flush(_WAIT_MAX_S) == 0
    if commit:
        producer.commit_transaction(_WAIT_MAX_S)
    else:
        producer.abort_transaction(_WAIT_MAX_S)


def _read_committed(servers: str, topic: str, count: int) -> list[bytes | None]:
    consumer = Consumer({"bootstrap.servers": servers, "group.id": topic, "isolation.level": "read_committed"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    try:
        return [message.value() for message in consumer.consume(count, _WAIT_MAX_S)]
    finally:
        consumer.close()


def _eventually(is_true: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + _WAIT_MAX_S
    while not is_true():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.02)
    return True


def test_transactions_are_real(kafka: str, topic_prefix: str) -> None:
    """A committed transaction can be read, an aborted one cannot."""
    topic = f"{topic_prefix}topic"
    _create(kafka, topic)
    _write_transaction(kafka, topic, b"aborted", commit=False)
    _write_transaction(kafka, topic, b"committed", commit=True)
    assert _read_committed(kafka, topic, 1) == [b"committed"]


@pytest.mark.e2e
def test_data_survives_a_kill_and_nothing_survives_a_stop(topic_prefix: str) -> None:
    """After SIGKILL it comes back at the same address with its data; after `stop` neither process nor data is left.

    The kill follows the commit so closely that the commit marker is mostly not yet written; see `_fence_the_dead`.
    """
    topic = f"{topic_prefix}topic"
    with LocalBroker() as broker:
        servers, directory, first_pid = broker.bootstrap_servers, broker.data_directory, broker.pid
        _create(servers, topic)
        _write_transaction(servers, topic, b"before the crash", commit=True)
        broker.kill()
        assert not is_alive(first_pid)
        assert not broker.running
        broker.start()
        second_pid = broker.pid
        assert broker.bootstrap_servers == servers
        assert _read_committed(servers, topic, 1) == [b"before the crash"]
        broker.stop()
        broker.stop()
    assert not is_alive(second_pid)
    assert not directory.exists()


@pytest.mark.e2e
@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_no_process_outlives_a_killed_parent() -> None:
    """SIGKILL of the Python process that started it ends the Java process and removes the data."""
    script = (
        "import json, time\n"
        "from worker.edges.broker import LocalBroker\n"
        "broker = LocalBroker()\n"
        "broker.start()\n"
        "print(json.dumps([broker.pid, str(broker.data_directory)]), flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        broker_pid, directory = json.loads(parent.stdout.readline())
        assert is_alive(broker_pid)
        parent.send_signal(signal.SIGKILL)
    assert _eventually(lambda: not is_alive(broker_pid))
    assert _eventually(lambda: not Path(directory).exists())


@pytest.mark.e2e
def test_a_failed_start_says_why(tmp_path: Path) -> None:
    """The error shows the end of the broker's log, and no process is left."""
    broker = LocalBroker(data_directory=tmp_path, properties={"log.segment.bytes": "many"})
    with pytest.raises(BrokerError, match=r"(?s)log\.segment\.bytes.*MODELVIGIL_BOOTSTRAP_SERVERS"):
        broker.start()
    assert not broker.running
    broker.stop()
    assert tmp_path.exists()


def test_never_started_broker_can_be_stopped() -> None:
    """`stop` and `kill` need no `start`; what only a started broker has is refused with a clear error."""
    broker = LocalBroker()
    broker.kill()
    broker.stop()
    with pytest.raises(BrokerError, match="not been started"):
        _ = broker.bootstrap_servers


def test_a_true_record_needs_no_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The jars are fetched once, and again only when one of them is missing or cut short."""
    jar = tmp_path / "kafka.jar"
    fetches = []

    def fetch(_say: Callable[[str], None]) -> list[Path]:
        jar.write_bytes(b"whole jar")
        fetches.append(jar)
        return [jar]

    monkeypatch.setattr(jars, "_fetch", fetch)
    for damage, fetches_expected in ((None, 1), (None, 1), (b"whole", 2), (None, 2)):
        if damage is not None:
            jar.write_bytes(damage)
        assert jars.class_path(print, tmp_path / "cache") == [jar]
        assert len(fetches) == fetches_expected
