"""The broker's side of the consumer group: members, generations, assignments, sessions, committed positions.

Rule 1: a partition moves in two generations: first its owner is told to give it up, then the new one gets it.
Rule 2: offsets of a transaction are checked against member and generation when they are sent, and visible when it has
        ended; until then nobody learns the position of these partitions.
Rule 3: a member that is silent for longer than the session timeout is out. It learns of it when it speaks again.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from worker.ports import Position, PositionUnstableError

METADATA_BYTES_MAX = 4_095


class UnknownMemberError(Exception):
    """The group does not have this member (any more)."""


class IllegalGenerationError(Exception):
    """The group has gone on to another generation."""


class MetadataTooLargeError(Exception):
    """The metadata of a position is longer than a broker takes."""


class Timing(NamedTuple):
    """How long the group waits for what."""

    session_ms: int = 1_000
    heartbeat_ms: int = 100
    sync_delay_ms_max: int = 20


class Committed(NamedTuple):
    """A position that became visible, and the number of its transaction."""

    position: Position
    transaction: int


class GroupClient(Protocol):
    """The client library inside a worker, as the coordinator sees it."""

    @property
    def owned(self) -> Iterable[int]:
        """What it owns by its own account."""
        ...

    def answers(self, now_ms: int) -> bool:
        """Tell whether it sends heartbeats and joins by itself right now."""
        ...

    def synced(self, generation: int, assigned: frozenset[int]) -> None:
        """Learn the assignment of a new generation."""
        ...


@dataclass(slots=True)
class _Member:
    client: GroupClient
    last_seen_ms: int
    joined: bool = False
    owned: frozenset[int] = frozenset()
    assigned: frozenset[int] = frozenset()
    sync_at_ms: int | None = None


@dataclass(slots=True)
class GroupCoordinator:
    """One group on one topic of so many partitions."""

    partitions: int
    rng: random.Random
    timing: Timing
    generation: int = 0
    committed: dict[int, Position] = field(default_factory=dict)
    history: dict[int, list[Committed]] = field(default_factory=dict)
    """All positions that ever became visible, by partition, for the checks."""
    _members: dict[str, _Member] = field(default_factory=dict)
    _rebalancing: bool = False
    _joined_ever: int = 0
    _pending: dict[int, dict[int, Position]] = field(default_factory=dict)

    # Membership.

    @property
    def members(self) -> Iterable[str]:
        """The ids of all members."""
        return self._members

    def join(self, client: GroupClient, now_ms: int) -> str:
        """Add a member; return its id. The group rebalances."""
        self._joined_ever += 1
        member_id = f"member-{self._joined_ever}"
        self._members[member_id] = _Member(client, now_ms)
        self.rebalance()
        return member_id

    def has(self, member_id: str) -> bool:
        """Tell whether this member is in the group."""
        return member_id in self._members

    def leave(self, member_id: str) -> None:
        """Remove a member, because it goes or because it is thrown out; the others rebalance."""
        if self._members.pop(member_id, None) is not None:
            self.rebalance()

    def rebalance(self) -> None:
        """Begin a new generation: everybody has to join again."""
        self._rebalancing = True
        for member in self._members.values():
            member.joined, member.sync_at_ms = False, None

    def ready(self, member_id: str) -> None:
        """A member joins the generation that is being prepared, and says what it owns."""
        member = self._members[member_id]
        if self._rebalancing and not member.joined:
            member.joined, member.owned = True, frozenset(member.client.owned)

    def tick(self, now_ms: int) -> None:
        """Throw out who is silent, complete the rebalance when all have joined, deliver assignments."""
        for member_id, member in list(self._members.items()):
            if member.client.answers(now_ms):
                member.last_seen_ms = now_ms
            elif now_ms - member.last_seen_ms >= self.timing.session_ms:
                self.leave(member_id)
        if self._rebalancing and all(member.joined for member in self._members.values()):
            self._complete(now_ms)
        for member in self._members.values():
            if member.sync_at_ms is not None and member.sync_at_ms <= now_ms and member.client.answers(now_ms):
                member.sync_at_ms = None
                member.client.synced(self.generation, member.assigned)

    def _complete(self, now_ms: int) -> None:
        self._rebalancing = False
        self.generation += 1
        owned = {member_id: member.owned for member_id, member in self._members.items()}
        for member_id, assigned in assignment(self.partitions, owned).items():
            member = self._members[member_id]
            member.assigned = assigned
            member.sync_at_ms = now_ms + self.rng.randint(0, self.timing.sync_delay_ms_max)

    # Positions.

    def check(self, member: tuple[str, int]) -> None:
        """Refuse who is not a member, or one of another generation."""
        member_id, generation = member
        if member_id not in self._members:
            raise UnknownMemberError(f"{member_id} is not a member")
        if generation != self.generation:
            raise IllegalGenerationError(f"{member_id}: generation {generation} is not {self.generation}")

    def add_pending(self, transaction: int, member: tuple[str, int], positions: Mapping[int, Position]) -> None:
        """Take positions that become visible with a transaction."""
        self.check(member)
        for partition, position in positions.items():
            if len(position.metadata.encode()) > METADATA_BYTES_MAX:
                raise MetadataTooLargeError(f"partition {partition}: {len(position.metadata.encode())} bytes")
        self._pending.setdefault(transaction, {}).update(positions)

    def end_pending(self, transaction: int, *, committed: bool) -> None:
        """Make the positions of a transaction visible, or forget them."""
        positions = self._pending.pop(transaction, {})
        if committed:
            for partition, position in positions.items():
                self.committed[partition] = position
                self.history.setdefault(partition, []).append(Committed(position, transaction))

    def positions(self, partitions: Sequence[int]) -> dict[int, Position | None]:
        """Return committed positions.

        Raises:
            PositionUnstableError: one of them is about to change with a transaction that has not ended yet.
        """
        for positions in self._pending.values():
            if not positions.keys().isdisjoint(partitions):
                raise PositionUnstableError(f"a transaction holds positions of {sorted(positions)}")
        found = {partition: self.committed.get(partition) for partition in partitions}
        return {part: place and place._replace(label_offset=None) for part, place in found.items()}


def assignment(partitions: int, owned: Mapping[str, frozenset[int]]) -> dict[str, frozenset[int]]:
    """Return who gets what in the next generation: balanced, sticky, and nothing that somebody else still owns."""
    if not owned:
        return {}
    low, extra = divmod(partitions, len(owned))
    quotas = dict.fromkeys(sorted(owned, key=lambda m: (-len(owned[m]), m))[:extra], low + 1)
    targets = {m: set(sorted(mine)[: quotas.get(m, low)]) for m, mine in sorted(owned.items())}
    taken = set().union(*targets.values())
    left = [partition for partition in range(partitions) if partition not in taken]
    for member_id, target in targets.items():
        while left and len(target) < quotas.get(member_id, low):
            target.add(left.pop(0))
    still_owned = {partition: member_id for member_id, mine in owned.items() for partition in mine}
    return {m: frozenset(p for p in target if still_owned.get(p, m) == m) for m, target in targets.items()}
