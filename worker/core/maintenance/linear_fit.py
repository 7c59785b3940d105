"""Lets scikit-learn fit a linear challenger. Nothing that scores events imports this: it takes seconds to load."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge

from worker.core.kernels.arrays import F64
from worker.core.maintenance.challengers import LabelledRows
from worker.core.maintenance.fitting import CheckedRows, checked, one_thread
from worker.core.maintenance.linear_arrays import STANDARDISED_MAX, LinearArrays
from worker.core.options.maintenance import LinearOptions

FEATURES_MAX = 2_000
"""Ridge regression solves a system of so many equations: 32 MB."""
_CELL_MAX = 1e100
_SPREAD_MIN = 1e-12
"""A standard deviation below this share of the mean is rounding: the feature is constant."""
_SMALLEST = 1e-100


def fit_linear(labelled: LabelledRows, options: LinearOptions) -> LinearArrays:
    """Fit scikit-learn's Ridge (regression) or LogisticRegression on standardised rows; missing values are the mean.

    Equal arguments give equal bytes, on any number of cores. With labels of a single class all coefficients are 0.
    A fit that has not converged after `iterations_max` is taken as it is. Raises ValueError beyond the limits.
    """
    fitted_on = checked(labelled, features_max=FEATURES_MAX, cell_max=_CELL_MAX)
    with one_thread():
        mean, scale = _centre_and_spread(fitted_on)
        table = np.clip((fitted_on.rows - mean) / scale, -STANDARDISED_MAX, STANDARDISED_MAX)
        coefficients, intercept = _solve(np.nan_to_num(table), fitted_on, options)
    return LinearArrays(fitted_on.target, mean, scale, coefficients, intercept)


def _centre_and_spread(fitted_on: CheckedRows) -> tuple[F64, F64]:
    """Return the weighted mean and standard deviation of what is there of each column."""
    is_there = ~np.isnan(fitted_on.rows)
    weights = np.ones(len(fitted_on.rows)) if fitted_on.weights is None else fitted_on.weights
    weight = is_there * weights[:, np.newaxis]
    total = np.maximum(weight.sum(axis=0), _SMALLEST)
    mean = (weight * np.where(is_there, fitted_on.rows, 0.0)).sum(axis=0) / total
    centred = np.where(is_there, fitted_on.rows - mean, 0.0)
    spread = np.sqrt((weight * centred**2).sum(axis=0) / total)
    is_constant = spread <= np.maximum(_SPREAD_MIN * np.abs(mean), _SMALLEST)
    return mean, np.where(is_constant, 1.0, spread)


def _solve(table: F64, fitted_on: CheckedRows, options: LinearOptions) -> tuple[F64, F64]:
    """Return the coefficients [n_raw, d] and intercepts [n_raw]."""
    target, weights = fitted_on.target, fitted_on.weights
    if len(target.classes) == 1:
        return np.zeros((1, table.shape[1])), np.zeros(1)
    if not target.classes:
        ridge = Ridge(alpha=options.penalty, solver="cholesky").fit(table, fitted_on.targets, sample_weight=weights)
        return np.atleast_2d(ridge.coef_), np.atleast_1d(ridge.intercept_)
    model = LogisticRegression(C=1.0 / options.penalty, max_iter=options.iterations_max)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(table, fitted_on.targets, sample_weight=weights)
    return np.ascontiguousarray(model.coef_), np.ascontiguousarray(model.intercept_)
