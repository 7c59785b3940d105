"""Starts, stops, kills and restarts one Apache Kafka process (KRaft: broker and controller in one) on this machine.

Rule 1: no Java process outlives this Python process; see `guard.py`.
Rule 2: every wait is bounded, and ends early if the Java process does.
Rule 3: the first start fixes the ports and the data directory; a later start finds what the broker had stored.
"""

import base64
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from worker.edges.broker import guard
from worker.edges.broker.jars import BrokerError, class_path, java

JVM_OPTIONS = ("-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""A quick start and little memory. A benchmark wants the second compiler (no TieredStopAtLevel) and a larger heap."""

_START_MAX_S = 60.0
_STOP_MAX_S = 15.0
_FORMAT_MAX_S = 60.0
_LOG_TAIL_LINES = 15
# Below 32768, where Linux begins to hand out ports: a client that dials a closed port there can meet itself.
_PORTS = range(20_000, 30_000)
_PROPERTIES = {
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
    # After a kill the controller takes the old process for alive this long (9 s by default), and refuses the new one.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
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
        self._ports: tuple[int, int] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._pid = 0

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
        if self._ports is None:
            message = "the broker has not been started"
            raise BrokerError(message)
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
        return self._guard is not None and self._guard.poll() is None

    @property
    def pid(self) -> int:
        """The Java process, for one who wants to pause or measure it."""
        if not self.running:
            message = "the broker is not running"
            raise BrokerError(message)
        return self._pid

    def start(self) -> None:
        """Start it and wait until it answers. Does nothing if it runs. A failed start leaves no process behind."""
        if self.running:
            return
        self._end(guard.KILL)
        launcher = [str(java()), *self._jvm_options, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp"]
        launcher.append(os.pathsep.join(map(str, class_path(self._say))))
        if self._ports is None:
            self._ports = _free_ports()
        if self._directory is None:
            self._directory = self._given_directory or Path(tempfile.mkdtemp(prefix="modelvigil-kafka-"))
            self._directory.mkdir(parents=True, exist_ok=True)
        try:
            self._format(launcher)
            self._launch(launcher)
            self._wait_until_ready()
        except BaseException:
            self._end(guard.KILL)
            raise

    def stop(self) -> None:
        """Stop it in order; kill it if that takes too long. Can be called at any time, and again."""
        self._end(guard.STOP)
        if self._directory is not None and self._given_directory is None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def kill(self) -> None:
        """Kill it as a crash would (SIGKILL). The data stays; `start` brings it back at the same address."""
        self._end(guard.KILL)

    def restart(self) -> None:
        """Stop it in order and start it again with its data, at the same address."""
        self._end(guard.STOP)
        self.start()

    def _end(self, order: bytes) -> None:
        """Give the order and wait; whatever then still lives is killed."""
        if self._guard is None:
            return
        orders = self._guard.stdin
        assert orders is not None
        with orders:
            for each in (order, guard.KILL):
                # The guard may have ended by itself: then the pipe is broken, and there is nothing to order.
                with contextlib.suppress(BrokenPipeError):
                    orders.write(each)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._guard.wait(_STOP_MAX_S)
                    break
        self._guard = None

    def _format(self, launcher: Sequence[str]) -> None:
        """Write the configuration and, the first time, prepare the storage."""
        assert self._ports is not None
        broker_port, controller_port = self._ports
        storage = self.data_directory / "kafka"
        properties = {
            **_PROPERTIES,
            "listeners": f"PLAINTEXT://127.0.0.1:{broker_port},CONTROLLER://127.0.0.1:{controller_port}",
            "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
            "log.dirs": storage.as_posix(),
            **self._properties,
        }
        configuration = self.data_directory / "server.properties"
        configuration.write_text("".join(f"{key}={value}\n" for key, value in properties.items()), encoding="utf-8")
        if (storage / "meta.properties").exists():
            return
        # 22 characters; a leading "-" would be taken for an option.
        cluster_id = "M" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
        command = [*launcher, "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(configuration)]
        with self._log_path.open("ab") as log:
            try:
                subprocess.run(command, check=True, stdout=log, stderr=log, timeout=_FORMAT_MAX_S)  # noqa: S603 - no shell
            except (subprocess.SubprocessError, OSError) as error:
                raise self._failure(f"could not prepare its storage ({error.__class__.__name__})") from error

    def _launch(self, launcher: Sequence[str]) -> None:
        """Start the guard, which starts the Java process and answers with its process id."""
        leftovers = "" if self._given_directory else str(self.data_directory)
        command = [sys.executable, "-I", "-S", guard.__file__, leftovers, *launcher, "kafka.Kafka"]
        command.append(str(self.data_directory / "server.properties"))
        with self._log_path.open("ab") as log:
            self._guard = subprocess.Popen(  # noqa: S603 - no shell
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # a Ctrl-C in the terminal is for us: we stop the broker after our clients
            )
        assert self._guard.stdout is not None
        with self._guard.stdout as answer:
            self._pid = int(answer.readline() or 0)

    def _wait_until_ready(self) -> None:
        """Wait for the answer to a real metadata request."""
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
                if client.list_topics(timeout=0.5).brokers:
                    return
        raise self._failure(f"did not answer within {_START_MAX_S:.0f} s")

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


def _free_ports() -> tuple[int, int]:
    """Two neighbouring ports that are free now. Processes begin to look at different places, so they do not collide."""
    begin = os.getpid() * 2 % len(_PORTS)
    for step in range(0, len(_PORTS), 2):
        first = _PORTS[(begin + step) % len(_PORTS)]
        if _is_free(first) and _is_free(first + 1):
            return first, first + 1
    message = f"no two free ports between {_PORTS.start} and {_PORTS.stop}"
    raise BrokerError(message)


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
