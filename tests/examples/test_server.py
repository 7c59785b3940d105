"""The example server without Kafka: it publishes what it says, and takes only advice that is sound and about it."""

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import urllib3
import uvicorn

from examples.server.app import create_app
from examples.server.champion import MODEL_ID, Features, OnnxModel, Recalibration, TrainedModel, rows_of
from examples.server.maintenance import Maintenance
from examples.server.parcels import CLASSES, SCHEMA, parcels
from worker.core.codec import encode
from worker.core.events import (
    ArtefactReport,
    ChallengerReport,
    InputFeature,
    LabelEvent,
    MaintenanceEvent,
    Manifest,
    MetricValue,
    PredictionEvent,
    RecalibrationReport,
    RollbackReport,
)
from worker.core.maintenance.boosted_fit import fit_challenger
from worker.core.maintenance.challengers import BoostedRequest, LabelledRows
from worker.core.maintenance.manifest import checksum, model_path
from worker.core.maintenance.onnx_models import onnx_model
from worker.core.maintenance.recalibration_figures import Published, applied
from worker.core.options.maintenance import BoostedOptions
from worker.edges.artefacts import ArtefactStore

_SNOW: Features = {"distance_km": 5.0, "stops": 20.0, "weekend": True, "weather": "snow"}


@pytest.fixture(scope="module")
def trained() -> TrainedModel:
    """Return the server's own model."""
    return TrainedModel()


@pytest.fixture(scope="module")
def challenger() -> tuple[bytes, Manifest]:
    """Return a model that has seen winter, as the worker would publish it."""
    asked, truth = parcels(2_000, seed=2, winter=True)
    rows = rows_of(asked, SCHEMA)
    targets = np.array([float(CLASSES.index(label)) for label in truth])
    model = fit_challenger(BoostedRequest(LabelledRows(rows, targets, 2), BoostedOptions(iterations=30), 1))
    written = onnx_model(model, [each["name"] for each in SCHEMA], CLASSES)
    manifest = Manifest(
        model_id=MODEL_ID,
        replaces_version="1",
        version="1.boosted-17",
        candidate="boosted_recent",
        task="classification",
        features=[msgspec.convert(each, InputFeature) for each in SCHEMA],
        classes=list(CLASSES),
        trained_on=[],
        metrics=[],
        seed=1,
        decided_ms=0,
        sha256=checksum(written),
        bytes=len(written),
        libraries={},
    )
    return written, manifest


class _Client:
    """Who asks the server, through a socket."""

    def __init__(self, port: int) -> None:
        self._pool = urllib3.HTTPConnectionPool("127.0.0.1", port, timeout=10.0, retries=False)

    def post(self, path: str, question: object) -> urllib3.BaseHTTPResponse:
        return self._pool.request("POST", path, json=question)

    def ask(self, features: Mapping[str, object] = _SNOW) -> dict[str, Any]:
        """Ask about one parcel; return its answer, and who gave it."""
        response = self.post("/predict", {"parcels": [{"features": features}]})
        assert response.status == 200
        said: dict[str, Any] = response.json()
        answer: dict[str, Any] = said.pop("answers")[0]
        return answer | said

    def health(self) -> dict[str, Any]:
        told: dict[str, Any] = self._pool.request("GET", "/health").json()
        return told


@dataclass
class _Server:
    """The server on a Kafka that is a list and a call."""

    maintenance: Maintenance
    lost: int = 0
    running: bool = False
    sent: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    def send(self, topic: str, key: str, event: Mapping[str, Any]) -> None:
        self.sent.append((topic, key, dict(event)))

    def start(self) -> None:
        self.running = True

    def close(self) -> None:
        self.running = False

    def told(self, event: MaintenanceEvent) -> bool:
        """Tell it of an event as the worker writes it."""
        return self.maintenance.handle(json.loads(encode(event)), 0, 41)


def _event(kind: Any, version: str = "1", **more: Any) -> MaintenanceEvent:  # noqa: ANN401 - any field of the struct
    rest: dict[str, Any] = {"maintenance_id": "m", "model_id": MODEL_ID, "shard": 3, "offset": 9, "events": None} | more
    return MaintenanceEvent(kind=kind, model_version=version, **rest)


def _recalibration(method: Any, version: str = "1", **more: Any) -> MaintenanceEvent:  # noqa: ANN401 - as above
    fields: dict[str, Any] = {
        "coefficients": {},
        "p_min": 1e-5,
        "classes": list(CLASSES),
        "segment": None,
        "segment_values": {},
        "windows": [500],
        "first_offset": 0,
        "last_offset": 499,
        "metrics": [],
    }
    return _event("recalibration_ready", version, recalibration=RecalibrationReport(method=method, **(fields | more)))


