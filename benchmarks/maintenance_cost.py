"""What model maintenance costs: throughput with it and without it, all else as shipped; labels for all predictions.

    python -m benchmarks.maintenance_cost                    the engine alone, decode to outputs; the last line is JSON
    python -m benchmarks.maintenance_cost --rounds 1

The events are those of `make bench` (8 models, 4 partitions, 10 features) with probabilities. Labels come in a topic of
their own, 500 events late, or within the predictions (inline). First some events, untimed, 1,000 a second by their own
timestamps, until challengers are fitted on full buffers and say something of every event; then events that are timed,
by their timestamps as many a second as such an engine takes: a worker that runs at its limit. In turn: without
maintenance (off), with it (on), and with the budget of CPU time as it is shipped (budget): thinned as the worker does
it, but in windows a tenth as long. Ratios are medians over rounds, of the clock and of the CPU of this process.

Fits of challengers run in another process, once in `refit_interval_ms` of event time for each model, so none falls into
the timed seconds. `fits_cpu_share` is what they need of one core beside it, `search_cpu_share` a search of options as
often.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import orjson
from rich.console import Console
from rich.progress import Progress

from benchmarks.events import FEATURES, MODELS, PARTITIONS, START_MS, generate
from benchmarks.labels import LAG_EVENTS
from worker.budget import BudgetOptions, MaintenanceBudget
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.engine import Engine
from worker.core.events import InputTopic, OutputTopic, RawBatch
from worker.core.maintenance.challengers import BoostedRequest, LabelledRows
from worker.core.maintenance.fitting import one_thread
from worker.core.maintenance.halving import HalvingRequest, candidates_around
from worker.core.options import EngineOptions, MaintenanceOptions
from worker.core.shard import Topics
from worker.edges.clock import WorkEffort, WorkMeter
from worker.edges.refit_pool import ProcessRefitPool

WARM_EVENTS, WARM_PER_SECOND = 120_000, 1_000
LIVE_PER_SECOND = 60_000
WINDOW = 5_000
"""Events of all partitions that are handled in turn before those of the next window."""
CASES = ("topic", "inline")
CONTESTANTS = ("off", "on", "budget")
BUDGET = BudgetOptions(window_ms=500, engine_seconds_min=0.025)
READ_SECONDS_MAX = 30.0

console = Console(stderr=True)


class Timed(NamedTuple):
    """One run of the engine."""

    wall_s: float
    cpu_s: float
    """Of this process, whatever else the machine had to do."""
    told: Counter[str]
    """Maintenance events by kind."""
    level: int
    """Of thinning at the end."""


def stamp_ms(number: int) -> int:
    """Return the event time of an event."""
    if number < WARM_EVENTS:
        return START_MS + number * 1000 // WARM_PER_SECOND
    return START_MS + WARM_EVENTS * 1000 // WARM_PER_SECOND + (number - WARM_EVENTS) * 1000 // LIVE_PER_SECOND


def batches(count: int, case: str) -> list[list[RawBatch]]:
    """Return, window by window, the batches of each partition: predictions, then the labels that have come by then."""
    values: dict[tuple[InputTopic, int], list[tuple[int, bytes]]] = {
        (topic, partition): []
        for topic in (InputTopic.PREDICTIONS, InputTopic.LABELS)
        for partition in range(PARTITIONS)
    }
    draws = np.random.default_rng(11).random(count).tolist()
    for number, (partition, value) in enumerate(generate(count)):
        prediction, label = _labelled(number, orjson.loads(value), draws[number])
        if case == "inline":
            prediction["label"] = label["label"]
        else:
            values[InputTopic.LABELS, partition].append((number + LAG_EVENTS, orjson.dumps(label)))
        values[InputTopic.PREDICTIONS, partition].append((number, orjson.dumps(prediction)))
    ends = range(WINDOW, count + 1, WINDOW)
    windows: list[list[RawBatch]] = [[] for _ in ends]
    for (topic, partition), part in values.items():
        for window, batch in zip(windows, _cut(partition, topic, part, ends), strict=True):
            if batch.offsets:
                window.append(batch)
    return windows


def _labelled(number: int, event: dict[str, Any], draw: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return an event as one of a classifier, and its label, true with the probability that was predicted."""
    share = event["prediction"]
    prediction = event | {
        "timestamp": stamp_ms(number),
        "prediction": "yes" if share >= 0.5 else "no",
        "probabilities": {"no": round(1.0 - share, 6), "yes": share},
    }
    label = {name: event[name] for name in ("event_id", "model_id")}
    return prediction, label | {"label": "yes" if draw < share else "no", "timestamp": stamp_ms(number + LAG_EVENTS)}


def _cut(partition: int, topic: InputTopic, values: list[tuple[int, bytes]], ends: range) -> Iterator[RawBatch]:
    """Yield the records of a partition in batches that end where windows do."""
    numbers = [number for number, _ in values]
    places = [0, *np.searchsorted(numbers, ends).tolist()]
    for begin, end in pairwise(places):
        part = values[begin:end]
        nothing = [None] * len(part)
        stamps = [stamp_ms(number) for number, _ in part]
        yield RawBatch(partition, range(begin, end), stamps, [value for _, value in part], nothing, nothing, topic)


