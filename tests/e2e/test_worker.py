"""The worker as its own process on a real Kafka: nothing lost, nothing doubled, nothing crashes it from outside."""

import itertools
import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import PARTITIONS, Deployment, headers_of, is_alive, parsed
from tests.malformed import GOOD, malformed
from worker.core.options import EngineOptions


@pytest.fixture
def deployment(kafka: str, topic_prefix: str) -> Deployment:
    """Fresh topics and a fresh group."""
    made = Deployment(kafka, topic_prefix)
    made.create_topics()
    return made


def good(number: int) -> bytes:
    """Return a valid event of now."""
    return json.dumps(GOOD | {"event_id": f"e{number}", "timestamp": int(time.time() * 1000)}).encode()


def numbered_bad(number: int) -> bytes:
    """Return a record that is not JSON, and differs from all others: it gives exactly one output."""
    return b"not json %d" % number


def said(round_: int, shard: int) -> bytes:
    """Return feedback on an incident that one shard should know, and does not."""
    about = {"model_id": "none", "shard": shard, "incident_id": "unknown"}
    return json.dumps({"kind": "true_positive", "feedback_id": f"{round_}-{shard}", "author": "a"} | about).encode()


def mixed(count: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield good and malformed records in turn, spread over the partitions."""
    for number, bad in enumerate(itertools.islice(malformed(11), count)):
        yield number % PARTITIONS, good(number)
        yield (number * 7) % PARTITIONS, bad


def test_ten_thousand_malformed_among_ten_thousand_good(deployment: Deployment) -> None:
    """Every malformed record is a dead letter, byte for byte, with its origin; every good one is in the metrics."""
    records = list(mixed(10_000))
    deployment.publish(records)
    with deployment.worker() as worker:
        deployment.wait_for(20_000)
        deployment.wait_for_events(10_000)
        worker.terminate()
        assert worker.wait(20) == 0
    assert deployment.events_in_metrics() == 10_000
    letters = deployment.read("dead_letters")
    assert len(letters) == 10_000
    originals = {
        (message.partition(), message.offset()): (message.key(), message.value())
        for message in deployment.read("predictions")
    }
    for letter in letters:
        headers = headers_of(letter)
        origin = int(headers["modelvigil.partition"]), int(headers["modelvigil.offset"])
        assert (letter.key(), letter.value()) == originals.pop(origin)
        assert headers["modelvigil.topic"].decode() == deployment.topics["predictions"]
        assert headers["modelvigil.reason"]
    assert len(originals) == 10_000  # what is left are the good ones


def test_kill_9_loses_and_doubles_nothing(deployment: Deployment) -> None:
    """Killed three times in the middle of the work, the workers together answer each record exactly once.

    Of feedback, which all shards read, each answers what is for it.
    """
    total = 30_000
    deployment.publish((number % PARTITIONS, numbered_bad(number)) for number in range(total))
    for round_, share in enumerate((0.1, 0.3, 0.5)):
        deployment.publish(((0, said(round_, shard)) for shard in range(PARTITIONS)), "feedback")
        deployment.publish([(0, b"no feedback %d" % round_)], "feedback")
        with deployment.worker("--set", "worker.fetch_records_max=500") as worker:
            deployment.wait_for(int(total * share))
            worker.send_signal(signal.SIGKILL)
            worker.wait()
    with deployment.worker():
        deployment.wait_for(total)
        deployment.wait_for_records("maintenance", 3 * PARTITIONS)
        deployment.wait_for_records("dead_letters", total + 3)
    seen = Counter(message.value() for message in deployment.read("dead_letters"))
    assert len(seen) == total + 3
    assert set(seen.values()) == {1}
    audits = [parsed(message) for message in deployment.read("maintenance")]
    assert {audit["kind"] for audit in audits} == {"feedback_refused"}
    answered = sorted((audit["feedback_id"], audit["shard"]) for audit in audits)
    assert answered == [(f"{round_}-{shard}", shard) for round_ in range(3) for shard in range(PARTITIONS)]


def test_workers_share_and_hand_over_without_loss(deployment: Deployment) -> None:
    """A second worker joins, the first one leaves: every event is counted once, every dead letter is there once."""
    half = list(mixed(2000))
    deployment.publish(half)
    with deployment.worker() as first:
        deployment.wait_for(4000)
        with deployment.worker() as second:
            time.sleep(3)
            deployment.publish(half)
            deployment.wait_for(8000)
            first.terminate()
            assert first.wait(20) == 0
            deployment.publish(half)
            deployment.wait_for(12_000)
            deployment.wait_for_events(6000)
            second.terminate()
            assert second.wait(20) == 0
    assert deployment.events_in_metrics() == 6000
    assert len(deployment.read("dead_letters")) == 6000
    places = Counter(
        (headers["modelvigil.partition"], headers["modelvigil.offset"])
        for headers in map(headers_of, deployment.read("dead_letters"))
    )
    assert set(places.values()) == {1}


def test_alerts_and_maintenance_reach_their_topics(deployment: Deployment) -> None:
    """A model whose inputs jump is told on the alert topic with evidence, features and scores of all detectors."""
    events = []
    for number in range(4000):
        broken = 3000 <= number < 3060
        value = 1000.0 if broken else 10 + (number * 37 % 101) / 50
        features = {"amount": value, "age": 30 + number * 13 % 29, "region": "north"}
        event = GOOD | {"event_id": f"e{number}", "features": features, "timestamp": 1_767_225_600_000 + number * 100}
        events.append((1, json.dumps(event).encode()))
    deployment.publish(events)
    with deployment.worker() as worker:
        deployment.wait_for(4000)
        worker.terminate()
        assert worker.wait(20) == 0
    kinds = Counter(parsed(message)["kind"] for message in deployment.read("maintenance"))
    assert kinds == {"schema_frozen": 1, "detector_refitted": 2}
    critical = [alert for alert in map(parsed, deployment.read("alerts")) if alert["severity"] == "critical"]
    assert critical
    assert critical[0]["features"][0]["name"] == "amount"
    assert {score["detector"] for score in critical[0]["scores"]} == set(EngineOptions().detectors)
    assert any(row["offset"] in range(3000, 3060) for row in critical[0]["evidence"])


def test_a_worker_leaves_no_process_behind(deployment: Deployment) -> None:
    """Killed with -9, the worker takes its refit process with it."""
    deployment.publish((0, good(number)) for number in range(2000))
    # Without SVMs and challengers there is no such process.
    with deployment.worker("--set", 'engine.detectors=["one_class_svm"]') as worker:
        deployment.wait_for(2000)
        children = _children(worker.pid)
        assert children
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    end = time.monotonic() + 10
    while any(map(is_alive, children)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(map(is_alive, children))


@pytest.mark.parametrize(("command", "topic", "code"), [("run", "alerts", 5), ("topics check", "state", 5)])
def test_a_missing_topic_is_one_clear_line(deployment: Deployment, command: str, topic: str, code: int) -> None:
    """The line names the topic and says what to do; the exit code is that of topics."""
    deployment.topics[topic] += "-missing"
    line_of = deployment.command(*command.split())
    done = subprocess.run(line_of, capture_output=True, text=True, timeout=60, check=False)
    line = done.stderr.strip().splitlines()[-1]
    assert done.returncode == code
    assert deployment.topics[topic] in line
    assert "modelvigil topics create" in line


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
