"""A worker with something to show: labels, drift, unusual events and bad records, scraped by a real Prometheus."""

import json
import random
import re
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.e2e.harness import Deployment
from tests.integrations.servers import Alertmanager, Prometheus, alertmanager, prometheus, until
from worker.edges.broker.ports import ReservedPorts

DEPLOY = Path(__file__).resolve().parent.parent.parent / "deploy"
EVENTS = 6_000
EVENT_MS = 10
DRIFTS_FROM = 4_800
SLICES = 5
FOREST_AT = 600
OPTIONS = (
    "engine.drift.reference_events=400",
    "engine.drift.block_events=100",
    f"engine.forest.refit_events_first={FOREST_AT}",
    "engine.calibration.verdict_events_min=100",
    "engine.incident.quiet_ms=600000",
    "engine.performance.windows_ms=[60000]",
    "worker.snapshot_interval_ms=1000",
    "ops.listen=127.0.0.1",
)
QUICK_RULES = {r"\bfor: \d+[mh]$": "for: 2s"}
QUICK_SCRAPES = {"scrape_interval: 15s": "scrape_interval: 1s", "evaluation_interval: 15s": "evaluation_interval: 1s"}
QUICK_GROUPS = {"group_wait: 15s": "group_wait: 1s", "group_interval: 1m": "group_interval: 1s"}
MODELS = ("fraud", "price")
"""A classifier in two partitions, whose answers are probabilities; a regression model in one."""


class Watched(NamedTuple):
    """What runs."""

    deployment: Deployment
    worker: subprocess.Popen[bytes]
    ops_url: str
    prometheus: Prometheus
    alertmanager: Alertmanager


@contextmanager
def watched(servers: str, folder: Path, processes: int) -> Iterator[Watched]:
    """Run it all, and feed the worker until Prometheus has seen everything that there is to see."""
    deployment = Deployment(servers, f"watched-{uuid.uuid4().hex[:8]}-")
    deployment.create_topics()
    with ExitStack() as stack:
        (port,) = (reserved := ReservedPorts(1)).numbers
        own = (f"ops.port={port}", f"artefacts.url={folder / 'artefacts'}")
        options = [word for option in (*OPTIONS, *own) for word in ("--set", option)]
        worker = stack.enter_context(deployment.worker("--processes", str(processes), *options))
        manager = stack.enter_context(alertmanager(_alertmanager_config(folder), folder))
        seen = stack.enter_context(prometheus(_prometheus_config(folder, port, manager.url), folder))
        until(lambda: seen.values("modelvigil_ready") == [1.0] * processes, "the worker does not become ready")
        _feed(deployment)
        until(lambda: sum(seen.values("modelvigil_model_events_total")) == EVENTS, "events are missing in the panes")
        until(lambda: len(seen.now("modelvigil_model_drift_psi > 0.2")) > 0, "no drift is seen")
        until(lambda: len(seen.now('modelvigil_incidents_open{severity="critical"}')) > 0, "no incident is seen")
        yield Watched(deployment, worker, f"http://127.0.0.1:{port}", seen, manager)
        del reserved


def _feed(deployment: Deployment) -> None:
    """Publish predictions and labels as they come, a slice of both at a time."""
    begin_ms = int(time.time() * 1000) - EVENTS * EVENT_MS
    rng = random.Random(7)
    pairs = [_pair(rng, number, begin_ms) for number in range(EVENTS)]
    size = EVENTS // SLICES
    for first in range(0, EVENTS, size):
        part = pairs[first : first + size]
        bad = [(number % 4, b"not json") for number in range(size // 25)]
        deployment.publish([*((shard, event) for shard, event, _ in part), *bad])
        deployment.publish([(shard, label) for shard, _, label in part if label is not None], "labels")
        time.sleep(1.2)


def _pair(rng: random.Random, number: int, begin_ms: int) -> tuple[int, bytes, bytes | None]:
    """Return a prediction and its label, with their partition."""
    stamp, drifts = begin_ms + number * EVENT_MS, number >= DRIFTS_FROM
    amount = rng.gauss(60 if drifts else 50, 5)
    features: dict[str, Any] = {"amount": amount, "age": rng.randrange(20, 70), "region": rng.choice("nsew")}
    if number > EVENTS - 200 and number % 10 == 0:
        features["amount"] = 5_000.0
    if number % 50 == 0:
        features["age"] = None
    model = MODELS[number % 3 == 0]
    event = {"event_id": f"e{number}", "model_id": model, "timestamp": stamp, "features": features}
    if model == "price":
        shard, truth = 2, 3 * amount
        event["prediction"] = truth + rng.gauss(0, 30 if drifts else 3)
    else:
        shard, truth = number % 2, rng.random() < 0.3
        right = rng.random() < (0.6 if drifts else 0.95)
        event["prediction"] = 0.9 if truth is right else 0.1
    label = {"event_id": f"e{number}", "model_id": model, "timestamp": stamp + 500, "label": truth}
    return shard, json.dumps(event).encode(), None if number % 10 == 9 else json.dumps(label).encode()


def _prometheus_config(folder: Path, port: int, manager_url: str) -> Path:
    """Return the example's configuration, with addresses of this machine and rules that do not wait."""
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    text = _replaced(text, {**QUICK_SCRAPES, "alertmanager:9093": manager_url.removeprefix("http://")})
    found_by_name = re.compile(r"    dns_sd_configs:\n(?:      .*\n)+")
    assert found_by_name.search(text)
    text = found_by_name.sub(f"    static_configs:\n      - targets: [127.0.0.1:{port}]\n", text)
    (folder / "rules").mkdir()
    for path in (DEPLOY / "prometheus" / "rules").glob("*.yml"):
        rules = path.read_text(encoding="utf-8")
        for pattern, quick in QUICK_RULES.items():
            rules = re.sub(pattern, quick, rules, flags=re.MULTILINE)
        (folder / "rules" / path.name).write_text(rules, encoding="utf-8")
    return _written(folder / "prometheus.yml", text)


def _alertmanager_config(folder: Path) -> Path:
    text = (DEPLOY / "alertmanager" / "alertmanager.yml").read_text(encoding="utf-8")
    return _written(folder / "alertmanager.yml", _replaced(text, QUICK_GROUPS))


def _replaced(text: str, parts: dict[str, str]) -> str:
    for part, other in parts.items():
        assert part in text, part
        text = text.replace(part, other)
    return text


def _written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path
