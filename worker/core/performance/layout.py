"""Where the parts of a tally lie, for one task and number of classes; and tallies as figures for the formulas."""

from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np

from worker.core.kernels import tally as k
from worker.core.kernels.arrays import F64, I32, I64
from worker.core.kernels.exact_sum import exact_value
from worker.core.performance.classification import ClassificationFigures
from worker.core.performance.regression import RegressionFigures
from worker.core.performance.task import Task

_CLASSES_MIN, _BINARY_ROOM = 4, 3
"""Of two classes there can be a third code: `task.ANOTHER`."""
_Counts = TypeVar("_Counts", I32, I64)


@dataclass(frozen=True, slots=True)
class Layout:
    """Widths of a tally, and where each part begins (`at` i64[AT], see `kernels.tally`).

    A class more than there is room for doubles the room: the layout changes, and tallies move (`moved`).
    """

    counts: int
    sums: int
    lanes: int
    classes: int
    has_scores: bool
    at: I64 = field(compare=False)

    @classmethod
    def of(cls, task: Task, classes: int, *, has_scores: bool) -> "Layout":
        """Return the layout for a task with so many classes."""
        at = np.zeros(k.AT, dtype=np.int64)
        at[k.LABELLED], at[k.LAG] = 0, 1
        end = 1 + k.LAG_BUCKETS
        if task.is_regression:
            at[k.ERRORS], at[k.NON_ZERO] = end, end + k.ERROR_BUCKETS
            at[k.CLIPPED] = end + k.ERROR_BUCKETS + 1
            return cls(end + k.ERROR_BUCKETS + 2, k.NUMBER_SUMS, k.NUMBER_LANES, 0, has_scores=False, at=at)
        binary = task.name == "binary"
        room = _BINARY_ROOM if binary else max(_CLASSES_MIN, 1 << max(classes - 1, 0).bit_length())
        at[k.CLASSES], at[k.CONFUSION] = room, end
        end += (room + 1) ** 2
        if not has_scores:
            return cls(end, 0, k.CLASS_LANES, room, has_scores=False, at=at)
        at[k.SCORE_CLASSES] = 1 if binary else room
        at[k.SCORED], at[k.CALIBRATION] = end, end + 1
        at[k.SCORES] = end + 1 + 2 * k.CALIBRATION_BINS
        end = int(at[k.SCORES] + 2 * k.SCORE_BINS * at[k.SCORE_CLASSES])
        return cls(end, k.CLASS_SUMS, k.CLASS_LANES, room, has_scores=True, at=at)

    @property
    def matrix_begin(self) -> int:
        """Where the confusion matrix begins, in `counts`."""
        return int(self.at[k.CONFUSION])

    def moved(self, counts: _Counts, old: "Layout") -> _Counts:
        """Return counts [..., old.counts] of a layout with fewer classes, or without scores, in this one."""
        out = np.zeros((*counts.shape[:-1], self.counts), dtype=counts.dtype)
        lead = counts.shape[:-1]
        out[..., : old.at[k.CONFUSION]] = counts[..., : old.at[k.CONFUSION]]
        before = counts[..., old.at[k.CONFUSION] : old.at[k.CONFUSION] + (old.classes + 1) ** 2]
        inside = out[..., self.at[k.CONFUSION] : self.at[k.CONFUSION] + (self.classes + 1) ** 2]
        inside.reshape(*lead, self.classes + 1, self.classes + 1)[..., : old.classes + 1, : old.classes + 1] = (
            before.reshape(*lead, old.classes + 1, old.classes + 1)
        )
        if old.has_scores:
            length = old.counts - int(old.at[k.SCORED])
            out[..., self.at[k.SCORED] : self.at[k.SCORED] + length] = counts[..., old.at[k.SCORED] :]
            # What was scored before gave a new class no chance: probability 0, and it was not of the class.
            for code in range(int(old.at[k.SCORE_CLASSES]), int(self.at[k.SCORE_CLASSES])):
                out[..., self.at[k.SCORES] + 2 * k.SCORE_BINS * code] = counts[..., old.at[k.SCORED]]
        return out


class Tally(NamedTuple):
    """Tallies merged, maybe with weights: counts f64[C], sums f64[S], and the design factor of the weights."""

    counts: F64
    sums: F64
    design: float = 1.0


def exact_values(sums: I64) -> F64:
    """Return exact sums i64[S, L] as the nearest doubles."""
    return np.array([exact_value(lanes) for lanes in sums.tolist()], dtype=np.float64)


def labelled(tally: Tally) -> float:
    """Return the number of labelled events."""
    return float(tally.counts[k.LABELLED])


def lag_counts(tally: Tally) -> F64:
    """Return the histogram of lags."""
    return tally.counts[1 : 1 + k.LAG_BUCKETS]


