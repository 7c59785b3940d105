"""Brings back the shards that were assigned: a few at a time, in slices, while the others work.

    joining -> (committed position) -> restoring -> live
                                           |
                                           +-> refused

Refused is a shard whose state cannot be used, when nobody said to begin anew: it is left alone.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

from worker.core.engine import Engine
from worker.observer import Observer
from worker.ports import Clock, History, Membership, Position, PositionUnstableError
from worker.recovery.problems import ProblemKind, StateProblemError
from worker.recovery.restore_job import RestoreJob, RestoreOptions
from worker.recovery.track import Identity, Track


class RestoresOptions(NamedTuple):
    """Bounds and policy."""

    job: RestoreOptions = RestoreOptions()
    on_missing_state: Literal["fail", "fresh"] = "fail"
    jobs_max: int = 2
    """Restored at the same time; the others wait."""
    partitions: int | None = None
    """Partitions that `labels` and `state` have both; beyond them there is no place for state."""
    ask_again_ms: int = 500
    """After committed positions could not be told, or there was none."""
    answers_min: int = 2
    """So often "there is no position" must be the answer: while a coordinator moves, brokers have told it wrongly
    (KAFKA-20416), and to believe it would mean to read everything again."""


class _Running(NamedTuple):
    job: RestoreJob
    began_ms: int


class Restores:
    """All shards of this worker that are not live yet."""

    def __init__(
        self,
        engine: Engine,
        membership: Membership,
        history: History,
        clock: Clock,
        identity: Identity,
        options: RestoresOptions,
        observer: Observer,
    ) -> None:
        self._engine = engine
        self._membership = membership
        self._history = history
        self._clock = clock
        self._identity = identity
        self._options = options
        self._observer = observer
        self._joining: list[int] = []
        self._running: dict[int, _Running] = {}
        self._ask_from_ms = 0
        self._none_answers: Counter[int] = Counter()
        self.refused: dict[int, StateProblemError] = {}

    @property
    def waiting(self) -> int:
        """How many shards are not live yet, refused ones not counted."""
        return len(self._joining) + len(self._running)

    @property
    def records_left(self) -> int:
        """Records still to be replayed, as far as it is known."""
        return sum(running.job.records_left for running in self._running.values())

    @property
    def seconds_left(self) -> float | None:
        """At the pace so far; None where there is none yet."""
        now_ms = self._clock.monotonic_ms()
        replayed = sum(running.job.replayed for running in self._running.values())
        elapsed_ms = max((now_ms - running.began_ms for running in self._running.values()), default=0)
        return self.records_left * elapsed_ms / 1000 / replayed if replayed else None

    def add(self, partitions: Sequence[int]) -> None:
        """Shards were assigned. Quick: it is called inside a group callback."""
        pinned = self._options.partitions
        for partition in partitions:
            if pinned is not None and partition >= pinned:
                self._refuse(partition, _grown(partition, pinned))
            else:
                self._joining.append(partition)

    def forget(self, partitions: Sequence[int]) -> None:
        """Shards have gone: cancel what was under way."""
        self._joining = [partition for partition in self._joining if partition not in partitions]
        for partition in partitions:
            del self._none_answers[partition]
            self.refused.pop(partition, None)
            running = self._running.pop(partition, None)
            if running is not None:
                running.job.close()

    def work(self, slice_ms: int) -> tuple[list[Track], bool]:
        """Restore for about so long; return the shards that are live now, and whether there was anything to do."""
        self._begin()
        live: list[Track] = []
        begun_ms = self._clock.monotonic_ms()
        busy = False
        moved = True
        while moved and self._running and self._clock.monotonic_ms() - begun_ms < slice_ms:
            moved = False
            for partition in list(self._running):
                moved |= self._step(partition, live)
            busy |= moved
        return live, busy

    def _begin(self) -> None:
        """Look up the positions of those next in line, and begin."""
        now_ms = self._clock.monotonic_ms()
        free = self._options.jobs_max - len(self._running)
        if not self._joining or free <= 0 or now_ms < self._ask_from_ms:
            return
        try:
            committed = self._membership.committed(self._joining)
        except PositionUnstableError:
            # A former owner's transaction is still open. Asking can take a while, and others have work to do.
            self._ask_from_ms = self._clock.monotonic_ms() + self._options.ask_again_ms
            return
        known = [
            partition
            for partition in self._joining
            if committed[partition] is not None or self._is_confirmed(partition)
        ]
        for partition in known[:free]:
            position = committed[partition]
            self._joining.remove(partition)
            del self._none_answers[partition]
            self._running[partition] = _Running(self._job(partition, position), now_ms)

    def _is_confirmed(self, partition: int) -> bool:
        """Note an answer that there is no position; tell whether it has been given often enough."""
        self._none_answers[partition] += 1
        if self._none_answers[partition] >= self._options.answers_min:
            return True
        self._ask_from_ms = self._clock.monotonic_ms() + self._options.ask_again_ms
        return False

    def _job(self, partition: int, position: Position | None, *, fresh: bool = False) -> RestoreJob:
        return RestoreJob(
            partition, position, self._engine, self._history, self._identity, self._options.job, fresh=fresh
        )

    def _step(self, partition: int, live: list[Track]) -> bool:
        """Drive one job a little; return whether it could do anything."""
        job, began_ms = self._running[partition]
        begun_ms, replayed = self._clock.monotonic_ms(), job.replayed
        try:
            moved = job.step()
        except StateProblemError as problem:
            job.close()
            self._decide(job, problem)
            return True
        for note in job.notes:
            self._observer.noted(partition, note)
        job.notes.clear()
        now_ms = self._clock.monotonic_ms()
        self._observer.replaying(job.replayed - replayed, (now_ms - begun_ms) / 1000)
        self._observer.alive()
        if job.track is not None:
            del self._running[partition]
            live.append(job.track)
            self._observer.restored(partition, job.replayed, (now_ms - began_ms) / 1000)
        return moved

    def _decide(self, job: RestoreJob, problem: StateProblemError) -> None:
        """Begin anew if that was allowed; else leave the shard alone. A digest that differs has its own policy."""
        partition, (_, began_ms) = job.partition, self._running.pop(job.partition)
        if self._options.on_missing_state == "fresh" and problem.kind is not ProblemKind.DIGEST_MISMATCH:
            self._observer.noted(partition, f"{problem} (chosen)")
            self._running[partition] = _Running(self._job(partition, job.position, fresh=True), began_ms)
        else:
            self._refuse(partition, problem)

    def _refuse(self, partition: int, problem: StateProblemError) -> None:
        self.refused[partition] = problem
        self._observer.refused(partition, problem.kind.value, str(problem))


def _grown(partition: int, pinned: int) -> StateProblemError:
    return StateProblemError(
        ProblemKind.NO_STATE_PARTITION,
        f"shard {partition}: predictions has grown, but labels or state have only {pinned} partitions. Keys are spread "
        "anew by that, so models come to other shards. To migrate: stop the writers, let the workers catch up, stop "
        f"them, bring labels and state to the same number with kafka-topics --alter, start again. Until then shards "
        f"from {pinned} on are not worked on; the others are.",
    )
