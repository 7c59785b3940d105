"""Starts, stops, kills and restarts one Apache Kafka (KRaft: broker and controller in one process) on this machine.

Rule 1: no Java process outlives this Python process; see `guard.py`.
Rule 2: every wait is bounded, and ends early if the Java process does.
Rule 3: the first start fixes the address and the data directory; a later start finds what the broker had stored.
"""

import base64
import contextlib
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from worker.edges.broker.jars import BrokerError, class_path, java
from worker.edges.broker.ports import ReservedPorts
from worker.edges.broker.process import GuardedProcess

JVM_OPTIONS: Final = ("-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""A quick start and little memory. A benchmark wants the second compiler (no TieredStopAtLevel) and a larger heap."""

_START_MAX_S: Final = 60.0
_FORMAT_MAX_S: Final = 60.0
_FENCE_MAX_S: Final = 10.0
_FENCE_WRITE_S: Final = 0.2
_LOG_TAIL_LINES: Final = 15
LOGGING: Final = (
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
)
_FENCING_LOGGING: Final = "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.controller.ReplicationControlManager=info"
_FENCED: Final = b"Fencing broker 1 "
PROPERTIES: Final = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    "offsets.topic.num.partitions": "4",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # Takes 128 MB of the heap by default.
    "log.cleaner.dedupe.buffer.size": "4194304",
}


def _silent(_message: str) -> None:
    pass


