"""Shows feedback to people: a table of what is in force, and the lines said about what was sent."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime

from rich import box
from rich.table import Table
from rich.text import Text

from worker.core.events import Scope
from worker.feedback_admin.ledger import Entry
from worker.times import shown, shown_duration

WIDTH = 160
"""Where the terminal does not say how wide it is."""
_COLUMNS = ("id", "what", "about", "until", "who", "effect")
_ID_DIGITS = 12


def table(entries: Sequence[Entry], now: datetime) -> Table:
    """Return a row for each entry."""
    brief = Counter(entry.feedback_id[:_ID_DIGITS] for entry in entries)
    rows = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in _COLUMNS:
        rows.add_column(name, overflow="fold")
    for entry in entries:
        # As text: what people have written is not to be taken for markup.
        digits = entry.feedback_id[:_ID_DIGITS]
        named = digits if brief[digits] == 1 else entry.feedback_id
        rows.add_row(*map(Text, [named, *_row(entry, now)]))
    return rows


def about(scope: Scope) -> str:
    """Say in words which alerts a scope means."""
    parts = [f"model {scope.model}", f"kind {scope.kind}"]
    parts += [f"segment {scope.segment}"] if scope.segment is not None else []
    parts += [f"feature {scope.feature}"] if scope.feature is not None else []
    return ", ".join(parts)


def sent_lines(feedback_id: str, what: str) -> Iterator[str]:
    """Yield what is said of an event that was sent, and how to undo it."""
    yield f"sent {feedback_id}: {what}"
    yield f"undo it with: modelvigil feedback undo {feedback_id}"


def _row(entry: Entry, now: datetime) -> list[str]:
    held_back = [f"held back {entry.held_back}"] if entry.held_back else []
    return [
        f"{entry.kind}\n{entry.state}",
        _about(entry),
        _until(entry, now),
        f"{entry.author}\n{shown(entry.sent_at)}" + (f"\n{entry.reason}" if entry.reason else ""),
        "\n".join([*entry.effects, *held_back]) or "-",
    ]


def _about(entry: Entry) -> str:
    if entry.scope is not None:
        return about(entry.scope).replace(", ", "\n")
    return f"model {entry.model_id}\nincident {(entry.incident_id or '')[:_ID_DIGITS]}"


def _until(entry: Entry, now: datetime) -> str:
    if entry.undone_by is not None:
        return f"undone by\n{entry.undone_by}"
    if entry.until is None:
        return "it is undone"
    begin = [f"from {shown(entry.begin)}"] if entry.begin is not None and entry.begin > now else []
    left = [f"{shown_duration(entry.until - now)} left"] if entry.until > now else []
    return "\n".join([*begin, shown(entry.until), *left])
