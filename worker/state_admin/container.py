"""The file that `state export` writes: snapshots of shards, byte for byte as they are stored in the topic.

    magic (8) | format (u16) | length of the header (u32) | header | payloads | checksum (32) of all before it

The header is msgpack and names the payloads in their order: of each shard its manifest, then its parts. There is no
code in it, and no type that it could choose. It holds sampled rows of the models' inputs: keep it like those.
"""

import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import IO, Annotated

import msgspec
from msgspec import Meta, Struct

from worker.core.snapshot import SnapshotError
from worker.recovery.parts import StoredPart, parts_as_stored, proven
from worker.recovery.stored import Manifest, decode_manifest

FORMAT = 1
_MAGIC = b"mvexport"
_PREFIX = struct.Struct("<8sHI")
_CHECKSUM_BYTES = 32
_HEADER_BYTES_MAX = 268_435_456
_READ_BYTES = 1_048_576
_Size = Annotated[int, Meta(ge=0, le=2**40)]


class PartEntry(Struct, frozen=True, array_like=True):
    """One part of one model, as long as it is stored."""

    model_id: str
    part: str
    size: _Size


class ShardEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """One shard: where it was, and what follows of it."""

    partition: Annotated[int, Meta(ge=0)]
    pointer: str
    """As it was committed, for people only."""
    offset: int
    """The committed position; the snapshot is of an earlier one if anything came after it."""
    records_after: int
    manifest_size: _Size
    parts: list[PartEntry]


class Header(Struct, frozen=True, forbid_unknown_fields=True):
    """What the file holds."""

    written_by: str
    written_ms: int
    group: str
    predictions_topic: str
    """Part of the fingerprint of the options."""
    shards: list[ShardEntry]


class FileError(Exception):
    """The file cannot be read or written; the message says why."""


class ExportWriter:
    """Takes the payloads in the order of the header."""

    def __init__(self, file: IO[bytes], header: Header) -> None:
        self._file = file
        self._checksum = blake2b(digest_size=_CHECKSUM_BYTES)
        self._left = [size for shard in header.shards for size in _sizes(shard)][::-1]
        encoded = msgspec.msgpack.encode(header)
        self._write(_PREFIX.pack(_MAGIC, FORMAT, len(encoded)) + encoded)

    def add(self, payload: bytes) -> None:
        """Write the next payload."""
        assert len(payload) == self._left.pop(), "a payload of another length than the header says"
        self._write(payload)

    def finish(self) -> None:
        """Write the checksum, and wait until all of it is on the disk."""
        assert not self._left, "payloads are missing"
        self._file.write(self._checksum.digest())
        self._file.flush()
        os.fsync(self._file.fileno())

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._checksum.update(data)


@contextmanager
def written_at(path: Path, header: Header) -> Iterator[ExportWriter]:
    """Write a file beside `path` and rename it when it is complete; only its owner may read it. Raises FileError."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            beside = Path(file.name)
            writer = ExportWriter(file, header)
            try:
                yield writer
                writer.finish()
            except BaseException:
                beside.unlink()
                raise
        beside.replace(path)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror}") from None


class Export:
    """An export that has been read and found whole. Payloads are read when they are asked for."""

    def __init__(self, file: IO[bytes], header: Header, begin: int) -> None:
        self._file = file
        self.header = header
        self._begin: dict[int, int] = {}
        for shard in header.shards:
            self._begin[shard.partition] = begin
            begin += sum(_sizes(shard))
        self._shards = {shard.partition: shard for shard in header.shards}

    @property
    def partitions(self) -> list[int]:
        """The shards in it."""
        return sorted(self._shards)

    def manifest(self, partition: int) -> Manifest:
        """Return what a shard's snapshot consists of. Raises SnapshotError."""
        shard = self._shards[partition]
        self._file.seek(self._begin[partition])
        manifest = decode_manifest(self._file.read(shard.manifest_size))
        named = [(part.model_id, part.part, part.ref.size) for part in parts_as_stored(manifest)]
        if manifest.partition != partition or named != [tuple(msgspec.structs.astuple(part)) for part in shard.parts]:
            raise SnapshotError(f"the manifest of shard {partition} does not belong to the header")
        return manifest

    def parts(self, manifest: Manifest) -> Iterator[tuple[StoredPart, bytes]]:
        """Yield every part of a shard with its payload. Raises SnapshotError."""
        place = self._begin[manifest.partition] + self._shards[manifest.partition].manifest_size
        for part in parts_as_stored(manifest):
            self._file.seek(place)
            place += part.ref.size
            yield part, proven(part, self._file.read(part.ref.size))


@contextmanager
def read_from(path: Path) -> Iterator[Export]:
    """Open an export and check all of it.

    Raises:
        FileError: it cannot be opened.
        SnapshotError: it is not an export, or damaged.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}") from None
    with file:
        header, begin = _header(file)
        _check_rest(file, header, begin)
        yield Export(file, header, begin)


def _header(file: IO[bytes]) -> tuple[Header, int]:
    prefix = file.read(_PREFIX.size)
    if len(prefix) < _PREFIX.size or not prefix.startswith(_MAGIC):
        raise SnapshotError("it is not a file that `modelvigil state export` wrote")
    _, version, length = _PREFIX.unpack(prefix)
    if version != FORMAT:
        raise SnapshotError(f"it has format {version}; this version reads {FORMAT}")
    if length > _HEADER_BYTES_MAX:
        raise SnapshotError(f"it claims a header of {length} bytes; at most {_HEADER_BYTES_MAX} are read")
    try:
        header = msgspec.msgpack.decode(file.read(length), type=Header)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise SnapshotError(f"its header cannot be read: {error}") from None
    if len({shard.partition for shard in header.shards}) < len(header.shards):
        raise SnapshotError("it has a shard twice")
    return header, _PREFIX.size + length


def _check_rest(file: IO[bytes], header: Header, begin: int) -> None:
    """Compare the length and the checksum of the whole file."""
    left = begin + sum(size for shard in header.shards for size in _sizes(shard))
    if os.fstat(file.fileno()).st_size != left + _CHECKSUM_BYTES:
        raise SnapshotError("it is cut short, or longer than its header says")
    found = blake2b(digest_size=_CHECKSUM_BYTES)
    file.seek(0)
    while left:
        data = file.read(min(left, _READ_BYTES))
        found.update(data)
        left -= len(data)
    if file.read(_CHECKSUM_BYTES) != found.digest():
        raise SnapshotError("its checksum is another one: it is damaged")


def _sizes(shard: ShardEntry) -> list[int]:
    return [shard.manifest_size, *(part.size for part in shard.parts)]
