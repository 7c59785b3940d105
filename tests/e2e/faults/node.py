"""One node of a `LocalCluster`: a Java process that is a broker and a controller, and what it is told at its start."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from worker.edges.broker import BrokerError
from worker.edges.broker.process import GuardedProcess
from worker.edges.broker.server import PROPERTIES

_FORMAT_MAX_S: Final = 60.0
_LOG_TAIL_LINES: Final = 15
QUICK_FAILOVER: Final = {
    "group.min.session.timeout.ms": "1000",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
}
"""Both defaults are for a cluster far away: they make a test of a crash wait for 6 and for 10 s."""

_QUICK: Final = {
    **QUICK_FAILOVER,
    # So that a dead node, or one that is back, is noticed in about a second.
    "broker.session.timeout.ms": "1500",
    "broker.heartbeat.interval.ms": "200",
    "controller.quorum.election.timeout.ms": "500",
    "controller.quorum.election.backoff.max.ms": "200",
    "controller.quorum.fetch.timeout.ms": "1500",
    "controller.quorum.append.linger.ms": "5",
    "controller.quorum.retry.backoff.ms": "20",
    "replica.lag.time.max.ms": "2000",
    "replica.fetch.backoff.ms": "100",
    "replica.fetch.wait.max.ms": "100",
    "replica.socket.timeout.ms": "3000",
    "controller.socket.timeout.ms": "3000",
    "controlled.shutdown.retry.backoff.ms": "100",
    "num.network.threads": "2",
    "num.io.threads": "4",
}


class Node:
    """Starts, stops and pauses one process; says nothing about the rest of the cluster.

    Args:
        number: its `node.id`, counted from 1.
        directory: where it keeps its data, configuration and log.
        ports: where clients and other brokers connect, and where other controllers do.
        java_command: the Java launcher with options and class path.
    """

    def __init__(self, number: int, directory: Path, ports: tuple[int, int], java_command: Sequence[str]) -> None:
        self.number = number
        self.address = f"127.0.0.1:{ports[0]}"
        self.controller = f"127.0.0.1:{ports[1]}"
        self._directory = directory
        self._java_command = list(java_command)
        self._process: GuardedProcess | None = None
        self.paused = False

    @property
    def running(self) -> bool:
        """Whether the process lives, even if it is paused."""
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int:
        """The Java process."""
        if self._process is None or not self._process.running:
            raise BrokerError(f"node {self.number} is not running")
        return self._process.pid

    @property
    def storage(self) -> Path:
        """Where Kafka keeps its data."""
        return self._directory / "kafka"

    def configure(self, voters: str, properties: Mapping[str, str]) -> None:
        """Write the configuration file."""
        self._directory.mkdir(parents=True, exist_ok=True)
        merged = {
            **PROPERTIES,
            **_QUICK,
            "node.id": str(self.number),
            "listeners": f"PLAINTEXT://{self.address},CONTROLLER://{self.controller}",
            "controller.quorum.voters": voters,
            "log.dirs": self.storage.as_posix(),
            **properties,
        }
        self._configuration.write_text("".join(f"{name}={value}\n" for name, value in merged.items()), "utf-8")

    def format(self, cluster_id: str) -> None:
        """Prepare the data directory."""
        arguments = ["kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(self._configuration)]
        with self._log_path.open("ab") as log:
            subprocess.run([*self._java_command, *arguments], check=True, stdout=log, stderr=log, timeout=_FORMAT_MAX_S)

    def copy_format(self, other: "Node", directory_id: str) -> None:
        """Do the same as `format`, in no time: what `other` got, under our own number and directory id."""
        shutil.copytree(other.storage, self.storage)
        own = {"node.id": str(self.number), "directory.id": directory_id}
        path = self.storage / "meta.properties"
        lines = [line.partition("=") for line in path.read_text("utf-8").splitlines()]
        path.write_text("".join(f"{name}{equals}{own.get(name, value)}\n" for name, equals, value in lines), "utf-8")

    def launch(self) -> None:
        """Start the process, without waiting for an answer."""
        if not self.running:
            command = [*self._java_command, "kafka.Kafka", str(self._configuration)]
            # Whichever guard outlives this Python process removes the data of all nodes.
            self._process = GuardedProcess(command, self._log_path, self._directory.parent)

    def stop(self) -> None:
        """Stop it in order (SIGTERM). One that is paused goes on first, or it could not obey."""
        self.resume()
        self._end(GuardedProcess.stop)

    def kill(self) -> None:
        """Kill it as a crash would (SIGKILL)."""
        self._end(GuardedProcess.kill)

    def pause(self) -> None:
        """Let it hang (SIGSTOP): connections stay open, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)
        self.paused = True

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        if self.paused and self.running:
            os.kill(self.pid, signal.SIGCONT)
        self.paused = False

    def failure(self, what: str) -> BrokerError:
        """Return an error with the end of the node's log."""
        lines = self._log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return BrokerError("\n".join([f"node {self.number} {what}", *(f"  | {line}" for line in lines)]))

    def _end(self, how: Callable[[GuardedProcess], None]) -> None:
        if self._process is not None:
            how(self._process)
            self._process = None
        self.paused = False

    @property
    def _configuration(self) -> Path:
        return self._directory / "server.properties"

    @property
    def _log_path(self) -> Path:
        return self._directory / "broker.log"
