"""The commands `modelvigil ship ...`: copies of what workers publish, in other systems."""

from typing import Any

import click

from worker.cli_options import CONNECTED, ExitCode, Failure, exit_codes, explained, load, with_settings


@click.group(invoke_without_command=True)
@click.pass_context
def ship(context: click.Context) -> None:
    """Copy what workers publish into other systems."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@ship.command(epilog=exit_codes(*CONNECTED, ExitCode.RESTART))
@with_settings
@click.option("--setup", is_flag=True, help="Install templates, pipeline and policies in the cluster, then end.")
@click.option("--once", is_flag=True, help="Ship what is there, then end.")
@click.option("--dry-run", is_flag=True, help="Print documents; send and commit nothing. With --once it ends.")
@click.option(
    "--start-at",
    type=click.Choice(["earliest", "latest"]),
    help="Where a topic begins that was never shipped.  [default: earliest]",
)
def elasticsearch(setup: bool, once: bool, dry_run: bool, start_at: str | None, **options: Any) -> int:  # noqa: ANN401, FBT001 - given by click, by name
    """Ship alerts, metrics, maintenance events and dead letters to Elasticsearch or OpenSearch.

    Each record becomes one document of a data stream, modelvigil-alerts-default and so on, with an id of its own: what
    is sent again is not stored again. A position is committed when the cluster has all before it. A cluster that is
    down or overloaded is waited for; a document that it refuses becomes a dead letter. It needs no worker beside it;
    start more of them to share the partitions.

    \b
    Examples:
      modelvigil ship elasticsearch --config modelvigil.toml --setup
      modelvigil ship elasticsearch --config modelvigil.toml
      modelvigil ship elasticsearch --config modelvigil.toml --once --dry-run

    Password and API key can come from files (password_file, api_key_file) and from the environment:
    MODELVIGIL_ELASTICSEARCH_PASSWORD, _API_KEY, each also with _FILE behind it; addresses from _URLS.
    """
    if setup and (once or dry_run):
        raise click.UsageError("--setup goes alone: run it first, then ship.")
    settings = load(**options, policies={"elasticsearch.start_at": start_at})
    with explained():
        from worker.edges.http_client import HttpClientError  # noqa: PLC0415 - Rule 2 of cli
        from worker.ports import SinkError, SourceError  # noqa: PLC0415 - Rule 2 of cli
        from worker.settings import with_elasticsearch_secrets  # noqa: PLC0415 - Rule 2 of cli
        from worker.ship.preparing import ClusterError  # noqa: PLC0415 - Rule 2 of cli
        from worker.ship.running import Mode, run_setup, run_ship  # noqa: PLC0415 - Rule 2 of cli

        try:
            complete = with_elasticsearch_secrets(settings)
            if setup:
                for line in run_setup(complete.elasticsearch):
                    click.echo(line)
            else:
                run_ship(complete, Mode(once, click.echo if dry_run else None))
        except (ClusterError, HttpClientError) as error:
            raise Failure(ExitCode.CONFIGURATION, str(error)) from None
        except (SourceError, SinkError) as error:
            raise Failure(ExitCode.RESTART, str(error)) from None
    return ExitCode.DONE
