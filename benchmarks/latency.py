"""From an event to its alert, as a subscriber sees it: how long, at a steady rate of events.

    python -m benchmarks.latency                                     10,000 and 50,000 events/s, 60 s each
    python -m benchmarks.latency --rates 10000 --seconds 30 --commit-interval-ms 200,50

    producer ── events, in bursts of 5 ms ──► Kafka ──► worker ── alerts ──► Kafka ──► subscriber (read_committed)
       └ when each was sent, by partition and offset                          when each was there ┘

Each arrow ends in a process of its own; all of them share one machine and so one clock. The worker has the settings
that it ships with, but for what decides how many alerts there are: one feature of an event is three times as large at
regular distances, all that is unusual opens an incident at once, and an incident is over with the next event. An alert
belongs to the last event of its evidence. Alerts are few, some ten openings a second: explaining one takes the worker
milliseconds, at its opening, and hundreds in a second would be all that is measured. Events that were
sent in the warm-up do not count: Kafka's compiler is still busy (it takes a third of a core for 20 s, and now and then
a whole one for half a second until a minute has passed), and detectors are fitted often.

`own` are the figures of the worker's histogram `modelvigil_event_to_alert_seconds`, and JSON has those of its stages,
too, all without the warm-up; null when it has none. `behind`: most events that were sent and not committed, looked at
four times a second. A worker that does not keep up shows there, and its latencies grow with the time of the run. Each
run has a broker of its own. A table goes to stderr; the last line of stdout is JSON.
"""

import argparse
import gc
import json
import multiprocessing
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import orjson
from confluent_kafka import Consumer, Producer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.events import FEATURES, MODELS, PARTITIONS, create_topics
from benchmarks.rates import JVM, OTHERS, OUTPUTS, TOPIC, committed, has_positions, running, worker_command
from worker.edges.broker import LocalBroker
from worker.edges.broker.ports import ReservedPorts

ALERTS = "modelvigil.alerts"
GROUP = "latency"
BURST_S = 0.005
POOL_EVENTS = 200_000
"""Different events; after them they come again, with other ids."""
PLANTED_FACTOR = 3.0
TAKEN_MS_MAX = 1_000.0
"""From when a burst is put together until the client has taken the last event of it."""
START_SECONDS_MAX = 120.0
DRAIN_SECONDS_MAX = 60.0
LOOK_S = 0.25
HISTOGRAM = "modelvigil_event_to_alert_seconds"
STAGES = "modelvigil_stage_seconds"
QUANTILES = (0.5, 0.99, 0.999)
AIM_MS = 300
ALONE = {
    "engine.incident.quiet_ms": "1",
    "engine.incident.quiet_events": "1",
    "engine.alerts.noise.severity_min": "info",
    "engine.alerts.noise.clear_share": "0",
    "engine.alerts.noise.cooldown_ms": "0",
    "engine.alerts.noise.flap_openings": "0",
    "engine.alerts.openings_per_day_max": "0",
}
"""Each unusual event opens an incident of its own."""

console = Console(stderr=True)
_processes = multiprocessing.get_context("spawn")


class Load(NamedTuple):
    """What one run puts on the worker."""

    rate: int
    commit_interval_ms: int
    seconds: float
    warm_up_s: float
    alerts_per_second: float


class Sent(NamedTuple):
    """What the producer did."""

    sent_ns: "list[array[int]]"
    """When each event was handed to the client, by partition and offset."""
    seconds: float
    late_ms_max: float
    """Furthest that a burst was behind its time: the producer did not get the CPU."""


class Arrival(NamedTuple):
    """An alert that became readable."""

    at_ns: int
    value: bytes


