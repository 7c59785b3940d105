"""How large a change is: effects of two samples of counts in the same bins, for each column."""

from collections.abc import Callable, Mapping

import numpy as np

from worker.core.kernels.arrays import F64, I64

PSI_CRITICAL = 0.25
"""From here on a population has changed for good (Siddiqi 2006, "Credit Risk Scorecards", 8)."""


def jensen_shannon(reference: I64, window: I64) -> F64:
    """Return the Jensen-Shannon distance (c), in [0, 1]: the root of the divergence to base 2 (Lin 1991)."""
    p, q = _shares(reference), _shares(window)
    middle = (p + q) / 2.0
    divergence = (_information(p, middle) + _information(q, middle)) / 2.0
    return np.sqrt(np.clip(divergence, 0.0, 1.0))


def kolmogorov_smirnov(reference: I64, window: I64) -> F64:
    """Return the largest distance of the distribution functions (c) at the edges of bins, missing values left out."""
    apart = np.cumsum(_shares(reference[:, :-1]), axis=1) - np.cumsum(_shares(window[:, :-1]), axis=1)
    distance: F64 = np.abs(apart).max(axis=1, initial=0.0)
    return distance


OTHER_EFFECTS: Mapping[str, Callable[[I64, I64], F64]] = {
    "jensen_shannon": jensen_shannon,
    "kolmogorov_smirnov": kolmogorov_smirnov,
}
"""Effects beside PSI, which `kernels.two_sample.compare` measures. Each takes counts (c x bins) twice."""


def _shares(counts: I64) -> F64:
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shares: F64 = counts / totals
    return shares


def _information(p: F64, q: F64) -> F64:
    """Return S p log2(p / q) of each row, 0 where p is."""
    used = p > 0.0
    terms: F64 = np.where(used, p * np.log2(np.where(used, p, 1.0) / np.where(used, q, 1.0)), 0.0)
    # One after the other: np.sum adds in an order that depends on the CPU.
    total: F64 = np.cumsum(terms, axis=1)[:, -1]
    return total
