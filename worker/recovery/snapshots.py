"""Decides when a shard is stored, and drives its `SnapshotJob`: one shard after the other, at a bounded cost."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from worker.core.engine import Engine
from worker.core.journal import JOURNAL_CHARS_MAX
from worker.observer import Observer
from worker.ports import Clock, StateRecord
from worker.recovery.snapshot_job import SnapshotJob
from worker.recovery.track import Track

_STAGGER = 16
_BYTES_PER_MS = 100_000
"""Captured, packed and produced in about this time. No clock sees all of it: much is captured right before an event."""


class SnapshotOptions(NamedTuple):
    """When a shard that has changed is stored again: whichever comes first, as far as `time_share` allows it.

    A journal that is half full has to be stored at any cost.
    """

    interval_ms: int = 10_000
    records_max: int = 500_000
    """Since the last one: what a restore has to replay."""
    journal_chars_max: int = JOURNAL_CHARS_MAX // 2
    """The other half is for what happens while it is written."""
    commit_bytes_max: int = 4_000_000
    """Written in one transaction."""
    time_share: float = 0.03
    """Of the worker's time; large state is stored less often than `interval_ms` says."""


class _Running(NamedTuple):
    job: SnapshotJob
    began_ms: int


class Snapshots:
    """The snapshots of all live shards of a worker."""

    def __init__(self, engine: Engine, clock: Clock, options: SnapshotOptions, observer: Observer) -> None:
        self._engine = engine
        self._clock = clock
        self._options = options
        self._observer = observer
        self._running: dict[int, _Running] = {}
        self._cut_ms: dict[int, int] = {}
        self._due_ms: dict[int, int] = {}
        self._rest_until_ms = 0.0

    def add(self, track: Track) -> None:
        """A shard is live. The first snapshots of shards that came together are spread over the interval."""
        ahead = self._options.interval_ms * (track.partition % _STAGGER) // _STAGGER
        self._cut_ms[track.partition] = self._clock.monotonic_ms()
        self._due_ms[track.partition] = self._clock.monotonic_ms() + self._options.interval_ms - ahead

    def forget(self, partition: int) -> None:
        """A shard has gone; what was written of an unfinished snapshot is never pointed at."""
        self._running.pop(partition, None)
        self._cut_ms.pop(partition, None)
        self._due_ms.pop(partition, None)

    def oldest_seconds(self, tracks: Iterable[Track]) -> float:
        """Return the age of the oldest snapshot among shards that have changed since."""
        now_ms = self._clock.monotonic_ms()
        return max((now_ms - self._cut_ms[track.partition] for track in tracks if not track.empty), default=0) / 1000

    def begin(self, track: Track) -> None:
        """Begin a snapshot of this shard, unless one is being written."""
        if track.partition not in self._running:
            now_ms = self._clock.monotonic_ms()
            self._cut_ms[track.partition] = now_ms
            self._due_ms[track.partition] = now_ms + self._options.interval_ms
            job = SnapshotJob(self._engine, track, self._clock.epoch_ms())
            self._running[track.partition] = _Running(job, now_ms)

    def begin_due(self, tracks: Iterable[Track]) -> None:
        """Begin what must be stored now; of what merely should, the one that waits longest, if the cost allows it."""
        now_ms = self._clock.monotonic_ms()
        due = []
        for track in tracks:
            if track.partition in self._running:
                continue
            if track.damaged or track.chars >= self._options.journal_chars_max:
                self.begin(track)
            elif self._should(track, now_ms):
                due.append(track)
        if due and not self._running and now_ms >= self._rest_until_ms:
            self.begin(min(due, key=lambda track: self._due_ms[track.partition]))

    def _should(self, track: Track, now_ms: int) -> bool:
        is_old = now_ms >= self._due_ms[track.partition]
        return not track.empty and (is_old or track.records >= self._options.records_max)

    def records(self) -> Mapping[int, Sequence[StateRecord]]:
        """Return what goes into the next transaction, by partition."""
        if not self._running:
            return {}
        began_ms = self._clock.monotonic_ms()
        share = max(1, self._options.commit_bytes_max // len(self._running))
        records = {partition: running.job.next_records(share) for partition, running in self._running.items()}
        self._observer.captured((self._clock.monotonic_ms() - began_ms) / 1000)
        return records

    def written(self, partition: int, offsets: Sequence[int]) -> bool:
        """Tell a job the offsets of its records, which are visible; return whether it is complete."""
        running = self._running.get(partition)
        if running is None:
            return False
        running.job.written(offsets)
        if running.job.done:
            del self._running[partition]
            now_ms = self._clock.monotonic_ms()
            self._rest_until_ms = now_ms + running.job.bytes / _BYTES_PER_MS / self._options.time_share
            self._observer.snapshot(partition, running.job.bytes, (now_ms - running.began_ms) / 1000)
        return running.job.done
