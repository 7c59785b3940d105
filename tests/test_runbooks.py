"""Runbooks: one for each kind of alert, and nothing in them that is not so: options, defaults, fields, commands."""

import importlib
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any, get_args

import click
import msgspec
import pytest
from msgspec import inspect

from worker.core.events import AlertEvent, AlertKind
from worker.settings import Settings, load_settings

FOLDER = Path(__file__).resolve().parent.parent / "deploy" / "runbooks"
KINDS: tuple[str, ...] = get_args(AlertKind)
PAGES = sorted(FOLDER.glob("*.md"))
SECTIONS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]
GROUPS = {
    "check-config": "worker.cli",
    "compile-kernels": "worker.cli_kernels",
    "doctor": "worker.cli_doctor",
    "feedback": "worker.cli_feedback",
    "notify": "worker.cli_notify",
    "replay": "worker.cli_replay",
    "run": "worker.cli",
    "ship": "worker.cli_ship",
    "state": "worker.cli_state",
    "topics": "worker.cli",
}
ELSEWHERE = "see [configuration](../configuration.md)"
"""In place of a default that is too long for a table."""

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)]+)\)")
_ROW = re.compile(r"^\| `(\w+(?:\.\w+)+)` \| ([^|]+) \|", re.MULTILINE)
_NAMES: dict[str, type[msgspec.Struct]] = {"engine": Settings, "worker": Settings, "alert": AlertEvent}


def by_name(path: Path) -> str:
    """Name a page in the list of tests."""
    return path.stem


def prose(path: Path) -> str:
    """Return a page without its blocks of code."""
    return _FENCED.sub("", path.read_text(encoding="utf-8"))


def blocks(path: Path, language: str) -> list[str]:
    """Return the blocks of code of one language."""
    return [body for name, body in _FENCED.findall(path.read_text(encoding="utf-8")) if name == language]


def structs_of(kind: inspect.Type) -> list[type[msgspec.Struct]]:
    """Return the structs that a value of a type can be, or be made of."""
    match kind:
        case inspect.StructType():
            return [kind.cls]
        case inspect.UnionType():
            return [found for each in kind.types for found in structs_of(each)]
        case inspect.ListType() | inspect.VarTupleType():
            return structs_of(kind.item_type)
        case inspect.DictType():
            return structs_of(kind.value_type)
        case inspect.Metadata():
            return structs_of(kind.type)
    return []


def exists(root: type[msgspec.Struct], names: list[str]) -> bool:
    """Tell whether a dotted name is one of a field, through lists, maps and what may be null."""
    structs = [root]
    for name in names:
        infos = [inspect.type_info(struct) for struct in structs]
        fields = [
            field
            for info in infos
            if isinstance(info, inspect.StructType)
            for field in info.fields
            if field.encode_name == name
        ]
        if not fields:
            return False
        structs = [struct for field in fields for struct in structs_of(field.type)]
    return True


def commands(path: Path) -> list[list[str]]:
    """Return all commands of ours on a page, in blocks and in sentences, as words."""
    lines = [line for block in blocks(path, "sh") for line in block.splitlines()]
    lines += _CODE.findall(prose(path))
    return [shlex.split(line, comments=True) for line in lines if line.startswith("modelvigil ")]


def parse(words: list[str]) -> None:
    """Parse a command, but do not run it. Raises click.UsageError for what it would refuse."""
    _, name, *rest = words
    command: click.Command = getattr(importlib.import_module(GROUPS[name]), name.replace("-", "_"))
    context = click.Context(command, info_name=name)
    if isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, rest)  # type: ignore[assignment] # a name, as one is given
        assert found is not None
        command = found
    command.make_context(name, rest, parent=context)


def test_every_kind_has_a_runbook_and_every_runbook_a_kind() -> None:
    """Nobody is woken without a page to read, and no page is left over from a kind that is gone."""
    assert [path.stem for path in PAGES] == sorted(["README", *KINDS])


