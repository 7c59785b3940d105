"""Rules of style.md that no linter knows: sizes, names, reasons beside suppressions, and nothing of this machine."""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent
_FUNCTION_LINES_MAX = 70
_MODULE_LINES_MAX = 500
_EMPTY_NAMES = {"base", "common", "helpers", "misc", "utils"}
# A folder of the core, named with the word of the design: nobody runs a file beside it as a script.
_STANDARD_NAMES_ALLOWED = {"statistics"}
# In pieces, so that this file passes its own test.
_REGISTRY_HOSTS = [
    "pypi" + ".org",
    "pythonhosted" + ".org",
    "repo.maven" + ".apache.org",
    "maven" + ".org/maven2",
    "crates" + ".io",
    "registry.npmjs" + ".org",
    "proxy.golang" + ".org",
    "deb.debian" + ".org",
]
_MACHINE_PATHS = [f"/{folder}/" for folder in ("farm", "root", "work")]
_PROGRAM_SOMEWHERE = r"/tmp/[\w./-]*/bin/"  # noqa: S108 - a pattern, not a place
_FORBIDDEN = re.compile(
    "|".join(
        [
            *map(re.escape, _REGISTRY_HOSTS),
            _PROGRAM_SOMEWHERE,
            *(rf"(?<![\w.}}-]){re.escape(path)}" for path in _MACHINE_PATHS),
        ]
    )
)
_SUPPRESSION = re.compile(r"#\s*(?:noqa(?::\s*[A-Z]+\d+(?:\s*,\s*[A-Z]+\d+)*)?|type:\s*ignore(?:\[[\w\-, ]*\])?)")
_REASON = re.compile(r"[A-Za-z]{3,}")


def _python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (_ROOT / folder).rglob("*.py"))


def _present_files() -> list[Path]:
    """What git tracks or would track; without git, all that is not hidden."""
    try:
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=_ROOT, check=True, capture_output=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        return [path for path in _ROOT.rglob("*") if path.is_file() and "/." not in path.as_posix()]
    return [path for name in listed.split("\0") if name and (path := _ROOT / name).is_file()]


def _id(path: Path) -> str:
    return path.relative_to(_ROOT).as_posix()


def _suppressions_without_reason(source: str) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and _SUPPRESSION.search(token.string):
            after_the_last = _SUPPRESSION.split(token.string)[-1]
            if not _REASON.search(after_the_last):
                yield f"line {token.start[0]}: {token.string}"


@pytest.mark.parametrize("path", _python_files("worker"), ids=_id)
def test_sizes_and_names(path: Path) -> None:
    """Modules and functions stay small, and a module is named for what it holds, never like a standard one."""
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= _MODULE_LINES_MAX
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= _FUNCTION_LINES_MAX, f"{node.name} has {lines} lines"
    names = {path.stem, *path.relative_to(_ROOT).parent.parts} - {"__init__", "__main__"}
    assert not names & _EMPTY_NAMES
    assert not (names - _STANDARD_NAMES_ALLOWED) & sys.stdlib_module_names


@pytest.mark.parametrize("path", _python_files("worker", "tests", "benchmarks", "examples"), ids=_id)
def test_suppressions_have_reasons(path: Path) -> None:
    """Each `noqa` and each ignored type error says why, in words after it."""
    assert list(_suppressions_without_reason(path.read_text(encoding="utf-8"))) == []


def test_nothing_of_this_machine() -> None:
    """No file names the host of a package registry, or an absolute path of the machine it was written on."""
    found = []
    for path in _present_files():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [
            f"{_id(path)}:{number}: {line.strip()[:120]}"
            for number, line in enumerate(lines, 1)
            if _FORBIDDEN.search(line)
        ]
    assert found == []


def test_the_rules_catch_what_they_forbid() -> None:
    """The patterns above match a plain example each, and leave an innocent one alone."""
    bare, typed = "x = 1  # no" + "qa: E501\n", "x = 1  # type: ig" + "nore[attr]\n"
    assert len(list(_suppressions_without_reason(bare + typed))) == 2
    reasoned = bare.replace("\n", " - as the test wants\n") + typed.replace("\n", "  # untyped\n")
    assert not list(_suppressions_without_reason(reasoned + 's = "' + bare.strip() + '"\n'))
    for forbidden in (
        *_REGISTRY_HOSTS,
        _PROGRAM_SOMEWHERE.replace(r"[\w./-]*", "x.y/z"),
        *(f"open('{path}x')" for path in _MACHINE_PATHS),
    ):
        assert _FORBIDDEN.search(forbidden)
    assert not _FORBIDDEN.search("worker/core http://host/a.b/root.x build" + _MACHINE_PATHS[2])
