"""poll -> handle -> commit, and what happens when partitions come and go. This file is about ORDER.

Rule 1: the group is polled only between commits, so a hand-over never falls into a transaction.
Rule 2: outputs wait in memory until their transaction; it holds them and the input positions they belong to, so
        either both are visible or neither is.
Rule 3: state is never rolled back. Bytes of an aborted transaction are sent again, unless their partition has gone:
        then they are dropped with the partition's state, and the new owner makes them anew.
Rule 4: state of a revoked partition is dropped before the callback returns; of a lost one nothing is committed.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from worker.core.engine import Engine, Handled
from worker.core.events import Output, RawBatch
from worker.ports import Clock, CommitOutcome, Membership, Position, PositionUnstableError, Sink, Source


class LoopOptions(NamedTuple):
    """Pacing and bounds of the loop."""

    commit_interval_ms: int = 200
    fetch_records_max: int = 5000
    outputs_max: int = 20_000
    idle_close_ms: int = 5000
    commit_attempts_max: int = 10
    revoke_attempts_max: int = 2
    retry_pause_ms: int = 100
    wait_ms: int = 50


class Observer:
    """Is told what the loop does; the default listens to nothing. Telemetry overrides what it counts."""

    def fetched(self, batches: Sequence[RawBatch], seconds: float) -> None:
        """Records have been read."""

    def handled(self, handled: Handled, seconds: float) -> None:
        """A batch has been processed."""

    def committed(self, outputs: Sequence[Output], seconds: float) -> None:
        """A transaction has become visible."""

    def aborted(self, outcome: CommitOutcome) -> None:
        """A transaction has not become visible, or it is not known yet."""

    def abandoned(self, partitions: Sequence[int]) -> None:
        """Partitions were given up without a last commit: what their open panes held is in no metric."""

    def partitions(self, what: str, partitions: Sequence[int]) -> None:
        """Partitions were assigned, attached, revoked or lost."""


class FencedError(Exception):
    """Another process writes under this worker's identity; this one must leave."""


class CommitFailedError(Exception):
    """A transaction could not be committed within its attempts."""


class _Pending(NamedTuple):
    """What the next transaction holds."""

    outputs: list[Output]
    positions: dict[int, Position]


