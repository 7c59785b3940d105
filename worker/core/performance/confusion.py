"""Metrics of a confusion matrix: averages over classes and the correlation coefficient of Matthews, with intervals.

Only classes that occur in labels or predictions count, as in scikit-learn. A class that is never predicted has the
precision 0 in an average, one without labels the recall 0 (scikit-learn's zero_division=0). Every interval takes
these classes as given. A column for other classes counts as one class.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Self

import numpy as np

from worker.core.kernels import class_averages as averages
from worker.core.kernels import window_estimates as kernels
from worker.core.kernels.arrays import F64
from worker.core.performance.intervals import Estimate, bracketed, estimate_of, unknown, wilson, wilson_limits

_CLASSES_MIN = 2
# Below it a variance is rounding: no event disagrees with another one.
_VARIANCE_MIN = 1e-12


class Confusion(NamedTuple):
    """Counts f64[m, m] of the m classes that occur: row = label, column = prediction."""

    cells: F64
    labels: F64
    predictions: F64
    hits: F64
    n: float
    design: float

    @classmethod
    def of(cls, matrix: F64, design: float) -> Self:
        """Return the rows and columns of classes that occur."""
        width = len(matrix)
        found = np.empty(width * (width + 2))
        m = averages.occurring(np.ascontiguousarray(matrix), found)
        cells, sums = found[: m * m].reshape(m, m), found[m * m : m * m + 2 * m].reshape(2, m)
        return cls(cells, sums[0], sums[1], cells.diagonal(), float(np.add.reduce(sums[0])), design)


class Counts(NamedTuple):
    """A confusion matrix as it lies in a tally: counts f64[.], the room for it, classes in use, the positive one."""

    counts: F64
    begin: int
    width: int
    classes: int
    positive: int | None
    design: float


def estimates_of_counts(counts: Counts, z: float, names: Iterable[str]) -> dict[str, Estimate]:
    """Return some of the metrics of `OF_COUNTS`. Those of the positive class are there if there is one."""
    found = np.empty((kernels.OF_CLASSES, kernels.FIGURES))
    positive = -1 if counts.positive is None else counts.positive
    kernels.of_classes(counts.counts, counts.begin, counts.width, counts.classes, positive, z, counts.design, found)
    rows = found.tolist()
    wanted = names if positive >= 0 else [name for name in names if name not in _OF_POSITIVE]
    return {name: estimate_of(rows[OF_COUNTS[name]]) for name in wanted}


OF_COUNTS: Mapping[str, int] = {
    "accuracy": kernels.ACCURACY,
    "precision": kernels.PRECISION,
    "recall": kernels.RECALL,
    "f1": kernels.F1,
    "f1_macro": kernels.F1_MACRO,
    "recall_weighted": kernels.ACCURACY,
    "precision_micro": kernels.ACCURACY,
    "recall_micro": kernels.ACCURACY,
    "f1_micro": kernels.ACCURACY,
    "selection_rate": kernels.SELECTION_RATE,
}
"""Metrics that are made by one kernel, and its rows: those that limits are looked at by after every few labels."""
_OF_POSITIVE = {"precision", "recall", "f1", "selection_rate"}


def quotient(part: F64, whole: F64) -> F64:
    """Return part / whole, 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0.0)


def f1_estimates(hits: F64, both: F64, z: float, design: float) -> tuple[F64, F64, F64]:
    """Return value, low and high of F1 for each class; `both` = labels + predictions of the class, > 0.

    F1 = 2 F* / (1 + F*) with F* = TP / (TP + FP + FN), a proportion whose Wilson limits are transformed likewise
    ("Wilson indirect", Lam, Gopal & Qian 2023, arXiv:2309.14621).
    """
    low, high = wilson_limits(hits / design, (both - hits) / design, z)
    return quotient(2.0 * hits, both), 2.0 * low / (1.0 + low), 2.0 * high / (1.0 + high)


