"""What lies in the `state` topic, and under which keys.

    part      a part of one monitor's state, in chunks
    manifest  what a snapshot consists of: every model in order, and where each of its parts lies
    link      the journal from the previous snapshot to this one

Compaction keeps the last record of each key. So each thing is written under one of three slots in turn: the newest
snapshot and the one before it stay complete while a third one is being written.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, NamedTuple, TypeVar

import msgspec

from worker.core.journal import Entry, JournalError, Offset, Origin, Ref, decode_entries
from worker.core.snapshot import SnapshotError, checksum, pack, split, unpack
from worker.core.state import State, decoded
from worker.ports import StateRecord

MANIFEST_BYTES_MAX = 268_435_456
_Stored = TypeVar("_Stored", bound=msgspec.Struct)
SLOTS = 3
Slot = Annotated[int, msgspec.Meta(ge=0, lt=SLOTS)]


class Kind(StrEnum):
    """What a record of the `state` topic holds."""

    PART = "part"
    MANIFEST = "manifest"
    LINK = "link"


class Key(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The key of one chunk. Its partition tells the shard. JSON, so that people can read it."""

    group: str
    kind: Kind
    slot: Slot
    chunk: Annotated[int, msgspec.Meta(ge=0)]
    model_id: str = ""
    part: str = ""


class PartRef(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where one part of a monitor lies."""

    slot: Slot
    version: int
    size: int
    """Bytes, all chunks together."""
    offsets: list[Offset]
    checksum: bytes
    before: Slot | None
    """Where the version before lies, which the snapshot before may need."""
    chunks: Annotated[list[int], msgspec.Meta(min_length=SLOTS, max_length=SLOTS)]
    """Chunks in each slot: what exceeds a shorter new version is deleted with it."""

    @property
    def free_slot(self) -> int:
        """Where the next version goes."""
        return next(slot for slot in range(SLOTS) if slot not in {self.slot, self.before})


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One snapshot of one shard."""

    group: str
    partition: int
    slot: Slot
    generation: int
    offset: Offset
    label_offset: Offset
    written_ms: int
    """Time of the cut, for people only."""
    fingerprint: str
    environment: str
    options: str
    """The options behind the fingerprint, as JSON, for people only."""
    origin: Origin
    header: bytes
    models: dict[str, dict[str, PartRef]]
    """By model, in the order in which they appeared, then by part."""
    feedback_offset: Offset = 0

    def versions(self, part: str) -> dict[str, int]:
        """Return the version of one part of each model; 0 where there is none."""
        return {model_id: parts[part].version if part in parts else 0 for model_id, parts in self.models.items()}

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(ref.size for parts in self.models.values() for ref in parts.values())


class Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to come from the previous snapshot (or from empty state) to this one."""

    offset: Offset
    label_offset: Offset
    journal: str
    feedback_offset: Offset = 0
    policy: str = ""
    """Of the options of alerts under which it was taken."""


class Written(NamedTuple):
    """A payload on its way into the topic."""

    key: Key
    payload: bytes
    records: list[StateRecord]
    """Its chunks, then tombstones."""
    chunks: int


def encode_key(key: Key) -> bytes:
    """Return a key as bytes."""
    return msgspec.json.encode(key)


def decode_key(data: bytes) -> Key | None:
    """Return the key, or None if it is not one of ours."""
    try:
        return msgspec.json.decode(data, type=Key)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def written(partition: int, key: Key, payload: bytes, chunks_before: int = 0) -> Written:
    """Prepare a payload: its chunks, and tombstones for what an older and longer one left under the same key."""
    values: list[bytes | None] = list(split(payload))
    chunks = len(values)
    values += [None] * max(0, chunks_before - chunks)
    records = [
        StateRecord(partition, encode_key(msgspec.structs.replace(key, chunk=chunk)), value)
        for chunk, value in enumerate(values)
    ]
    return Written(key, payload, records, chunks)


def ref_of(what: Written, offsets: Iterable[int]) -> Ref:
    """Return the reference to a payload whose records got these offsets."""
    return Ref(list(offsets)[: what.chunks], checksum(what.payload).hex())


def encode_manifest(manifest: Manifest) -> bytes:
    """Return a manifest as bytes."""
    return pack(State(msgspec.msgpack.encode(manifest), {}))


def decode_manifest(payload: bytes) -> Manifest:
    """Return a manifest. Raises SnapshotError."""
    return _decoded(payload, Manifest)


def encode_link(link: Link) -> bytes:
    """Return a link as bytes."""
    return pack(State(msgspec.msgpack.encode(link), {}))


def decode_link(payload: bytes) -> tuple[Link, list[Entry]]:
    """Return a link and its entries. Raises SnapshotError."""
    link = _decoded(payload, Link)
    try:
        return link, decode_entries(link.journal)
    except JournalError as error:
        raise SnapshotError(str(error)) from None


def _decoded(payload: bytes, kind: type[_Stored]) -> _Stored:
    try:
        return decoded(unpack(payload, MANIFEST_BYTES_MAX).plain, kind)
    except ValueError as error:
        raise SnapshotError(f"stored {kind.__name__.lower()}: {error}") from None
