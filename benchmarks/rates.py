"""How fast a process reads a topic, seen from outside: by what its consumer group has committed.

The rate is what the committed offsets advance in, from the first commit seen to the last; so it holds no start. On
Linux, the CPU seconds of the process and all below it in the same time are counted, too.
"""

import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition
from rich.console import Console
from rich.progress import Progress

from benchmarks.events import PARTITIONS

TOPIC = "predictions"
OUTPUTS = (
    "modelvigil.alerts",
    "modelvigil.metrics",
    "modelvigil.maintenance",
    "modelvigil.dead-letters",
)
OTHERS = ("labels", "modelvigil.state", "modelvigil.incidents")
JVM = ("-Xms512m", "-Xmx1g", "-XX:+UseSerialGC")
DONE_SECONDS_MAX = 400.0
LOOK_S = 0.02
STOP_SECONDS_MAX = 20.0

console = Console(stderr=True)


class Reading(NamedTuple):
    """What is committed at a moment: records of the topic that counts, and of each other one."""

    seconds: float
    events: int
    others: int
    cpu_seconds: float | None
    broker_cpu_seconds: float | None


class Task(NamedTuple):
    """What is to be read, by which group."""

    servers: str
    group: str
    topics: Mapping[str, int]
    """How many records of each; the first one is the one whose records count."""
    log: Path
    cut_s: float | None = None
    """So long it is measured, and need not finish."""
    warm_up_events: int = 0
    """These do not count."""
    broker_pid: int | None = None
    """If it is given, CPU seconds are counted."""


class Rate(NamedTuple):
    """What one run gave."""

    events: int
    """Of the topic that counts, in the time that was measured."""
    seconds: float
    other_records: int
    cpu_seconds: float | None
    """None where it was not asked for, or the system does not say."""
    broker_cpu_seconds: float | None

    @property
    def per_second(self) -> float:
        """Events per second."""
        return self.events / self.seconds

    @property
    def per_cpu_second(self) -> float | None:
        """Events per CPU second of the process and those below it."""
        return self.events / self.cpu_seconds if self.cpu_seconds else None


def program(module: str, *arguments: str) -> list[str]:
    """Return the command of a program of this environment."""
    return [sys.executable, "-m", module, *arguments]


def worker_command(servers: str, group: str, settings: Mapping[str, str] | None = None, *more: str) -> list[str]:
    """Return the command of a worker."""
    arguments = ["--bootstrap-servers", servers, "--group-id", group, *more]
    for name, value in (settings or {}).items():
        arguments += ["--set", f"{name}={value}"]
    return program("worker", "run", *arguments)


@contextmanager
def running(arguments: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process; it is stopped at the end, and its output is in `log`."""
    with log.open("wb") as out, subprocess.Popen(arguments, stdout=out, stderr=out) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()


def positions(watcher: Consumer, topic: str = TOPIC) -> list[int]:
    """Return the offset that the group has committed in each partition; negative where there is none.

    Nothing while the coordinator is not ready to say.
    """
    try:
        places = watcher.committed([TopicPartition(topic, number) for number in range(PARTITIONS)], timeout=10)
    except KafkaException:
        return []
    return [place.offset for place in places]


def committed(watcher: Consumer, topic: str = TOPIC) -> int:
    """Return how many records of a topic the group has committed."""
    return sum(max(0, offset) for offset in positions(watcher, topic))


def has_positions(watcher: Consumer, topic: str = TOPIC) -> bool:
    """Tell whether the group has committed where it is in each partition: all of them are at work."""
    return min(positions(watcher, topic), default=-1) >= 0


def watcher_of(servers: str, group: str) -> Consumer:
    """Return a consumer that asks for a group's positions and is no member of it."""
    return Consumer({"bootstrap.servers": servers, "group.id": group, "enable.auto.commit": False, "log_level": 0})


def cpu_seconds(pid: int) -> float | None:
    """Return the CPU time of a process, of all that live below it, and of those that they have waited for."""
    below: defaultdict[int, list[int]] = defaultdict(list)
    ticks: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            # The name before the last bracket may hold anything.
            fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        below[int(fields[1])].append(int(entry.name))
        ticks[int(entry.name)] = sum(map(int, fields[11:15]))
    if pid not in ticks:
        return None
    total, waiting = 0, [pid]
    while waiting:
        each = waiting.pop()
        total += ticks[each]
        waiting += below[each]
    return total / os.sysconf("SC_CLK_TCK")


@contextmanager
def shown(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar, and yield the function that moves it."""
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(name, total=total)
        yield lambda done: bar.update(task, completed=done)


def _nothing(_events: int) -> None:
    pass


def follow(process: "subprocess.Popen[bytes]", task: Task, look: Callable[[int], None] = _nothing) -> Rate:
    """Watch a process until it has read everything, or has been measured for long enough.

    `look` is told how many events are committed. Ends the benchmark if the process does not get there.
    """
    watcher = watcher_of(task.servers, task.group)
    first = last = None
    is_done = False
    limit = time.monotonic() + DONE_SECONDS_MAX
    while not is_done and time.monotonic() < limit and process.poll() is None:
        now, counts = time.monotonic(), [committed(watcher, topic) for topic in task.topics]
        is_done = all(count >= wanted for count, wanted in zip(counts, task.topics.values(), strict=True))
        is_warm = any(counts) and counts[0] >= task.warm_up_events
        if is_warm and (last is None or is_done or sum(counts) > last.events + last.others):
            last = _reading(process, task, now, counts)
            first = first or last
        look(counts[0])
        is_done = is_done or (task.cut_s is not None and first is not None and now - first.seconds >= task.cut_s)
        time.sleep(LOOK_S)
    watcher.close()
    if not is_done or first is None or last is None or last.events == first.events:
        raise SystemExit(f"bench: group {task.group} did not get far enough; its output is in {task.log}")
    return _between(first, last)


def _reading(process: "subprocess.Popen[bytes]", task: Task, now: float, counts: Sequence[int]) -> Reading:
    own, broker = (cpu_seconds(process.pid), cpu_seconds(task.broker_pid)) if task.broker_pid else (None, None)
    return Reading(now, counts[0], sum(counts[1:]), own, broker)


def _between(first: Reading, last: Reading) -> Rate:
    return Rate(
        events=last.events - first.events,
        seconds=last.seconds - first.seconds,
        other_records=last.others - first.others,
        cpu_seconds=_more(first.cpu_seconds, last.cpu_seconds),
        broker_cpu_seconds=_more(first.broker_cpu_seconds, last.broker_cpu_seconds),
    )


def _more(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def measure(arguments: Sequence[str], task: Task, look: Callable[[int], None] = _nothing) -> Rate:
    """Run a process and return its rate."""
    with running(arguments, task.log) as process:
        return follow(process, task, look)