class Outcome(NamedTuple):
    """What came of one run."""

    load: Load
    latencies_ms: list[float]
    sent_per_second: float
    producer_late_ms_max: float
    lag_max: int
    lag_at_end: int
    unread: int
    worker: dict[str, float | None] | None
    stages: dict[str, dict[str, float | None] | None]
    worst: list[tuple[float, float]]
    """Seconds since the first event, and ms: the slowest ten."""

    def figures(self) -> dict[str, object]:
        """Return what is told, rounded."""
        quantiles = {name_of(q): outside(self.latencies_ms, q) for q in QUANTILES}
        return {
            "rate": self.load.rate,
            "commit_interval_ms": self.load.commit_interval_ms,
            "alerts": len(self.latencies_ms),
            **quantiles,
            "max_ms": round(max(self.latencies_ms), 1) if self.latencies_ms else None,
            "worker_histogram": self.worker,
            "worker_stages": self.stages,
            "sent_per_second": round(self.sent_per_second),
            "producer_late_ms_max": round(self.producer_late_ms_max, 1),
            "lag_max": self.lag_max,
            "lag_at_end": self.lag_at_end,
            "unread": self.unread,
            "worst_second_ms": [[round(second, 1), round(ms)] for second, ms in self.worst],
        }


def name_of(quantile: float) -> str:
    """Return how a quantile is called: p50_ms, p99_ms, p99.9_ms."""
    return f"p{quantile * 100:g}_ms"


def outside(values: Sequence[float], quantile: float) -> float | None:
    """Return a quantile; None where fewer than one value lies above it."""
    return round(float(np.quantile(values, quantile)), 1) if len(values) * (1 - quantile) >= 1 else None


# The producer.


def pool_of(planted_every: int) -> list[tuple[int, bytes]]:
    """Return partition and end of different events: correlated features, at regular distances one thrice as large.

    They have no `timestamp`: Kafka's counts, which is when they were sent.
    """
    rng = np.random.default_rng(7)
    mixing = rng.normal(size=(MODELS, FEATURES, FEATURES)) / np.sqrt(FEATURES)
    models = rng.integers(0, MODELS, POOL_EVENTS)
    rows = np.einsum("nf,nfg->ng", rng.normal(size=(POOL_EVENTS, FEATURES)), mixing[models]) * 10 + 50
    planted = np.arange(planted_every - 1, POOL_EVENTS, planted_every)
    rows[planted, rng.integers(0, FEATURES, len(planted))] *= PLANTED_FACTOR
    predictions = 1 / (1 + np.exp(-rows[:, 0] / 100))
    names = [f"feature_{place}" for place in range(FEATURES)]
    pool = []
    for model, row, prediction in zip(models.tolist(), rows.round(4).tolist(), predictions.tolist(), strict=True):
        event = {
            "model_id": f"model-{model}",
            "model_version": "1",
            "features": dict(zip(names, row, strict=True)),
            "prediction": round(prediction, 6),
        }
        pool.append((model % PARTITIONS, b"," + orjson.dumps(event)[1:]))
    return pool


