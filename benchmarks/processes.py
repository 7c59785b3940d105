"""One process and two, of one consumer group, on one machine.

Events are in a transaction that is committed only when all members of the group are at work, so start and rebalancing
are not in the rate. Two cores are shared with the broker and the client threads, so the rate of two processes says how
much was left. What it would be with the broker elsewhere is reckoned from CPU seconds of the workers alone, all their
children and threads included: `2 x (CPU per event of one process) / (CPU per event of two)`. That is what two processes
reach if each can have as much CPU as one process has; that they get in each other's way shows in their CPU seconds.
"""

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient

from benchmarks.events import PARTITIONS, create_topics, generate, write
from benchmarks.rates import (
    JVM,
    OTHERS,
    OUTPUTS,
    Rate,
    Task,
    console,
    follow,
    has_positions,
    running,
    shown,
    watcher_of,
    worker_command,
)
from benchmarks.results import Part, spread, table
from worker.edges.broker import LocalBroker

if TYPE_CHECKING:
    import subprocess

START_SECONDS_MAX = 120.0
SETTLE_S = 2.0
AIM = 1.7


class Kind(NamedTuple):
    """Settings under which one process and two are compared."""

    name: str
    text: str
    settings: Mapping[str, str]


class Pair(NamedTuple):
    """One process, and two."""

    one: Rate
    two: Rate


KINDS = (
    Kind("as_shipped", "as shipped", {}),
    Kind("one_thread", "one engine thread each", {"worker.engine_threads": "1"}),
)


def held_back(servers: str, topic: str, events: Sequence[tuple[int, bytes]]) -> Producer:
    """Write events that nobody can read before the producer's transaction is committed."""
    producer = Producer(
        {
            "bootstrap.servers": servers,
            "transactional.id": topic,
            "transaction.timeout.ms": 600_000,
            "linger.ms": 20,
            "compression.type": "lz4",
        }
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    write(producer, topic, events)
    if producer.flush(120):
        raise RuntimeError("the broker did not take all events")
    return producer


def members_at_work(admin: AdminClient, group: str) -> int:
    """Return how many members have partitions; 0 while the coordinator is not ready to say."""
    try:
        members = admin.describe_consumer_groups([group])[group].result(30).members
    except KafkaException:
        return 0
    return sum(1 for each in members if each.assignment and each.assignment.topic_partitions)


def wait_for_members(process: "subprocess.Popen[bytes]", task: Task, count: int) -> None:
    """Return when so many members have partitions, and the position of each partition is committed."""
    (topic,) = task.topics
    admin, watcher = AdminClient({"bootstrap.servers": task.servers}), watcher_of(task.servers, task.group)
    limit = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < limit and process.poll() is None:
        if members_at_work(admin, task.group) == count and has_positions(watcher, topic):
            watcher.close()
            time.sleep(SETTLE_S)
            return
        time.sleep(0.2)
    raise SystemExit(f"bench: group {task.group} did not get {count} members to work; the output is in {task.log}")


def one_run(broker: LocalBroker, kind: Kind, processes: int, events: Sequence[tuple[int, bytes]], log: Path) -> Rate:
    """Measure so many processes on a topic of their own."""
    servers, topic = broker.bootstrap_servers, log.stem
    create_topics(servers, [topic])
    producer = held_back(servers, topic, events)
    settings = {"topics.predictions": topic, **kind.settings}
    command = worker_command(servers, topic, settings, "--processes", str(processes))
    task = Task(servers, topic, {topic: len(events)}, log, broker_pid=broker.pid)
    text = f"{kind.text}, processes: {processes}"
    with shown(text, len(events)) as look, running(command, log) as process:
        wait_for_members(process, task, processes)
        producer.commit_transaction(30)
        rate = follow(process, task, look)
    console.print(f"{text}: {rate.per_second:,.0f} events/s")
    return rate


def part(total: int, rounds: int) -> Part:
    """Measure all in turn."""
    folder = Path(tempfile.mkdtemp(prefix="modelvigil-processes-"))
    found: dict[str, list[Pair]] = {kind.name: [] for kind in KINDS}
    with console.status(f"generating {total:,} events"):
        events = generate(total)
    with LocalBroker(jvm_options=JVM, say=console.print) as broker:
        create_topics(broker.bootstrap_servers, [*OUTPUTS, *OTHERS])
        for number, kind in product(range(rounds), KINDS):
            one, two = (
                one_run(broker, kind, processes, events, folder / f"{kind.name}-{processes}-{number}.log")
                for processes in (1, 2)
            )
            found[kind.name].append(Pair(one, two))
    return told(found, total)


def _here(pair: Pair) -> float:
    return pair.two.per_second / pair.one.per_second


def _apart(pair: Pair) -> float:
    """Return what two processes reach if each can have as much CPU as one has here; NaN where nothing is known."""
    one, two = pair.one.per_cpu_second, pair.two.per_cpu_second
    return 2 * two / one if one and two else math.nan


def _row(text: str, rates: Sequence[Rate]) -> list[str]:
    own, broker = (
        median((seconds or math.nan) / rate.events * 1e6 for rate, seconds in zip(rates, of_all, strict=True))
        for of_all in ([rate.cpu_seconds for rate in rates], [rate.broker_cpu_seconds for rate in rates])
    )
    cells = [f"{each:,.0f}" for each in spread(rate.per_second for rate in rates)]
    return [text, *cells, f"{own:.1f}", f"{broker:.1f}"]


def told(found: Mapping[str, Sequence[Pair]], total: int) -> Part:
    """Return the tables and the figures."""
    rows, ratios = [], []
    figures: dict[str, object] = {}
    for kind in KINDS:
        pairs = found[kind.name]
        rows += [
            _row(f"1 process, {kind.text}", [pair.one for pair in pairs]),
            _row(f"2 processes, {kind.text}", [pair.two for pair in pairs]),
        ]
        here, apart = spread(map(_here, pairs)), spread(map(_apart, pairs))
        ratios.append((f"2 / 1, {kind.text}, here", here, "-"))
        ratios.append((f"2 / 1, {kind.text}, broker elsewhere", apart, f"≥ {AIM}"))
        figures |= {f"{kind.name}_here": here, f"{kind.name}_apart": apart}
    text = (
        f"{total:,} events, {PARTITIONS} partitions, {len(found[KINDS[0].name])} rounds, on one machine with the "
        'broker. "Broker elsewhere" is reckoned from the CPU seconds of the workers alone (engine, client threads, '
        "fits): twice the events per CPU second of two processes, over those of one.\n\n"
    )
    text += table(("", "events/s: minimum", "median", "maximum", "CPU µs per event: workers", "broker"), rows)
    text += "\n\n" + table(
        ("ratio, round by round", "minimum", "median", "maximum", "aim"),
        ((name, *(f"{each:.2f}" for each in ratio), aim) for name, ratio, aim in ratios),
    )
    return Part(text, figures)
