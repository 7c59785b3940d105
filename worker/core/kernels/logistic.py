"""Logistic regression on one variable, from counts: how a score must be stretched to say what labels say."""

import math

import numba

from worker.core.kernels.arrays import F64

ROUNDS_MAX, HALVINGS_MAX = 60, 30
_STEP_MIN, _NEAR = 1e-12, 1e-4
_DETERMINANT_MIN = 1e-12

INTERCEPT, SLOPE, WEIGHT, WEIGHT_X, WEIGHT_XX, WEIGHT_HH, SCORE, SCORE_X, SCORE_XX, SCORE_HH = range(10)
"""Places in what `fit_logistic` gives: the two coefficients, the sums of w, w x, w x², w h² with the information
w = n p (1 - p), and those of g², g² x, g² x², g² h² with the squared residuals g² of all events."""
FITTED = 10


@numba.njit(cache=True, nogil=True)
def _log_likelihood(x: F64, negatives: F64, positives: F64, intercept: float, slope: float) -> float:
    total = 0.0
    for place in range(x.shape[0]):
        if negatives[place] + positives[place] == 0.0:
            continue
        linear = intercept + slope * x[place]
        # log(1 + exp(linear)), without overflow.
        soft = max(linear, 0.0) + math.log1p(math.exp(-abs(linear)))
        total += positives[place] * (linear - soft) - negatives[place] * soft
    return total


@numba.njit(cache=True, nogil=True)
def _sums(x: F64, halves: F64, negatives: F64, positives: F64, fitted: F64) -> tuple[float, float]:
    """Put the sums of the information and of squared residuals into `fitted`; return the two sums of residuals."""
    fitted[WEIGHT:] = 0.0
    residual, residual_x = 0.0, 0.0
    for place in range(x.shape[0]):
        n = negatives[place] + positives[place]
        if n == 0.0:
            continue
        p = 1.0 / (1.0 + math.exp(-min(max(fitted[INTERCEPT] + fitted[SLOPE] * x[place], -700.0), 700.0)))
        gap, weight = positives[place] - n * p, n * p * (1.0 - p)
        squares = positives[place] * (1.0 - p) ** 2 + negatives[place] * p**2
        residual += gap
        residual_x += gap * x[place]
        fitted[WEIGHT] += weight
        fitted[WEIGHT_X] += weight * x[place]
        fitted[WEIGHT_XX] += weight * x[place] ** 2
        fitted[WEIGHT_HH] += weight * halves[place] ** 2
        fitted[SCORE] += squares
        fitted[SCORE_X] += squares * x[place]
        fitted[SCORE_XX] += squares * x[place] ** 2
        fitted[SCORE_HH] += squares * halves[place] ** 2
    return residual, residual_x


@numba.njit(cache=True, nogil=True)
def _overlap(x: F64, negatives: F64, positives: F64) -> bool:
    """Tell whether neither all positives have higher or equal x than the negatives, nor lower ones."""
    low, high, low_of_class, high_of_class = math.inf, -math.inf, math.inf, -math.inf
    for place in range(x.shape[0]):
        if negatives[place] > 0.0:
            low, high = min(low, x[place]), max(high, x[place])
        if positives[place] > 0.0:
            low_of_class, high_of_class = min(low_of_class, x[place]), max(high_of_class, x[place])
    return high > low_of_class and high_of_class > low


@numba.njit(cache=True, nogil=True)
def fit_logistic(x: F64, halves: F64, negatives: F64, positives: F64, fitted: F64) -> bool:
    """Fit log(P / (1 - P)) = intercept + slope x by maximum likelihood; tell whether there is such a fit.

    Newton's method with halved steps: the likelihood is concave, so it rises to its one maximum. That exists if and
    only if the x of positives and of negatives overlap (Silvapulle 1981). O(B rounds), some six rounds.

    Args:
        x: f64[B], the variable.
        halves: f64[B], how far from x its events may be; it does not change the fit.
        negatives: f64[B], how many events at this x are not of the class; may be weighted.
        positives: f64[B], how many are.
        fitted: f64[FITTED], filled in.
    """
    if not _overlap(x, negatives, positives):
        return False
    fitted[:] = 0.0
    before = _log_likelihood(x, negatives, positives, 0.0, 0.0)
    for _ in range(ROUNDS_MAX):
        residual, residual_x = _sums(x, halves, negatives, positives, fitted)
        determinant = fitted[WEIGHT] * fitted[WEIGHT_XX] - fitted[WEIGHT_X] ** 2
        if not determinant > _DETERMINANT_MIN * fitted[WEIGHT] * fitted[WEIGHT_XX]:
            return False
        by_intercept = (fitted[WEIGHT_XX] * residual - fitted[WEIGHT_X] * residual_x) / determinant
        by_slope = (fitted[WEIGHT] * residual_x - fitted[WEIGHT_X] * residual) / determinant
        reach = max(abs(by_slope) / (1.0 + abs(fitted[SLOPE])), abs(by_intercept) / (1.0 + abs(fitted[INTERCEPT])))
        if reach <= _STEP_MIN:
            return True
        size, after = 1.0, before
        for _ in range(HALVINGS_MAX):
            intercept, slope = fitted[INTERCEPT] + size * by_intercept, fitted[SLOPE] + size * by_slope
            after = _log_likelihood(x, negatives, positives, intercept, slope)
            # Near the top the likelihood is flat to the last bit, and a whole step is right.
            if after >= before or reach <= _NEAR:
                break
            size /= 2.0
        fitted[INTERCEPT], fitted[SLOPE], before = intercept, slope, after
    return False
