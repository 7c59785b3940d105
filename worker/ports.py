"""What the loop needs from the outside world, as Protocols. The edges implement them; so does the simulation.

Ownership rules that every implementation keeps:

Rule 1: group callbacks run only inside `Membership.poll`, and `poll` is never called while a transaction is open.
Rule 2: `Source` delivers the records of an attached partition in offset order from exactly the given offset.
Rule 3: `Sink.commit` makes outputs and offsets visible together or not at all, and says which, or that it is not known.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

from worker.core.detectors.refit import RefitPool, RefitRequest, RefitTicket
from worker.core.events import Output, RawBatch

__all__ = [
    "Clock",
    "CommitOutcome",
    "GroupListener",
    "Membership",
    "Position",
    "PositionUnstableError",
    "RefitPool",
    "RefitRequest",
    "RefitTicket",
    "Sink",
    "SinkError",
    "Source",
    "SourceError",
]


class Position(NamedTuple):
    """A committed place in an input partition: the next offset to read, and the metadata committed with it."""

    offset: int
    metadata: str = ""


class CommitOutcome(Enum):
    """What became of a transaction."""

    COMMITTED = "committed"
    """Everything is visible."""
    ABORTED = "aborted"
    """Nothing is visible; the same bytes may be sent again after the next membership poll."""
    UNKNOWN = "unknown"
    """A timeout or transport error: replace the sink, then read the committed positions to learn the outcome."""
    FENCED = "fenced"
    """Another process has taken over this producer's identity: nothing more can be written; leave."""


class PositionUnstableError(Exception):
    """Committed positions cannot be told yet (a transaction of a former owner is still open): ask again."""


class SourceError(Exception):
    """The source cannot go on from where it is; the message says what to do."""


class SinkError(Exception):
    """The sink cannot be brought back within its bounds; the message says what to do."""


class GroupListener(Protocol):
    """Learns what the group decided. Called inside `Membership.poll` only."""

    def assigned(self, partitions: Sequence[int]) -> None:
        """Take over these partitions; must return quickly."""
        ...

    def revoked(self, partitions: Sequence[int]) -> None:
        """Give these up: commit what is pending, then drop their state, before returning."""
        ...

    def lost(self, partitions: Sequence[int]) -> None:
        """Somebody else owns these already: drop their state, commit nothing."""
        ...


class Membership(Protocol):
    """This worker's part in the consumer group of the `predictions` topic."""

    def poll(self, listener: GroupListener) -> None:
        """Serve the group protocol without waiting."""
        ...

    def committed(self, partitions: Sequence[int]) -> Mapping[int, Position | None]:
        """Return the committed position of each partition; None where there is none."""
        ...

    def close(self, listener: GroupListener) -> None:
        """Leave the group; owned partitions are revoked first."""
        ...


class Source(Protocol):
    """Reads the records of owned partitions at explicit offsets."""

    def attach(self, partition: int, offset: int | None) -> int | None:
        """Start reading a partition at an offset (None: where the configuration says new partitions begin).

        Returns the offset where reading begins; None when that is the oldest record there is.
        """
        ...

    def detach(self, partitions: Sequence[int]) -> None:
        """Stop reading partitions; nothing of them is delivered afterwards."""
        ...

    def fetch(self, records_max: int, wait_ms: int) -> list[RawBatch]:
        """Return what is there, at most one batch a partition, waiting at most `wait_ms` when there is nothing."""
        ...

    def close(self) -> None:
        """Stop reading."""
        ...


class Sink(Protocol):
    """Writes outputs and input positions in one transaction."""

    def commit(self, outputs: Sequence[Output], positions: Mapping[int, Position]) -> CommitOutcome:
        """Send all of it in one transaction, bounded in time."""
        ...

    def replace(self) -> None:
        """Throw the producer away and start a new one with the same identity (fences the old one)."""
        ...

    def close(self) -> None:
        """Close the producer; an open transaction is aborted."""
        ...


class Clock(Protocol):
    """Time for pacing only. It never reaches the core except as a journalled tick."""

    def monotonic_ms(self) -> int:
        """Return milliseconds that never go backwards."""
        ...

    def epoch_ms(self) -> int:
        """Return milliseconds since 1970."""
        ...

    def pause(self, wait_ms: int) -> None:
        """Wait."""
        ...
