"""A linear challenger (ridge, logistic or softmax regression) as flat arrays, stored as checked bytes.

`linear_fit.py` lets scikit-learn fit it.
"""

from dataclasses import dataclass
from typing import Annotated, Self

import msgspec
import numpy as np

from worker.core.kernels import linear
from worker.core.kernels.arrays import F32, F64
from worker.core.maintenance.target import Target
from worker.core.state import outside, refuse_if

FEATURES_MAX = 10_000
STANDARDISED_MAX = 10.0
"""Standardised values are cut here: one wild input does not throw the output anywhere, nor spoil the fit."""
SCALE_MIN, VALUE_MAX = 1e-150, 1e150
"""Bounds of what is stored: nothing that is computed from such numbers overflows."""

_STORED = "linear model's bytes"


@dataclass(frozen=True, slots=True, eq=False)
class LinearArrays:
    """Coefficients on standardised features; a missing value is the mean. Build one by `fit_linear` or `from_bytes`."""

    target: Target
    mean: F64
    """[d] means of the rows of the fit; 0 of a feature that was always missing."""
    scale: F64
    """[d] standard deviations of the rows of the fit, positive; 1 of a constant feature."""
    coefficients: F64
    """[n_raw, d] per standardised feature."""
    intercept: F64
    """[n_raw]"""

    @property
    def n_features(self) -> int:
        """Number of columns of a row."""
        return len(self.mean)

    @property
    def nbytes(self) -> int:
        """Memory of all arrays."""
        return self.mean.nbytes + self.scale.nbytes + self.coefficients.nbytes + self.intercept.nbytes

    def raw(self, rows: F64 | F32) -> F64:
        """Return the linear outputs [n, target.n_raw] of rows [n, n_features], NaN = missing."""
        if rows.shape[1:] != (self.n_features,):
            raise ValueError(f"rows of shape {rows.shape} do not have {self.n_features} columns")
        raw = np.empty((len(rows), self.target.n_raw))
        rows = np.ascontiguousarray(rows, dtype=np.float64)
        linear.raw_outputs(rows, self.mean, self.scale, STANDARDISED_MAX, self.coefficients, self.intercept, raw)
        return raw

    def predict(self, rows: F64 | F32) -> F64:
        """Return numbers [n, 1] or probabilities [n, target.n_classes] for rows [n, n_features], NaN = missing."""
        return self.target.outputs(self.raw(rows))

    def to_bytes(self) -> bytes:
        """Return a msgpack record with the arrays as little-endian doubles."""
        arrays = (self.mean, self.scale, self.coefficients, self.intercept)
        stored = [array.astype("<f8").tobytes() for array in arrays]
        return msgspec.msgpack.encode(_Record(1, self.n_features, self.target.n_classes, self.target.classes, *stored))

    @classmethod
    def from_bytes(cls, payload: bytes) -> Self:
        """Return the model that `to_bytes` stored. Raises ValueError, with the reason, for anything else."""
        try:
            record = msgspec.msgpack.decode(payload, type=_Record)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{_STORED}: {error}") from None
        target, d = Target(record.n_classes, record.classes), record.n_features
        stored = (record.mean, record.scale, record.coefficients, record.intercept)
        doubles = (d, d, d * target.n_raw, target.n_raw)
        is_wrong = any(len(part) != 8 * count for part, count in zip(stored, doubles, strict=True))
        refuse_if(_STORED, {"the arrays have wrong lengths": is_wrong})
        mean, scale, coefficients, intercept = (np.frombuffer(part, dtype="<f8").astype(np.float64) for part in stored)
        refuse_if(
            _STORED,
            {
                "a mean is out of range": outside(mean, -VALUE_MAX, VALUE_MAX),
                "a scale is out of range": outside(scale, SCALE_MIN, VALUE_MAX),
                "a coefficient is out of range": outside(coefficients, -VALUE_MAX, VALUE_MAX),
                "an intercept is out of range": outside(intercept, -VALUE_MAX, VALUE_MAX),
            },
        )
        return cls(target, mean, scale, coefficients.reshape(target.n_raw, d), intercept)


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    format: Annotated[int, msgspec.Meta(ge=1, le=1)]
    n_features: Annotated[int, msgspec.Meta(ge=1, le=FEATURES_MAX)]
    n_classes: int
    classes: tuple[int, ...]
    mean: bytes
    scale: bytes
    coefficients: bytes
    intercept: bytes
