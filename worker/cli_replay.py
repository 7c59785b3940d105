"""The command `modelvigil replay`: what would other options have told of the same input?"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from worker.cli_options import CONNECTED, ExitCode, Failure, exit_codes, explained, load, with_settings

if TYPE_CHECKING:
    from worker.replay.run import Report, Wanted

DIFFERENT = 1
"""As `diff` ends when files differ."""
_EPILOG = f"{exit_codes(*CONNECTED)}\n    1  There are differences, and --fail-on-difference was given."


@click.command(epilog=_EPILOG)
@with_settings
@click.option(
    "--from", "begin", metavar="TIME", help="RFC 3339, epoch ms, or -24h.  [default: all that the input still holds]"
)
@click.option(
    "--to", "end", metavar="TIME", help="The same; not itself in the range.  [default: as far as the group has come]"
)
@click.option(
    "--warm-up",
    default="all",
    show_default=True,
    metavar="AMOUNT",
    help="Input before --from to learn from: events of each partition (50000), a duration (6h), or all.",
)
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Compare with a replay under the [engine] options of this file.  [default: with what was published]",
)
@click.option(
    "--partition",
    "partitions",
    type=click.IntRange(min=0),
    multiple=True,
    metavar="N",
    help="Only this one. Repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of tables.")
@click.option("--fail-on-difference", is_flag=True, help="End with 1 if an incident is on one side only.")
def replay(
    begin: str | None,
    end: str | None,
    warm_up: str,
    against: Path | None,
    partitions: Sequence[int],
    as_json: bool,  # noqa: FBT001 - given by click, by name
    fail_on_difference: bool,  # noqa: FBT001 - given by click, by name
    **options: Any,  # noqa: ANN401 - passed on as they are
) -> int:
    """Play a range of the input again, and compare incidents.

    Reads predictions, labels and feedback through the same code as a worker, under the [engine] options of --config
    and --set, and prints which incidents would have been told, against those that were published. Joins no group,
    writes nothing; workers may be running.

    Ranges of time are those of the Kafka records for what is read, and of the events for the incidents that count.
    The order in which a worker took labels against predictions, and its ticks, are made up from the records' times:
    what rests on them can open a little earlier or later, which is told as shifted and is no difference.

    \b
    Examples:
      modelvigil replay --from -24h --config candidate.toml
      modelvigil replay --from 2026-11-25T00:00:00Z --to 2026-11-26T00:00:00Z --warm-up 50000 --json
      modelvigil replay --fail-on-difference
    """
    settings = load(**options)
    with explained():
        from worker.ports import SourceError  # noqa: PLC0415 - Rule 2 of cli
        from worker.replay.run import SelectionError, run_replay  # noqa: PLC0415 - Rule 2 of cli
        from worker.replay.screen import bar  # noqa: PLC0415 - Rule 2 of cli

        wanted = _wanted(begin, end, warm_up, partitions, against)
        try:
            with bar() as progress:
                report = run_replay(settings, wanted, progress)
        except SelectionError as error:
            raise Failure(ExitCode.USAGE, str(error)) from None
        except SourceError as error:
            raise Failure(ExitCode.UNREACHABLE, str(error)) from None
    _show_json(report) if as_json else _show(report)
    return DIFFERENT if fail_on_difference and report.differences else ExitCode.DONE


def _wanted(
    begin: str | None, end: str | None, warm_up: str, partitions: Sequence[int], against: Path | None
) -> "Wanted":
    """Read what the command line says. Raises Failure."""
    from worker.replay.moments import Span, moment_of, warm_up_of  # noqa: PLC0415 - Rule 2 of cli
    from worker.replay.run import Wanted  # noqa: PLC0415 - Rule 2 of cli
    from worker.times import TimeError  # noqa: PLC0415 - Rule 2 of cli

    now_ms = int(time.time() * 1000)
    try:
        span = Span(*(None if text is None else moment_of(text, now_ms) for text in (begin, end)))
        amount = warm_up_of(warm_up)
    except TimeError as error:
        raise Failure(ExitCode.USAGE, str(error)) from None
    if span.from_ms is not None and span.to_ms is not None and span.from_ms >= span.to_ms:
        raise Failure(ExitCode.USAGE, "--from must be before --to")
    other = None if against is None else load(against, None, None, None, ()).engine
    return Wanted(span, amount, partitions, other)


def _show_json(report: "Report") -> None:
    import msgspec  # noqa: PLC0415 - Rule 2 of cli

    click.echo(msgspec.json.format(msgspec.json.encode(report)))


def _show(report: "Report") -> None:
    """Print what it says, then the tables, then what one should know."""
    from rich.console import Console  # noqa: PLC0415 - Rule 2 of cli

    from worker.replay import screen  # noqa: PLC0415 - Rule 2 of cli

    console = Console()
    console = console if console.is_terminal else Console(width=screen.WIDTH)
    click.echo(screen.title(report))
    click.echo("\n".join(screen.verdict(report)))
    if report.kinds:
        console.print(screen.kinds(report))
        console.print(screen.incidents(report))
    for note in report.notes:
        click.echo(f"note: {note}")