def run(windows: list[list[RawBatch]], contestant: str) -> Timed:
    """Feed a new engine, with fits in other processes; time what comes after the warm-up."""
    options = EngineOptions(maintenance=MaintenanceOptions(enabled=contestant != "off"))
    kinds, meter, warm = Counter[str](), WorkMeter(), WARM_EVENTS // WINDOW
    with closing(ProcessRefitPool(1)) as pool:
        effort = WorkEffort(meter, lambda: pool.challenger_children_cpu_s)
        engine = Engine(options, Topics(), pool, meter)
        for partition in range(PARTITIONS):
            engine.add_shard(partition)
        for window in windows[:warm]:
            feed(engine, window, kinds)
        budget = MaintenanceBudget(BUDGET, _now_ms(), effort.spent())
        begun = time.perf_counter(), time.process_time()
        for window in windows[warm:]:
            effort.begin()
            feed(engine, window, kinds)
            effort.end()
            if contestant == "budget" and budget.is_due(_now_ms()):
                budget.judge(_now_ms(), effort.spent())
                for partition in range(PARTITIONS):
                    engine.thin(partition, budget.level)
        ended = time.perf_counter(), time.process_time()
    return Timed(ended[0] - begun[0], ended[1] - begun[1], kinds, budget.level)


def feed(engine: Engine, window: list[RawBatch], kinds: Counter[str]) -> None:
    """Let the engine handle a window, and count what it tells of maintenance."""
    for batch in window:
        for output in engine.handle(batch).outputs:
            if output.topic is OutputTopic.MAINTENANCE and output.value is not None:
                kinds[orjson.loads(output.value)["kind"]] += 1


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def fit_seconds() -> dict[str, float]:
    """Return the CPU seconds of the fits of one model in one interval, with full buffers, and of a search."""
    options = MaintenanceOptions()
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(options.sampled_rows, FEATURES)).astype(np.float32)
    targets = (rng.random(len(rows)) < 1.0 / (1.0 + np.exp(-rows[:, 0]))).astype(np.float64)
    recent = LabelledRows(rows[: options.recent_rows], targets[: options.recent_rows], 2)
    every = LabelledRows(rows, targets, 2)
    seconds = {}
    for name, request in (
        ("recent", BoostedRequest(recent, options.recent, 0)),
        ("all", BoostedRequest(every, options.all, 0)),
        ("search", HalvingRequest(every, candidates_around(options.all, 0), 0)),
    ):
        with one_thread():
            begun = time.process_time()
            InlineRefits().fit_challenger(request).result()
            seconds[name] = round(time.process_time() - begun, 3)
    return seconds


def engine_figures(rounds: int, timed_events: int) -> dict[str, object]:
    """Measure the engine alone."""
    runs: dict[tuple[str, str], list[Timed]] = {(case, name): [] for case in CASES for name in CONTESTANTS}
    with Progress(console=console) as progress:
        task = progress.add_task("engine", total=len(runs) * rounds)
        for case in CASES:
            windows = batches(WARM_EVENTS + timed_events, case)
            for _ in range(rounds):
                for name in CONTESTANTS:
                    runs[case, name].append(run(windows, name))
                    progress.update(task, advance=1, description=f"labels {case}, maintenance {name}")
    fits = fit_seconds()
    a_second = MODELS / (MaintenanceOptions().refit_interval_ms / 1000.0)
    figures: dict[str, object] = {
        "fit_cpu_seconds": fits,
        "fits_cpu_share": round((fits["recent"] + fits["all"]) * a_second, 3),
        "search_cpu_share": round(fits["search"] * a_second, 3),
    }
    for case in CASES:
        figures[case] = _compared(timed_events, {name: runs[case, name] for name in CONTESTANTS})
        console.print(f"labels {case:>6}: {figures[case]}")
    return figures


def _compared(events: int, runs: dict[str, list[Timed]]) -> dict[str, object]:
    off, on, budget = (runs[name] for name in CONTESTANTS)
    return {
        **{f"{name}_eps": round(events / median(each.wall_s for each in runs[name])) for name in CONTESTANTS},
        "on_over_off": _ratio([each.wall_s for each in off], [each.wall_s for each in on]),
        "on_over_off_cpu": _ratio([each.cpu_s for each in off], [each.cpu_s for each in on]),
        "budget_over_off": _ratio([each.wall_s for each in off], [each.wall_s for each in budget]),
        "budget_over_off_cpu": _ratio([each.cpu_s for each in off], [each.cpu_s for each in budget]),
        "thinning_levels": [each.level for each in budget],
        "told": dict(on[0].told - off[0].told),
    }


def _ratio(above: list[float], below: list[float]) -> float:
    """Return the median of the ratios round by round."""
    return round(median(a / b for a, b in zip(above, below, strict=True)), 3)


def main() -> None:
    """Measure; the last line is JSON."""
    parser = argparse.ArgumentParser(description="What model maintenance costs the engine.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=200_000, help="timed events of each run")
    arguments = parser.parse_args()
    print(json.dumps(engine_figures(arguments.rounds, arguments.events // WINDOW * WINDOW)))


if __name__ == "__main__":
    main()
