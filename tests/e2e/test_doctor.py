"""`modelvigil doctor` on a real Kafka: what it says of a sound deployment, and of one where much is wrong."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined] # not listed in its __all__
    AdminClient,
    NewTopic,
)

from tests.e2e.harness import PARTITIONS, Deployment
from tests.malformed import GOOD
from worker import cli
from worker.cli_options import ExitCode

Doctor = Callable[..., tuple[int, dict[str, Any]]]
EVENTS = 60


@pytest.fixture
def doctor(capfd: pytest.CaptureFixture[str]) -> Doctor:
    """Run the command in this process; get its code and its report."""

    def run(deployment: Deployment, *more: str) -> tuple[int, dict[str, Any]]:
        capfd.readouterr()
        # Patient: this machine may be busy with other tests.
        code = cli.main([*deployment.command("doctor")[3:], "--json", "--patience", "30", *more])
        out, err = capfd.readouterr()
        assert not err
        return code, json.loads(out)

    return run


def told(report: dict[str, Any], status: str) -> dict[str, list[str]]:
    """Return what has a status, by area."""
    found: dict[str, list[str]] = {}
    for each in report["findings"]:
        if each["status"] == status:
            found.setdefault(each["area"], []).append(each["message"])
    return found


def event(number: int, **changed: object) -> bytes:
    """Return an event of now."""
    return json.dumps(GOOD | {"event_id": f"e{number}", "timestamp": int(time.time() * 1000)} | changed).encode()


def label(number: int) -> bytes:
    """Return the label of an event."""
    return json.dumps({"event_id": f"e{number}", "model_id": GOOD["model_id"], "label": True}).encode()


def test_a_sound_deployment_at_work(kafka: str, topic_prefix: str, doctor: Doctor) -> None:
    """A worker is running: nothing is wrong, and looking changes nothing."""
    deployment = Deployment(kafka, topic_prefix)
    deployment.create_topics()
    deployment.publish((number % PARTITIONS, event(number)) for number in range(EVENTS))
    deployment.publish(((number % PARTITIONS, label(number)) for number in range(EVENTS)), "labels")
    with deployment.worker():
        deployment.wait_for(EVENTS)
        code, report = doctor(deployment)
    assert code == ExitCode.DONE, told(report, "error")
    assert told(report, "error") == {}
    well = told(report, "ok")
    # Clocks are told only while the last commit is young: not on every machine, in every test run.
    assert well.keys() - {"clock"} == {
        "connection",
        "access",
        "broker",
        "topics",
        "group",
        "state",
        "events",
        "machine",
    }
    assert f"group {deployment.group} is stable, 1 worker, 0 predictions to be read" in well["group"]
    assert f"{EVENTS} labels in the sample are in the partitions of their predictions" in well["events"]
    assert "clock" not in told(report, "warning")
    assert deployment.committed() == EVENTS


def test_much_that_is_wrong(kafka: str, topic_prefix: str, doctor: Doctor) -> None:
    """Partitions, settings, records: each is told, with what to do; the code says that it is the topics."""
    deployment = Deployment(kafka, topic_prefix)
    topics = deployment.topics
    admin = AdminClient({"bootstrap.servers": kafka})
    new = [
        NewTopic(topics["predictions"], 3, 1, config={"retention.ms": "60000"}),
        NewTopic(topics["labels"], 2, 1),
        NewTopic(topics["state"], 3, 1),
        *(NewTopic(topics[role], 3, 1) for role in ("alerts", "metrics", "maintenance", "dead_letters")),
    ]
    for answer in admin.create_topics(new).values():
        answer.result(10)
    deployment.publish([(0, b"{"), (0, event(1)), (1, event(2)), (1, event(3, features={"amount": "12"}))])
    deployment.publish([(1, label(1))], "labels")
    ahead = Producer({"bootstrap.servers": kafka})
    ahead.produce(topics["labels"], label(2), partition=1, timestamp=int(time.time() * 1000) + 3_600_000)
    assert ahead.flush(10) == 0
    code, report = doctor(deployment)
    assert code == ExitCode.TOPICS
    wrong, unwise = told(report, "error"), told(report, "warning")
    assert wrong.keys() == {"topics"}
    said = " | ".join(wrong["topics"])
    for part in (
        f"{topics['incidents']} does not exist",
        f"{topics['labels']} has 2 partitions, {topics['predictions']} has 3",
        f"{topics['state']} cleanup.policy must be compact alone",
        f"{topics['predictions']} keeps records for 60 s",
    ):
        assert part in said
    assert any("25% of the newest 4 records would be dead letters: not_json" in each for each in unwise["events"])
    assert any("amount of credit (2 number, 1 text)" in each for each in unwise["events"])
    assert any("1 of 2 labels in the sample are in another partition" in each for each in unwise["events"])
    assert unwise["clock"] == [f"a writer of {topics['labels']} has a clock that is 60 min ahead of this machine's"]
    assert all(each["advice"] for each in report["findings"] if each["status"] in {"error", "warning"})
    assert deployment.group not in {group.group_id for group in admin.list_consumer_groups().result(10).valid}
