"""Runs real workers against a real Kafka: start, wait, stop, kill, and read what they published."""

import json
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition

from worker import cli
from worker.cli_options import ExitCode
from worker.settings import Settings, load_settings

PARTITIONS = 4
WAIT_SECONDS_MAX = 60.0
QUICK_PANES = (
    "engine.pane_ms=1000",
    "engine.pane_grace_ms=200",
    "engine.incident.quiet_ms=1000",
    "engine.performance.pane_ms=2000",
    "engine.performance.label_wait_max_ms=60000",
    "engine.performance.windows_ms=[4000, 20000]",
    "engine.performance.block_labels=20",
    "engine.performance.reference_labels=200",
    "engine.performance.support_min=40",
    "worker.label_hold_ms=300",
    "worker.idle_close_ms=500",
)
"""So that the last events are in the metrics two seconds after they came, and labels reach their limits in a test."""


class Deployment:
    """One set of topics and one consumer group on a broker."""

    def __init__(self, servers: str, prefix: str) -> None:
        self.servers = servers
        self.group = f"{prefix}group"
        self.topics = {
            name: f"{prefix}{name}"
            for name in (
                "predictions",
                "labels",
                "feedback",
                "alerts",
                "incidents",
                "metrics",
                "maintenance",
                "dead_letters",
                "state",
                "scores",
            )
        }

    def settings(self) -> Settings:
        """Return the settings that the commands below amount to."""
        named = {f"topics.{name}": topic for name, topic in self.topics.items()}
        quick = {
            name: tomllib.loads(f"value = {value}")["value"]
            for name, value in (each.split("=") for each in QUICK_PANES)
        }
        return load_settings(None, {}, {**named, **quick, "kafka.bootstrap_servers": self.servers})

    def command(self, *arguments: str) -> list[str]:
        """Return a modelvigil command for these topics and this group."""
        sets = [f"topics.{name}={topic}" for name, topic in self.topics.items()]
        sets += ["worker.log_format=json", "worker.commit_interval_ms=50", *QUICK_PANES]
        options = ["--bootstrap-servers", self.servers, "--group-id", self.group]
        for each in sets:
            options += ["--set", each]
        return [sys.executable, "-m", "worker", *arguments, *options]

    def create_topics(self) -> None:
        """Create all topics with the command that users have, in this process: it has loaded what that needs."""
        assert cli.main([*self.command("topics", "create")[3:], "--partitions", str(PARTITIONS)]) == ExitCode.DONE

    @contextmanager
    def worker(self, *more: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a worker; it is killed at the end if it has not been stopped before."""
        with subprocess.Popen([*self.command("run"), *more], stderr=subprocess.DEVNULL) as process:
            try:
                yield process
            finally:
                process.kill()

    def publish(self, records: Iterable[tuple[int, bytes | None]], topic: str = "predictions") -> None:
        """Write values to partitions of an input, in order."""
        producer = Producer({"bootstrap.servers": self.servers, "linger.ms": 20})
        for partition, value in records:
            producer.produce(self.topics[topic], value, key=b"key", partition=partition)
            producer.poll(0)
        assert producer.flush(30) == 0

    def committed(self) -> int:
        """Return how many records the group has behind it."""
        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": self.group})
        places = [TopicPartition(self.topics["predictions"], partition) for partition in range(PARTITIONS)]
        try:
            return sum(max(0, place.offset) for place in consumer.committed(places, timeout=30))
        except KafkaException:
            return 0  # the coordinator of a new group is not ready at once
        finally:
            consumer.close()

    def wait_for(self, committed: int) -> None:
        """Wait until so many records are behind the group."""
        end = time.monotonic() + WAIT_SECONDS_MAX
        while (now := self.committed()) < committed:
            assert time.monotonic() < end, f"only {now} of {committed} records committed in {WAIT_SECONDS_MAX} s"
            time.sleep(0.1)

    def read(self, topic: str) -> list[Message]:
        """Return all committed records of an output topic."""
        consumer = Consumer(
            {"bootstrap.servers": self.servers, "group.id": f"{self.group}-reader", "enable.partition.eof": True}
        )
        consumer.assign([TopicPartition(self.topics[topic], partition, 0) for partition in range(PARTITIONS)])
        messages: list[Message] = []
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        ends = self._ends(topic)
        while any(max(place.offset, 0) < ends[place.partition] for place in consumer.position(consumer.assignment())):
            assert time.monotonic() < deadline, f"the end of {topic} cannot be read: a transaction stays open"
            messages += [message for message in consumer.consume(1000, 0.2) if message.error() is None]
        consumer.close()
        return messages

    def _ends(self, topic: str) -> list[int]:
        """Return where the partitions end, open transactions included."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.servers,
                "group.id": f"{self.group}-reader",
                "isolation.level": "read_uncommitted",
            }
        )
        places = [TopicPartition(self.topics[topic], partition) for partition in range(PARTITIONS)]
        ends = [consumer.get_watermark_offsets(place, timeout=30)[1] for place in places]
        consumer.close()
        return ends

    def wait_for_records(self, topic: str, count: int) -> None:
        """Wait until so many records are visible in an output topic."""
        end = time.monotonic() + WAIT_SECONDS_MAX
        while (now := len(self.read(topic))) < count:
            assert time.monotonic() < end, f"only {now} of {count} records of {topic} after {WAIT_SECONDS_MAX} s"
            time.sleep(0.3)

    def wait_for_events(self, count: int) -> None:
        """Wait until so many events are in the metrics: the last panes close when their partition is idle."""
        end = time.monotonic() + WAIT_SECONDS_MAX
        while (now := self.events_in_metrics()) < count:
            assert time.monotonic() < end, f"only {now} of {count} events in the metrics after {WAIT_SECONDS_MAX} s"
            time.sleep(0.3)

    def events_in_metrics(self) -> int:
        """Return how many events the metric records count, all parts of all panes together."""
        return sum(parsed(message).get("events", 0) for message in self.read("metrics"))


def is_alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def parsed(message: Message) -> Any:  # noqa: ANN401 - JSON
    """Return a record's value as JSON."""
    value = message.value()
    assert value is not None
    return json.loads(value)


def headers_of(message: Message) -> dict[str, bytes]:
    """Return a record's headers."""
    return {name: bytes(value or b"") for name, value in list(message.headers() or [])}  # type: ignore[misc, arg-type]  # its stub allows a dict, too