def _temperature(version: str = "1") -> MaintenanceEvent:
    return _recalibration("temperature", version, coefficients={"b": [0.5]})


def _challenger(
    artefact: ArtefactReport | None, kind: str = "challenger_ready", version: str = "1", candidate: str = "recent"
) -> MaintenanceEvent:
    report = ChallengerReport(candidate=candidate, loss="brier", losses=[], labels=3_000, artefact=artefact)
    return _event(kind, version, challenger=report)


def _rollback(version: str, former: str | None) -> MaintenanceEvent:
    regression = MetricValue(0.1, 0.05, 0.15, 900.0)
    report = RollbackReport(former_version=former, against="record", regression=regression, labels=900)
    return _event("rollback_advised", version, rollback=report)


@pytest.fixture
def server(trained: TrainedModel, tmp_path: Path) -> _Server:
    """Return a server that takes models from a folder of its own."""
    return _Server(Maintenance(trained, str(tmp_path), tmp_path / "memory.json"))


@pytest.fixture
def follower(trained: TrainedModel, tmp_path: Path) -> _Server:
    """Return a server that also follows what is advised, on the same folder."""
    return _Server(Maintenance(trained, tmp_path.as_uri(), tmp_path / "memory.json", follow="advised"))


@contextmanager
def _running(server: _Server) -> Iterator[_Client]:
    app = create_app(server.maintenance, server, server)
    running = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=running.run, args=([listening],))
        thread.start()
        try:
            yield _Client(listening.getsockname()[1])
            assert server.running
        finally:
            running.should_exit = True
            thread.join()
    assert not server.running


@pytest.fixture
def client(server: _Server) -> Iterator[_Client]:
    """Return a client of the running server."""
    with _running(server) as client:
        yield client


@pytest.fixture
def artefact(tmp_path: Path, challenger: tuple[bytes, Manifest]) -> ArtefactReport:
    """Return the challenger, stored, as its event tells of it."""
    model, manifest = challenger
    return ArtefactReport(ArtefactStore(str(tmp_path)).put(model, manifest).path, manifest)


def test_what_it_says_is_what_the_worker_reads(server: _Server, client: _Client) -> None:
    """Predictions and labels are events that the worker decodes, under one key, with the version that answered."""
    answer = client.ask()
    assert client.post("/labels", {"labels": [{"event_id": answer["event_id"], "label": "late"}]}).status == 202
    (predictions, key, said), (labels, label_key, truth) = server.sent
    assert (predictions, labels, key, label_key) == ("predictions", "labels", MODEL_ID, MODEL_ID)
    event = msgspec.json.decode(msgspec.json.encode(said), type=PredictionEvent)
    assert event.model_version == answer["model_version"] == "1"
    assert event.prediction == answer["prediction"]
    assert event.features == _SNOW
    label = msgspec.json.decode(msgspec.json.encode(truth), type=LabelEvent)
    assert label.event_id == event.event_id == answer["event_id"]


def test_questions_that_make_no_sense(server: _Server, client: _Client) -> None:
    """Features may be absent or of another kind; what is no question is refused and not published."""
    odd = {"distance_km": "far", "stops": None, "weekend": 3, "weather": "hail", "colour": "red"}
    assert sum(client.ask(odd)["probabilities"].values()) == pytest.approx(1.0)
    sent = len(server.sent)
    assert client.post("/predict", {"parcels": [{"features": [1]}]}).status == 422
    assert client.post("/predict", {"parcels": [{"features": {"stops": {}}}]}).status == 422
    assert client.post("/predict", {"parcels": []}).status == 422
    assert client.post("/predict", {"parcels": [{"features": {}}] * 1_001}).status == 422
    assert len(server.sent) == sent


def test_it_takes_a_recalibration(server: _Server, client: _Client) -> None:
    """After `recalibration_ready` answers are put right, while the model's own outputs go on being published."""
    own = client.ask()
    assert server.told(_recalibration("platt", coefficients={"a": [-3.0], "b": [0.5]}))
    answer = client.ask()
    p = 1.0 / (1.0 + np.exp(3.0) * (own["probabilities"]["late"] / own["probabilities"]["on_time"]) ** 0.5)
    assert answer["probabilities"] == pytest.approx({"late": 1.0 - p, "on_time": p})
    assert (own["prediction"], answer["prediction"], answer["candidate"]) == ("on_time", "late", "recalibrated")
    assert server.sent[-1][2]["probabilities"] == own["probabilities"]
    assert server.sent[-1][2]["prediction"] == "on_time"
    assert client.health()["recalibration"] == "platt"
    assert server.told(_recalibration("identity", p_min=None))
    assert client.ask()["probabilities"] == own["probabilities"]


