"""Event keys: SipHash-2-4-128 as published, in UTF-8, and the same for every cut of a list of ids."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.arrivals import Texts
from worker.core.kernels.arrays import U64
from worker.core.kernels.event_keys import hash_spans

_MASK = 2**64 - 1
REFERENCE_KEY = bytes(range(16))


def _rotated(x: int, by: int) -> int:
    return (x << by | x >> (64 - by)) & _MASK


def _mixed(v: list[int], rounds: int) -> list[int]:
    v0, v1, v2, v3 = v
    for _ in range(rounds):
        v0, v2 = (v0 + v1) & _MASK, (v2 + v3) & _MASK
        v1, v3 = _rotated(v1, 13) ^ v0, _rotated(v3, 16) ^ v2
        v0 = _rotated(v0, 32)
        v2, v0 = (v2 + v1) & _MASK, (v0 + v3) & _MASK
        v1, v3 = _rotated(v1, 17) ^ v2, _rotated(v3, 21) ^ v0
        v2 = _rotated(v2, 32)
    return [v0, v1, v2, v3]


def naive_siphash(text: bytes, key: bytes) -> bytes:
    """The naive twin: the reference code with Python's integers."""
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D ^ 0xEE, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]
    padded = text + bytes(7 - len(text) % 8) + bytes([len(text) % 256])
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        v[3] ^= word
        v = _mixed(v, 2)
        v[0] ^= word
    v[2] ^= 0xEE
    v = _mixed(v, 4)
    first = v[0] ^ v[1] ^ v[2] ^ v[3]
    v[1] ^= 0xDD
    v = _mixed(v, 4)
    return first.to_bytes(8, "little") + (v[0] ^ v[1] ^ v[2] ^ v[3]).to_bytes(8, "little")


def siphash(texts: list[bytes], key: bytes) -> list[bytes]:
    """The kernel on bytes."""
    out = np.empty((len(texts), 2), dtype=np.uint64)
    lengths = [len(text) for text in texts]
    spans = np.array([[sum(lengths[:place]), length] for place, length in enumerate(lengths)], dtype=np.int32)
    raw = np.frombuffer(b"".join(texts), dtype=np.uint8)
    hash_spans(raw, spans.reshape(-1, 2), np.frombuffer(key, dtype="<u8"), out)
    return [row.astype("<u8").tobytes() for row in out]


def test_equals_the_published_vectors() -> None:
    """The first hashes of the reference implementation (key 00 to 0f, messages of 0, 1 and 2 bytes)."""
    expected = [
        "a3817f04ba25a8e66df67214c7550293",
        "da87c1d86b99af44347659119b22fc45",
        "8177228da4a45dc7fca38bdef60affe4",
    ]
    assert [each.hex() for each in siphash([b"", b"\0", b"\0\1"], REFERENCE_KEY)] == expected
    assert [naive_siphash(bytes(range(n)), REFERENCE_KEY).hex() for n in range(3)] == expected


@given(
    texts=st.lists(st.one_of(st.binary(max_size=40), st.binary(min_size=250, max_size=260)), max_size=6),
    key=st.binary(min_size=16, max_size=16),
)
@settings(max_examples=200, deadline=None)
def test_equals_its_naive_twin(texts: list[bytes], key: bytes) -> None:
    """Texts of any lengths, one behind the other, have the hashes of the reference code, above 255 bytes too."""
    assert siphash(texts, key) == [naive_siphash(text, key) for text in texts]


def event_keys(ids: list[str], seed: int) -> U64:
    """Return the keys of ids."""
    return Texts.of(ids).keys(seed)


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1, -1, 2**64 + 1])
@pytest.mark.parametrize("ids", [["a", "order-17"], ["", "é", "a", "\U0001f40d" * 9, "日本"]], ids=["ascii", "unicode"])
def test_keys_are_hashes_of_the_bytes_of_an_id(ids: list[str], seed: int) -> None:
    """An id is hashed as UTF-8 with the seed and its complement, whatever integer the seed is."""
    key = (seed & _MASK).to_bytes(8, "little") + (~seed & _MASK).to_bytes(8, "little")
    keys = event_keys(ids, seed)
    assert [row.astype("<u8").tobytes() for row in keys] == [naive_siphash(each.encode(), key) for each in ids]


@given(ids=st.lists(st.text(max_size=12), max_size=12), cut=st.integers(0, 12))
@settings(max_examples=100, deadline=None)
def test_cuts_change_nothing(ids: list[str], cut: int) -> None:
    """An id has the same key alone, among ASCII ids, and beside others that are not."""
    whole = event_keys(ids, 3)
    np.testing.assert_array_equal(whole, np.concatenate([event_keys(ids[:cut], 3), event_keys(ids[cut:], 3)]))
    for each, key in zip(ids, whole, strict=True):
        np.testing.assert_array_equal(event_keys([each], 3)[0], key)


def test_seeds_and_ids_have_keys_of_their_own() -> None:
    """Two seeds share no key, and neither do a hundred thousand ids that differ in little."""
    ids = [f"e{number}" for number in range(100_000)]
    keys = np.concatenate([event_keys(ids, 0), event_keys(ids, 1)])
    assert len(np.unique(keys, axis=0)) == len(keys)


def test_no_ids_have_no_keys() -> None:
    """An empty list is no mistake."""
    assert event_keys([], 0).shape == (0, 2)
