"""What a worker tells operators over HTTP: its figures are those of what was sent and of what it published."""

import http.client
import json
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Message
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.harness import Deployment, headers_of, parsed
from tests.malformed import GOOD

PARTITION = 1
EVENTS = 3060
BROKEN_FROM = 3000
BAD = [b"no json", b"", b'{"event_id": "e"}', b"no json either"]
OUTPUTS = ("alerts", "incidents", "metrics", "maintenance", "dead_letters")
NO_TICKS = ("--set", "worker.idle_close_ms=600000")
"""What is open stays open: events of these tests are old by the clock."""


@pytest.fixture
def deployment(kafka: str, topic_prefix: str) -> Deployment:
    """Fresh topics and a fresh group."""
    made = Deployment(kafka, topic_prefix)
    made.create_topics()
    return made


class Ops:
    """Asks a worker at its Unix socket."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.options = ("--set", f"ops.socket={path}")

    def ask(self, page: str) -> tuple[int, bytes]:
        """Return status and body; 0 while nobody listens."""
        connection = http.client.HTTPConnection("localhost", timeout=5)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.connect(str(self._path))
            connection.request("GET", page)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (FileNotFoundError, ConnectionRefusedError):
            return 0, b""
        finally:
            connection.close()

    def follow(self, worker: subprocess.Popen[bytes]) -> list[tuple[int, str]]:
        """Ask whether the worker is ready until it is; return the different answers."""
        answers: list[tuple[int, str]] = []
        while not answers or answers[-1][0] != 200:
            assert worker.poll() is None
            status, body = self.ask("/readyz")
            if status:
                answer = status, json.loads(body)["reason"].partition(":")[0]
                answers += [] if answers[-1:] == [answer] else [answer]
            time.sleep(0.02)
        return answers

    def samples(self) -> dict[str, dict[tuple[str, ...], float]]:
        """Return all samples by name and values of labels, without the empty prefix."""
        found: dict[str, dict[tuple[str, ...], float]] = {}
        for family in text_string_to_metric_families(self.ask("/metrics")[1].decode()):
            for sample in family.samples:
                name = sample.name.removeprefix("modelvigil_")
                found.setdefault(name, {})[tuple(sample.labels.values())] = sample.value
        return found

    def wait_for(self, name: str, value: float) -> dict[str, dict[tuple[str, ...], float]]:
        """Return the samples once there are some of a name, and they add up to a value."""
        end = time.monotonic() + 30
        while name not in (found := self.samples()) or sum(found[name].values()) != value:
            assert time.monotonic() < end, (name, value, found.get(name))
            time.sleep(0.1)
        return found


def events() -> Iterator[tuple[int, bytes]]:
    """Yield ten events a second of a steady model whose feature `amount` is far off at the end."""
    for number in range(EVENTS):
        value = 1000.0 if number >= BROKEN_FROM else 10 + (number * 37 % 101) / 50
        features = {"amount": value, "age": 30 + number * 13 % 29, "region": "north"}
        moment = 1_767_225_600_000 + number * 100
        yield (
            PARTITION,
            json.dumps(GOOD | {"event_id": f"e{number}", "features": features, "timestamp": moment}).encode(),
        )


def test_figures_are_those_of_the_topics(deployment: Deployment, tmp_path: Path) -> None:
    """Probes follow the start; each counter and gauge equals what can be read in Kafka."""
    deployment.publish([*events(), *((2, bad) for bad in BAD)])
    ops = Ops(tmp_path / "ops")
    with deployment.worker(*ops.options, *NO_TICKS) as worker:
        answers = ops.follow(worker)
        assert answers[0] == (503, "starting")
        assert answers[-1] == (200, "4 partitions")
        ops.wait_for("events_processed_total", EVENTS)
        deployment.wait_for(EVENTS + len(BAD))
        topics = {topic: deployment.read(topic) for topic in OUTPUTS}
        ops.wait_for("outputs_total", sum(map(len, topics.values())))
        ops.wait_for("consumer_lag_records", 0)
        found = ops.wait_for("incidents_open", sum((table := _open_incidents(topics["incidents"])).values()))
        assert ops.ask("/healthz")[0] == 200
        assert ops.ask("/elsewhere")[0] == 404
        worker.terminate()
        assert worker.wait(20) == 0
    assert not (tmp_path / "ops").exists()
    assert found["records_consumed_total"]["predictions",] == EVENTS + len(BAD)
    reasons = Counter(headers_of(letter)["modelvigil.reason"].decode() for letter in topics["dead_letters"])
    assert _counted(found["records_rejected_total"]) == {(reason,): count for reason, count in reasons.items()}
    alerts = list(map(parsed, topics["alerts"]))
    steps = Counter((each["model_id"], each["kind"], each["severity"], each["status"]) for each in alerts)
    assert found["alerts_total"] == steps != {}
    assert found["event_to_alert_seconds_count"][()] == len(alerts)
    assert _counted(found["incidents_open"]) == table != {}
    _check_panes(found, [pane for pane in map(parsed, topics["metrics"]) if pane["kind"] == "pane"])
    assert ("predictions", "1") in found["consumer_lag_records"]
    assert found["ready"][()] == 1


def _check_panes(found: dict[str, dict[tuple[str, ...], float]], panes: list[Any]) -> None:
    """Check what is shown of the only model."""
    shown, last = (GOOD["model_id"], "1"), panes[-1]
    assert found["model_events_total"] == {shown: sum(pane["events"] for pane in panes)}
    assert found["model_window_end_timestamp_seconds"] == {shown: last["pane_end_ms"] / 1000}
    means = {column["name"]: column["mean"] for column in last["columns"] if column["role"] == "feature"}
    assert {key[2]: value for key, value in found["feature_mean"].items()} == {
        name: mean for name, mean in means.items() if mean is not None
    }


def _counted(samples: dict[tuple[str, ...], float]) -> dict[tuple[str, ...], float]:
    return {key: value for key, value in samples.items() if value}


def _open_incidents(messages: list[Message]) -> dict[tuple[str, ...], int]:
    rows = {message.key(): message.value() for message in messages}
    still = [json.loads(value) for value in rows.values() if value is not None]
    return dict(Counter((row["model_id"], row["severity"]) for row in still))
