"""The gate of one detector; `kernels/gate.py` says what it is for and how it decides."""

import numpy as np

from worker.core.kernels.gate import RENEWAL, RENEWAL_SCORES_MAX, SEEN, GateArrays
from worker.core.state import COUNT_MAX, Arrays, check_like, fill, outside, refuse_if

SAMPLE_SCORES = 512

_STORED = "stored gate"


class Gate:
    """Admits rows to learning whose score is at most the `quantile` of all scores; a quantile of 1 admits all."""

    def __init__(self, quantile: float, seed: int) -> None:
        self.for_kernel = GateArrays(
            quantile,
            sample=np.zeros(SAMPLE_SCORES),
            counters=np.zeros(2, dtype=np.int64),
            threshold=np.full(1, np.inf),
            random_state=np.full(1, seed, dtype=np.uint64),
        )

    def forget(self) -> None:
        """Start anew: the scores to come are of another model."""
        self.for_kernel.sample[:] = 0.0
        self.for_kernel.counters[:] = 0
        self.for_kernel.threshold[:] = np.inf

    def arrays(self) -> Arrays:
        """Return the live state arrays."""
        return {name: array for name, array in self.for_kernel._asdict().items() if name != "quantile"}

    def restore(self, arrays: Arrays) -> None:
        """Take over copies; ValueError for what cannot be."""
        check_like(_STORED, arrays, self.arrays())
        seen, renewal = arrays["counters"][SEEN], arrays["counters"][RENEWAL]
        refuse_if(
            _STORED,
            {
                "a count is out of range": outside(seen, 0, COUNT_MAX),
                "a renewal is out of range": outside(renewal, 0, min(int(seen), COUNT_MAX) + RENEWAL_SCORES_MAX),
                "a score is not finite": not np.isfinite(arrays["sample"]).all(),
                "there is no threshold": np.isnan(arrays["threshold"]).any(),
            },
        )
        fill(self.arrays(), arrays)