class Loop:
    """Drives the engine from the source to the sink. Also the listener of the consumer group."""

    def __init__(
        self,
        engine: Engine,
        membership: Membership,
        source: Source,
        sink: Sink,
        clock: Clock,
        options: LoopOptions,
        observer: Observer | None = None,
    ) -> None:
        self._engine = engine
        self._membership = membership
        self._source = source
        self._sink = sink
        self._clock = clock
        self._options = options
        self._observer = observer or Observer()
        self._pending = _Pending([], {})
        self._joining: list[int] = []
        self._ticked_ms: dict[int, int] = {}
        self._offsets: dict[int, int] = {}
        self._abandoned: list[int] = []

    # The path of events.

    def run(self, stop: Callable[[], bool]) -> None:
        """Work until told to stop, then leave: finish the batch, publish open panes, commit, leave the group."""
        while not stop():
            self.step(stop)
        self.revoked(sorted(self._engine.partitions))
        self._membership.close(self)
        self._source.close()
        self._sink.close()
        if self._abandoned:
            raise CommitFailedError(f"the last commit did not go through: open panes of {self._abandoned} are lost")

    def step(self, stop: Callable[[], bool] = lambda: False) -> None:
        """One turn: serve the group, work until the commit is due, commit."""
        self._membership.poll(self)
        self._attach()
        due_ms = self._clock.monotonic_ms() + self._options.commit_interval_ms
        while not stop():
            left_ms = due_ms - self._clock.monotonic_ms()
            if left_ms <= 0 or len(self._pending.outputs) >= self._options.outputs_max:
                break
            self._work(min(left_ms, self._options.wait_ms))
        self._tick_idle()
        self._commit()

    def _work(self, wait_ms: int) -> None:
        """Fetch once and process what came."""
        started_ms = self._clock.monotonic_ms()
        batches = self._source.fetch(self._options.fetch_records_max, wait_ms)
        now_ms = self._clock.monotonic_ms()
        self._observer.fetched(batches, (now_ms - started_ms) / 1000)
        for batch in batches:
            started_ms = self._clock.monotonic_ms()
            handled = self._engine.handle(batch)
            self._pending.outputs.extend(handled.outputs)
            self._offsets[batch.partition] = batch.offsets[-1] + 1
            self._pending.positions[batch.partition] = Position(batch.offsets[-1] + 1)
            self._ticked_ms.setdefault(batch.partition, now_ms)
            self._observer.handled(handled, (self._clock.monotonic_ms() - started_ms) / 1000)

    def _tick_idle(self) -> None:
        """Tell each shard the time now and then: models that have been silent since the last time close their panes."""
        now_ms = self._clock.monotonic_ms()
        for partition, last_ms in self._ticked_ms.items():
            if now_ms - last_ms >= self._options.idle_close_ms:
                self._ticked_ms[partition] = now_ms
                self._tick(partition, self._clock.epoch_ms())

    def _tick(self, partition: int, epoch_ms: int) -> None:
        """Tick one shard.

        Its outputs go with its position, fenced like all others, and with a mark that tells whether they are visible.
        """
        outputs = self._engine.tick(partition, epoch_ms)
        if outputs:
            self._pending.outputs.extend(outputs)
            self._pending.positions[partition] = Position(self._offsets[partition], f"tick {epoch_ms}")

    def _commit(self) -> None:
        """Make pending outputs and positions visible, in one transaction, or raise."""
        if not self._commit_within(self._options.commit_attempts_max):
            raise CommitFailedError(f"no transaction went through in {self._options.commit_attempts_max} attempts")

    def _commit_within(self, attempts: int) -> bool:
        """Return whether everything pending became visible within so many attempts."""
        for attempt in range(attempts):
            if not (self._pending.outputs or self._pending.positions):
                return True
            if attempt:
                self._clock.pause(self._options.retry_pause_ms)
            if self._try_commit() is CommitOutcome.COMMITTED:
                self._pending = _Pending([], {})
                return True
            # Learn whether the partitions are still ours, and refresh the generation. A revocation may come in here:
            # no transaction is open, so it drains and commits as always, and what is pending afterwards is the rest.
            self._membership.poll(self)
        return not (self._pending.outputs or self._pending.positions)

    def _try_commit(self) -> CommitOutcome:
        """Send the pending bytes once; an unknown outcome is looked up in the committed positions."""
        started_ms = self._clock.monotonic_ms()
        outcome = self._sink.commit(self._pending.outputs, self._pending.positions)
        if outcome is CommitOutcome.UNKNOWN:
            self._observer.aborted(outcome)
            self._sink.replace()
            outcome = CommitOutcome.COMMITTED if self._is_visible() else CommitOutcome.ABORTED
        elif outcome is CommitOutcome.ABORTED:
            self._observer.aborted(outcome)
        if outcome is CommitOutcome.FENCED:
            raise FencedError("another process has taken over this worker's transactional id")
        if outcome is CommitOutcome.COMMITTED:
            self._observer.committed(self._pending.outputs, (self._clock.monotonic_ms() - started_ms) / 1000)
        return outcome

    def _is_visible(self) -> bool:
        """Whether the transaction in doubt went through. All its positions were committed together, or none."""
        positions = self._pending.positions
        if not positions:
            raise CommitFailedError("the outcome of a transaction without input positions cannot be told")
        committed = self._committed(sorted(positions))
        return any(place == positions[partition] for partition, place in committed.items())

    def _committed(self, partitions: Sequence[int]) -> Mapping[int, Position | None]:
        for _ in range(self._options.commit_attempts_max):
            try:
                return self._membership.committed(partitions)
            except PositionUnstableError:
                self._clock.pause(self._options.retry_pause_ms)
        raise CommitFailedError("the committed positions could not be read; the next start will")

    # The group.

    def assigned(self, partitions: Sequence[int]) -> None:
        """Note the new partitions; their positions are looked up in the loop, not in the callback."""
        self._joining.extend(partitions)
        self._observer.partitions("assigned", partitions)

    def revoked(self, partitions: Sequence[int]) -> None:
        """Publish and commit what there is of these partitions, then forget them."""
        owned = [partition for partition in partitions if partition in self._engine.partitions]
        for partition in owned:
            self._drain(partition)
        if owned and not self._commit_within(self._options.revoke_attempts_max):
            # The new owner does again what was not committed; the open panes of what was are gone.
            self._abandoned.extend(owned)
            self._observer.abandoned(owned)
        self._forget(partitions)
        self._observer.partitions("revoked", partitions)

    def lost(self, partitions: Sequence[int]) -> None:
        """Forget these partitions: somebody else has them."""
        self._forget(partitions)
        self._observer.partitions("lost", partitions)

    def _drain(self, partition: int) -> None:
        """Take what the open panes hold, with the shard's position, so that it is fenced like all outputs."""
        outputs = self._engine.drain(partition)
        if outputs:
            self._pending.outputs.extend(outputs)
            mark = f"drain {self._clock.epoch_ms()}"
            self._pending.positions[partition] = Position(self._offsets[partition], mark)

    def _attach(self) -> None:
        """Begin the partitions that joined, each at its committed position; restoring state comes in here."""
        if not self._joining:
            return
        try:
            committed = self._membership.committed(self._joining)
        except PositionUnstableError:
            return  # a former owner's transaction is still open: ask again in the next turn
        for partition in self._joining:
            position = committed[partition]
            self._engine.add_shard(partition)
            begin = self._source.attach(partition, None if position is None else position.offset)
            if begin is not None:
                self._offsets[partition] = begin
            if begin is not None and position is None:
                # "latest" is now: a start after a crash must not mean a later now.
                self._pending.positions[partition] = Position(begin)
        self._observer.partitions("attached", self._joining)
        self._joining = []

    def _forget(self, partitions: Sequence[int]) -> None:
        """Drop the state of partitions and whatever of them was not committed."""
        gone = frozenset(partitions)
        self._joining = [partition for partition in self._joining if partition not in gone]
        self._source.detach(partitions)
        for partition in gone & self._engine.partitions:
            self._engine.drop_shard(partition)
        for partition in gone:
            self._ticked_ms.pop(partition, None)
            self._offsets.pop(partition, None)
            self._pending.positions.pop(partition, None)
        self._pending.outputs[:] = [output for output in self._pending.outputs if output.shard not in gone]
