"""What labels cost: the worker with a label for every prediction, without any, and with performance switched off.

    python -m benchmarks.labels                                      three rounds; the last line is JSON
    python -m benchmarks.labels --rounds 1 --events 50000

One broker, one run, in turn. All contestants read the same predictions; a label comes 500 events after its prediction,
in the same partition, true with the probability that was predicted. The rate is that of predictions, from the first
commit seen until predictions and labels are all committed. In addition: the share of the labels that were joined, which
must be 1 for the rates to mean anything, and the bytes of a prediction that waits for its label.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import orjson
from confluent_kafka import Consumer, Producer

from benchmarks.events import EVENTS_PER_SECOND, PARTITIONS, START_MS, generate
from benchmarks.rates import JVM, TOPIC, Task, console, follow, running, worker_command
from worker.cluster import create_topics
from worker.core.arrivals import PredictionEvents
from worker.core.events import PredictionEvent
from worker.core.options import EngineOptions, ModelPerformanceOptions, PerformanceOptions
from worker.core.performance.following import Arrived
from worker.core.performance.label_join import BYTES_PER_ROW, LABEL_BYTES_PER_ROW
from worker.core.performance.monitoring import PerformanceMonitor
from worker.core.performance.telling import PerformanceOwner
from worker.edges.broker import LocalBroker
from worker.settings import load_settings

LABELS, NO_LABELS = "labels", "labels-none"
LAG_EVENTS = 500
JOINED_SECONDS_MAX = 60.0
CONTESTANTS = ("on", "off", "disabled")
NAMES = {"on": "labels on", "off": "labels off", "disabled": "performance off"}
FILLED = 1.2
"""Of the bound: so many predictions fill a ring, whatever leaves it."""
MEMORY: dict[str, tuple[dict[str, float] | None, tuple[str, ...]]] = {
    "binary": ({"no": 0.4, "yes": 0.6}, ()),
    "regression": (None, ()),
    "regression_one_segment": (None, ("region",)),
}
"""Probabilities of each prediction, and segments by which metrics are split."""


class Record(NamedTuple):
    """One input record."""

    topic: str
    partition: int
    value: bytes
    number: int
    """Of the event at whose time it comes."""


class LabelRate(NamedTuple):
    """Of one run, per second."""

    predictions: float
    records: float
    joined: int
    """Labels in all."""


def records(events: list[tuple[int, bytes]], seed: int = 11) -> Iterator[Record]:
    """Yield predictions, each followed by the label of the event `LAG_EVENTS` before it; then the remaining labels."""
    draws = np.random.default_rng(seed).random(len(events)).tolist()
    for number in range(len(events) + LAG_EVENTS):
        if number < len(events):
            yield Record(TOPIC, *events[number], number)
        if 0 <= number - LAG_EVENTS < len(events):
            partition, value = events[number - LAG_EVENTS]
            event = orjson.loads(value)
            label = {
                "event_id": event["event_id"],
                "model_id": event["model_id"],
                "label": draws[number - LAG_EVENTS] < event["prediction"],
                "timestamp": START_MS + number * 1000 // EVENTS_PER_SECOND,
            }
            yield Record(LABELS, partition, orjson.dumps(label), number)


def publish(servers: str, stream: Iterable[Record], first_ms: int) -> None:
    """Write records to their partitions, stamped as if they had been written when they happened, from `first_ms` on.

    The worker reads two topics side by side by these stamps (`worker.alignment`).
    """
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 20, "compression.type": "lz4"})
    for record in stream:
        stamp_ms = first_ms + record.number * 1000 // EVENTS_PER_SECOND
        while True:
            try:
                producer.produce(record.topic, record.value, partition=record.partition, timestamp=stamp_ms)
                break
            except BufferError:
                producer.poll(0.05)
    if producer.flush(120):
        raise RuntimeError("the broker did not take all events")


def metrics_topic(group: str) -> str:
    """Return the name of the topic for the metrics of one run."""
    return f"metrics-{group}"


def command(contestant: str, servers: str, group: str) -> list[str]:
    """Return the command of a contestant's worker."""
    settings = {
        "topics.labels": LABELS if contestant == "on" else NO_LABELS,
        "topics.metrics": metrics_topic(group),
        **({"engine.performance.enabled": "false"} if contestant == "disabled" else {}),
    }
    return worker_command(servers, group, settings)


def joined(servers: str, topic: str, wanted: int) -> int:
    """Return how many labelled events the worker has published of all models, once it is idle and all have come.

    Metrics come when a model is idle, which may be in the middle of the stream, too: so they are waited for until they
    tell of as many as are wanted, or for a minute.
    """
    reader = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": topic,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
        }
    )
    reader.subscribe([topic])
    labelled: dict[str, int] = {}
    limit = time.monotonic() + JOINED_SECONDS_MAX
    while time.monotonic() < limit and sum(labelled.values()) < wanted:
        for message in reader.consume(1_000, 0.5):
            record = orjson.loads(message.value() or b"{}")
            if record.get("window") == "lifetime":
                labelled[record["model_id"]] = int(record["labelled"])
    reader.close()
    return sum(labelled.values())


