"""What the core asks for when a model is due for a refit; the fit itself happens elsewhere.

A refit is requested when a monitor has seen exactly N events and taken over when it has seen exactly N + K: both
are functions of the stream, so the moment when the fit happens to be done changes nothing (law 2). A monitor that
reaches N + K first waits for the result.
"""

from typing import NamedTuple, Protocol, TypeAlias, TypeVar

from worker.core.detectors.isolation_forest import ForestArrays
from worker.core.detectors.svm_arrays import SvmArrays
from worker.core.kernels.arrays import F32


class ForestRequest(NamedTuple):
    """Rows (n x d, NaN = missing) and parameters of one isolation forest; equal requests give equal forests."""

    rows: F32
    trees: int
    sample_rows: int
    seed: int


class SvmRequest(NamedTuple):
    """Scaled rows (n x d, none missing) and parameters of one one-class SVM; equal requests give equal models."""

    rows: F32
    nu: float
    gamma_factor: float


RefitRequest: TypeAlias = ForestRequest | SvmRequest
FittedModel: TypeAlias = ForestArrays | SvmArrays


_Fitted_co = TypeVar("_Fitted_co", covariant=True)


class FitTicket(Protocol[_Fitted_co]):
    """A fit under way."""

    def result(self) -> _Fitted_co:
        """Return what was fitted, of the kind that was requested, waiting for it if need be."""
        ...


RefitTicket: TypeAlias = FitTicket[FittedModel]


class FittedHere(Protocol[_Fitted_co]):
    """A request that can be answered in place: those of challengers, of which a detector knows nothing."""

    def fit(self) -> _Fitted_co:
        """Fit, here and now."""
        ...


class RefitPool(Protocol):
    """Takes fits off the path of events."""

    def submit(self, request: RefitRequest) -> RefitTicket:
        """Start a fit; never waits."""
        ...
