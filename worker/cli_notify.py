"""The command `modelvigil notify`: brings alerts to people and to programs."""

from collections.abc import Sequence
from typing import Any

import click

from worker.cli_options import CONNECTED, ExitCode, Failure, exit_codes, explained, load, with_settings


@click.command(epilog=exit_codes(*CONNECTED, ExitCode.RESTART))
@with_settings
@click.option("targets", "--target", multiple=True, metavar="NAME", help="Only this one. Repeatable.")
@click.option("--once", is_flag=True, help="Deliver what is there, then end.")
@click.option("--dry-run", is_flag=True, help="Print what would be sent; send and commit nothing.")
@click.option(
    "--start-at",
    type=click.Choice(["earliest", "latest"]),
    help="Where a target begins that was never served.  [default: latest]",
)
def notify(targets: Sequence[str], once: bool, dry_run: bool, start_at: str | None, **options: Any) -> int:  # noqa: ANN401, FBT001 - given by click, by name
    """Deliver alerts to webhooks.

    Reads the topic of alerts and posts each step of each incident to every target of [[notify.targets]]: Alertmanager
    (API v2), Slack and what takes the same messages, or any webhook (JSON). At least once, in order, with an
    idempotency key; signed where the target has a secret. A target that is down makes nobody else wait; what one
    refuses is a dead letter. It needs no worker beside it; start more of them to share the partitions.

    \b
    Examples:
      modelvigil notify --config modelvigil.toml
      modelvigil notify --config modelvigil.toml --once --dry-run --start-at earliest

    URLs, secrets and tokens can come from files (url_file, ...) and from the environment:
    MODELVIGIL_NOTIFY_<TARGET>_URL, _SECRET, _BEARER_TOKEN, each also with _FILE behind it.
    """
    settings = load(**options, policies={"notify.start_at": start_at})
    with explained():
        from worker.edges.http_client import HttpClientError  # noqa: PLC0415 - Rule 2 of cli
        from worker.notify.running import Mode, run_notify  # noqa: PLC0415 - Rule 2 of cli
        from worker.notify.selection import SelectionError, selected  # noqa: PLC0415 - Rule 2 of cli
        from worker.ports import SinkError, SourceError  # noqa: PLC0415 - Rule 2 of cli
        from worker.settings import with_secrets  # noqa: PLC0415 - Rule 2 of cli

        try:
            run_notify(with_secrets(selected(settings, targets)), Mode(once, click.echo if dry_run else None))
        except SelectionError as error:
            raise Failure(ExitCode.USAGE, str(error)) from None
        except HttpClientError as error:
            raise Failure(ExitCode.CONFIGURATION, str(error)) from None
        except (SourceError, SinkError) as error:
            raise Failure(ExitCode.RESTART, str(error)) from None
    return ExitCode.DONE
