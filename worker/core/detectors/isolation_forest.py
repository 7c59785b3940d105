"""Isolation forest: held as flat arrays, scored by a compiled kernel, stored as checked bytes.

`forest_fit.py` lets scikit-learn fit it. Scores are those of the paper (Liu, Ting, Zhou 2008, equation 2): in (0, 1),
higher is more anomalous; they equal -score_samples of scikit-learn to 1e-12.
"""

import struct
from hashlib import blake2b
from typing import Annotated, Any, Self, TypeAlias

import msgspec
import numpy as np

from worker.core.kernels import isolation
from worker.core.kernels.arrays import F32, F64, I16, I32, U16, Bool
from worker.core.kernels.scale import cut_rows

TREES_MAX = 1000
HEIGHT_MAX = 12
SAMPLE_SIZE_MAX = 2**HEIGHT_MAX
FEATURES_MAX = 10_000

# A quarter of the largest float32: neither a difference nor a sum of two such values overflows.
_LARGEST = float(np.finfo(np.float32).max) / 4.0

_MAGIC = b"mvforest"
_VERSION = 1
_PREFIX = struct.Struct("<8sHH")
_DIGEST_BYTES = 32
_HEADER_BYTES_MAX = 256
_PATH_LENGTH_MAX = 1000.0
_LENGTHS_MAX = 2**16

_AnyArray: TypeAlias = np.ndarray[Any, np.dtype[Any]]


def to_forest_rows(rows: F64 | F32) -> F32:
    """Return rows as float32, as scikit-learn casts them, cut to a quarter of its range. NaN stays NaN.

    Uncut, 1e300 would become infinite, and scikit-learn cannot draw a threshold between a value and infinity.
    """
    if rows.dtype == np.float32:
        return np.clip(rows, -_LARGEST, _LARGEST).astype(np.float32, order="C", copy=False)
    single = np.empty(rows.shape, dtype=np.float32)
    cut_rows(np.asarray(rows, dtype=np.float64), _LARGEST, single)
    return single


class ForestArrays:
    """T trees as perfect binary trees of height h, in heap order: split i has the children 2i + 1 and 2i + 2.

    A leaf above the last level is repeated by all leaves below its place, so there are no child indices that could
    be out of range or run in a circle. Build one by `fit_forest` or `from_bytes`, which check what is assumed here.

    What is kept is what scoring reads: packed splits, and for each leaf the place of its path length among the
    different ones, of which there are few: 64 kB for 50 trees of height 7, as one of them is kept for each model.
    """

    __slots__ = ("_leaves", "_lengths", "_nodes", "denominator", "n_features")

    def __init__(
        self, n_features: int, feature: I16, threshold: F32, missing_left: Bool, leaf_value: F64, denominator: float
    ) -> None:
        """Take a forest.

        Args:
            n_features: columns of its rows.
            feature: [T, 2^h - 1] column that a split asks.
            threshold: [T, 2^h - 1] left when value <= threshold; scikit-learn's float64 rounded down, which is
                equivalent.
            missing_left: [T, 2^h - 1] whether a missing value goes left.
            leaf_value: [T, 2^h] path length to a leaf, with the average path length of the rows that were left in it.
            denominator: T x the average path length of a tree's sample; 0 when that was one row.

        Raises ValueError if there are more than 65,536 different path lengths: a sample has at most 4,096 rows, in
        each of at most 13 depths.
        """
        self.n_features = n_features
        self.denominator = denominator
        self._nodes = np.zeros(leaf_value.shape, dtype=np.int64)
        isolation.pack_nodes(feature, threshold.view(np.int32), missing_left, self._nodes)
        self._lengths, leaves = np.unique(leaf_value, return_inverse=True)
        if len(self._lengths) > _LENGTHS_MAX:
            raise ValueError(f"a forest of {len(self._lengths)} path lengths")
        self._leaves: U16 = leaves.reshape(leaf_value.shape).astype(np.uint16)

    @property
    def n_trees(self) -> int:
        """T."""
        return len(self._nodes)

    @property
    def leaf_value(self) -> F64:
        """[T, 2^h]; computed."""
        return self._lengths[self._leaves]

    def splits(self) -> tuple[I16, F32, Bool]:
        """Return feature, threshold and missing_left; computed."""
        shape = self._nodes[:, 1:].shape
        feature, bits, missing_left = np.empty(shape, np.int16), np.empty(shape, np.int32), np.empty(shape, np.bool_)
        isolation.unpack_nodes(self._nodes, feature, bits, missing_left)
        return feature, bits.view(np.float32), missing_left

    def score(self, rows: F64 | F32) -> F64:
        """Return the anomaly score of each row [n, n_features]; float64 rows pass through `to_forest_rows`."""
        if rows.shape[1:] != (self.n_features,):
            raise ValueError(f"rows of shape {rows.shape} do not have {self.n_features} columns")
        if rows.dtype != np.float32:
            rows = to_forest_rows(rows)
        scores = np.empty(len(rows))
        bits: I32 = np.ascontiguousarray(rows).view(np.int32)
        isolation.score_rows(bits, self._nodes, self._leaves, self._lengths, self.denominator, scores)
        return scores

    def to_bytes(self) -> bytes:
        """Return prefix, msgpack header, little-endian arrays, and a checksum of all that."""
        header = msgspec.msgpack.encode(_Header(self.n_features, self.n_trees, _height(self._leaves), self.denominator))
        feature, threshold, missing_left = self.splits()
        arrays: tuple[_AnyArray, ...] = (threshold, self.leaf_value, feature, missing_left)
        parts = [array.astype(dtype).tobytes() for array, dtype in zip(arrays, _DTYPES, strict=True)]
        body = b"".join([_PREFIX.pack(_MAGIC, _VERSION, len(header)), header, *parts])
        return body + _checksum(body)

    @classmethod
    def from_bytes(cls, payload: bytes) -> Self:
        """Return the forest that `to_bytes` stored. Raises ValueError, with the reason, for anything else."""
        header, raw = _open(payload)
        threshold, leaf_value, feature, missing_left = _arrays(header, raw)
        _check(header, threshold, leaf_value, feature, missing_left)
        return cls(
            n_features=header.n_features,
            feature=feature.astype(np.int16),
            threshold=threshold.astype(np.float32),
            missing_left=missing_left.astype(np.bool_),
            leaf_value=leaf_value.astype(np.float64),
            denominator=header.denominator,
        )


