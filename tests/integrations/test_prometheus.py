"""A real worker, a real Prometheus with our rules, a real Alertmanager: figures arrive, panels show, alerts fire."""

import json
import math
import re
import signal
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.integrations.debian import installed
from tests.integrations.servers import Prometheus, until
from tests.integrations.watched import EVENTS, MODELS, Watched, watched
from tests.test_dashboards import FILES, by_name, panels
from tests.test_prometheus_runbooks import ALERTS, BASE

pytestmark = [pytest.mark.timeout(400), pytest.mark.xdist_group("prometheus")]

NOT_OF_CLASSES = {"R²", "MSE (right axis)", "MAE (right axis)"}
NOT_OF_NUMBERS = {"accuracy", "F1", "F1, mean of classes"}
_GRAPH_SECONDS = 120


@pytest.fixture(scope="module", params=[1, 2], ids=["one-process", "two-processes"])
def scene(request: pytest.FixtureRequest, kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A worker that has had drift, unusual events and bad records, and what Prometheus has of it."""
    with watched(kafka, tmp_path_factory.mktemp("watched"), request.param) as found:
        yield found


def scraped(scene: Watched) -> str:
    """Return the page that Prometheus gets."""
    with urllib.request.urlopen(f"{scene.ops_url}/metrics", timeout=10) as answer:  # noqa: S310 - on this machine
        return str(answer.read().decode())


def replaced(expr: str, variables: Mapping[str, str]) -> str:
    """Return an expression as Grafana would send it."""
    for name, value in {"__rate_interval": "1m", **variables}.items():
        expr = re.sub(rf"\$(?:{name}\b|\{{{name}\}})", lambda _, value=value: value, expr)  # type: ignore[misc] # mypy does not see the default
    assert "$" not in expr, expr
    return expr


def shown(seen: Prometheus, target: Mapping[str, Any], variables: Mapping[str, str]) -> bool:
    """Tell whether a panel would show anything for a query: a value, not only NaN."""
    expr = replaced(target["expr"], variables)
    if target.get("instant"):
        found = [float(each["value"][1]) for each in seen.now(expr)]
    else:
        found = [float(value) for each in seen.lately(expr, _GRAPH_SECONDS) for _, value in each["values"]]
    return any(not math.isnan(value) for value in found)


def test_the_scrape_is_clean(scene: Watched) -> None:
    """`promtool check metrics` has nothing to say: names, units, types and help texts are by the conventions."""
    promtool = installed("prometheus").program("promtool")
    done = subprocess.run(
        [promtool, "check", "metrics"], check=False, input=scraped(scene), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_figures_arrive(scene: Watched) -> None:
    """Prometheus has what was sent: events, bad records by their reason, models, and labels of the classifier."""
    seen = scene.prometheus
    assert sum(seen.values("modelvigil_events_processed_total")) == EVENTS
    assert sum(seen.values('modelvigil_records_rejected_total{reason="not_json"}')) == EVENTS / 25
    assert sum(seen.values("modelvigil_model_events_total")) == EVENTS
    models = {each["metric"]["model"] for each in seen.now("model:modelvigil_model_label_coverage_ratio:mean")}
    assert models == set(MODELS)
    (accuracy,) = seen.values('model:modelvigil_model_accuracy_ratio:mean{model="fraud"}')
    assert 0.5 < accuracy < 1.0


def test_rules_are_healthy(scene: Watched) -> None:
    """Prometheus evaluates every rule without an error, and every recording rule gives something."""
    rules = scene.prometheus.rules()
    assert {rule["name"] for rule in rules} >= set(ALERTS)
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []
    for rule in rules:
        if rule["type"] == "recording":
            assert scene.prometheus.now(rule["name"]), rule["name"]


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_variables_have_values(scene: Watched, path: Path) -> None:
    """Every list to choose from has something to choose."""
    for variable in json.loads(path.read_text(encoding="utf-8"))["templating"]["list"]:
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert match is not None
            series = replaced(match[1], {"job": ".*", "model": MODELS[0]})
            assert scene.prometheus.now(f"count by ({match[2]}) ({series})"), variable["name"]


@pytest.mark.parametrize("path", FILES, ids=by_name)
@pytest.mark.parametrize("model", MODELS)
def test_no_panel_is_empty(scene: Watched, path: Path, model: str) -> None:
    """Each expression of each panel is understood, and shows something; but what a model has not by its nature."""
    worker = {"job": "modelvigil", "instance": scene.ops_url.removeprefix("http://")}
    variables = {**worker, "model": model, "shard": ".*", "feature": "amount"}
    others = NOT_OF_CLASSES if model == "fraud" else NOT_OF_NUMBERS
    empty = [
        (panel["title"], target["expr"])
        for panel in panels(path)
        for target in panel["targets"]
        if not shown(scene.prometheus, target, variables)
        and not (panel["title"] == "Scores and errors" and target["legendFormat"] in others)
    ]
    assert empty == []


def test_alerts_reach_alertmanager(scene: Watched) -> None:
    """Bad records fire an alert with its page; when the worker dies that is told, and what follows from it is not."""
    manager = scene.alertmanager

    def active() -> dict[str, dict[str, Any]]:
        return {each["labels"]["alertname"]: each for each in manager.active()}

    until(lambda: {"ModelvigilDeadLetters", "ModelvigilCriticalIncident"} <= set(active()), "alerts do not arrive")
    letters = active()["ModelvigilDeadLetters"]
    assert letters["labels"]["severity"] == "warning"
    assert letters["annotations"]["runbook_url"] == f"{BASE}ModelvigilDeadLetters.md"
    assert re.match(r"[\d.]+% of the input", letters["annotations"]["summary"])
    assert "ModelvigilAbsent" not in active()
    scene.worker.send_signal(signal.SIGKILL)
    until(lambda: "ModelvigilAbsent" in active(), "that the worker is away does not arrive")
    until(
        lambda: scene.prometheus.now('ALERTS{alertname="ModelvigilWorkerDown", alertstate="firing"}') != [], "no rule"
    )
    until(lambda: "ModelvigilWorkerDown" not in active(), "what follows is told, too")
