"""The command `modelvigil`: reads options, calls `app`, and turns every failure into one line and an exit code.

Rule 1: what a user can cause ends with one line on standard error that says what to do, never with a traceback.
Rule 2: a command imports what it needs when it runs, so that `--help` answers at once: numba and scikit-learn take
        seconds.
"""

import json
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from worker import __version__
from worker.cli_doctor import doctor
from worker.cli_feedback import feedback
from worker.cli_kernels import compile_kernels
from worker.cli_notify import notify
from worker.cli_options import (
    ALWAYS,
    CONFIGURED,
    CONNECTED,
    ExitCode,
    Failure,
    exit_codes,
    explained,
    load,
    with_settings,
)
from worker.cli_replay import replay
from worker.cli_ship import ship
from worker.cli_state import state

if TYPE_CHECKING:
    from worker.settings import Settings

_QUOTED = "  |"


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


# Commands.


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=exit_codes(*ExitCode),
)
@click.version_option(__version__, message="modelvigil %(version)s")
@click.pass_context
def modelvigil(context: click.Context) -> None:
    """Watch machine-learning models in production.

    Reads what your models answer from a Kafka topic, keeps statistics and anomaly detectors for each model, and
    publishes alerts and metrics to topics that your people and programs subscribe to.

    \b
    See it work, with a Kafka of its own:   modelvigil demo
    Use it on yours:                        modelvigil topics create
                                            modelvigil run
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@modelvigil.command(epilog=exit_codes(*CONNECTED, ExitCode.FENCED, ExitCode.STATE, ExitCode.RESTART))
@with_settings
@click.option(
    "--processes",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Workers on this machine, each a member of the group and a process of its own.",
)
@click.option("--supervised", hidden=True, metavar="NUMBER:FD", help="Which one of several this is, and its lifeline.")
@click.option(
    "--on-missing-state",
    type=click.Choice(["fail", "fresh"]),
    help="When a partition's state cannot be used: leave it alone, or begin with empty state.  [default: fail]",
)
@click.option(
    "--on-digest-mismatch",
    type=click.Choice(["fail", "accept"]),
    help="When a replay gave something else than the first run: leave it alone, or go on.  [default: fail]",
)
@click.pass_context
def run(
    context: click.Context,
    /,
    processes: int,
    supervised: str | None,
    on_missing_state: str | None,
    on_digest_mismatch: str | None,
    **options: Any,  # noqa: ANN401 - passed on
) -> int:
    """Run one worker until it is told to stop, or several.

    It learns each model's features from the model's first events; nothing has to be declared. Start more workers with
    the same group id to share the partitions. SIGTERM or Ctrl-C finishes the batch and leaves cleanly; a second one
    leaves at once, and nothing is lost by that.

    With --processes N, N workers share this machine: each is started again when it ends, and all metrics are on one
    page. In a backlog a worker keeps up to worker.engine_threads cores busy (by itself: all that it may use, at most 4,
    shared out among the N), and worker.refit_processes (1) more while it fits one-class SVMs; one more, at low
    priority, if it keeps challengers. More workers than partitions are spares.

    \b
    Examples:
      modelvigil run --bootstrap-servers kafka-1:9092,kafka-2:9092 --config modelvigil.toml
      modelvigil run --config modelvigil.toml --processes 4

    Settings come from the file, then the environment (MODELVIGIL_BOOTSTRAP_SERVERS, MODELVIGIL_GROUP_ID, and
    MODELVIGIL_KAFKA_<PROPERTY> for every property of librdkafka), then these options; later ones win.
    """
    policies = {"worker.on_missing_state": on_missing_state, "worker.on_digest_mismatch": on_digest_mismatch}
    settings = load(**options, policies=policies)
    if processes > 1:
        return _run_several(settings, processes, context)
    if supervised is not None:
        from worker.supervisor.group import join  # noqa: PLC0415 - Rule 2

        join(supervised, settings)
    with explained():
        from worker.app import StateError, TemporaryError, WorkerFencedError, run_worker  # noqa: PLC0415 - Rule 2

        try:
            return run_worker(settings)
        except StateError as error:
            raise Failure(ExitCode.STATE, str(error)) from None
        except WorkerFencedError as error:
            raise Failure(ExitCode.FENCED, str(error)) from None
        except TemporaryError as error:
            raise Failure(ExitCode.RESTART, str(error)) from None


def _run_several(settings: "Settings", processes: int, context: click.Context) -> int:
    """Run the same command in several processes. This one loads nothing that computes."""
    from worker.settings import SettingsError  # noqa: PLC0415 - Rule 2
    from worker.supervisor.group import run_members  # noqa: PLC0415 - Rule 2
    from worker.supervisor.policy import ExitCodes  # noqa: PLC0415 - Rule 2

    hopeless = (ExitCode.CONFIGURATION, ExitCode.USAGE, ExitCode.TOPICS)
    decision = (ExitCode.STATE, ExitCode.FENCED)
    codes = ExitCodes(
        hopeless=frozenset(hopeless),
        decision=frozenset(decision),
        by_severity=(*hopeless, *decision, ExitCode.BUG, ExitCode.UNREACHABLE, ExitCode.RESTART),
        temporary=ExitCode.RESTART,
        interrupted=ExitCode.INTERRUPTED,
    )
    try:
        return run_members(settings, processes, ["run", *_said_again(context, without="processes")], codes)
    except SettingsError as error:
        raise Failure(ExitCode.CONFIGURATION, str(error)) from None


def _said_again(context: click.Context, *, without: str) -> Iterator[str]:
    """Yield the options of a command as they were given, but one."""
    for option in context.command.params:
        assert option.name is not None
        value = context.params[option.name]
        if option.name != without and value is not None:
            for each in value if option.multiple else (value,):
                yield f"{option.opts[-1]}={each}"


@modelvigil.command(
    epilog=exit_codes(*CONFIGURED, ExitCode.UNREACHABLE, ExitCode.TOPICS, ExitCode.LOCAL_KAFKA, ExitCode.RESTART)
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
@click.option(
    "--keep",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE",
    help="Leave the topics in your Kafka, and the worker's configuration in this file: for `replay`, say.",
)
@click.option(
    "--produce-only",
    is_flag=True,
    help="Only write events and labels, to the topics of workers that run already; the fault comes every 5 minutes.",
)
def demo(
    seconds: float | None, rate: int, bootstrap_servers: str | None, keep: Path | None, *, produce_only: bool
) -> int:
    """Show everything at work, on real data.

    Trains three scikit-learn models on the image segments that River ships, streams their answers on held-out rows
    to a real Kafka, changes the unit of one feature on the way, runs a worker as its own process, and shows what comes
    out of the alert and metric topics. At the end it says what was counted and whether the fault was caught.

    \b
    Examples:
      modelvigil demo
      modelvigil demo --seconds 45
      modelvigil demo --produce-only --bootstrap-servers kafka:9092
    """
    from rich.console import Console  # noqa: PLC0415 - Rule 2

    if keep is not None and bootstrap_servers is None:
        raise click.UsageError("--keep needs --bootstrap-servers: a Kafka of the demo's own ends with it.")
    if produce_only:
        return _produce(seconds, rate, bootstrap_servers, keep)
    with explained():
        from worker.demo.processes import WorkerEndedError  # noqa: PLC0415 - Rule 2
        from worker.demo.report import lines  # noqa: PLC0415 - Rule 2
        from worker.demo.run import Options, run_demo  # noqa: PLC0415 - heavy, and needed here only
        from worker.edges.broker import BrokerError  # noqa: PLC0415 - heavy, and needed here only

        try:
            result = run_demo(Options(seconds, rate, bootstrap_servers, os.environ, keep), Console())
        except BrokerError as error:
            raise Failure(ExitCode.LOCAL_KAFKA, str(error)) from None
        except WorkerEndedError as error:
            raise Failure(ExitCode.RESTART, str(error)) from None
    click.echo("\n".join(lines(result)))
    return ExitCode.DONE if result.is_complete or result.behind else ExitCode.BUG


def _produce(seconds: float | None, rate: int, bootstrap_servers: str | None, keep: Path | None) -> int:
    """Do what `demo --produce-only` says. Topics and connection are those of the environment, as for workers."""
    from rich.console import Console  # noqa: PLC0415 - Rule 2

    if bootstrap_servers is None or keep is not None:
        raise click.UsageError("--produce-only needs --bootstrap-servers, and goes without --keep.")
    settings = load(None, bootstrap_servers, None, None, ())
    with explained():
        from worker.demo.producing import NotDeliveredError, produce  # noqa: PLC0415 - Rule 2

        try:
            produced = produce(settings, seconds, rate, Console())
        except NotDeliveredError as error:
            raise Failure(ExitCode.RESTART, str(error)) from None
    click.echo(f"{produced.predictions:,} events written in {produced.seconds:.1f} s")
    return ExitCode.DONE


@modelvigil.group(invoke_without_command=True)
@click.pass_context
def topics(context: click.Context) -> None:
    """Create or check the topics."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@topics.command(epilog=exit_codes(*CONNECTED))
