"""Shows a replay to people: how far it is, what it says, and a table of incidents."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from worker.replay.difference import Caught
from worker.replay.incidents import Incident
from worker.replay.run import Report

WIDTH = 160
"""Where the terminal does not say how wide it is."""
ROWS_MAX = 200
"""Of each part of the table; JSON has all."""

_YEAR_9999_MS = 253_402_300_799_999
_SECOND_MS, _MINUTE_MS, _HOUR_MS = 1_000, 60_000, 3_600_000
_BELOW_MS = 10_000


class Bar:
    """Implements `run.Progress`."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def begin(self, what: str, records: int) -> None:
        """Show a new bar in place of the last one."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(what, total=records, rate="")

    def advance(self, records: int) -> None:
        """Move it."""
        if self._task is None:
            return
        self._progress.advance(self._task, records)
        task = next(task for task in self._progress.tasks if task.id == self._task)
        self._progress.update(self._task, rate=f"{task.speed or 0.0:,.0f} records/s")


@contextmanager
def bar() -> Iterator[Bar]:
    """Show progress on standard error while this is open, if that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,}/{task.total:,}"))
    more = (TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, *more, console=console, disable=not console.is_terminal, transient=True) as progress:
        yield Bar(progress)


def title(report: Report) -> str:
    """Say what was played."""
    played = report.played
    span = f"{_moment(report.from_ms, 'the beginning')} to {_moment(report.to_ms, 'now')}"
    return (
        f"{report.topic}, {len(report.partitions)} shards, {span}: {played.predictions:,} predictions, "
        f"{played.labels:,} labels, {played.feedback:,} feedback events, in {report.seconds:g} s"
    )


def verdict(report: Report) -> Iterator[str]:
    """Say what came of it, the most important first."""
    yield f"{report.published} → {report.replayed} incidents, {_caught(report.caught)}"
    difference = report.difference
    where = "published" if report.against == "published" else "under the other options"
    more = ", ".join(f"{count} {what}" for count, what in _of_both(report) if count)
    both = f"{len(difference.both)} in both" + (f" ({more})" if more else "")
    yield (
        f"{report.differences} differences: {len(difference.only_published)} only {where}, "
        f"{len(difference.only_replayed)} only replayed; {both}"
    )


def kinds(report: Report) -> Table:
    """Return a row for each kind."""
    table = Table("kind", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("published", "replayed", "in both"):
        table.add_column(name, justify="right")
    for kind in report.kinds:
        table.add_row(kind.kind, str(kind.published), str(kind.replayed), str(kind.both))
    return table


def incidents(report: Report) -> Table:
    """Return a row for each incident: first what is on one side only."""
    table = Table(
        "", "kind", "severity", "model", "opened (UTC)", "lasted", "summary", box=box.SIMPLE_HEAD, pad_edge=False
    )
    difference = report.difference
    before = "only published" if report.against == "published" else "only before"
    sides = ((before, difference.only_published), ("only replayed", difference.only_replayed))
    for side, found in sides:
        for incident in found[:ROWS_MAX]:
            table.add_row(*_cells(side, incident))
        _add_rest(table, len(found))
    for pair in difference.both[:ROWS_MAX]:
        cells = _cells("both" if not pair.shifted else f"both, {pair.shift_ms:+,} ms", pair.published)
        if pair.published.severity != pair.replayed.severity:
            cells[2] = Text(f"{pair.published.severity} → {pair.replayed.severity}")
        table.add_row(*cells)
    _add_rest(table, len(difference.both))
    return table


def _cells(side: str, incident: Incident) -> list[Text]:
    """Names and summaries are other people's texts: no markup in them."""
    opened, lasted = _moment(incident.opened_ms, ""), _length(incident.duration_ms)
    texts = (side, incident.kind, incident.severity, incident.model_id, opened, lasted, incident.summary)
    return [Text(text) for text in texts]


def _add_rest(table: Table, count: int) -> None:
    if count > ROWS_MAX:
        table.add_row(f"and {count - ROWS_MAX} more: --json")


def _of_both(report: Report) -> tuple[tuple[int, str], ...]:
    shifts = [abs(pair.shift_ms) for pair in report.difference.both if pair.shifted]
    return (
        (report.shifted, f"shifted by up to {max(shifts, default=0):,} ms"),
        (report.other_severity, "with another severity"),
    )


def _caught(caught: Caught) -> str:
    what = "marked as true positives" if caught.what == "true_positive" else "critical ones"
    if not caught.published:
        return "none of them critical or marked as a true positive"
    return f"still catches {caught.still} of {caught.published} {what}"


def _moment(moment_ms: int | None, without: str) -> str:
    if moment_ms is None:
        return without
    moment = datetime.fromtimestamp(min(moment_ms, _YEAR_9999_MS) / 1000, UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def _length(length_ms: int | None) -> str:
    if length_ms is None:
        return "open"
    for unit_ms, unit in ((_SECOND_MS, "s"), (_MINUTE_MS, "min"), (_HOUR_MS, "h")):
        if length_ms < 120 * unit_ms or unit_ms == _HOUR_MS:
            return f"{length_ms / unit_ms:.3g} {unit}"
    raise AssertionError("hours fit everything")
