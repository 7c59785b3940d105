"""The broker's side of transactions: who may write under a transactional id, and how a transaction ends.

Rule 1: each initialisation of a transactional id gives it a new epoch, and ends what the former epoch left: an open
        transaction is aborted, one that was told to commit is committed.
Rule 2: a request of an old epoch is refused. There is one hole, as in Kafka before KIP-890: an end that arrives late
        ends whatever transaction is open under the same epoch, be it a later one.
Rule 3: the answer to "commit" comes before the control records are written. Each partition gets its own at its time.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.sim.group import GroupCoordinator
from tests.sim.log import Headers, PartitionLog
from worker.ports import Position


class ProducerFencedError(Exception):
    """The transactional id has a newer epoch."""


class TransactionStateError(Exception):
    """There is no open transaction to end."""


@dataclass(slots=True)
class _Transaction:
    number: int
    deadline_ms: int
    logs: dict[PartitionLog, None] = field(default_factory=dict)
    has_offsets: bool = False
    committed: bool | None = None
    """What it was told to do; None while it is open."""
    due: list[tuple[int, PartitionLog | None]] = field(default_factory=list)
    """Control records still to write, with their times; None stands for the group's offsets."""


@dataclass(slots=True)
class _Identity:
    """What the coordinator knows of a transactional id."""

    epoch: int = 0
    timeout_ms: int = 0
    transaction: _Transaction | None = None


class TransactionCoordinator:
    """All transactional ids of the cluster."""

    def __init__(self, group: GroupCoordinator, rng: random.Random, marker_delay_ms_max: int = 0) -> None:
        self._group = group
        self._rng = rng
        self._marker_delay_ms_max = marker_delay_ms_max
        self._identities: dict[str, _Identity] = {}
        self._numbers = 0

    def initialise(self, name: str, timeout_ms: int) -> int:
        """Take over a transactional id; return the epoch that the new producer must tell with each request."""
        identity = self._identities.setdefault(name, _Identity())
        identity.timeout_ms = timeout_ms
        self._settle(identity)
        identity.epoch += 1
        return identity.epoch

    def append(
        self, name: str, epoch: int, log: PartitionLog, now_ms: int, record: tuple[bytes | None, bytes | None, Headers]
    ) -> int:
        """Write key, value and headers as part of the open transaction, which begins with the first write."""
        transaction = self._writable(name, epoch, now_ms)
        transaction.logs[log] = None
        key, value, headers = record
        return log.append(now_ms, key, value, headers, transaction.number)

    def add_offsets(
        self, name: str, epoch: int, member: tuple[str, int], now_ms: int, positions: Mapping[int, Position]
    ) -> None:
        """Make positions part of the open transaction, if the group still knows this member in this generation."""
        transaction = self._writable(name, epoch, now_ms)
        transaction.has_offsets = True
        self._group.add_pending(transaction.number, member, positions)

    def end(self, name: str, epoch: int, now_ms: int, *, committed: bool) -> None:
        """End the open transaction. A repetition of the request is answered like the first one."""
        identity = self._current(name, epoch)
        transaction = identity.transaction
        if transaction is None or transaction.committed not in (None, committed):
            raise TransactionStateError(f"{name}: nothing to end")
        if transaction.committed is None:
            self._decide(transaction, now_ms, committed=committed)

    def fence(self, name: str) -> None:
        """Somebody else takes over the id."""
        self.initialise(name, self._identities[name].timeout_ms)

    def tick(self, now_ms: int) -> None:
        """Write control records that are due, and abort what is too old; that also fences its producer."""
        for identity in self._identities.values():
            transaction = identity.transaction
            if transaction is None:
                continue
            if transaction.committed is not None:
                self._write_due(transaction, now_ms)
            elif now_ms >= transaction.deadline_ms:
                self._settle(identity)
                identity.epoch += 1

    def _current(self, name: str, epoch: int) -> _Identity:
        identity = self._identities[name]
        if identity.epoch != epoch:
            raise ProducerFencedError(f"{name}: epoch {epoch} is over, {identity.epoch} rules")
        return identity

    def _writable(self, name: str, epoch: int, now_ms: int) -> _Transaction:
        """Return the open transaction, begun now if there is none. A former one gets its control records first."""
        identity = self._current(name, epoch)
        if identity.transaction is not None and identity.transaction.committed is not None:
            self._settle(identity)
        if identity.transaction is None:
            self._numbers += 1
            identity.transaction = _Transaction(self._numbers, now_ms + identity.timeout_ms)
        return identity.transaction

    def _decide(self, transaction: _Transaction, now_ms: int, *, committed: bool) -> None:
        transaction.committed = committed
        places: list[PartitionLog | None] = [*transaction.logs, *([None] if transaction.has_offsets else [])]
        transaction.due = [(now_ms + self._rng.randint(0, self._marker_delay_ms_max), place) for place in places]
        self._write_due(transaction, now_ms)

    def _settle(self, identity: _Identity) -> None:
        """End what is open and write all its control records now."""
        transaction = identity.transaction
        if transaction is not None:
            if transaction.committed is None:
                self._decide(transaction, 0, committed=False)
            self._write_due(transaction, None)
        identity.transaction = None

    def _write_due(self, transaction: _Transaction, now_ms: int | None) -> None:
        """Write the control records that are due (None: all)."""
        left = []
        for time_ms, place in transaction.due:
            if now_ms is not None and time_ms > now_ms:
                left.append((time_ms, place))
            elif place is None:
                self._group.end_pending(transaction.number, committed=bool(transaction.committed))
            else:
                place.end_transaction(transaction.number, committed=bool(transaction.committed))
        transaction.due = left
