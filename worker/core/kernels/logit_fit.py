"""Logistic regressions of labels on what a model said: Newton's method, with a prior that pulls to "as it is".

A binary fit is made from counts over bins of the score, so its cost does not depend on the number of labels. One of
several classes is made from rows. Both maximise a concave function, which has one maximum for any labels, separable
ones and labels of one class too: the prior is a normal one around the parameters that change nothing (the ridge of
le Cessie & van Houwelingen 1992, around another centre).
"""

import math

import numba

from worker.core.kernels.arrays import F64, I64

ROUNDS_MAX, HALVINGS_MAX = 40, 30
_LAST_STEP, _NEAR, _PIVOT_MIN = 1e-6, 1e-5, 1e-13


@numba.njit(cache=True, nogil=True)
def _soft_plus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


@numba.njit(cache=True, nogil=True)
def _logistic(x: float) -> float:
    if x >= 0.0:
        return 1.0 / (1.0 + math.exp(-x))
    e = math.exp(x)
    return e / (1.0 + e)


@numba.njit(cache=True, nogil=True)
def solve_positive(matrix: F64, right: F64) -> bool:
    """Solve matrix x = right for a symmetric positive definite f64[D, D] by Cholesky's method, in place.

    `right` becomes x, `matrix` its factor. False, and no solution, if the matrix is not positive definite. O(D³).
    """
    size = right.shape[0]
    for i in range(size):
        largest = abs(matrix[i, i])
        for j in range(i + 1):
            value = matrix[i, j]
            for each in range(j):
                value -= matrix[i, each] * matrix[j, each]
            if i == j:
                if not value > _PIVOT_MIN * largest:
                    return False
                matrix[i, i] = math.sqrt(value)
            else:
                matrix[i, j] = value / matrix[j, j]
    for i in range(size):
        for each in range(i):
            right[i] -= matrix[i, each] * right[each]
        right[i] /= matrix[i, i]
    for i in range(size - 1, -1, -1):
        for each in range(i + 1, size):
            right[i] -= matrix[each, i] * right[each]
        right[i] /= matrix[i, i]
    return True


@numba.njit(cache=True, nogil=True)
def _penalty(theta: F64, centre: F64, precision: float) -> float:
    total = 0.0
    for each in range(theta.shape[0]):
        total += (theta[each] - centre[each]) ** 2
    return precision * total / 2.0


@numba.njit(cache=True, nogil=True)
def _binary_objective(
    features: F64, negatives: F64, positives: F64, theta: F64, centre: F64, precision: float
) -> float:
    total = -_penalty(theta, centre, precision)
    for place in range(features.shape[0]):
        if negatives[place] + positives[place] == 0.0:
            continue
        linear = 0.0
        for each in range(theta.shape[0]):
            linear += theta[each] * features[place, each]
        total += positives[place] * linear - (negatives[place] + positives[place]) * _soft_plus(linear)
    return total


@numba.njit(cache=True, nogil=True)
def _binary_slopes(
    features: F64,
    negatives: F64,
    positives: F64,
    theta: F64,
    centre: F64,
    precision: float,
    gradient: F64,
    information: F64,
) -> None:
    size = theta.shape[0]
    information[:] = 0.0
    for each in range(size):
        gradient[each] = precision * (centre[each] - theta[each])
        information[each, each] = precision
    for place in range(features.shape[0]):
        n = negatives[place] + positives[place]
        if n == 0.0:
            continue
        linear = 0.0
        for each in range(size):
            linear += theta[each] * features[place, each]
        p = _logistic(linear)
        residual, weight = positives[place] - n * p, n * p * (1.0 - p)
        for i in range(size):
            gradient[i] += residual * features[place, i]
            for j in range(i + 1):
                information[i, j] += weight * features[place, i] * features[place, j]


@numba.njit(cache=True, nogil=True)
def _reach(step: F64, theta: F64) -> float:
    reach = 0.0
    for each in range(theta.shape[0]):
        reach = max(reach, abs(step[each]) / (1.0 + abs(theta[each])))
    return reach


@numba.njit(cache=True, nogil=True)
def fit_binary(
    features: F64, negatives: F64, positives: F64, theta: F64, centre: F64, precision: float, work: F64
) -> bool:
    """Maximise sum_b pos_b log p_b + neg_b log(1 - p_b) - precision |theta - centre|² / 2, logit p = theta . features.

    Tells whether it has converged. Newton's method with halved steps. O(B D² rounds), four to eight rounds.

    Args:
        features: f64[B, D]; a column of ones makes an intercept.
        negatives: f64[B], the weight of events that are not of the class, in each bin.
        positives: f64[B], of those that are.
        theta: f64[D], begins at what it holds and becomes the maximum.
        centre: f64[D], the mean of the prior.
        precision: 1 / variance of the prior; 0 for none.
        work: f64[D + 2, D], overwritten.
    """
    gradient, trial, information = work[0], work[1], work[2:]
    before = _binary_objective(features, negatives, positives, theta, centre, precision)
    for _ in range(ROUNDS_MAX):
        _binary_slopes(features, negatives, positives, theta, centre, precision, gradient, information)
        if not solve_positive(information, gradient):
            return False
        reach = _reach(gradient, theta)
        if reach <= _LAST_STEP:
            # The next step would be of the order of this one squared.
            theta += gradient
            return True
        size, after = 1.0, before
        for _ in range(HALVINGS_MAX):
            for each in range(theta.shape[0]):
                trial[each] = theta[each] + size * gradient[each]
            after = _binary_objective(features, negatives, positives, trial, centre, precision)
            # Near the top the objective is flat to the last bit, and a whole step is right.
            if after >= before or reach <= _NEAR:
                break
            size /= 2.0
        theta[:] = trial
        before = after
    return False


