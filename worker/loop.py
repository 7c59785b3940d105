"""poll -> restore -> fetch, handle -> store -> commit; and when partitions come and go. This file is about ORDER.

Rule 1: the group is polled only between commits, so a hand-over never falls into a transaction.
Rule 2: outputs wait in memory until their transaction; it holds them, the positions they belong to, and parts of
        snapshots, so either all of it is visible or nothing is. A model that an output speaks of is stored before.
Rule 3: state is never rolled back. Bytes of an aborted transaction are sent again, unless their partition has gone:
        then they are dropped with the partition's state, and the new owner makes them anew.
Rule 4: state of a revoked partition is dropped before the callback returns; of a lost one nothing is committed.
Rule 5: what is taken in which order is noted in the shard's track as it happens, and committed with the position.
Rule 6: results of records that are taken late are marked, by a header, when they come out of the engine (`lagging.py`).
Rule 7: what a transaction holds is settled while the engine has nothing to do. While it is sent, the engine may go on.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from worker.artefact_publishing import ArtefactOptions, ArtefactPublisher
from worker.budget import BudgetOptions, MaintenanceBudget
from worker.core.engine import Engine
from worker.dispatch import Dispatch, Done
from worker.intake import Intake
from worker.lagging import Lag, alert_causes, marked
from worker.observer import Census, Observer, Shards
from worker.pending import Pending
from worker.ports import (
    ArtefactStore,
    Clock,
    CommitOutcome,
    Effort,
    Executor,
    History,
    InlineExecutor,
    Membership,
    ModelRegistry,
    NoEffort,
    Position,
    PositionUnstableError,
    Sink,
    Source,
    StateRecord,
)
from worker.recovery.problems import ProblemKind
from worker.recovery.restores import Restores, RestoresOptions
from worker.recovery.snapshots import SnapshotOptions, Snapshots
from worker.recovery.track import Identity, Track


class LoopOptions(NamedTuple):
    """Pacing and bounds of the loop."""

    commit_interval_ms: int = 200
    fetch_records_max: int = 5000
    ahead_records_min: int = 10_000
    """With so many under way the next fetch does not wait for the engine. Before, it had better: the longer it waits,
    the more records come at once, and few are dear."""
    gather_ms: int = 40
    """From a fetch of few records after another one to the next, at least."""
    few_records: int = 6_000
    """So many, of all partitions, are worked on where they are fetched: all that comes while the worker keeps up."""
    outputs_max: int = 20_000
    idle_close_ms: int = 5000
    commit_attempts_max: int = 10
    revoke_attempts_max: int = 2
    handover_ms: int = 5000
    """How long shards that are given up may be stored before that; what is not in time is replayed."""
    restore_slice_ms: int = 50
    restore_wait_ms: int = 5
    """For records of live shards, while restores wait for Kafka."""
    retry_pause_ms: int = 100
    store_pause_ms_max: int = 5_000
    """The store of models gets longer and longer pauses, up to this one."""
    wait_ms: int = 50
    label_hold_ms: int = 0
    """How long labels wait for predictions that may not come; 0: they do not wait (`Alignment`)."""
    held_labels_max: int = 50_000
    lagging_ms: int = 60_000
    """Results that come so much later than Kafka's timestamp of their record are marked."""
    census_ms: int = 2_000
    """How often it is looked up what takes a walk over all models."""
    restores: RestoresOptions = RestoresOptions()
    snapshots: SnapshotOptions = SnapshotOptions()
    budget: BudgetOptions = BudgetOptions()
    artefacts: ArtefactOptions = ArtefactOptions()


class Ports(NamedTuple):
    """The outside world. Without an effort nothing is thinned; without a store of models they are not kept.

    Without an executor one shard is worked on after the other.
    """

    membership: Membership
    source: Source
    history: History
    sink: Sink
    clock: Clock
    effort: Effort | None = None
    artefacts: ArtefactStore | None = None
    registry: ModelRegistry | None = None
    executor: Executor | None = None


class FencedError(Exception):
    """Another process writes under this worker's identity; this one must leave."""


class CommitFailedError(Exception):
    """A transaction, or a model that it speaks of, could not be written within its attempts."""


