"""Event ids as 128-bit keys: SipHash-2-4 with 128 bits (Aumasson, Bernstein 2012, and its reference code).

A key takes 16 bytes, however long the id is. Two ids of a hundred million share one with a probability under 2e-23, so
a key stands for its id.
"""

from collections.abc import Sequence

import numba
import numpy as np

from worker.core.kernels.arrays import I64, U8, U64

_BYTES = 8
_MASK = 0xFFFF_FFFF_FFFF_FFFF


def event_keys(ids: Sequence[str], seed: int) -> U64:
    """Return the keys u64[n, 2] of ids (n). Equal ids and seeds have equal keys, on every machine."""
    text = "".join(ids)
    if text.isascii():
        raw, lengths = text.encode(), np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
    else:
        encoded = [each.encode() for each in ids]
        raw, lengths = b"".join(encoded), np.fromiter(map(len, encoded), dtype=np.int64, count=len(ids))
    keys = np.empty((len(ids), 2), dtype=np.uint64)
    key = np.array([seed & _MASK, ~seed & _MASK], dtype=np.uint64)
    hash_texts(np.frombuffer(raw, dtype=np.uint8), lengths, key, keys)
    return keys


@numba.njit(cache=True, nogil=True)
def _rotated(x: np.uint64, by: int) -> np.uint64:
    return np.uint64((x << np.uint64(by)) | (x >> np.uint64(64 - by)))


@numba.njit(cache=True, nogil=True)
def _mix(v: U64, rounds: int) -> None:
    for _ in range(rounds):
        v[0] += v[1]
        v[1] = _rotated(v[1], 13) ^ v[0]
        v[0] = _rotated(v[0], 32)
        v[2] += v[3]
        v[3] = _rotated(v[3], 16) ^ v[2]
        v[0] += v[3]
        v[3] = _rotated(v[3], 21) ^ v[0]
        v[2] += v[1]
        v[1] = _rotated(v[1], 17) ^ v[2]
        v[2] = _rotated(v[2], 32)


@numba.njit(cache=True, nogil=True)
def hash_texts(raw: U8, lengths: I64, key: U64, out: U64) -> None:
    """Hash n texts that lie one behind the other in `raw`, with the key u64[2], into `out` u64[n, 2]. O(bytes)."""
    v = np.empty(4, dtype=np.uint64)
    begin = 0
    for row in range(lengths.shape[0]):
        length = lengths[row]
        v[0] = key[0] ^ np.uint64(0x736F6D6570736575)
        v[1] = key[1] ^ np.uint64(0x646F72616E646F6D) ^ np.uint64(0xEE)
        v[2] = key[0] ^ np.uint64(0x6C7967656E657261)
        v[3] = key[1] ^ np.uint64(0x7465646279746573)
        for word in range(length // _BYTES + 1):
            at = begin + word * _BYTES
            m = np.uint64(0)
            for place in range(min(_BYTES, begin + length - at)):
                m |= np.uint64(raw[at + place]) << np.uint64(8 * place)
            if word == length // _BYTES:
                m |= np.uint64(length & 0xFF) << np.uint64(56)
            v[3] ^= m
            _mix(v, 2)
            v[0] ^= m
        v[2] ^= np.uint64(0xEE)
        _mix(v, 4)
        out[row, 0] = v[0] ^ v[1] ^ v[2] ^ v[3]
        v[1] ^= np.uint64(0xDD)
        _mix(v, 4)
        out[row, 1] = v[0] ^ v[1] ^ v[2] ^ v[3]
        begin += length
