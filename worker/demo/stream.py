"""The models at work: asks them about rows at a steady rate and writes each answer to the `predictions` topic.

The plan decides what event is due when, down to its timestamp; if the machine is slow, events leave late, but they
are the same events.
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np
import orjson
from confluent_kafka import KafkaError, Message, Producer

from worker.demo import fault as injected
from worker.demo.fault import Fault
from worker.demo.model import SEED, VERSION, Deployed

_BATCH_EVENTS_MAX = 1_000
_FLUSH_S = 10.0


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
        fault: Fault,
        topic: str,
        client: Mapping[str, str | int | float | bool],
        started_ms: int,
    ) -> None:
        self._servings = [_Serving(model, place) for place, model in enumerate(models)]
        self._rate = rate / len(models)
        self._fault = fault
        self._topic = topic
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
        self._producer.poll(0)

    def close(self) -> None:
        """Wait until Kafka has everything."""
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
        for second, values, answer, chance in zip(seconds, rows.tolist(), answers, chances, strict=True):
            self._send(serving, second, dict(zip(model.features, values, strict=True)), answer, chance)

    def _send(
        self, serving: _Serving, second: float, features: dict[str, float], answer: str, chances: dict[str, float]
    ) -> None:
        model_id = serving.model.model_id
        moment = datetime.fromtimestamp(self._started_ms / 1000 + second, UTC)
        event = {
            "event_id": f"{model_id}-{serving.sent:07}",
            "model_id": model_id,
            "model_version": VERSION,
            "timestamp": moment.isoformat(timespec="milliseconds"),
            "features": features,
            "prediction": answer,
            "probabilities": chances,
        }
        self._produce(model_id.encode(), orjson.dumps(event))
        serving.sent += 1

    def _produce(self, key: bytes, value: bytes) -> None:
        while True:
            try:
                self._producer.produce(self._topic, value, key, on_delivery=self._delivered)
            except BufferError:
                self._producer.poll(0.1)
            else:
                return

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is None:
            self.written += 1
        else:
            self.lost = error.str()
