"""The sink port: one transaction, step by step, with everything that can happen between two steps.

    begin -> records -> flush -> offsets -> end             COMMITTED
      |         |         |         |        |
      +---------+---------+---------+--------+--> abort     ABORTED
                                             +-->           UNKNOWN, FENCED

Each step is a site at which a fault can strike.
"""

from collections.abc import Callable, Mapping, Sequence

from tests.sim.faults import Fault, SimCrash, Site
from tests.sim.group import METADATA_BYTES_MAX, IllegalGenerationError, UnknownMemberError
from tests.sim.host import Host
from tests.sim.log import PartitionLog
from tests.sim.membership import NotAMemberError
from tests.sim.transactions import ProducerFencedError, TransactionStateError
from worker.core.events import InputTopic, Output
from worker.ports import Commit, CommitOutcome, Position, SinkError, StateRecord

_REFUSALS = (IllegalGenerationError, NotAMemberError, UnknownMemberError)


class _IndefiniteError(Exception):
    """No answer came."""


class SimSink:
    """Implements `ports.Sink`.

    Args:
        host: the process.
        name: the transactional id.
        group_metadata: tells member id and generation.
        timeout_ms: after this long the broker aborts what is still open.
    """

    def __init__(
        self, host: Host, name: str, group_metadata: Callable[[], tuple[str, int]], timeout_ms: int = 1_500
    ) -> None:
        self._host = host
        self._name = name
        self._group_metadata = group_metadata
        self._timeout_ms = timeout_ms
        self._epoch: int | None = None
        self.replace()

    def commit(
        self, outputs: Sequence[Output], positions: Mapping[int, Position], state: Sequence[StateRecord] = ()
    ) -> Commit:
        """Send all of it in one transaction."""
        if not outputs and not positions and not state:
            return Commit(CommitOutcome.COMMITTED)
        assert self._epoch is not None, "commit after an unknown outcome: replace the sink first"
        for position in positions.values():
            # The broker would refuse it, and refuse it again: nothing would ever be committed.
            assert len(position.metadata.encode()) <= METADATA_BYTES_MAX, "metadata longer than a broker takes"
        state_offsets: tuple[int, ...] = ()
        try:
            self._enter(Site.BEGIN)
            state_offsets = self._send(outputs, state)
            self._enter(Site.FLUSH)
            if positions:
                self._send_offsets(positions)
            self._end()
        except _REFUSALS:
            return self._abort(state_offsets)
        except _IndefiniteError:
            return self._concluded(CommitOutcome.UNKNOWN, state_offsets)
        except ProducerFencedError:
            return self._concluded(CommitOutcome.FENCED, ())
        return Commit(CommitOutcome.COMMITTED, state_offsets)

    def replace(self) -> None:
        """Start a new producer, which fences the old one."""
        self._epoch = None
        if self._host.enter(Site.REPLACE) is Fault.SINK_DOWN:
            raise SinkError("no transactions possible")
        self._epoch = self._host.broker.transactions.initialise(self._name, self._timeout_ms)

    def close(self) -> None:
        """Forget the producer; each commit has ended its transaction, or has given it up."""
        self._epoch = None

    def _enter(self, site: Site) -> Fault | None:
        fault = self._host.enter(site)
        if fault is Fault.FENCED:
            self._host.broker.transactions.fence(self._name)
        return fault

    def _send(self, outputs: Sequence[Output], state: Sequence[StateRecord]) -> tuple[int, ...]:
        for output in outputs:
            log = self._host.broker.log(output.topic, output.shard % self._host.broker.partitions)
            self._append(log, (output.key, output.value, output.headers))
        return tuple(
            self._append(self._host.broker.log(InputTopic.STATE, record.partition), (record.key, record.value, ()))
            for record in state
        )

    def _append(
        self, log: PartitionLog, record: tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes | None]]]
    ) -> int:
        if self._enter(Site.RECORD) is Fault.RECORD_LOST:
            raise _IndefiniteError
        broker = self._host.broker
        return broker.transactions.append(self._name, self._needed_epoch(), log, broker.now_ms, record)

    def _send_offsets(self, positions: Mapping[int, Position]) -> None:
        fault = self._enter(Site.OFFSETS)
        if fault is Fault.OFFSETS_LOST:
            raise _IndefiniteError
        # Read right before they are sent, as the real sink does.
        member_id, generation = self._group_metadata()
        generation -= fault is Fault.ABORTED
        broker = self._host.broker
        member = (member_id, generation)
        broker.transactions.add_offsets(self._name, self._needed_epoch(), member, broker.now_ms, positions)
        if fault is Fault.OFFSETS_UNANSWERED:
            raise _IndefiniteError

    def _end(self) -> None:
        broker = self._host.broker
        try:
            fault = self._enter(Site.END)
        except SimCrash:
            # Killed right after the request went out, or right before.
            if self._host.rng.random() < 0.5:
                self._end_late()
            raise
        match fault:
            case Fault.END_LOST:
                raise _IndefiniteError
            case Fault.END_LATE:
                self._end_late()
                raise _IndefiniteError
        broker.transactions.end(self._name, self._needed_epoch(), broker.now_ms, committed=True)
        if fault is Fault.END_UNANSWERED:
            raise _IndefiniteError
        self._enter(Site.ENDED)

    def _abort(self, state_offsets: tuple[int, ...]) -> Commit:
        fault = self._enter(Site.ABORT)
        broker = self._host.broker
        if fault is Fault.ABORT_LOST:
            return self._concluded(CommitOutcome.UNKNOWN, state_offsets)
        try:
            broker.transactions.end(self._name, self._needed_epoch(), broker.now_ms, committed=False)
        except ProducerFencedError:
            return self._concluded(CommitOutcome.FENCED, ())
        except TransactionStateError:
            pass  # refused before the broker had heard of it
        return Commit(CommitOutcome.ABORTED)

    def _end_late(self) -> None:
        delay_ms = self._host.rng.choice((1, 10, 100, 1_000))
        self._host.broker.end_later(delay_ms, self._name, self._needed_epoch(), committed=True)

    def _concluded(self, outcome: CommitOutcome, state_offsets: tuple[int, ...]) -> Commit:
        self._epoch = None
        return Commit(outcome, state_offsets)

    def _needed_epoch(self) -> int:
        assert self._epoch is not None
        return self._epoch