class LocalBroker:
    """One local Kafka. As a context manager it is started on entry and stopped on exit.

    Args:
        data_directory: where it stores its data; kept at the end. Without it: a temporary one, removed by `stop`.
        properties: server properties beside or over ours.
        jvm_options: options of the Java launcher.
        say: is told what takes long.
    """

    def __init__(
        self,
        *,
        data_directory: Path | None = None,
        properties: Mapping[str, str] | None = None,
        jvm_options: Sequence[str] = JVM_OPTIONS,
        say: Callable[[str], None] = _silent,
    ) -> None:
        self._given_directory = data_directory
        self._properties = dict(properties or {})
        self._jvm_options = tuple(jvm_options)
        self._say = say
        self._directory: Path | None = None
        self._reserved: ReservedPorts | None = None
        self._process: GuardedProcess | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def bootstrap_servers(self) -> str:
        """Where clients connect; stays the same over restarts."""
        return f"127.0.0.1:{self._ports[0]}"

    @property
    def data_directory(self) -> Path:
        """Holds the data, the configuration and the log of the broker."""
        if self._directory is None:
            message = "the broker has not been started"
            raise BrokerError(message)
        return self._directory

    @property
    def running(self) -> bool:
        """Whether the Java process lives."""
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int:
        """The Java process, for one who wants to pause or measure it."""
        if self._process is None or not self._process.running:
            message = "the broker is not running"
            raise BrokerError(message)
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers. Does nothing if it runs. A failed start leaves no process behind."""
        if self.running:
            return
        self.kill()
        java_command = [str(java()), *self._jvm_options, *LOGGING, "-cp"]
        java_command.append(os.pathsep.join(map(str, class_path(self._say))))
        if self._reserved is None:
            self._reserved = ReservedPorts(2)
        if self._directory is None:
            self._directory = self._given_directory or Path(tempfile.mkdtemp(prefix="modelvigil-kafka-"))
            self._directory.mkdir(parents=True, exist_ok=True)
        try:
            self._prepare_storage(java_command)
            self._launch(java_command, self._write_properties("server.properties", {}))
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Stop it in order; kill it if that takes too long. Can be called at any time, and again."""
        self._stop_process()
        if self._directory is not None and self._given_directory is None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def kill(self) -> None:
        """Kill it as a crash would (SIGKILL). The data stays; `start` brings it back at the same address."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def restart(self) -> None:
        """Stop it in order and start it again with its data, at the same address."""
        self._stop_process()
        self.start()

    def _stop_process(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None

    def _launch(self, java_command: Sequence[str], properties: Path) -> None:
        leftovers = None if self._given_directory else self.data_directory
        self._process = GuardedProcess([*java_command, "kafka.Kafka", str(properties)], self._log_path, leftovers)

    def _prepare_storage(self, java_command: Sequence[str]) -> None:
        """Format it the first time; clean up after a crash."""
        storage = self.data_directory / "kafka"
        if not (storage / "meta.properties").exists():
            self._format(java_command)
        elif not (storage / ".kafka_cleanshutdown").exists():
            self._fence_the_dead(java_command)

    def _format(self, java_command: Sequence[str]) -> None:
        # 22 characters; a leading "-" would be taken for an option.
        cluster_id = "M" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
        properties = self._write_properties("server.properties", {})
        command = [*java_command, "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(properties)]
        with self._log_path.open("ab") as log:
            try:
                subprocess.run(command, check=True, stdout=log, stderr=log, timeout=_FORMAT_MAX_S)  # noqa: S603 - no shell
            except (subprocess.SubprocessError, OSError) as error:
                raise self._failure(f"could not prepare its storage ({error.__class__.__name__})") from error

    def _fence_the_dead(self, java_command: Sequence[str]) -> None:
        """Let a controller without a broker declare the killed broker dead, before a new one starts.

        Left alone, the new process believes for `broker.session.timeout.ms` that the old one is alive, and leads its
        partitions. When that ends it may skip the commit markers that the crash has left to write ("these partitions
        are likely deleted"), and log them as written: the transaction then blocks its readers for ever. Seen in 6 of 9
        restarts of Kafka 4.4.0. This way there is no such time, and the restart is quicker than the session timeout.
        """
        log_end = self._log_path.stat().st_size
        alone = {
            "process.roles": "controller",
            "listeners": f"CONTROLLER://{self._controller}",
            "broker.session.timeout.ms": "500",
            "broker.heartbeat.interval.ms": "100",
            "controller.quorum.append.linger.ms": "0",
        }
        launcher, *options = java_command
        self._launch([launcher, _FENCING_LOGGING, *options], self._write_properties("controller.properties", alone))
        deadline_s = time.monotonic() + _FENCE_MAX_S
        while self.running and time.monotonic() < deadline_s:
            time.sleep(0.02)
            if _FENCED in self._log_path.read_bytes()[log_end:]:
                time.sleep(_FENCE_WRITE_S)
                break
        # No such line: the broker had died before it could register, or had been declared dead already.
        self._stop_process()

    def _write_properties(self, name: str, changes: Mapping[str, str]) -> Path:
        properties = {
            **PROPERTIES,
            "listeners": f"PLAINTEXT://{self.bootstrap_servers},CONTROLLER://{self._controller}",
            "controller.quorum.voters": f"1@{self._controller}",
            "log.dirs": (self.data_directory / "kafka").as_posix(),
            **self._properties,
            **changes,
        }
        path = self.data_directory / name
        path.write_text("".join(f"{key}={value}\n" for key, value in properties.items()), encoding="utf-8")
        return path

    def _wait_until_ready(self) -> None:
        """Wait until the answer to a real metadata request has a leader for every partition."""
        client = AdminClient(
            {
                "bootstrap.servers": self.bootstrap_servers,
                "reconnect.backoff.ms": 20,
                "reconnect.backoff.max.ms": 100,
                "log_level": 0,
            }
        )
        deadline_s = time.monotonic() + _START_MAX_S
        while time.monotonic() < deadline_s:
            if not self.running:
                raise self._failure("ended while it started")
            with contextlib.suppress(KafkaException):
                metadata = client.list_topics(timeout=0.5)
                partitions = [each for topic in metadata.topics.values() for each in topic.partitions.values()]
                if metadata.brokers and all(each.leader >= 0 for each in partitions):
                    return
        raise self._failure(f"did not answer within {_START_MAX_S:.0f} s")

    @property
    def _controller(self) -> str:
        return f"127.0.0.1:{self._ports[1]}"

    @property
    def _ports(self) -> tuple[int, ...]:
        """Where clients connect, and where controllers do."""
        if self._reserved is None:
            message = "the broker has not been started"
            raise BrokerError(message)
        return self._reserved.numbers

    @property
    def _log_path(self) -> Path:
        return self.data_directory / "broker.log"

    def _failure(self, what: str) -> BrokerError:
        lines = self._log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        tail = "\n".join(f"  | {line}" for line in lines) or "  | (empty)"
        return BrokerError(
            f"The local Kafka {what}. The end of its log:\n{tail}\n"
            "Usual causes: no free memory or disk, or a taken port. Try again, or set MODELVIGIL_BOOTSTRAP_SERVERS."
        )