@with_settings
@click.option("--partitions", type=click.IntRange(1, 10_000), default=4, show_default=True, help="Of each new topic.")
@click.option(
    "--replication-factor", type=click.IntRange(1, 100), help="Of each new topic.  [default: what the brokers say]"
)
def create(partitions: int, replication_factor: int | None, **options: Any) -> int:  # noqa: ANN401 - passed on
    """Create the topics that do not exist yet.

    Those that exist stay as they are. `predictions` and `labels` get the same number of partitions, so that an event
    and its label meet in one worker. The topic of the worker's state is compacted.

    \b
    Example:
      modelvigil topics create --bootstrap-servers kafka-1:9092 --partitions 12
    """
    settings = load(**options)
    with explained():
        from worker.cluster import create_topics  # noqa: PLC0415 - Rule 2

        for line in create_topics(settings, partitions, replication_factor):
            click.echo(line)
    return ExitCode.DONE


@topics.command(epilog=exit_codes(*CONNECTED))
@with_settings
def check(**options: Any) -> int:  # noqa: ANN401 - passed on as they are
    """Check that every topic is as it must be.

    Changes nothing.

    \b
    Example:
      modelvigil topics check --bootstrap-servers kafka-1:9092
    """
    settings = load(**options)
    with explained():
        from worker.cluster import check_topics  # noqa: PLC0415 - Rule 2

        warnings = check_topics(settings)
    for line in warnings:
        click.echo(f"warning: {line}", err=True)
    click.echo("all topics are as they must be")
    return ExitCode.DONE


