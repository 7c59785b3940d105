"""The promotion gate: which challengers are better than the champion, by evidence that may be looked at at any time.

The test is in kernels/promotion.py, with what is proven of it and what is measured. Losses are the caller's: 0/1,
Brier, or squared error; differences are divided by a `scale` that is fixed at the reference, and clipped to [-1, 1].

Segments: a challenger is blocked while its mean in a segment's value, with `segment_labels_min` labels or more, is
worse by more than `segment_loss_max`. It is the estimate that blocks, not only proof: a promotion that waits costs a
delay, one that harms a segment costs its users. A value with fewer labels does not block, and is told as `too_few`: a
rare value never gets enough, and would block for ever. The latest 1,000 to 2,000 labels of a value count.

Intervals are asymptotic confidence sequences, valid at any time for so many labels that a mean is normal, and for the
variance (with the dispersion of blocks) that was estimated: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024),
"Time-uniform central limit theory and asymptotic confidence sequences", Annals of Statistics 52, Theorem 2.2.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from worker.core.kernels.arrays import F64, I32
from worker.core.kernels.promotion import (
    BEGUN,
    BLOCKED,
    BLOCKS,
    BLOCKS_MIN,
    CAP,
    COUNTS,
    DISPERSION,
    EVIDENCE,
    FADING,
    GAIN,
    LABELS,
    LAMBDAS,
    MEANS,
    MEANS_SQUARED,
    OPEN,
    OPEN_SQUARES,
    READY,
    RUNS,
    SEGMENT_LABELS,
    SEGMENT_LABELS_MAX,
    SEGMENT_SQUARES,
    SEGMENT_SUM,
    SINCE,
    SQUARES,
    STATUS,
    SUMS,
    TRYING,
    VARIANCE,
    WEIGHT,
    Rules,
    Trials,
    begin_trial,
    take_losses,
)
from worker.core.options.maintenance import GateOptions
from worker.core.state import COUNT_MAX, Arrays, check_like, fill, outside, refuse_if

_STORED = "stored promotion gate"
CHALLENGERS_MAX = 64
PLACES_MAX = 65_536
"""Some 65 segments of 1,000 values each: what performance monitoring may follow must not end the worker here."""
WEIGHT_MAX = 100.0
"""Limit of a sum that fades by 0.99."""
TIGHT_LABELS = 2_000
"""Where an interval of 95 % is as narrow as it can be."""
_RHO_SQUARED = (-2.0 * math.log(0.05) + math.log(-2.0 * math.log(0.05)) + 1.0) / TIGHT_LABELS
Status = Literal["trying", "blocked", "ready"]
_STATUSES: tuple[Status, ...] = ("trying", "blocked", "ready")
SegmentVerdict = Literal["too_few", "worse", "likely_worse", "unsettled", "not_worse"]


class Finding(NamedTuple):
    """What is known of a challenger. Figures are None while there are none."""

    status: Status
    labels: int
    """Since its evidence began; the gain is of these. They are chosen by what it won in them, so it flatters a bit."""
    gain: float | None
    """Mean loss of the champion less that of the challenger, in units of the loss."""
    gain_low: float | None
    gain_high: float | None
    """Ends of a confidence sequence."""
    evidence: float | None
    """Natural logarithm of the evidence at the last block; the limit is that of challengers / probability."""
    dispersion: float
    """Variance of the means of blocks, against that of independent labels."""
    trials: int
    """How often evidence has begun."""


class SegmentFinding(NamedTuple):
    """What the trial of a challenger shows in one value of a segment."""

    place: int
    labels: int
    gain: float
    gain_low: float
    gain_high: float
    verdict: SegmentVerdict


class PromotionGate:
    """Tests each challenger against the champion. Memory is fixed: O(challengers x places of segments)."""

    def __init__(self, challengers: int, places: int, scale: float, options: GateOptions) -> None:
        """Begin without evidence.

        Args:
            challengers: how many columns of losses there are beside the champion's; alpha is divided by it.
            places: of values of segments, together.
            scale: what losses are divided by, fixed: 1 for a 0/1 or Brier loss.
            options: when a challenger is ready.
        """
        if not (0 < challengers <= CHALLENGERS_MAX and 0 <= places <= PLACES_MAX and 0.0 < scale < math.inf):
            raise ValueError(f"a gate for {challengers} challengers, {places} places and scale {scale} cannot be")
        self._scale, self._alpha = scale, options.false_promotion_probability
        self._rules = Rules(
            scale=scale,
            limit=math.log(challengers / self._alpha),
            block_labels=options.block_labels,
            stake=options.block_labels / options.span_labels,
            gain_min=options.gain_min,
            labels_min=options.labels_min,
            hold_labels=options.hold_labels,
            segment_loss_max=options.segment_loss_max / scale,
            segment_labels_min=options.segment_labels_min,
        )
        self._trials = Trials(
            counts=np.zeros((challengers, COUNTS), dtype=np.int64),
            sums=np.zeros((challengers, SUMS)),
            money=np.zeros((challengers, LAMBDAS)),
            segments=np.zeros((challengers, places, 3)),
        )
        for challenger in range(challengers):
            self.begin_anew(challenger)

    def take(self, losses: F64, places: I32, begin: int) -> int:
        """Take rows[begin:] (n x (1 + challengers), n x segments) up to one that changes a status; see `take_losses`.

        Raises ValueError for a shape that does not fit, and for a place that there is not.
        """
        challengers, values = self._trials.segments.shape[:2]
        if losses.shape[1] != challengers + 1 or len(places) != len(losses) or begin < 0:
            raise ValueError(f"losses {losses.shape} and places {places.shape} do not fit {challengers} challengers")
        if places.size and outside(places, -1, values - 1):
            raise ValueError(f"a place is not within [-1, {values - 1}]")
        return int(take_losses(losses, places, begin, self._rules, self._trials))

    def status(self, challenger: int) -> Status:
        """Return how far a challenger is."""
        return _STATUSES[int(self._trials.counts[challenger, STATUS])]

    def finding(self, challenger: int) -> Finding:
        """Return what is known of a challenger so far."""
        counts, sums = self._trials.counts[challenger], self._trials.sums[challenger]
        labels, has_bet = int(counts[LABELS] - counts[BEGUN]), bool(sums[VARIANCE] > 0.0)
        gain, low, high = self._interval(labels, sums[GAIN], sums[VARIANCE] if has_bet else math.nan, self._alpha)
        return Finding(
            status=self.status(challenger),
            labels=labels,
            gain=_known(gain),
            gain_low=_known(low),
            gain_high=_known(high),
            evidence=float(sums[EVIDENCE]) if has_bet else None,
            dispersion=float(sums[DISPERSION]),
            trials=int(counts[RUNS]),
        )

    def segment_findings(self, challenger: int) -> list[SegmentFinding]:
        """Return what the trial shows in each value of a segment that has labels, by place."""
        cells, dispersion = self._trials.segments[challenger], float(self._trials.sums[challenger, DISPERSION])
        present = np.flatnonzero(cells[:, SEGMENT_LABELS])
        return [self._segment(int(place), cells[place], dispersion, len(present)) for place in present]

    def _segment(self, place: int, cell: F64, dispersion: float, values: int) -> SegmentFinding:
        """Judge one value; the error of all intervals is shared by the values."""
        labels, bound = int(cell[SEGMENT_LABELS]), -self._rules.segment_loss_max * self._scale
        variance = cell[SEGMENT_SQUARES] / cell[SEGMENT_LABELS] * dispersion
        gain, low, high = self._interval(labels, cell[SEGMENT_SUM], variance, self._alpha / values)
        verdict: SegmentVerdict = "unsettled"
        if labels < self._rules.segment_labels_min:
            verdict = "too_few"
        elif gain < bound:
            verdict = "worse" if high < bound else "likely_worse"
        elif low >= bound:
            verdict = "not_worse"
        return SegmentFinding(place, labels, gain, low, high, verdict)

    def _interval(self, labels: int, total: float, variance: float, alpha: float) -> tuple[float, float, float]:
        """Return a mean and the ends of its two-sided confidence sequence, in units of the loss; NaN = unknown."""
        if labels == 0:
            return math.nan, math.nan, math.nan
        reach = math.sqrt(variance) * reach_of(labels, alpha)
        mean = total / labels
        ends = (mean, max(mean - reach, -1.0), min(mean + reach, 1.0)) if reach >= 0.0 else (mean, math.nan, math.nan)
        return ends[0] * self._scale, ends[1] * self._scale, ends[2] * self._scale

    def begin_anew(self, challenger: int) -> None:
        """Forget a challenger's evidence: it is another model now, or has been promoted."""
        begin_trial(*(array[challenger] for array in self._trials))

    def forget_places(self, places: Sequence[int]) -> None:
        """Forget what was counted at places whose values have given way to others."""
        self._trials.segments[:, list(places)] = 0.0

    # Storing and restoring.

    def arrays(self) -> Arrays:
        """Return the live arrays."""
        return self._trials._asdict()

    def restore(self, arrays: Arrays) -> None:
        """Take over copies; ValueError for what cannot be."""
        check_like(_STORED, arrays, self.arrays())
        with np.errstate(all="ignore"):  # what overflows is out of range
            _check(Trials(**arrays), self._rules)
        fill(self.arrays(), arrays)


