"""The command `modelvigil`: reads options, calls `app`, and turns every failure into one line and an exit code.

Rule 1: what a user can cause ends with one line on standard error that says what to do, never with a traceback.
Rule 2: a command imports what it needs when it runs, so that `--help` answers at once: numba and scikit-learn take
        seconds.
"""

import json
import logging
import os
import tomllib
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from worker import __version__

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
    ExitCode.BUG: "A bug in modelvigil; please report what it printed.",
    ExitCode.RESTART: "A temporary failure: start it again, nothing is lost.",
    ExitCode.INTERRUPTED: "Interrupted: Ctrl-C during the set-up, or a second one.",
}


class Failure(click.ClickException):
    """The command cannot do what was asked; the message is one line and says what to do."""

    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def _exit_codes(*codes: ExitCode) -> str:
    lines = "\n".join(f"  {code.value:>3}  {MEANING[code]}" for code in ExitCode if code in codes)
    return f"\b\nExit codes:\n{lines}"


_PROPERTIES = "kafka.properties."
_QUOTED = "  |"
_ALWAYS = (ExitCode.DONE, ExitCode.USAGE, ExitCode.BUG, ExitCode.INTERRUPTED)
_CONFIGURED = (*_ALWAYS, ExitCode.CONFIGURATION)
_CONNECTED = (*_CONFIGURED, ExitCode.UNREACHABLE, ExitCode.TOPICS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    try:
        code = modelvigil.main(args=arguments, prog_name="modelvigil", standalone_mode=False)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "modelvigil"
        return _say_failure(ExitCode.USAGE, f"{error.format_message()} See '{where} --help'.")
    except Failure as error:
        return _say_failure(error.code, error.message)
    except (click.Abort, KeyboardInterrupt):
        return _say_failure(ExitCode.INTERRUPTED, "interrupted")
    except Exception as error:  # noqa: BLE001 - the last place where a bug can still be told from a crash of Python
        traceback.print_exc()
        text = f"this is a bug in modelvigil {__version__}, please report the lines above: {error!r}"
        return _say_failure(ExitCode.BUG, text)
    return int(code or ExitCode.DONE)


def _say_failure(code: int, message: str) -> int:
    """Say it in one line. A tail of somebody's log, if there is one, goes above it."""
    lines = message.splitlines()
    quoted = [line for line in lines if line.startswith(_QUOTED)]
    said = " ".join(line.strip() for line in lines if not line.startswith(_QUOTED))
    click.echo("\n".join([*quoted, f"modelvigil: {said}"]), err=True)
    return int(code)


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what the parts below raise for the user into a `Failure`."""
    import structlog  # noqa: PLC0415 - Rule 2

    from worker.cluster import BrokerUnreachableError, TopicsError  # noqa: PLC0415 - Rule 2
    from worker.edges.kafka import ClientError  # noqa: PLC0415 - Rule 2
    from worker.settings import SettingsError  # noqa: PLC0415 - Rule 2

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
    finally:
        structlog.configure(**before)


# Options.


def _with_settings(command: Command) -> Command:
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


def _load(
    config: Path | None,
    bootstrap_servers: str | None,
    group_id: str | None,
    predictions_topic: str | None,
    overrides: Sequence[str],
) -> "Settings":
    """Merge file, environment and options to settings, or fail with one line."""
    from worker.settings import SettingsError, load_settings  # noqa: PLC0415 - Rule 2

    by_name = dict(map(_parsed_override, overrides))
    named = {
        "kafka.bootstrap_servers": bootstrap_servers,
        "kafka.group_id": group_id,
        "topics.predictions": predictions_topic,
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


# Commands.


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_exit_codes(*ExitCode),
)
@click.version_option(__version__, message="modelvigil %(version)s")
@click.pass_context
def modelvigil(context: click.Context) -> None:
    r"""Watch machine-learning models in production.

    Reads what your models answer from a Kafka topic, keeps statistics and anomaly detectors for each model, and
    publishes alerts and metrics to topics that your people and programs subscribe to.

    \b
    See it work, with a Kafka of its own:   modelvigil demo
    Use it on yours:                        modelvigil topics create
                                            modelvigil run
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@modelvigil.command(epilog=_exit_codes(*_CONNECTED, ExitCode.FENCED, ExitCode.RESTART))
@_with_settings
def run(**options: Any) -> int:  # noqa: ANN401 - passed on as they are
    r"""Run one worker until it is told to stop.

    It learns each model's features from the model's first events; nothing has to be declared. Start more workers with
    the same group id to share the partitions. SIGTERM or Ctrl-C finishes the batch and leaves cleanly; a second one
    leaves at once, and nothing is lost by that.

    \b
    Example:
      modelvigil run --bootstrap-servers kafka-1:9092,kafka-2:9092 --config modelvigil.toml

    Settings come from the file, then the environment (MODELVIGIL_BOOTSTRAP_SERVERS, MODELVIGIL_GROUP_ID, and
    MODELVIGIL_KAFKA_<PROPERTY> for every property of librdkafka), then these options; later ones win.
    """
    settings = _load(**options)
    with _explained():
        from worker.app import TemporaryError, WorkerFencedError, run_worker  # noqa: PLC0415 - Rule 2

        try:
            return run_worker(settings)
        except WorkerFencedError as error:
            raise Failure(ExitCode.FENCED, str(error)) from None
        except TemporaryError as error:
            raise Failure(ExitCode.RESTART, str(error)) from None


@modelvigil.command(
    epilog=_exit_codes(*_CONFIGURED, ExitCode.UNREACHABLE, ExitCode.TOPICS, ExitCode.LOCAL_KAFKA, ExitCode.RESTART)
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=20),
    envvar="DEMO_SECONDS",
    show_envvar=True,
    help="How long events flow; without it, until Ctrl-C.",
)
@click.option(
    "--rate",
    type=click.IntRange(400, 20_000),
    default=500,
    show_default=True,
    help="Events per second, over all models.",
)
@click.option(
    "--bootstrap-servers",
    envvar="MODELVIGIL_BOOTSTRAP_SERVERS",
    show_envvar=True,
    metavar="HOST:PORT,...",
    help="A Kafka of yours; without it the demo starts one.",
)
def demo(seconds: float | None, rate: int, bootstrap_servers: str | None) -> int:
    r"""Show everything at work, on real data.

    Trains three scikit-learn models on the image segments that River ships, streams their answers on held-out rows
    to a real Kafka, changes the unit of one feature on the way, runs a worker as its own process, and shows what comes
    out of the alert and metric topics. At the end it says what was counted and whether the fault was caught.

    \b
    Examples:
      modelvigil demo
      modelvigil demo --seconds 45
    """
    from rich.console import Console  # noqa: PLC0415 - Rule 2

    with _explained():
        from worker.demo.processes import WorkerEndedError  # noqa: PLC0415 - Rule 2
        from worker.demo.report import lines  # noqa: PLC0415 - Rule 2
        from worker.demo.run import Options, run_demo  # noqa: PLC0415 - heavy, and needed here only
        from worker.edges.broker import BrokerError  # noqa: PLC0415 - heavy, and needed here only

        try:
            result = run_demo(Options(seconds, rate, bootstrap_servers, os.environ), Console())
        except BrokerError as error:
            raise Failure(ExitCode.LOCAL_KAFKA, str(error)) from None
        except WorkerEndedError as error:
            raise Failure(ExitCode.RESTART, str(error)) from None
    click.echo("\n".join(lines(result)))
    return ExitCode.DONE if result.is_complete or result.behind else ExitCode.BUG


