"""Whether probabilities say what labels say: calibration in the large and the calibration slope, from score histograms.

`counts` is f64[2, B]: over bins of ascending score, the events that are not of the class and those that are. A score
counts as the middle of its bin; `error_max` bounds what that can change.
"""

from typing import NamedTuple

import numpy as np

from worker.core.kernels import tally as k
from worker.core.kernels import window_estimates as kernels
from worker.core.kernels.arrays import F64
from worker.core.performance.intervals import Estimate, estimate_of


def score_bounds() -> F64:
    """Return the bounds of the bins of `kernels.tally.score_bin`, f64[SCORE_BINS + 1]."""
    octaves = 2.0 ** np.arange(-k.SCORE_OCTAVES - 1, -1)
    steps = 1.0 + np.arange(k.SCORE_STEPS) / k.SCORE_STEPS
    lower = (octaves[:, np.newaxis] * steps).ravel()
    lower[0] = 0.0
    return np.concatenate([lower, [0.5], 1.0 - lower[::-1]])


class Bins(NamedTuple):
    """Bins of scores f64[B]: their bounds (B + 1), middles and half widths, and these on the scale of logits.

    The half width of a bin that reaches to 0 or 1 is 0 on that scale.
    """

    bounds: F64
    middles: F64
    halves: F64
    logits: F64
    logit_halves: F64

    @classmethod
    def of(cls, bounds: F64) -> "Bins":
        """Return the bins with these bounds, from 0 to 1."""
        middles, halves = (bounds[1:] + bounds[:-1]) / 2.0, (bounds[1:] - bounds[:-1]) / 2.0
        lower, upper = bounds[:-1], bounds[1:]
        inside = (lower > 0.0) & (upper < 1.0)
        logit_halves = (_logit(np.where(inside, upper, 0.5)) - _logit(np.where(inside, lower, 0.5))) / 2.0
        return cls(bounds, middles, halves, _logit(middles), logit_halves)


def _logit(p: F64) -> F64:
    found: F64 = np.log(p) - np.log1p(-p)
    return found


SCORE_BINS = Bins.of(score_bounds())


def calibration_in_the_large(counts: F64, bins: Bins, z: float, design: float) -> Estimate:
    """Return the mean probability less the share of events of the class: positive where too much is promised.

    The interval is that of a mean, with the variance of p - y. z²/2 is added to the sum of squares, as if one event in
    z² were wrong one way and one the other (after Agresti & Caffo 2000): so it is not degenerate where nothing was
    wrong yet. error_max is the mean half width of the bins.
    """
    row = np.empty(kernels.FIGURES)
    negatives, positives = np.ascontiguousarray(counts[0]), np.ascontiguousarray(counts[1])
    kernels.in_the_large(negatives, positives, bins.middles, bins.halves, z, design, row)
    return estimate_of(row.tolist())


def calibration_slope(counts: F64, bins: Bins, z: float, design: float) -> Estimate:
    """Return b of logit P(y) = a + b logit p (Cox 1958): 1 is right, below 1 probabilities are too extreme.

    By maximum likelihood (`kernels.logistic`); None where there is no maximum: the scores of the events of the class
    and those of the others do not overlap (Silvapulle 1981). The interval is b -+ z se with the larger one of two
    variances: that of the model, and that which holds even where the relation is no straight line (White 1982), which
    is too small in small samples (Kauermann & Carroll 2001; measured where few events overlap: 88 instead of 95 %, and
    96 % with the larger one). `support` is the number of events.

    error_max, to first order, is the sum of what scores inside of their bins can add in two ways. All scores of a bin
    lie off its middle by at most h on the scale of logits: b h / s, with h the root mean square of half the bins'
    widths and s the standard deviation of the logits, both under the weights of the fit. And those of the class lie
    otherwise than those of the others by chance: 3 standard deviations of that, if scores are spread evenly over each
    bin. Scores beyond the outermost bounds (2^-17) count as in the middle of those bins, and are left out.
    """
    row = np.empty(kernels.FIGURES)
    negatives, positives = np.ascontiguousarray(counts[0]), np.ascontiguousarray(counts[1])
    kernels.slope(negatives, positives, bins.logits, bins.logit_halves, z, design, row)
    return estimate_of(row.tolist())
