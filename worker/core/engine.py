"""The whole core: shards by partition. Bytes in, bytes out; what it does is a function of what it is given."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from worker.core.alerts.life import Severity
from worker.core.codec import Reject
from worker.core.cut import Captured
from worker.core.events import InputTopic, Output, RawBatch
from worker.core.maintenance.challengers import ChallengerPool
from worker.core.maintenance.metering import Meter, NoMeter
from worker.core.options import EngineOptions
from worker.core.shard import Shard, Topics


class Handled(NamedTuple):
    """What became of a batch: outputs in the order of offsets, and how many records were used or rejected."""

    outputs: list[Output]
    events: int
    labels: int
    rejects: list[Reject]


class Engine:
    """Owns the shards of this process. Calls for a partition that is not owned are a bug of the caller.

    Args:
        options: of everything in it.
        topics: as evidence tells their names.
        refits: fits models.
        meter: is told what is done for maintenance.
    """

    def __init__(
        self, options: EngineOptions, topics: Topics, refits: ChallengerPool, meter: Meter | None = None
    ) -> None:
        self._options = options
        self._topics = topics
        self._refits = refits
        self._meter = meter or NoMeter()
        self._shards: dict[int, Shard] = {}

    @property
    def partitions(self) -> frozenset[int]:
        """The partitions with a shard here."""
        return frozenset(self._shards)

    @property
    def models(self) -> int:
        """How many monitors there are, over all shards."""
        return sum(len(shard.model_ids) for shard in self._shards.values())

    def open_incidents(self, partition: int) -> dict[str, Counter[Severity]]:
        """Return how many incidents are open in a shard, by model and severity. It walks all models: now and then."""
        return self._shards[partition].open_incidents()

    def add_shard(self, partition: int) -> None:
        """Begin a partition with empty state."""
        if partition in self._shards:
            raise AssertionError(f"shard {partition} exists already")
        self._shards[partition] = Shard(partition, self._topics, self._options, self._refits, self._meter)

    def drop_shard(self, partition: int) -> None:
        """Forget a partition's state."""
        del self._shards[partition]

    def handle(self, batch: RawBatch) -> Handled:
        """Process consecutive records of one partition of one topic."""
        outputs, rejects = self._shards[batch.partition].handle(batch)
        used = len(batch.offsets) - len(rejects)
        events = used if batch.topic is InputTopic.PREDICTIONS else 0
        labels = used if batch.topic is InputTopic.LABELS else 0
        return Handled(outputs, events, labels, rejects)

    def wants_tick(self, partition: int, now_ms: int) -> bool:
        """Tell whether a tick at `now_ms` could do anything; if not, there is nothing to journal."""
        return self._shards[partition].wants_tick(now_ms)

    def tick(self, partition: int, now_ms: int) -> list[Output]:
        """Tell a shard that its partition has been idle and what the time is; the caller journals it."""
        return self._shards[partition].tick(now_ms)

    def thinning(self, partition: int) -> int:
        """Return the level of thinning of a shard: one event in 2^level is used for maintenance."""
        return self._shards[partition].thinning

    def thin(self, partition: int, level: int) -> list[Output]:
        """Use one event in 2^level for maintenance from here on; the caller journals it."""
        return self._shards[partition].thin(level)

    def artefacts_in_use(self) -> set[str]:
        """Return the paths of stored models that may be asked for again: what is deployed, offered, or gone back to."""
        return {path for shard in self._shards.values() for path in shard.artefacts_in_use()}

    # Storing and restoring.

    def model_ids(self, partition: int) -> list[str]:
        """Return the models that a shard watches, in the order in which they appeared."""
        return self._shards[partition].model_ids

    def begin_cut(self, partition: int, stored: Mapping[str, int]) -> bytes:
        """Begin a cut through a shard; return what it knows beside its monitors.

        Args:
            partition: the shard; its former cut must be complete.
            stored: the models that are stored already, with the version of their fitted part (0: there is none).
        """
        return self._shards[partition].begin_cut(stored)

    def take_captured(self, partition: int, bytes_max: int) -> list[Captured]:
        """Return more of the open cut, about `bytes_max` bytes of it; nothing when it is complete."""
        return self._shards[partition].take_captured(bytes_max)

    def restore_monitor(self, partition: int, model_id: str, live: bytes, fitted: bytes | None) -> None:
        """Take over one monitor into a new shard, in any order. Raises SnapshotError."""
        self._shards[partition].restore_monitor(model_id, live, fitted)

    def finish_restore(self, partition: int, header: bytes, model_ids: Sequence[str]) -> None:
        """Take over what `begin_cut` returned, and the order of the models. Raises SnapshotError."""
        self._shards[partition].finish_restore(header, model_ids)

    def trace(self, partition: int) -> str:
        """Return a cheap checksum of what a shard has computed so far (16 hex digits); every commit carries it."""
        return self._shards[partition].trace()

    def digest(self, partition: int) -> str:
        """Return the checksum of a shard's whole state."""
        return self._shards[partition].digest()
