"""A simulated model server and the real engine in a closed loop: what is advised changes what is served.

    server ── predictions, 100 at a time ──► engine ── maintenance events, artefacts ──► server
    what came true ── labels, some events late ─┘

Models come as a real server gets them: the ONNX bytes of the artefact, run by onnxruntime. Between two batches the
server reads what was told, so advice is followed at most 100 events late.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import onnxruntime
import orjson

from benchmarks.labelled_streams import Champion, LabelledStream
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.engine import Engine
from worker.core.events import (
    InputTopic,
    MaintenanceEvent,
    Manifest,
    Output,
    OutputTopic,
    RawBatch,
    RecalibrationReport,
)
from worker.core.events.topics import Artefact
from worker.core.kernels.arrays import F64
from worker.core.maintenance.recalibration_figures import Published, applied
from worker.core.options import EngineOptions
from worker.core.shard import Topics

BATCH_EVENTS = 100
START_MS = 1_767_225_600_000
EVENT_MS = 1_000
"""Slow enough that `refit_interval_ms` never binds, and fast enough that a pane has many events."""
MODEL_ID, FIRST_VERSION, CHAMPION, RECALIBRATED = "served", "1", "champion", "recalibrated"


FOLLOWED = frozenset({"recalibration_ready", "advice_changed", "challenger_ready", "rollback_advised"})


class _Kind(msgspec.Struct):
    """What kind an event on the topic `maintenance` is."""

    kind: str


class Model(NamedTuple):
    """Anything that answers for the served rows from one number to another: probabilities (n x classes), or n x 1."""

    classes: tuple[str, ...]
    outputs: Callable[[slice], F64]


class Served(NamedTuple):
    """What came of one run."""

    answers: Mapping[str, F64]
    """By strategy: the class code or number that was answered (n)."""
    told: Counter[str]
    """Maintenance events by kind."""
    followed: Mapping[str, list[tuple[int, str]]]
    """What was followed, by kind: the event's number and what it was."""
    seconds: float


class Server(Protocol):
    """Serves a stream, and follows what it is told."""

    version: str
    followed: dict[str, list[tuple[int, str]]]
    answers: dict[str, F64]

    def publish(self, rows: slice) -> Model:
        """Answer for the next rows, and return the model whose outputs are published."""

    def told(self, event: MaintenanceEvent, artefact: Artefact | None, number: int) -> None:
        """Follow what was told after so many events."""


class FollowingServer:
    """Publishes the champion's own outputs, and answers in three ways at once: none changes what is published."""

    def __init__(self, stream: LabelledStream, champion: Champion) -> None:
        self.version = FIRST_VERSION
        self._stream, self._champion = stream, Model(champion.classes, lambda rows: champion.outputs[rows])
        count = len(stream.rows) - stream.trained
        self.answers = {name: np.full(count, np.nan) for name in ("frozen", "recalibrated", "advised")}
        self.followed: dict[str, list[tuple[int, str]]] = {"recalibration": [], "advice": []}
        self._recalibration: RecalibrationReport | None = None
        self._candidate, self._advised = CHAMPION, self._champion

    def publish(self, rows: slice) -> Model:
        """Answer for the next rows, and return the champion."""
        classes, outputs = self._stream.classes, self._champion.outputs(rows)
        own = decided(outputs, self._champion.classes, classes)
        right = own if self._recalibration is None else self._put_right(outputs, self._recalibration)
        self.answers["frozen"][rows] = own
        self.answers["recalibrated"][rows] = right
        if self._candidate == RECALIBRATED:
            self.answers["advised"][rows] = right
        else:
            self.answers["advised"][rows] = decided(self._advised.outputs(rows), self._advised.classes, classes)
        return self._champion

    def told(self, event: MaintenanceEvent, artefact: Artefact | None, number: int) -> None:
        """Take a recalibration, or an advice."""
        if event.kind == "recalibration_ready" and event.recalibration is not None:
            self._recalibration = event.recalibration
            self.followed["recalibration"].append((number, event.recalibration.method))
        elif event.kind == "advice_changed" and event.challenger is not None:
            candidate = event.challenger.candidate
            if candidate != self._candidate:
                self.followed["advice"].append((number, candidate))
            self._candidate, self._advised = candidate, self._champion
            if artefact is not None:
                self._advised = loaded(artefact, self._stream)

    def _put_right(self, outputs: F64, report: RecalibrationReport) -> F64:
        """Return what is answered when outputs (n x K) are put right, as README says."""
        found = Published(
            method=report.method,
            windows=(),
            coefficients=report.coefficients,
            p_min=report.p_min,
            first_offset=None,
            last_offset=None,
        )
        if not report.classes:
            return np.array([applied(found, row)[0] for row in outputs])
        known = dict(zip(self._champion.classes, outputs.T, strict=True))
        absent = np.zeros(len(outputs))
        wide = np.column_stack([known.get(each, absent) for each in report.classes])
        if len(report.classes) == 2:
            positive = np.array([applied(found, row)[0] for row in wide[:, 1:]])
            right = np.column_stack([1.0 - positive, positive])
        else:
            right = np.array([applied(found, row) for row in wide])
        return decided(right, tuple(report.classes), self._stream.classes)


