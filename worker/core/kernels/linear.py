"""Linear outputs of rows with missing values: the same bits however the rows are cut into batches."""

import math

import numba

from worker.core.kernels.arrays import F64


@numba.njit(cache=True, nogil=True)
def raw_outputs(rows: F64, mean: F64, scale: F64, limit: float, coefficients: F64, intercept: F64, raw: F64) -> None:
    """Write intercept + sum of coefficient x standardised value to `raw` f64[n, k]. O(n d k).

    A value is (value - mean) / scale, cut to [-limit, limit]; a missing one (NaN) is the mean and adds nothing. Terms
    are added feature by feature, not by a matrix product, whose order depends on the shape.

    Args:
        rows: f64[n, d].
        mean: f64[d].
        scale: f64[d], positive.
        limit: how far a standardised value goes at most.
        coefficients: f64[k, d].
        intercept: f64[k].
        raw: f64[n, k], filled in.
    """
    n_outputs, n_features = coefficients.shape
    for i in range(rows.shape[0]):
        for output in range(n_outputs):
            raw[i, output] = intercept[output]
        for j in range(n_features):
            value = rows[i, j]
            if math.isnan(value):
                continue
            value = min(max((value - mean[j]) / scale[j], -limit), limit)
            for output in range(n_outputs):
                raw[i, output] += coefficients[output, j] * value