def f1_of_class(hits: float, both: float, z: float, design: float) -> Estimate:
    """Return F1 of one class (`f1_estimates`); None when the class occurs nowhere."""
    share = wilson(hits, both - hits, z, design)
    if share.value is None or share.low is None or share.high is None:
        return share
    low, high = 2.0 * share.low / (1.0 + share.low), 2.0 * share.high / (1.0 + share.high)
    return bracketed(2.0 * hits / both, low, high, share.support)


def accuracy(table: Confusion, z: float) -> Estimate:
    """Return the share of correct predictions with the Wilson interval; micro averages and weighted recall equal it."""
    return wilson(float(table.hits.sum()), table.n, z, table.design)


def balanced_accuracy(table: Confusion, z: float) -> Estimate:
    """Return the mean recall over the classes that occur in labels."""
    labelled = table.labels > 0.0
    return _average_share(table.hits[labelled], table.labels[labelled], table, z)


def recall_macro(table: Confusion, z: float) -> Estimate:
    """Return the mean recall over all classes that occur."""
    return _average_share(table.hits, table.labels, table, z)


def precision_macro(table: Confusion, z: float) -> Estimate:
    """Return the mean precision over all classes that occur."""
    return _average_share(table.hits, table.predictions, table, z)


def _average_share(hits: F64, of: F64, table: Confusion, z: float) -> Estimate:
    """Return the mean of hits / of: shares of disjoint events, so independent given the sizes (`_average`)."""
    if table.n <= 0.0:
        return unknown()
    low, high = wilson_limits(hits / table.design, of / table.design, z)
    return _average(quotient(hits, of), low, high, _balanced_support(of, table))


def f1_macro(table: Confusion, z: float) -> Estimate:
    """Return the mean F1 over all classes that occur.

    The correlation of the F1 of two classes comes from the delta method on the multinomial matrix, as in Takahashi,
    Yamamoto, Kuchiba & Koyama (2022). Their variance is 0 where all is right, so the limits of each class are those of
    `f1_estimates`; what they make of those of the mean: see `_average`. The gradient of F1_k is 2/S_k at its diagonal
    cell, less F1_k / S_k for each time that the cell is in row or column k; S = labels + predictions. Its mean is 0, so
    two classes share only the cells where one is taken for the other.
    """
    if table.n <= 0.0:
        return unknown()
    found = np.empty(averages.FOUND)
    averages.f1_macro(table.cells, table.labels, table.predictions, z, table.design, found)
    value, low, high, support = found.tolist()
    return bracketed(value, low, high, support, least=0.0, most=1.0)


def _balanced_support(of: F64, table: Confusion) -> float:
    """Return the events that a mean over classes rests on: as if all classes had as few as the rarest one.

    Near 1 the limits of a mean over rare classes are too narrow: they cannot reach beyond 1 for any of them.
    """
    return min(float(len(of) * of.min()), table.n)


def _average(value: F64, low: F64, high: F64, support: float) -> Estimate:
    """Return the mean over classes; its limits are a square root of squared distances (MOVER).

    mean - sqrt(sum_k d_k²) / m, d_k = value_k - low_k, and likewise above: Zou & Donner (2008), for a linear function
    of proportions Zou, Huang & Zhang (2009), with correlations r (sum_kl r_kl d_k d_l) Zou (2007). With Wilson limits
    for each class it is never degenerate, and a class with few events stays uncertain when none of them is wrong. A
    class without events has the limits 0 and 1.
    """
    mean = float(value.mean())
    below, above = (math.sqrt(float((distance**2).sum())) / len(value) for distance in (value - low, high - value))
    return bracketed(mean, mean - below, mean + above, support, least=0.0, most=1.0)


def precision_weighted(table: Confusion, z: float) -> Estimate:
    """Return the mean precision, each class weighted by its labels."""
    if table.n <= 0.0:
        return unknown()
    precision = quotient(table.hits, table.predictions)
    slope = quotient(table.labels, table.predictions)
    gradient = precision[:, None] - (slope * precision)[None, :] + np.diag(slope)
    return _weighted(float(table.labels @ precision) / table.n, gradient, table, z)


