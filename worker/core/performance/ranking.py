"""How well scores rank: area under the ROC curve and average precision, from histograms of the scores.

`counts` is f64[H, 2, B]: for each class h, over bins of ascending score, the events that are not of the class and
those that are. Events of one bin are taken as ties. A value is exact for the scores rounded to their bins, so exact
where each distinct score has a bin of its own; `error_max` bounds what the order inside of the bins can change.
"""

import numpy as np

from worker.core.kernels.arrays import F64
from worker.core.performance.intervals import Estimate, bracketed, unknown, wilson_limits

_BINOMIAL_MIN = 1e-12
# The effective size of a sample of P positives and very many negatives is about this many times P.
_SIZE_PER_EVENT = 4.0


def roc_auc(counts: F64, z: float, design: float = 1.0) -> Estimate:
    """Return P(score of a positive > score of a negative) + P(tie) / 2, the mean over the classes with both kinds.

    error_max = sum_b pos_b neg_b / (2 P N): each tied pair counts a half and could count 0 or 1. The variance V is that
    of DeLong, DeLong & Clarke-Pearson (1988). The interval is Wilson's with the effective size A (1 - A) / V (Korn &
    Graubard 1998; to first order that on the logit scale, Kott 2017), at most P + N and 4 min(P, N): where nearly all
    is ranked right V comes from very few events and tells little. Over classes the half widths are averaged: right
    for any correlation between them.
    """
    negatives, positives = _with_both(counts)
    if len(positives) == 0:
        return unknown(_events(counts))
    n, p = negatives.sum(axis=1), positives.sum(axis=1)
    area, variance = _delong(negatives, positives, n, p, design)
    error = (positives * negatives).sum(axis=1) / (2.0 * n * p)
    size_max = np.minimum(n + p, _SIZE_PER_EVENT * np.minimum(n, p)) / design
    # V is never below its smallest sensible value, so that the size is at most size_max.
    binomial = np.maximum(area * (1.0 - area), _BINOMIAL_MIN)
    size = binomial / np.maximum(variance, binomial / size_max)
    low, high = wilson_limits(area * size, size, z)
    return _mean_over_classes(area, low, high, error, _events(counts))


def average_precision(counts: F64, z: float, design: float = 1.0) -> Estimate:
    """Return the precision at each positive, averaged over the positives: sum_b (R_b - R_b-1) P_b, bins from the top.

    The variance is AP (1 - AP) / P for P positives, as in the logit interval of Boyd, Eng & Page (2013). The interval
    is Wilson's for AP of P: to first order theirs (Kott 2017), but it exists for AP = 1 and covers near 1. `support`
    is the number of positives. Over classes the half widths are averaged.

    error_max: take a bin with p positives and n negatives below T positives and F negatives. No threshold inside of it
    has a precision above (T + p) / (T + p + F); and the positive that has x of the bin's positives above it and
    itself has one of at least (T + x) / (T + x + F + n). The sum over positives of the first is an upper bound, the
    integral of the second from 0 to p is a lower one, for weighted events too: p - G log((T + p + G) / (T + G)), with
    G = F + n.
    """
    negatives, positives = _with_both(counts)
    if len(positives) == 0:
        return unknown(_positives(counts))
    p = positives.sum(axis=1)
    value, error = _average_precision(negatives[:, ::-1], positives[:, ::-1], p)
    low, high = wilson_limits(value * p / design, p / design, z)
    return _mean_over_classes(value, low, high, error, float(p.sum()))


def _with_both(counts: F64) -> tuple[F64, F64]:
    """Return negatives and positives, f64[h, B], of the classes that have events of both kinds."""
    both = (counts.sum(axis=2) > 0.0).all(axis=1)
    used = counts if both.all() else counts[both]
    return used[:, 0], used[:, 1]


def _events(counts: F64) -> float:
    """Return the number of scored events: each one is in the histogram of each class."""
    return float(counts[0].sum()) if len(counts) else 0.0


def _positives(counts: F64) -> float:
    return float(counts[:, 1].sum())


def _below(counts: F64) -> F64:
    """Return how many events are in lower bins, and half of those in the same one."""
    below: F64 = counts.cumsum(axis=1) - counts / 2.0
    return below


def _delong(negatives: F64, positives: F64, n: F64, p: F64, design: float) -> tuple[F64, F64]:
    """Return area and variance for each class, from the spread of the share of negatives below a positive, and back."""
    of_positives = _below(negatives) / n[:, None]
    of_negatives = 1.0 - _below(positives) / p[:, None]
    area = (positives * of_positives).sum(axis=1) / p
    spread_positives = (positives * (of_positives - area[:, None]) ** 2).sum(axis=1) / p
    spread_negatives = (negatives * (of_negatives - area[:, None]) ** 2).sum(axis=1) / n
    return area, spread_positives / _freedom(p / design) + spread_negatives / _freedom(n / design)


def _freedom(n: F64) -> F64:
    """Return n - 1, and n / 2 where there are fewer than two events."""
    return np.maximum(n - 1.0, n / 2.0)


def _average_precision(negatives: F64, positives: F64, p: F64) -> tuple[F64, F64]:
    """Return value and bound of the error for each class, from bins in descending order."""
    found, wrong = positives.cumsum(axis=1), negatives.cumsum(axis=1)
    before, wrong_before = found - positives, wrong - negatives
    has = positives > 0.0
    tied = positives * np.divide(found, found + wrong, out=np.zeros_like(found), where=has)
    best = positives * np.divide(found, found + wrong_before, out=np.zeros_like(found), where=has)
    growth = np.divide(positives, before + wrong, out=np.zeros_like(found), where=has & (before + wrong > 0.0))
    worst = positives - wrong * np.log1p(growth)
    value = tied.sum(axis=1) / p
    error = np.maximum(best.sum(axis=1) / p - value, value - worst.sum(axis=1) / p)
    # Rounding may leave the two bounds on the wrong side of an exact value.
    return value, np.maximum(error, 0.0)


def _mean_over_classes(value: F64, low: F64, high: F64, error: F64, support: float) -> Estimate:
    """Return the mean of the estimates of the classes; the mean of their limits averages their half widths."""
    mean, error_max = float(value.mean()), float(error.mean())
    limits = float(low.mean()), float(high.mean())
    return bracketed(mean, *limits, support, least=0.0, most=1.0, error_max=error_max)