class SwappingServer:
    """Deploys each challenger that is proven as a version of its own, and goes back when that is advised."""

    def __init__(self, stream: LabelledStream, champion: Champion) -> None:
        self.version = FIRST_VERSION
        self._stream = stream
        self._versions = {FIRST_VERSION: Model(champion.classes, lambda rows: champion.outputs[rows])}
        self.answers = {"promoted": np.full(len(stream.rows) - stream.trained, np.nan)}
        self.followed: dict[str, list[tuple[int, str]]] = {"promotion": [], "rollback": [], "void": []}

    def publish(self, rows: slice) -> Model:
        """Answer for the next rows, and return the model in service."""
        model = self._versions[self.version]
        self.answers["promoted"][rows] = decided(model.outputs(rows), model.classes, self._stream.classes)
        return model

    def told(self, event: MaintenanceEvent, artefact: Artefact | None, number: int) -> None:
        """Take a challenger, or go back; what is about another version than the one in service is void."""
        if event.kind not in {"challenger_ready", "rollback_advised"}:
            return
        if event.model_version != self.version:
            self.followed["void"].append((number, f"{event.kind} {event.model_version}"))
        elif event.kind == "challenger_ready" and artefact is not None and event.challenger is not None:
            self.version = msgspec.json.decode(artefact.manifest, type=Manifest).version
            self._versions[self.version] = loaded(artefact, self._stream)
            self.followed["promotion"].append((number, event.challenger.candidate))
        elif event.rollback is not None and event.rollback.former_version in self._versions:
            self.version = event.rollback.former_version
            self.followed["rollback"].append((number, event.rollback.against))


def loaded(artefact: Artefact, stream: LabelledStream) -> Model:
    """Load a model as a server does: from ONNX bytes, with the columns that its manifest names."""
    manifest = msgspec.json.decode(artefact.manifest, type=Manifest)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(artefact.content, options, providers=["CPUExecutionProvider"])
    names = feature_names(stream)
    columns = [names.index(feature.name) for feature in manifest.features]
    output = "probabilities" if manifest.classes else "prediction"

    def outputs(rows: slice) -> F64:
        asked = stream.rows[stream.trained :][rows][:, columns]
        said: F64 = session.run([output], {"rows": np.ascontiguousarray(asked)})[0]
        return said

    return Model(tuple(manifest.classes), outputs)