@pytest.mark.parametrize("kind", KINDS)
def test_a_runbook_has_its_sections_and_is_short(kind: str) -> None:
    """Title, four sections in order, none of them empty; no longer than what one reads at night."""
    text = (FOLDER / f"{kind}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {kind}\n")
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    assert parts[1::2] == SECTIONS
    assert all(len(part.split()) >= 15 for part in parts[2::2])
    assert 25 <= len(text.splitlines()) <= 65
    assert "**False alarms:**" in text


def test_the_index_is_complete() -> None:
    """Each kind is in the table once, in order, with the sentence that its page begins with."""
    rows = re.findall(r"^\| \[(\S+)\]\((\S+)\) \| (.+) \|$", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert [kind for kind, _, _ in rows] == sorted(KINDS)
    for kind, link, says in rows:
        assert link == f"{kind}.md"
        opening = " ".join((FOLDER / link).read_text(encoding="utf-8").splitlines()[2:5])
        assert opening.startswith(f"**{says}**")


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_links_lead_somewhere(path: Path) -> None:
    """Every link is to a file that is there."""
    for link in _LINK.findall(prose(path)):
        assert (FOLDER / link).is_file(), link


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_options_and_fields_exist(path: Path) -> None:
    """What is written as `engine.x.y`, `worker.x` or `alert.x` is an option, or a field of an alert."""
    named = {
        name
        for code in _CODE.findall(prose(path))
        for name in re.findall(r"(?<![\w.\"'])(?:engine|worker|alert)(?:\.[a-z_0-9]+)+", code)
    }
    assert named
    for name in named:
        root, *names = name.split(".")
        assert exists(_NAMES[root], names if root == "alert" else [root, *names]), name


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_are_those_in_force(kind: str) -> None:
    """The tables of options tell what holds when nothing is configured."""
    rows = _ROW.findall(prose(FOLDER / f"{kind}.md"))
    assert len(rows) >= 3
    for name, told in rows:
        default: Any = Settings()
        for part in name.split("."):
            default = getattr(default, part)
        default = msgspec.json.decode(msgspec.json.encode(default))
        if told == ELSEWHERE:
            assert isinstance(default, list)
        else:
            value = tomllib.loads(f"value = {told}")["value"]
            assert (value, type(value)) == (default, type(default)), name


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_commands_can_be_typed(path: Path) -> None:
    """Every command of ours, its options and arguments, is one that the command line takes."""
    found = commands(path)
    assert any(words[:2] == ["modelvigil", "feedback"] for words in found)
    for words in found:
        parse(words)


def test_a_command_that_is_wrong_is_noticed() -> None:
    """The test above can fail: an unknown option, and an argument that is missing."""
    for line in ("modelvigil feedback silence --modl x --for 2h --reason y", "modelvigil feedback undo"):
        with pytest.raises(click.UsageError):
            parse(shlex.split(line))


def test_a_name_that_is_wrong_is_noticed() -> None:
    """The test of options and fields can fail, and it looks into lists, maps, and what may be null."""
    assert exists(AlertEvent, ["change", "changed", "since_offset"])
    assert exists(AlertEvent, ["performance", "segment", "name"])
    assert not exists(AlertEvent, ["change", "changed", "since"])
    assert exists(Settings, ["engine", "alerts", "windows", "repeat"])
    assert exists(Settings, ["engine", "quality", "ranges", "minimum"])
    assert not exists(Settings, ["engine", "drift", "psi"])


def test_examples_of_configuration_are_accepted(tmp_path: Path) -> None:
    """Each block of TOML is a configuration."""
    found = [block for path in PAGES for block in blocks(path, "toml")]
    assert found
    for number, block in enumerate(found):
        file = tmp_path / f"{number}.toml"
        file.write_text(block, encoding="utf-8")
        load_settings(file, {}, {})


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_shell_quotes_are_closed(path: Path) -> None:
    """A block of commands can be pasted: the shell would not wait for another quote."""
    found = blocks(path, "sh")
    assert found
    for block in found:
        shlex.split(block, comments=True)
