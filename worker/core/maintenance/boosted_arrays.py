"""Gradient-boosted trees as flat arrays, summed by a compiled kernel, stored as checked bytes.

`boosted_fit.py` lets scikit-learn fit them. Raw outputs are scikit-learn's to the bit, probabilities to 1e-12.
"""

from dataclasses import dataclass, field
from typing import Annotated, Self

import msgspec
import numpy as np

from worker.core.kernels import boosting
from worker.core.kernels.arrays import F32, F64, I16, I32, I64, Bool
from worker.core.maintenance.target import Target
from worker.core.state import AnyArray, outside, refuse_if

FEATURES_MAX = 10_000
NODES_MAX = 1_000_000
"""Of all trees together: some 30 MB stored."""
TREES_MAX = 100_000
VALUE_MAX = 1e100
"""No leaf and no baseline lies beyond: sums of them stay finite."""

_STORED = "boosted trees' bytes"


@dataclass(frozen=True, slots=True, eq=False)
class BoostedArrays:
    """T trees of m nodes together, each level by level from its root. Build one by `fit_boosted` or `from_bytes`.

    Tree t adds to raw output t modulo `target.n_raw`. A leaf has `left` 0. Siblings are neighbours: the right child
    of a node is `left + 1`.
    """

    n_features: int
    target: Target
    baseline: F64
    """[n_raw] what the trees add to."""
    starts: I64
    """[T + 1] tree t has the nodes from starts[t] to starts[t + 1]."""
    feature: I16
    """[m] column that a node asks; 0 in leaves."""
    threshold: F64
    """[m] left when value <= threshold; 0 in leaves."""
    left: I32
    """[m] left child, counted from the tree's start; 0 in leaves."""
    missing_left: Bool
    """[m] whether a missing value goes left; false in leaves."""
    value: F64
    """[m] what a leaf adds; 0 in nodes that ask."""
    _nodes: I64 = field(init=False, repr=False)
    _depths: I64 = field(init=False, repr=False)
    _thresholds: F64 = field(init=False, repr=False)
    _first: I64 = field(init=False, repr=False)

    def __post_init__(self) -> None:
        thresholds, first, rank = _ranked(self.n_features, self.feature, self.threshold, self.left > 0)
        if np.diff(first).max() > boosting.RANK_MAX + 1:
            raise ValueError(f"boosted trees: a feature has more than {boosting.RANK_MAX + 1} different thresholds")
        nodes, depths = np.empty(len(self.feature), dtype=np.int64), np.empty(len(self.starts) - 1, dtype=np.int64)
        feature, left = self.feature.astype(np.int64), self.left.astype(np.int64)
        boosting.pack_nodes(feature, rank, self.missing_left, left, self.starts, nodes, depths)
        packed = {"_nodes": nodes, "_depths": depths, "_thresholds": thresholds, "_first": first}
        for name, array in packed.items():
            object.__setattr__(self, name, array)

    @property
    def n_trees(self) -> int:
        """Number of trees, of all outputs."""
        return len(self.starts) - 1

    @property
    def nbytes(self) -> int:
        """Memory of all arrays."""
        own = (self.baseline, self.starts, self.feature, self.threshold, self.left, self.missing_left, self.value)
        return sum(array.nbytes for array in (*own, self._nodes, self._depths, self._thresholds, self._first))

    def raw(self, rows: F64 | F32) -> F64:
        """Return the sums of trees [n, target.n_raw] for rows [n, n_features], NaN = missing."""
        if rows.shape[1:] != (self.n_features,):
            raise ValueError(f"rows of shape {rows.shape} do not have {self.n_features} columns")
        raw = np.empty((len(rows), self.target.n_raw))
        rows = np.ascontiguousarray(rows, dtype=np.float64)
        boosting.raw_outputs(
            rows, self._thresholds, self._first, self._nodes, self.value, self.starts, self._depths, self.baseline, raw
        )
        return raw

    def predict(self, rows: F64 | F32) -> F64:
        """Return numbers [n, 1] or probabilities [n, target.n_classes] for rows [n, n_features], NaN = missing."""
        return self.target.outputs(self.raw(rows))

    def to_bytes(self) -> bytes:
        """Return a msgpack record with little-endian arrays."""
        arrays: dict[str, AnyArray] = {name: getattr(self, name) for name in _DTYPES}
        stored = {name: array.astype(_DTYPES[name]).tobytes() for name, array in arrays.items()}
        target = self.target
        return msgspec.msgpack.encode(_Record(1, self.n_features, target.n_classes, target.classes, **stored))

    @classmethod
    def from_bytes(cls, payload: bytes) -> Self:
        """Return the trees that `to_bytes` stored. Raises ValueError, with the reason, for anything else."""
        try:
            record = msgspec.msgpack.decode(payload, type=_Record)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{_STORED}: {error}") from None
        target = Target(record.n_classes, record.classes)
        arrays = _arrays(record, target)
        _check(arrays, record.n_features)
        return cls(
            n_features=record.n_features,
            target=target,
            baseline=arrays["baseline"].astype(np.float64),
            starts=arrays["starts"].astype(np.int64),
            feature=arrays["feature"].astype(np.int16),
            threshold=arrays["threshold"].astype(np.float64),
            left=arrays["left"].astype(np.int32),
            missing_left=arrays["missing_left"].astype(np.bool_),
            value=arrays["value"].astype(np.float64),
        )


