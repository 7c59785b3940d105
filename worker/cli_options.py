"""What all commands share: exit codes, failures in one line, and the options that make up the settings.

Rule 2 of `cli` holds here, too: what a command needs is imported when it runs.
"""

import logging
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from worker.settings import Settings

Command = TypeVar("Command", bound=Callable[..., Any])


class ExitCode(IntEnum):
    """What the process says to its supervisor. Stable: never renumbered, only added to."""

    DONE = 0
    USAGE = 2
    CONFIGURATION = 3
    UNREACHABLE = 4
    TOPICS = 5
    FENCED = 6
    LOCAL_KAFKA = 7
    STATE = 8
    BUG = 70
    RESTART = 75
    INTERRUPTED = 130


MEANING = {
    ExitCode.DONE: "Done, or stopped as asked.",
    ExitCode.USAGE: "The command line is wrong.",
    ExitCode.CONFIGURATION: "The configuration is wrong or cannot be read.",
    ExitCode.UNREACHABLE: "No Kafka broker answers, or it refuses this user.",
    ExitCode.TOPICS: "A topic is missing or not as it must be.",
    ExitCode.FENCED: "Another process works under this one's identity.",
    ExitCode.LOCAL_KAFKA: "The demo's own Kafka cannot be fetched or started.",
    ExitCode.STATE: "Stored state cannot be used; a person must decide.",
    ExitCode.BUG: "A bug in modelvigil; please report what it printed.",
    ExitCode.RESTART: "A temporary failure: start it again, nothing is lost.",
    ExitCode.INTERRUPTED: "Interrupted: Ctrl-C during the set-up, or a second one.",
}


class Failure(click.ClickException):
    """The command cannot do what was asked; the message is one line and says what to do."""

    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def exit_codes(*codes: ExitCode) -> str:
    """Return the part of a command's help that says how it can end."""
    lines = "\n".join(f"  {code.value:>3}  {MEANING[code]}" for code in ExitCode if code in codes)
    return f"\b\nExit codes:\n{lines}"


ALWAYS = (ExitCode.DONE, ExitCode.USAGE, ExitCode.BUG, ExitCode.INTERRUPTED)
CONFIGURED = (*ALWAYS, ExitCode.CONFIGURATION)
CONNECTED = (*CONFIGURED, ExitCode.UNREACHABLE, ExitCode.TOPICS)
_PROPERTIES = "kafka.properties."


@contextmanager
def explained() -> Iterator[None]:
    """Turn what the parts below raise for the user into a `Failure`."""
    import structlog  # noqa: PLC0415 - Rule 2 of cli

    from worker.cluster import BrokerUnreachableError, TopicsError  # noqa: PLC0415 - Rule 2 of cli
    from worker.edges.kafka import ClientError  # noqa: PLC0415 - Rule 2 of cli
    from worker.edges.kernel_cache import PLACE_NEEDED, kernel_folder  # noqa: PLC0415 - Rule 2 of cli
    from worker.settings import SettingsError  # noqa: PLC0415 - Rule 2 of cli

    # Kafka's clients log each failed connection, beside the failure that we tell. `run` sets up a log of its own.
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    except (SettingsError, ClientError) as error:
        raise Failure(ExitCode.CONFIGURATION, str(error)) from None
    except BrokerUnreachableError as error:
        raise Failure(ExitCode.UNREACHABLE, str(error)) from None
    except TopicsError as error:
        raise Failure(ExitCode.TOPICS, str(error)) from None
    except RuntimeError as error:
        # numba refuses where it can keep nothing, as soon as the first kernel is imported.
        if kernel_folder():
            raise
        raise Failure(ExitCode.CONFIGURATION, f"compiled kernels can be kept nowhere; {PLACE_NEEDED}") from error
    finally:
        structlog.configure(**before)


# Options.


def with_settings(command: Command) -> Command:
    """Give a command the options that make up its settings."""
    for option in (
        click.option(
            "overrides",
            "--set",
            multiple=True,
            metavar="NAME=VALUE",
            help="Any setting by its dotted name, as in the TOML file: --set engine.alert_rate=0.01. Repeatable.",
        ),
        click.option("--predictions-topic", metavar="TOPIC", help="The topic to read.  [default: predictions]"),
        click.option("--group-id", metavar="ID", help="Workers of one group share the load.  [default: modelvigil]"),
        click.option(
            "--config",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="A TOML file with settings; all have defaults.",
        ),
        click.option("--bootstrap-servers", metavar="HOST:PORT,...", help="Where Kafka is.  [default: localhost:9092]"),
    ):
        command = option(command)
    return command


def load(
    config: Path | None,
    bootstrap_servers: str | None,
    group_id: str | None,
    predictions_topic: str | None,
    overrides: Sequence[str],
    policies: Mapping[str, str | None] | None = None,
) -> "Settings":
    """Merge file, environment and options to settings, or fail with one line."""
    from worker.settings import SettingsError, load_settings  # noqa: PLC0415 - Rule 2 of cli

    by_name = dict(map(_parsed_override, overrides))
    named = {
        "kafka.bootstrap_servers": bootstrap_servers,
        "kafka.group_id": group_id,
        "topics.predictions": predictions_topic,
        **(policies or {}),
    }
    by_name |= {name: value for name, value in named.items() if value is not None}
    try:
        return load_settings(config, os.environ, by_name)
    except SettingsError as error:
        raise Failure(ExitCode.CONFIGURATION, str(error)) from None


def _parsed_override(text: str) -> tuple[str, object]:
    """Read NAME=VALUE. The value is TOML (0.01, true, "text", [1, 2]); what is not, is text."""
    name, equals, value = text.partition("=")
    name = name.strip()
    if not equals or "." not in name:
        raise click.UsageError(f"--set {text}: write NAME=VALUE with the whole name, as in engine.alert_rate=0.01.")
    if name.startswith(_PROPERTIES):
        variable = "MODELVIGIL_KAFKA_" + name.removeprefix(_PROPERTIES).replace(".", "_").upper()
        raise click.UsageError(f"--set {name}: set {variable} in the environment, or [kafka.properties] in the file.")
    try:
        parsed = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return name, value
    return name, parsed["value"] if len(parsed) == 1 else value
