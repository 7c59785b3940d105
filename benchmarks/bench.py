"""Measures the worker against the null loop (two settings) and the plain loop, on one broker, in one run, in turn.

    make bench                                  three rounds, RESULTS.md renewed, the last line is JSON
    python -m benchmarks.bench --rounds 1 --events 400000

Every contestant is a process of its own that reads the same topic from its beginning in a fresh consumer group. It is
watched from outside: the rate is what the group's committed offsets advance in, from the first commit seen to the last.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition
from rich.console import Console

from benchmarks.events import FEATURES, MODELS, PARTITIONS, create_topics, generate, publish
from worker.edges.broker import LocalBroker

TOPIC = "predictions"
OUTPUTS = (
    "modelvigil.alerts",
    "modelvigil.metrics",
    "modelvigil.maintenance",
    "modelvigil.dead-letters",
)
OTHERS = ("labels", "modelvigil.state", "modelvigil.incidents")
JVM = ("-Xms512m", "-Xmx1g", "-XX:+UseSerialGC")
PLAIN_SECONDS = 10.0
DONE_SECONDS_MAX = 240.0
RESULTS = Path(__file__).with_name("RESULTS.md")
CONTESTANTS = ("null", "tuned", "worker", "plain")

console = Console(stderr=True)


class Reading(NamedTuple):
    """Committed events at a moment."""

    seconds: float
    events: int


def command(contestant: str, servers: str, group: str) -> list[str]:
    """Return the command that starts a contestant."""
    python = sys.executable
    match contestant:
        case "null" | "tuned":
            settings = "tuned" if contestant == "tuned" else "default"
            return [python, "-m", "benchmarks.null_loop", servers, TOPIC, group, settings]
        case "plain":
            return [python, "-m", "benchmarks.plain_loop", servers, TOPIC, OUTPUTS[0], group]
        case _:
            return [python, "-m", "worker", "run", "--bootstrap-servers", servers, "--group-id", group]


@contextmanager
def running(arguments: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a contestant; it is stopped at the end, and its output is in `log`."""
    with log.open("wb") as out, subprocess.Popen(arguments, stdout=out, stderr=out) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def committed(watcher: Consumer) -> int:
    """Return how many events the group has committed; 0 while the coordinator is not ready to say."""
    wanted = [TopicPartition(TOPIC, partition) for partition in range(PARTITIONS)]
    try:
        places = watcher.committed(wanted, timeout=10)
    except KafkaException:
        return 0
    return sum(max(0, place.offset) for place in places)


def measure(arguments: list[str], servers: str, group: str, total: int, log: Path, *, cut: bool = False) -> float:
    """Return the events per second of one contestant; `cut`: it need not finish."""
    watcher = Consumer({"bootstrap.servers": servers, "group.id": group, "enable.auto.commit": False, "log_level": 0})
    readings: list[Reading] = []
    with running(arguments, log) as process:
        limit = time.monotonic() + DONE_SECONDS_MAX
        while time.monotonic() < limit and process.poll() is None:
            now, events = time.monotonic(), committed(watcher)
            if events and (not readings or events > readings[-1].events):
                readings.append(Reading(now, events))
            if events >= total or (cut and readings and now - readings[0].seconds > PLAIN_SECONDS):
                break
            time.sleep(0.02)
    watcher.close()
    if len(readings) < 2 or (not cut and readings[-1].events < total):
        raise SystemExit(f"bench: group {group} did not finish; its output is in {log}")
    return (readings[-1].events - readings[0].events) / (readings[-1].seconds - readings[0].seconds)


def contest(servers: str, rounds: int, total: int, folder: Path) -> dict[str, list[float]]:
    """Let the contestants run in turn; return the rates of each."""
    rates: dict[str, list[float]] = {contestant: [] for contestant in CONTESTANTS}
    for turn in range(rounds):
        for contestant in CONTESTANTS:
            group = f"{contestant}-{turn}"
            arguments = command(contestant, servers, group)
            rate = measure(arguments, servers, group, total, folder / f"{group}.log", cut=contestant == "plain")
            rates[contestant].append(rate)
            console.print(f"round {turn + 1} of {rounds}: {contestant:>6} {rate:>10,.0f} events/s")
    return rates


def summary(rates: dict[str, list[float]]) -> dict[str, float]:
    """Return the medians, and the median of the ratios round by round."""
    null, tuned, worker, plain = (rates[contestant] for contestant in CONTESTANTS)
    return {
        "null_eps": round(statistics.median(null)),
        "worker_eps": round(statistics.median(worker)),
        "plain_eps": round(statistics.median(plain)),
        "worker_over_null": round(statistics.median(b / a for a, b in zip(null, worker, strict=True)), 3),
        "worker_over_plain": round(statistics.median(b / c for b, c in zip(worker, plain, strict=True)), 1),
        "tuned_null_eps": round(statistics.median(tuned)),
        "worker_over_tuned_null": round(statistics.median(b / a for a, b in zip(tuned, worker, strict=True)), 3),
    }


def report(rates: dict[str, list[float]], figures: dict[str, float], total: int) -> str:
    """Return the text of RESULTS.md's generated part."""
    names = {
        "null": "null loop: consume, decode, commit transactionally (librdkafka's default fetch settings)",
        "tuned": "null loop with the worker's own fetch settings",
        "worker": "modelvigil, all detectors on",
        "plain": "plain loop from the libraries' tutorials",
    }
    lines = [
        (
            f"`make bench` with {total:,} events ({FEATURES} features, {MODELS} models, {PARTITIONS} partitions), "
            f"{len(rates['null'])} rounds, {time.strftime('%Y-%m-%d')}, Python {platform.python_version()}, "
            f"{os.cpu_count()} cores shared with the broker."
        ),
        "",
        "| loop | events/s: minimum | median | maximum |",
        "|---|---|---|---|",
        *(
            f"| {names[key]} | {min(rate):,.0f} | {statistics.median(rate):,.0f} | {max(rate):,.0f} |"
            for key, rate in rates.items()
        ),
        "",
        (
            f"worker / null loop: **{figures['worker_over_null']:.2f}**, "
            f"worker / tuned null loop: **{figures['worker_over_tuned_null']:.2f}**, "
            f"worker / plain loop: **{figures['worker_over_plain']:.0f}** (medians of the ratios round by round)."
        ),
    ]
    return "\n".join(lines)


def write_results(text: str) -> None:
    """Put the generated part between its marks in RESULTS.md; the rest is written by hand."""
    begin, end = "<!-- make bench: begin -->", "<!-- make bench: end -->"
    page = RESULTS.read_text(encoding="utf-8")
    head, tail = page.split(begin)[0], page.split(end)[1]
    RESULTS.write_text(f"{head}{begin}\n{text}\n{end}{tail}", encoding="utf-8")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Measures the worker against the null loop and the plain loop.")
    parser.add_argument("--events", type=int, default=800_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep-results", action="store_true", help="do not write RESULTS.md")
    arguments = parser.parse_args()
    with LocalBroker(jvm_options=JVM, say=console.print) as broker:
        servers = broker.bootstrap_servers
        create_topics(servers, [TOPIC, *OUTPUTS, *OTHERS])
        with console.status(f"generating and publishing {arguments.events:,} events"):
            publish(servers, TOPIC, generate(arguments.events))
        folder = Path(tempfile.mkdtemp(prefix="modelvigil-bench-"))
        rates = contest(servers, arguments.rounds, arguments.events, folder)
    figures = summary(rates)
    if not arguments.keep_results:
        write_results(report(rates, figures, arguments.events))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
