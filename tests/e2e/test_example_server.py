"""The loop is closed on a real Kafka: a model fails when winter comes, is put right, and gives way to a better one."""

import math
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import urllib3

from examples.server.champion import TrainedModel
from examples.server.traffic import Outcome, Traffic
from tests.e2e.harness import Deployment, parsed
from worker.core.events import MaintenanceEvent
from worker.edges.artefacts import ArtefactStore
from worker.edges.broker.ports import ReservedPorts

QUICK_MAINTENANCE = (
    "worker.maintenance_cpu_share_max=1.0",
    "engine.maintenance.begin_labels=100",
    'engine.maintenance.challengers=["recent"]',
    "engine.maintenance.recent_rows=1000",
    "engine.maintenance.sampled_rows=1000",
    "engine.maintenance.fit_rows_min=200",
    "engine.maintenance.refit_labels=200",
    "engine.maintenance.drift_refit_labels=200",
    "engine.maintenance.refit_interval_ms=100",
    "engine.maintenance.takeover_labels=50",
    "engine.maintenance.takeover_ms=100",
    "engine.maintenance.gate.labels_min=500",
    "engine.maintenance.gate.hold_labels=500",
)
"""So that a challenger learns winter, and is proven, within some thousand labels and some seconds."""
_AT_ONCE = 50
_PER_SECOND = 500
_SUMMER = 1_500
_WINTER_MAX = 12_000
_LABELS_LATE = 200
_START_S = 20.0


@pytest.fixture
def deployment(kafka: str, topic_prefix: str) -> Deployment:
    """Fresh topics and a fresh group."""
    made = Deployment(kafka, topic_prefix)
    made.create_topics()
    return made


@contextmanager
def server(deployment: Deployment, prefix: str, folder: Path) -> Iterator[Traffic]:
    """Run the example server as its README says; yield who asks it."""
    ports = ReservedPorts(1)
    options = {
        "port": ports.numbers[0],
        "kafka": deployment.servers,
        "topic-prefix": prefix,
        "maintenance-topic": deployment.topics["maintenance"],
        "models": folder / "models",
        "memory": folder / "memory.json",
    }
    command = [sys.executable, "-m", "examples.server", *(f"--{name}={value}" for name, value in options.items())]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            traffic = Traffic(f"http://127.0.0.1:{ports.numbers[0]}", _LABELS_LATE)
            _wait_for(traffic)
            yield traffic
        finally:
            process.terminate()


def _wait_for(traffic: Traffic) -> None:
    end = time.monotonic() + _START_S
    while True:
        try:
            traffic.health()
        except urllib3.exceptions.HTTPError:
            assert time.monotonic() < end
            time.sleep(0.1)
        else:
            return


def ask(traffic: Traffic, count: int, *, winter: bool, of_version: str | None = None) -> list[Outcome]:
    """Ask about so many parcels, or until another version answers."""
    outcomes: list[Outcome] = []
    while len(outcomes) < count and (not outcomes or of_version in {None, outcomes[-1].model_version}):
        outcomes += traffic.ask(_AT_ONCE, winter=winter)
        time.sleep(_AT_ONCE / _PER_SECOND)
    return outcomes


def right(outcomes: Sequence[Outcome]) -> float:
    """Return the share of right answers."""
    return sum(each.prediction == each.truth for each in outcomes) / len(outcomes)


def log_loss(chances: Sequence[Any], outcomes: Sequence[Outcome]) -> float:
    """Return the mean log loss of probabilities for these parcels."""
    return -sum(math.log(p[each.truth]) for p, each in zip(chances, outcomes, strict=True)) / len(outcomes)


def test_a_server_that_takes_advice_survives_the_winter(
    deployment: Deployment, topic_prefix: str, tmp_path: Path
) -> None:
    """Recalibrated answers are better than the model's own; the challenger that it swaps to is better than both."""
    sets = [*QUICK_MAINTENANCE, f"artefacts.url={tmp_path / 'models'}"]
    with (
        deployment.worker(*(word for each in sets for word in ("--set", each))) as worker,
        server(deployment, topic_prefix, tmp_path) as traffic,
    ):
        # The worker must be there before the rest: it would take a backlog in one go, and advise all at once.
        ask(traffic, _AT_ONCE, winter=False)
        deployment.wait_for(_AT_ONCE)
        summer = ask(traffic, _SUMMER, winter=False)
        winter = ask(traffic, _WINTER_MAX, winter=True, of_version="1")
        swapped = ask(traffic, 500, winter=True)
        traffic.finish()
        told = traffic.health()
        worker.terminate()
        assert worker.wait(20) == 0
    recalibrated = [each for each in winter if (each.model_version, each.candidate) == ("1", "recalibrated")]
    assert len(recalibrated) >= 200
    own = TrainedModel().chances([each.features for each in recalibrated])
    assert log_loss([each.probabilities for each in recalibrated], recalibrated) < 0.7 * log_loss(own, recalibrated)
    frozen = [each._replace(prediction=max(p, key=p.__getitem__)) for each, p in zip(recalibrated, own, strict=True)]
    assert right(frozen) + 0.03 < right(recalibrated) < right(swapped) - 0.05
    assert right(swapped) > right(summer) - 0.05

    version = winter[-1].model_version
    assert {each.model_version for each in summer} == {"1"} != {version} == {each.model_version for each in swapped}
    assert told["problem"] is None
    events = [
        msgspec.json.decode(each.value() or b"", type=MaintenanceEvent) for each in deployment.read("maintenance")
    ]
    ready = next(each for each in events if each.kind == "challenger_ready" and each.model_version == "1")
    assert ready.challenger is not None
    assert ready.challenger.artefact is not None
    stored = ArtefactStore(str(tmp_path / "models")).verify(ready.challenger.artefact.path)
    assert stored.libraries
    # It may have been advised before it was proven: the manifest of then stays, with the metrics of then.
    told_of = msgspec.structs.replace(ready.challenger.artefact.manifest, libraries=stored.libraries)
    assert msgspec.structs.replace(told_of, metrics=stored.metrics, decided_ms=stored.decided_ms) == stored
    assert stored.version == version
    assert version in {parsed(each)["model_version"] for each in deployment.read("predictions")}
    assert deployment.read("dead_letters") == []
