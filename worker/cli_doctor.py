"""The command `modelvigil doctor`."""

from typing import Any

import click

from worker.cli_options import CONNECTED, ExitCode, Failure, exit_codes, explained, load, with_settings

_AREAS = {
    "connection": ExitCode.UNREACHABLE,
    "access": ExitCode.UNREACHABLE,
    "machine": ExitCode.CONFIGURATION,
    "elasticsearch": ExitCode.CONFIGURATION,
    "state": ExitCode.STATE,
}
"""How it ends when something is wrong; with all others it is the topics or what is in them."""


@click.command(epilog=exit_codes(*CONNECTED, ExitCode.STATE))
@with_settings
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
@click.option(
    "--sample",
    type=click.IntRange(0, 100_000),
    default=1_000,
    show_default=True,
    help="So many of the newest records of predictions, and of labels, are looked at.",
)
@click.option(
    "--patience",
    type=click.FloatRange(0.5, 120.0),
    default=4.0,
    show_default=True,
    metavar="SECONDS",
    help="So long each question may take; all together five times that. More for a slow network or machine.",
)
@click.option("--acls", is_flag=True, help="Ask nobody: print the kafka-acls commands for all that is needed.")
@click.option(
    "--for",
    "uses",
    multiple=True,
    metavar="COMMAND",
    help="With --acls: only for this command (run, notify, ship, ...). Repeatable.",
)
@click.option(
    "--principal",
    metavar="USER",
    help="As whom Kafka knows this user.  [default: User:<sasl.username>, or User:modelvigil]",
)
def doctor(
    as_json: bool,  # noqa: FBT001 - given by click, by name
    sample: int,
    patience: float,
    acls: bool,  # noqa: FBT001 - given by click, by name
    uses: tuple[str, ...],
    principal: str | None,
    **options: Any,  # noqa: ANN401 - as click has parsed them
) -> int:
    """Check what a worker needs, and say what to change.

    Connects as the settings say and looks at the brokers, what this user may do, clocks, topics, the group, stored
    state, the newest events, this machine, and Elasticsearch, if it is set up. Nothing is written to any topic, no
    group is joined; workers may be running. A transactional id (<group id>-doctor) is registered, as each start of a
    worker does, to see whether that is allowed. Takes less than 20 s, unless --patience says otherwise. Warnings and
    what cannot be found out do not change the exit code.

    \b
    Examples:
      modelvigil doctor --config modelvigil.toml
      modelvigil doctor --json | jq '.findings[] | select(.status == "error")'
      modelvigil doctor --acls --for run --principal User:CN=modelvigil
    """
    settings = load(**options)
    if acls:
        return _print_acls(settings, uses, principal)
    if uses:
        raise click.UsageError("--for goes with --acls.")
    with explained():
        import msgspec  # noqa: PLC0415 - Rule 2 of cli
        from rich.console import Console  # noqa: PLC0415 - Rule 2 of cli

        from worker.doctor.gathering import Options  # noqa: PLC0415 - Rule 2 of cli
        from worker.doctor.report import WIDTH, blamed, summary, table  # noqa: PLC0415 - Rule 2 of cli
        from worker.doctor.running import examine, principal_of  # noqa: PLC0415 - Rule 2 of cli

        report = examine(settings, Options(sample, patience), principal or principal_of(settings))
        if as_json:
            click.echo(msgspec.json.format(msgspec.json.encode(report)))
        else:
            console = Console()
            (console if console.is_terminal else Console(width=WIDTH)).print(table(report))
            click.echo("\n".join(summary(report)))
        area = blamed(report.findings)
    return ExitCode.DONE if area is None else _AREAS.get(area, ExitCode.TOPICS)


def _print_acls(settings: Any, uses: tuple[str, ...], principal: str | None) -> int:  # noqa: ANN401 - see `load`
    from worker.doctor.acls import Use, commands, grants  # noqa: PLC0415 - Rule 2 of cli
    from worker.doctor.running import principal_of  # noqa: PLC0415 - Rule 2 of cli

    named = {each: [use for use in Use if f"{use} ".startswith(f"{each} ")] for each in uses}
    unknown = [each for each, found in named.items() if not found]
    if unknown:
        raise Failure(ExitCode.USAGE, f"--for {unknown[0]}: known are {'; '.join(Use)}")
    chosen = [use for use in Use if not uses or any(use in found for found in named.values())]
    wanted = list(grants(settings, chosen))
    for line in commands(wanted, principal or principal_of(settings), settings.kafka.bootstrap_servers):
        click.echo(line)
    return ExitCode.DONE