class StateRefusedError(Exception):
    """No shard that this worker owns can be worked on; the message says why and what to do."""


class Loop:
    """Drives the engine from the source to the sink. Also the listener of the consumer group."""

    def __init__(
        self, engine: Engine, ports: Ports, identity: Identity, options: LoopOptions, observer: Observer | None = None
    ) -> None:
        self._engine = engine
        self._membership, self._source, history, self._sink, self._clock, effort, artefacts, registry, executor = ports
        self._options = options
        self._observer = observer or Observer()
        self._effort = effort or NoEffort()
        self._budget = MaintenanceBudget(options.budget, self._clock.monotonic_ms(), self._effort.spent())
        self._artefacts = ArtefactPublisher(artefacts, registry, options.artefacts, self._clock, self._observer)
        executor = executor or InlineExecutor()
        self._dispatch = Dispatch(engine, executor, self._effort, self._clock)
        self._goes_ahead = executor.is_beside
        self._tracks: dict[int, Track] = {}
        self._ticked_ms: dict[int, int] = {}
        self._pending = Pending()
        self._intake = Intake(
            self._source,
            self._clock,
            self._observer,
            records_max=options.fetch_records_max,
            label_hold_ms=options.label_hold_ms,
            held_labels_max=options.held_labels_max,
            gather_ms=options.gather_ms,
        )
        self._lag = Lag(options.lagging_ms)
        self._census_ms: int | None = None
        self._thinning = 0
        self._snapshots = Snapshots(engine, self._clock, options.snapshots, self._observer)
        self._restores = Restores(
            engine, self._membership, history, self._clock, identity, options.restores, self._observer
        )

    # The path of events.

    def run(self, stop: Callable[[], bool]) -> None:
        """Work until told to stop, then leave: finish the batch, store and commit, leave the group."""
        try:
            while not stop():
                self.step(stop)
        except StateRefusedError:
            self._leave()
            raise
        self._leave()

    def _leave(self) -> None:
        self.revoked(sorted(self._tracks))
        self._membership.close(self)
        self._source.close()
        self._sink.close()

    def step(self, stop: Callable[[], bool] = lambda: False) -> None:
        """One turn: serve the group, work until the commit is due, commit."""
        self._membership.poll(self)
        if self._restores.waiting:
            self._finish()  # or what the engine goes on with could take the time of every turn, and restores get none
        begun_ms, usual_ms = self._clock.monotonic_ms(), self._options.commit_interval_ms
        while not stop():
            is_much = self._dispatch.records >= self._options.ahead_records_min
            if not is_much:
                self._finish()  # before it is asked what is due: it may tell an alert
            spent_ms = self._clock.monotonic_ms() - begun_ms
            left_ms = self._lag.commit_interval_ms(usual_ms, self._pending.causes) - spent_ms
            if left_ms <= 0 or len(self._pending.outputs) >= self._options.outputs_max:
                break
            if is_much:
                self._collect(self._dispatch.until_few_wait(self._lag.ahead_records))
            self._work(min(left_ms, self._restore()))
        if self._goes_ahead and self._lag.ahead_records and self._intake.next is None and not stop():
            self._fetch(0)  # for the engine to work on while the commit is waited for
        self._finish()
        self._tick_idle()
        self._keep_budget()
        self._snapshots.begin_due(self._tracks.values())
        self._add_state()
        self._count_models()
        self._commit(self._go_ahead)
        self._tell()

    def _restore(self) -> int:
        """Go on with restores; begin to read shards that are live now. Return how long to wait for records then."""
        if not self._restores.waiting:
            return self._options.wait_ms
        self._finish()
        live, busy = self._restores.work(self._options.restore_slice_ms)
        for track in live:
            self._tracks[track.partition] = track
            self._budget.joined(self._engine.thinning(track.partition))
            self._ticked_ms[track.partition] = self._clock.monotonic_ms()
            self._snapshots.add(track)
            self._intake.attach(track.partition, track.offset, track.label_offset, track.feedback_offset)
            # Where a new shard begins is committed at once: after a crash, "latest" must not mean a later now.
            self._pending.moved.add(track.partition)
        return 0 if busy else self._options.restore_wait_ms

    def _work(self, wait_ms: int) -> None:
        """Give the engine what is there, or fetch once."""
        if self._intake.next is None:
            self._fetch(wait_ms)
        are_many = self._intake.records > self._options.few_records
        while (batch := self._intake.next) is not None:
            if not self._has_room(batch.partition):
                self._make_room(batch.partition)
            # To store polls the group: the shard, and the batch with it, may have gone meanwhile.
            if batch is self._intake.next:
                self._dispatch.add(self._intake.take(), beside=are_many)

    def _fetch(self, wait_ms: int) -> None:
        self._lag.fetched(self._intake.fetch(wait_ms), self._options.fetch_records_max)

    def _has_room(self, partition: int) -> bool:
        """Whether the journal of a shard has room for one more batch, after those that are on their way."""
        return self._tracks[partition].has_room(self._dispatch.untold(partition))

    def _make_room(self, partition: int) -> None:
        self._finish()
        track = self._tracks[partition]
        if track.full:
            self._store_now(track)

    def _go_ahead(self) -> None:
        """Let the engine work while a commit is waited for, as far as journals have room (to make some is a commit)."""
        if not self._goes_ahead:
            return
        while (batch := self._intake.next) is not None and self._has_room(batch.partition):
            self._dispatch.add(self._intake.take())

    def _finish(self) -> None:
        """Wait until the engine has done all that it was given."""
        self._collect(self._dispatch.finish())

    def _collect(self, results: Iterable[Done]) -> None:
        """Let results of the engine wait for the transaction."""
        for batch, handled, seconds in results:
            self._tracks[batch.partition].taken(batch.topic, batch.offsets[-1] + 1)
            lag_ms = self._lag.taken(batch, self._clock.epoch_ms())
            self._pending.outputs.extend(handled.outputs if lag_ms is None else marked(handled.outputs, lag_ms))
            self._pending.causes += alert_causes(batch, handled.outputs)
            self._pending.moved.add(batch.partition)
            self._observer.handled(handled, seconds)

    def _tick_idle(self) -> None:
        """Tell each shard the time now and then: models that have been silent since the last time close their panes."""
        now_ms = self._clock.monotonic_ms()
        for partition, track in self._tracks.items():
            if now_ms - self._ticked_ms[partition] < self._options.idle_close_ms:
                continue
            self._ticked_ms[partition] = now_ms
            epoch_ms = self._clock.epoch_ms()
            if self._engine.wants_tick(partition, epoch_ms) and not track.full:
                self._effort.begin()
                self._pending.outputs.extend(self._engine.tick(partition, epoch_ms))
                self._effort.end()
                self._pending.moved.add(partition)
                track.ticked(epoch_ms)

    def _keep_budget(self) -> None:
        """Look now and then at what maintenance costs; tell the shards which part of the events they may use for it."""
        now_ms = self._clock.monotonic_ms()
        if self._restores.waiting:
            self._budget.restart(now_ms, self._effort.spent())
        elif self._budget.is_due(now_ms):
            self._observer.maintained(self._budget.judge(now_ms, self._effort.spent()))
        level = self._budget.level
        for partition, track in self._tracks.items():
            if self._engine.thinning(partition) != level and not track.full:
                self._pending.outputs.extend(self._engine.thin(partition, level))
                self._pending.moved.add(partition)
                track.thinned(level)
        self._thinning = max(map(self._engine.thinning, self._tracks), default=0)

    # The commit.

    def _add_state(self) -> None:
        """Put more of the open snapshots into the next transaction, with the positions that fence them."""
        if self._pending.state:
            return  # from a transaction that did not go through: first these
        for partition, records in self._snapshots.records().items():
            self._pending.state.extend(records)
            self._pending.moved.add(partition)

    def _commit(self, meanwhile: Callable[[], None] | None = None) -> None:
        """Make everything pending visible, in one transaction, or raise. See `_commit_within`."""
        attempts = self._options.commit_attempts_max
        if not self._commit_within(attempts, meanwhile):
            why = self._artefacts.problem or "no transaction went through"
            raise CommitFailedError(f"{why} ({attempts} attempts)")

    def _commit_within(self, attempts: int, meanwhile: Callable[[], None] | None = None) -> bool:
        """Return whether everything pending became visible within so many attempts.

        `meanwhile` is called when it is settled what the first attempt holds, before Kafka is waited for.
        """
        for attempt in range(attempts):
            self._finish()  # positions and traces are of one moment
            if self._pending.empty:
                return True
            if attempt:
                self._clock.pause(self._pause_ms(attempt))
            if self._artefacts.put(self._pending.outputs) and self._try_commit(meanwhile):
                return True
            meanwhile = None
            self._observer.alive()
            # Learn whether the partitions are still ours, and refresh the generation. A revocation may come in here:
            # no transaction is open, so it commits as always, and what is pending afterwards is the rest.
            self._membership.poll(self)
        return self._pending.empty

    def _pause_ms(self, attempt: int) -> int:
        """Return how long to wait before an attempt: a store of models may be away for longer than a transaction."""
        pause_ms = self._options.retry_pause_ms
        return min(pause_ms << attempt, self._options.store_pause_ms_max) if self._artefacts.problem else pause_ms

    def _try_commit(self, meanwhile: Callable[[], None] | None) -> bool:
        """Send the pending bytes once; an unknown outcome is looked up in the committed positions."""
        started_ms = self._clock.monotonic_ms()
        pending = self._pending
        positions = {
            partition: self._tracks[partition].position(self._engine.trace(partition))
            for partition in sorted(pending.moved)
        }
        in_use = self._engine.artefacts_in_use() if self._artefacts.has_new else set[str]()
        if meanwhile is not None:
            meanwhile()
        outcome, state_offsets = self._sink.commit(pending.outputs, positions, pending.state)
        if outcome is CommitOutcome.UNKNOWN:
            self._observer.aborted(outcome)
            self._sink.replace()
            outcome = CommitOutcome.COMMITTED if self._is_visible(positions) else CommitOutcome.ABORTED
        elif outcome is CommitOutcome.ABORTED:
            self._observer.aborted(outcome)
        if outcome is CommitOutcome.FENCED:
            raise FencedError("another process has taken over this worker's transactional id")
        if outcome is not CommitOutcome.COMMITTED:
            return False
        self._pending = Pending()
        for partition in positions:
            self._tracks[partition].has_position = True
        if pending.causes:
            now_ms = self._clock.epoch_ms()
            self._observer.alerted([max(0, now_ms - cause.timestamp_ms) / 1000 for cause in pending.causes])
        self._observer.committed(pending.outputs, (self._clock.monotonic_ms() - started_ms) / 1000)
        self._settle(pending.state, state_offsets)
        self._artefacts.tidy(in_use)
        return True

    def _settle(self, state: Sequence[StateRecord], offsets: Sequence[int]) -> None:
        """Tell the snapshots where their records lie. A complete one is pointed at by the next commit."""
        by_partition: dict[int, list[int]] = {}
        for record, offset in zip(state, offsets, strict=True):
            by_partition.setdefault(record.partition, []).append(offset)
        for partition, own in by_partition.items():
            if self._snapshots.written(partition, own):
                self._pending.moved.add(partition)

    def _is_visible(self, positions: Mapping[int, Position]) -> bool:
        """Whether the transaction in doubt went through. All its positions were committed together, or none."""
        if not positions:
            raise CommitFailedError("the outcome of a transaction without input positions cannot be told")
        committed = self._committed(sorted(positions))
        return any(
            place is not None and place[:2] == positions[partition][:2] for partition, place in committed.items()
        )

    def _committed(self, partitions: Sequence[int]) -> Mapping[int, Position | None]:
        """Look up positions. That there is none is not believed where there was one (see `RestoresOptions`)."""
        had_one = {partition for partition in partitions if self._tracks[partition].has_position}
        for _ in range(self._options.commit_attempts_max):
            try:
                found = self._membership.committed(partitions)
                if all(found[partition] is not None for partition in had_one):
                    return found
            except PositionUnstableError:
                pass
            self._clock.pause(self._options.retry_pause_ms)
            self._observer.alive()
        raise CommitFailedError("the committed positions could not be read; the next start will")

    # Storing without waiting for the next turn.

    def _store_now(self, track: Track) -> None:
        """The journal of a shard is full: nothing more is taken before it is stored."""
        self._commit()
        while track.full and self._tracks.get(track.partition) is track:
            self._snapshots.begin(track)
            self._add_state()
            self._commit()

    def _store_before_leaving(self, partitions: Sequence[int]) -> bool:
        """Store shards that are about to go, so that their new owner has nothing to replay. Bounded in time."""
        until_ms = self._clock.monotonic_ms() + self._options.handover_ms
        while self._clock.monotonic_ms() < until_ms:
            # At the end of a run this is no callback: a commit polls the group, and shards may go meanwhile.
            for partition in partitions:
                track = self._tracks.get(partition)
                if track is not None and not track.empty:
                    self._snapshots.begin(track)
            self._add_state()
            if self._pending.empty:
                return True
            if not self._commit_within(self._options.revoke_attempts_max):
                return False
        return True

    # The group.

    def assigned(self, partitions: Sequence[int]) -> None:
        """Note the new partitions; their state is restored in the loop, not in the callback."""
        self._observer.partitions("assigned", partitions)
        self._restores.add(partitions)

    def revoked(self, partitions: Sequence[int]) -> None:
        """Commit what there is of these partitions, store them, then forget them."""
        owned = [partition for partition in partitions if partition in self._tracks]
        attempts_max = self._options.revoke_attempts_max
        done = not owned or (self._commit_within(attempts_max) and self._store_before_leaving(owned))
        if not done:
            # The new owner does again what was not committed.
            self._observer.abandoned(owned)
        self._forget(partitions)
        self._observer.partitions("revoked", partitions)

    def lost(self, partitions: Sequence[int]) -> None:
        """Forget these partitions: somebody else has them."""
        self._forget(partitions)
        self._observer.partitions("lost", partitions)

    def _forget(self, partitions: Sequence[int]) -> None:
        """Drop the state of partitions and whatever of them was not committed."""
        self._finish()
        self._restores.forget(partitions)
        self._intake.forget(partitions)
        for partition in partitions:
            self._snapshots.forget(partition)
            self._ticked_ms.pop(partition, None)
            if self._tracks.pop(partition, None) is not None:
                self._engine.drop_shard(partition)
        self._pending.forget(frozenset(partitions))
        self._census_ms = None  # what they had is told no longer than until the next commit

    def _tell(self) -> None:
        """Tell the observer what there is; end when nothing can be worked on."""
        self._observer.alive()
        if self._lag.turn(self._clock.monotonic_ms()):
            if self._lag.lagging:
                self._observer.lagging(self._lag.seconds)
            else:
                self._observer.caught_up()
        restores = self._restores
        self._observer.shards(
            Shards(
                live=len(self._tracks),
                restoring=restores.waiting,
                refused=len(restores.refused),
                records_left=restores.records_left,
                seconds_left=restores.seconds_left,
                oldest_cut_seconds=self._snapshots.oldest_seconds(self._tracks.values()),
                lag_seconds=self._lag.seconds,
                thinning=self._thinning,
            )
        )
        problems = restores.refused.values()
        # A partition too many is nobody's reason to end: the others belong to other workers, and go on.
        serious = any(problem.kind is not ProblemKind.NO_STATE_PARTITION for problem in problems)
        if serious and not self._tracks and not restores.waiting:
            raise StateRefusedError("; ".join(str(problem) for problem in problems))

    def _count_models(self) -> None:
        """Look now and then at what nobody keeps count of."""
        now_ms = self._clock.monotonic_ms()
        if self._census_ms is not None and now_ms - self._census_ms < self._options.census_ms:
            return
        self._census_ms = now_ms
        engine, partitions = self._engine, sorted(self._tracks)
        incidents: dict[tuple[int, str, str], int] = {
            (partition, model_id, severity): count
            for partition in partitions
            for model_id, counts in engine.open_incidents(partition).items()
            for severity, count in counts.items()
        }
        models = {partition: engine.model_ids(partition) for partition in partitions}
        self._observer.census(Census(models, incidents, self._source.lag()))
