"""What every detector is: one Protocol, so that a monitor treats them alike and one list of laws tests them all."""

from typing import ClassVar, NamedTuple, Protocol

from worker.core.kernels.arrays import F64
from worker.core.state import Arrays

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
    give equal bits however they are cut into calls; a restored detector goes on with equal bits; memory is bounded.

    State has two parts, so that a snapshot need not hold again what seldom changes: `live` changes with every row,
    `fitted` with `fit` and `cross` alone. Both return the live arrays, not copies: between two refits, a detector whose
    `live` arrays are filled with what they held before is the detector that it was then.
    """

    name: ClassVar[str]

    @property
    def taken_over(self) -> int:
        """How many refitted models have been taken over: `fitted` changes with it."""
        ...

    def fit(self, warmup_rows: F64) -> None:
        """Take from the rows of the warm-up what stays; they are learned by `score_and_learn` like all others."""
        ...

    def score_and_learn(self, rows: F64) -> F64:
        """Score each row by what was learned before it, then learn it. Higher is more anomalous."""
        ...

    def score(self, rows: F64) -> F64:
        """Score rows as `score_and_learn` would score each of them if it came next, and learn nothing."""
        ...

    def steady(self, rows: int) -> bool:
        """Return whether `score` is sure to say the same now and after any part of so many next rows (no barrier)."""
        ...

    def barrier(self) -> int:
        """Return the count of learned rows at which `cross` must be called before the next row; NEVER if none."""
        ...

    def cross(self) -> RefitNote | None:
        """Do what is due at the barrier."""
        ...

    def live(self) -> Arrays:
        """Return what changes with every row."""
        ...

    def fitted(self) -> Arrays:
        """Return what seldom changes."""
        ...

    def restore(self, seen: int, live: Arrays, fitted: Arrays) -> None:
        """Become, from new, the detector of equal options that had learned `seen` rows and gave these arrays.

        Copies them. Raises ValueError, with the reason, if they cannot be that; the detector is of no use then.
        """
        ...
