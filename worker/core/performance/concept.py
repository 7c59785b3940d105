"""Concept drift: a change of the model's error that a drift detector finds, made into at most one alert at a time.

The detectors alarm at any change, a recovery too, and again and again. An alert needs a rise of the mean error by
`effect_min` at least, and nothing is heard for `rest_labels` after an alarm. It is over when the mean error of
`support_min` labels in a row (a chunk) is back under the middle of before and after; each chunk before that is told.
"""

from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple

import numpy as np
from msgspec import Meta, Struct, structs

from worker.core.kernels.arrays import F64, I64
from worker.core.options import ConceptDriftOptions
from worker.core.performance.drift import ConceptDrift
from worker.core.state import COUNT_MAX, AnyArray, Arrays

_Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
_Mean = Annotated[float, Meta(ge=0.0, le=1.0)]


class OpenDrift(Struct, frozen=True, forbid_unknown_fields=True):
    """An open alarm: mean errors before and after, and when and where it was found."""

    before: _Mean
    after: _Mean
    opened_ms: _Count
    opened_offset: Annotated[int, Meta(ge=-1, le=COUNT_MAX)]
    """Of the prediction that made it known."""
    settled: bool = False
    """Whether `after` was measured over a whole chunk; what the detector saw may have been a few labels."""


class StoredConcept(Struct, frozen=True, forbid_unknown_fields=True):
    """The plain part of the state."""

    rest: _Count
    fill: _Count
    total: Annotated[float, Meta(ge=0.0, le=float(COUNT_MAX))]
    open: OpenDrift | None


class DriftStep(NamedTuple):
    """An alarm that is worth telling, that it stands, or its end; `now` is the mean error of the latest labels."""

    row: int
    status: Literal["opened", "updated", "resolved"]
    drift: OpenDrift
    now: float


class ConceptWatch:
    """Feeds the errors of a model, in the order in which labels came, to a detector."""

    def __init__(self, options: ConceptDriftOptions, chunk_labels: int) -> None:
        self._options = options
        self._chunk_labels = chunk_labels
        self._detector = None if options.detector == "off" else ConceptDrift(options.detector)
        self._rest = 0
        self._fill = 0
        self._total = 0.0
        self.open: OpenDrift | None = None

    def process(self, errors: F64, times_ms: I64, offsets: I64) -> Iterator[DriftStep]:
        """Take in errors (n, in [0, 1]), with when each was known and its prediction's offset; yield the steps."""
        if self._detector is None:
            return
        begin = 0
        while begin < len(errors):
            end = min(len(errors), begin + self._chunk_labels - self._fill)
            row = self._detector.update(errors[:end], begin)
            stop = min(row + 1, end)
            self._count(errors[begin:stop])
            if row < end:
                step = self._alarm(row, int(times_ms[row]), int(offsets[row]))
                if step is not None:
                    yield step
            if self._fill == self._chunk_labels:
                mean, self._fill, self._total = self._total / self._fill, 0, 0.0
                if self.open is not None:
                    yield self._judge_chunk(self.open, stop - 1, mean)
            begin = stop

    def _judge_chunk(self, drift: OpenDrift, row: int, mean: float) -> DriftStep:
        """Judge a chunk of labels after an alarm. The first one tells how large the error has become."""
        limit = (drift.before + drift.after) / 2.0 if drift.settled else drift.before + self._options.effect_min / 2.0
        if mean <= limit:
            self.open = None
            return DriftStep(row, "resolved", drift, mean)
        if not drift.settled:
            self.open = drift = structs.replace(drift, after=min(mean, 1.0), settled=True)
        return DriftStep(row, "updated", drift, mean)

    def _count(self, errors: F64) -> None:
        # One after the other, so that how the stream is cut changes no bit.
        self._total = float(np.cumsum(np.concatenate([[self._total], errors]))[-1])
        self._fill += len(errors)
        self._rest = max(self._rest - len(errors), 0)

    def _alarm(self, row: int, now_ms: int, offset: int) -> DriftStep | None:
        if self._detector is None or self._rest > 0 or self.open is not None:
            return None
        before, after = self._detector.before_after()
        if not after - before >= self._options.effect_min:
            return None
        self._rest = self._options.rest_labels
        # What came before the alarm says nothing of its end.
        self._fill, self._total = 0, 0.0
        self.open = OpenDrift(before, after, now_ms, offset)
        return DriftStep(row, "opened", self.open, after)

    # Storing and restoring.

    def plain(self) -> StoredConcept:
        """Return the plain part of the state."""
        return StoredConcept(self._rest, self._fill, self._total, self.open)

    def arrays(self) -> dict[str, AnyArray]:
        """Return the arrays of the detector."""
        return {} if self._detector is None else self._detector.state()

    def restore(self, plain: StoredConcept, arrays: Arrays) -> None:
        """Take over what `plain` and `arrays` gave; ValueError for what cannot be."""
        if self._detector is not None:
            self._detector.restore(arrays)
        elif arrays:
            raise ValueError("stored drift detector: there is none here")
        if plain.fill >= self._chunk_labels:
            raise ValueError("stored drift detector: its chunk is too full")
        self._rest, self._fill, self._total, self.open = plain.rest, plain.fill, plain.total, plain.open
