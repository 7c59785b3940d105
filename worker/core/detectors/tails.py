"""Tail surprise as a detector: how far out each feature of an event lies among its own past values, on the mean.

What the others cannot say: many features that are each a little unusual, told apart from one by nothing but their own
distributions, without a scale to choose and without a limit at the edge of what was seen. `kernels/tails.py` has the
formula and its sources.
"""

from typing import ClassVar

import numpy as np

from worker.core.detectors.gate import Gate
from worker.core.detectors.protocol import NEVER, RefitNote
from worker.core.kernels import tails as kernel
from worker.core.kernels.arrays import F64, Bool
from worker.core.kernels.gate import ADMITTED
from worker.core.kernels.tails import LARGEST
from worker.core.options import TailsOptions
from worker.core.state import COUNT_MAX, Arrays, by_part, check_like, fill, outside, prefixed, refuse_if

_STORED = "stored tails"


class TailSurprise:
    """Scores rows (n x d) by the mean over the features of -ln of the value's two-sided tail probability.

    A feature counts once it has had 64 values; scores are NaN while none has. A missing value counts as the feature's
    mean surprise, so an event without any value has the mean score of what was learned. A constant that changes, or a
    value beyond an end at which values pile up, is as surprising as a value can be (-ln 1e-12).
    """

    name: ClassVar[str] = "tails"
    taken_over: ClassVar[int] = 0

    def __init__(self, n_features: int, options: TailsOptions, settle: int, seed: int) -> None:
        """Take the number of features, the options, and how many first rows are learned without asking the gate."""
        shape = n_features, options.rows_max
        self._memory = options.memory_events
        self._settle = settle
        self._logs = np.log(np.maximum(np.arange(options.rows_max + 2.0), 1.0))
        self._tails = kernel.TailArrays(
            sample=np.zeros(shape),
            reference=np.zeros(shape),
            length=np.zeros(n_features, dtype=np.int64),
            kept=np.zeros(n_features, dtype=np.int64),
            renewal=np.zeros(n_features, dtype=np.int64),
            summary=np.zeros((n_features, 6)),
        )
        self._counters = np.zeros(2, dtype=np.int64)
        self._random_state = np.full(1, seed, dtype=np.uint64)
        self._gate = Gate(options.gate_quantile, seed + 1)
        self._steady_rows = 0

    def fit(self, warmup_rows: F64) -> None:
        """Do nothing: there is no scale to take."""

    def score_and_learn(self, rows: F64) -> F64:
        """Score each row by what was learned before it, then learn it if the gate admits it."""
        scores = np.empty(len(rows))
        kernel.score_and_learn(
            rows,
            self._settle,
            self._memory,
            self._logs,
            self._tails,
            self._counters,
            self._random_state,
            self._gate.for_kernel,
            scores,
        )
        self._steady_rows -= len(rows)
        return scores

    def score(self, rows: F64) -> F64:
        """Score rows and learn nothing."""
        scores = np.empty(len(rows))
        kernel.score(rows, self._logs, self._tails, scores)
        return scores

    def steady(self, rows: int) -> bool:
        """Return whether no reference can be renewed. Counts down, and looks at the features when it gets to 0."""
        if rows >= self._steady_rows:
            self._steady_rows = kernel.until_due(self._tails.renewal, self._tails.kept)
        return rows < self._steady_rows

    def barrier(self) -> int:
        """Return NEVER: nothing is refitted."""
        return NEVER

    def cross(self) -> RefitNote | None:
        """Do nothing."""
        return None

    def live(self) -> Arrays:
        """Return the samples, what was taken from them, and the gate."""
        return {**self._own(), **prefixed("gate", self._gate.arrays())}

    def _own(self) -> Arrays:
        return {**self._tails._asdict(), "counters": self._counters, "random_state": self._random_state}

    def fitted(self) -> Arrays:
        """Return nothing: all of it changes with the rows."""
        return {}

    def restore(self, seen: int, live: Arrays, fitted: Arrays) -> None:
        """Take over copies."""
        check_like(_STORED, fitted, {})
        own = {name: array for name, array in live.items() if "." not in name}
        gate = by_part(_STORED, {name: array for name, array in live.items() if "." in name}, ("gate",))["gate"]
        check_like(_STORED, own, self._own())
        _check_counts(seen, own)
        _check_values(own)
        self._gate.restore(gate)
        fill(self._own(), own)


def _check_counts(seen: int, own: Arrays) -> None:
    """Refuse counts that rows cannot have left, and any that the kernel would read out of bounds with."""
    kept, length = own["kept"], own["length"]
    is_known = length > 0
    refuse_if(
        _STORED,
        {
            "a count is out of range": outside(own["counters"], 0, COUNT_MAX),
            "it has learned another number of rows": own["counters"].sum() != seen,
            "a feature has more values than there were rows": outside(kept, 0, own["counters"][ADMITTED]),
            "a reference is longer than its sample": outside(length, 0, np.minimum(kept, own["sample"].shape[1])),
            "a reference is too short": (length[is_known] < kernel.VALUES_MIN).any(),
            "a reference is not there": (is_known != (kept >= kernel.VALUES_MIN)).any(),
            "a renewal is out of range": outside(own["renewal"], 0, kept + kernel.RENEWAL_VALUES_MAX),
        },
    )


def _check_values(own: Arrays) -> None:
    """Refuse values that are not finite, and references and summaries that contradict themselves."""
    reference, summary, length = own["reference"], own["summary"], own["length"]
    is_used: Bool = np.arange(1, reference.shape[1]) < length[:, np.newaxis]
    refuse_if(
        _STORED,
        {
            "a value is out of range": outside(own["sample"], -LARGEST, LARGEST),
            "a value of a reference is out of range": outside(reference, -LARGEST, LARGEST),
            "a reference is not sorted": ((reference[:, 1:] < reference[:, :-1]) & is_used).any(),
            "a threshold is out of range": outside(summary[:, [kernel.LOW, kernel.HIGH]], -LARGEST, LARGEST),
            "thresholds are in the wrong order": (summary[:, kernel.LOW] > summary[:, kernel.HIGH]).any(),
            "a mean excess or surprise is out of range": outside(summary[:, kernel.LOW_EXCESS :], 0.0, 2 * LARGEST),
        },
    )
