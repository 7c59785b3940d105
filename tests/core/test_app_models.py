"""Where a worker keeps models: as configured, and nothing fails for it where nothing is configured."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.offering import artefact_of
from worker import app
from worker.core.events import Manifest
from worker.core.options import MaintenanceOptions
from worker.core.options.maintenance import ModelMaintenanceOptions
from worker.settings import ArtefactSettings, Settings


class _Log:
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, message: str) -> None:
        self.warnings.append(message)


def _opened(settings: Settings) -> tuple[Any, list[str]]:
    log = _Log()
    return app._artefact_store(settings, log), log.warnings  # type: ignore[arg-type]  # it warns, no more


def _settings(url: str, maintenance: MaintenanceOptions | None = None) -> Settings:
    engine = msgspec.structs.replace(Settings().engine, maintenance=maintenance or MaintenanceOptions())
    return Settings(engine=engine, artefacts=ArtefactSettings(url=url))


def test_the_usual_folder_is_made_with_the_first_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that never offers one leaves nothing behind."""
    monkeypatch.chdir(tmp_path)
    store, warnings = _opened(Settings())
    assert (list(tmp_path.iterdir()), warnings) == ([], [])
    model = artefact_of(b"model")
    store.put(model.content, msgspec.json.decode(model.manifest, type=Manifest))
    assert [path.name for path in tmp_path.iterdir()] == ["modelvigil-artefacts"]


def test_in_a_read_only_working_directory_models_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One warning that says what to do; monitoring goes on. Where a folder is named, a failure is one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.access", lambda _path, _mode: False)
    store, warnings = _opened(Settings())
    assert store is None
    assert len(warnings) == 1
    assert "set [artefacts] url" in warnings[0]
    assert _opened(_settings(str(tmp_path / "mine")))[0] is not None


@pytest.mark.parametrize(
    ("settings", "is_there"),
    [
        (_settings("memory://models"), True),
        (_settings(""), False),
        (_settings("memory://models", MaintenanceOptions(enabled=False)), False),
        (
            _settings(
                "memory://models",
                MaintenanceOptions(enabled=False, models=(ModelMaintenanceOptions("a*", enabled=True),)),
            ),
            True,
        ),
    ],
    ids=["configured", "not wanted", "no maintenance", "maintenance of one model"],
)
def test_a_store_is_opened_where_there_can_be_models(settings: Settings, is_there: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """And only there: it takes a tenth of a second."""
    assert (_opened(settings)[0] is not None) is is_there
