"""The commands `modelvigil feedback ...`: for people who are woken by alerts, and want fewer of the wrong ones."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from worker.cli_options import CONNECTED, Command, ExitCode, Failure, exit_codes, explained, load, with_settings

if TYPE_CHECKING:
    from worker.core.events import FeedbackEvent
    from worker.feedback_admin.session import Session


def _author(_context: click.Context, _option: click.Parameter, name: str | None) -> str:
    from worker.feedback_admin.sending import this_author  # noqa: PLC0415 - Rule 2 of cli

    return name or this_author()


with_reason = partial(click.option, "--reason", metavar="TEXT", help="Why, for those who read it later.")
with_author = click.option(
    "--author", callback=_author, metavar="NAME", help="Who says so.  [default: you, as user@host]"
)


@contextmanager
def _session(options: dict[str, Any], *needed: str) -> Iterator["Session"]:
    """Load the settings, look at the topics, and turn what goes wrong into a `Failure`."""
    settings = load(**options)
    with explained():
        from worker.feedback_admin.lookup import LookupFailedError  # noqa: PLC0415 - Rule 2 of cli
        from worker.feedback_admin.sending import RefusedError  # noqa: PLC0415 - Rule 2 of cli
        from worker.feedback_admin.session import open_session  # noqa: PLC0415 - Rule 2 of cli

        try:
            with open_session(settings, needed) as session:
                yield session
        except (LookupFailedError, RefusedError) as error:
            raise Failure(ExitCode.USAGE, str(error)) from None


@click.group(invoke_without_command=True)
@click.pass_context
def feedback(context: click.Context) -> None:
    """Silence alerts for a while, and say which were worth telling.

    Each command writes one event to the topic `feedback`. Workers take it at once, and tell on the topic `maintenance`
    what it did, with its author. Any of it can be undone.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _command(name: str | None = None, text: str | None = None) -> Callable[[Command], click.Command]:
    """Make a function a command of the group that needs Kafka; without name and text, these are the function's."""

    def add(function: Command) -> click.Command:
        return feedback.command(name, help=text, epilog=exit_codes(*CONNECTED))(with_settings(function))

    return add


def _send(session: "Session", event: "FeedbackEvent", what: str) -> None:
    """Send an event, and say how to undo it."""
    from worker.feedback_admin.sending import send  # noqa: PLC0415 - Rule 2 of cli
    from worker.feedback_admin.table import sent_lines  # noqa: PLC0415 - Rule 2 of cli

    send(session, event)
    click.echo("\n".join(sent_lines(event.feedback_id, what)))


@_command()
@click.option("--model", default="*", metavar="PATTERN", help="Of which models: 'fraud-*'.  [default: all]")
@click.option("--kind", default="*", metavar="PATTERN", help="Which kinds: 'quality.*'.  [default: all]")
@click.option("--segment", metavar="PATTERN", help="Only alerts about this segment: 'region=eu-*'.")
@click.option("--feature", metavar="PATTERN", help="Only alerts led by this feature or metric.")
@click.option("--for", "length", metavar="DURATION", help="How long: 90s, 30m, 2h, 1h30m, 7d.")
@click.option("--until", "end", metavar="TIME", help="Or when it ends.")
@click.option("--from", "begin", metavar="TIME", help="When it begins.  [default: at once]")
@with_reason(required=True)
@with_author
def silence(  # noqa: PLR0913 - one for each option
    *,
    model: str,
    kind: str,
    segment: str | None,
    feature: str | None,
    length: str | None,
    end: str | None,
    begin: str | None,
    reason: str,
    author: str,
    **options: Any,  # noqa: ANN401 - passed on as they are
) -> int:
    """Let no incident of a scope open for a while.

    What would have opened is counted and listed on the topic `maintenance`; what is still wrong when the silence ends
    opens then. Incidents that are open already go on, without updates until then. The time is that of the events.

    TIME: 2026-11-26T22:00:00Z, milliseconds since 1970, or a duration from now like 2h or -30m.

    \b
    Examples:
      modelvigil feedback silence --model 'fraud-*' --for 2h --reason "planned backfill"
      modelvigil feedback silence --kind 'quality.*' --until 2026-11-27T06:00Z --reason "known, T-12"
    """
    from worker.times import TimeError, current, duration, moment  # noqa: PLC0415 - Rule 2 of cli

    if (length is None) == (end is None):
        raise click.UsageError("Say either --for or --until.")
    now = current()
    try:
        begins = None if begin is None else moment(begin, now)
        ends = moment(end, now) if end is not None else (begins or now) + duration(length or "")
    except (TimeError, OverflowError) as error:
        raise click.UsageError(f"{error}.") from None
    if ends <= now:
        raise click.UsageError("The silence would be over already.")
    with _session(options, "feedback") as session:
        from worker.core.events import Scope  # noqa: PLC0415 - Rule 2 of cli
        from worker.feedback_admin.sending import silence as event_of  # noqa: PLC0415 - Rule 2 of cli
        from worker.feedback_admin.table import about  # noqa: PLC0415 - Rule 2 of cli
        from worker.times import shown  # noqa: PLC0415 - Rule 2 of cli

        scope = Scope(model=model, kind=kind, segment=segment, feature=feature)
        since = "at once" if begins is None else f"from {shown(begins)}"
        event = event_of(scope, begins, ends, author, reason)
        _send(session, event, f"{about(scope)}, {since} until {shown(ends)}")
    return ExitCode.DONE


