"""What a model takes in memory, and whether memory stays flat over tens of millions of events: the engine alone.

    python -m benchmarks.memory --models 1000            bytes per model; the last line is JSON
    python -m benchmarks.memory --models 1000 --frugal   the same with the settings `FRUGAL`, for thousands of models
    python -m benchmarks.memory --models 1000 --detectors-only        the same without what does not detect
    python -m benchmarks.memory --models 100 --full      the same when all predictions that may wait for a label do
    python -m benchmarks.memory --events 50000000        flat or not; some ten minutes; renews RESULTS.md

Default detectors, 10 features. Bytes per model are the growth of this process from no model to all, when each model
has seen so many events that all that detectors keep of the past is full (the scores of the calibration are what fills
last). Predictions that wait for a label, which none of these gets, and latest event ids go on growing, up to
`join_events_max` and `ids_max`: these are full where all is. Beside it, what a snapshot of a model has before it is
compressed. Fits are copied (`engine_alone.py`): what they need while they run is left out.
"""

import argparse
import json
import subprocess
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from rich.progress import Progress

from benchmarks import results
from benchmarks.engine_alone import CopiedFits, Stream, new_engine, resident_bytes
from benchmarks.events import FEATURES, MODELS, PARTITIONS
from benchmarks.rates import console, program
from benchmarks.results import Part, table
from worker.core.engine import Engine
from worker.core.events import OutputTopic
from worker.core.options import EngineOptions
from worker.settings import load_settings

BYTES_AIM = 300_000
FILLED = 1.2
"""Of what the calibration keeps, or of what waits for labels: so many events each model gets."""
FRUGAL: Mapping[str, object] = {
    "engine.forest.trees": 32,
    "engine.forest.sample_rows": 64,
    "engine.forest.rows_max": 256,
    "engine.half_space.trees": 6,
    "engine.tails.rows_max": 192,
    "engine.calibration.scores_max": 512,
    "engine.rebuild_events": 256,
    "engine.buckets_max": 160,
    "engine.drift.reference_events": 2_000,
    "engine.drift.blocks_max": 16,
    "engine.quality.ids_max": 500,
    "engine.performance.join_events_max": 500,
}
"""All detectors and watchers, each with a shorter past: what `deploy/configuration.md` says of many models."""
DETECTORS_ONLY: Mapping[str, object] = {
    f"engine.{what}.enabled": False
    for what in ("performance", "bias", "drift", "quality", "rate", "maintenance", "maintenance.regimes")
}
"""Verdicts on inputs, panes and their metrics; nothing that watches labels, groups, drift or data quality."""
FLAT_ROWS = 199_999
"""Different events; a prime, as `ROWS` of `engine_alone.py`."""
SETTLED_EVENTS = 5_000_000
"""From here on memory should not grow any more."""
MARKS = (1_000_000, 2_000_000, 5_000_000, *range(10_000_000, 1_000_000_001, 10_000_000))
CUT_BYTES = 4_000_000


class PerModel(NamedTuple):
    """Bytes for each model."""

    models: int
    events: int
    """Of each model."""
    resident: float
    stored: float
    """Of a snapshot, not compressed."""


class Sample(NamedTuple):
    """What was seen after so many events."""

    events: int
    resident: int
    alerts: int


def stored_bytes(engine: Engine) -> int:
    """Return the bytes of a snapshot of all models."""
    total = 0
    for partition in range(PARTITIONS):
        total += len(engine.begin_cut(partition, {}))
        while captured := engine.take_captured(partition, CUT_BYTES):
            total += sum(len(each.payload) for each in captured)
    return total


def per_model_here(models: int, options: EngineOptions, *, is_full: bool) -> PerModel:
    """Measure it in this process."""
    usual = EngineOptions()
    detectors = usual.warmup_events + usual.calibration.scores_max
    each = round(FILLED * (usual.performance.join_events_max if is_full else detectors))
    # Kernels, libraries and the forest that is copied are there before the first look. This engine stays until the end:
    # what it left would be used again, and not seen as growth.
    fits = CopiedFits()
    first, stream = new_engine(fits, options), Stream(models)
    _fill(first, Stream(PARTITIONS), each)
    before = resident_bytes()
    engine = new_engine(fits, options)
    _fill(engine, stream, each)
    grown = resident_bytes() - before
    assert first.models == PARTITIONS, "the first engine must outlive the measurement"
    return PerModel(models, each, grown / models, stored_bytes(engine) / models)


def _fill(engine: Engine, stream: Stream, each: int) -> None:
    for batch in stream.one_after_the_other(each):
        engine.handle(batch)