def test_it_is_never_surer_than_the_event_says(server: _Server, client: _Client) -> None:
    """Probabilities near 0 and 1 count as `p_min` before a logarithm is taken."""
    own = client.ask()["probabilities"]["on_time"]
    assert server.told(_recalibration("platt", p_min=0.4, coefficients={"a": [0.0], "b": [1.0]}))
    assert own > 0.6
    assert client.ask()["probabilities"]["on_time"] == pytest.approx(0.6)


def test_it_takes_the_probability_that_was_recalibrated(server: _Server, client: _Client) -> None:
    """Coefficients are for the last class of the event, in whatever order the server has them."""
    own = client.ask()["probabilities"]
    flipped = [CLASSES[1], CLASSES[0]]
    assert server.told(_recalibration("isotonic", classes=flipped, coefficients={"x": [0.0, 1.0], "y": [0.9, 1.0]}))
    late = 0.9 + 0.1 * own["late"]
    assert client.ask()["probabilities"] == pytest.approx({"late": late, "on_time": 1.0 - late})


def test_it_swaps_and_rolls_back(server: _Server, client: _Client, artefact: ArtefactReport) -> None:
    """A challenger is taken and reported as the new version; advice about the old one is late; the way back works."""
    before = client.ask()
    assert server.told(_temperature())
    assert server.told(_challenger(artefact))
    after = client.ask()
    assert (before["model_version"], after["model_version"]) == ("1", "1.boosted-17")
    assert (before["prediction"], after["prediction"]) == ("on_time", "late")
    assert after["candidate"] == "champion"
    assert server.sent[-1][2]["model_version"] == "1.boosted-17"
    assert server.sent[-1][2]["prediction"] == "late"
    assert not server.told(_temperature("1"))
    assert not server.told(_rollback("1", None))
    assert not server.told(_rollback("1.boosted-17", "0"))
    assert server.told(_rollback("1.boosted-17", "1"))
    back = client.ask()
    # The worker begins anew with the old version, so what it once advised about it does not count any more.
    assert back | {"event_id": ""} == before | {"event_id": ""}


def test_it_follows_advice_only_if_asked_to(server: _Server, client: _Client, artefact: ArtefactReport) -> None:
    """By default nobody answers in the model's place before it is proven."""
    assert not server.told(_challenger(artefact, "advice_changed"))
    assert client.ask()["candidate"] == "champion"
    assert client.health()["problem"] is None


def test_the_advised_answers_and_the_deployed_is_published(follower: _Server, artefact: ArtefactReport) -> None:
    """On advice another candidate answers, but what is published stays the deployed model's, until there is a swap."""
    with _running(follower) as client:
        own = client.ask()
        assert follower.told(_temperature())
        assert client.ask()["candidate"] == "recalibrated"
        assert follower.told(_challenger(artefact, "advice_changed"))
        advised = client.ask()
        assert (advised["candidate"], advised["prediction"], advised["model_version"]) == ("recent", "late", "1")
        published = follower.sent[-1][2]
        assert (published["model_version"], published["prediction"]) == ("1", "on_time")
        assert published["probabilities"] == own["probabilities"]
        assert follower.told(_challenger(None, "advice_changed", candidate="recalibrated"))
        assert client.ask()["candidate"] == "recalibrated"
        assert follower.told(_challenger(None, "advice_changed", candidate="champion"))
        assert client.ask() | {"event_id": ""} == own | {"event_id": ""}
        assert follower.told(_challenger(None, "advice_changed", candidate="online"))
        assert client.health()["candidate"] == "champion"
        assert follower.told(_challenger(artefact))
        swapped = client.ask()
        assert (swapped["candidate"], swapped["model_version"]) == ("champion", "1.boosted-17")
        assert swapped["probabilities"] == advised["probabilities"]


def test_the_challenger_is_better_in_winter(trained: TrainedModel, challenger: tuple[bytes, Manifest]) -> None:
    """The example shows something: the first model fails in winter, the one that has seen winter does not."""
    taken = OnnxModel(challenger[0], msgspec.to_builtins(challenger[1]))
    asked, truth = parcels(150, seed=3, winter=True)
    right = [
        sum(max(chances, key=chances.__getitem__) == label for chances, label in zip(said, truth, strict=True))
        for said in (trained.chances(asked), taken.chances(asked))
    ]
    assert right[1] > right[0] + 20


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"manifest": {"sha256": "0" * 64}}, "checksum"),
        ({"path": "../secret.onnx"}, "no path"),
        ({"path": "/etc/hostname"}, "no path"),
        ({"path": model_path("nothing", "0" * 64)}, "cannot be read"),
        ({"manifest": {"model_id": "other"}}, "is of other"),
        ({"manifest": {"classes": ["red"]}}, "classes"),
        ({"manifest": {"version": "1"}}, "calls itself"),
        ({"manifest": {"features": []}}, "does not run"),
    ],
)
def test_bad_challengers_are_not_taken(
    server: _Server, client: _Client, artefact: ArtefactReport, change: dict[str, Any], problem: str
) -> None:
    """A model that is not what its event says, or not where models may come from, leaves the old one in service."""
    event = json.loads(encode(_challenger(artefact)))
    told = event["challenger"]["artefact"]
    event["challenger"]["artefact"] = told | change | {"manifest": told["manifest"] | change.get("manifest", {})}
    assert not server.maintenance.handle(event, 0, 41)
    health = client.health()
    assert health["model_version"] == client.ask()["model_version"] == "1"
    assert problem in health["problem"]
    assert server.told(_challenger(artefact))
    assert client.health()["problem"] is None


