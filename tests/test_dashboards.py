"""The dashboards for Grafana: what is checked in is what the code makes, and can be shown."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana.boards.files import rendered
from deploy.grafana.boards.panels import RUNBOOKS
from tests.test_prometheus_runbooks import DEPLOY, PAGES, RULES, rules
from tests.test_runbooks import blocks

FOLDER = DEPLOY / "grafana" / "dashboards"
FILES = sorted(FOLDER.glob("*.json"))
PANELS_MAX = 20
_NAME = re.compile(r"\b(?:modelvigil_\w+|process_\w+|(?:model|model_kind|job|job_topic):\w+:\w+)")
_OF_THE_PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_start_time_seconds"}


def by_name(path: Path) -> str:
    """Name a dashboard in the list of tests."""
    return path.stem


def panels(path: Path) -> list[dict[str, Any]]:
    """Return the panels of a dashboard that show something."""
    found = json.loads(path.read_text(encoding="utf-8"))["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def asked(path: Path) -> list[str]:
    """Return all expressions of a dashboard, those of its variables among them."""
    board = json.loads(path.read_text(encoding="utf-8"))
    queries = [each["query"]["query"] for each in board["templating"]["list"] if each["type"] == "query"]
    return queries + [target["expr"] for panel in panels(path) for target in panel["targets"]]


def exported() -> set[str]:
    """Return the names of all series that workers, supervisors and shippers export, or rules record."""
    told = re.findall(r"^\| `(\w+)` \| (\w+) \|", (DEPLOY / "metrics.md").read_text(encoding="utf-8"), re.MULTILINE)
    names = {f"modelvigil_{name}" for name, kind in told if kind != "histogram"}
    histograms = {f"modelvigil_{name}" for name, kind in told if kind == "histogram"}
    names |= {f"{name}_{part}" for name in histograms for part in ("bucket", "count", "sum")}
    return names | _OF_THE_PROCESS | {rule["record"] for path in RULES for rule in rules(path) if "record" in rule}


def test_what_is_checked_in_is_current() -> None:
    """After a change of the code, `python -m deploy.grafana.boards` was run."""
    assert {path.name: path.read_text(encoding="utf-8") for path in FILES} == rendered()


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_panels_say_what_they_show_and_do_not_overlap(path: Path) -> None:
    """Each panel has a title of its own, a sentence, a query and a place; there are not too many of them."""
    shown = panels(path)
    assert len(shown) <= PANELS_MAX
    assert len({panel["title"] for panel in shown}) == len(shown)
    taken: set[tuple[int, int]] = set()
    for panel in shown:
        assert panel["description"]
        assert panel["targets"]
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert all(x < 24 for x, _ in cells)
        assert not cells & taken
        taken |= cells
    ids = [panel["id"] for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]]
    assert all(later > earlier for earlier, later in pairwise(ids))


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_links_lead_to_runbooks_and_dashboards(path: Path) -> None:
    """A click leads to a page or a dashboard that is there."""
    board = json.loads(path.read_text(encoding="utf-8"))
    uids = {json.loads(each.read_text(encoding="utf-8"))["uid"] for each in FILES}
    for link in [*board["links"], *(link for panel in panels(path) for link in panel.get("links", []))]:
        if link["type"] == "link":
            assert (DEPLOY / "runbooks" / link["url"].removeprefix(f"{RUNBOOKS}/")).is_file(), link["url"]
    for uid in re.findall(r"/d/([\w-]+)", path.read_text(encoding="utf-8")):
        assert uid in uids


def test_every_series_that_is_asked_for_exists() -> None:
    """No dashboard, rule or runbook asks for a series that nobody makes: it would be silent for ever."""
    known = exported()
    asks = [expr for path in FILES for expr in asked(path)]
    asks += [str(rule["expr"]) for path in RULES for rule in rules(path)]
    asks += [block for path in PAGES for block in blocks(path, "promql")]
    found = {name for text in asks for name in _NAME.findall(text) if not name.startswith("modelvigil_.")}
    assert found - known == set()
    assert len(found) > 50


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_variables_are_declared(path: Path) -> None:
    """Each variable that a panel uses is one of the dashboard's, or Grafana's own."""
    board = json.loads(path.read_text(encoding="utf-8"))
    declared = {each["name"] for each in board["templating"]["list"]}
    used = {name for expr in asked(path) for name in re.findall(r"\$\{?(\w+)", expr)}
    assert used <= declared | {"__rate_interval"}
    assert declared <= used | {"datasource"}


def test_provisioning_names_what_the_dashboards_need() -> None:
    """The provisioned Prometheus is the default one, scrapes as often as the example says, and files are found."""
    folder = DEPLOY / "grafana" / "provisioning"
    sources = yaml.safe_load((folder / "datasources" / "modelvigil.yml").read_text(encoding="utf-8"))["datasources"]
    (prometheus,) = (each for each in sources if each["type"] == "prometheus")
    scrape = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))["global"]
    assert prometheus["isDefault"]
    assert prometheus["jsonData"]["timeInterval"] == scrape["scrape_interval"]
    providers = yaml.safe_load((folder / "dashboards" / "modelvigil.yml").read_text(encoding="utf-8"))["providers"]
    assert [each["type"] for each in providers] == ["file"]
