"""What the tests of deploy/ share: files as data, commands that are parsed but not run, how long a stop may take."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from worker import settings as settings_module
from worker.cli import modelvigil
from worker.edges.watchdog import MARGIN_SECONDS
from worker.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CONFIG = "/etc/modelvigil/modelvigil.toml"
"""Where containers find their settings."""


def documents(path: Path) -> list[Any]:
    """Return the documents of a YAML file: tables, or lists in the case of JSON patches."""
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def parse(words: Sequence[str]) -> dict[str, Any]:
    """Parse a command line of ours without running it, and return its options. Raises click.UsageError."""
    command: click.Command = modelvigil
    context, rest = click.Context(command, info_name="modelvigil"), list(words)
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command = found
        context = (
            click.Context(command, info_name=name, parent=context)
            if isinstance(command, click.Group)
            else command.make_context(name, rest, parent=context)
        )
    return context.params


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """Return what a Dockerfile says: each instruction with its text on one line, without comments."""
    lines = [line for line in dockerfile.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split(maxsplit=1)[0], " ".join(line.split()[1:])) for line in joined.splitlines()]


def image_environment() -> dict[str, str]:
    """Return the variables that the image sets for its last stage."""
    found = instructions((ROOT / "Dockerfile").read_text(encoding="utf-8"))
    last = max(place for place, (name, _) in enumerate(found) if name == "FROM")
    pairs = [pair for name, text in found[last:] if name == "ENV" for pair in text.split()]
    return dict(pair.split("=", 1) for pair in pairs)


def readable(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return the environment with a file of this machine in place of each that is mounted as a secret."""
    secret = folder / "secret"
    secret.write_text("hidden\n", encoding="utf-8")
    return {name: str(secret) if value.startswith("/run/secrets/") else value for name, value in environment.items()}


def stop_seconds(settings: Settings) -> float:
    """Return how long a worker may take to stop if all goes wrong: it hangs, or its last commit fails.

    A supervisor (`run --processes`) gives each of its workers a hand-over and the time of the watchdog.
    """
    worker = settings.worker
    commit_ms = 2 * min(settings_module._COMMIT_MS_MAX, worker.transaction_timeout_ms) + settings_module._REPLACE_MS
    return (worker.handover_ms + max(worker.watchdog_ms, commit_ms)) / 1000 + MARGIN_SECONDS


def strings(value: object) -> Iterator[str]:
    """Return every text within a document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from strings(each)
    elif isinstance(value, Sequence):
        for each in value:
            yield from strings(each)


def below(folder: Path, pattern: str) -> list[Path]:
    """Return the files below a folder, in order."""
    return sorted(path for path in folder.rglob(pattern) if path.is_file())
