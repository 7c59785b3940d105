"""What the loop needs from the outside world, as Protocols. The edges implement them; so does the simulation.

Ownership rules that every implementation keeps:

Rule 1: group callbacks run only inside `Membership.poll`, and `poll` is never called while a transaction is open.
Rule 2: `Source` delivers the records of an attached partition in offset order from exactly the given offsets.
Rule 3: `Sink.commit` makes outputs, state records and positions visible together or not at all, and says which, or that
        it is not known.
Rule 4: one number, one shard: partition p of `predictions`, of `labels` and of `state` belong together, and only
        `predictions` is managed by the group. Every shard reads the one partition of `feedback`, each at its own pace.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

from worker.core.detectors.refit import RefitPool, RefitRequest, RefitTicket
from worker.core.events import InputTopic, Manifest, Output, RawBatch
from worker.core.maintenance.challengers import ChallengerPool, ChallengerRequest, ChallengerTicket
from worker.core.maintenance.metering import Meter

__all__ = [
    "ArtefactStore",
    "ArtefactStoreError",
    "Bounds",
    "ChallengerPool",
    "ChallengerRequest",
    "ChallengerTicket",
    "Clock",
    "Commit",
    "CommitOutcome",
    "Effort",
    "Executor",
    "GroupListener",
    "History",
    "InlineExecutor",
    "Membership",
    "Meter",
    "ModelRegistry",
    "NoEffort",
    "Position",
    "PositionGoneError",
    "PositionUnstableError",
    "Reader",
    "RefitPool",
    "RefitRequest",
    "RefitTicket",
    "Sink",
    "SinkError",
    "Source",
    "SourceError",
    "Spent",
    "StateRecord",
    "StoredModel",
    "UnavailableError",
]


class Position(NamedTuple):
    """A committed place of a shard: the next offset of `predictions` to read, and the metadata committed with it.

    `label_offset` is committed for the same partition of `labels`, so that lag tools see it; it is never read back,
    because the metadata holds it, too. So `Membership.committed` leaves it None.
    """

    offset: int
    metadata: str = ""
    label_offset: int | None = None


class StateRecord(NamedTuple):
    """One record for a partition of the `state` topic; without a value it is a tombstone."""

    partition: int
    key: bytes
    value: bytes | None


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


class Commit(NamedTuple):
    """The outcome of a transaction, and the offsets that its state records got, in their order.

    The offsets are there whenever the transaction is visible, or may be (COMMITTED, UNKNOWN); otherwise empty.
    """

    outcome: CommitOutcome
    state_offsets: tuple[int, ...] = ()


class Bounds(NamedTuple):
    """The first offset that a partition still has, and the one after its last record (the high watermark)."""

    first: int
    end: int


class PositionUnstableError(Exception):
    """Committed positions cannot be told yet (a transaction of a former owner is still open): ask again."""


class UnavailableError(Exception):
    """Kafka does not answer right now: ask again."""


class PositionGoneError(Exception):
    """The offset to read from is not in the partition (any more); the message says which."""


class SourceError(Exception):
    """The source cannot go on from where it is; the message says what to do."""


class SinkError(Exception):
    """The sink cannot be brought back within its bounds; the message says what to do."""


class ArtefactStoreError(Exception):
    """A model could not be stored or removed; the message says which, where and why."""


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
        """Return the committed position of each partition of `predictions`; None where there is none."""
        ...

    def close(self, listener: GroupListener) -> None:
        """Leave the group; owned partitions are revoked first."""
        ...


class Source(Protocol):
    """Reads the inputs of owned partitions at explicit offsets: `predictions`, `labels` and `feedback`, side by side.

    Every record of `feedback` is delivered to each attached partition, in a batch of its own that names the partition.
    """

    def attach(self, partition: int, offset: int, label_offset: int, feedback_offset: int) -> None:
        """Start reading for a partition at these offsets of its three inputs."""
        ...

    def detach(self, partitions: Sequence[int]) -> None:
        """Stop reading partitions; nothing of them is delivered afterwards."""
        ...

    def may_have_more(self, partition: int) -> bool:
        """Tell whether there may be predictions of an attached partition that were not delivered yet."""
        ...

    def lag(self) -> Mapping[tuple[InputTopic, int], int]:
        """Return how many offsets lie between what was delivered and the end of each partition that is read.

        As the last answer of Kafka told it: nothing is asked for this, and what has no answer yet is left out.
        """
        ...

    def pause_labels(self, partition: int, *, paused: bool) -> None:
        """Deliver no labels of an attached partition for now, or go on with them where they stopped."""
        ...

    def fetch(self, records_max: int, wait_ms: int) -> list[RawBatch]:
        """Return what is there, waiting at most `wait_ms` when there is nothing.

        At most one batch for each topic and attached partition. The caller notes in which order it works them off.
        """
        ...

    def close(self) -> None:
        """Stop reading."""
        ...


class Reader(Protocol):
    """Reads one partition on its own, for a restore."""

    def read(self, records_max: int, wait_ms: int) -> RawBatch:
        """Return the next records, at most so many, waiting at most `wait_ms` when there is none; maybe an empty batch.

        Raises:
            PositionGoneError: the next offset is not in the partition (any more).
            SourceError: reading cannot go on; the message says what to do.
        """
        ...

    def position(self) -> int:
        """Return the offset to be read next.

        It passes what is no record, too: markers of transactions, records of aborted ones, gaps of compaction. So a
        partition has been read up to an end known from `bounds` when this is not less than that end.
        """
        ...

    def seek(self, offset: int) -> None:
        """Go on reading from another offset."""
        ...

    def close(self) -> None:
        """Stop reading."""
        ...


class History(Protocol):
    """What the topics still hold: looked up before a restore, read during one. Never waits for long."""

    def bounds(self, topic: InputTopic, partition: int) -> Bounds:
        """Return what a partition holds; of `feedback` there is only 0. Records of open transactions count as well.

        Raises:
            UnavailableError: ask again.
            SourceError: the partition does not exist, or this user may not see it.
        """
        ...

    def open(self, topic: InputTopic, partition: int, offset: int, *, committed: bool = False) -> Reader:
        """Read a partition from an offset on.

        The inputs are read committed. `state` is read uncommitted, unless `committed` is asked for:
        what a restore reads there is named by a committed pointer, and an open transaction of a zombie must not hold
        it up. Who looks for something without such a pointer would take what was aborted for real.
        """
        ...


class Sink(Protocol):
    """Writes outputs, state records and input positions in one transaction."""

    def commit(
        self, outputs: Sequence[Output], positions: Mapping[int, Position], state: Sequence[StateRecord] = ()
    ) -> Commit:
        """Send all of it in one transaction, bounded in time."""
        ...

    def replace(self) -> None:
        """Throw the producer away and start a new one with the same identity (fences the old one)."""
        ...

    def close(self) -> None:
        """Close the producer; an open transaction is aborted."""
        ...


class StoredModel(Protocol):
    """A model in the store."""

    @property
    def uri(self) -> str:
        """Where it lies."""
        ...


class ArtefactStore(Protocol):
    """Keeps the models that output records speak of. Every worker of the group has its own connection to the same one.

    Its methods raise ArtefactStoreError.
    """

    def put(self, model: bytes, manifest: Manifest) -> StoredModel:
        """Store a model, whose checksum gives its place; it is there to stay on return. The same again does no harm."""
        ...

    def retain(self, artefacts_max: int, keep: Collection[str] = ()) -> int:
        """Remove the oldest artefacts beyond so many of each model of which `keep` names one, but not those.

        Nor of partitions that none of those was fitted on: another worker knows which of them it needs.
        """
        ...


class ModelRegistry(Protocol):
    """Is told of stored models, and lists them for people and programs."""

    def register(self, manifest: Manifest, uri: str) -> None:
        """Register a model as soon as may be, if it is not there; never waits, never fails."""
        ...


class Spent(NamedTuple):
    """Seconds, all since the start of the process."""

    engine_s: float
    """In this process, between `begin` and `end`."""
    maintenance_s: float
    """The part of it for maintenance, as the core's meter tells. Restores count here, but not above."""
    children_s: float
    """Of CPU in other processes: fits of challengers."""


class Effort(Meter, Protocol):
    """Measures what work costs. The loop tells when the engine works for live shards."""

    def spent(self) -> Spent:
        """Return what was spent so far."""
        ...


class NoEffort:
    """Measures nothing, so that maintenance never costs too much."""

    def begin(self) -> None:
        """Work begins."""

    def end(self) -> None:
        """The work that began last has ended."""

    def spent(self) -> Spent:
        """Return nothing."""
        return Spent(0.0, 0.0, 0.0)


class Executor(Protocol):
    """Does pieces of work that know nothing of one another, maybe several at once, while the caller goes on."""

    @property
    def is_beside(self) -> bool:
        """Whether the caller goes on meanwhile."""
        ...

    def submit(self, task: Callable[[], None]) -> None:
        """Do this as soon as possible. It must not raise; what comes of it, it has to tell by itself."""
        ...


class InlineExecutor:
    """Does a piece of work before the caller goes on."""

    is_beside = False

    def submit(self, task: Callable[[], None]) -> None:
        """Do this now."""
        task()


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
