"""Stored state as bytes, and bytes back to state: no pickle, no code, no type that the payload could choose.

    magic (8) | format (u16) | length of the rest when unpacked (u64) | zstd( length of header (u32) | header | arrays )

The header is msgpack: the plain part as bytes, and name, type and shape of each array; the arrays follow, little-endian
and C-ordered. Whoever stores the bytes also stores their checksum, elsewhere.
"""

import math
import struct
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Annotated, Any

import msgspec
import numpy as np
import zstandard

from worker.core.state import State, decoded

FORMAT = 1
"""Of everything in the `state` topic and in the metadata of committed offsets. Raised by every change of it."""

CHECKSUM_BYTES = 16
CHUNK_BYTES_MAX = 900_000
"""A record of the `state` topic holds at most this much; Kafka's usual limit is a million."""

UNPACKED_BYTES_MAX = 1_073_741_824
_LEVEL = 1
_MAGIC = b"mv-state"
_PREFIX = struct.Struct("<8sHQ")
_LENGTH = struct.Struct("<I")
_DTYPES = frozenset({"<f8", "<f4", "<i8", "<i4", "<i2", "|i1", "|u1", "<u4", "<u8", "|b1"})
_Dimension = Annotated[int, msgspec.Meta(ge=0, le=2**31)]


class SnapshotError(Exception):
    """Stored state cannot be used; the message says what is wrong with it."""


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    plain: bytes
    arrays: list[tuple[str, str, Annotated[list[_Dimension], msgspec.Meta(max_length=4)]]]


def checksum(payload: bytes) -> bytes:
    """Return the 16 bytes that prove a payload."""
    return blake2b(payload, digest_size=CHECKSUM_BYTES).digest()


def pack(state: State) -> bytes:
    """Return state as bytes; equal state gives equal bytes."""
    arrays = dict(sorted(state.arrays.items()))
    shapes = [(name, _stored(array.dtype), list(array.shape)) for name, array in arrays.items()]
    header = msgspec.msgpack.encode(_Header(state.plain, shapes))
    raw = b"".join(
        [
            _LENGTH.pack(len(header)),
            header,
            *(array.astype(_stored(array.dtype)).tobytes() for array in arrays.values()),
        ]
    )
    return _PREFIX.pack(_MAGIC, FORMAT, len(raw)) + zstandard.ZstdCompressor(level=_LEVEL).compress(raw)


def unpack(payload: bytes, bytes_max: int = UNPACKED_BYTES_MAX) -> State:
    """Return what `pack` stored; arrays are read-only views.

    Raises:
        SnapshotError: it is not that, or larger than `bytes_max` unpacked.
    """
    raw = memoryview(_decompressed(payload, bytes_max))
    if len(raw) < _LENGTH.size:
        raise SnapshotError("stored state has no header")
    (length,) = _LENGTH.unpack_from(raw)
    body = raw[_LENGTH.size :]
    if length > len(body):
        raise SnapshotError("the header of stored state is longer than all of it")
    try:
        header = decoded(body[:length], _Header)
    except ValueError as error:
        raise SnapshotError(f"the header of stored state: {error}") from None
    return State(header.plain, _arrays(header, body[length:]))


def split(payload: bytes) -> Iterator[bytes]:
    """Cut a payload into chunks that fit into a record."""
    for begin in range(0, max(1, len(payload)), CHUNK_BYTES_MAX):
        yield payload[begin : begin + CHUNK_BYTES_MAX]


def _stored(dtype: np.dtype[Any]) -> str:
    name = dtype.newbyteorder("<").str
    if name not in _DTYPES:
        raise AssertionError(f"arrays of {dtype} are not stored")
    return name


def _decompressed(payload: bytes, bytes_max: int) -> bytes:
    if len(payload) < _PREFIX.size:
        raise SnapshotError("stored state is cut short")
    magic, version, length = _PREFIX.unpack_from(payload)
    if magic != _MAGIC:
        raise SnapshotError("this is not stored state")
    if version != FORMAT:
        raise SnapshotError(f"stored state has format {version}; this worker reads {FORMAT}")
    frame = payload[_PREFIX.size :]
    try:
        # The frame's own claim is what the library would allocate: look at it before.
        if not zstandard.frame_content_size(frame) == length <= bytes_max:
            raise SnapshotError(f"stored state claims {length} bytes; at most {bytes_max} are read")
        return zstandard.ZstdDecompressor().decompress(frame, max_output_size=length)
    except zstandard.ZstdError as error:
        raise SnapshotError(f"stored state cannot be decompressed: {error}") from None


def _arrays(header: _Header, raw: memoryview) -> Mapping[str, np.ndarray[Any, np.dtype[Any]]]:
    arrays: dict[str, np.ndarray[Any, np.dtype[Any]]] = {}
    begin = 0
    for name, dtype, shape in header.arrays:
        if dtype not in _DTYPES or name in arrays:
            raise SnapshotError(f"stored array `{name}` is there twice, or has a type that is not stored: {dtype}")
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size > len(raw) - begin:
            raise SnapshotError(f"stored array `{name}` is cut short")
        arrays[name] = np.frombuffer(raw[begin : begin + size], dtype=dtype).reshape(shape)
        begin += size
    if begin != len(raw):
        raise SnapshotError(f"stored state has {len(raw) - begin} bytes too many")
    return arrays