def confusion(tally: Tally, layout: Layout) -> F64:
    """Return the confusion matrix ((room + 1) squared): a row for each class of labels, 0 is other.

    None of its cells is negative, unless stored state was tampered with; and then, too, there are formulas to come.
    """
    begin, width = layout.matrix_begin, layout.classes + 1
    return np.maximum(tally.counts[begin : begin + width * width], 0.0).reshape(width, width)


def score_counts(tally: Tally, layout: Layout, classes: int, positive: int | None) -> F64:
    """Return the histograms of scores f64[H, 2, B]; H = 0 without. A binary one becomes that of the positive class."""
    if not layout.has_scores:
        return np.zeros((0, 2, k.SCORE_BINS))
    kept = 1 if layout.at[k.SCORE_CLASSES] == 1 else classes
    begin = int(layout.at[k.SCORES])
    scores = tally.counts[begin : begin + 2 * k.SCORE_BINS * kept].reshape(kept, 2, k.SCORE_BINS)
    return scores[:, ::-1, ::-1] if kept == 1 and positive == 1 else scores


def classification_figures(
    tally: Tally, layout: Layout, classes: list[str], positive: int | None
) -> ClassificationFigures:
    """Return what the formulas of a classification take."""
    count, at = len(classes), layout.at
    matrix, scores = confusion(tally, layout)[: count + 1, : count + 1], score_counts(tally, layout, count, positive)
    if not layout.has_scores:
        bins = np.zeros((k.CALIBRATION_BINS, 2))
        return ClassificationFigures(
            classes, matrix, positive, 0.0, scores, bins, bins[:, 0], 0.0, 0.0, 0.0, 0.0, tally.design
        )
    begin = int(at[k.CALIBRATION])
    return ClassificationFigures(
        classes=classes,
        confusion=matrix,
        positive=positive,
        scored=float(tally.counts[at[k.SCORED]]),
        score_counts=scores,
        calibration_counts=tally.counts[begin : begin + 2 * k.CALIBRATION_BINS].reshape(k.CALIBRATION_BINS, 2),
        calibration_confidence=tally.sums[k.CONFIDENCE : k.CONFIDENCE + k.CALIBRATION_BINS],
        log_loss=float(tally.sums[k.LOG_LOSS]),
        log_loss_squares=float(tally.sums[k.LOG_LOSS_SQUARES]),
        brier=float(tally.sums[k.BRIER]),
        brier_squares=float(tally.sums[k.BRIER_SQUARES]),
        design=tally.design,
    )


def regression_figures(tally: Tally, layout: Layout, task: Task) -> RegressionFigures:
    """Return what the formulas of a regression take."""
    begin = int(layout.at[k.ERRORS])
    sums = tally.sums.tolist()
    return RegressionFigures(
        n=labelled(tally),
        center=task.center,
        unit=task.unit,
        error=sums[k.ERROR],
        absolute=sums[k.ABSOLUTE],
        squares=sums[k.SQUARES],
        fourth=sums[k.FOURTH],
        label1=sums[k.LABEL1],
        label2=sums[k.LABEL2],
        label3=sums[k.LABEL3],
        label4=sums[k.LABEL4],
        squares_label1=sums[k.SQUARES_LABEL1],
        squares_label2=sums[k.SQUARES_LABEL2],
        percentage=sums[k.PERCENTAGE],
        percentage_squares=sums[k.PERCENTAGE_SQUARES],
        percentage_n=float(tally.counts[layout.at[k.NON_ZERO]]),
        absolute_counts=tally.counts[begin : begin + k.ERROR_BUCKETS],
        absolute_bounds=ERROR_BOUNDS,
        design=tally.design,
    )


def error_bounds(count: int) -> F64:
    """Return the lower bounds of the buckets of absolute errors over so many octaves, in units, and an upper one."""
    octaves = 2.0 ** np.arange(k.ERROR_LOW_OCTAVE - 1, k.ERROR_LOW_OCTAVE - 1 + count)
    inside = (octaves[:, np.newaxis] * (1.0 + np.arange(k.ERROR_STEPS) / k.ERROR_STEPS)).ravel()
    top = 2.0 ** (k.ERROR_LOW_OCTAVE - 1 + count)
    return np.concatenate([[0.0], inside, [top, 2.0 * top]])


ERROR_BOUNDS = error_bounds(k.ERROR_OCTAVES)


def _lag_middles() -> F64:
    octaves = 2.0 ** np.arange(k.LAG_OCTAVES)
    steps = (2.0 * np.arange(k.LAG_STEPS) + 1.0) / (2.0 * k.LAG_STEPS)
    return np.concatenate([[0.0], (octaves[:, np.newaxis] * (1.0 + steps)).ravel()])


LAG_MIDDLES = _lag_middles()
"""A lag in the middle of each bucket, ms: at most 1/16 from any in it."""