class _Verdict(NamedTuple):
    """What can be said of an incident, as the help of its command tells it."""

    name: str
    meaning: str
    effect: str
    example: str
    """A reason."""

    @property
    def text(self) -> str:
        """The help of the command."""
        example = f'modelvigil feedback {self.name} 3f9a1c --reason "{self.example}"'
        which = "INCIDENT_ID is the `incident_id` of an alert, or its first digits."
        return f"{self.meaning}\n\n{self.effect} {which}\n\n\b\nExample:\n  {example}"


_VERDICTS = (
    _Verdict(
        "true-positive",
        "Say that an incident was worth telling.",
        "Takes back what one false positive has asked of its kind and model; never is less asked than what is "
        "configured.",
        "upstream sent cents",
    ),
    _Verdict(
        "false-positive",
        "Say that an incident was not worth telling.",
        "To open for this model, its kind must from now on be twice as far beyond its threshold; after several of "
        "these 16 times at most. An open incident that is not that far ends.",
        "month end, as always",
    ),
    _Verdict(
        "ignore-like-this",
        "Let incidents like this one open no more.",
        "Like it are those of the same kind, segment, leading feature and direction that are at most twice as strong. "
        "The incident itself goes on.",
        "the feature is not used any more",
    ),
)


def _add(verdict: _Verdict) -> None:
    """Add the command that says something of an incident."""

    @_command(verdict.name, verdict.text)
    @click.argument("incident_id", metavar="INCIDENT_ID")
    @with_reason(default="")
    @with_author
    def say(incident_id: str, reason: str, author: str, **options: Any) -> int:  # noqa: ANN401 - passed on as they are
        with _session(options, "feedback", "alerts") as session:
            from worker.feedback_admin.lookup import find_incident  # noqa: PLC0415 - Rule 2 of cli
            from worker.feedback_admin.sending import verdict as event_of  # noqa: PLC0415 - Rule 2 of cli

            incident = find_incident(session, incident_id)
            event = event_of(verdict.name.replace("-", "_"), incident, author, reason)
            _send(session, event, f"{verdict.name.replace('-', ' ')}, of incident {incident}")
        return ExitCode.DONE


for _verdict in _VERDICTS:
    _add(_verdict)


@_command()
@click.argument("feedback_id", metavar="FEEDBACK_ID")
@with_reason(default="")
@with_author
def undo(feedback_id: str, reason: str, author: str, **options: Any) -> int:  # noqa: ANN401 - passed on as they are
    """Undo an earlier feedback event.

    FEEDBACK_ID is what the command printed that sent it, or the first digits of that; `feedback list` has it, too.

    \b
    Example:
      modelvigil feedback undo 8c1e55f0
    """
    with _session(options, "feedback") as session:
        from worker.feedback_admin.ledger import sent  # noqa: PLC0415 - Rule 2 of cli
        from worker.feedback_admin.sending import send  # noqa: PLC0415 - Rule 2 of cli
        from worker.feedback_admin.sending import undo as event_of  # noqa: PLC0415 - Rule 2 of cli

        before, is_complete = sent(session.records("feedback")), session.begin("feedback") == 0
        event = event_of(before, feedback_id, author, reason, is_complete=is_complete)
        send(session, event)
        if event.undoes not in before:
            click.echo(f"the topic does not hold {event.undoes} any more: it was taken as you wrote it", err=True)
        click.echo(f"sent {event.feedback_id}: {event.undoes} is undone")
    return ExitCode.DONE


@_command("list")
@click.option("--all", "everything", is_flag=True, help="Also what has ended, was undone, or was refused.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
def list_feedback(everything: bool, as_json: bool, **options: Any) -> int:  # noqa: ANN401, FBT001 - given by click, by name
    """Show which feedback is in force.

    Who said it, what about, until when, and what workers made of it. Changes nothing.

    \b
    Examples:
      modelvigil feedback list
      modelvigil feedback list --all --json
    """
    with _session(options, "feedback") as session:
        import msgspec  # noqa: PLC0415 - Rule 2 of cli

        from worker.feedback_admin.ledger import IN_FORCE, audited, entries, sent  # noqa: PLC0415 - Rule 2 of cli
        from worker.times import current  # noqa: PLC0415 - Rule 2 of cli

        now = current()
        effects = audited(session.records("maintenance")) if "maintenance" in session else {}
        found = entries(sent(session.records("feedback")), effects, now)
        found = [entry for entry in found if everything or entry.state in IN_FORCE]
        if as_json:
            click.echo(msgspec.json.format(msgspec.json.encode(found)))
        else:
            from rich.console import Console  # noqa: PLC0415 - Rule 2 of cli

            from worker.feedback_admin.table import WIDTH, table  # noqa: PLC0415 - Rule 2 of cli

            console = Console()
            if found:
                (console if console.is_terminal else Console(width=WIDTH)).print(table(found, now))
            else:
                click.echo("no feedback" if everything else "no feedback is in force")
        if session.begin("feedback") > 0:
            click.echo("retention has removed older feedback, which may still be in force", err=True)
    return ExitCode.DONE