@modelvigil.group(invoke_without_command=True)
@click.pass_context
def topics(context: click.Context) -> None:
    """Create or check the topics."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@topics.command(epilog=_exit_codes(*_CONNECTED))
@_with_settings
@click.option("--partitions", type=click.IntRange(1, 10_000), default=4, show_default=True, help="Of each new topic.")
@click.option(
    "--replication-factor", type=click.IntRange(1, 100), help="Of each new topic.  [default: what the brokers say]"
)
def create(partitions: int, replication_factor: int | None, **options: Any) -> int:  # noqa: ANN401 - passed on
    r"""Create the topics that do not exist yet.

    Those that exist stay as they are. `predictions` and `labels` get the same number of partitions, so that an event
    and its label meet in one worker. The topic of the worker's state is compacted.

    \b
    Example:
      modelvigil topics create --bootstrap-servers kafka-1:9092 --partitions 12
    """
    settings = _load(**options)
    with _explained():
        from worker.cluster import create_topics  # noqa: PLC0415 - Rule 2

        for line in create_topics(settings, partitions, replication_factor):
            click.echo(line)
    return ExitCode.DONE


@topics.command(epilog=_exit_codes(*_CONNECTED))
@_with_settings
def check(**options: Any) -> int:  # noqa: ANN401 - passed on as they are
    r"""Check that every topic is as it must be.

    Changes nothing.

    \b
    Example:
      modelvigil topics check --bootstrap-servers kafka-1:9092
    """
    settings = _load(**options)
    with _explained():
        from worker.cluster import check_topics  # noqa: PLC0415 - Rule 2

        warnings = check_topics(settings)
    for line in warnings:
        click.echo(f"warning: {line}", err=True)
    click.echo("all topics are as they must be")
    return ExitCode.DONE


@modelvigil.command(epilog=_exit_codes(*_ALWAYS))
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("schemas"),
    show_default=True,
    help="Where to write them.",
)
def schemas(directory: Path) -> int:
    r"""Write the JSON Schemas of all topics.

    Examples of their records go into a folder beside them.

    \b
    Example:
      modelvigil schemas --directory contracts/modelvigil
    """
    from worker.schemas import write  # noqa: PLC0415 - Rule 2

    try:
        paths = write(directory)
    except OSError as error:
        raise Failure(ExitCode.USAGE, f"{error.filename} cannot be written: {error.strerror}") from None
    click.echo(f"{len(paths)} files written to {directory}")
    return ExitCode.DONE


@modelvigil.command("check-config", epilog=_exit_codes(*_CONFIGURED))
@_with_settings
def check_config(**options: Any) -> int:  # noqa: ANN401 - passed on as they are
    r"""Check the configuration and print it.

    Prints every setting that `run` would use, as a TOML file to begin with; secrets are masked. Nothing is started, and
    no broker is asked.

    \b
    Example:
      modelvigil check-config --config modelvigil.toml
    """
    settings = _load(**options)
    from worker.settings import describe  # noqa: PLC0415 - Rule 2

    click.echo("\n".join(_toml_lines(describe(settings), "")))
    return ExitCode.DONE


def _toml_lines(table: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Write nested settings as TOML, one dotted name a line: the names that `--set` takes."""
    for key, value in table.items():
        name = prefix + (key if key.replace("_", "").isalnum() else json.dumps(key))
        if isinstance(value, Mapping):
            yield from _toml_lines(value, f"{name}.")
        else:
            yield f"{name} = {json.dumps(value, ensure_ascii=False)}"
