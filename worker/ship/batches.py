"""Documents on their way to the cluster: single ones, and what goes in one request."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from worker.edges.kafka.arrived import Arrived
from worker.elasticsearch_settings import Stream
from worker.ship.documents import UnfitError, document_of
from worker.ship.progress import Place, Portion

_NAMES: Final[dict[Stream, str]] = {
    "alerts": "alerts",
    "metrics": "metrics",
    "maintenance": "maintenance",
    "dead_letters": "dead-letters",
}


def stream_name(stream: Stream, namespace: str) -> str:
    """Return the name of a data stream."""
    return f"modelvigil-{_NAMES[stream]}-{namespace}"


class Item:
    """One record, its document, and what is known of it."""

    __slots__ = ("arrived", "crashes", "doubtful", "id", "lines", "stream", "unfit")

    def __init__(self, stream: Stream, arrived: Arrived, name: str, *, doubtful: bool) -> None:
        self.stream = stream
        self.arrived = arrived
        self.doubtful = doubtful
        """Whether it may be in the cluster already."""
        self.crashes = 0
        self.unfit = ""
        """Why it has no document."""
        self.id, self.lines = "", b""
        """As they stand in a bulk request."""
        try:
            self.id, source, may_repeat = document_of(stream, arrived)
            self.doubtful |= may_repeat
            self.lines = b'{"create":{"_index":"%b","_id":"%b"}}\n%b\n' % (name.encode(), self.id.encode(), source)
        except UnfitError as error:
            self.unfit = str(error)


@dataclass(slots=True, eq=False)
class Batch:
    """What is settled together: consecutive records of each partition."""

    items: list[Item]
    portions: list[tuple[Place, Portion]]
    generation: int
    """Of the assignment in which the records were taken."""
    settled: bool = False
    abandoned: bool = False
    """Somebody else has the partitions now."""


@dataclass(slots=True)
class Collected:
    """Records that wait for more, or for a free request."""

    items: list[Item] = field(default_factory=list)
    ends: dict[Place, int] = field(default_factory=dict)
    size: int = 0
    since_ms: int = 0

    def add(self, item: Item, now_ms: int) -> None:
        """Take a record."""
        if not self.items:
            self.since_ms = now_ms
        self.items.append(item)
        self.size += len(item.lines)
        self.ends[item.arrived.topic, item.arrived.partition] = item.arrived.offset + 1

    def clear(self) -> None:
        """Begin anew."""
        self.items, self.ends, self.size = [], {}, 0


def body_of(items: Iterable[Item]) -> bytes:
    """Return the body of a bulk request."""
    return b"".join([item.lines for item in items])


def halves(items: Sequence[Item]) -> list[list[Item]]:
    """Return two lists of almost equal size in bytes, neither of them empty."""
    assert len(items) > 1, "a single document cannot be split"
    total, size = sum(len(item.lines) for item in items), 0
    for place, item in enumerate(items):
        size += len(item.lines)
        if 2 * size >= total:
            cut = min(max(1, place if 2 * size > total + len(item.lines) else place + 1), len(items) - 1)
            return [list(items[:cut]), list(items[cut:])]
    return [list(items[:1]), list(items[1:])]