def test_a_model_must_do_what_its_manifest_tells(challenger: tuple[bytes, Manifest]) -> None:
    """A model that gives two probabilities is not taken for one of a single class."""
    model, manifest = challenger
    with pytest.raises(ValueError, match=r"gives \["):
        OnnxModel(model, msgspec.to_builtins(manifest) | {"classes": ["late"]})


def test_other_advice_is_not_taken(server: _Server) -> None:
    """Unknown methods, coefficients that give no probabilities, other models' and other kinds of events do nothing."""
    assert not server.told(_recalibration("vector", coefficients={"w": [1.0, 1.0], "b": [0.0, 0.0]}))
    assert not server.told(_recalibration("platt", coefficients={"a": [1.0]}))
    assert not server.told(_recalibration("isotonic", coefficients={"x": [0.0, 1.0], "y": [0.0, 7.0]}))
    assert not server.told(_recalibration("temperature", coefficients={"b": [1.0]}, classes=["red", "blue"]))
    assert not server.told(msgspec.structs.replace(_temperature(), model_id="other"))
    assert not server.told(_event("recalibration_ready"))
    assert not server.told(_event("detector_refitted"))
    assert not server.told(_rollback("1", None))
    assert server.maintenance.now.candidate == "champion"


def test_a_restart_changes_nothing(
    follower: _Server, trained: TrainedModel, artefact: ArtefactReport, tmp_path: Path
) -> None:
    """A server that starts again serves what it served, can still go back, and reads on behind what it has taken."""
    version = artefact.manifest.version
    for event in (
        _challenger(artefact),
        _temperature(version),
        _challenger(artefact, "advice_changed", version),
        _challenger(None, "advice_changed", version, "recalibrated"),
    ):
        assert follower.told(event)
        again = Maintenance(trained, str(tmp_path), tmp_path / "memory.json")
        assert again.positions == {0: 42}
        assert (again.now.version, again.now.candidate) == (version, follower.maintenance.now.candidate)
        assert again.now.answers([_SNOW]) == follower.maintenance.now.answers([_SNOW])
    assert _Server(again).told(_rollback(version, "1"))
    assert again.now.version == "1"


@pytest.mark.parametrize(("kind", "candidate"), [("challenger_ready", "champion"), ("advice_changed", "recalibrated")])
def test_a_restart_without_the_model(
    follower: _Server, trained: TrainedModel, artefact: ArtefactReport, tmp_path: Path, kind: str, candidate: str
) -> None:
    """If a model is gone at a restart, what is left of the server's own answers, and a problem is told."""
    assert follower.told(_temperature())
    assert follower.told(_challenger(artefact, kind))
    for model in tmp_path.rglob("*.onnx"):
        model.unlink()
    again = Maintenance(trained, str(tmp_path), tmp_path / "memory.json")
    assert (again.now.version, again.now.candidate) == ("1", candidate)
    assert "before the restart" in (again.problem or "")


@pytest.mark.parametrize(
    ("method", "coefficients"),
    [
        ("identity", {}),
        ("platt", {"a": [0.3], "b": [1.7]}),
        ("temperature", {"b": [0.4]}),
        ("beta", {"a": [0.1], "b": [0.8], "c": [1.3]}),
        ("isotonic", {"x": [0.2, 0.6], "y": [0.1, 0.9]}),
    ],
)
def test_recalibrations_as_the_worker_means_them(method: str, coefficients: dict[str, list[float]]) -> None:
    """The few lines of a server give what the worker's own form of published coefficients gives."""
    published = Published(
        method=method, windows=(), coefficients=coefficients, p_min=1e-4, first_offset=None, last_offset=None
    )
    for p in (0.0, 1e-9, 0.1, 0.2, 0.37, 0.6, 0.99, 1.0):
        expected = p if method == "identity" else applied(published, np.array([p]))[0]
        assert Recalibration(method, coefficients, 1e-4).probability(p) == pytest.approx(expected, abs=1e-12)
