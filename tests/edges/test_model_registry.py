"""Registration in MLflow, against a scripted client: once for each model, under a name that MLflow takes."""

import sys
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace

import pytest

from worker.core.events import Manifest
from worker.core.maintenance.manifest import checksum
from worker.edges.model_registry import MlflowRegistry, RegistryError


class _MlflowException(Exception):  # noqa: N818 - MLflow's own name
    """Stands for MLflow's error."""


class _Client:
    """Stands for MlflowClient; what all instances know is the server."""

    versions: dict[str, list[SimpleNamespace]]
    answers: bool

    def __init__(self, tracking_uri: str, registry_uri: str) -> None:
        assert tracking_uri == registry_uri

    def search_registered_models(self, filter_string: str) -> Sequence[str]:
        if not self.answers:
            raise _MlflowException("503")
        return [name for name in self.versions if filter_string == f"name = '{name}'"]

    def create_registered_model(self, name: str) -> None:
        assert name not in self.versions
        self.versions[name] = []

    def search_model_versions(self, filter_string: str) -> Sequence[SimpleNamespace]:
        return self.versions[filter_string.split("'")[1]]

    def create_model_version(self, name: str, source: str, tags: dict[str, str]) -> SimpleNamespace:
        assert all(len(value) <= 5_000 for value in tags.values())
        self.versions[name].append(SimpleNamespace(version=len(self.versions[name]) + 1, source=source, tags=tags))
        return self.versions[name][-1]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> type[_Client]:
    """Return the client that `mlflow` will give."""
    fresh = type("Fresh", (_Client,), {"versions": {}, "answers": True})
    mlflow, exceptions = ModuleType("mlflow"), ModuleType("mlflow.exceptions")
    monkeypatch.setattr(mlflow, "MlflowClient", fresh, raising=False)
    monkeypatch.setattr(exceptions, "MlflowException", _MlflowException, raising=False)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "mlflow.exceptions", exceptions)
    return fresh


def _manifest(model: bytes) -> Manifest:
    return Manifest(
        model_id="fraud/eu:'x'",
        replaces_version=None,
        version="2",
        candidate="linear",
        task="regression",
        features=[],
        classes=["c" * 100] * 100,
        trained_on=[],
        metrics=[],
        seed=0,
        decided_ms=0,
        sha256=checksum(model),
        bytes=len(model),
        libraries={},
    )


def test_each_model_is_registered_once(client: type[_Client]) -> None:
    """The same model again, after a crash, is the version that it already is; another one is the next."""
    registry = MlflowRegistry("http://mlflow")
    assert [registry.register(_manifest(model), "s3://m/x") for model in (b"a", b"a", b"b", b"a")] == list("1121")
    assert list(client.versions) == ["fraud-eu--x-"]


def test_a_server_that_does_not_answer(client: type[_Client]) -> None:
    """What MLflow refuses is one sentence."""
    client.answers = False
    with pytest.raises(RegistryError, match=r"did not register fraud/eu.*503"):
        MlflowRegistry("http://mlflow").register(_manifest(b"a"), "s3://m/x")


def test_without_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the error tells what to install."""
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(RegistryError, match=r"modelvigil\[mlflow\]"):
        MlflowRegistry("http://mlflow")
