"""The plain loop: what a user writes from the libraries' tutorials, one event at a time."""

import json
import sys
from collections import deque

import numpy as np
from confluent_kafka import Consumer, Producer
from river import anomaly, preprocessing
from sklearn.ensemble import IsolationForest

REFIT_EVENTS = 5000
ROWS = 2000
COMMIT_EVENTS = 100


def main(bootstrap: str, topic: str, alerts: str, group: str) -> None:
    """Run until killed."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    producer = Producer({"bootstrap.servers": bootstrap})
    consumer.subscribe([topic])
    models: dict[str, object] = {}
    forests: dict[str, IsolationForest] = {}
    rows: dict[str, deque[list[float]]] = {}
    counts: dict[str, int] = {}
    seen = 0
    while True:
        message = consumer.poll(0.1)
        if message is None or message.error():
            continue
        event = json.loads(message.value() or b"")
        model_id, features = event["model_id"], event["features"]
        pipeline = models.setdefault(model_id, preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(seed=42))
        score = pipeline.score_one(features)  # type: ignore[attr-defined]  # River has no types
        pipeline.learn_one(features)  # type: ignore[attr-defined]  # River has no types
        row = list(features.values())
        buffer = rows.setdefault(model_id, deque(maxlen=ROWS))
        buffer.append(row)
        counts[model_id] = counts.get(model_id, 0) + 1
        forest_score = 0.0
        if model_id in forests:
            forest_score = -forests[model_id].score_samples(np.array([row]))[0]
        if counts[model_id] == 500 or counts[model_id] % REFIT_EVENTS == 0:
            forests[model_id] = IsolationForest(random_state=42).fit(np.array(buffer))
        if score > 0.95 and forest_score > 0.7:
            producer.produce(alerts, json.dumps({"event_id": event["event_id"], "score": score}))
        seen += 1
        if seen % COMMIT_EVENTS == 0:
            producer.poll(0)
            consumer.commit(asynchronous=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
