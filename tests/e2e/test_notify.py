"""`modelvigil notify` on a real Kafka: nothing is lost, whatever the receiver or a kill does."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import structlog
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined] # not listed in its __all__

from tests.core.test_notify_messages import event
from worker.edges.kafka import KafkaConnection
from worker.notify.signing import HEADER, verify
from worker.notify.subscription import AssignedAlerts
from worker.ports import SourceError

KEY = "hush"
WAIT_MAX_S = 20.0


class Got(NamedTuple):
    """One request that has come."""

    key: str
    signature: str
    body: bytes
    at_s: int


class Receiver:
    """Answers each request as the next of `plan` says: a status, None to break off, or something to do before 200."""

    def __init__(self) -> None:
        self.plan: list[int | Callable[[], object] | None] = []
        self.got: list[Got] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.serve(self)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = next(_servers(Handler))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server.server_address[1]}/hook"

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """Note a request and answer it."""
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        self.got.append(Got(handler.headers["Idempotency-Key"], handler.headers[HEADER], body, int(time.time())))
        step = self.plan.pop(0) if self.plan else 200
        if step is None:
            handler.close_connection = True
            return
        if callable(step):
            step()
        handler.send_response(step if isinstance(step, int) else 200)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def keys(self) -> list[str]:
        """Return the keys in the order in which they came."""
        return [each.key for each in list(self.got)]


def _servers(handler: type[BaseHTTPRequestHandler]) -> Iterator[ThreadingHTTPServer]:
    for port in range(22_000 + os.getpid() % 5_000, 32_000):
        try:
            yield ThreadingHTTPServer(("127.0.0.1", port), handler)
        except OSError:
            continue


class Story:
    """Topics, a receiver, and `notify` in processes."""

    def __init__(self, servers: str, prefix: str, folder: Path) -> None:
        self.servers = servers
        self.topics = {name: f"{prefix}{name}" for name in ("alerts", "incidents", "dead_letters")}
        self.group = f"{prefix}notify"
        self.receiver = Receiver()
        self.config = folder / "notify.toml"

    def create_topics(self) -> None:
        """Create them with one partition each."""
        admin = AdminClient({"bootstrap.servers": self.servers})
        for created in admin.create_topics([NewTopic(name, 1, 1) for name in self.topics.values()]).values():
            created.result(WAIT_MAX_S)

    def configure(self, **target: object) -> None:
        """Write the configuration: one webhook."""
        fields = {"name": "hook", "kind": "webhook", "url": self.receiver.url, "retry_ms": 50, "timeout_ms": 3000}
        lines = [f"{name} = {json.dumps(value)}" for name, value in {**fields, **target}.items()]
        head = [f"[kafka]\nbootstrap_servers = '{self.servers}'\n[kafka.properties]\nsession.timeout.ms = 1500"]
        head += ["heartbeat.interval.ms = 300", "[topics]"]
        head += [f"{role} = '{name}'" for role, name in self.topics.items()]
        head += [f"[notify]\ngroup_id = '{self.group}'\nstart_at = 'earliest'\nops_port = 0", "[[notify.targets]]"]
        self.config.write_text("\n".join([*head, *lines, f"secret = '{KEY}'"]), encoding="utf-8")

    def publish(self, *alert_ids: str) -> None:
        """Write alerts as a worker does: in a transaction."""
        producer = Producer({"bootstrap.servers": self.servers, "transactional.id": f"{self.group}-writer"})
        producer.init_transactions(WAIT_MAX_S)
        producer.begin_transaction()
        for alert_id in alert_ids:
            value = msgspec.json.encode(event(alert_id=alert_id))
            producer.produce(self.topics["alerts"], value, b"f1", headers=[("modelvigil.lag_ms", b"90000")])
        producer.commit_transaction(WAIT_MAX_S)

    @contextmanager
    def notify(self, *more: str) -> Iterator[subprocess.Popen[str]]:
        """Run `modelvigil notify`."""
        command = [sys.executable, "-m", "worker", "notify", "--config", str(self.config), *more]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=Path.cwd()) as process:
            try:
                yield process
            finally:
                process.kill()

    def committed(self) -> int:
        """Return the position of the target."""
        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": f"{self.group}-hook"})
        try:
            return consumer.committed([TopicPartition(self.topics["alerts"], 0)], WAIT_MAX_S)[0].offset
        finally:
            consumer.close()

    def dead_letters(self) -> list[dict[str, Any]]:
        """Return the headers of dead letters."""
        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": f"{self.group}-reader"})
        consumer.assign([TopicPartition(self.topics["dead_letters"], 0, 0)])
        end = consumer.get_watermark_offsets(TopicPartition(self.topics["dead_letters"], 0), WAIT_MAX_S)[1]
        messages = consumer.consume(end, WAIT_MAX_S) if end else []
        consumer.close()
        return [dict(message.headers() or []) for message in messages]


@pytest.fixture
def story(kafka: str, topic_prefix: str, tmp_path: Path) -> Iterator[Story]:
    """A story on a broker."""
    story = Story(kafka, topic_prefix, tmp_path)
    story.create_topics()
    yield story
    story.receiver.server.shutdown()
    story.receiver.server.server_close()


def until(reached: Callable[[], bool], what: str) -> None:
    """Wait until something is so."""
    end = time.monotonic() + WAIT_MAX_S
    while not reached():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def free_port() -> int:
    """Return a port that nobody listens at now."""
    with next(_servers(BaseHTTPRequestHandler)) as server:
        return int(server.server_address[1])


def page(port: int, path: str) -> tuple[int, str]:
    """Return status and text of a page for operators."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=WAIT_MAX_S)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_every_alert_arrives_in_order_with_its_key_and_a_signature(story: Story) -> None:
    """Over an error, a broken connection, a refusal and a kill between delivery and commit; SIGTERM ends it cleanly."""
    story.configure()
    port = free_port()
    story.publish("a0", "a1", "a2", "a3")
    receiver = story.receiver
    with story.notify() as process:
        receiver.plan = [500, None, 200, 404, lambda: os.kill(process.pid, signal.SIGKILL)]
        assert process.wait(WAIT_MAX_S) == -signal.SIGKILL
    assert receiver.keys() == ["a0/hook", "a0/hook", "a0/hook", "a1/hook", "a2/hook"]
    assert story.committed() == 2
    (dead,) = story.dead_letters()
    assert (dead["modelvigil.reason"], dead["modelvigil.target"]) == (b"delivery_refused", b"hook")
    assert (dead["modelvigil.offset"], dead["modelvigil.detail"]) == (b"1", b"HTTP 404")
    with story.notify("--set", f"notify.ops_port={port}") as process:
        until(lambda: len(receiver.got) >= 7, "alerts are lost")
        story.publish("a4")
        until(lambda: len(receiver.got) >= 8, "a later alert is lost")
        until(lambda: page(port, "/readyz")[0] == 200, "it is not ready")
        delivered = 'modelvigil_notify_alerts_total{outcome="delivered",target="hook"} 3.0'
        until(lambda: delivered in page(port, "/metrics")[1], "what is delivered is not counted")
        assert 'modelvigil_notify_lag_records{partition="0",target="hook"}' in page(port, "/metrics")[1]
        assert page(port, "/healthz")[0] == 200
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=WAIT_MAX_S)
        assert process.returncode == 0
    assert receiver.keys()[5:] == ["a2/hook", "a3/hook", "a4/hook"]
    assert all(verify(KEY, each.signature, each.body, each.at_s) for each in receiver.got)
    assert json.loads(receiver.got[0].body)["lag_ms"] == 90_000
    assert KEY not in log
    assert "/hook" not in log