def reach_of(labels: int, alpha: float) -> float:
    """Return the half width of the confidence sequence for a mean of so many labels with variance 1."""
    spread = labels * _RHO_SQUARED + 1.0
    return math.sqrt(2.0 * spread / (labels * labels * _RHO_SQUARED) * math.log(math.sqrt(spread) / alpha))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _check(stored: Trials, rules: Rules) -> None:
    """Refuse what the kernel would read out of bounds with, or could not have made."""
    counts, sums, money, segments = stored
    labels = counts[:, LABELS]
    refuse_if(
        _STORED,
        {
            "a count is out of range": outside(labels, 0, COUNT_MAX) or outside(counts[:, RUNS], 1, COUNT_MAX),
            "a status is unknown": outside(counts[:, STATUS], TRYING, READY),
            "evidence stands since a label that is not": outside(counts[:, SINCE], -1, labels),
            "evidence began at a label that is not": outside(counts[:, BEGUN], 0, labels),
            "a block is out of range": outside(counts[:, BLOCKS], 0, labels // rules.block_labels),
            "a sum of a block is out of range": outside(sums[:, OPEN], -rules.block_labels, rules.block_labels)
            or outside(sums[:, OPEN_SQUARES], 0.0, rules.block_labels),
            "a sum over blocks is out of range": outside(sums[:, [WEIGHT, MEANS_SQUARED, SQUARES]], 0.0, WEIGHT_MAX)
            or outside(sums[:, MEANS], -WEIGHT_MAX, WEIGHT_MAX),
            "the weight of blocks is another one": outside(
                sums[:, WEIGHT] - (1.0 - FADING ** counts[:, BLOCKS]) / (1.0 - FADING), -1e-6, 1e-6
            ),
            "a gain is out of range": outside(sums[:, GAIN], -labels, labels),
            "evidence is out of range": outside(sums[:, EVIDENCE], -COUNT_MAX, COUNT_MAX)
            or outside(money, 0.0, 2.0 * math.exp(rules.limit + CAP)),
            "a variance is out of range": outside(sums[:, VARIANCE], 0.0, COUNT_MAX)
            or outside(sums[:, DISPERSION], 1.0, COUNT_MAX),
            "labels of a segment are out of range": outside(
                segments[:, :, SEGMENT_LABELS], 0.0, np.minimum(labels, SEGMENT_LABELS_MAX)[:, None]
            ),
            "a segment is out of range": outside(
                segments[:, :, SEGMENT_SUM], -segments[:, :, SEGMENT_LABELS], segments[:, :, SEGMENT_LABELS]
            )
            or outside(segments[:, :, SEGMENT_SQUARES], 0.0, 4.0 * segments[:, :, SEGMENT_LABELS]),
            "a challenger is blocked or ready without labels": bool(
                ((counts[:, STATUS] >= BLOCKED) & (labels <= BLOCKS_MIN * rules.block_labels)).any()
            ),
        },
    )
