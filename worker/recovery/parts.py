"""The parts of a snapshot: read in one pass over the topic, and put together to monitors again."""

from collections.abc import Callable
from typing import NamedTuple

from worker.core.cut import FITTED, LIVE, PARTS
from worker.core.engine import Engine
from worker.core.snapshot import SnapshotError, checksum
from worker.recovery.reading import Chunks, Steps
from worker.recovery.stored import Manifest, PartRef


class StoredPart(NamedTuple):
    """A part of a model's state, and where it lies."""

    model_id: str
    part: str
    ref: PartRef


def parts_as_stored(manifest: Manifest) -> list[StoredPart]:
    """Return all parts in the order in which they end in the topic."""
    parts = [
        StoredPart(model_id, part, ref)
        for model_id, by_part in manifest.models.items()
        for part, ref in by_part.items()
    ]
    return sorted(parts, key=lambda part: max(part.ref.offsets, default=-1))


def read_parts(chunks: Chunks, manifest: Manifest, take: Callable[[StoredPart, bytes], None]) -> Steps[None]:
    """Give each part to `take`, in the order of `parts_as_stored`, keeping no more than is not complete yet.

    Raises:
        SnapshotError: a part is not there, or not what was written.
    """
    parts = parts_as_stored(manifest)
    last = {max(part.ref.offsets, default=-1): part for part in parts}
    offsets = [offset for part in parts for offset in part.ref.offsets]
    if -1 in last or len(set(offsets)) < len(offsets):
        raise SnapshotError("the manifest names no chunks for a part, or the same one twice")
    found: dict[int, bytes] = {}

    def keep(offset: int, value: bytes) -> None:
        found[offset] = value
        part = last.get(offset)
        if part is not None:
            take(part, proven(part, b"".join(found.pop(each) for each in part.ref.offsets)))

    yield from chunks.read(offsets, keep)


def proven(part: StoredPart, payload: bytes) -> bytes:
    """Return the payload of a part. Raises SnapshotError if it is not what was written."""
    if len(payload) != part.ref.size or checksum(payload) != part.ref.checksum:
        raise SnapshotError(f"part {part.part} of model {part.model_id} has another checksum")
    return payload


class Assembly:
    """Fills a new shard of an engine: each monitor as soon as all of its parts have come, in whatever order.

    Raises SnapshotError, here and in its methods, for what cannot be used; the shard is of no use then.
    """

    def __init__(self, engine: Engine, manifest: Manifest) -> None:
        if any(LIVE not in parts or not parts.keys() <= set(PARTS) for parts in manifest.models.values()):
            raise SnapshotError(f"the manifest of shard {manifest.partition} names parts that cannot be")
        self._engine = engine
        self._manifest = manifest
        self._found: dict[str, dict[str, bytes]] = {}

    def take(self, part: StoredPart, payload: bytes) -> None:
        """Take a part."""
        own = self._found.setdefault(part.model_id, {})
        own[part.part] = payload
        if own.keys() == self._manifest.models[part.model_id].keys():
            del self._found[part.model_id]
            self._engine.restore_monitor(self._manifest.partition, part.model_id, own[LIVE], own.get(FITTED))

    def finish(self) -> None:
        """All parts have come: bring the monitors into their order."""
        manifest = self._manifest
        self._engine.finish_restore(manifest.partition, manifest.header, list(manifest.models))
