"""Half-space trees: built by River, run by compiled kernels, with River's scores to the last bit."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, ClassVar

import numpy as np
from river.anomaly import HalfSpaceTrees as RiverHalfSpaceTrees

from worker.core.kernels import half_space
from worker.core.kernels.arrays import F64, I32

# Masses are summed as integers in doubles: the largest sum must be exact.
_MASS_MAX = 2**53


class HalfSpaceTrees:
    """Streaming half-space trees (Tan, Ting, Liu 2011) over rows f64[n, d] scaled to [0, 1], NaN = missing.

    Scores lie in [0, 1], higher is more anomalous; NaN until the first window of `window_size` rows is complete.
    The trees depend on (n_features, n_trees, height, seed) alone, since River draws them before it sees any value.
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
        self._feature, self._threshold = _grow(n_features, n_trees, height, seed)
        self._n_features = n_features
        self._learned_mass: I32 = np.zeros((n_trees, n_nodes), dtype=np.int32)
        self._reference_mass: I32 = np.zeros((n_trees, n_nodes), dtype=np.int32)
        self._position = np.zeros(2, dtype=np.int64)
        self._trees = _fingerprint(self._feature, self._threshold, window_size)

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

    def arrays(self) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
        """Return the live state arrays, and in `trees` a fingerprint of what they belong to.

        The trees themselves are drawn again from the seed: leaving them out halves a snapshot.
        """
        return {
            "learned_mass": self._learned_mass,
            "reference_mass": self._reference_mass,
            "position": self._position,
            "trees": self._trees,
        }

    def restore(self, arrays: Mapping[str, np.ndarray[Any, np.dtype[Any]]]) -> None:
        """Take over copies of arrays that `arrays()` of an equal detector gave.

        Raises ValueError, with this detector unchanged, for arrays that cannot be that: missing, of another dtype or
        shape, of other trees (another seed or shape, a River that draws differently), or with impossible masses.
        """
        mine = self.arrays()
        for name, array in mine.items():
            other = arrays.get(name)
            if other is None or other.dtype != array.dtype or other.shape != array.shape:
                raise ValueError(f"half-space state: `{name}` is missing, or has another dtype or shape")
        if not np.array_equal(arrays["trees"], self._trees):
            raise ValueError("half-space state: it belongs to other trees (seed, shape, or version of River)")
        events, windows = arrays["position"].tolist()
        if not (0 <= events < self._window_size and windows >= 0):
            raise ValueError("half-space state: `position` is impossible")
        _check_masses("learned_mass", arrays["learned_mass"], events)
        _check_masses("reference_mass", arrays["reference_mass"], self._window_size if windows else 0)
        for name, array in mine.items():
            array[...] = arrays[name]

    def _kernel_arguments(self, rows: F64) -> tuple[F64, I32, F64, I32, I32, Any, int]:
        if rows.shape[1:] != (self._n_features,):
            raise ValueError(f"rows of shape {rows.shape} do not have {self._n_features} columns")
        return (
            np.ascontiguousarray(rows, dtype=np.float64),
            self._feature,
            self._threshold,
            self._learned_mass,
            self._reference_mass,
            self._position,
            self._window_size,
        )


def _grow(n_features: int, n_trees: int, height: int, seed: int) -> tuple[I32, F64]:
    """Let River draw the trees; return features i32[T, 2^h - 1] and thresholds f64[T, 2^h - 1] in heap order."""
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
    return feature, threshold


def _fingerprint(feature: I32, threshold: F64, window_size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return 16 bytes that depend on the trees and the window."""
    digest = blake2b(digest_size=16)
    digest.update(f"{feature.shape} {window_size}".encode())
    digest.update(feature.astype("<i4").tobytes())
    digest.update(threshold.astype("<f8").tobytes())
    return np.frombuffer(digest.digest(), dtype=np.uint8).copy()


def _check_masses(name: str, masses: np.ndarray[Any, np.dtype[Any]], rows: int) -> None:
    """Refuse masses that are not the visits of so many rows: all at the root, each split's shared by its children."""
    children = masses[:, 1::2] + masses[:, 2::2]
    n_splits = masses.shape[1] // 2
    if (masses < 0).any() or (masses[:, 0] != rows).any() or (children != masses[:, :n_splits]).any():
        raise ValueError(f"half-space state: `{name}` is not the visits of {rows} rows")
