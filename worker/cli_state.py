"""The commands `modelvigil state ...`: for people who look after the stored state of a group."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from worker.cli_options import CONNECTED, ExitCode, Failure, exit_codes, explained, load, with_settings

if TYPE_CHECKING:
    from worker.state_admin.session import Session

Command = TypeVar("Command", bound=Callable[..., Any])
_MEMBERS = "With 8 it ends as well while workers are running: stop them first."
_CHANGED_NOTHING = "nothing has been changed: say --yes to do it"

with_partitions = click.option(
    "--partition",
    "partitions",
    type=click.IntRange(min=0),
    multiple=True,
    metavar="N",
    help="Only this one. Repeatable.",
)
with_file = click.option(
    "--file", "path", type=click.Path(dir_okay=False, path_type=Path), required=True, metavar="FILE", help="The file."
)
with_yes = click.option("--yes", is_flag=True, help="Do it; without this, only say what would be done.")


@contextmanager
def _session(options: dict[str, Any]) -> Iterator["Session"]:
    """Load the settings, connect, and turn what goes wrong into a `Failure`."""
    settings = load(**options)
    with explained():
        from worker.ports import SinkError, SourceError  # noqa: PLC0415 - Rule 2 of cli
        from worker.state_admin.container import FileError  # noqa: PLC0415 - Rule 2 of cli
        from worker.state_admin.session import (  # noqa: PLC0415 - Rule 2 of cli
            SelectionError,
            StateAdminError,
            open_session,
        )

        try:
            with open_session(settings) as session:
                yield session
        except (SelectionError, FileError) as error:
            raise Failure(ExitCode.USAGE, str(error)) from None
        except StateAdminError as error:
            raise Failure(ExitCode.STATE, str(error)) from None
        except (SourceError, SinkError) as error:
            raise Failure(ExitCode.UNREACHABLE, str(error)) from None


@click.group(invoke_without_command=True)
@click.pass_context
def state(context: click.Context) -> None:
    """Look at stored state, copy it to a file and back, or forget it."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@state.command(epilog=exit_codes(*CONNECTED, ExitCode.STATE))
@with_settings
@with_partitions
@click.option("--models", is_flag=True, help="List every part of every model, too.")
@click.option("--verify", is_flag=True, help="Read every part and compare its checksum, too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
def inspect(partitions: Sequence[int], models: bool, verify: bool, as_json: bool, **options: Any) -> int:  # noqa: ANN401, FBT001 - given by click, by name
    """Show where each partition is, and what is stored of it.

    Looks at the committed position, the snapshot that it points at, what would have to be replayed, and whether it was
    written here and with these settings. Changes nothing; workers may be running. Ends with 8 if a worker could not go
    on somewhere by itself.

    \b
    Examples:
      modelvigil state inspect
      modelvigil state inspect --partition 3 --models --verify
    """
    with _session(options) as session:
        import msgspec  # noqa: PLC0415 - Rule 2 of cli
        from rich.console import Console  # noqa: PLC0415 - Rule 2 of cli

        from worker.state_admin.inspection import Depth, inspect_state  # noqa: PLC0415 - Rule 2 of cli
        from worker.state_admin.table import WIDTH, lines, table, title  # noqa: PLC0415 - Rule 2 of cli

        report = inspect_state(session, session.selected(partitions), Depth(models, verify))
        if as_json:
            click.echo(msgspec.json.format(msgspec.json.encode(report)))
        else:
            console = Console()
            click.echo(title(report))
            (console if console.is_terminal else Console(width=WIDTH)).print(table(report))
            click.echo("\n".join(lines(report)))
    return ExitCode.DONE if report.sound else ExitCode.STATE


@state.command(epilog=exit_codes(*CONNECTED, ExitCode.STATE))
@with_settings
@with_partitions
@with_file
def export(partitions: Sequence[int], path: Path, **options: Any) -> int:  # noqa: ANN401 - passed on as they are
    """Copy the stored state to a file.

    The file holds the newest snapshot of each partition. What came after it is not in it, so stop the workers first:
    then they store everything. An existing file is replaced when the new one is complete. It holds sampled rows of your
    models' inputs: keep it like those.

    \b
    Example:
      modelvigil state export --file modelvigil.state
    """
    with _session(options) as session:
        from worker.state_admin.exporting import export_state  # noqa: PLC0415 - Rule 2 of cli

        lines = export_state(session, path, session.selected(partitions))
    click.echo("\n".join([*lines, f"written to {path}"]))
    return ExitCode.DONE


@state.command("import", epilog=f"{exit_codes(*CONNECTED, ExitCode.STATE)}\n\n{_MEMBERS}")
@with_settings
@with_partitions
@with_file
@click.option(
    "--at",
    type=click.Choice(["committed", "earliest", "latest"]),
    default="committed",
    show_default=True,
    help="Where they go on: at the position that is committed here, at the first record, or behind the last one.",
)
@with_yes
def import_(
    partitions: Sequence[int],
    path: Path,
    at: Literal["committed", "earliest", "latest"],
    yes: bool,  # noqa: FBT001 - given by click, by name
    **options: Any,  # noqa: ANN401 - passed on as they are
) -> int:
    """Bring stored state back from a file.

    Each partition in the file gets its state as a new snapshot, and goes on with it at the position chosen, as after a
    restart. It may come from another group or cluster, but from the same [engine] options, those of alerts apart.
    Feedback goes on where it was committed here, else at its first record. All of it is checked before anything is
    written, and read back before it counts. What was stored before is deleted.

    \b
    Example:
      modelvigil state import --file modelvigil.state --at committed --yes
    """
    with _session(options) as session:
        from worker.state_admin.importing import import_state  # noqa: PLC0415 - Rule 2 of cli

        for line in import_state(session, path, partitions, at, write=yes):
            click.echo(line)
    return _done(yes)


@state.command(epilog=f"{exit_codes(*CONNECTED, ExitCode.STATE)}\n\n{_MEMBERS}")
@with_settings
@with_partitions
@with_yes
def reset(partitions: Sequence[int], yes: bool, **options: Any) -> int:  # noqa: ANN401, FBT001 - given by click, by name
    """Forget stored state on purpose.

    Deletes what this group has stored and keeps the committed positions, all in one transaction. Workers then begin
    there with empty state; labels begin as [worker] start_at says, feedback at its first record. Keep a copy first:
    modelvigil state export.

    \b
    Example:
      modelvigil state reset --partition 3 --yes
    """
    with _session(options) as session:
        from worker.state_admin.forgetting import plan_reset, reset_state  # noqa: PLC0415 - Rule 2 of cli

        plan = plan_reset(session, session.selected(partitions))
        for each in plan:
            click.echo(each.line)
        if yes:
            reset_state(session, plan)
    return _done(yes)


def _done(yes: bool) -> int:  # noqa: FBT001 - the one answer of the user
    if not yes:
        raise Failure(ExitCode.USAGE, _CHANGED_NOTHING)
    return ExitCode.DONE
