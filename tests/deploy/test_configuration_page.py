"""deploy/configuration.md: every setting that it names exists, with the default that it tells."""

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.memory import FRUGAL
from tests.deploy.shipped import DEPLOY
from worker.settings import Settings, load_settings

_ROW = re.compile(r"^\| (?P<names>`[^|]+) \| (?P<defaults>[^|]+) \|", re.MULTILINE)
_TABLE = re.compile(r"in `\[([\w.]+)\]`")
_OMITTED = {"topics", "kinds", "windows", "recalibration", "ranking", "recent", "all", "linear", "online", "threshold"}
"""Whole tables, and lists of tables."""


def told() -> list[tuple[str, str | None]]:
    """Return the settings of the page by their full names, each with its default, where each has one of its own."""
    found: list[tuple[str, str | None]] = []
    table = ""
    for line in (DEPLOY / "configuration.md").read_text(encoding="utf-8").splitlines():
        table = f"{heading[1]}." if (heading := _TABLE.search(line)) and not line.startswith("|") else table
        row = _ROW.match(line)
        if row is None:
            continue
        names, stem = re.findall(r"`([^`]+)`", row["names"]), ""
        # A comma within a number is none between defaults.
        defaults = re.split(r", (?![^\[]*\])", row["defaults"].strip())
        for place, name in enumerate(names):
            full = stem + name if name.startswith(".") else table + name
            stem = full.rpartition(".")[0]
            found.append((full, defaults[place] if len(defaults) == len(names) else None))
    return found


def actual(name: str) -> Any:  # noqa: ANN401 - whatever a setting is
    """Return the default of a setting. Raises AttributeError."""
    value: Any = Settings()
    for part in name.split("."):
        value = getattr(value, part)
    return value


TOLD = [(name, default) for name, default in told() if not _OMITTED & set(name.removesuffix(".*").split("."))]


@pytest.mark.parametrize(("name", "default"), TOLD, ids=[name for name, _ in TOLD])
def test_a_setting_exists_and_has_the_default_that_is_told(name: str, default: str | None) -> None:
    """Numbers, words in code and switches are compared; what is described in words is not."""
    value = actual(name)
    if default is None:
        return
    if re.fullmatch(r"-?[\d,.]+", default):
        assert value == pytest.approx(float(default.replace(",", "")))
    elif re.fullmatch(r"true|false", default):
        assert value is (default == "true")
    elif re.fullmatch(r"`[\w./:-]+`", default) and isinstance(value, str):
        assert value == default.strip("`")


def test_the_page_is_read() -> None:
    """The check above sees most of the page, and most of the defaults."""
    assert len(TOLD) > 150
    assert sum(default is not None for _, default in TOLD) > 120
    with pytest.raises(AttributeError):
        actual("worker.watchdog_s")


def test_the_settings_for_many_models_are_those_that_are_measured(tmp_path: Path) -> None:
    """They can be used as they stand, and the benchmark of the memory takes the same."""
    page = (DEPLOY / "configuration.md").read_text(encoding="utf-8")
    (toml,) = re.findall(r"### Many models\n.*?```toml\n(.*?)```", page, re.DOTALL)
    path = tmp_path / "modelvigil.toml"
    path.write_text(toml, encoding="utf-8")
    assert load_settings(path, {}, {}) == load_settings(None, {}, FRUGAL)
