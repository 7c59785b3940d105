"""The plain loop as a fair, skilled user writes it: in micro-batches, with fast parts where the libraries have them.

Fetch settings of the worker, a thousand messages at once, orjson, one commit per batch. River's half-space trees take
one event at a time, as that is all they offer; scikit-learn's isolation forest scores the rows of a batch and model in
one call; mean and variance are numpy's, merged from batch to batch. Fits are those of the plain loop.
"""

import sys
from collections import defaultdict, deque
from typing import Any, NamedTuple

import numpy as np
import orjson
from confluent_kafka import Consumer, Producer
from river import anomaly, preprocessing
from sklearn.ensemble import IsolationForest

from benchmarks.plain_loop import REFIT_EVENTS, ROWS
from worker.edges.kafka.source import FETCH_SETTINGS

BATCH = 1000
FIRST_FIT = 500


class Moments(NamedTuple):
    """How many, means and sums of squared deviations of each feature."""

    events: int
    mean: Any
    squares: Any

    def merged(self, rows: Any) -> "Moments":  # noqa: ANN401 - an array, or nothing yet
        """Return those with more rows in them (Chan et al. 1979)."""
        count, mean = len(rows), rows.mean(axis=0)
        squares = ((rows - mean) ** 2).sum(axis=0)
        if not self.events:
            return Moments(count, mean, squares)
        total, delta = self.events + count, mean - self.mean
        weight = self.events * count / total
        return Moments(total, self.mean + delta * count / total, self.squares + squares + delta**2 * weight)


class Watched:
    """All that is kept of one model."""

    def __init__(self) -> None:
        self.trees = preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(seed=42)
        self.forest: IsolationForest | None = None
        self.rows: deque[list[float]] = deque(maxlen=ROWS)
        self.moments = Moments(0, None, None)
        self.due = FIRST_FIT

    def scores(self, features: list[dict[str, float]]) -> list[tuple[float, float]]:
        """Score a batch and learn it; return both scores of each event."""
        trees = list(map(self._score_and_learn, features))
        rows = [list(each.values()) for each in features]
        matrix = np.array(rows)
        forest = np.zeros(len(rows)) if self.forest is None else -self.forest.score_samples(matrix)
        self.moments = self.moments.merged(matrix)
        self.rows.extend(rows)
        if self.moments.events >= self.due:
            self.forest = IsolationForest(random_state=42).fit(np.array(self.rows))
            self.due = (self.moments.events // REFIT_EVENTS + 1) * REFIT_EVENTS
        return list(zip(trees, forest.tolist(), strict=True))

    def _score_and_learn(self, features: dict[str, float]) -> float:
        score: float = self.trees.score_one(features)
        self.trees.learn_one(features)
        return score


def main(bootstrap: str, topic: str, alerts: str, group: str) -> None:
    """Run until killed."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            **FETCH_SETTINGS,
        }
    )
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5})
    consumer.subscribe([topic])
    models: defaultdict[str, Watched] = defaultdict(Watched)
    while True:
        messages = [message for message in consumer.consume(BATCH, 0.1) if message.error() is None]
        by_model: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for message in messages:
            event = orjson.loads(message.value() or b"")
            by_model[event["model_id"]].append(event)
        for model_id, events in by_model.items():
            scores = models[model_id].scores([event["features"] for event in events])
            for event, (trees, forest) in zip(events, scores, strict=True):
                if trees > 0.95 and forest > 0.7:
                    producer.produce(alerts, orjson.dumps({"event_id": event["event_id"], "score": trees}))
        if messages:
            producer.poll(0)
            consumer.commit(asynchronous=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
