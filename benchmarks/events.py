"""The fixed sets of generated events that contestants read."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import orjson
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # not in its stub's __all__

from worker.core.kernels.arrays import F64, I64

PARTITIONS = 4
MODELS = 8
FEATURES = 10
START_MS = 1_767_225_600_000
EVENTS_PER_SECOND = 2000
"""Event time moves on as if this many events came in a second: with 60 s panes, 15,000 events a pane and model."""
_CATEGORIES = ("north", "south", "east", "west", "abroad", "unknown")
_CHUNK_EVENTS = 10_000


class Shape(NamedTuple):
    """What events look like."""

    models: int = MODELS
    numbers: int = FEATURES
    """Features that are numbers."""
    categories: int = 0
    """Features that are text: one of six words, the first ones most often."""
    missing: float = 0.0
    """Share of the values that are missing: half of them null, half of them absent."""


NUMERIC = Shape()
MIXED = Shape(numbers=8, categories=2, missing=0.05)


def generate(count: int, seed: int = 7, shape: Shape = NUMERIC) -> list[tuple[int, bytes]]:
    """Return partition and value of each event: correlated numbers, 0.2 % of the rows anomalous."""
    rng, other = np.random.default_rng(seed), np.random.default_rng((seed, 1))
    mixing = rng.normal(size=(shape.models, shape.numbers, shape.numbers)) / np.sqrt(shape.numbers)
    # The mixing of a chunk has chunk x numbers x numbers cells.
    chunk = max(50, min(_CHUNK_EVENTS, _CHUNK_EVENTS * FEATURES**2 // shape.numbers**2))
    out: list[tuple[int, bytes]] = []
    for start in range(0, count, chunk):
        size = min(chunk, count - start)
        models = rng.integers(0, shape.models, size)
        rows = np.einsum("nf,nfg->ng", rng.normal(size=(size, shape.numbers)), mixing[models]) * 10 + 50
        odd = rng.random(size) < 0.002
        rows[odd, rng.integers(0, shape.numbers, odd.sum())] *= 3
        out += _encoded(start, models, rows, _features(rows, shape, other))
    return out


def _features(rows: F64, shape: Shape, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return the features of each row."""
    names = [f"feature_{place}" for place in range(shape.numbers + shape.categories)]
    cells: list[list[Any]] = rows.round(4).tolist()
    if shape.categories:
        places = np.minimum(rng.geometric(0.45, (len(rows), shape.categories)), len(_CATEGORIES)) - 1
        for cell, own in zip(cells, places.tolist(), strict=True):
            cell += [_CATEGORIES[place] for place in own]
    features = [dict(zip(names, cell, strict=True)) for cell in cells]
    if shape.missing:
        draws = rng.random((len(rows), len(names)))
        for row, column in np.argwhere(draws < shape.missing).tolist():
            if draws[row, column] < shape.missing / 2:
                features[row][names[column]] = None
            else:
                del features[row][names[column]]
    return features


def _encoded(start: int, models: I64, rows: F64, features: list[dict[str, Any]]) -> list[tuple[int, bytes]]:
    """Return partition and value of events that follow each other, the first one with the number `start`."""
    predictions = 1 / (1 + np.exp(-rows[:, 0] / 100))
    out = []
    for number, (model, prediction, own) in enumerate(zip(models.tolist(), predictions, features, strict=True), start):
        event = {
            "event_id": f"e{number}",
            "model_id": f"model-{model}",
            "model_version": "1",
            "timestamp": START_MS + number * 1000 // EVENTS_PER_SECOND,
            "features": own,
            "prediction": round(float(prediction), 6),
        }
        out.append((model % PARTITIONS, orjson.dumps(event)))
    return out


def create_topics(bootstrap: str, names: list[str]) -> None:
    """Create topics with PARTITIONS partitions each."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    compacted = {"cleanup.policy": "compact"}
    topics = [
        NewTopic(name, PARTITIONS, 1, config=compacted if name.endswith(("state", "incidents")) else {})
        for name in names
    ]
    for future in admin.create_topics(topics).values():
        future.result(30)


def publish(bootstrap: str, topic: str, events: list[tuple[int, bytes]]) -> None:
    """Write the events to their partitions."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 20, "compression.type": "lz4"})
    write(producer, topic, events)
    if producer.flush(120):
        raise RuntimeError("the broker did not take all events")


def write(producer: Producer, topic: str, events: Iterable[tuple[int, bytes]]) -> None:
    """Hand the events to a producer."""
    for partition, value in events:
        while True:
            try:
                producer.produce(topic, value, partition=partition)
                break
            except BufferError:
                producer.poll(0.05)