@numba.njit(cache=True, nogil=True)
def scaled_softmax(logits: F64, theta: F64, shared: bool, p: F64) -> float:  # noqa: FBT001 - which of two models
    """Put softmax(w_k logits_k + b_k) into `p`; return the log of the normaliser. O(K).

    `theta` holds w (K), b (K); with one shared scale it holds w alone, f64[1], and there is no b.
    """
    classes = logits.shape[0]
    top = -math.inf
    for each in range(classes):
        scaled = theta[0] * logits[each] if shared else theta[each] * logits[each] + theta[classes + each]
        p[each] = scaled
        top = max(top, scaled)
    total = 0.0
    for each in range(classes):
        p[each] = math.exp(p[each] - top)
        total += p[each]
    for each in range(classes):
        p[each] /= total
    return top + math.log(total)


@numba.njit(cache=True, nogil=True)
def _classes_objective(
    logits: F64,
    labels: I64,
    theta: F64,
    centre: F64,
    precision: float,
    shared: bool,  # noqa: FBT001 - which of two models
    p: F64,
) -> float:
    total, classes = -_penalty(theta, centre, precision), logits.shape[1]
    for row in range(logits.shape[0]):
        label = labels[row]
        log_sum = scaled_softmax(logits[row], theta, shared, p)
        at_label = (
            theta[0] * logits[row, label] if shared else theta[label] * logits[row, label] + theta[classes + label]
        )
        total += at_label - log_sum
    return total


@numba.njit(cache=True, nogil=True)
def _classes_slopes(
    logits: F64,
    labels: I64,
    theta: F64,
    centre: F64,
    precision: float,
    shared: bool,  # noqa: FBT001 - which of two models
    p: F64,
    gradient: F64,
    information: F64,
) -> None:
    size, classes = theta.shape[0], logits.shape[1]
    information[:] = 0.0
    for each in range(size):
        gradient[each] = precision * (centre[each] - theta[each])
        information[each, each] = precision
    for row in range(logits.shape[0]):
        scaled_softmax(logits[row], theta, shared, p)
        label = labels[row]
        if shared:
            mean, square = 0.0, 0.0
            for each in range(classes):
                mean += p[each] * logits[row, each]
                square += p[each] * logits[row, each] ** 2
            gradient[0] += logits[row, label] - mean
            information[0, 0] += square - mean * mean
            continue
        for i in range(classes):
            residual = (1.0 if i == label else 0.0) - p[i]
            x = logits[row, i]
            gradient[i] += residual * x
            gradient[classes + i] += residual
            for j in range(i + 1):
                weight = (p[i] if i == j else 0.0) - p[i] * p[j]
                information[i, j] += weight * x * logits[row, j]
                information[classes + i, classes + j] += weight
                information[classes + i, j] += weight * logits[row, j]
                if i != j:
                    information[classes + j, i] += weight * x


@numba.njit(cache=True, nogil=True)
def fit_classes(
    logits: F64,
    labels: I64,
    theta: F64,
    centre: F64,
    precision: float,
    shared: bool,  # noqa: FBT001 - which of two models
    work: F64,
) -> bool:
    """Fit softmax(w_k logits_k + b_k): vector scaling, or temperature scaling where one w is shared (Guo et al. 2017).

    Maximises the log likelihood less precision |theta - centre|² / 2, as `fit_binary`. O(N K² rounds).

    Args:
        logits: f64[N, K], logarithms of probabilities.
        labels: i64[N], classes 0 .. K - 1.
        theta: f64[2 K] (w, b), or f64[1] (w) if `shared`; begins at what it holds.
        centre: as `theta`: the mean of the prior.
        precision: above 0, as adding the same to each b changes nothing; may be 0 if `shared`.
        shared: whether there is one scale and no offset.
        work: f64[D + 3, max(D, K)] for D parameters, overwritten.
    """
    size = theta.shape[0]
    gradient, trial, p, information = work[0, :size], work[1, :size], work[2, : logits.shape[1]], work[3:, :size]
    before = _classes_objective(logits, labels, theta, centre, precision, shared, p)
    for _ in range(ROUNDS_MAX):
        _classes_slopes(logits, labels, theta, centre, precision, shared, p, gradient, information)
        if not solve_positive(information, gradient):
            return False
        reach = _reach(gradient, theta)
        if reach <= _LAST_STEP:
            # The next step would be of the order of this one squared.
            theta += gradient
            return True
        step, after = 1.0, before
        for _ in range(HALVINGS_MAX):
            for each in range(size):
                trial[each] = theta[each] + step * gradient[each]
            after = _classes_objective(logits, labels, trial, centre, precision, shared, p)
            if after >= before or reach <= _NEAR:
                break
            step /= 2.0
        theta[:] = trial
        before = after
    return False
