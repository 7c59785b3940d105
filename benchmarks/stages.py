"""Where the time of one event goes inside the core: the engine alone, in this process, stage by stage.

    python -m benchmarks.stages [--events 400000]

The events are those of `make bench`. Fits, which another thread of the worker does, are taken from a first pass and not
timed; fetching and committing are not in it. The last line is JSON, in microseconds per event.
"""

import argparse
import functools
import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from rich.console import Console

from benchmarks.events import PARTITIONS, START_MS, generate
from worker.core import monitor, shard
from worker.core.columns import ColumnTable
from worker.core.detectors.calibration import Calibration
from worker.core.detectors.forest_fit import InHand, ModelInHand, fit_request
from worker.core.detectors.half_space_log import LogHalfSpaceTrees
from worker.core.detectors.knn import NearestNeighbours
from worker.core.detectors.moments import MomentsDistance
from worker.core.detectors.one_class_svm import OneClassSvm
from worker.core.detectors.refit import FittedHere, FittedModel, RefitRequest
from worker.core.detectors.refitted_forest import RefittedForest
from worker.core.detectors.tails import TailSurprise
from worker.core.drift.watch import DriftWatch
from worker.core.engine import Engine
from worker.core.events import RawBatch
from worker.core.options import EngineOptions
from worker.core.performance.monitoring import PerformanceMonitor
from worker.core.quality.watch import QualityWatch
from worker.core.rate.watch import RateWatch
from worker.core.shard import Topics
from worker.core.statistics.panes import PaneCounts, PaneSlots

BATCH = 1250
STAGES: list[tuple[str, Any, str]] = [
    ("decode and validate", shard, "decode_predictions"),
    ("events to columns", ColumnTable, "matrix"),
    ("panes: which", monitor, "assign_panes"),
    ("panes: counts", PaneCounts, "add"),
    ("panes: moments and histograms", PaneSlots, "add"),
    ("half-space trees", LogHalfSpaceTrees, "score_and_learn"),
    ("isolation forest", RefittedForest, "score_and_learn"),
    ("moments", MomentsDistance, "score_and_learn"),
    ("nearest neighbours", NearestNeighbours, "score_and_learn"),
    ("one-class SVM", OneClassSvm, "score_and_learn"),
    ("tails", TailSurprise, "score_and_learn"),
    ("p-values and verdict", Calibration, "judge"),
    ("drift", DriftWatch, "process"),
    ("data quality", QualityWatch, "process"),
    ("rate of anomalies", RateWatch, "process"),
    ("performance", PerformanceMonitor, "predicted"),
]


_Fitted = TypeVar("_Fitted")


class RememberedRefits:
    """Fits each request once; the second pass finds its models here."""

    def __init__(self) -> None:
        self._models: dict[tuple[object, ...], FittedModel] = {}

    def submit(self, request: RefitRequest) -> ModelInHand:
        """Return the model of this request."""
        key = (type(request), request.rows.tobytes(), *request[1:])
        if key not in self._models:
            self._models[key] = fit_request(request)
        return ModelInHand(self._models[key])

    def fit_challenger(self, request: FittedHere[_Fitted]) -> InHand[_Fitted]:
        """Fit now."""
        return InHand(request.fit())


def batches(count: int, size_max: int = BATCH) -> list[RawBatch]:
    """Return the events as a consumer gives them: a batch of each partition in turn."""
    values: dict[int, list[bytes]] = {partition: [] for partition in range(PARTITIONS)}
    for partition, value in generate(count):
        values[partition].append(value)
    out = []
    for begin in range(0, max(map(len, values.values())), size_max):
        for partition, all_of_it in values.items():
            part = all_of_it[begin : begin + size_max]
            size = len(part)
            stamps = [START_MS + 10**9] * size
            out.append(RawBatch(partition, range(begin, begin + size), stamps, part, [None] * size, [None] * size))
    return out


def run(stream: list[RawBatch], refits: RememberedRefits) -> float:
    """Feed a fresh engine; return the seconds."""
    engine = Engine(EngineOptions(), Topics(), refits)
    for partition in range(PARTITIONS):
        engine.add_shard(partition)
    begun = time.perf_counter()
    for raw in stream:
        if raw.offsets:
            engine.handle(raw)
    return time.perf_counter() - begun


def timed(function: Callable[..., Any], name: str, seconds: Counter[str]) -> Callable[..., Any]:
    """Return the function with a clock around it."""

    @functools.wraps(function)
    def around(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - any function
        begun = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            seconds[name] += time.perf_counter() - begun  # type: ignore[assignment]  # a Counter of floats

    return around


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description="Where the time of one event goes inside the core.")
    parser.add_argument("--events", type=int, default=400_000)
    count = parser.parse_args().events
    console = Console(stderr=True)
    refits, seconds = RememberedRefits(), Counter[str]()
    with console.status(f"{count:,} events, three passes"):
        stream = batches(count)
        run(stream, refits)
        plain = run(stream, refits)
        for name, owner, attribute in STAGES:
            setattr(owner, attribute, timed(getattr(owner, attribute), name, seconds))
        total = run(stream, refits)
    figures = {name: round(float(seconds[name]) / count * 1e6, 2) for name, _, _ in STAGES}
    figures["the rest"] = round((total - float(sum(seconds.values()))) / count * 1e6, 2)
    figures["all"] = round(plain / count * 1e6, 2)
    for name, value in figures.items():
        console.print(f"{name:<32}{value:>7.2f} µs")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
