"""Runs streams of rows through the production engine, without Kafka, and reads the topic `scores`."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import orjson

from worker.core.detectors.forest_fit import InlineRefits
from worker.core.engine import Engine
from worker.core.events import Output, OutputTopic, RawBatch, ScoreEvent
from worker.core.kernels.arrays import F64, I64
from worker.core.options import (
    BiasOptions,
    DriftOptions,
    EngineOptions,
    PerformanceOptions,
    QualityOptions,
    RateOptions,
)
from worker.core.shard import Topics

BATCH_EVENTS = 1_000
START_MS = 1_767_225_600_000
EVENT_MS = 100


def detectors_only(options: EngineOptions) -> EngineOptions:
    """Switch off what is not about single events, so that the speed is that of the detectors."""
    return msgspec.structs.replace(
        options,
        performance=PerformanceOptions(enabled=False),
        drift=DriftOptions(enabled=False),
        quality=QualityOptions(enabled=False),
        rate=RateOptions(enabled=False),
        bias=BiasOptions(enabled=False),
    )


def run_engine(options: EngineOptions, batches: list[RawBatch]) -> tuple[list[Output], float]:
    """Feed batches to a new engine; return its outputs and how long it took, s."""
    engine = Engine(options, Topics(), InlineRefits())
    engine.add_shard(0)
    out: list[Output] = []
    begun = time.perf_counter()
    for batch in batches:
        out += engine.handle(batch).outputs
    return out, time.perf_counter() - begun


def encoded(name: str, rows: F64) -> list[RawBatch]:
    """Return rows (n x d) as records of the predictions topic; NaN is a missing value."""
    names = [f"f{place}" for place in range(rows.shape[1])]
    values = [
        orjson.dumps(
            {
                "event_id": f"e{place}",
                "model_id": name,
                "timestamp": START_MS + place * EVENT_MS,
                "features": dict(zip(names, row, strict=True)),
                "prediction": 0.0,
            }
        )
        for place, row in enumerate(rows.tolist())
    ]
    batches = []
    for begin in range(0, len(values), BATCH_EVENTS):
        part = values[begin : begin + BATCH_EVENTS]
        offsets = range(begin, begin + len(part))
        nothing = [None] * len(part)
        times = [START_MS + offset * EVENT_MS for offset in offsets]
        batches.append(RawBatch(0, offsets, times, part, nothing, nothing))
    return batches


def score_events(outputs: Sequence[Output]) -> list[ScoreEvent]:
    """Return what was told on the topic `scores`."""
    told = [each.value for each in outputs if each.topic is OutputTopic.SCORES and each.value is not None]
    return [msgspec.json.decode(value, type=ScoreEvent) for value in told]


def score_columns(told: list[ScoreEvent], events: int, detectors: Sequence[str]) -> dict[str, F64]:
    """Return the scores of each detector and the verdict (n each); an event without one gets the least."""
    columns = {name: np.full(events, np.nan) for name in (*detectors, "verdict")}
    for each in told:
        for part in each.scores:
            columns[part.detector][each.offset] = np.nan if part.score is None else part.score
        columns["verdict"][each.offset] = np.nan if each.score is None else each.score
    for column in columns.values():
        known = ~np.isnan(column)
        column[~known] = column[known].min() if known.any() else 0.0
    return columns


def stored_streams(folder: Path) -> Iterator[tuple[str, F64, I64]]:
    """Yield the anomaly streams of a folder: files whose `y` says 0 or 1, at most half of it 1."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as file:
            if path.name.startswith("labelled_") or not {"X", "y"} <= set(file.files):
                continue
            yield path.stem.removeprefix("anomaly_"), file["X"].astype(np.float64), file["y"].astype(np.int64)
