"""Half-space trees: built by River, run by compiled kernels, with River's scores to the last bit."""

from functools import cached_property
from hashlib import blake2b
from typing import Any, ClassVar, NamedTuple

import numpy as np

from worker.core.kernels import half_space
from worker.core.kernels.arrays import F64, I32, U8
from worker.core.state import AnyArray, Arrays, blank, check_like, fill, outside, refuse_if

_STORED = "half-space state"

# Masses are summed as integers in doubles: the largest sum must be exact.
_MASS_MAX = 2**53


class _Splits(NamedTuple):
    """What the trees are made of: features i32[T, 2^h - 1] and thresholds f64[T, 2^h - 1] in heap order."""

    feature: I32
    threshold: F64


class HalfSpaceTrees:
    """Streaming half-space trees (Tan, Ting, Liu 2011) over rows f64[n, d] scaled to [0, 1], NaN = missing.

    Scores lie in [0, 1], higher is more anomalous; NaN until the first window of `window_size` rows is complete.
    The trees depend on (n_features, n_trees, height, seed) alone, since River draws them before it sees any value.
    That takes 30 to 140 ms, so it is done when they are first needed: a restored detector brings its own.
    """

    name: ClassVar[str] = "half_space_trees"

    def __init__(
        self, n_features: int, n_trees: int = 10, height: int = 8, window_size: int = 250, *, seed: int
    ) -> None:
        if min(n_features, n_trees, height, window_size) < 1:
            raise ValueError("half-space trees need at least one feature, tree, level and row in a window")
        n_nodes = 2 ** (height + 1) - 1
        if n_trees * window_size * n_nodes >= _MASS_MAX:
            raise ValueError(f"{n_trees} trees x {window_size} rows x {n_nodes} nodes are too many to sum exactly")
        self._window_size = window_size
        self._n_features = n_features
        self._height = height
        self._seed = seed
        self._learned_mass: I32 = np.zeros((n_trees, n_nodes), dtype=np.int32)
        self._reference_mass: I32 = np.zeros((n_trees, n_nodes), dtype=np.int32)
        self._position = np.zeros(2, dtype=np.int64)

    @cached_property
    def _splits(self) -> _Splits:
        return _grow(self._n_features, len(self._learned_mass), self._height, self._seed)

    @cached_property
    def _trees(self) -> U8:
        return _fingerprint(self._splits, self._window_size)

    def score_and_learn(self, rows: F64) -> F64:
        """Score each row by what was learned before it, then learn it."""
        scores = np.empty(len(rows))
        half_space.score_and_learn(*self._kernel_arguments(rows), scores)
        return scores

    def score(self, rows: F64) -> F64:
        """Score rows and learn nothing."""
        scores = np.empty(len(rows))
        half_space.score(*self._kernel_arguments(rows), scores)
        return scores

    def splits(self) -> Arrays:
        """Return what the trees are made of."""
        return self._splits._asdict()

    def arrays(self) -> Arrays:
        """Return the live state arrays, and in `trees` a fingerprint of the splits that they belong to."""
        return {**self._live(), "trees": self._trees}

    def _live(self) -> Arrays:
        return {
            "learned_mass": self._learned_mass,
            "reference_mass": self._reference_mass,
            "position": self._position,
        }

    def restore(self, arrays: Arrays, splits: Arrays | None = None) -> None:
        """Take over copies of what `arrays()` of an equal detector gave, and of its `splits()`, so that none are drawn.

        Raises ValueError, with this detector unchanged, for arrays that cannot be that: missing, of another dtype or
        shape, of other trees (another seed or shape, a River that draws differently), or with impossible masses.
        """
        taken = self._splits if splits is None else self._stored_splits(splits)
        trees = _fingerprint(taken, self._window_size)
        check_like(_STORED, arrays, {**self._live(), "trees": trees})
        events, windows = arrays["position"].tolist()
        refuse_if(
            _STORED,
            {
                "it belongs to other trees (seed, shape, or version of River)": (arrays["trees"] != trees).any(),
                "`position` is impossible": not (0 <= events < self._window_size and windows >= 0),
            },
        )
        _check_masses("learned_mass", arrays["learned_mass"], events)
        _check_masses("reference_mass", arrays["reference_mass"], self._window_size if windows else 0)
        self._splits, self._trees = taken, trees
        fill(self._live(), arrays)

    def _stored_splits(self, arrays: Arrays) -> _Splits:
        """Copy splits; refuse those of other trees, and what the kernel would read out of bounds with."""
        shape = len(self._learned_mass), 2**self._height - 1
        check_like(_STORED, arrays, {"feature": blank(np.int32, *shape), "threshold": blank(np.float64, *shape)})
        splits = _Splits(arrays["feature"].copy(), arrays["threshold"].copy())
        refuse_if(
            _STORED,
            {
                "a split asks a column that does not exist": outside(splits.feature, 0, self._n_features - 1),
                "a threshold is not in [0, 1]": outside(splits.threshold, 0.0, 1.0),
            },
        )
        return splits

    def _kernel_arguments(self, rows: F64) -> tuple[F64, I32, F64, I32, I32, Any, int]:
        if rows.shape[1:] != (self._n_features,):
            raise ValueError(f"rows of shape {rows.shape} do not have {self._n_features} columns")
        return (
            np.ascontiguousarray(rows, dtype=np.float64),
            *self._splits,
            self._learned_mass,
            self._reference_mass,
            self._position,
            self._window_size,
        )


def _grow(n_features: int, n_trees: int, height: int, seed: int) -> _Splits:
    """Let River draw the trees."""
    # River takes a second to load, and only its own score needs it.
    from river.anomaly import HalfSpaceTrees as RiverHalfSpaceTrees  # noqa: PLC0415 - see above

    forest = RiverHalfSpaceTrees(n_trees=n_trees, height=height, seed=seed)
    # River splits on sorted keys: with leading zeros the order of the names is the order of the columns.
    digits = len(str(n_features))
    any_event = {f"{column:0{digits}d}": 0.5 for column in range(n_features)}
    forest.learn_one(any_event)  # type: ignore[no-untyped-call]  # River has no types here
    feature = np.empty((n_trees, 2**height - 1), dtype=np.int32)
    threshold = np.empty((n_trees, 2**height - 1), dtype=np.float64)
    for tree, root in enumerate(forest.trees):
        level = [root]
        for depth in range(height):
            first = 2**depth - 1
            feature[tree, first : first + len(level)] = [int(node.feature) for node in level]
            threshold[tree, first : first + len(level)] = [node.threshold for node in level]
            level = [child for node in level for child in node.children]
    return _Splits(feature, threshold)


def _fingerprint(splits: _Splits, window_size: int) -> U8:
    """Return 16 bytes that depend on the trees and the window."""
    digest = blake2b(digest_size=16)
    digest.update(f"{splits.feature.shape} {window_size}".encode())
    digest.update(splits.feature.astype("<i4").tobytes())
    digest.update(splits.threshold.astype("<f8").tobytes())
    return np.frombuffer(digest.digest(), dtype=np.uint8).copy()


def _check_masses(name: str, masses: AnyArray, rows: int) -> None:
    """Refuse masses that are not the visits of so many rows: all at the root, each split's shared by its children."""
    children = masses[:, 1::2] + masses[:, 2::2]
    n_splits = masses.shape[1] // 2
    if (masses < 0).any() or (masses[:, 0] != rows).any() or (children != masses[:, :n_splits]).any():
        raise ValueError(f"{_STORED}: `{name}` is not the visits of {rows} rows")
