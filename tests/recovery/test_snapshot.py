"""Stored state as bytes: what was packed comes back, and whatever else lies there is refused, cheaply."""

import contextlib
import pickle
import struct

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from worker.core.snapshot import CHUNK_BYTES_MAX, SnapshotError, pack, split, unpack
from worker.core.state import State

ARRAYS = hnp.arrays(
    st.sampled_from(["<f8", "<f4", "<i8", "<i4", "<i2", "|i1", "|u1", "<u4", "<u8", "|b1"]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)
PREFIX = struct.Struct("<8sHQ")


@given(st.binary(), st.dictionaries(st.text(max_size=8), ARRAYS, max_size=4))
def test_state_comes_back(plain: bytes, arrays: dict[str, np.ndarray]) -> None:
    """Every array survives with name, type, shape and bits; equal state gives equal bytes."""
    payload = pack(State(plain, arrays))
    state = unpack(payload)
    assert state.plain == plain
    assert state.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (state.arrays[name].dtype, state.arrays[name].shape) == (array.dtype, array.shape)
        assert state.arrays[name].tobytes() == array.tobytes()
    assert pack(state) == payload


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    """Bytes that nobody packed are a SnapshotError, with and without a good prefix."""
    for payload in (data, PREFIX.pack(b"mv-state", 1, len(data)) + zstandard.compress(data)):
        with pytest.raises(SnapshotError):
            unpack(payload)


@given(st.data())
def test_a_damaged_payload_is_refused_or_reads_as_something(data: st.DataObject) -> None:
    """A flipped bit never leaves by another exception; that it is noticed is the checksum's business."""
    payload = bytearray(pack(State(b"plain", {"a": np.arange(50.0), "b": np.zeros((3, 4), np.int32)})))
    place = data.draw(st.integers(0, len(payload) - 1))
    payload[place] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(SnapshotError):
        unpack(bytes(payload))


def framed(raw: bytes, claimed: int | None = None) -> bytes:
    """Return a payload around any content."""
    return PREFIX.pack(b"mv-state", 1, len(raw) if claimed is None else claimed) + zstandard.compress(raw)


def header(*content: object) -> bytes:
    """Return raw content that begins with a header."""
    import msgspec  # noqa: PLC0415 - only here

    packed = msgspec.msgpack.encode(content)
    return struct.pack("<I", len(packed)) + packed


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (pickle.dumps({"os": "system"}), "not stored state"),
        (PREFIX.pack(b"mv-state", 2, 0), "format 2"),
        (framed(b"x" * 2_000_000, 2_000_000), "at most 1000000"),
        (framed(b"x" * 100, 99), "claims 99"),
        (framed(b"\0" * 3), "no header"),
        (framed(struct.pack("<I", 99)), "longer than all"),
        (framed(header(b"", [("a", "|O", [1])]) + b"\0" * 8), "not stored"),
        (framed(header(b"", [("a", "<f8", [2**31, 2**31, 2**31])]) + b"\0" * 8), "cut short"),
        (framed(header(b"", [("a", "<f8", [-1])]) + b"\0" * 8), "cannot be read"),
        (framed(header(b"", [("a", "<f8", [1]), ("a", "<f8", [1])]) + b"\0" * 16), "twice"),
        (framed(header(b"", [("a", "<f8", [1])]) + b"\0" * 9), "1 bytes too many"),
        (framed(header(b"", [], "more")), "cannot be read"),
    ],
)
def test_hostile_payloads_are_refused(payload: bytes, why: str) -> None:
    """Pickle, bombs, objects, absurd shapes: each one is refused with its reason, before anything is allocated."""
    with pytest.raises(SnapshotError, match=why):
        unpack(payload, 1_000_000)


def test_chunks_fit_into_records() -> None:
    """Chunks are cut by size, and joined they are the payload."""
    payload = bytes(range(256)) * 10_000
    chunks = list(split(payload))
    assert b"".join(chunks) == payload
    assert max(map(len, chunks)) <= CHUNK_BYTES_MAX
    assert list(split(b"")) == [b""]
