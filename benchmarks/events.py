"""The fixed set of generated events that every contestant reads."""

import numpy as np
import orjson
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # not in its stub's __all__

PARTITIONS = 4
MODELS = 8
FEATURES = 10
START_MS = 1_767_225_600_000
EVENTS_PER_SECOND = 2000
"""Event time moves on as if this many events came in a second: with 60 s panes, 15,000 events a pane and model."""


def generate(count: int, seed: int = 7) -> list[tuple[int, bytes]]:
    """Return partition and value of each event: correlated numeric features, 0.2 % of the rows anomalous."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(MODELS, FEATURES, FEATURES)) / np.sqrt(FEATURES)
    names = [f"feature_{place}" for place in range(FEATURES)]
    out = []
    for start in range(0, count, 10_000):
        size = min(10_000, count - start)
        models = rng.integers(0, MODELS, size)
        rows = np.einsum("nf,nfg->ng", rng.normal(size=(size, FEATURES)), mixing[models]) * 10 + 50
        odd = rng.random(size) < 0.002
        rows[odd, rng.integers(0, FEATURES, odd.sum())] *= 3
        predictions = 1 / (1 + np.exp(-rows[:, 0] / 100))
        for place, (model, row, prediction) in enumerate(zip(models, rows.round(4), predictions, strict=True)):
            number = start + place
            event = {
                "event_id": f"e{number}",
                "model_id": f"model-{model}",
                "model_version": "1",
                "timestamp": START_MS + number * 1000 // EVENTS_PER_SECOND,
                "features": dict(zip(names, row.tolist(), strict=True)),
                "prediction": round(float(prediction), 6),
            }
            out.append((int(model) % PARTITIONS, orjson.dumps(event)))
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
    for partition, value in events:
        while True:
            try:
                producer.produce(topic, value, partition=partition)
                break
            except BufferError:
                producer.poll(0.05)
    if producer.flush(120):
        raise RuntimeError("the broker did not take all events")
