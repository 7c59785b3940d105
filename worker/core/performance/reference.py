"""What a series is measured against: its first labels, once they are stable, or the report of the model's training."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from worker.core.kernels.arrays import I64
from worker.core.kernels.tally import LABELLED
from worker.core.metric_names import LAG_METRICS, LESS_IS_BETTER, MORE_IS_BETTER
from worker.core.options import ReportOptions
from worker.core.performance.formulas import Formulas, lag_estimates
from worker.core.performance.intervals import Estimate, difference, ratio, wilson
from worker.core.performance.layout import Layout, Tally, exact_values
from worker.core.performance.series import Series
from worker.core.state import COUNT_MAX, AnyArray, Arrays, blank, check_like, outside, refuse_if

_STORED = "stored reference"
_Exact: TypeAlias = tuple[I64, I64]
NOT_TAKEN = -1


class Look(NamedTuple):
    """How estimates are made: the formulas, and how many standard errors wide the intervals of alerts are."""

    formulas: Formulas
    z: float


class Reference:
    """Becomes known once, after `blocks` blocks that are stable: no metric differs between their two halves.

    If they are not, the first half is left out and as many blocks are waited for.
    """

    def __init__(self, blocks: int, report: Sequence[ReportOptions], z: float) -> None:
        self._blocks = blocks
        self._report = {each.metric: _told(each, z) for each in report}
        self._begin = 0
        self.taken_at = NOT_TAKEN
        self.exact: _Exact | None = None
        self._estimates: dict[str, Estimate] = dict(self._report)

    @property
    def is_taken(self) -> bool:
        """Whether the first labels were stable."""
        return self.taken_at != NOT_TAKEN

    @property
    def tally(self) -> Tally | None:
        """Return the tally of the reference."""
        return None if self.exact is None else Tally(self.exact[0].astype(np.float64), exact_values(self.exact[1]))

    @property
    def labels(self) -> int:
        """Labelled events that it rests on."""
        return 0 if self.exact is None else int(self.exact[0][LABELLED])

    def since(self, block: int) -> int:
        """Return how many blocks came after it, up to and including `block`; all if it was told by a report."""
        return block + 1 if not self.is_taken else block - self.taken_at

    def estimates(self, metrics: Collection[str], layout: Layout, look: Look) -> Mapping[str, Estimate]:
        """Return what is known of the metrics, those of lags among them.

        What is unknown is asked for again each time: whether it is known must not depend on when it was first asked.
        """
        missing = set(metrics) - self._estimates.keys()
        tally = self.tally if missing else None
        if tally is not None:
            self._estimates |= lag_estimates(tally, look.z, missing)
            others = missing - set(LAG_METRICS)
            found = look.formulas.estimates(tally, layout, look.z, others) if others else {}
            self._estimates |= {name: found[name] for name in others if name in found}
        return self._estimates

    def look(self, series: Series, metrics: Collection[str], look: Look) -> bool:
        """A block of `series` is complete: take the reference if it is time and all is stable; tell whether it was."""
        block = series.block
        if self.is_taken or block + 1 - self._begin < self._blocks:
            return False
        middle = self._begin + self._blocks // 2
        halves = [series.blocks.merged(range(*part)) for part in ((self._begin, middle), (middle, block + 1))]
        names = set(metrics) & look.formulas.names
        first, second = (look.formulas.estimates(half, series.layout, look.z, names) for half in halves)
        if any(_differs(name, first.get(name), second.get(name)) for name in sorted(names)):
            self._begin = middle
            return False
        self.exact = series.blocks.exact(range(self._begin, block + 1))
        self.taken_at = block
        self._estimates = dict(self._report)
        return True

    # Storing and restoring.

    def arrays(self) -> dict[str, AnyArray]:
        """Return the state."""
        found: dict[str, AnyArray] = {"begin": np.array([self._begin, self.taken_at], dtype=np.int64)}
        if self.exact is not None:
            found |= {"counts": self.exact[0], "sums": self.exact[1]}
        return found

    def restore(self, arrays: Arrays, series: Series) -> None:
        """Take over what `arrays` gave; ValueError for what cannot be."""
        layout = series.layout
        like = {"begin": blank(np.int64, 2)}
        if len(arrays) > 1:
            like |= {
                "counts": blank(np.int64, layout.counts),
                "sums": blank(np.int64, layout.sums, layout.lanes),
            }
        check_like(_STORED, arrays, like)
        begin, taken_at = arrays["begin"].tolist()
        refuse_if(
            _STORED,
            {
                "it begins out of range": not 0 <= begin <= series.block,
                "it is overdue": taken_at == NOT_TAKEN and series.block - begin >= self._blocks,
                "it is half there": (taken_at != NOT_TAKEN) != ("counts" in arrays),
                "it was taken out of range": not NOT_TAKEN <= taken_at <= series.block,
                "a count is out of range": "counts" in arrays and outside(arrays["counts"], 0, COUNT_MAX),
                "a sum is out of range": "sums" in arrays and outside(arrays["sums"], -COUNT_MAX, COUNT_MAX),
            },
        )
        self._begin, self.taken_at = begin, taken_at
        self.exact = (arrays["counts"].copy(), arrays["sums"].copy()) if "counts" in arrays else None

    def change_layout(self, series: Series, old: Layout) -> None:
        """Follow a series to another layout."""
        if self.exact is not None:
            counts, sums = self.exact
            layout = series.layout
            more = np.zeros((layout.sums, layout.lanes), dtype=np.int64)
            more[: len(sums)] = sums
            self.exact = layout.moved(counts, old), more
        self._estimates = dict(self._report)


def _told(report: ReportOptions, z: float) -> Estimate:
    value, support = report.value, report.support
    if support is None or report.metric not in MORE_IS_BETTER or not 0.0 <= value <= 1.0:
        return Estimate(value, value, value, support or 0.0)
    return wilson(value * support, support, z)


def _differs(name: str, first: Estimate | None, second: Estimate | None) -> bool:
    if first is None or second is None or None in (first.value, first.low, second.value, second.low):
        return False
    if name in LESS_IS_BETTER:
        grown = ratio(second, first)
        return grown is not None and not grown[1] <= 1.0 <= grown[2]
    _, low, high = difference(second, first)
    return not low <= 0.0 <= high