def without_trees(n_features: int, target: Target) -> BoostedArrays:
    """Return a model that needs no trees: 0, or the same probability for all classes that were seen."""
    return BoostedArrays(
        n_features=n_features,
        target=target,
        baseline=np.zeros(target.n_raw),
        starts=np.zeros(1, dtype=np.int64),
        feature=np.empty(0, dtype=np.int16),
        threshold=np.empty(0),
        left=np.empty(0, dtype=np.int32),
        missing_left=np.empty(0, dtype=np.bool_),
        value=np.empty(0),
    )


def _ranked(n_features: int, feature: I16, threshold: F64, asks: Bool) -> tuple[F64, I64, I64]:
    """Return the different thresholds by feature and value, where each feature's begin, and each node's rank.

    O(m log m). Ranks count from the feature's first threshold; leaves have some.
    """
    # Zero has one sign here; what is compared does not change.
    asked, limit = feature[asks].astype(np.int64), threshold[asks] + 0.0
    order = np.lexsort((limit, asked))
    asked, limit = asked[order], limit[order]
    is_new = np.ones(len(asked), dtype=np.bool_)
    is_new[1:] = (asked[1:] != asked[:-1]) | (limit[1:] != limit[:-1])
    first = np.searchsorted(asked[is_new], np.arange(n_features + 1)).astype(np.int64)
    rank, of_asking = np.zeros(len(feature), dtype=np.int64), np.empty(len(asked), dtype=np.int64)
    of_asking[order] = np.cumsum(is_new) - 1 - first[asked]
    rank[asks] = of_asking
    return limit[is_new], first, rank


# ------------------------------------------------------------------------------------------------------------- bytes


_DTYPES = {
    "baseline": "<f8",
    "starts": "<i8",
    "feature": "<i2",
    "threshold": "<f8",
    "left": "<i4",
    "missing_left": "|u1",
    "value": "<f8",
}


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    format: Annotated[int, msgspec.Meta(ge=1, le=1)]
    n_features: Annotated[int, msgspec.Meta(ge=1, le=FEATURES_MAX)]
    n_classes: int
    classes: tuple[int, ...]
    baseline: bytes
    starts: bytes
    feature: bytes
    threshold: bytes
    left: bytes
    missing_left: bytes
    value: bytes


def _arrays(record: _Record, target: Target) -> dict[str, AnyArray]:
    """Return the arrays of a record; ValueError if their lengths do not fit together or are beyond the limits."""
    sizes = {name: divmod(len(getattr(record, name)), np.dtype(dtype).itemsize) for name, dtype in _DTYPES.items()}
    counts = {name: count for name, (count, _) in sizes.items()}
    nodes, trees = counts["feature"], counts["starts"] - 1
    per_node = {counts[name] for name in ("feature", "threshold", "left", "missing_left", "value")}
    refuse_if(
        _STORED,
        {
            "an array has a broken element": any(rest for _, rest in sizes.values()),
            "arrays of nodes have different lengths": len(per_node) > 1,
            "there are too many nodes": nodes > NODES_MAX,
            "there are too many trees": not 0 <= trees <= TREES_MAX,
            "the baseline has another number of outputs": counts["baseline"] != target.n_raw,
            "the last iteration lacks a tree": trees % target.n_raw != 0,
        },
    )
    return {name: np.frombuffer(getattr(record, name), dtype=dtype) for name, dtype in _DTYPES.items()}


def _check(arrays: dict[str, AnyArray], n_features: int) -> None:
    """Refuse what a walk would leave its tree by, or never end with."""
    starts, left = arrays["starts"], arrays["left"].astype(np.int64)
    n_nodes = len(left)
    refuse_if(
        _STORED,
        {
            "trees do not follow one another": bool(
                outside(starts, 0, n_nodes) or starts[0] != 0 or starts[-1] != n_nodes or (np.diff(starts) < 1).any()
            ),
            "a threshold is NaN": np.isnan(arrays["threshold"]).any(),
            "a leaf is out of range": outside(arrays["value"], -VALUE_MAX, VALUE_MAX),
            "the baseline is out of range": outside(arrays["baseline"], -VALUE_MAX, VALUE_MAX),
            "a node asks a column that does not exist": outside(arrays["feature"], 0, n_features - 1),
            "a way for missing values is neither left nor right": bool((arrays["missing_left"] > 1).any()),
        },
    )
    own = np.arange(n_nodes) - np.repeat(starts[:-1], np.diff(starts))
    size = np.repeat(np.diff(starts), np.diff(starts))
    asks = left != 0
    refuse_if(_STORED, {"a child is not below its node": outside(left[asks], own[asks] + 1, size[asks] - 2)})
