"""A one-class SVM as flat arrays, decided by a compiled kernel, stored as checked bytes. `svm_fit.py` fits it."""

from dataclasses import dataclass, field
from typing import Annotated, Self

import msgspec
import numpy as np

from worker.core.kernels import svm
from worker.core.kernels.arrays import F64
from worker.core.state import outside, refuse_if

VECTORS_MAX = 2_000
FEATURES_MAX = 10_000
LARGEST = 1e6
"""No coordinate of a support vector lies beyond: scaled rows are far below (`kernels/scale.py`)."""
GAMMA_MAX = 1e12
DENSITY_MIN = 1e-12
"""Densities below are told apart by no score; the logarithm of 0 is none."""

_STORED = "one-class SVM bytes"


@dataclass(frozen=True, slots=True, eq=False)
class SvmArrays:
    """m support vectors of d features. Build one by `fit_svm` or `from_bytes`, which check what is assumed here."""

    vectors: F64
    """[d, m] one support vector in each column."""
    coefficients: F64
    """[m] in [0, 1]; one at least is positive."""
    offset: float
    gamma: float
    _padded_vectors: F64 = field(init=False, repr=False)
    _padded_coefficients: F64 = field(init=False, repr=False)
    _total: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        missing = -len(self.coefficients) % svm.LANES
        object.__setattr__(self, "_padded_vectors", np.pad(self.vectors, ((0, 0), (0, missing))))
        object.__setattr__(self, "_padded_coefficients", np.pad(self.coefficients, (0, missing)))
        object.__setattr__(self, "_total", float(np.sum(self.coefficients)))

    @property
    def n_features(self) -> int:
        """Number of columns of a row."""
        return len(self.vectors)

    def decision(self, rows: F64) -> F64:
        """Return scikit-learn's decision function of scaled rows (n x d, none missing): negative is outside."""
        return self._densities(rows) - self.offset

    def log_density(self, rows: F64) -> F64:
        """Return the logarithm of the weighted mean of the kernels: what the decision rests on, in (-27.7, 0]."""
        densities = self._densities(rows)
        svm.logarithms(densities, self._total, DENSITY_MIN)
        return densities

    def _densities(self, rows: F64) -> F64:
        if rows.shape[1:] != (self.n_features,):
            raise ValueError(f"rows of shape {rows.shape} do not have {self.n_features} columns")
        sums = np.empty(len(rows))
        rows = np.ascontiguousarray(rows, dtype=np.float64)
        svm.densities(rows, self._padded_vectors, self._padded_coefficients, self.gamma, sums)
        return sums

    def to_bytes(self) -> bytes:
        """Return a msgpack record with the arrays as little-endian doubles."""
        vectors, coefficients = (each.astype("<f8").tobytes() for each in (self.vectors, self.coefficients))
        return msgspec.msgpack.encode(_Record(1, self.n_features, vectors, coefficients, self.offset, self.gamma))

    @classmethod
    def from_bytes(cls, payload: bytes) -> Self:
        """Return the model that `to_bytes` stored. Raises ValueError, with the reason, for anything else."""
        try:
            record = msgspec.msgpack.decode(payload, type=_Record)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{_STORED}: {error}") from None
        count, rest = divmod(len(record.coefficients), 8)
        is_wrong = rest or not 1 <= count <= VECTORS_MAX or len(record.vectors) != 8 * count * record.n_features
        refuse_if(_STORED, {"the arrays have wrong lengths": bool(is_wrong)})
        vectors = np.frombuffer(record.vectors, dtype="<f8").reshape(record.n_features, count)
        coefficients = np.frombuffer(record.coefficients, dtype="<f8")
        refuse_if(
            _STORED,
            {
                "a support vector is out of range": outside(vectors, -LARGEST, LARGEST),
                "a coefficient is out of range": outside(coefficients, 0.0, 1.0) or not coefficients.any(),
            },
        )
        return cls(vectors.astype(np.float64), coefficients.astype(np.float64), record.offset, record.gamma)


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    format: Annotated[int, msgspec.Meta(ge=1, le=1)]
    n_features: Annotated[int, msgspec.Meta(ge=1, le=FEATURES_MAX)]
    vectors: bytes
    coefficients: bytes
    offset: Annotated[float, msgspec.Meta(ge=-VECTORS_MAX, le=VECTORS_MAX)]
    gamma: Annotated[float, msgspec.Meta(ge=0.0, le=GAMMA_MAX)]
