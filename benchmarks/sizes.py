"""What an event costs by the number of models in a process, and by the number of features.

Events of all models come in turn, so a batch has few of each model if there are many. That is the worst case. Before
it, each model gets `WARM_EVENTS` events of its own, which do not count: then all detectors have verdicts.

`alone`: one thread of the engine, without Kafka, in a process of its own. `worker`: all of `modelvigil run`, on a local
Kafka.
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import Producer
from rich.progress import track

from benchmarks.engine_alone import BATCH, WARM_EVENTS, CopiedFits, Stream, new_engine, resident_bytes
from benchmarks.events import FEATURES, MODELS, create_topics, write
from benchmarks.rates import JVM, OTHERS, OUTPUTS, Task, console, measure, program, shown, worker_command
from benchmarks.results import Part, table
from worker.edges.broker import LocalBroker

EVENTS_MIN = 5_000
MEMORY_SHARE = 0.8
"""Of what is free: so much may be needed."""


class Size(NamedTuple):
    """One row of a table. `events` are those that count: enough for several commits, each of which may have 80,000."""

    models: int
    features: int
    events: int


MODEL_SIZES = (
    Size(1, FEATURES, 1_000_000),
    Size(10, FEATURES, 1_000_000),
    Size(100, FEATURES, 600_000),
    Size(1_000, FEATURES, 300_000),
    Size(10_000, FEATURES, 160_000),
)
FEATURE_SIZES = (
    Size(MODELS, 5, 1_000_000),
    Size(MODELS, 10, 1_000_000),
    Size(MODELS, 50, 500_000),
    Size(MODELS, 200, 160_000),
)


class Alone(NamedTuple):
    """What the engine alone gave."""

    us_per_event: float
    bytes_per_model: float


def alone_here(size: Size) -> Alone:
    """Measure the engine in this process."""
    stream, engine = Stream(size.models, size.features), new_engine(CopiedFits())
    before = resident_bytes()
    for batch in stream.one_after_the_other(WARM_EVENTS):
        engine.handle(batch)
    used = (resident_bytes() - before) / size.models
    seconds, events = 0.0, 0
    for batch in stream.mixed(size.events):
        begun = time.perf_counter()
        engine.handle(batch)
        seconds += time.perf_counter() - begun
        events += len(batch.offsets)
    return Alone(seconds / events * 1e6, used)


def alone(size: Size) -> Alone:
    """Measure the engine in a process of its own, so that its memory is its own."""
    command = program("benchmarks.sizes", "--alone", *map(str, size))
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Alone(**json.loads(done.stdout.splitlines()[-1]))


def worker(servers: str, size: Size, folder: Path) -> float:
    """Return the events per second of a whole worker."""
    name = f"{size.models}-models-{size.features}-features"
    create_topics(servers, [name])
    warm = size.models * WARM_EVENTS
    with console.status(f"publishing {warm + size.events:,} events of {size.models:,} models"):
        stream = Stream(size.models, size.features)
        producer = Producer({"bootstrap.servers": servers, "linger.ms": 20, "compression.type": "lz4"})
        total = 0
        for batches in (stream.one_after_the_other(WARM_EVENTS), stream.mixed(size.events)):
            for batch in batches:
                write(producer, name, [(batch.partition, value) for value in batch.values if value is not None])
                total += len(batch.offsets)
        producer.flush(120)
    task = Task(servers, name, {name: total}, folder / f"{name}.log", warm_up_events=warm)
    with shown(f"worker: {size.models:,} models, {size.features} features", total) as look:
        return measure(worker_command(servers, name, {"topics.predictions": name}), task, look).per_second


def fits_into_memory(bytes_per_model: float, models: int) -> bool:
    """Tell whether there is room for so many models; True where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return True
    free = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    return bytes_per_model * models < MEMORY_SHARE * free["MemAvailable"]


def engines_of(sizes: Sequence[Size]) -> dict[Size, Alone]:
    """Measure the engine alone; sizes that do not fit into memory are left out."""
    found: dict[Size, Alone] = {}
    bytes_per_model = 0.0
    for size in track(sizes, "engine alone", console=console, transient=True):
        if fits_into_memory(bytes_per_model, size.models):
            found[size] = alone(size)
            bytes_per_model = found[size].bytes_per_model
    return found


def part(scale: float) -> Part:
    """Measure both tables; a small `scale` leaves the largest numbers of models out."""
    models_max = max(MODELS, MODEL_SIZES[-1].models * scale)
    folder = Path(tempfile.mkdtemp(prefix="modelvigil-sizes-"))
    by_models, by_features = (
        [
            size._replace(events=max(EVENTS_MIN, round(size.events * scale)))
            for size in sizes
            if size.models <= models_max
        ]
        for sizes in (MODEL_SIZES, FEATURE_SIZES)
    )
    engines = engines_of(by_models) | engines_of(by_features)
    workers: dict[Size, float] = {}
    with LocalBroker(jvm_options=JVM, say=console.print) as broker:
        create_topics(broker.bootstrap_servers, [*OUTPUTS, *OTHERS])
        for size in (*by_models, *by_features):
            if size in engines:
                workers[size] = worker(broker.bootstrap_servers, size, folder)
                console.print(f"{size.models:,} models, {size.features} features: {workers[size]:,.0f} events/s")
    return told(by_models, by_features, engines, workers)


def told(
    by_models: Sequence[Size],
    by_features: Sequence[Size],
    engines: Mapping[Size, Alone],
    workers: Mapping[Size, float],
) -> Part:
    """Return the tables and the figures."""

    def row(size: Size, first: int) -> tuple[str, ...]:
        own, rate = engines.get(size), workers.get(size)
        us, alone_rate = ("-", "too little memory") if own is None else (f"{own.us_per_event:.1f}", _rate(own))
        return f"{first:,}", us, alone_rate, "not measured" if rate is None else f"{rate:,.0f}"

    head = ("engine alone, one thread: µs per event", "events/s", "whole worker: events/s")
    text = (
        f"One run each. All models take turns, so a batch of {BATCH:,} records has few events of each where there are "
        f"many; each has had {WARM_EVENTS:,} events before, which do not count. Engine alone: decoding to outputs, no "
        "Kafka, forests fitted in advance. Whole worker: `modelvigil run` with one process.\n\n"
    )
    text += table((f"models ({FEATURES} features)", *head), (row(size, size.models) for size in by_models))
    text += "\n\n" + table((f"features ({MODELS} models)", *head), (row(size, size.features) for size in by_features))
    figures: dict[str, object] = {
        "engine_us": {_name(size): round(own.us_per_event, 2) for size, own in engines.items()},
        "worker_eps": {_name(size): round(rate) for size, rate in workers.items()},
    }
    return Part(text, figures)


def _rate(own: Alone) -> str:
    return f"{1e6 / own.us_per_event:,.0f}"


def _name(size: Size) -> str:
    return f"{size.models}x{size.features}"


def main() -> None:
    """Measure one size of the engine alone; the last line is JSON."""
    parser = argparse.ArgumentParser(description="What an event costs in the engine alone.")
    parser.add_argument("--alone", type=int, nargs=3, required=True, metavar=("MODELS", "FEATURES", "EVENTS"))
    print(json.dumps(alone_here(Size(*parser.parse_args().alone))._asdict()))


if __name__ == "__main__":
    main()
