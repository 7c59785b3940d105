"""What exactly-once state costs: throughput with and without snapshots, bytes, restore times, fail-over.

    python -m benchmarks.state                     all of it; the last line is JSON
    python -m benchmarks.state --events 400000 --rounds 2 --models 100

One broker, one run. Rates are taken as in `rates.py`, from the group's committed offsets.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from statistics import median

from confluent_kafka import Consumer

from benchmarks.events import PARTITIONS, generate, publish
from benchmarks.rates import JVM, TOPIC, Task, committed, console, measure, running, watcher_of, worker_command
from worker.cluster import create_topics
from worker.edges.broker import LocalBroker
from worker.settings import load_settings

JSON = {"worker.log_format": "json"}
OFF = {"worker.snapshot_interval_ms": "1000000000", "worker.snapshot_records_max": "1000000000"}
FAILOVER_SECONDS_MAX = 60.0
_TOTAL = re.compile(r'snapshot_bytes":\s*(\d+)')


def throughput(servers: str, rounds: int, total: int, folder: Path) -> dict[str, float]:
    """Measure workers with and without snapshots in turn; return rates, their ratio, and bytes per million events."""
    rates: dict[str, list[float]] = {"on": [], "off": []}
    sizes = []
    for turn in range(rounds):
        for name, settings in (("on", {}), ("off", OFF)):
            group = f"state-{name}-{turn}"
            task = Task(servers, group, {TOPIC: total}, folder / f"{group}.log")
            rates[name].append(measure(worker_command(servers, group, JSON | settings), task).per_second)
            console.print(f"round {turn + 1} of {rounds}: snapshots {name:>3} {rates[name][-1]:>10,.0f} events/s")
            if name == "on":
                sizes.append(int(_TOTAL.findall(task.log.read_text(encoding="utf-8"))[-1]))
    ratio = median(on / off for on, off in zip(rates["on"], rates["off"], strict=True))
    return {
        "on_eps": round(median(rates["on"])),
        "off_eps": round(median(rates["off"])),
        "on_over_off": round(ratio, 3),
        "state_bytes_per_million_events": round(median(sizes) / total * 1e6),
    }


def failover(servers: str, total: int, folder: Path) -> float:
    """Kill one of two workers; return the seconds until each of its partitions has been committed again."""
    group = f"failover-{uuid.uuid4().hex[:6]}"
    watcher = watcher_of(servers, group)
    # Slowly, so that neither is at the end when it matters.
    slow = JSON | {"worker.fetch_records_max": "300", "worker.commit_interval_ms": "200"}
    first = running(worker_command(servers, group, slow), folder / "first.log")
    second = running(worker_command(servers, group, slow), folder / "second.log")
    with first as doomed, second:
        _wait(lambda: _owners(folder) == 2, "both workers own partitions")
        before = _positions(watcher)
        _wait(lambda: sum(_positions(watcher)) > sum(before) + 10_000, "events flow")
        doomed.kill()
        doomed.wait()
        killed = time.monotonic()
        frozen = _positions(watcher)
        _wait(lambda: all(now > then for now, then in zip(_positions(watcher), frozen, strict=True)), "all go on")
        seconds = time.monotonic() - killed
        assert committed(watcher) < total, "the topic was too short for this test"
    watcher.close()
    return seconds


def _owners(folder: Path) -> int:
    return sum('"partition live"' in (folder / f"{name}.log").read_text() for name in ("first", "second"))


def _positions(watcher: Consumer) -> list[int]:
    from confluent_kafka import TopicPartition  # noqa: PLC0415 - beside its only use

    places = [TopicPartition(TOPIC, partition) for partition in range(PARTITIONS)]
    return [max(0, place.offset) for place in watcher.committed(places, timeout=10)]


def _wait(done: object, what: str) -> None:
    end = time.monotonic() + FAILOVER_SECONDS_MAX
    while not done():  # type: ignore[operator]  # a function without arguments
        if time.monotonic() > end:
            raise SystemExit(f"state: gave up waiting until {what}")
        time.sleep(0.05)


def in_a_process(servers: str, models: int) -> dict[str, float]:
    """Measure the restore of a shard with so many models in a process of its own, so that its memory is its own."""
    command = [sys.executable, "-m", "benchmarks.restoring", servers, str(models)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Run it all."""
    parser = argparse.ArgumentParser(description="What exactly-once state costs.")
    parser.add_argument("--events", type=int, default=800_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", type=int, nargs="*", default=[100, 1000])
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="modelvigil-state-"))
    with LocalBroker(jvm_options=JVM, say=console.print) as broker:
        servers = broker.bootstrap_servers
        create_topics(load_settings(None, {}, {"kafka.bootstrap_servers": servers}), PARTITIONS, None)
        with console.status(f"generating and publishing {arguments.events:,} events"):
            publish(servers, TOPIC, generate(arguments.events))
        figures = throughput(servers, arguments.rounds, arguments.events, folder)
        for models in arguments.models:
            with console.status(f"restoring {models:,} models"):
                figures |= {f"{name}_{models}": value for name, value in in_a_process(servers, models).items()}
        with console.status("killing one of two workers"):
            figures["failover_seconds"] = round(failover(servers, arguments.events, folder), 2)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
