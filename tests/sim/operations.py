"""What happens to the cluster and to whole workers: input arrives, workers come and go, logs are cleaned."""

from collections.abc import Sequence
from functools import partial

from tests.sim.faults import PLACES, Fault
from tests.sim.log import PartitionLog
from tests.sim.scenario import Burst
from tests.sim.world import Process, World
from worker.core.events import InputTopic
from worker.core.journal import Pointer, Ref, decode_pointer
from worker.recovery.stored import decode_manifest

_UPSTREAM_TIMEOUT_MS = 60_000
_CLEANING = (Fault.COMPACT, Fault.RETAIN)
_CLEANING_MS = 3_000
"""Brokers clean up for as long again after the faults: while those who come back late find what is left."""


class Operations:
    """Plays what the scenario says beside the faults of single calls."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._plan = world.scenario
        self._broker = world.broker
        self._rng = world.rng
        self._guests: set[int] = set()
        self._damaged: set[int] = set()
        self.calm = False
        self.leaving = False
        world.on_end = self.ended

    def schedule(self) -> None:
        """Plan the whole run."""
        at = self._world.scheduler.at
        for number, burst in enumerate(self._plan.bursts):
            at(burst.at_ms, partial(self._arrive, burst, f"upstream-{number}"))
        for slot in range(self._plan.workers):
            at(slot * self._rng.choice((0, 50, 500)), partial(self._start, slot))
        for kind in self._plan.kinds:
            if kind not in PLACES:
                until_ms = self._plan.chaos_ms + (_CLEANING_MS if kind in _CLEANING else 0)
                for _ in range(self._rng.randint(1, 3)):
                    at(self._rng.randint(0, until_ms), partial(self._happen, kind))

    def ended(self, process: Process) -> None:
        """A worker has ended: its supervisor starts another one, unless it was a guest or has been replaced."""
        if self.leaving and not self._world.processes:
            self._world.scheduler.finish()
        in_its_place = any(other.slot == process.slot for other in self._world.processes)
        if self.leaving or in_its_place or process.slot in self._guests:
            return
        delay_ms = self._rng.choice((0, 20, 300))
        self._world.scheduler.at(self._world.scheduler.now_ms + delay_ms, partial(self._start, process.slot))

    def _start(self, slot: int) -> None:
        if not self.leaving:
            self._world.start(slot)

    def _arrive(self, burst: Burst, name: str) -> None:
        broker, log = self._broker, self._broker.log(burst.topic, burst.partition)
        if burst.committed is None:
            for value, stamp in burst.records:
                log.append(stamp, b"key", value)
            return
        epoch = broker.transactions.initialise(name, _UPSTREAM_TIMEOUT_MS)
        for value, stamp in burst.records:
            broker.transactions.append(name, epoch, log, stamp, (b"key", value, None))
        if burst.records:
            delay_ms = self._rng.choice((0, 30, 200))
            broker.end_later(delay_ms, name, epoch, committed=burst.committed)

    def _happen(self, kind: Fault) -> None:
        if self.calm and kind not in _CLEANING:
            return
        what = {
            Fault.STOP: self._stop,
            Fault.JOIN: self._join,
            Fault.TWIN: self._twin,
            Fault.COMPACT: self._compact,
            Fault.RETAIN: self._retain,
            Fault.RETAIN_LESS: self._retain_less,
            Fault.CLOCK: self._jump,
            Fault.DAMAGE: self._damage,
        }
        if what[kind]():
            self._world.faults.counts[kind] += 1
            self._world.note("cluster", kind)

    def _stop(self) -> bool:
        if self._world.processes:
            self._rng.choice(self._world.processes).stopping = True
        return bool(self._world.processes)

    def _join(self) -> bool:
        guest = self._world.start(self._plan.workers + len(self._guests))
        self._guests.add(guest.slot)

        def leave() -> None:
            guest.stopping = True

        self._world.scheduler.at(self._world.scheduler.now_ms + self._rng.randint(100, 2_000), leave)
        return True

    def _twin(self) -> bool:
        if self._world.processes:
            self._world.start(self._rng.choice(self._world.processes).slot)
        return bool(self._world.processes)

    def _compact(self) -> bool:
        for partition in range(self._broker.partitions):
            log = self._broker.log(InputTopic.STATE, partition)
            log.compact(self._rng.randint(0, log.end), self._broker.now_ms, self._rng.choice((0, 500)))
        return True

    def _retain(self) -> bool:
        """Remove input before the journals, which nobody needs while the newest snapshots are sound."""
        pointers = [self._pointer(partition) for partition in range(self._broker.partitions)]
        for partition, pointer in enumerate(pointers):
            if pointer is not None:
                self._broker.log(InputTopic.PREDICTIONS, partition).delete_before(pointer.base.offset)
                self._broker.log(InputTopic.LABELS, partition).delete_before(pointer.base.label_offset)
        self._forget_feedback([0 if pointer is None else pointer.base.feedback_offset for pointer in pointers])
        return True

    def _retain_less(self) -> bool:
        """Remove all input that has been worked off: the journals cannot be replayed any more."""
        for partition, position in self._broker.group.committed.items():
            self._broker.log(InputTopic.PREDICTIONS, partition).delete_before(position.offset)
            self._broker.log(InputTopic.LABELS, partition).delete_before(position.label_offset or 0)
        pointers = [self._pointer(partition) for partition in range(self._broker.partitions)]
        self._forget_feedback([0 if pointer is None else pointer.feedback_offset for pointer in pointers])
        return bool(self._broker.group.committed)

    def _forget_feedback(self, offsets: Sequence[int]) -> None:
        """Remove what all shards have behind them."""
        self._broker.log(InputTopic.FEEDBACK, 0).delete_before(min(offsets))

    def _jump(self) -> bool:
        self._broker.epoch_ms += self._rng.choice((-3_600_000, -3_000, 3_000, 3_600_000))
        return True

    def _damage(self) -> bool:
        """Flip a bit of a newest snapshot and let all workers die, so that it is read."""
        for partition in range(self._broker.partitions):
            offsets = [] if partition in self._damaged else self._only_in_newest(partition)
            if offsets:
                log = self._broker.log(InputTopic.STATE, partition)
                log.damage(self._rng.choice(offsets), self._rng.randrange(1_000_000))
                self._damaged.add(partition)
                for process in self._world.processes:
                    process.dead = True
                return True
        return False

    def _pointer(self, partition: int) -> Pointer | None:
        position = self._broker.group.committed.get(partition)
        return None if position is None else decode_pointer(position.metadata)

    def _only_in_newest(self, partition: int) -> list[int]:
        """Return offsets of what belongs to the newest snapshot and not to the one before it.

        Once a further snapshot has been begun, there are none: it overwrites the one before.
        """
        pointer, log = self._pointer(partition), self._broker.log(InputTopic.STATE, partition)
        if pointer is None or pointer.base.snapshot is None or pointer.base.link is None:
            return []
        if log.archive[-1].offset > pointer.base.link.offsets[-1]:
            return []
        newest = _offsets_of(log, pointer.base.snapshot)
        return sorted(newest - _offsets_of(log, pointer.base.previous))


def _offsets_of(log: PartitionLog, snapshot: Ref | None) -> set[int]:
    """Return the offsets of everything that a snapshot consists of."""
    if snapshot is None:
        return set()
    manifest = decode_manifest(b"".join(map(log.value, snapshot.offsets)))
    parts = [offset for parts in manifest.models.values() for ref in parts.values() for offset in ref.offsets]
    return {*snapshot.offsets, *parts}
