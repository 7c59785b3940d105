"""The models at work: asks them about rows at a steady rate and writes each answer to the `predictions` topic.

What was right becomes known `LABEL_DELAY_S` later, and goes to the `labels` topic.

The plan decides what event is due when, down to its timestamp; if the machine is slow, events leave late, but they
are the same events.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import orjson
from confluent_kafka import KafkaError, Message, Producer

from worker.demo import fault as injected
from worker.demo.fault import Fault, RecurringFault
from worker.demo.model import SEED, VERSION, Deployed
from worker.settings import TopicSettings

LABEL_DELAY_S = 2.0
_BATCH_EVENTS_MAX = 1_000
_FLUSH_S = 10.0


class _Label(NamedTuple):
    """What turned out to be right, and when (seconds of the plan) that is known."""

    due_s: float
    model_id: str
    event_id: str
    truth: str


class _Serving:
    """One model with its place in the plan."""

    def __init__(self, model: Deployed, place: int) -> None:
        self.model = model
        self.sent = 0
        self._random = np.random.default_rng([SEED, place])
        self._order: list[int] = []

    def next_rows(self, count: int) -> list[int]:
        """Return the next rows to serve: every row once, in random order, then again in another."""
        while len(self._order) < count:
            self._order += self._random.permutation(len(self.model.rows)).tolist()
        taken, self._order = self._order[:count], self._order[count:]
        return taken


class Stream:
    """Writes what is due. `rate` is events per second over all models; `started_ms` is when the plan begins."""

    def __init__(
        self,
        models: list[Deployed],
        rate: float,
        fault: Fault | RecurringFault,
        topics: TopicSettings,
        client: Mapping[str, str | int | float | bool],
        started_ms: int,
    ) -> None:
        self._servings = [_Serving(model, place) for place, model in enumerate(models)]
        self._rate = rate / len(models)
        self._fault = fault
        self._topics = topics
        self._labels: deque[_Label] = deque()
        self._started_ms = started_ms
        self._producer = Producer({**client, "enable.idempotence": True, "linger.ms": 20})
        self.written = 0
        self.lost: str | None = None
        self.right_in_fault = 0
        self.asked_in_fault = 0

    @property
    def sent(self) -> int:
        """How many events have been given to Kafka's client."""
        return sum(serving.sent for serving in self._servings)

    def advance(self, second: float) -> None:
        """Send every event that is due before this second of the plan."""
        for serving in self._servings:
            due = math.ceil(second * self._rate)
            while serving.sent < due:
                self._serve(serving, min(due - serving.sent, _BATCH_EVENTS_MAX))
        self._send_labels(second)
        self._producer.poll(0)

    def close(self) -> None:
        """Send the labels that are left, and wait until Kafka has everything."""
        self._send_labels(math.inf)
        self._producer.flush(_FLUSH_S)

    def _serve(self, serving: _Serving, count: int) -> None:
        """Ask the model about the next rows and send the answers."""
        model, places = serving.model, serving.next_rows(count)
        seconds = [(serving.sent + step) / self._rate for step in range(count)]
        rows = model.rows[places]
        if model.model_id == injected.MODEL_ID:
            faulty = np.array([self._fault.during(second) for second in seconds])
            rows[faulty] = injected.broken(model, rows[faulty])
        answers, chances = model.answer(rows)
        if model.model_id == injected.MODEL_ID:
            right = np.array([answer == model.truth[place] for answer, place in zip(answers, places, strict=True)])
            self.asked_in_fault += int(faulty.sum())
            self.right_in_fault += int((right & faulty).sum())
        for second, values, answer, chance, place in zip(seconds, rows.tolist(), answers, chances, places, strict=True):
            due_s, event_id = second + LABEL_DELAY_S, self._event_id(serving)
            self._labels.append(_Label(due_s, model.model_id, event_id, model.truth[place]))
            self._send(serving, second, dict(zip(model.features, values, strict=True)), answer, chance)

    def _send(
        self, serving: _Serving, second: float, features: dict[str, float], answer: str, chances: dict[str, float]
    ) -> None:
        model_id = serving.model.model_id
        event = {
            "event_id": self._event_id(serving),
            "model_id": model_id,
            "model_version": VERSION,
            "timestamp": self._moment(second),
            "features": features,
            "prediction": answer,
            "probabilities": chances,
        }
        self._produce(self._topics.predictions, model_id.encode(), orjson.dumps(event), self._delivered)
        serving.sent += 1

    def _event_id(self, serving: _Serving) -> str:
        """Name the next event: no other run of the same models gives it this name."""
        return f"{serving.model.model_id}-{self._started_ms}-{serving.sent:07}"

    def _send_labels(self, second: float) -> None:
        """Send the labels that are due before this second of the plan. Those of one model are in order."""
        kept: deque[_Label] = deque()
        for label in self._labels:
            if label.due_s >= second:
                kept.append(label)
                continue
            value = {
                "event_id": label.event_id,
                "model_id": label.model_id,
                "timestamp": self._moment(label.due_s),
                "label": label.truth,
            }
            self._produce(self._topics.labels, label.model_id.encode(), orjson.dumps(value), self._noted)
        self._labels = kept

    def _moment(self, second: float) -> str:
        moment = datetime.fromtimestamp(self._started_ms / 1000 + second, UTC)
        return moment.isoformat(timespec="milliseconds")

    def _produce(
        self, topic: str, key: bytes, value: bytes, delivered: Callable[[KafkaError | None, Message], None]
    ) -> None:
        while True:
            try:
                self._producer.produce(topic, value, key, on_delivery=delivered)
            except BufferError:
                self._producer.poll(0.1)
            else:
                return

    def _noted(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self.lost = error.str()

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is None:
            self.written += 1
        else:
            self.lost = error.str()