# ------------------------------------------------------------------------------------------------------------- bytes


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    n_features: Annotated[int, msgspec.Meta(ge=1, le=FEATURES_MAX)]
    n_trees: Annotated[int, msgspec.Meta(ge=1, le=TREES_MAX)]
    height: Annotated[int, msgspec.Meta(ge=0, le=HEIGHT_MAX)]
    denominator: Annotated[float, msgspec.Meta(ge=0.0, le=TREES_MAX * _PATH_LENGTH_MAX)]


# Thresholds, leaf values, features, missing_left: the payload does not choose types or shapes.
_DTYPES = ("<f4", "<f8", "<i2", "|u1")


def _height(leaves: U16) -> int:
    return int(leaves.shape[1]).bit_length() - 1


def _checksum(body: bytes | memoryview) -> bytes:
    return blake2b(body, digest_size=_DIGEST_BYTES).digest()


def _open(payload: bytes) -> tuple[_Header, memoryview]:
    """Check the frame; return the header and the bytes of the arrays."""
    if len(payload) < _PREFIX.size + _DIGEST_BYTES:
        raise ValueError(f"forest bytes: {len(payload)} bytes are too few")
    magic, version, header_bytes = _PREFIX.unpack_from(payload)
    if magic != _MAGIC:
        raise ValueError("forest bytes: this is not a forest")
    if version != _VERSION:
        raise ValueError(f"forest bytes: format {version} is unknown, this worker reads {_VERSION}")
    body = memoryview(payload)[:-_DIGEST_BYTES]
    if _checksum(body) != payload[-_DIGEST_BYTES:]:
        raise ValueError("forest bytes: the checksum does not match")
    if header_bytes > min(_HEADER_BYTES_MAX, len(body) - _PREFIX.size):
        raise ValueError(f"forest bytes: a header of {header_bytes} bytes is too long")
    raw = body[_PREFIX.size :]
    try:
        header = msgspec.msgpack.decode(raw[:header_bytes], type=_Header)
    except msgspec.MsgspecError as error:
        raise ValueError(f"forest bytes: bad header: {error}") from error
    return header, raw[header_bytes:]


def _arrays(header: _Header, raw: memoryview) -> list[_AnyArray]:
    """Cut the bytes into the arrays whose types and shapes follow from the header."""
    n_leaves = 2**header.height
    columns = (n_leaves - 1, n_leaves, n_leaves - 1, n_leaves - 1)
    sizes = [header.n_trees * n * np.dtype(dtype).itemsize for n, dtype in zip(columns, _DTYPES, strict=True)]
    if len(raw) != sum(sizes):
        raise ValueError(f"forest bytes: {len(raw)} bytes of arrays instead of {sum(sizes)}")
    arrays = []
    begin = 0
    for size, n, dtype in zip(sizes, columns, _DTYPES, strict=True):
        arrays.append(np.frombuffer(raw[begin : begin + size], dtype=dtype).reshape(header.n_trees, n))
        begin += size
    return arrays


def _check(
    header: _Header, threshold: _AnyArray, leaf_value: _AnyArray, feature: _AnyArray, missing_left: _AnyArray
) -> None:
    """Refuse arrays that would read out of bounds, or give a score that is not in [0, 1]."""
    if np.isnan(threshold).any():
        raise ValueError("forest bytes: a threshold is NaN")
    if not ((leaf_value >= 0.0) & (leaf_value <= _PATH_LENGTH_MAX)).all():
        raise ValueError("forest bytes: a path length is out of range")
    if not ((feature >= 0) & (feature < header.n_features)).all():
        raise ValueError("forest bytes: a split asks a column that does not exist")
    if (missing_left > 1).any():
        raise ValueError("forest bytes: a way for missing values is neither left nor right")
    if 0.0 < header.denominator < 1.0:
        raise ValueError("forest bytes: the denominator is under one")
