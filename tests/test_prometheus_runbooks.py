"""Runbooks of Prometheus' alerts: one for each rule, in the form of the others, and nothing in them that is not so."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.test_runbooks import SECTIONS, commands, exists, parse, prose
from worker.settings import Settings

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
FOLDER = DEPLOY / "runbooks" / "prometheus"
RULES = sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
PAGES = sorted(FOLDER.glob("*.md"))
BASE = "https://wiki.example.org/modelvigil/runbooks/prometheus/"
TABLES = r"(?:artefacts|elasticsearch|engine|notify|ops|worker)"

_CODE = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)]+)\)")


def rules(path: Path) -> list[dict[str, Any]]:
    """Return the rules of a file, of all its groups."""
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [rule for group in found["groups"] for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for path in RULES for rule in rules(path) if "alert" in rule}


def by_name(path: Path) -> str:
    """Name a page in the list of tests."""
    return path.stem


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    """Nobody is woken without a page to read, and no page is left over from a rule that is gone."""
    assert [path.stem for path in PAGES] == sorted([*ALERTS, "README"])


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_a_person_needs(name: str) -> None:
    """A severity that routes, two sentences of which one has the value or the place, and the page to read."""
    rule = ALERTS[name]
    assert name.startswith("Modelvigil")
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"{BASE}{name}.md"
    assert "{{" in rule["annotations"]["description"] or rule["expr"].startswith("absent(")


@pytest.mark.parametrize("name", ALERTS)
def test_a_runbook_has_its_sections_and_is_short(name: str) -> None:
    """Title, four sections in order, none of them empty, the severity that the rule has; read in a minute."""
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {name}\n\n**")
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    assert parts[1::2] == SECTIONS
    assert all(len(part.split()) >= 8 for part in parts[2::2])
    assert len(text.splitlines()) <= 60
    assert f"Severity `{ALERTS[name]['labels']['severity']}`." in " ".join(text.split())


def test_the_index_is_complete() -> None:
    """Each alert is in the table once, in order, with its severity and the sentence that its page begins with."""
    rows = re.findall(r"^\| \[(\w+)\]\((\S+)\) \| (\w+) \| (.+) \|$", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert [name for name, _, _, _ in rows] == sorted(ALERTS)
    for name, link, severity, says in rows:
        assert (link, severity) == (f"{name}.md", ALERTS[name]["labels"]["severity"])
        assert f"**{says}**" in " ".join((FOLDER / link).read_text(encoding="utf-8").splitlines()[2:5])


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_links_lead_somewhere(path: Path) -> None:
    """Every link is to a file or a folder that is there."""
    for link in _LINK.findall(prose(path)):
        assert (FOLDER / link).exists(), link


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_settings_and_alerts_that_it_names_exist(path: Path) -> None:
    """What is written as `worker.x` is a setting, what is written as `ModelvigilX` is an alert."""
    for code in _CODE.findall(prose(path)):
        for name in re.findall(rf"(?<![\w./\"'-]){TABLES}(?:\.[a-z_0-9]+)+(?!\.?\w)", code):
            assert name.endswith(".yml") or exists(Settings, name.split(".")), name
        assert not code.startswith("Modelvigil") or code in ALERTS, code


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_commands_can_be_typed(path: Path) -> None:
    """Every command of ours, its options and arguments, is one that the command line takes."""
    for words in commands(path):
        parse(words)


def test_each_alert_has_a_case_that_fires() -> None:
    """The unit tests of the rules, which `make test-integrations` runs with promtool, leave no alert out."""
    fired: set[str] = set()
    quiet: set[str] = set()
    for path in sorted((DEPLOY / "prometheus" / "tests").glob("*.yml")):
        for test in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for case in test.get("alert_rule_test", []):
                (fired if case.get("exp_alerts") else quiet).add(case["alertname"])
    assert fired == set(ALERTS) == quiet
