"""The whole core: shards by partition. Bytes in, bytes out; what it does is a function of what it is given."""

from typing import NamedTuple

from worker.core.codec import Reject
from worker.core.detectors.refit import RefitPool
from worker.core.events import Output, RawBatch
from worker.core.options import EngineOptions
from worker.core.shard import Shard


class Handled(NamedTuple):
    """What became of a batch: outputs in the order of offsets, and how many records were used or rejected."""

    outputs: list[Output]
    events: int
    rejects: list[Reject]


class Engine:
    """Owns the shards of this process. Calls for a partition that is not owned are a bug of the caller."""

    def __init__(self, options: EngineOptions, topic: str, refits: RefitPool) -> None:
        self._options = options
        self._topic = topic
        self._refits = refits
        self._shards: dict[int, Shard] = {}

    @property
    def partitions(self) -> frozenset[int]:
        """The partitions with a shard here."""
        return frozenset(self._shards)

    @property
    def models(self) -> int:
        """How many monitors there are, over all shards."""
        return sum(shard.models for shard in self._shards.values())

    def add_shard(self, partition: int) -> None:
        """Begin a partition with empty state."""
        if partition in self._shards:
            raise AssertionError(f"shard {partition} exists already")
        self._shards[partition] = Shard(partition, self._topic, self._options, self._refits)

    def drop_shard(self, partition: int) -> None:
        """Forget a partition's state."""
        del self._shards[partition]

    def handle(self, batch: RawBatch) -> Handled:
        """Process consecutive records of one partition."""
        outputs, rejects = self._shards[batch.partition].handle(batch)
        return Handled(outputs, len(batch.offsets) - len(rejects), rejects)

    def tick(self, partition: int, now_ms: int) -> list[Output]:
        """Tell a shard that its partition has been idle and what the time is; the caller journals it."""
        return self._shards[partition].tick(now_ms)

    def drain(self, partition: int) -> list[Output]:
        """Return what a shard's open panes hold, before it is dropped."""
        return self._shards[partition].drain()

    def digest(self, partition: int) -> str:
        """Return the checksum of a shard's state."""
        return self._shards[partition].digest()