def per_model_part(scale: float) -> Part:
    """Measure bytes per model, each time in a process of its own."""
    models = max(20, round(1_000 * scale))
    usual, frugal, bare = (_per_model(models, *more) for more in ((), ("--frugal",), ("--detectors-only",)))
    full = _per_model(max(20, models // 20), "--full")
    named = (
        ("default", usual, f"≤ {BYTES_AIM / 1000:.0f}"),
        ("default", full, "-"),
        ("frugal", frugal, "-"),
        ("detectors only", bare, "-"),
    )
    rows = [
        (name, f"{each.models:,}", f"{each.events:,}", _kilobytes(each.resident), aim, _kilobytes(each.stored))
        for name, each, aim in named
    ]
    text = (
        f"{FEATURES} features, no labels, all default detectors. After {usual.events:,} events all that detectors keep "
        f"is full, after {full.events:,} also what waits for labels (`performance.join_events_max`). *Frugal* are the "
        "settings that `deploy/configuration.md` gives for many models; *detectors only*: the default ones, without "
        "performance, biases, drift, data quality, rate of anomalies, maintenance and regimes.\n\n"
    )
    head = ("settings", "models", "events of each", "growth, kB per model", "aim", "its snapshot, not compressed, kB")
    others = {"full": full, "frugal": frugal, "detectors_only": bare}
    return Part(text + table(head, rows), usual._asdict() | {name: each._asdict() for name, each in others.items()})


def _kilobytes(count: float) -> str:
    return f"{count / 1000:,.0f}"


def _per_model(models: int, *more: str) -> PerModel:
    with console.status(f"{models:,} models"):
        command = program("benchmarks.memory", "--models", str(models), *more)
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return PerModel(**json.loads(done.stdout.splitlines()[-1]))


def flat_samples(events: int) -> list[Sample]:
    """Feed one engine, and look at its memory now and then."""
    stream, engine = Stream(MODELS, rows=FLAT_ROWS), new_engine(CopiedFits())
    topics: Counter[OutputTopic] = Counter()
    samples: list[Sample] = []
    done = 0
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("memory", total=events)
        for mark in sorted({mark for mark in MARKS if mark < events} | {events}):
            for batch in stream.mixed(mark - done):
                topics.update(output.topic for output in engine.handle(batch).outputs)
                done += len(batch.offsets)
                bar.update(task, completed=done)
            samples.append(Sample(done, resident_bytes(), topics[OutputTopic.ALERTS]))
            bar.console.print(f"{done:>12,} events: {samples[-1].resident / 1e6:,.1f} MB")
    return samples


def flat_part(events: int) -> Part:
    """Measure whether memory stays flat."""
    samples = flat_samples(events)
    settled = next((sample for sample in samples if sample.events >= SETTLED_EVENTS), samples[0])
    growth = samples[-1].resident - settled.resident
    rows = ((f"{each.events:,}", f"{each.resident / 1e6:,.1f}", f"{each.alerts:,}") for each in samples)
    text = (
        f"{MODELS} models, {FEATURES} features, the engine alone; event time goes on. Growth after "
        f"{settled.events:,} events: **{growth / 1e6:+,.1f} MB**.\n\n"
    )
    figures = {"growth_bytes": growth, "samples": [list(sample) for sample in samples]}
    return Part(text + table(("events", "memory of the process, MB", "alerts so far"), rows), figures)


def main() -> None:
    """Measure one of both."""
    parser = argparse.ArgumentParser(description="Bytes per model, and memory over many events.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--models", type=int, help="bytes per model, for so many")
    what.add_argument("--events", type=int, help="memory over so many events")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--frugal", action="store_true", help="bytes per model with settings for many models")
    how.add_argument("--detectors-only", action="store_true", help="bytes per model without all that does not detect")
    how.add_argument("--full", action="store_true", help="bytes per model when all that may wait for a label does")
    parser.add_argument("--keep-results", action="store_true", help="do not write RESULTS.md")
    arguments = parser.parse_args()
    if arguments.models is not None:
        settings = FRUGAL if arguments.frugal else DETECTORS_ONLY if arguments.detectors_only else {}
        options = load_settings(None, {}, settings).engine
        print(json.dumps(per_model_here(arguments.models, options, is_full=arguments.full)._asdict()))
        return
    before = results.CpuTimes.now()
    part = flat_part(arguments.events)
    if not arguments.keep_results:
        stolen = results.CpuTimes.now().stolen_share(before)
        results.write(
            "bench flat", f"python -m benchmarks.memory --events {arguments.events}", part, stolen_share=stolen
        )
    print(json.dumps(part.figures))


if __name__ == "__main__":
    main()
