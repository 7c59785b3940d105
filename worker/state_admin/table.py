"""Shows a report of `state inspect` to people: a line above, a table, lines below."""

from collections.abc import Iterator
from datetime import UTC, datetime

from rich import box
from rich.table import Table

from worker.state_admin.inspection import Report, ShardReport, Snapshot, Stored

_COLUMNS = ("shard", "position", "lag", "snapshot", "stored", "to replay", "digest", "written")
WIDTH = 160
"""Where the terminal does not say how wide it is."""
_KILO = 1024
_YEAR_9999_S = 253_402_300_799


def title(report: Report) -> str:
    """Return whose state this is."""
    count = len(report.members)
    members = "1 member" if count == 1 else f"{count or 'no'} members"
    return f"group {report.group}, {members}; topic {report.topic}, cluster {report.cluster or 'without a name'}"


def table(report: Report) -> Table:
    """Return a row for each shard."""
    rows = Table(*_COLUMNS, box=box.SIMPLE_HEAD, pad_edge=False)
    for shard in report.shards:
        rows.add_row(*_row(shard))
    return rows


def lines(report: Report) -> Iterator[str]:
    """Yield a line for each part, if they were asked for, each problem and each note."""
    for shard in report.shards:
        yield from _part_lines(shard)
    for shard in report.shards:
        yield from (f"shard {shard.partition}: problem: {each.message} [{each.kind}]" for each in shard.problems)
        yield from (f"shard {shard.partition}: {note}" for note in shard.notes)
    if report.sound:
        yield "a worker can go on everywhere"


def readable_size(size: float) -> str:
    """Return bytes as people read them."""
    for unit in ("B", "kB", "MB"):
        if size < _KILO:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= _KILO
    return f"{size:.1f} GB"


def _row(shard: ShardReport) -> list[str]:
    stored = shard.stored
    position, labels = shard.predictions.position, shard.labels
    where = "none" if position is None else str(position)
    lag = str(shard.predictions.lag) + ("" if labels is None else f"\nlabels {labels.lag}")
    lag += "" if shard.feedback is None else f"\nfeedback {shard.feedback.lag}"
    if stored is None:
        return [str(shard.partition), where, lag, *["-"] * (len(_COLUMNS) - 3)]
    return [
        str(shard.partition),
        f"{where}\nlabels {stored.label_offset}\nfeedback {stored.feedback_offset}\ncommit {stored.generation}",
        lag,
        _snapshot(stored, stored.snapshot),
        "-" if stored.snapshot is None else _stored(stored.snapshot),
        _journal(stored),
        stored.digest,
        _belonging(stored),
    ]


def _snapshot(stored: Stored, snapshot: Snapshot | None) -> str:
    base = f"at {stored.base_offset}\nlabels {stored.base_label_offset}"
    if snapshot is None:
        return base
    # What is stored may claim any time; a date has bounds.
    seconds = min(max(snapshot.written_ms // 1000, 0), _YEAR_9999_S)
    time = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return f"{base}\n{time}\n{snapshot.age_seconds:.0f} s ago"


def _stored(snapshot: Snapshot) -> str:
    size = f"{readable_size(snapshot.bytes)} in {snapshot.chunks} chunks"
    return f"{snapshot.models} models\n{size}\nstate offset {_listed(snapshot.offsets)}"


def _journal(stored: Stored) -> str:
    journal = stored.journal
    return f"{journal.records} records\nlabels {journal.labels}\n{journal.entries} entries"


def _belonging(stored: Stored) -> str:
    belongs = stored.belongs
    same_topics = belongs.predictions and belongs.labels and belongs.feedback and belongs.state
    here = "here" if belongs.cluster and same_topics else "elsewhere"
    options = "same options" if belongs.fingerprint else "other options"
    return f"{here}\n{options}\n{stored.fingerprint}"


def _part_lines(shard: ShardReport) -> Iterator[str]:
    snapshot = None if shard.stored is None else shard.stored.snapshot
    for part in () if snapshot is None or snapshot.parts is None else snapshot.parts:
        yield (
            f"shard {shard.partition}: model {part.model_id!r}, {part.part}: {readable_size(part.bytes)}, slot "
            f"{part.slot}, version {part.version}, state offset {_listed(part.offsets)}"
        )


def _listed(offsets: list[int]) -> str:
    return ", ".join(map(str, offsets))
