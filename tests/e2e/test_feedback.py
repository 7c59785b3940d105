"""`modelvigil feedback` on a real Kafka: what it sends is there for good, and what it finds is what was committed."""

import json
from collections.abc import Callable

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined] # not listed in its __all__

from worker import cli
from worker.cli_options import ExitCode
from worker.core.codec import encode
from worker.core.events import AlertEvent

INCIDENT = "3f9a1c0000000000"
ABORTED = "3f9a1d0000000000"
Run = Callable[..., tuple[int, str, str]]


def alert(incident_id: str) -> bytes:
    """Return the opening of an incident."""
    step = AlertEvent(
        alert_id=incident_id,
        incident_id=incident_id,
        fingerprint=incident_id,
        kind="quality.range",
        status="opened",
        severity="warning",
        summary="fraud: `amount` is out of range",
        runbook="quality.range",
        model_id="fraud",
        model_version=None,
        shard=1,
        timestamp_ms=1_767_225_600_000,
        opened_at_ms=1_767_225_600_000,
        last_flagged_ms=1_767_225_600_000,
        resolved_at_ms=None,
    )
    return encode(step)


def create(servers: str, topic: str, partitions: int) -> None:
    """Create a topic and wait for it."""
    admin = AdminClient({"bootstrap.servers": servers})
    admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(15)


def publish(servers: str, topic: str, transactional_id: str) -> None:
    """Write one incident in a transaction that is committed, and another one in one that is not."""
    producer = Producer({"bootstrap.servers": servers, "transactional.id": transactional_id})
    producer.init_transactions(15)
    for incident_id, end in ((INCIDENT, producer.commit_transaction), (ABORTED, producer.abort_transaction)):
        producer.begin_transaction()
        producer.produce(topic, alert(incident_id), partition=1)
        producer.flush(15)
        end(15)


@pytest.fixture
def run(kafka: str, topic_prefix: str, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command on topics of this test alone; get its code, what it printed, and what it said of a failure."""
    sets = [f"topics.{role}={topic_prefix}{role}" for role in ("feedback", "alerts", "incidents", "maintenance")]

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        options = [word for each in sets for word in ("--set", each)]
        code = cli.main(["feedback", *arguments, "--bootstrap-servers", kafka, *options])
        out, err = capfd.readouterr()
        return code, out, err

    return run


def test_feedback_is_sent_found_and_undone(kafka: str, topic_prefix: str, run: Run) -> None:
    """Without topics it says so; an aborted incident was never told; what is sent is listed until it is undone."""
    code, _, err = run("list")
    assert code == ExitCode.TOPICS
    assert "does not exist: run `modelvigil topics create`" in err

    for role, partitions in (("feedback", 1), ("alerts", 2), ("incidents", 2), ("maintenance", 2)):
        create(kafka, f"{topic_prefix}{role}", partitions)
    publish(kafka, f"{topic_prefix}alerts", f"{topic_prefix}alerts")
    # As a worker leaves it that was killed: nobody waits until the broker ends it.
    left_open = Producer({"bootstrap.servers": kafka, "transactional.id": f"{topic_prefix}killed"})
    left_open.init_transactions(15)
    left_open.begin_transaction()
    left_open.produce(f"{topic_prefix}alerts", alert(ABORTED), partition=0)
    assert left_open.flush(15) == 0
    assert run("list")[:2] == (ExitCode.DONE, "no feedback is in force\n")

    code, _, err = run("false-positive", ABORTED)
    assert code == ExitCode.USAGE
    assert "no incident" in err
    code, out, err = run("false-positive", "3f9a", "--reason", "month end", "--author", "ann")
    assert code == ExitCode.DONE, err
    assert "`amount` is out of range" in out
    code, out, err = run("silence", "--model", "fraud-*", "--for", "2h", "--reason", "backfill", "--author", "ann")
    assert code == ExitCode.DONE, err
    feedback_id = out.removeprefix("sent ").partition(":")[0]

    listed = json.loads(run("list", "--json")[1])
    assert [each["kind"] for each in listed] == ["false_positive", "silence"]
    assert listed[0]["incident_id"] == INCIDENT
    assert listed[1]["feedback_id"] == feedback_id

    code, _, err = run("undo", feedback_id[:8], "--author", "eve")
    assert code == ExitCode.DONE, err
    assert [each["kind"] for each in json.loads(run("list", "--json")[1])] == ["false_positive"]
