"""What the core asks for when a forest is due for a refit; the fit itself happens elsewhere.

A refit is requested when a monitor has seen exactly N events and taken over when it has seen exactly N + K: both
are functions of the stream, so the moment when the fit happens to be done changes nothing (law 2). A monitor that
reaches N + K first waits for the result.
"""

from typing import NamedTuple, Protocol

from worker.core.detectors.isolation_forest import ForestArrays, fit_forest
from worker.core.kernels.arrays import F32


class RefitRequest(NamedTuple):
    """Rows (n x d, NaN = missing) and parameters of one isolation forest; equal requests give equal forests."""

    rows: F32
    trees: int
    sample_rows: int
    seed: int


class RefitTicket(Protocol):
    """A fit under way."""

    def result(self) -> ForestArrays:
        """Return the fitted forest, waiting for it if need be."""
        ...


class RefitPool(Protocol):
    """Takes fits off the path of events."""

    def submit(self, request: RefitRequest) -> RefitTicket:
        """Start a fit; never waits."""
        ...


class ForestInHand:
    """A ticket whose forest is there already."""

    __slots__ = ("_forest",)

    def __init__(self, forest: ForestArrays) -> None:
        self._forest = forest

    def result(self) -> ForestArrays:
        """Return the forest."""
        return self._forest


class InlineRefits:
    """Fits at once in the calling thread: for replay, tests and the oracle. Gives the same bytes as any pool."""

    def submit(self, request: RefitRequest) -> ForestInHand:
        """Fit now."""
        return ForestInHand(fit_request(request))


def fit_request(request: RefitRequest) -> ForestArrays:
    """Fit the forest that a request describes."""
    return fit_forest(request.rows, n_trees=request.trees, sample_size=request.sample_rows, seed=request.seed)
