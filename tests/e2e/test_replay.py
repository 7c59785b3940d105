"""`modelvigil replay` on a real Kafka: what a worker has published comes out again, and a candidate is told apart."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, Producer, TopicPartition

from tests.e2e.harness import Deployment, parsed
from tests.malformed import GOOD
from worker import cli
from worker.edges.kafka import KafkaConnection
from worker.edges.kafka.client import ErrorWatch, close_beside
from worker.edges.kafka.reading import TopicReader, unread

EVENTS = 2_640
STEP_MS = 20
LABEL_DELAY_MS = 1_000
MODELS = ("credit", "billing")
"""Their events come in turns."""
ODD = 2_301
"""An unusual event, of billing: a single one is not critical."""
FAULT = range(2_480, 2_520)
"""Of credit, which is."""
MIDDLE = 2_420
QUIET_S = 2.0
NOISY = ("--set", "engine.alerts.noise.severity_min=info")
NO_LIMITS = ("--set", "engine.performance.limits=[]")
"""Coverage is about when labels come against predictions, and a worker takes a backlog in another order than time."""

Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def deployment(kafka: str, topic_prefix: str) -> Deployment:
    """Fresh topics and a fresh group."""
    made = Deployment(kafka, topic_prefix)
    made.create_topics()
    return made


@pytest.fixture
def replay(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a replay in this process; get its code and its report."""

    def run(deployment: Deployment, *arguments: str) -> tuple[int, dict[str, Any]]:
        capfd.readouterr()
        code = cli.main(deployment.command("replay", "--json", *NO_LIMITS, *arguments)[3:])
        out, err = capfd.readouterr()
        assert out, err
        return code, json.loads(out)

    return run


def published_history(deployment: Deployment) -> int:
    """Write predictions of the last minute, an odd one and a fault among them, and labels; return when they begin."""
    begin_ms = int(time.time() * 1000) - EVENTS * STEP_MS - 10_000
    producer = Producer({"bootstrap.servers": deployment.servers, "linger.ms": 20})
    for number in range(EVENTS):
        now_ms = begin_ms + number * STEP_MS
        model_id = MODELS[number % len(MODELS)]
        usual = 10 + (number * 37 % 101) / 50
        broken = number == ODD or (number in FAULT and model_id == "credit")
        features = {"amount": 1000.0 if broken else usual, "age": 30 + number * 13 % 29}
        known = {"event_id": f"e{number}", "model_id": model_id}
        event = GOOD | known | {"timestamp": now_ms, "features": features, "prediction": "yes"}
        label = known | {"label": "yes" if number % 7 else "no"}
        for topic, value, stamp in (
            ("predictions", event, now_ms),
            ("labels", label | {"timestamp": now_ms + LABEL_DELAY_MS}, now_ms + LABEL_DELAY_MS),
        ):
            producer.produce(deployment.topics[topic], json.dumps(value).encode(), b"key", 1, timestamp=stamp)
        producer.poll(0)
    assert producer.flush(30) == 0
    return begin_ms


def test_a_replay_finds_what_was_published(deployment: Deployment, replay: Run, tmp_path: Path) -> None:
    """Under the same options nothing differs; a candidate that loses an incident of a part says so; nothing moves."""
    begin_ms = published_history(deployment)
    with deployment.worker(*NO_LIMITS, *NOISY) as worker:
        deployment.wait_for(EVENTS)
        time.sleep(QUIET_S)  # what is open at the end is resolved by ticks
        worker.terminate()
        assert worker.wait(20) == 0
    alerts = [parsed(message) for message in deployment.read("alerts")]
    incidents = {alert["incident_id"]: alert for alert in alerts}

    code, same = replay(deployment, *NOISY, "--fail-on-difference")
    assert (code, same["differences"]) == (0, 0), same["difference"]
    assert same["published"] == same["replayed"] == len(incidents)
    assert same["played"]["predictions"] == same["played"]["labels"] == EVENTS
    assert same["shifted"] == 0
    assert same["caught"] == {"what": "critical", "published": 1, "still": 1}

    # Around the fault only: what was before is warm-up.
    middle_ms = begin_ms + MIDDLE * STEP_MS
    later = {name: alert for name, alert in incidents.items() if alert["opened_at_ms"] >= middle_ms}
    candidate = tmp_path / "candidate.toml"
    candidate.write_text("[engine.alerts.noise]\nduration_ms = 3_600_000\n")
    span = ("--from", str(middle_ms), "--to", "-1s", "--partition", "1")
    code, fewer = replay(deployment, "--config", str(candidate), *span, "--fail-on-difference")
    assert (code, fewer["published"], fewer["replayed"]) == (1, len(later), 0)
    assert fewer["caught"] == {"what": "critical", "published": 1, "still": 0}
    assert 0 < len(later) < len(incidents)

    assert [parsed(message) for message in deployment.read("alerts")] == alerts
    assert deployment.committed() == EVENTS


def test_a_topic_is_read_to_its_end(deployment: Deployment) -> None:
    """What was aborted is left out, also at the end; records are found by time; nothing is waited for."""
    topic, begin_ms = deployment.topics["alerts"], 1_767_225_600_000
    writer = Producer({"bootstrap.servers": deployment.servers, "transactional.id": deployment.group})
    writer.init_transactions(30)
    for number, end in enumerate((writer.commit_transaction, writer.abort_transaction) * 2):
        writer.begin_transaction()
        for partition in (0, 2):
            writer.produce(topic, b"%d" % number, partition=partition, timestamp=begin_ms + number)
        writer.flush(30)
        end(30)
    connection = KafkaConnection(deployment.servers)
    reader = TopicReader(connection, group_id=deployment.group, topic=topic, partitions=4)
    started_s = time.monotonic()
    found = [(batch.partition, value) for batch in reader.batches() for value in batch.values]
    assert found == [(0, b"0"), (0, b"2"), (2, b"0"), (2, b"2")]
    assert [reader.offset_at(2, moment_ms) for moment_ms in (0, begin_ms, 4_102_444_800_000)] == [0, 0, None]
    reader.close()

    following = connection.consumer(ErrorWatch(), {}, {"group.id": deployment.group})
    following.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(4)])
    left = [TopicPartition(topic, partition, 8) for partition in (0, 2)]
    values = []
    while left := unread(following, left):
        assert time.monotonic() - started_s < 5.0
        values += [message.value() for message in following.consume(500, 0.1)]
    assert sorted(map(str, values)) == sorted(map(str, [b"0", b"2"] * 2))
    close_beside(following)
