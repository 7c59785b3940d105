"""Lets scikit-learn fit a one-class SVM and flattens it. Nothing that scores events imports this: it takes seconds."""

import numpy as np
from sklearn.svm import OneClassSVM

from worker.core.detectors.svm_arrays import FEATURES_MAX, GAMMA_MAX, LARGEST, VECTORS_MAX, SvmArrays
from worker.core.kernels.arrays import F32, F64

_VARIANCE_MIN = 1e-6
"""Equal rows have no variance: the kernel is then as narrow as this."""


def fit_svm(rows: F32 | F64, *, nu: float, gamma_factor: float) -> SvmArrays:
    """Fit scikit-learn's OneClassSVM with a Gaussian kernel on scaled rows [n, d] (none missing).

    gamma is gamma_factor / (d x the variance of all values), like scikit-learn's `scale` at a factor of 1. Equal
    arguments give equal models. Raises ValueError beyond the limits of this module.
    """
    n_rows, n_features = rows.shape
    if not (1 <= n_rows <= VECTORS_MAX and 1 <= n_features <= FEATURES_MAX):
        raise ValueError(f"an SVM has 1 to {VECTORS_MAX} rows of 1 to {FEATURES_MAX} columns, got {rows.shape}")
    if not (np.abs(rows) <= LARGEST).all():
        raise ValueError(f"an SVM needs scaled rows without missing values, none beyond {LARGEST:g}")
    table = np.ascontiguousarray(rows, dtype=np.float64)
    gamma = min(gamma_factor / (n_features * max(float(table.var()), _VARIANCE_MIN)), GAMMA_MAX)
    model = OneClassSVM(nu=nu, gamma=gamma).fit(table)
    return SvmArrays(
        vectors=np.ascontiguousarray(model.support_vectors_.T),
        coefficients=np.clip(model.dual_coef_[0], 0.0, 1.0),
        offset=float(model.offset_[0]),
        gamma=gamma,
    )
