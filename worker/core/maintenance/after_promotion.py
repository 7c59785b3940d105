"""After a promotion: does the new version keep what it was promoted for?

When the serving side reports the new version, the old champion's outputs are gone. Three things remain to compare with,
in the order of what they prove:

former    the old champion, if its outputs still come (a shadow deployment, or a challenger of ours that was champion):
          the paired test the other way round. It must be better: nothing is allowed.
control   another candidate that was in the shadow pool before and still is. Both see the same events, so a harder
          world hits both: the difference of their losses is compared with the one before the promotion (a difference
          of differences). A regression of the version itself (skew between training and serving, a wrong artefact, a
          feature that is encoded otherwise) shows here and a concept drift mostly does not.
record    the new version's own shadow losses before the promotion. A rise means that the promise is not kept, but not
          why. It advises a rollback only where there is nothing better to compare with.

Each is a trial of the promotion gate (kernels/promotion.py) of "what was promised" as a challenger of the new version:
d = (loss of the new version - loss of the reference + advantage promised - its error - what is allowed) / scale.
The promise is from a selected period (the winner looks better than it is), so PROMISE_ERRORS standard errors are taken
off, and `allowed_loss` more.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from msgspec import Struct

from worker.core.kernels.arrays import F64, I64
from worker.core.maintenance.gate import Finding, PromotionGate
from worker.core.maintenance.ranking import Ranking
from worker.core.options.maintenance import AfterOptions, GateOptions
from worker.core.state import COUNT_MAX, Arrays, check_like, fill, outside, refuse_if

PROMISE_ERRORS = 1.64
BLOCK_LABELS = 100
"""A broken version harms at once, and a rollback is easy: half the labels of the gate's blocks."""
Against = Literal["former", "control", "record"]
Conclusion = Literal["watching", "rollback_advised", "world_changed"]
_STORED = "stored watch of a new version"


class Promise(Struct, frozen=True, forbid_unknown_fields=True):
    """What a challenger was promoted for, against one reference."""

    against: Against
    candidate: int
    """The reference's column of losses then; -1 where there is none."""
    advantage: float
    """Mean loss of the reference less that of the challenger before the promotion; a record's reference has loss 0."""
    error: float


class Regression(NamedTuple):
    """What the watch shows against one reference."""

    promise: Promise
    finding: Finding
    """Its gain is by how much the reference, as promised, is better than the new version."""


def promises(ranking: Ranking, promoted: int, control: int | None, former: int | None) -> list[Promise]:
    """Return what `promoted` is promoted for, from the shadow pool's faded losses at that moment.

    Args:
        ranking: of the pool, before the promotion.
        promoted: the candidate that becomes the champion.
        control: a candidate that stays in the pool and does not use the champion's output, if there is one.
        former: the column in which the old champion's losses will come, if they will.
    """
    made = []
    if former is not None:
        made.append(Promise("former", former, 0.0, 0.0))
    if control is not None:
        paired = ranking.paired(control, promoted)
        made.append(Promise("control", control, paired.mean, paired.error))
    own = ranking.loss(promoted)
    made.append(Promise("record", -1, -own.mean, own.error))
    return [each for each in made if np.isfinite([each.advantage, each.error]).all()]


class AfterPromotion:
    """Watches a new version. Memory is fixed."""

    def __init__(self, promised: Sequence[Promise], scale: float, options: AfterOptions) -> None:
        self._promised, self._options = tuple(promised), options
        self._labels: I64 = np.zeros(1, dtype=np.int64)
        gate = GateOptions(
            false_promotion_probability=options.false_rollback_probability,
            labels_min=options.labels_min,
            hold_labels=options.hold_labels,
            span_labels=options.watch_labels_max,
            gain_min=0.0,
            block_labels=BLOCK_LABELS,
        )
        self._gate = PromotionGate(len(self._promised), 0, scale, gate)
        allowed = [0.0 if each.against == "former" else options.allowed_loss for each in self._promised]
        self._handicap = np.array(
            [p.advantage - PROMISE_ERRORS * p.error - a for p, a in zip(self._promised, allowed, strict=True)]
        )

    def take(self, new: F64, references: F64, begin: int) -> int:
        """Take rows[begin:] up to one that changes a status, as `PromotionGate.take`.

        Args:
            new: losses of the new version (n, NaN = none).
            references: of each promise's reference (n x promises, NaN = none; anything for a record).
            begin: the first row.
        """
        losses = np.empty((len(new), 1 + len(self._promised)))
        losses[:, 0] = new
        for column, promise in enumerate(self._promised):
            loss = 0.0 if promise.against == "record" else references[:, column]
            losses[:, 1 + column] = loss - self._handicap[column]
        row = self._gate.take(losses, np.zeros((len(new), 0), dtype=np.int32), begin)
        self._labels[0] += int(np.count_nonzero(~np.isnan(new[begin : row + 1])))
        return row

    @property
    def promised(self) -> tuple[Promise, ...]:
        """What the new version is held to."""
        return self._promised

    @property
    def is_over(self) -> bool:
        """Whether the new version has been watched for long enough."""
        return int(self._labels[0]) >= self._options.watch_labels_max

    @property
    def conclusion(self) -> Conclusion:
        """What is advised now. A broken record beside a reference that still holds is no fault of the version."""
        broken = {each.promise.against for each in self.regressions()}
        better = {promise.against for promise in self._promised} - {"record"}
        if broken & better or (broken and not better):
            return "rollback_advised"
        return "world_changed" if broken else "watching"

    def regressions(self) -> list[Regression]:
        """Return against which references the new version has regressed."""
        all_of_them = [Regression(p, self._gate.finding(k)) for k, p in enumerate(self._promised)]
        return [each for each in all_of_them if each.finding.status == "ready"]

    # Storing and restoring; the promises and options are the caller's to store.

    def arrays(self) -> Arrays:
        """Return the live arrays."""
        return {**self._gate.arrays(), "labels": self._labels}

    def restore(self, arrays: Arrays) -> None:
        """Take over copies; ValueError for what cannot be."""
        rest = {name: array for name, array in arrays.items() if name != "labels"}
        check_like(_STORED, {"labels": arrays.get("labels", np.empty(0))}, {"labels": self._labels})
        refuse_if(_STORED, {"a count is out of range": outside(arrays["labels"], 0, COUNT_MAX)})
        self._gate.restore(rest)
        fill({"labels": self._labels}, {"labels": arrays["labels"]})
