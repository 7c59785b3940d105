"""Metrics of predicted probabilities: log loss, Brier score and expected calibration error, with intervals."""

import math

import numpy as np

from worker.core.kernels.arrays import F64
from worker.core.performance.intervals import (
    Estimate,
    bracketed,
    positive_mean_interval,
    unknown,
)

# The Brier score sums over all classes when there are more than two, and over the positive one only when not.
BRIER_MAX_BINARY = 1.0
BRIER_MAX = 2.0


def log_loss(total: float, squares: float, n: float, z: float, design: float) -> Estimate:
    """Return the mean of -log p(label), with the interval on the log scale."""
    return positive_mean_interval(total, squares, n, z, design)


def brier(total: float, squares: float, n: float, z: float, design: float, most: float) -> Estimate:
    """Return the mean squared distance of probabilities and label, with the interval on the log scale, cut to `most`.

    The log scale covers better than the mean itself where few events carry the sum (measured: 93 against 91 %).
    """
    mean = positive_mean_interval(total, squares, n, z, design)
    if mean.value is None or mean.low is None or mean.high is None:
        return mean
    return bracketed(mean.value, mean.low, mean.high, n, least=0.0, most=most)


def expected_calibration_error(counts: F64, confidence: F64, z: float, design: float) -> Estimate:
    """Return sum_b n_b / n |accuracy_b - confidence_b| over bins of confidence (Guo, Pleiss, Sun & Weinberger 2017).

    It is biased upwards: chance alone makes a gap in each bin (Broecker 2012; Kumar, Liang & Ma 2019). So the lower
    limit is d - z se, where d has the squared standard error of each gap taken from its square, and the upper one is
    ECE + z se: the interval is wider than it need be, above all. se is the delta method: an event of bin b adds its
    gap, with the variance a (1 - a) of its hit; a is the accuracy with z²/2 hits and misses added (Agresti & Coull
    1998). Confidence is taken as constant inside of a bin.
    """
    used = counts[:, 0] > 0.0
    n = float(counts[:, 0].sum())
    if n <= 0.0:
        return unknown()
    events, hits = counts[used, 0] / design, counts[used, 1] / design
    size, square = n / design, z * z
    gaps = np.abs(hits - confidence[used] / design) / events
    shares = events / size
    accuracy = (hits + square / 2.0) / (events + square)
    variances = accuracy * (1.0 - accuracy)
    value = float(shares @ gaps)
    error = math.sqrt(max(float(shares @ (variances + gaps**2)) - value * value, 0.0) / size)
    unbiased = float(shares @ np.sqrt(np.maximum(gaps**2 - variances / events, 0.0)))
    return bracketed(value, unbiased - z * error, value + z * error, n, least=0.0, most=1.0)
