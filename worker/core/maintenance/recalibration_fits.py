"""Fits of each recalibration method on the latest labels: rows to coefficients, as `kernels.recalibration` reads them.

Sources: Platt scaling with Platt's targets (Platt 1999, section 2.2); temperature and vector scaling (Guo et al.
2017, section 4.2); beta calibration (Kull, Silva Filho & Flach 2017); isotonic regression (Zadrozny & Elkan 2002).
Fits of probabilities are pulled to "as it is" by a normal prior, so that few labels, labels of one class and separable
scores make small changes, not wild ones.
"""

from typing import NamedTuple

import numpy as np

from worker.core.kernels import recalibration as k
from worker.core.kernels.arrays import F64, I64
from worker.core.kernels.isotonic import join_pools, pool_adjacent_violators
from worker.core.kernels.logit_fit import fit_binary, fit_classes

LOGIT_BINS = 512
_LOGIT_MAX = float(np.log((1.0 - k.P_MIN) / k.P_MIN))
LOGIT_EDGES: F64 = np.linspace(-_LOGIT_MAX, _LOGIT_MAX, LOGIT_BINS + 1)
"""Of logits, 0.045 apart. What a bin takes from a coefficient is of the order of its square."""
SCORE_BOUNDS: F64 = np.concatenate([[0.0], 1.0 / (1.0 + np.exp(-LOGIT_EDGES[1:-1])), [1.0]])
"""The same bounds as probabilities, ascending; 0.5 is one of them, exactly."""

_MIDDLES: F64 = (LOGIT_EDGES[1:] + LOGIT_EDGES[:-1]) / 2.0
_PROBABILITIES: F64 = 1.0 / (1.0 + np.exp(-_MIDDLES))
_ONES: F64 = np.ones(LOGIT_BINS)
_FEATURES: dict[int, F64] = {
    k.PLATT: np.column_stack([_ONES, _MIDDLES]),
    k.TEMPERATURE: np.ascontiguousarray(_MIDDLES[:, np.newaxis]),
    k.BETA: np.column_stack([_ONES, np.log(_PROBABILITIES), -np.log1p(-_PROBABILITIES)]),
}
AS_IT_IS: dict[int, F64] = {
    k.PLATT: np.array([0.0, 1.0]),
    k.TEMPERATURE: np.array([1.0]),
    k.BETA: np.array([0.0, 1.0, 1.0]),
}
_SEGMENT_PRIOR_LABELS = 20.0
"""A segment's bias is pulled to that of all rows, as if so many labels had told so."""


class Rows(NamedTuple):
    """The rows of a window, oldest first: outputs f64[n, K], targets f64[n], segments i64[n] (-1: none)."""

    outputs: F64
    targets: F64
    segments: I64

    def last(self, window: int) -> "Rows":
        """Return the latest `window` of them, or all."""
        return Rows(self.outputs[-window:], self.targets[-window:], self.segments[-window:])


def score_bins(p: F64) -> I64:
    """Return the bin (0 .. LOGIT_BINS - 1) of each probability: the last one whose lower bound is not above it."""
    found: I64 = np.searchsorted(SCORE_BOUNDS[1:-1], p, side="right").astype(np.int64)
    return found


def labelled_bins(p: F64, targets: F64) -> I64:
    """Return for each row (n) the bin of its score, LOGIT_BINS more if it is of the class."""
    return score_bins(p) + LOGIT_BINS * (targets > 0.0)


def score_counts(bins: I64) -> F64:
    """Return the counts f64[2, LOGIT_BINS] of negatives and positives by score, from `labelled_bins`."""
    return np.bincount(bins, minlength=2 * LOGIT_BINS).reshape(2, LOGIT_BINS).astype(np.float64)


def platt_targets(counts: F64) -> tuple[F64, F64]:
    """Return weights (negatives, positives) f64[B]: labels softened to (N+ + 1) / (N+ + 2) and 1 / (N- + 2)."""
    negatives, positives = counts
    high = (positives.sum() + 1.0) / (positives.sum() + 2.0)
    low = 1.0 / (negatives.sum() + 2.0)
    return negatives * (1.0 - low) + positives * (1.0 - high), negatives * low + positives * high


