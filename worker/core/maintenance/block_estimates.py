"""Functions of sums over labels that follow each other, with intervals that stand autocorrelation.

Labels of neighbouring events are alike, and so are the errors of a model: an interval for independent ones would be
too narrow. The delete-one-group jackknife over groups of consecutive blocks (Künsch 1989, "The jackknife and the
bootstrap for general stationary observations"; Quenouille's groups, Tukey 1958) needs only that groups are long
against the dependence, and takes any smooth function of sums: a paired difference too, as both come from one row.
"""

import math
from collections.abc import Callable

import numpy as np

from worker.core.kernels.arrays import F64
from worker.core.performance.intervals import Estimate, bracketed, unknown

GROUPS = 10
"""Of 8,000 labels with AR(0.99) errors 93 % of 95 % intervals hold, with AR(0.999) 74 % (20 groups: 57 %, 5: 87 % but a
quarter wider)."""
GROUPS_MIN = 5
"""Fewer groups than this, and there is no interval."""


def block_jackknife(blocks: F64, function: Callable[[F64], float], z: float) -> Estimate:
    """Return function(sum of blocks) with its interval; `support` is the first sum of each block, the labels.

    Args:
        blocks: f64[B, S], sums of consecutive blocks, oldest first; the first of a row counts its labels.
        function: from sums f64[S] to a number; NaN where it is not defined.
        z: the normal quantile of the wanted confidence; that of Student's t with groups - 1 degrees is used.
    """
    if len(blocks) == 0:
        return unknown()
    total = blocks.sum(axis=0)
    value, support = function(total), float(total[0])
    if math.isnan(value):
        return unknown(support)
    groups = min(GROUPS, len(blocks))
    if groups < GROUPS_MIN:
        return Estimate(value, None, None, support)
    parts = [part.sum(axis=0) for part in np.array_split(blocks, groups)]
    left_out = np.array([function(total - part) for part in parts])
    if np.isnan(left_out).any():
        return Estimate(value, None, None, support)
    variance = (groups - 1.0) / groups * float(((left_out - left_out.mean()) ** 2).sum())
    reach = student_quantile(z, groups - 1) * math.sqrt(variance)
    return bracketed(value, value - reach, value + reach, support)


def student_quantile(z: float, freedom: int) -> float:
    """Return the quantile of Student's t at the level of the normal quantile z (Abramowitz & Stegun 1964, 26.7.5).

    Within 1 % for 4 degrees of freedom and more at z = 1.96.
    """
    n = float(freedom)
    first = (z**3 + z) / 4.0
    second = (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / 96.0
    third = (3.0 * z**7 + 19.0 * z**5 + 17.0 * z**3 - 15.0 * z) / 384.0
    fourth = (79.0 * z**9 + 776.0 * z**7 + 1482.0 * z**5 - 1920.0 * z**3 - 945.0 * z) / 92160.0
    return z + first / n + second / n**2 + third / n**3 + fourth / n**4
