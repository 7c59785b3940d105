"""How long `modelvigil run` takes until it is ready, and what a start costs.

    python -m benchmarks.start                      five starts, and one with nothing compiled; the last line is JSON
    python -m benchmarks.start --starts 9 --warm    without that one, which takes minutes

Ready: `/readyz` answers 200, which it does when the group has been joined and the partitions of the member are live. It
is asked every 10 ms, from the moment when the process is made. Then 2,000 events of 8 models are sent at once, and
`first_events_s` is the time until their positions are committed: what is loaded with the first events is in there. CPU
seconds are those of the process and of its children, as the system counts them: `cpu_s` when it is ready,
`with_events_cpu_s` after the events and the stop that follows at once. The cold start has an empty folder for compiled
kernels, the others a full one. Each start has topics of its own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition
from rich.console import Console

from benchmarks.events import generate, publish
from worker.cluster import create_topics
from worker.edges.broker import LocalBroker
from worker.edges.broker.ports import ReservedPorts
from worker.settings import Settings, load_settings

WAIT_SECONDS_MAX = 900.0
LOOK_S = 0.01
PARTITIONS = 4
EVENTS = 2_000

console = Console(stderr=True)


class Start(NamedTuple):
    """Seconds of one start."""

    ready: float
    cpu: float
    children_cpu: float
    first_events: float
    with_events_cpu: float


def settings_of(servers: str, number: int, port: int) -> tuple[Settings, list[str]]:
    """Return the settings of a start, and the options that amount to them."""
    before = load_settings(None, {}, {}).topics
    names = {f"topics.{name}": f"start-{number}-{name}" for name in before.__struct_fields__}
    given: dict[str, object] = {**names, "kafka.bootstrap_servers": servers, "kafka.group_id": f"start-{number}"}
    options = [f"--set={name}={value}" for name, value in given.items()]
    return load_settings(None, {}, given), [*options, f"--set=ops.port={port}"]


def is_ready(port: int) -> bool:
    """Ask the page of readiness."""
    connection = HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def cpu_seconds(pid: int) -> tuple[float, float]:
    """Return the CPU seconds of a process, and of all its children, those that live included."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    alive = children.read_text(encoding="ascii").split() if children.exists() else []
    own, ended = _counted(pid)
    return own, ended + sum(sum(_counted(int(child))) for child in alive)


def _counted(pid: int) -> tuple[float, float]:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    tick = os.sysconf("SC_CLK_TCK")
    user, system, child_user, child_system = (int(fields[place]) / tick for place in range(11, 15))
    return user + system, child_user + child_system


def wait(reached: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path) -> float:
    """Return the seconds until something is so."""
    begun = time.monotonic()
    while not reached():
        if process.poll() is not None or time.monotonic() - begun > WAIT_SECONDS_MAX:
            raise SystemExit(f"start: the worker has ended, or takes too long:\n{log.read_text(encoding='utf-8')}")
        time.sleep(LOOK_S)
    return time.monotonic() - begun


def committed(watcher: Consumer, topic: str) -> int:
    """Return how many events the group has committed; 0 while the coordinator is not ready to say."""
    try:
        places = watcher.committed([TopicPartition(topic, each) for each in range(PARTITIONS)], timeout=10)
    except KafkaException:
        return 0
    return sum(max(0, place.offset) for place in places)


def start(servers: str, number: int, port: int, log: Path, kernels: Path | None) -> Start:
    """Start a worker, wait until it is ready, let it see some events, and stop it."""
    settings, options = settings_of(servers, number, port)
    create_topics(settings, PARTITIONS, 1)
    topic, group = settings.topics.predictions, settings.kafka.group_id
    watcher = Consumer({"bootstrap.servers": servers, "group.id": group, "enable.auto.commit": False})
    environment = os.environ | ({"NUMBA_CACHE_DIR": str(kernels)} if kernels else {})
    command = [sys.executable, "-m", "worker", "run", *options]
    events = generate(EVENTS)
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, env=environment) as process:
        try:
            ready = wait(lambda: is_ready(port), process, log)
            own, children = cpu_seconds(process.pid)
            publish(servers, topic, events)
            first_events = wait(lambda: committed(watcher, topic) >= EVENTS, process, log)
            process.terminate()
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            with_events = sum(cpu_seconds(process.pid))
        finally:
            process.kill()
            watcher.close()
    return Start(ready, own, children, first_events, with_events)


def figures(starts: list[Start], cold: Start | None) -> dict[str, float]:
    """Return what the last line says."""
    ready = [each.ready for each in starts]
    found = {
        "ready_s_min": min(ready),
        "ready_s": statistics.median(ready),
        "ready_s_max": max(ready),
        "cpu_s": statistics.median(each.cpu for each in starts),
        "children_cpu_s": statistics.median(each.children_cpu for each in starts),
        "first_events_s": statistics.median(each.first_events for each in starts),
        "with_events_cpu_s": statistics.median(each.with_events_cpu for each in starts),
    }
    if cold is not None:
        found |= {"cold_ready_s": cold.ready, "cold_cpu_s": cold.cpu + cold.children_cpu}
    return {name: round(value, 2) for name, value in found.items()}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=5, help="with everything compiled (5)")
    parser.add_argument("--warm", action="store_true", help="none with nothing compiled")
    arguments = parser.parse_args()
    ports = ReservedPorts(1)
    (port,) = ports.numbers
    with tempfile.TemporaryDirectory() as folder, LocalBroker() as broker:
        servers, place = broker.bootstrap_servers, Path(folder)
        cold = None
        if not arguments.warm:
            console.print("a start with nothing compiled ...")
            cold = start(servers, 0, port, place / "cold.log", place / "kernels")
        # What the folder that is used lacks is compiled here.
        subprocess.run([sys.executable, "-m", "worker", "compile-kernels"], check=True, stdout=subprocess.DEVNULL)
        starts = []
        for number in range(1, arguments.starts + 1):
            starts.append(start(servers, number, port, place / f"{number}.log", None))
            console.print(f"start {number} of {arguments.starts}: ready after {starts[-1].ready:.2f} s")
    print(json.dumps(figures(starts, cold)))


if __name__ == "__main__":
    main()
