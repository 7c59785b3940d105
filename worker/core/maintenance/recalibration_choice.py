"""Which of several candidates to use, from their losses so far: the champion stays until another is shown to be better.

Losses are means of blocks of labels, so their autocorrelation within a block costs nothing. Their faded moments give
the mean and the variance of the difference of any two candidates: pairs, not single losses, are compared.
"""

import math

import numpy as np

from worker.core.kernels.arrays import F64
from worker.core.state import Arrays, check_like, fill, outside, refuse_if

_STORED = "stored choice"
_LOSS_MAX = 1e100


class Choice:
    """Faded moments of the block losses of C candidates, of which the first one is the model as it is."""

    def __init__(self, candidates: int, fade: float, evidence: float, blocks_min: int) -> None:
        """Blocks fade by `fade`; a switch needs `evidence` standard errors, and `blocks_min` blocks."""
        self._fade, self._evidence, self._blocks_min = fade, evidence, blocks_min
        self._mean: F64 = np.zeros(candidates)
        self._products: F64 = np.zeros((candidates, candidates))
        self._weights: F64 = np.zeros(3)
        self._chosen = np.zeros(1, dtype=np.int64)

    @property
    def chosen(self) -> int:
        """The candidate that is advised."""
        return int(self._chosen[0])

    def add(self, losses: F64) -> int:
        """Take in the mean losses f64[C] of a block; return the choice from now on.

        A switch goes to the best one, if it is better than the chosen one by `evidence` standard errors of the faded
        mean difference. Back to the first one, too: to go back as soon as it was no worse cost more than it saved.
        """
        capped = np.minimum(losses, _LOSS_MAX)
        weight, squares, blocks = self._weights
        weight, squares = self._fade * weight + 1.0, self._fade * self._fade * squares + 1.0
        self._weights[:] = weight, squares, blocks + 1.0
        # Updated as deviations from the running mean (West 1979), against cancellation.
        gap = capped - self._mean
        self._mean += gap / weight
        self._products *= self._fade
        self._products += np.outer(gap, capped - self._mean)
        if blocks + 1.0 >= self._blocks_min:
            self._chosen[0] = self._decide()
        return self.chosen

    def gain(self, candidate: int, against: int) -> tuple[float, float]:
        """Return by how much less is lost with `candidate` than with `against`, and the standard error of it."""
        weight, squares, _ = self._weights
        if weight <= 1.0:
            return math.nan, math.nan
        gap = float(self._mean[against] - self._mean[candidate])
        s = self._products
        # Half of the sum of both orders: the matrix is symmetric but for the last bits.
        both = s[candidate, candidate] + s[against, against] - s[candidate, against] - s[against, candidate]
        size = weight * weight / squares
        variance = max(float(both) / weight, 0.0) / max(size - 1.0, 1e-9)
        return gap, math.sqrt(variance)

    def _decide(self) -> int:
        chosen = self.chosen
        best = int(np.argmin(self._mean))
        if best == chosen:
            return chosen
        gap, error = self.gain(best, chosen)
        return best if gap > self._evidence * error and gap > 0.0 else chosen

    # Storing and restoring.

    def live(self) -> Arrays:
        """Return the live arrays."""
        return {"mean": self._mean, "products": self._products, "weights": self._weights, "chosen": self._chosen}

    def restore(self, arrays: Arrays) -> None:
        """Take over copies; ValueError for what cannot be."""
        check_like(_STORED, arrays, self.live())
        reasons = {"the chosen one does not exist": outside(arrays["chosen"], 0, len(self._mean) - 1)}
        for name in ("mean", "products", "weights"):
            reasons[f"`{name}` is not finite"] = not np.isfinite(arrays[name]).all()
        reasons["a weight is negative"] = bool((arrays["weights"] < 0.0).any())
        refuse_if(_STORED, reasons)
        fill(self.live(), arrays)
