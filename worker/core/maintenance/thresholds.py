"""The decision threshold that is best for what the user wants, and what it would gain.

Scores are counted in bins, for each label, in blocks of labels that follow each other: integers, so they merge, and
how a stream is cut changes nothing. A threshold is one of the bounds of the bins, so that each count is exact. It is
chosen on the older half of the blocks and judged on the newer half: what it gains there was not chosen for.
"""

from typing import NamedTuple

import numpy as np

from worker.core.kernels.arrays import F64, I64
from worker.core.maintenance.block_estimates import block_jackknife
from worker.core.maintenance.recalibration_fits import SCORE_BOUNDS, score_bins
from worker.core.options.maintenance import ObjectiveOptions, ThresholdOptions
from worker.core.performance.intervals import Estimate, wilson_limits
from worker.core.state import COUNT_MAX, AnyArray, Arrays, check_like, fill, outside, refuse_if

_STORED = "stored score counts"


class Advice(NamedTuple):
    """A threshold (positive if score >= threshold) against the present one, on the newer half of the labels.

    `gain` is paired: the objective with the new threshold less that with the present one. Of `recall_at_precision` it
    is a gain of recall; `precision` is that of the new threshold there. `proven`: the gain's interval is above 0 (and
    the precision's lower limit not below its least).
    """

    threshold: float
    present: float
    before: Estimate
    after: Estimate
    gain: Estimate
    precision: Estimate | None
    proven: bool


class ScoreCounts:
    """Counts of scores by label in the latest blocks, i32[blocks, 2, B]."""

    def __init__(self, options: ThresholdOptions, bounds: F64 = SCORE_BOUNDS) -> None:
        """`bounds` f64[B + 1] ascend from 0 to 1."""
        self._options, self._bounds = options, bounds
        self._counts = np.zeros((options.blocks_max, 2, len(bounds) - 1), dtype=np.int32)
        # Whole blocks so far, and labels in the open one.
        self._counters: I64 = np.zeros(2, dtype=np.int64)

    def add(self, scores: F64, labels: F64) -> None:
        """Count scores f64[n] in [0, 1] with labels (0 or 1), in the order in which labels came."""
        size, begin = self._options.block_labels, 0
        bins, positive = self._bins(scores), (labels > 0.0).astype(np.int64)
        while begin < len(scores):
            end = min(len(scores), begin + size - int(self._counters[1]))
            block = self._counts[int(self._counters[0]) % self._options.blocks_max]
            if self._counters[1] == 0:
                block[...] = 0
            np.add.at(block, (positive[begin:end], bins[begin:end]), 1)
            self._counters[1] += end - begin
            if self._counters[1] == size:
                self._counters[:] = self._counters[0] + 1, 0
            begin = end

    def _bins(self, scores: F64) -> I64:
        if self._bounds is SCORE_BOUNDS:
            return score_bins(scores)
        return np.searchsorted(self._bounds[1:-1], scores, side="right").astype(np.int64)

    def blocks(self) -> I64:
        """Return the counts of whole blocks, oldest first, i64[blocks, 2, B]."""
        done, size = int(self._counters[0]), self._options.blocks_max
        # The place of an open block is no longer that of an old one.
        kept = min(done, size - int(self._counters[1] > 0))
        return self._counts[(done - kept + np.arange(kept)) % size].astype(np.int64)

    def arrays(self) -> dict[str, AnyArray]:
        """Return the live arrays: all the state there is."""
        return {"counts": self._counts, "counters": self._counters}

    def restore(self, arrays: Arrays) -> None:
        """Take over copies; ValueError for what cannot be."""
        check_like(_STORED, arrays, self.arrays())
        counts, size = arrays["counts"], self._options.block_labels
        refuse_if(
            _STORED,
            {
                "a count is out of range": outside(arrays["counters"], 0, COUNT_MAX)
                or outside(arrays["counters"][1], 0, size - 1),
                "a block has too many labels": outside(counts, 0, size) or outside(counts.sum(axis=(1, 2)), 0, size),
            },
        )
        fill(self.arrays(), arrays)