def test_once_delivers_what_is_there_and_a_dry_run_changes_nothing(story: Story) -> None:
    """Both end by themselves."""
    story.configure()
    story.publish("a0", "a1")
    with story.notify("--once", "--dry-run") as process:
        printed, _ = process.communicate(timeout=WAIT_MAX_S)
        assert process.returncode == 0
    assert [line for line in printed.splitlines() if line.startswith("Idempotency-Key")] == [
        "Idempotency-Key: a0/hook",
        "Idempotency-Key: a1/hook",
    ]
    assert "computed 1 min 30 s late" in printed
    assert "/hook " not in printed
    assert story.receiver.got == []
    assert story.committed() < 0
    with story.notify("--once") as process:
        assert process.wait(WAIT_MAX_S) == 0
    assert story.receiver.keys() == ["a0/hook", "a1/hook"]
    assert story.committed() == 2


def test_records_that_retention_removes_end_it_and_a_new_start_goes_on_behind_them(story: Story) -> None:
    """As when a receiver was away for longer than Kafka keeps alerts; nobody is told of a bug."""
    story.publish(*(f"a{place}" for place in range(10)))
    where = {"topic": story.topics["alerts"], "group_id": f"{story.group}-hook", "log": structlog.get_logger()}
    with closing(AssignedAlerts(KafkaConnection(story.servers), start_at="earliest", **where)) as alerts:
        first = alerts.next(10_000)
        assert first is not None
        assert alerts.lag() == {0: 11}
        alerts.pass_over(first)
        assert alerts.lag() == {0: 10}
        place = TopicPartition(story.topics["alerts"], 0, 8)
        admin = AdminClient({"bootstrap.servers": story.servers})
        admin.delete_records([place])[place].result(WAIT_MAX_S)
        alerts._consumer.seek(TopicPartition(place.topic, place.partition, 2))
        with pytest.raises(SourceError, match="a restart goes on behind them"):
            deque(iter(lambda: alerts.next(100), story), maxlen=0)
    story.configure()
    with story.notify("--once") as process:
        assert process.wait(WAIT_MAX_S) == 0
    assert [got.key for got in story.receiver.got] == ["a8/hook", "a9/hook"]
