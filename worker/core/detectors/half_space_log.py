"""Half-space trees with the logarithmic score, a gate and a memory, behind robust limits: the detector.

`kernels/half_space_log.py` says how they differ from River's. They are drawn by River's rule, but by our own kernel:
River needs most of a second for 50 trees of height 10. What is drawn depends on the seed and the shape alone, so it is
not stored.
"""

from hashlib import blake2b
from typing import ClassVar

import numpy as np

from worker.core.detectors.gate import Gate
from worker.core.detectors.isolation_forest import FEATURES_MAX
from worker.core.detectors.protocol import NEVER, RefitNote
from worker.core.detectors.scaling import RobustLimits
from worker.core.kernels import half_space_log as kernel
from worker.core.kernels.arrays import F64, I32, I64, U8
from worker.core.kernels.isolation import ROWS_PER_BLOCK, pack_nodes
from worker.core.options import HalfSpaceOptions
from worker.core.state import Arrays, by_part, check_like, fill, outside, prefixed, refuse_if

_STORED = "half-space state"


class LogHalfSpaceTrees:
    """Scores rows (n x d): 0 where no row has been, down to -log2(1 + window x 2^height); NaN in the first window."""

    name: ClassVar[str] = "half_space_trees"
    taken_over: ClassVar[int] = 0

    def __init__(self, n_features: int, options: HalfSpaceOptions, settle: int, seed: int) -> None:
        """Take the number of features, the options, and how many first rows are learned without asking the gate."""
        if not 1 <= n_features <= FEATURES_MAX:
            raise ValueError(f"half-space trees need 1 to {FEATURES_MAX} features, got {n_features}")
        shape = options.trees, 2**options.height
        self._options = options
        self._settle = settle
        self._limits = RobustLimits.unknown(n_features)
        self._nodes, self._trees = _drawn(n_features, shape, seed)
        self._values = np.zeros(shape, dtype=np.float32)
        self._learned = np.zeros(shape, dtype=np.int32)
        self._masses = np.zeros(shape, dtype=np.float32)
        self._position = np.zeros(3, dtype=np.int64)
        self._gate = Gate(options.gate_quantile, seed + 1)
        self._renewed_at = 0

    def fit(self, warmup_rows: F64) -> None:
        """Take the limits."""
        self._limits = RobustLimits.from_rows(warmup_rows)

    def score_and_learn(self, rows: F64) -> F64:
        """Scale and score each row, then learn it if the gate admits it."""
        self._renew()
        scores = np.empty(len(rows))
        options = self._options
        kernel.score_and_learn(
            self._bits(rows),
            self._nodes,
            self._values,
            self._learned,
            self._masses,
            self._position,
            options.window_events,
            options.fade,
            self._settle,
            self._gate.for_kernel,
            scores,
        )
        self._renewed_at = int(self._position[kernel.WINDOWS])
        return scores

    def score(self, rows: F64) -> F64:
        """Score rows and learn nothing."""
        self._renew()
        scores = np.empty(len(rows))
        kernel.score(self._bits(rows), self._nodes, self._values, self._position, scores)
        return scores

    def _renew(self) -> None:
        """Make what follows from the masses anew if they were put back to another window than it was made in.

        Whoever holds the arrays of `live` may do so, to hear what would have been said earlier.
        """
        windows = int(self._position[kernel.WINDOWS])
        if windows != self._renewed_at:
            kernel.renew(self._nodes, self._masses, self._options.window_events, self._values)
            self._renewed_at = windows

    def _bits(self, rows: F64) -> I32:
        bits: I32 = self._limits.to_float32(rows).view(np.int32)
        return bits

    def steady(self, rows: int) -> bool:
        """Return whether no window can end: what is learned counts from the next window on."""
        return int(self._position[kernel.LEARNED]) + rows < self._options.window_events

    def barrier(self) -> int:
        """Return NEVER: nothing is refitted."""
        return NEVER

    def cross(self) -> RefitNote | None:
        """Do nothing."""
        return None

    def live(self) -> Arrays:
        """Return the counts, the gate, and a fingerprint of the trees that they belong to."""
        return {**self._own(), "trees": self._trees, **prefixed("gate", self._gate.arrays())}

    def _own(self) -> Arrays:
        return {"learned": self._learned, "masses": self._masses, "position": self._position}

    def fitted(self) -> Arrays:
        """Return the limits."""
        return self._limits.arrays()

    def restore(self, seen: int, live: Arrays, fitted: Arrays) -> None:
        """Take over copies."""
        own = {name: array for name, array in live.items() if "." not in name}
        gate = by_part(_STORED, {name: array for name, array in live.items() if "." in name}, ("gate",))["gate"]
        check_like(_STORED, own, {**self._own(), "trees": self._trees})
        window = self._options.window_events
        learned, windows, passed = own["position"].tolist()
        refuse_if(
            _STORED,
            {
                "it belongs to other trees (seed or shape)": (own["trees"] != self._trees).any(),
                "`position` is impossible": not (0 <= learned < window and windows >= 0 and passed >= 0),
                "it has learned another number of rows": learned + windows * window + passed != seen,
                "a count is out of range": outside(own["learned"], 0, window),
                "the counts are not those of the window": (own["learned"].sum(axis=1) != learned).any(),
                "a mass is out of range": outside(own["masses"], 0.0, window * max(windows, 1)),
                "there is mass of no window": windows == 0 and own["masses"].any(),
            },
        )
        self._limits = self._limits.restored(fitted)
        self._gate.restore(gate)
        fill(self._own(), {name: own[name] for name in self._own()})


def _drawn(n_features: int, shape: tuple[int, int], seed: int) -> tuple[I64, U8]:
    """Draw trees; return them packed, and 16 bytes that depend on them."""
    trees, leaves = shape
    feature = np.zeros((trees, leaves - 1), dtype=np.int16)
    threshold = np.zeros((trees, leaves - 1), dtype=np.float32)
    kernel.draw(np.full(1, seed, dtype=np.uint64), feature, threshold, n_features)
    nodes = np.zeros(shape, dtype=np.int64)
    pack_nodes(feature, threshold.view(np.int32), np.ones(feature.shape, dtype=np.bool_), nodes)
    # The fingerprint is stored: it names columns by their numbers, however nodes name them.
    numbered = (nodes >> 32 << 32) | ((nodes & 0xFFFFFFFF) // ROWS_PER_BLOCK)
    digest = blake2b(numbered.astype("<i8").tobytes(), digest_size=16).digest()
    return nodes, np.frombuffer(digest, dtype=np.uint8).copy()