def fit_scores(method: int, counts: F64, precision: float, start: F64 | None) -> F64 | None:
    """Return the coefficients of PLATT, TEMPERATURE or BETA from counts f64[2, LOGIT_BINS]; None: no fit.

    `start` is where Newton's method begins; it changes the last bits only.
    """
    features, centre = _FEATURES[method], AS_IT_IS[method]
    size = len(centre)
    theta = (centre if start is None else start[:size]).copy()
    negatives, positives = platt_targets(counts)
    if not fit_binary(features, negatives, positives, theta, centre, precision, np.empty((size + 2, size))):
        return None
    return theta


def fit_score_steps(counts: F64, knots_max: int) -> F64 | None:
    """Return ISOTONIC coefficients from counts f64[2, LOGIT_BINS]."""
    negatives, positives = platt_targets(counts)
    mass = negatives + positives
    used = np.flatnonzero(mass > 0.0)
    return _knots(_PROBABILITIES[used], positives[used] / mass[used], mass[used], knots_max) if len(used) else None


def fit_number_steps(rows: Rows, knots_max: int) -> F64 | None:
    """Return ISOTONIC coefficients of a regression; rows of equal output are one."""
    x, place = np.unique(rows.outputs[:, 0], return_inverse=True)
    mass = np.bincount(place, minlength=len(x)).astype(float)
    means = np.bincount(place, weights=rows.targets, minlength=len(x)) / mass
    return _knots(x, means, mass, knots_max) if len(x) else None


def _knots(x: F64, y: F64, mass: F64, knots_max: int) -> F64:
    """Return [knots, x (knots_max), y (knots_max)]: the two ends of each pool, as scikit-learn keeps them."""
    starts, means, masses = np.empty(len(x), dtype=np.int64), np.empty(len(x)), np.empty(len(x))
    pools = pool_adjacent_violators(y, mass, starts, means, masses)
    pools = join_pools(starts, means, masses, pools, knots_max // 2)
    first, last = starts[:pools], np.append(starts[1:pools], len(x)) - 1
    ends = np.column_stack([x[first], x[last]]).ravel()
    heights = np.repeat(means[:pools], 2)
    keep = np.append(True, np.diff(ends) > 0.0)
    found = np.zeros(1 + 2 * knots_max)
    found[0] = keep.sum()
    found[1 : 1 + keep.sum()], found[1 + knots_max : 1 + knots_max + keep.sum()] = ends[keep], heights[keep]
    return found


def fit_class_scales(method: int, rows: Rows, precision: float, start: F64 | None) -> F64 | None:
    """Return the coefficients of TEMPERATURE (1) or VECTOR (2 K) scaling of several classes; None: no fit."""
    classes, shared = rows.outputs.shape[1], method == k.TEMPERATURE
    centre = np.ones(1) if shared else np.concatenate([np.ones(classes), np.zeros(classes)])
    theta = (centre if start is None else start[: len(centre)]).copy()
    logits = np.log(np.clip(rows.outputs, k.P_MIN, 1.0 - k.P_MIN))
    labels = rows.targets.astype(np.int64)
    work = np.empty((len(centre) + 3, max(len(centre), classes)))
    return theta if fit_classes(logits, labels, theta, centre, precision, shared, work) else None


def fit_line(rows: Rows) -> F64 | None:
    """Return LINEAR a, b of least squares: target = a + b output; a mean shift where all outputs are the same."""
    x, y = rows.outputs[:, 0], rows.targets
    x_mean, y_mean = float(x.mean()), float(y.mean())
    spread = float(((x - x_mean) ** 2).sum())
    slope = float(((x - x_mean) * (y - y_mean)).sum()) / spread if spread > 0.0 else 1.0
    found = np.array([y_mean - slope * x_mean, slope])
    return found if np.isfinite(found).all() else None


def fit_biases(rows: Rows, segments: int) -> F64 | None:
    """Return BIAS: the mean of target - output over all rows, then of each segment, pulled to that of all."""
    gaps = rows.targets - rows.outputs[:, 0]
    of_all = float(gaps.mean())
    known = rows.segments >= 0
    counts = np.bincount(rows.segments[known], minlength=segments).astype(float)
    totals = np.bincount(rows.segments[known], weights=gaps[known], minlength=segments)
    found = np.append(of_all, (totals + _SEGMENT_PRIOR_LABELS * of_all) / (counts + _SEGMENT_PRIOR_LABELS))
    return found if np.isfinite(found).all() else None