def advise(
    blocks: I64, objective: ObjectiveOptions, present: float, options: ThresholdOptions, bounds: F64 = SCORE_BOUNDS
) -> Advice | None:
    """Return the threshold chosen on the older half of `blocks` (n x 2 x B), judged on the newer half. O(n B).

    None: too little data, or no threshold reaches the precision that is wanted. `present` counts as the nearest bound.
    """
    half = len(blocks) // 2
    older, newer = blocks[:half], blocks[half:]
    if half == 0 or min(part.sum(axis=(0, 2)).min() for part in (older, newer)) < options.positives_min:
        return None
    place = _best(_outcomes(older.sum(axis=0)), objective, options.z)
    if place is None:
        return None
    now = int(np.abs(bounds - present).argmin())
    both = np.concatenate([_at(newer, now), _at(newer, place)], axis=1).astype(float)
    return _judged(both, objective, float(bounds[place]), float(bounds[now]), options.z)


def _judged(both: F64, objective: ObjectiveOptions, threshold: float, present: float, z: float) -> Advice:
    """Return the advice from outcomes f64[blocks, 10] of the present and the new threshold."""
    half = both.shape[1] // 2

    def value(sums: F64) -> float:
        return float(_values(sums[1:], objective))

    gain = block_jackknife(both, lambda sums: value(sums[half:]) - value(sums[:half]), z)
    proven = gain.low is not None and gain.low > 0.0
    precision = None
    if objective.kind == "recall_at_precision":
        precision = block_jackknife(both[:, half:], _precision, z)
        kept = precision.low is not None and precision.low >= objective.precision_min
        # A present threshold that breaks the bound is to be left, whatever that costs.
        broken = block_jackknife(both[:, :half], _precision, z)
        proven = kept and (proven or (broken.high is not None and broken.high < objective.precision_min))
    before, after = block_jackknife(both[:, :half], value, z), block_jackknife(both[:, half:], value, z)
    return Advice(threshold, present, before, after, gain, precision, proven)


def _precision(sums: F64) -> float:
    """Return the precision from labels, true positives, false positives, ..."""
    return float(_ratio(sums[1], sums[1] + sums[2]))


def _outcomes(counts: I64) -> I64:
    """Return true positives, false positives, false negatives, true negatives (4 x B + 1) at each bound."""
    above = np.zeros((2, counts.shape[1] + 1), dtype=np.int64)
    above[:, :-1] = counts[:, ::-1].cumsum(axis=1)[:, ::-1]
    negatives, positives = counts.sum(axis=1)
    return np.stack([above[1], above[0], positives - above[1], negatives - above[0]])


def _at(blocks: I64, place: int) -> I64:
    """Return labels and the four outcomes at one bound, for each block (n x 5)."""
    all_of_them, above = blocks.sum(axis=2), blocks[:, :, place:].sum(axis=2)
    outcomes = [above[:, 1], above[:, 0], (all_of_them - above)[:, 1], (all_of_them - above)[:, 0]]
    return np.column_stack([all_of_them.sum(axis=1), *outcomes])


def _values(outcomes: F64 | I64, objective: ObjectiveOptions) -> F64:
    """Return what is to be large, from the four outcomes in the first axis; NaN where it is not defined."""
    found, wrong, missed, rest = np.asarray(outcomes, dtype=float)
    events = found + wrong + missed + rest
    if objective.kind == "accuracy":
        return _ratio(found + rest, events)
    if objective.kind == "f1":
        return _ratio(2.0 * found, 2.0 * found + wrong + missed)
    if objective.kind == "cost":
        return -_ratio(objective.false_positive_cost * wrong + objective.false_negative_cost * missed, events)
    return _ratio(found, found + missed)


def _ratio(top: F64, bottom: F64) -> F64:
    found: F64 = np.divide(top, bottom, out=np.full_like(np.asarray(bottom, dtype=float), np.nan), where=bottom > 0.0)
    return found


def _best(outcomes: I64, objective: ObjectiveOptions, z: float) -> int | None:
    """Return the bound with the largest value; of equal ones that in their middle, so that chance moves it least."""
    values = _values(outcomes, objective)
    if objective.kind == "recall_at_precision":
        found, called = outcomes[0].astype(float), (outcomes[0] + outcomes[1]).astype(float)
        values = np.where(wilson_limits(found, called, z)[0] >= objective.precision_min, values, np.nan)
    if np.isnan(values).all():
        return None
    best = np.flatnonzero(values == np.nanmax(values))
    return int(best[len(best) // 2])
