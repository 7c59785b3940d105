"""Several workers on one machine under one supervisor, on a real Kafka: exact through crashes, and nobody is left."""

import json
import os
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.harness import Deployment, headers_of, is_alive
from tests.e2e.test_worker import mixed
from worker.supervisor.asking import ask

QUICK = {**os.environ, "MODELVIGIL_KAFKA_SESSION_TIMEOUT_MS": "3000", "MODELVIGIL_KAFKA_HEARTBEAT_INTERVAL_MS": "500"}
WAIT_S = 60.0
FITTED_BESIDE = 'engine.detectors=["moments", "one_class_svm"]'
"""Forests are fitted in a thread; SVMs by processes of their own, of which none may be left, either."""


class Supervised:
    """A running `modelvigil run --processes 2`, seen from outside: its log and its pages."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self._folder = folder

    def log(self) -> list[dict[str, Any]]:
        """Return its log, and that of its members. Fails if a line is torn.

        Python itself says a word about the semaphores of a process that was killed.
        """
        lines = (self._folder / "log").read_text().splitlines()
        return [json.loads(line) for line in lines if "resource_tracker" not in line and "warnings.warn" not in line]

    def pid_of(self, number: int) -> int:
        """Return the process of a member that was started last."""
        started = [line["modelvigil.pid"] for line in self.log() if _is_start(line, number)]
        assert started
        return int(started[-1])

    def left(self) -> list[Path]:
        """Return what is in its folder for temporary files, beside what fits leave there."""
        return list(self._folder.glob("modelvigil-*"))

    def is_ready(self) -> bool:
        """Whether all members are."""
        reply = ask(self._folder / "ops.sock", "/readyz", 3.0)
        return reply is not None and reply.status == 200

    def sums(self, name: str) -> dict[str, float]:
        """Return a metric of each member."""
        reply = ask(self._folder / "ops.sock", "/metrics", 3.0)
        assert reply is not None
        found: Counter[str] = Counter()
        for family in text_string_to_metric_families(reply.body.decode()):
            for sample in family.samples:
                if sample.name == name:
                    found[sample.labels["process"]] += int(sample.value)
        return dict(found)

    def everybody(self) -> list[int]:
        """Return its own process and all below it."""
        found = [self.process.pid]
        for pid in found:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                found += map(int, children.read_text().split())
        return found


def _is_start(line: dict[str, Any], number: int) -> bool:
    return line.get("message") == "process started" and line["modelvigil.process_number"] == number


def wait_until(condition: Callable[[], bool], what: str, seconds: float = WAIT_S) -> None:
    """Wait until it is so."""
    until_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until_s, f"not in {seconds} s: {what}"
        time.sleep(0.1)


@pytest.fixture
def deployment(kafka: str, topic_prefix: str) -> Deployment:
    """Fresh topics and a fresh group."""
    made = Deployment(kafka, topic_prefix)
    made.create_topics()
    return made


@contextmanager
def supervised(deployment: Deployment) -> Iterator[Supervised]:
    """Run two members; everything is killed at the end."""
    with tempfile.TemporaryDirectory(prefix="mv-") as name:
        folder = Path(name)
        env = {**QUICK, "TMPDIR": name}
        command = [*deployment.command("run"), "--processes", "2", "--set", f"ops.socket={folder / 'ops.sock'}"]
        command += ["--set", FITTED_BESIDE]
        with (folder / "log").open("wb") as log, subprocess.Popen(command, stderr=log, env=env) as process:
            made = Supervised(process, folder)
            try:
                yield made
            finally:
                for pid in made.everybody():
                    if is_alive(pid):
                        os.kill(pid, signal.SIGKILL)


def test_two_processes_count_everything_once(deployment: Deployment) -> None:
    """Two members share the partitions; one is killed and comes back; a stop, told to each process, is clean.

    All events are counted once, every dead letter is there once, and nobody is left behind.
    """
    half = list(mixed(2000))
    with supervised(deployment) as running:
        wait_until(running.is_ready, "ready")
        deployment.publish(half)
        deployment.wait_for(4000)
        wait_until(lambda: sum(running.sums("modelvigil_events_processed_total").values()) == 2000, "counted")
        assert running.sums("modelvigil_events_processed_total") == {"0": 1000, "1": 1000}
        assert running.sums("modelvigil_process_up") == {"0": 1, "1": 1}

        os.kill(running.pid_of(1), signal.SIGKILL)
        deployment.publish(half)
        wait_until(lambda: running.sums("modelvigil_process_restarts_total") == {"0": 0, "1": 1}, "restarted")
        deployment.wait_for(8000)
        deployment.wait_for_events(4000)
        wait_until(running.is_ready, "ready again")

        everybody = running.everybody()
        assert len(everybody) >= 5  # with the processes that fit
        # As a service manager does that signals a whole group: the supervisor passes it on to those who have it.
        for pid in (running.process.pid, running.pid_of(0), running.pid_of(1)):
            os.kill(pid, signal.SIGTERM)
        assert running.process.wait(30) == 0
        wait_until(lambda: not any(map(is_alive, everybody)), "nobody left", 10.0)
        assert running.left() == []
        ends = [line["modelvigil.end"] for line in running.log() if line["message"] == "process stopped"]
        assert ends == ["exit code 0"] * 2
    assert deployment.events_in_metrics() == 4000
    places = Counter(
        (headers["modelvigil.partition"], headers["modelvigil.offset"])
        for headers in map(headers_of, deployment.read("dead_letters"))
    )
    assert len(places) == 4000
    assert set(places.values()) == {1}


def test_nobody_survives_the_supervisor(deployment: Deployment) -> None:
    """When the supervisor is killed, a member at work stops cleanly, one that starts ends, and no fit goes on."""
    with supervised(deployment) as running:
        wait_until(lambda: any(_is_start(line, 1) for line in running.log()), "the second one started")
        everybody = running.everybody()
        running.process.kill()
        wait_until(lambda: not any(map(is_alive, everybody[1:])), "nobody left", 40.0)
        stopped = [line["modelvigil.process_number"] for line in running.log() if line["message"] == "stopped"]
        assert stopped == [0]
        assert running.left() == []


def test_a_wrong_configuration_is_told_once(kafka: str, topic_prefix: str) -> None:
    """Without topics nothing works: one sentence of the first member, and its exit code."""
    command = [*Deployment(kafka, topic_prefix).command("run"), "--processes", "2", "--set", "ops.port=0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 5
    assert done.stderr.count("modelvigil topics create") == 1
