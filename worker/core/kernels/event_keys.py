"""Event ids as 128-bit keys: SipHash-2-4 with 128 bits (Aumasson, Bernstein 2012, and its reference code).

A key takes 16 bytes, however long the id is. Two ids of a hundred million share one with a probability under 2e-23, so
a key stands for its id.
"""

import numba
import numpy as np

from worker.core.kernels.arrays import I32, U8, U64

_BYTES = 8
_MASK = 0xFFFF_FFFF_FFFF_FFFF


def key_of_seed(seed: int) -> U64:
    """Return the key u64[2] of a seed."""
    return np.array([seed & _MASK, ~seed & _MASK], dtype=np.uint64)


@numba.njit(cache=True, nogil=True)
def _rotated(x: np.uint64, by: int) -> np.uint64:
    return np.uint64((x << np.uint64(by)) | (x >> np.uint64(64 - by)))


@numba.njit(cache=True, nogil=True)
def _mixed(
    v0: np.uint64, v1: np.uint64, v2: np.uint64, v3: np.uint64, rounds: int
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    for _ in range(rounds):
        v0 += v1
        v1 = _rotated(v1, 13) ^ v0
        v0 = _rotated(v0, 32)
        v2 += v3
        v3 = _rotated(v3, 16) ^ v2
        v0 += v3
        v3 = _rotated(v3, 21) ^ v0
        v2 += v1
        v1 = _rotated(v1, 17) ^ v2
        v2 = _rotated(v2, 32)
    return v0, v1, v2, v3


@numba.njit(cache=True, nogil=True)
def hash_spans(raw: U8, spans: I32, key: U64, out: U64) -> None:
    """Hash n texts, begin and length (<= 0: empty) of which in `raw` are `spans` (n x 2), into `out` u64[n, 2].

    With the key u64[2]. O(bytes).
    """
    for row in range(spans.shape[0]):
        begin, length = int(spans[row, 0]), max(int(spans[row, 1]), 0)
        v0 = key[0] ^ np.uint64(0x736F6D6570736575)
        v1 = key[1] ^ np.uint64(0x646F72616E646F6D) ^ np.uint64(0xEE)
        v2 = key[0] ^ np.uint64(0x6C7967656E657261)
        v3 = key[1] ^ np.uint64(0x7465646279746573)
        for word in range(length // _BYTES + 1):
            at = begin + word * _BYTES
            m = np.uint64(0)
            for place in range(min(_BYTES, begin + length - at)):
                m |= np.uint64(raw[at + place]) << np.uint64(8 * place)
            if word == length // _BYTES:
                m |= np.uint64(length & 0xFF) << np.uint64(56)
            v3 ^= m
            v0, v1, v2, v3 = _mixed(v0, v1, v2, v3, 2)
            v0 ^= m
        v2 ^= np.uint64(0xEE)
        v0, v1, v2, v3 = _mixed(v0, v1, v2, v3, 4)
        out[row, 0] = v0 ^ v1 ^ v2 ^ v3
        v1 ^= np.uint64(0xDD)
        v0, v1, v2, v3 = _mixed(v0, v1, v2, v3, 4)
        out[row, 1] = v0 ^ v1 ^ v2 ^ v3
