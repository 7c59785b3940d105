"""What a test of the model needs of a cluster, so that the same test runs on the model and on a real Kafka."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from worker.core.events import InputTopic, OutputTopic
from worker.ports import History, Membership, Position, Sink, Source

PARTITIONS = 4


class Listener:
    """Writes down what the group decides; `on_revoke` is what a worker does while it gives up partitions."""

    def __init__(self, on_revoke: Callable[[Sequence[int]], object] = lambda _: None) -> None:
        self.owned: set[int] = set()
        self.lost_ones: set[int] = set()
        self.told: list[tuple[str, tuple[int, ...]]] = []
        self.on_revoke = on_revoke

    def assigned(self, partitions: Sequence[int]) -> None:
        """Take over."""
        self.told.append(("assigned", tuple(partitions)))
        self.owned.update(partitions)

    def revoked(self, partitions: Sequence[int]) -> None:
        """Give up."""
        self.on_revoke(partitions)
        self.told.append(("revoked", tuple(partitions)))
        self.owned.difference_update(partitions)

    def lost(self, partitions: Sequence[int]) -> None:
        """Forget."""
        self.told.append(("lost", tuple(partitions)))
        self.lost_ones.update(partitions)
        self.owned.difference_update(partitions)


class Member(NamedTuple):
    """A member of the group."""

    port: Membership
    listener: Listener


class OpenTransaction(Protocol):
    """A transaction of somebody who writes it in steps, as no sink does."""

    def write(self, topic: InputTopic | OutputTopic, partition: int, value: bytes, key: bytes = b"key") -> None:
        """Write a record; it has arrived when this returns."""
        ...

    def send_positions(self, member: Member, positions: Mapping[int, Position]) -> None:
        """Send positions of `predictions`."""
        ...

    def end(self, *, committed: bool) -> bool:
        """End it; return whether the broker agreed."""
        ...


class Rig(Protocol):
    """A cluster with empty topics of four partitions each, and an empty group."""

    def member(self, *, hasty: bool = False) -> Member:
        """Join the group; a hasty member leaves it when it is not polled for a second and a half."""
        ...

    def sink(self, member: Member, name: str = "worker") -> Sink:
        """Build a sink fenced by a member."""
        ...

    def stale_sink(self, member: Member, times: int) -> Sink:
        """Build a sink that tells another generation so many times, and then the right one."""
        ...

    def source(self) -> Source:
        """Build a source."""
        ...

    def history(self) -> History:
        """Build a history."""
        ...

    def transaction(self, name: str, timeout_ms: int = 60_000) -> OpenTransaction:
        """Begin a transaction under a transactional id."""
        ...

    def fill(self, topic: InputTopic, partition: int, values: Sequence[bytes]) -> None:
        """Write records to an input, without a transaction."""
        ...

    def forget(self, topic: InputTopic, partition: int, before: int) -> None:
        """Delete what lies before an offset, as retention does."""
        ...

    def compact_state(self) -> None:
        """Let the broker compact the state topic, if it does not do so by itself."""
        ...

    def visible(self, topic: InputTopic | OutputTopic, partition: int) -> list[tuple[int, bytes | None]]:
        """Return offsets and values that a reader of committed records finds right now."""
        ...

    def committed_labels(self) -> list[int]:
        """Return the committed offset of each partition of `labels`; negative where there is none."""
        ...

    def pause(self) -> None:
        """Let some 10 ms go by."""
        ...

    def leave(self, member: Member) -> None:
        """Leave the group."""
        ...

    def close(self) -> None:
        """Close everything."""
        ...
