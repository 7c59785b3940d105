"""The latest labelled rows of a model: what it said, what came true, in which segment, at which offset."""

import numpy as np

from worker.core.kernels import recalibration as k
from worker.core.kernels.arrays import F64, I64
from worker.core.maintenance.recalibration_fits import Rows, labelled_bins
from worker.core.state import COUNT_MAX, AnyArray, Arrays, check_like, fill, outside, refuse_if

_STORED = "stored labelled rows"


class LabelledRows:
    """A ring of the last `rows_max` rows of `outputs` numbers each.

    Of probabilities of one class (`has_bins`) the bins of scores are kept beside, for they are asked for again and
    again; they follow from the rows and are no state.
    """

    def __init__(self, rows_max: int, outputs: int, *, has_bins: bool) -> None:
        self._bins: I64 = np.zeros(rows_max if has_bins else 0, dtype=np.int64)
        self._outputs: F64 = np.zeros((rows_max, outputs))
        self._targets: F64 = np.zeros(rows_max)
        self._segments: I64 = np.full(rows_max, -1, dtype=np.int64)
        self._offsets: I64 = np.zeros(rows_max, dtype=np.int64)
        self._seen: I64 = np.zeros(1, dtype=np.int64)

    @property
    def seen(self) -> int:
        """Rows so far."""
        return int(self._seen[0])

    def add(self, outputs: F64, targets: F64, segments: I64, offsets: I64) -> None:
        """Keep rows, the oldest ones give way."""
        size = len(self._targets)
        kept = min(len(targets), size)
        places = (self.seen + len(targets) - kept + np.arange(kept)) % size
        for mine, new in (
            (self._outputs, outputs),
            (self._targets, targets),
            (self._segments, segments),
            (self._offsets, offsets),
        ):
            mine[places] = new[len(targets) - kept :]
        if len(self._bins):
            self._bins[places] = labelled_bins(outputs[len(targets) - kept :, 0], targets[len(targets) - kept :])
        self._seen[0] += len(targets)

    def latest(self, window: int) -> Rows:
        """Return copies of the latest `window` rows or as many as there are, oldest first."""
        places = self._places(window)
        return Rows(self._outputs[places], self._targets[places], self._segments[places])

    def forget_segment(self, segment: int) -> None:
        """Rows of a segment are of none from now on."""
        self._segments[self._segments == segment] = -1

    def bins(self, window: int) -> I64:
        """Return `labelled_bins` of the latest `window` rows, oldest first."""
        return self._bins[self._places(window)]

    def offsets(self, window: int) -> tuple[int, int]:
        """Return the lowest and the highest offset of the latest `window` rows, of which there is one at least."""
        offsets = self._offsets[self._places(window)]
        return int(offsets.min()), int(offsets.max())

    def _places(self, window: int) -> I64:
        size = len(self._targets)
        kept = min(window, size, self.seen)
        places: I64 = (self.seen - kept + np.arange(kept)) % size
        return places

    # Storing and restoring.

    def live(self) -> dict[str, AnyArray]:
        """Return the live arrays."""
        return {
            "outputs": self._outputs,
            "targets": self._targets,
            "segments": self._segments,
            "offsets": self._offsets,
            "seen": self._seen,
        }

    def check(self, arrays: Arrays, task: int, outputs: int, segments_max: int) -> None:
        """Refuse what kernels would read out of bounds with, or would make NaN of; ValueError."""
        check_like(_STORED, arrays, self.live())
        targets, last = arrays["targets"], max(outputs - 1, 1)
        refuse_if(
            _STORED,
            {
                "an output is not finite": not np.isfinite(arrays["outputs"]).all(),
                "a probability is out of range": task != k.NUMBER and outside(arrays["outputs"], 0.0, 1.0),
                "a target is not finite": not np.isfinite(targets).all(),
                "a class does not exist": task != k.NUMBER
                and (outside(targets, 0, last) or bool((targets != np.floor(targets)).any())),
                "a segment does not exist": outside(arrays["segments"], -1, segments_max - 1),
                "an offset is out of range": outside(arrays["offsets"], -1, COUNT_MAX),
                "the count is out of range": outside(arrays["seen"], 0, COUNT_MAX),
            },
        )

    def restore(self, arrays: Arrays) -> None:
        """Take over copies of what `check` has passed."""
        fill(self.live(), arrays)
        if len(self._bins):
            self._bins[:] = labelled_bins(self._outputs[:, 0], self._targets)