def measure(arguments: list[str], servers: str, group: str, wanted: dict[str, int], log: Path) -> LabelRate:
    """Return the rates of one contestant that has to read so many records of each topic."""
    with running(arguments, log) as process:
        rate = follow(process, Task(servers, group, wanted, log))
        labelled = joined(servers, metrics_topic(group), wanted[LABELS]) if LABELS in wanted else 0
    return LabelRate(rate.per_second, (rate.events + rate.other_records) / rate.seconds, labelled)


def contest(servers: str, rounds: int, total: int, folder: Path) -> dict[str, list[LabelRate]]:
    """Let the contestants run in turn; return the rates of each."""
    rates: dict[str, list[LabelRate]] = {contestant: [] for contestant in CONTESTANTS}
    for turn in range(rounds):
        for contestant in CONTESTANTS:
            group = f"{contestant}-{turn}"
            create(servers, {"topics.metrics": metrics_topic(group)})
            wanted = {TOPIC: total, LABELS: total} if contestant == "on" else {TOPIC: total}
            rate = measure(command(contestant, servers, group), servers, group, wanted, folder / f"{group}.log")
            rates[contestant].append(rate)
            console.print(
                f"round {turn + 1} of {rounds}: {NAMES[contestant]:>15} {rate.predictions:>10,.0f} predictions/s, "
                f"{rate.records:>10,.0f} records/s, {rate.joined:,} labels joined"
            )
    return rates


def create(servers: str, names: dict[str, str]) -> None:
    """Create the topics that are missing, some under other names."""
    create_topics(load_settings(None, {}, {"kafka.bootstrap_servers": servers, **names}), PARTITIONS, None)


def bytes_per_row(cells: dict[str, float] | None, segments: tuple[str, ...], options: PerformanceOptions) -> float:
    """Return the bytes of the join's arrays for each prediction in it, once it is full, of a model with labels."""
    known = ModelPerformanceOptions("*", segments=segments)
    engine = EngineOptions(performance=PerformanceOptions(join_events_max=options.join_events_max, models=(known,)))
    monitor = PerformanceMonitor(PerformanceOwner("model", 0, TOPIC), engine)
    monitor.join.begin_labels()
    count = int(FILLED * options.join_events_max)
    values = dict.fromkeys(segments, "here") or None
    events = [
        PredictionEvent(f"e{number}", "model", {}, 0.5, probabilities=cells, segment=values) for number in range(count)
    ]
    times = np.full(count, START_MS)
    monitor.predicted(Arrived(PredictionEvents.of(events), np.arange(count), times, times))
    assert monitor.join.waiting == options.join_events_max, "the ring is not full"
    return round(monitor.join.bytes / monitor.join.waiting, 1)


def summary(rates: dict[str, list[LabelRate]], total: int) -> dict[str, float]:
    """Return medians, and the medians of the ratios round by round."""
    on, off, disabled = ([rate.predictions for rate in rates[contestant]] for contestant in CONTESTANTS)
    return {
        "labels_on_eps": round(median(on)),
        "labels_off_eps": round(median(off)),
        "disabled_eps": round(median(disabled)),
        "labels_on_records_per_second": round(median(rate.records for rate in rates["on"])),
        "labels_joined_share": round(min(rate.joined for rate in rates["on"]) / total, 4),
        "labels_on_over_off": round(median(a / b for a, b in zip(on, off, strict=True)), 3),
        "off_over_disabled": round(median(a / b for a, b in zip(off, disabled, strict=True)), 3),
    }


def main() -> None:
    """Run it all."""
    parser = argparse.ArgumentParser(description="What labels cost.")
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="modelvigil-labels-"))
    with LocalBroker(jvm_options=JVM, say=console.print) as broker:
        servers = broker.bootstrap_servers
        for labels in (LABELS, NO_LABELS):
            create(servers, {"topics.labels": labels})
        with console.status(f"generating and publishing {arguments.events:,} events and their labels"):
            # Stamped so that the last one comes about now: old records would be deleted.
            first_ms = time.time_ns() // 1_000_000 - (arguments.events + LAG_EVENTS) * 1000 // EVENTS_PER_SECOND
            publish(servers, records(generate(arguments.events)), first_ms)
        rates = contest(servers, arguments.rounds, arguments.events, folder)
    options = PerformanceOptions()
    memory = {f"bytes_per_row_{name}": bytes_per_row(*what, options) for name, what in MEMORY.items()}
    stated = BYTES_PER_ROW + LABEL_BYTES_PER_ROW
    print(json.dumps({**summary(rates, arguments.events), **memory, "bytes_per_row_stated": stated}))


if __name__ == "__main__":
    main()