def produce(servers: str, load: Load, said: Connection) -> None:
    """Send events at a steady pace; tell when it begins, and at the end what was done."""
    pool = pool_of(max(1, round(load.rate / load.alerts_per_second)))
    # Nothing is sent again, so events are in the order of `produce`: an offset is the place in its partition. What is
    # lost ends the run. The thread of an idempotent producer, which has five requests under way at most, was seen to
    # take nine tenths of a core for 0.2 s when the broker was slow, which then got none (librdkafka issue 3692 is like
    # it); without the limit it was not.
    producer = Producer(
        {
            "bootstrap.servers": servers,
            "retries": 0,
            "linger.ms": 1,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    producer.list_topics(TOPIC, timeout=30)
    sent_ns = [array("q") for _ in range(PARTITIONS)]
    gc.freeze()
    said.send("begins")
    begun = time.monotonic()
    number, late = 0, 0.0
    for burst in range(round((load.warm_up_s + load.seconds) / BURST_S)):
        ahead = begun + burst * BURST_S - time.monotonic()
        late = max(late, -ahead)
        producer.poll(max(ahead, 0.0))
        if (left := begun + burst * BURST_S - time.monotonic()) > 0:
            time.sleep(left)
        now_ns = time.time_ns()
        messages: list[list[dict[str, bytes]]] = [[] for _ in range(PARTITIONS)]
        for _ in range(round((burst + 1) * BURST_S * load.rate) - number):
            partition, end = pool[number % POOL_EVENTS]
            messages[partition].append({"value": b'{"event_id":"e%d"%b' % (number, end)})
            sent_ns[partition].append(now_ns)
            number += 1
        # One call for each partition, not each event, takes a quarter less CPU: broker and worker have the same cores.
        for partition, own in enumerate(messages):
            if producer.produce_batch(TOPIC, own, partition=partition) != len(own):
                raise SystemExit("latency: the client did not take all events")
    seconds = time.monotonic() - begun
    if producer.flush(DRAIN_SECONDS_MAX):
        raise SystemExit("latency: the broker did not take all events")
    said.send(Sent(sent_ns, seconds, late * 1000))


# The subscriber.


def subscribe(servers: str, said: Connection) -> None:
    """Note when each alert became readable, until something is said; then tell all."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "subscriber",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 100,
        }
    )
    consumer.assign([TopicPartition(ALERTS, partition, 0) for partition in range(PARTITIONS)])
    found: list[Arrival] = []
    while not said.poll():
        messages = consumer.consume(500, 0.02)
        now_ns = time.time_ns()
        found += [Arrival(now_ns, message.value() or b"") for message in messages if message.error() is None]
    consumer.close()
    said.send(found)


@contextmanager
def beside(work: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    """Run a function in a process of its own, with a connection to it as its last argument."""
    mine, its = _processes.Pipe()
    process = _processes.Process(target=work, args=(*arguments, its), daemon=True)
    process.start()
    its.close()
    try:
        yield mine
    finally:
        process.join(5)
        process.kill()


# The worker.


def command(servers: str, load: Load, port: int, folder: Path) -> list[str]:
    """Return the command of the worker."""
    settings = ALONE | {
        # As many are planted; the others are the most unusual ones of the rest.
        "engine.alert_rate": f"{min(2 * load.alerts_per_second / load.rate, 0.1):.6f}",
        "worker.commit_interval_ms": str(load.commit_interval_ms),
        "ops.port": str(port),
        "artefacts.url": str(folder / "models"),
    }
    return worker_command(servers, GROUP, settings)


class Histograms(NamedTuple):
    """Cumulated counts by upper bound in seconds, as the worker exports them; empty where it has none."""

    alerts: dict[float, float]
    stages: dict[str, dict[float, float]]


def histograms(port: int) -> Histograms:
    """Look at what the worker exports."""
    found = Histograms({}, {})
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except (URLError, OSError):
        return found
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            buckets = found.alerts
            if sample.name == f"{STAGES}_bucket":
                buckets = found.stages.setdefault(sample.labels["stage"], {})
            elif sample.name != f"{HISTOGRAM}_bucket":
                continue
            bound = float(sample.labels["le"])
            buckets[bound] = buckets.get(bound, 0.0) + sample.value
    return found


def inside(before: dict[float, float], after: dict[float, float]) -> dict[str, float | None] | None:
    """Return quantiles (ms) of what came between two looks at a histogram, as Prometheus estimates them."""
    if not after:
        return None
    bounds = sorted(after)
    counts = [after[bound] - before.get(bound, 0.0) for bound in bounds]
    found: dict[str, float | None] = {"count": counts[-1]}
    for quantile in QUANTILES:
        rank = quantile * counts[-1]
        place = next(place for place, count in enumerate(counts) if count >= rank)
        low, below = (bounds[place - 1], counts[place - 1]) if place else (0.0, 0.0)
        high = bounds[place]
        share = (rank - below) / (counts[place] - below) if counts[place] > below else 0.0
        known = counts[-1] * (1 - quantile) >= 1 and np.isfinite(high)
        found[name_of(quantile)] = round(1000 * (low + (high - low) * share), 1) if known else None
    return found


# One run.


def latencies(sent: Sent, arrivals: Sequence[Arrival], warm_up_s: float) -> Iterator[tuple[float, float]]:
    """Yield when the event of each alert was sent, in seconds since the first one, and the alert's latency in ms."""
    first_ns = min(own[0] for own in sent.sent_ns)
    for arrival in arrivals:
        alert = orjson.loads(arrival.value)
        if alert["status"] != "opened" or alert["kind"] != "anomaly.input":
            continue
        cause = max(alert["evidence"], key=lambda row: int(row["offset"]))
        sent_ns = sent.sent_ns[cause["partition"]][cause["offset"]]
        # The event's time is when the client took it: otherwise this is another event.
        taken_ms = cause["timestamp_ms"] - sent_ns / 1e6
        assert -1 <= taken_ms <= TAKEN_MS_MAX, "an alert names an event that was not sent then"
        second = (sent_ns - first_ns) / 1e9
        if second >= warm_up_s:
            yield second, (arrival.at_ns - sent_ns) / 1e6


class _Watched(NamedTuple):
    """What is seen from outside while events are sent."""

    sent: Sent
    lag_max: int
    lag_at_end: int
    unread: int
    """Events that the worker had not read `DRAIN_SECONDS_MAX` after the last one: it cannot keep up."""
    at_warm: Histograms


def watch(
    load: Load, watcher: Consumer, producing: Connection, port: int, look: Callable[[float, int], None]
) -> _Watched:
    """Follow a run until the worker has read all that was sent, or `DRAIN_SECONDS_MAX` later."""
    producing.recv()
    begun = time.monotonic()
    at_warm = Histograms({}, {})
    is_warm, lag_max = False, 0
    while not producing.poll(LOOK_S):
        seconds = time.monotonic() - begun
        lag = max(0, round(seconds * load.rate) - committed(watcher))
        if seconds >= load.warm_up_s:
            if not is_warm:
                is_warm, at_warm = True, histograms(port)
            lag_max = max(lag_max, lag)
        look(seconds, lag)
    sent: Sent = producing.recv()
    total = sum(map(len, sent.sent_ns))
    ends = [watcher.get_watermark_offsets(TopicPartition(TOPIC, partition))[1] for partition in range(PARTITIONS)]
    if ends != list(map(len, sent.sent_ns)):
        raise SystemExit(f"latency: {total:,} events were sent, {sum(ends):,} arrived")
    lag_at_end = total - committed(watcher)
    limit = time.monotonic() + DRAIN_SECONDS_MAX
    while committed(watcher) < total and time.monotonic() < limit:
        time.sleep(0.05)
    return _Watched(sent, lag_max, lag_at_end, total - committed(watcher), at_warm)


def wait_until_live(watcher: Consumer) -> None:
    """Return when the worker has committed where it begins to read each partition."""
    limit = time.monotonic() + START_SECONDS_MAX
    while not has_positions(watcher):
        if time.monotonic() > limit:
            raise SystemExit(f"latency: the worker was not ready within {START_SECONDS_MAX:.0f} s")
        time.sleep(0.1)


def run(load: Load, folder: Path, look: Callable[[float, int], None]) -> Outcome:
    """Measure one load on a broker of its own."""
    ports = ReservedPorts(1)
    (port,) = ports.numbers
    log = folder / f"worker-{load.rate}-{load.commit_interval_ms}.log"
    with LocalBroker(jvm_options=JVM) as broker:
        servers = broker.bootstrap_servers
        create_topics(servers, [TOPIC, *OUTPUTS, *OTHERS])
        watcher = Consumer({"bootstrap.servers": servers, "group.id": GROUP, "log_level": 0})
        with running(command(servers, load, port, folder), log), beside(subscribe, servers) as subscriber:
            wait_until_live(watcher)
            with beside(produce, servers, load) as producing:
                seen = watch(load, watcher, producing, port, look)
            time.sleep(2 * load.commit_interval_ms / 1000 + 0.5)
            at_end = histograms(port)
            subscriber.send("enough")
            arrivals: list[Arrival] = subscriber.recv()
        watcher.close()
    found = list(latencies(seen.sent, arrivals, load.warm_up_s))
    return Outcome(
        load=load,
        latencies_ms=[ms for _, ms in found],
        sent_per_second=sum(map(len, seen.sent.sent_ns)) / seen.sent.seconds,
        producer_late_ms_max=seen.sent.late_ms_max,
        lag_max=seen.lag_max,
        lag_at_end=seen.lag_at_end,
        unread=seen.unread,
        worker=inside(seen.at_warm.alerts, at_end.alerts),
        stages={stage: inside(seen.at_warm.stages.get(stage, {}), buckets) for stage, buckets in at_end.stages.items()},
        worst=sorted(found, key=lambda each: -each[1])[:10],
    )


def table(outcomes: Sequence[Outcome]) -> Table:
    """Return what people read."""
    shown = Table(title="event sent → alert readable under read_committed, ms", box=SIMPLE, padding=(0, 1, 0, 0))
    for column in ("events/s", "commit", "alerts", "p50", "p99", "p99.9", "max", "own p50", "own p99", "behind"):
        shown.add_column(column, justify="right", no_wrap=True)
    for outcome in outcomes:
        figures, worker = outcome.figures(), outcome.worker or {}
        cells = [figures[name] for name in ("rate", "commit_interval_ms", "alerts", *map(name_of, QUANTILES), "max_ms")]
        cells += [worker.get(name_of(0.5)), worker.get(name_of(0.99)), outcome.lag_max]
        shown.add_row(*("-" if cell is None else f"{cell:,.0f}" for cell in cells))
    return shown


def numbers(text: str) -> list[int]:
    """Read numbers between commas."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Measure all loads; the last line is JSON."""
    parser = argparse.ArgumentParser(description="How long it takes from an event to its alert.")
    parser.add_argument("--rates", type=numbers, default=[10_000, 50_000], help="events a second, between commas")
    parser.add_argument("--commit-interval-ms", type=numbers, default=[200], help="between commas")
    parser.add_argument("--seconds", type=float, default=60.0, help="that are measured")
    parser.add_argument("--warm-up", type=float, default=60.0, help="seconds before that")
    parser.add_argument("--alerts-per-second", type=float, default=5.0, help="planted; as many come beside them")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="modelvigil-latency-"))
    console.print(f"logs of the workers are in {folder}")
    outcomes = []
    loads = [
        Load(rate, interval_ms, arguments.seconds, arguments.warm_up, arguments.alerts_per_second)
        for rate, interval_ms in product(arguments.rates, arguments.commit_interval_ms)
    ]
    with Progress(console=console) as progress:
        for load in loads:
            name = f"{load.rate:,} events/s, a commit each {load.commit_interval_ms} ms"
            task = progress.add_task(name, total=load.warm_up_s + load.seconds)

            def look(seconds: float, lag: int, task: object = task, name: str = name) -> None:
                progress.update(task, completed=seconds, description=f"{name}, lag {lag:,}")  # type: ignore[arg-type] # of rich

            outcomes.append(run(load, folder, look))
    console.print(table(outcomes))
    runs = [outcome.figures() for outcome in outcomes]
    slowest = [outside(outcome.latencies_ms, 0.99) for outcome in outcomes]
    within = all(each is not None and each < AIM_MS for each in slowest) and not any(each.unread for each in outcomes)
    print(json.dumps({"aim_p99_ms": AIM_MS, "aim_met": within, "runs": runs}))


if __name__ == "__main__":
    main()