def f1_weighted(table: Confusion, z: float) -> Estimate:
    """Return the mean F1, each class weighted by its labels."""
    if table.n <= 0.0:
        return unknown()
    both = table.labels + table.predictions
    f1 = 2.0 * table.hits / both
    slope = table.labels / both
    gradient = (f1 - slope * f1)[:, None] - (slope * f1)[None, :] + np.diag(2.0 * slope)
    return _weighted(float(table.labels @ f1) / table.n, gradient, table, z)


def _weighted(value: float, gradient: F64, table: Confusion, z: float) -> Estimate:
    """Return the value with the Wilson interval of a binomial sample that has the same variance.

    The delta method on the multinomial matrix gives the variance V of one event. n v (1 - v) / V is then the effective
    size of the sample (Korn & Graubard 1998; with Wilson: Franco, Little, Louis & Slud 2019); it is n where nothing
    varies, as the weighted averages are then shares of events. So the interval stays in [0, 1] and is never
    degenerate.
    """
    mean = float((table.cells * gradient).sum()) / table.n
    variance = float((table.cells * (gradient - mean) ** 2).sum()) / table.n
    binomial = value * (1.0 - value)
    size = table.n * binomial / variance if min(binomial, variance) > _VARIANCE_MIN else table.n
    return wilson(value * size, size, z, table.design)._replace(support=table.n)


def matthews(table: Confusion, z: float) -> Estimate:
    """Return the correlation of labels and predictions, R_K of Gorodkin (2004) for more than two classes.

    None with one class of labels. Constant predictions have the value 0, as in scikit-learn. The variance V is that of
    the delta method (Itaya, Tamura, Hayashi & Yamamoto 2024, arXiv:2405.12622). Their interval on the scale of Fisher's
    z holds the truth too rarely near 1 (measured: 82 % instead of 95 % where one prediction in 1,000 is wrong). So
    (1 + r) / 2 gets the Wilson interval of the effective size n (1 - r²) / V, as in `_weighted`, which covers as well
    elsewhere. r and V in this size are those of the matrix with z²/2 pseudo events added whose labels and predictions
    are independent.
    """
    if np.count_nonzero(table.labels) < _CLASSES_MIN:
        return unknown(table.n)
    constant = np.count_nonzero(table.predictions) < _CLASSES_MIN
    value = 0.0 if constant else _correlation(table.cells / table.n)
    size, pseudo = table.n / table.design, z * z / 2.0
    labels, predictions = table.labels / table.n, table.predictions / table.n
    chance = labels[:, None] * ((labels + predictions) / 2.0)[None, :]
    shares = (table.cells / table.design + pseudo * chance) / (size + pseudo)
    r = _correlation(shares)
    effective = size * (1.0 - r * r) / _correlation_variance(shares, r)
    half = wilson((1.0 + value) / 2.0 * effective, effective, z)
    assert half.low is not None
    assert half.high is not None
    return bracketed(value, 2.0 * half.low - 1.0, 2.0 * half.high - 1.0, table.n, least=-1.0, most=1.0)


def _correlation(shares: F64) -> float:
    """Return R_K = (sum p_kk - sum r_k c_k) / sqrt((1 - sum r²) (1 - sum c²)), r and c the sums of rows and columns."""
    rows, columns = shares.sum(axis=1), shares.sum(axis=0)
    spread = (1.0 - float(rows @ rows)) * (1.0 - float(columns @ columns))
    r = (float(shares.trace()) - float(rows @ columns)) / math.sqrt(spread)
    return min(max(r, -1.0), 1.0)


def _correlation_variance(shares: F64, r: float) -> float:
    """Return the variance of one event's influence on R_K: the gradient with respect to the shares, squared."""
    rows, columns = shares.sum(axis=1), shares.sum(axis=0)
    row_spread, column_spread = 1.0 - float(rows @ rows), 1.0 - float(columns @ columns)
    scale = math.sqrt(row_spread * column_spread)
    by_row = r * rows / row_spread - columns / scale
    by_column = r * columns / column_spread - rows / scale
    gradient = by_row[:, None] + by_column[None, :]
    gradient[np.diag_indices_from(gradient)] += 1.0 / scale
    mean = float((shares * gradient).sum())
    return float((shares * (gradient - mean) ** 2).sum())
