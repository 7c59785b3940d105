"""`modelvigil demo` as a person starts it, and the rules by which it says what came of it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from confluent_kafka import Consumer, TopicPartition
from rich.console import Console

from worker.cluster import TopicsError, create_topics
from worker.core.events import AlertEvent, EvidenceRow
from worker.demo import fault as injected
from worker.demo.fault import Fault, planned
from worker.demo.producing import produce
from worker.demo.report import Result, judge, lines
from worker.settings import Settings, TopicSettings, load_settings

MARK = "MODELVIGIL_TEST_MARK"
PROCESSES = Path("/proc")


def start(kafka: str, mark: str, *arguments: str) -> subprocess.Popen[str]:
    """Start the demo on the given Kafka. Every process of it inherits the mark."""
    environment = os.environ | {"MODELVIGIL_BOOTSTRAP_SERVERS": kafka, MARK: mark}
    environment.pop("DEMO_SECONDS", None)
    return subprocess.Popen(
        [sys.executable, "-m", "worker", "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        text=True,
        start_new_session=True,
    )


def left_over(mark: str) -> list[str]:
    """Command lines of processes that still carry the mark."""
    found = []
    for process in PROCESSES.glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it has just ended, or belongs to somebody else
            continue
    return found


def none_left_over(mark: str) -> bool:
    """Whether every process of the demo is gone, a moment after its end."""
    for _ in range(20):
        if not left_over(mark):
            return True
        time.sleep(0.1)
    return False


@pytest.fixture
def mark(topic_prefix: str) -> Iterator[str]:
    """A mark for the processes of one test; what it could not end is ended."""
    if not PROCESSES.exists():
        pytest.skip("needs /proc to see what is left over")
    yield topic_prefix
    assert none_left_over(topic_prefix), left_over(topic_prefix)


@pytest.mark.timeout(240)
def test_the_demo_counts_every_event_and_catches_the_fault(kafka: str, mark: str) -> None:
    """Twenty-five seconds: as many events are counted as were sent, the fault is caught, nothing is left over."""
    with start(kafka, mark, "--seconds", "25") as demo:
        output, _ = demo.communicate(timeout=220)
    assert demo.returncode == 0, output
    counts = re.search(
        r"Events in: ([\d,]+) in 25\.0 s\. Counted by the worker's metrics: ([\d,]+), and 0 dead", output
    )
    assert counts, output
    assert counts[1] == counts[2] != "0"
    assert "CAUGHT: critical" in output
    assert "The feature named first was saturation-mean, the broken one." in output
    assert "False alarms (critical incidents that are not the fault's): 0." in output


@pytest.mark.timeout(180)
def test_ctrl_c_ends_everything_in_order(kafka: str, mark: str) -> None:
    """A Ctrl-C while events flow: what was sent is still counted, and nothing is left over."""
    with start(kafka, mark) as demo:
        assert demo.stdout is not None
        seen = ""
        while " 5." not in seen:
            seen = demo.stdout.readline()
            assert seen, "the demo ended by itself"
        demo.send_signal(signal.SIGINT)
        output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 0, output
    assert "had not begun" in output
    assert "do NOT agree" not in output


# The report.

FAULT = Fault(10.0, 15.0)
STARTED_MS = 1_000_000


def alert(
    second: float,
    *,
    incident: str = "a",
    model: str = injected.MODEL_ID,
    status: Literal["opened", "updated", "resolved"] = "updated",
    evidence: tuple[float, ...] | None = None,
) -> AlertEvent:
    """A critical alert `second` seconds into the demo, with evidence of these seconds."""
    time_ms = STARTED_MS + int(second * 1000)
    return AlertEvent(
        alert_id="alert",
        incident_id=incident,
        fingerprint="fingerprint",
        kind="anomaly.input",
        status=status,
        severity="critical",
        summary="",
        runbook="anomaly.input",
        model_id=model,
        model_version=None,
        shard=0,
        timestamp_ms=time_ms,
        opened_at_ms=time_ms,
        last_flagged_ms=time_ms,
        resolved_at_ms=None,
        flagged_events=1,
        events=1,
        p_value=1e-6,
        alert_rate=0.001,
        scores=[],
        features=[],
        evidence=[
            EvidenceRow("predictions", 0, row, str(row), STARTED_MS + int(at * 1000), 1e-6)
            for row, at in enumerate((second,) if evidence is None else evidence)
        ],
    )


@pytest.mark.parametrize(
    ("alerts", "caught_at", "false_alarms"),
    [
        ([], None, 0),
        ([alert(10.0)], 10.0, 0),
        ([alert(14.99)], 14.99, 0),
        ([alert(9.99)], None, 1),
        ([alert(15.0)], None, 1),
        ([alert(11.0, model="segments-linear")], None, 1),
        ([alert(11.0, evidence=(9.0, 9.5, 11.0))], None, 1),
        ([alert(11.0, evidence=(9.5, 10.5, 11.0))], 11.0, 0),
        ([alert(11.0, status="resolved")], None, 0),
        ([alert(9.0), alert(11.0)], None, 1),
        ([alert(11.0), alert(16.0)], 11.0, 0),
        ([alert(3.0, incident="b"), alert(11.0), alert(20.0, incident="c")], 11.0, 2),
    ],
    ids=[
        "nothing",
        "at the beginning",
        "just before the end",
        "just before",
        "just after",
        "another model",
        "evidence from before",
        "evidence mostly inside",
        "only resolved",
        "critical already before",
        "goes on after the end",
        "false ones around it",
    ],
)
def test_what_counts_as_caught(alerts: list[AlertEvent], caught_at: float | None, false_alarms: int) -> None:
    """Caught is only what became critical inside of the fault's time, by the fault's events, for its model."""
    verdict = judge(alerts, FAULT, STARTED_MS)
    expected_ms = None if caught_at is None else STARTED_MS + int(caught_at * 1000)
    assert (verdict.caught and verdict.caught.timestamp_ms) == expected_ms
    assert verdict.false_alarms == false_alarms


def result(alerts: list[AlertEvent], *, seconds: float = 30.0, counted: int = 100, behind: int = 0) -> Result:
    """A result of a demo in which 100 events were written."""
    return Result(
        seconds=seconds,
        sent=100,
        written=100,
        delivery_error=None,
        counted=counted,
        dead_letters=0,
        behind=behind,
        opened=len(alerts),
        worker_exit_code=0,
        fault=FAULT,
        started_ms=STARTED_MS,
        criticals=alerts,
        label_alerts=[],
        asked_in_fault=50,
        right_in_fault=5,
        accuracy=0.9,
    )


def test_a_miss_is_said_plainly() -> None:
    """The report does not hide a fault that was not caught."""
    text = "\n".join(lines(result([])))
    assert "It was NOT caught" in text
    assert "right on 10% of these events" in text


def test_numbers_that_do_not_agree_are_said_plainly() -> None:
    """A lost event is called a bug; events that the worker was given no time for are not."""
    assert "do NOT agree" in "\n".join(lines(result([], counted=99)))
    text = "\n".join(lines(result([], counted=60, behind=40)))
    assert "stopped 40 events before the end" in text
    assert "do NOT agree" not in text


def test_an_incident_that_ends_before_its_fault_is_said_plainly() -> None:
    """The report says when the worker took the fault for the new normal; not when it was over in time."""
    early = [alert(11.0, status="opened"), alert(14.0, status="resolved")]
    in_time = [alert(11.0, status="opened"), alert(18.0, status="resolved")]
    assert "resolved at 14.0 s already" in "\n".join(lines(result(early)))
    assert "already" not in "\n".join(lines(result(in_time)))


def test_a_fault_that_had_not_begun_is_not_called_missed() -> None:
    """A demo that was ended early says so."""
    text = "\n".join(lines(result([], seconds=5.0)))
    assert "had not begun" in text
    assert "caught" not in text


def test_the_fault_lies_within_the_demo() -> None:
    """It begins late enough to be known from the normal, and ends early enough for the incident to be over."""
    assert planned(30.0) == pytest.approx((18.0, 22.5))
    assert planned(None).begin_s > 30.0


# Only events.


@pytest.mark.timeout(60)
def test_only_events_are_produced_for_workers_that_run_already(kafka: str, topic_prefix: str) -> None:
    """A second of it: every event and its label is in the topics of the settings, under ids that no other run has."""
    names = {f"topics.{field}": f"{topic_prefix}{field}" for field in TopicSettings.__struct_fields__}
    settings = load_settings(None, {}, {"kafka.bootstrap_servers": kafka} | names)
    with pytest.raises(TopicsError, match="topics create"):
        produce(settings, 1.0, 600, Console(quiet=True))
    create_topics(settings, 2, 1)
    produced = [produce(settings, 1.0, 600, Console(quiet=True)).predictions for _ in range(2)]
    assert produced == [600, 600]
    events = everything_in(settings, settings.topics.predictions)
    labels = everything_in(settings, settings.topics.labels)
    assert len({event["event_id"] for event in events}) == len(events) == sum(produced)
    assert {label["event_id"] for label in labels} == {event["event_id"] for event in events}
    assert len({event["model_id"] for event in events}) == 3


def everything_in(settings: Settings, topic: str) -> list[dict[str, str]]:
    """Return all records of a topic."""
    client: dict[str, str | int | float | bool] = {
        "bootstrap.servers": settings.kafka.bootstrap_servers,
        "group.id": topic,
        "auto.offset.reset": "earliest",
        "enable.partition.eof": True,
    }
    consumer, found, ended = Consumer(client), [], 0
    partitions = consumer.list_topics(topic, 10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
    while ended < len(partitions):
        for message in consumer.consume(1000, 5.0):
            if message.error() is None:
                found.append(json.loads(message.value() or b""))
            else:
                ended += 1
    consumer.close()
    return found


def test_the_fault_comes_back() -> None:
    """Without an end there is a fault in each round, never at its beginning, shorter than what becomes normal."""
    fault = injected.RECURRING
    on = [second for second in range(2 * int(fault.every_s)) if fault.during(second)]
    assert on == [second for start in (120, 420) for second in range(start, start + 20)]