def decided(outputs: F64, known: tuple[str, ...], classes: tuple[str, ...]) -> F64:
    """Return the code of the likeliest class in each row (of two equal ones the first), or the number."""
    if not known:
        return outputs[:, 0]
    codes = np.array([classes.index(each) for each in known], dtype=np.float64)
    likeliest: F64 = codes[outputs.argmax(axis=1)]
    return likeliest


def feature_names(stream: LabelledStream) -> list[str]:
    """Return the names under which features are published."""
    return [f"f{place}" for place in range(stream.rows.shape[1])]


def serve(stream: LabelledStream, server: Server, late: int, options: EngineOptions) -> Served:
    """Serve a stream to its end; labels come `late` events after their predictions."""
    engine = Engine(options, Topics(), InlineRefits())
    engine.add_shard(0)
    begun = time.perf_counter()
    kinds = Counter[str]()
    count = len(stream.rows) - stream.trained
    for begin in range(0, count, BATCH_EVENTS):
        end = min(begin + BATCH_EVENTS, count)
        out = engine.handle(_predictions(stream, server, slice(begin, end))).outputs
        if end > late:
            out += engine.handle(_labels(stream, slice(max(begin - late, 0), end - late), late)).outputs
        out += engine.tick(0, START_MS + end * EVENT_MS)
        _tell(server, out, end, kinds)
    return Served(server.answers, kinds, server.followed, time.perf_counter() - begun)


def _tell(server: Server, out: Sequence[Output], number: int, kinds: Counter[str]) -> None:
    """Let the server read what was told after so many events."""
    for each in out:
        assert each.topic is not OutputTopic.DEAD_LETTERS, each.value
        if each.topic is OutputTopic.MAINTENANCE and each.value is not None:
            kind = msgspec.json.decode(each.value, type=_Kind).kind
            kinds[kind] += 1
            if kind in FOLLOWED:
                server.told(msgspec.json.decode(each.value, type=MaintenanceEvent), each.artefact, number)


def _predictions(stream: LabelledStream, server: Server, rows: slice) -> RawBatch:
    version, model = server.version, server.publish(rows)
    names = feature_names(stream)
    values = []
    said, asked = model.outputs(rows), stream.rows[stream.trained :][rows]
    answers = decided(said, model.classes, model.classes).tolist()
    for place, (row, outputs) in enumerate(zip(asked.tolist(), said.tolist(), strict=True)):
        number = rows.start + place
        event: dict[str, Any] = {
            "event_id": str(number),
            "model_id": MODEL_ID,
            "model_version": version,
            "timestamp": START_MS + number * EVENT_MS,
            "features": {name: value for name, value in zip(names, row, strict=True) if value == value},  # noqa: PLR0124 - NaN: missing
            "prediction": model.classes[int(answers[place])] if model.classes else answers[place],
        }
        if model.classes:
            event["probabilities"] = {
                name: min(max(share, 0.0), 1.0) for name, share in zip(model.classes, outputs, strict=True)
            }
        values.append(orjson.dumps(event))
    return _batch(InputTopic.PREDICTIONS, values, rows.start, rows.start)


def _labels(stream: LabelledStream, rows: slice, late: int) -> RawBatch:
    truth = stream.targets[stream.trained :][rows].tolist()
    values = [
        orjson.dumps(
            {
                "event_id": str(number),
                "model_id": MODEL_ID,
                "timestamp": START_MS + (number + late) * EVENT_MS,
                "label": stream.classes[int(label)] if stream.classes else label,
            }
        )
        for number, label in enumerate(truth, rows.start)
    ]
    return _batch(InputTopic.LABELS, values, rows.start, rows.start + late)


def _batch(topic: InputTopic, values: list[bytes], first: int, first_event: int) -> RawBatch:
    """Return records from offset `first` on, the first of them written with event `first_event`."""
    nothing = [None] * len(values)
    times = [START_MS + (first_event + place) * EVENT_MS for place in range(len(values))]
    return RawBatch(0, range(first, first + len(values)), times, values, nothing, nothing, topic)
