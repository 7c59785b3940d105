"""What every detector is: one Protocol, so that a monitor treats them alike and one list of laws tests them all."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from worker.core.kernels.arrays import F64

StateArrays = Mapping[str, np.ndarray[Any, np.dtype[Any]]]
"""Named arrays that hold all of an object's mutable state: what a snapshot stores and a digest covers."""

NEVER = 2**62
"""A barrier that no stream reaches."""


class RefitNote(NamedTuple):
    """A detector has taken over a refitted model."""

    detector: str
    refit: int
    rows: int


class Detector(Protocol):
    """Scores one event against what it has learned. Rows are n x features; NaN is a missing value.

    Laws (tests/laws/test_detectors.py): a row is scored before it is learned; "not enough data" is NaN; equal rows
    give equal bits however they are cut into calls; memory is bounded.
    """

    name: ClassVar[str]

    def score_and_learn(self, rows: F64) -> F64:
        """Score each row by what was learned before it, then learn it. Higher is more anomalous."""
        ...

    def barrier(self) -> int:
        """Return the count of learned rows at which `cross` must be called before the next row; NEVER if none."""
        ...

    def cross(self) -> RefitNote | None:
        """Do what is due at the barrier."""
        ...

    def state(self) -> StateArrays:
        """Return the arrays that a snapshot holds; they are the live ones, not copies."""
        ...