@modelvigil.command(epilog=exit_codes(*ALWAYS))
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("schemas"),
    show_default=True,
    help="Where to write them.",
)
def schemas(directory: Path) -> int:
    """Write the JSON Schemas of all topics.

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


@modelvigil.command("check-config", epilog=exit_codes(*CONFIGURED))
@with_settings
def check_config(**options: Any) -> int:  # noqa: ANN401 - passed on as they are
    """Check the configuration and print it.

    Prints every setting that `run` would use, as a TOML file to begin with; secrets are masked. Nothing is started, and
    no broker is asked.

    \b
    Example:
      modelvigil check-config --config modelvigil.toml
    """
    settings = load(**options)
    from worker.settings import describe  # noqa: PLC0415 - Rule 2

    click.echo("\n".join(_toml_lines(describe(settings), "")))
    return ExitCode.DONE


def _toml_lines(table: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Write nested settings as TOML, one dotted name a line: the names that `--set` takes."""
    for key, value in table.items():
        name = prefix + (key if key.replace("_", "").isalnum() else json.dumps(key))
        if isinstance(value, Mapping):
            yield from _toml_lines(value, f"{name}.")
        elif value is not None:
            yield f"{name} = {_toml_value(value)}"


def _toml_value(value: object) -> str:
    """Write a value on one line; tables in a list are inline ones, without what is not set."""
    if isinstance(value, Mapping):
        pairs = (f"{json.dumps(key)} = {_toml_value(each)}" for key, each in value.items() if each is not None)
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    return json.dumps(value, ensure_ascii=False)


for command in (state, feedback, notify, ship, replay, doctor, compile_kernels):
    modelvigil.add_command(command)
