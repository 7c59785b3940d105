"""Options of challengers, and the requests that determine them: equal requests give equal models, anywhere."""

from typing import NamedTuple, Protocol, Self, TypeAlias, TypeVar

import msgspec
import numpy as np
from msgspec import Struct

from worker.core.detectors.refit import FittedHere, FitTicket, RefitPool
from worker.core.kernels.arrays import F32, F64
from worker.core.maintenance.boosted_arrays import BoostedArrays
from worker.core.maintenance.linear_arrays import LinearArrays
from worker.core.options.maintenance import BoostedOptions, LinearOptions

ROWS_MAX = 100_000


class LabelledRows(NamedTuple):
    """What a challenger is fitted on."""

    rows: F32 | F64
    """[n, d] cells, NaN = missing."""
    targets: F64
    """[n] numbers, or codes 0, 1, ... of classes."""
    n_classes: int
    """How many classes are declared; 0 for regression."""
    weights: F64 | None = None
    """[n] positive weights of rows; None: all equal."""


class StoredRows(Struct, array_like=True, frozen=True):
    """Labelled rows as they cross to another process: little-endian, row by row, of the type that they have."""

    dtype: str
    features: int
    rows: bytes
    targets: bytes
    n_classes: int
    weights: bytes | None

    @classmethod
    def of(cls, labelled: LabelledRows) -> Self:
        """Return labelled rows as bytes."""
        dtype = "<f4" if labelled.rows.dtype == np.float32 else "<f8"
        weights = labelled.weights
        return cls(
            dtype,
            labelled.rows.shape[1],
            labelled.rows.astype(dtype, copy=False).tobytes(),
            labelled.targets.astype("<f8", copy=False).tobytes(),
            labelled.n_classes,
            None if weights is None else weights.astype("<f8", copy=False).tobytes(),
        )

    def labelled(self) -> LabelledRows:
        """Undo `of`."""
        rows = np.frombuffer(self.rows, dtype=self.dtype).reshape(-1, self.features)
        weights = None if self.weights is None else np.frombuffer(self.weights, dtype="<f8")
        return LabelledRows(rows, np.frombuffer(self.targets, dtype="<f8"), self.n_classes, weights)


class BoostedRequest(NamedTuple):
    """A fit of boosted trees."""

    labelled: LabelledRows
    options: BoostedOptions
    seed: int

    @property
    def kind(self) -> str:
        """Name among requests for fits."""
        return "boosted"

    def fit(self) -> "ChallengerModel":
        """Fit, here and now. Raises ValueError beyond the limits."""
        # scikit-learn takes more than a second to load, and nothing that scores events needs it.
        from worker.core.maintenance.boosted_fit import fit_challenger  # noqa: PLC0415 (see above)

        return fit_challenger(self)

    def to_bytes(self) -> bytes:
        """Return the request as it crosses to another process."""
        return msgspec.msgpack.encode(_Boosted(StoredRows.of(self.labelled), self.options, self.seed))

    @classmethod
    def from_bytes(cls, payload: bytes) -> Self:
        """Undo `to_bytes`."""
        stored = msgspec.msgpack.decode(payload, type=_Boosted)
        return cls(stored.labelled.labelled(), stored.options, stored.seed)

    @staticmethod
    def fitted_from(reply: bytes) -> "ChallengerModel":
        """Return the model that its `to_bytes` stored."""
        return BoostedArrays.from_bytes(reply)


class LinearRequest(NamedTuple):
    """A fit of a linear model; there is no chance in it."""

    labelled: LabelledRows
    options: LinearOptions

    @property
    def kind(self) -> str:
        """Name among requests for fits."""
        return "linear"

    def fit(self) -> "ChallengerModel":
        """Fit, here and now. Raises ValueError beyond the limits."""
        from worker.core.maintenance.boosted_fit import fit_challenger  # noqa: PLC0415 (as for boosted trees)

        return fit_challenger(self)

    def to_bytes(self) -> bytes:
        """Return the request as it crosses to another process."""
        return msgspec.msgpack.encode(_Linear(StoredRows.of(self.labelled), self.options))

    @classmethod
    def from_bytes(cls, payload: bytes) -> Self:
        """Undo `to_bytes`."""
        stored = msgspec.msgpack.decode(payload, type=_Linear)
        return cls(stored.labelled.labelled(), stored.options)

    @staticmethod
    def fitted_from(reply: bytes) -> "ChallengerModel":
        """Return the model that its `to_bytes` stored."""
        return LinearArrays.from_bytes(reply)


ChallengerRequest: TypeAlias = BoostedRequest | LinearRequest
ChallengerModel: TypeAlias = BoostedArrays | LinearArrays
ChallengerTicket: TypeAlias = FitTicket[ChallengerModel]

_Fitted = TypeVar("_Fitted")
_Fitted_co = TypeVar("_Fitted_co", covariant=True)


class FitRequest(FittedHere[_Fitted_co], Protocol[_Fitted_co]):
    """What a pool fits for challengers: a model (`ChallengerRequest`) or options (`HalvingRequest`)."""

    @property
    def kind(self) -> str:
        """Name among requests for fits."""
        ...

    @property
    def labelled(self) -> LabelledRows:
        """What is fitted on."""
        ...

    def to_bytes(self) -> bytes:
        """Return the request as it crosses to another process."""
        ...

    def fitted_from(self, reply: bytes, /) -> _Fitted_co:
        """Return what was fitted elsewhere, from its bytes."""
        ...


class ChallengerPool(RefitPool, Protocol):
    """Takes the fits of detectors and of challengers off the path of events."""

    def fit_challenger(self, request: FitRequest[_Fitted]) -> FitTicket[_Fitted]:
        """Start a fit; never waits. The ticket's `result` raises ValueError for a request beyond the limits."""
        ...


class _Boosted(Struct, array_like=True, frozen=True):
    labelled: StoredRows
    options: BoostedOptions
    seed: int


class _Linear(Struct, array_like=True, frozen=True):
    labelled: StoredRows
    options: LinearOptions
