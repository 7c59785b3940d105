"""What model maintenance costs the whole worker, on a local Kafka: predictions a second with it and without it.

    python -m benchmarks.maintenance_worker                     three rounds; the last line is JSON
    python -m benchmarks.maintenance_worker --rounds 1 --events 400000

Both read the same predictions, and a label for each, 500 events late (`benchmarks.labels`). It is a backlog: event time
goes by as if 2,000 events came in a second, so the fits of minutes come within seconds, and the budget of CPU time
(`worker.budget`) thins. Told too: the levels of thinning in their order, and the shares of the CPU that led to them.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median

import msgspec
import orjson
from confluent_kafka import Consumer
from rich.console import Console

from benchmarks.events import EVENTS_PER_SECOND, generate
from benchmarks.labels import LABELS, LAG_EVENTS, create, measure, metrics_topic, publish, records
from benchmarks.rates import JVM, TOPIC
from worker.edges.broker import LocalBroker

READ_SECONDS_MAX = 30.0
CONTESTANTS = {"on": True, "off": False}

console = Console(stderr=True)


def maintenance_topic(group: str) -> str:
    """Return the name of the topic for the maintenance events of one run."""
    return f"maintenance-{group}"


def command(servers: str, group: str, folder: Path, *, enabled: bool) -> list[str]:
    """Return the command of a worker; models go to a folder of their own."""
    more: list[str] = []
    for setting in (
        f"topics.labels={LABELS}",
        f"topics.metrics={metrics_topic(group)}",
        f"topics.maintenance={maintenance_topic(group)}",
        f"artefacts.url={folder / group}",
        f"engine.maintenance.enabled={str(enabled).lower()}",
    ):
        more += ["--set", setting]
    return [sys.executable, "-m", "worker", "run", "--bootstrap-servers", servers, "--group-id", group, *more]


def told(servers: str, topic: str) -> tuple[Counter[str], list[int]]:
    """Return the maintenance events of a run by kind, and the levels of thinning in their order."""
    reader = Consumer({"bootstrap.servers": servers, "group.id": topic, "auto.offset.reset": "earliest"})
    reader.subscribe([topic])
    kinds, levels = Counter[str](), list[int]()
    limit = time.monotonic() + READ_SECONDS_MAX
    while time.monotonic() < limit:
        messages = reader.consume(1_000, 3.0)
        if not messages and kinds:
            break
        for message in messages:
            record = orjson.loads(message.value() or b"{}")
            kinds[record["kind"]] += 1
            if record["kind"] == "maintenance_thinned":
                levels.append(record["thinning"])
    reader.close()
    return kinds, levels


def shares(log: Path) -> list[float]:
    """Return the shares of the CPU at which the worker thinned, as its log tells."""
    found = []
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            record = msgspec.json.decode(line)
        except msgspec.DecodeError:
            continue
        share = record.get("modelvigil.share") if isinstance(record, dict) else None
        if share is not None:
            found.append(float(share))
    return found


def figures(rounds: int, total: int) -> dict[str, object]:
    """Measure the whole worker on a backlog."""
    folder = Path(tempfile.mkdtemp(prefix="modelvigil-maintenance-"))
    rates: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    thinned: list[list[int]] = []
    with LocalBroker(jvm_options=JVM, say=console.print) as broker:
        servers = broker.bootstrap_servers
        create(servers, {"topics.labels": LABELS})
        with console.status(f"generating and publishing {total:,} events and their labels"):
            first_ms = time.time_ns() // 1_000_000 - (total + LAG_EVENTS) * 1000 // EVENTS_PER_SECOND
            publish(servers, records(generate(total)), first_ms)
        for turn in range(rounds):
            for name, enabled in CONTESTANTS.items():
                group, log = f"{name}-{turn}", folder / f"{name}-{turn}.log"
                own = {"topics.metrics": metrics_topic(group), "topics.maintenance": maintenance_topic(group)}
                create(servers, own)
                arguments = command(servers, group, folder, enabled=enabled)
                rate = measure(arguments, servers, group, {TOPIC: total, LABELS: total}, log)
                rates[name].append(rate.predictions)
                kinds, levels = told(servers, maintenance_topic(group))
                console.print(f"round {turn + 1}: maintenance {name:>3} {rate.predictions:>9,.0f} predictions/s")
                if enabled:
                    thinned.append(levels)
                    console.print(f"  levels {levels}, thinned at shares {shares(log)}, told {dict(kinds)}; {log}")
    return {
        "on_eps": round(median(rates["on"])),
        "off_eps": round(median(rates["off"])),
        "on_over_off": round(median(a / b for a, b in zip(rates["on"], rates["off"], strict=True)), 3),
        "thinning_levels": thinned,
    }


def main() -> None:
    """Measure; the last line is JSON."""
    parser = argparse.ArgumentParser(description="What model maintenance costs the whole worker.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=800_000)
    arguments = parser.parse_args()
    print(json.dumps(figures(arguments.rounds, arguments.events)))


if __name__ == "__main__":
    main()
