"""The server: `POST /predict` asks the model in service, `POST /labels` tells later what was true, `GET /health`."""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol
from uuid import uuid4

from fastapi import FastAPI
from pydantic import BaseModel, Field

from examples.server.champion import MODEL_ID
from examples.server.maintenance import Maintenance

_PARCELS_MAX = 1_000


class Events(Protocol):
    """Where predictions and labels go."""

    lost: int

    def send(self, topic: str, key: str, event: Mapping[str, Any]) -> None:
        """Publish one event."""

    def close(self) -> None:
        """Publish what is left."""


class Reader(Protocol):
    """Where maintenance events come from."""

    def start(self) -> None:
        """Begin."""

    def close(self) -> None:
        """End."""


class Parcel(BaseModel):
    """What is asked about."""

    features: dict[str, bool | float | str | None] = Field(max_length=1_000)
    event_id: str | None = Field(default=None, min_length=1, max_length=256)


class Question(BaseModel):
    """Some parcels; all are answered by the same model."""

    parcels: list[Parcel] = Field(min_length=1, max_length=_PARCELS_MAX)


class Answer(BaseModel):
    """What is said of a parcel."""

    event_id: str
    prediction: str
    probabilities: dict[str, float]


class Answers(BaseModel):
    """Answers in the order of the parcels, and who gave them."""

    model_version: str
    candidate: str
    answers: list[Answer]


class Truth(BaseModel):
    """What turned out to be true of a parcel."""

    event_id: str = Field(min_length=1, max_length=256)
    label: str


class Truths(BaseModel):
    """What is known by now."""

    labels: list[Truth] = Field(max_length=_PARCELS_MAX)


def create_app(maintenance: Maintenance, events: Events, reader: Reader, prefix: str = "") -> FastAPI:
    """Return the server; `prefix` stands before the names of the input topics."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        reader.start()
        yield
        reader.close()
        events.close()

    app = FastAPI(title="parcels", lifespan=lifespan)

    @app.post("/predict")
    def predict(question: Question) -> Answers:
        ids = [parcel.event_id or uuid4().hex for parcel in question.parcels]
        now = maintenance.now  # read once: a swap in between changes nothing for these answers
        said = now.answers([parcel.features for parcel in question.parcels])
        for event_id, parcel, own in zip(ids, question.parcels, said.own, strict=True):
            # What is published is the deployed model itself, whoever answers: it is what is watched and compared.
            event = {
                "event_id": event_id,
                "model_id": MODEL_ID,
                "model_version": now.version,
                "timestamp": time.time_ns() // 1_000_000,
                "features": parcel.features,
                "prediction": _likeliest(own),
                "probabilities": own,
            }
            events.send(f"{prefix}predictions", MODEL_ID, event)
        answers = [
            Answer(event_id=event_id, prediction=_likeliest(chances), probabilities=chances)
            for event_id, chances in zip(ids, said.answered, strict=True)
        ]
        return Answers(model_version=now.version, candidate=now.candidate, answers=answers)

    @app.post("/labels", status_code=202)
    def label(known: Truths) -> None:
        for truth in known.labels:
            event = {"event_id": truth.event_id, "model_id": MODEL_ID, "label": truth.label}
            events.send(f"{prefix}labels", MODEL_ID, {**event, "timestamp": time.time_ns() // 1_000_000})

    @app.get("/health")
    def health() -> dict[str, Any]:
        now = maintenance.now
        return {
            "model_version": now.version,
            "candidate": now.candidate,
            "recalibration": now.recalibration.method,
            "advice_taken": maintenance.taken,
            "problem": maintenance.problem,
            "events_lost": events.lost,
        }

    return app


def _likeliest(chances: Mapping[str, float]) -> str:
    return max(chances, key=lambda each: chances[each])
