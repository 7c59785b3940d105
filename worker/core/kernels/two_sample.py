"""Two samples of counts in the same bins: likelihood ratio, rank sum and stability index, per column."""

import math

import numba
import numpy as np

from worker.core.kernels.arrays import F64, I64, Bool

G, FREEDOM, Z, PSI, ODD, EVENTS = range(6)
"""Columns of what `compare` finds."""
FOUND = 6

_EXPECTED_MIN = 5.0


@numba.njit(cache=True, nogil=True)
def compare(reference: I64, window: I64, is_ordered: Bool, design: F64, shape_design: F64, found: F64) -> None:
    """Compare counts (c x b) of each column; its last bin is that of missing values. O(c b).

    Neighbours are joined until 5 values are expected in either sample (Cochran 1954). `found` (c x FOUND):

    * G of the two samples (Wilks 1938) over Williams' correction (1976), which makes it as large as its degrees of
      freedom at small counts. Not Pearson's sum: far out, where a threshold for many features lies, G keeps to its
      chi-square (Hoeffding 1965), while Pearson's is too large at few expected events.
    * its degrees of freedom; 0 where there is nothing to compare.
    * z of Wilcoxon's rank sum with ties (Lehmann 1975, 1.4), over the root of `design`, freed of the skewness of
      the scores (Hall 1992, "On the removal of skewness by transformation", g3) on the side where it makes z too
      large; 0 for a column without order.
    * PSI of the joined bins with half an event added to each, less its expectation under no change,
      (k - 1) (1/m + 1/n) (Yurdakul 2018, section 3), times `shape_design`.
    * how many standard deviations the larger one of both statistics lies above its mean.
    * events of the window.
    """
    columns, bins = reference.shape
    old = np.empty(bins)
    new = np.empty(bins)
    for j in range(columns):
        m = n = 0.0
        for b in range(bins):
            m += reference[j, b]
            n += window[j, b]
        found[j] = 0.0
        found[j, EVENTS] = n
        if m == 0.0 or n == 0.0:
            continue
        groups = _join(reference[j], window[j], min(m, n) / (m + n), old, new)
        found[j, FREEDOM] = max(groups - 1, 0)
        if groups <= 1:
            continue
        total = m + n
        g = 0.0
        inverse = 0.0
        psi = 0.0
        for k in range(groups):
            both = old[k] + new[k]
            if old[k] > 0.0:
                g += old[k] * math.log(old[k] * total / (m * both))
            if new[k] > 0.0:
                g += new[k] * math.log(new[k] * total / (n * both))
            inverse += total / both
            p = (old[k] + 0.5) / (m + 0.5 * groups)
            q = (new[k] + 0.5) / (n + 0.5 * groups)
            psi += (q - p) * math.log(q / p)
        williams = 1.0 + (total / m + total / n - 1.0) * (inverse - 1.0) / (6.0 * total * (groups - 1))
        found[j, G] = max(2.0 * g / williams, 0.0)
        found[j, PSI] = max(psi - (groups - 1) * (1.0 / m + 1.0 / n) * shape_design[j], 0.0)
        found[j, ODD] = (found[j, G] / shape_design[j] - (groups - 1)) / math.sqrt(2.0 * (groups - 1))
        if is_ordered[j]:
            found[j, Z] = _rank_z(reference[j], window[j], design[j])
            if groups > 2:  # noqa: PLR2004 - with two groups G says all that the ranks say, and better
                found[j, ODD] = max(found[j, ODD], abs(found[j, Z]))


@numba.njit(cache=True, nogil=True)
def _join(reference: I64, window: I64, share: float, old: F64, new: F64) -> int:
    """Join neighbouring bins into groups that are large enough; return how many there are. O(b)."""
    groups = 0
    a = b = 0.0
    last = reference.shape[0] - 1
    for k in range(last + 1):
        if k == last and a + b > 0.0 and groups > 0:
            # What is left of the values belongs to their last group, not to the missing ones.
            old[groups - 1] += a
            new[groups - 1] += b
            a = b = 0.0
        a += reference[k]
        b += window[k]
        if (a + b) * share >= _EXPECTED_MIN:
            old[groups], new[groups] = a, b
            groups += 1
            a = b = 0.0
    if groups > 0:
        old[groups - 1] += a
        new[groups - 1] += b
    return groups


@numba.njit(cache=True, nogil=True)
def _rank_z(reference: I64, window: I64, design: float) -> float:
    """Return the z of the rank sum of the window among both samples, missing values left out. O(b)."""
    bins = reference.shape[0] - 1
    m = n = 0.0
    for b in range(bins):
        m += reference[b]
        n += window[b]
    if m < 1.0 or n < 1.0:
        return 0.0
    total = m + n
    below = 0.0
    mean = square = cube = 0.0
    for b in range(bins):
        both = float(reference[b] + window[b])
        score = (below + both / 2.0) / total - 0.5
        mean += score * window[b]
        square += score * score * both
        cube += score * score * score * both
        below += both
    square /= total
    if square <= 0.0:
        return 0.0
    per_event = 1.0 / m + 1.0 / n
    # The pooled mean of the scores is 0, so the mean of the other sample is - n / m times that of this one.
    z = mean / n * (total / m) / math.sqrt(square * per_event * design)
    skewness = cube / total / square**1.5 * (1.0 / n**2 - 1.0 / m**2) / per_event**1.5 * math.sqrt(design)
    if skewness * z <= 0.0:
        return z
    rest = 1.0 - skewness * z / 6.0
    freed: float = z * (1.0 + rest + rest * rest) / 3.0
    return freed
