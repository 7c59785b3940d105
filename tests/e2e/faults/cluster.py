"""Three real Kafka nodes on this machine, so that one of them can fail: each is a broker and a controller (KRaft).

Every partition has three copies, and a write needs two of them. With one node gone all goes on; with two, nothing does.
"""

import base64
import contextlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined] # documented there, only not listed in its __all__
    AdminClient,
    ClusterMetadata,
)

from tests.e2e.faults.node import Node
from tests.e2e.faults.running import Running
from worker.edges.broker import JVM_OPTIONS
from worker.edges.broker.jars import class_path, java
from worker.edges.broker.ports import ReservedPorts
from worker.edges.broker.server import LOGGING

_HEALTHY_MAX_S: Final = 60.0
_ANSWER_MAX_S: Final = 0.5
_POLL_S: Final = 0.05


def _silent(_message: str) -> None:
    pass


class LocalCluster(Running):
    """Several Kafka nodes. As a context manager it is started on entry; on exit all are killed and their data removed.

    Args:
        nodes: how many; they are numbered from 1.
        properties: server properties of all nodes, over ours.
        say: is told what takes long.
    """

    def __init__(
        self, nodes: int = 3, properties: Mapping[str, str] | None = None, say: Callable[[str], None] = _silent
    ) -> None:
        copies = min(3, nodes)
        self._properties = {**_replication(copies, max(1, copies - 1)), **(properties or {})}
        self._directory = Path(tempfile.mkdtemp(prefix="modelvigil-cluster-"))
        # Held as long as the cluster: a node that is down leaves its port open to all.
        self._reserved = ReservedPorts(2 * nodes)
        ports = iter(self._reserved.numbers)
        command = [str(java()), *JVM_OPTIONS, *LOGGING, "-cp", os.pathsep.join(map(str, class_path(say)))]
        self.nodes = {
            number: Node(number, self._directory / f"node-{number}", (next(ports), next(ports)), command)
            for number in range(1, nodes + 1)
        }

    def begin(self) -> None:
        """Start all nodes, and wait until they are one."""
        self._prepare()
        for node in self.nodes.values():
            node.launch()
        self.wait_until_healthy()

    @property
    def bootstrap_servers(self) -> str:
        """The addresses of all nodes, running or not."""
        return ",".join(node.address for node in self.nodes.values())

    def start(self, number: int) -> None:
        """Start a node; `wait_until_healthy` tells when it has caught up."""
        self.nodes[number].launch()

    def stop(self, number: int) -> None:
        """Stop a node in order: it hands its partitions over first."""
        self.nodes[number].stop()

    def kill(self, number: int) -> None:
        """Kill a node as a crash would (SIGKILL). Its data stays."""
        self.nodes[number].kill()

    def restart(self, number: int) -> None:
        """Stop a node in order, start it, and wait until the cluster is whole again."""
        self.stop(number)
        self.start(number)
        self.wait_until_healthy()

    def pause(self, number: int) -> None:
        """Let a node hang (SIGSTOP)."""
        self.nodes[number].pause()

    def resume(self, number: int) -> None:
        """Let a paused node go on."""
        self.nodes[number].resume()

    def end(self) -> None:
        """Kill all nodes and remove their data."""
        for node in self.nodes.values():
            node.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    def leader(self, topic: str, partition: int) -> int:
        """Return the number of the node that leads a partition; -1 while there is none."""
        client = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
        return int(client.list_topics(topic, timeout=10).topics[topic].partitions[partition].leader)

    def wait_until_healthy(self, seconds_max: float = _HEALTHY_MAX_S) -> None:
        """Wait until each node itself sees all nodes, and all copies of every partition in sync."""
        end = time.monotonic() + seconds_max
        for node in self.nodes.values():
            while not self._is_healthy_for(node):
                if not node.running:
                    raise node.failure("is not running")
                if time.monotonic() > end:
                    raise node.failure(f"sees no healthy cluster after {seconds_max:g} s")
                time.sleep(_POLL_S)

    def _is_healthy_for(self, node: Node) -> bool:
        # A client that has just been made asks the only address that it knows. An older one asks whom it likes.
        client = AdminClient({"bootstrap.servers": node.address, "reconnect.backoff.ms": 20, "log_level": 0})
        with contextlib.suppress(KafkaException):
            return _is_whole(client.list_topics(timeout=_ANSWER_MAX_S), len(self.nodes))
        return False

    def _prepare(self) -> None:
        """Give every node a configuration and a formatted data directory."""
        voters = ",".join(f"{node.number}@{node.controller}" for node in self.nodes.values())
        for node in self.nodes.values():
            node.configure(voters, self._properties)
        first, *others = self.nodes.values()
        # 22 characters; a leading "-" would be taken for an option.
        first.format(f"M{_random_id()[1:]}")
        for node in others:
            node.copy_format(first, _random_id())


def _replication(copies: int, in_sync: int) -> dict[str, str]:
    return {
        "default.replication.factor": str(copies),
        "min.insync.replicas": str(in_sync),
        "offsets.topic.replication.factor": str(copies),
        "transaction.state.log.replication.factor": str(copies),
        "transaction.state.log.min.isr": str(in_sync),
        "share.coordinator.state.topic.replication.factor": str(copies),
        "share.coordinator.state.topic.min.isr": str(in_sync),
    }


def _random_id() -> str:
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[:22]


def _is_whole(metadata: ClusterMetadata, nodes: int) -> bool:
    partitions = [each for topic in metadata.topics.values() for each in topic.partitions.values()]
    in_sync = all(each.leader >= 0 and len(each.isrs) == len(each.replicas) for each in partitions)
    return len(metadata.brokers) == nodes and in_sync
