"""One series with what it is measured against and the limits it must keep to."""

from bisect import bisect_left
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import starmap
from typing import Annotated, NamedTuple

import msgspec
import numpy as np

from worker.core.kernels.arrays import F64, I64, Bool
from worker.core.metric_names import LAG_METRICS
from worker.core.options import PerformanceOptions
from worker.core.performance.bias import CalibrationWatch, StoredCalibration
from worker.core.performance.formulas import lag_estimates, needs_sums
from worker.core.performance.intervals import Estimate
from worker.core.performance.label_join import NO_BLOCK
from worker.core.performance.layout import Layout, Tally, confusion
from worker.core.performance.limits import Breach, Condition, Figures, Step, Watch
from worker.core.performance.limits import Moment as LimitMoment
from worker.core.performance.reference import Look, Reference
from worker.core.performance.series import Addition, Series, StoredSeries
from worker.core.performance.task import Task
from worker.core.standing import Moment
from worker.core.state import COUNT_MAX, AnyArray, Arrays, blank, by_part, check_like, outside, prefixed, refuse_if
from worker.core.telling import Place, Told

_STORED = "stored series"
WRONG_MAX = 10
"""Latest wrong answers that are kept as evidence."""


class StoredWatched(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The plain part of a watched series."""

    series: StoredSeries
    breaches: list[Breach]
    cleared: dict[str, Annotated[int, msgspec.Meta(ge=0, le=COUNT_MAX)]]
    calibration: StoredCalibration | None = None


class Happening(NamedTuple):
    """Something at a row: an arrival pane that is complete before it, or a completed block with what it changed."""

    row: int
    moment: Moment
    arrival: Tally | None
    steps: list[Step]
    reference_taken: bool
    told: Sequence[Told] = ()
    """Alerts about its calibration."""


class Watched:
    """A series whose limits are looked at whenever a block of labels is complete."""

    def __init__(
        self,
        options: PerformanceOptions,
        task: Task,
        layout: Layout,
        found: list[Condition],
        reference: Reference,
        calibration: CalibrationWatch,
    ) -> None:
        self.calibration = calibration
        self.series = Series(options, task, layout)
        self.watch = Watch(found, options.support_min)
        self.reference = reference
        self.wrong: deque[Place] = deque(maxlen=WRONG_MAX)
        self._of_task = self.watch.metrics.difference(LAG_METRICS)

    def add(self, addition: Addition, offsets: I64, wrong: Bool, places: I64, look: Look) -> Iterator[Happening]:
        """Add contributions (n); yield what happens, in the order of the rows.

        Args:
            addition: what is added or taken away.
            offsets: of the records that caused it (n).
            wrong: whether a row is a new wrong answer (n).
            places: offset and time (ms) of the prediction of each row (n x 2).
            look: the formulas.
        """
        seen = 0
        fresh, wrong_rows = addition.blocks == NO_BLOCK, np.flatnonzero(wrong).tolist()
        for what, row in self.series.add(addition):
            end = row + (what == "block")
            self._note(addition, fresh, wrong_rows, places, slice(seen, end))
            seen = end
            moment = Moment(int(addition.arrived_ms[row]), int(offsets[row]), 0, 0, _place(places, row))
            if what == "arrival":
                tally = self.series.by_arrival.merged([self.series.arrival])
                yield Happening(row, moment, tally, [], reference_taken=False)
                continue
            taken = self.reference.look(self.series, self._of_task, look)
            steps = [] if taken else self._look(moment, look)
            yield Happening(row, moment, None, steps, taken, self.calibration.look(self.series, look, moment))
        self._note(addition, fresh, wrong_rows, places, slice(seen, len(wrong)))

    def _note(self, addition: Addition, fresh: Bool, wrong: list[int], places: I64, part: slice) -> None:
        """Note some rows, all of one block: the first that is labelled in it, and the latest of the `wrong` rows."""
        if part.start == part.stop:
            return
        first = part.start if fresh[part.start] else part.start + int(fresh[part].argmax())
        if fresh[first]:
            self.calibration.begins.note(int(addition.blocks[first]), _place(places, first))
        end = bisect_left(wrong, part.stop)
        begin = max(bisect_left(wrong, part.start, hi=end), end - WRONG_MAX)
        if begin < end:
            self.wrong.extend(starmap(Place, places[wrong[begin:end]].tolist()))

    def begin(self, size: int) -> Place | None:
        """Return the prediction labelled first in the window of so many blocks, as far as that is known."""
        return self.calibration.begins.place(self.series.block + 1 - size)

    def _look(self, at: Moment, look: Look) -> list[Step]:
        if not self.watch.conditions:
            return []
        series = self.series
        moment = LimitMoment(at.now_ms, at.known_at.offset, series.begins())
        known = self.reference.estimates(self.watch.metrics, series.layout, look)
        figures = self._figures(look)
        return self.watch.look(series.block + 1, self.reference.since(series.block), figures, known, moment)

    def _figures(self, look: Look) -> Figures:
        series = self.series

        def figures(size: int, names: Collection[str]) -> Mapping[str, Estimate]:
            return estimates_of(series.tally(size, sums=needs_sums(names)), series.layout, look, names)

        return figures

    def farewell(self, look: Look) -> list[Step]:
        """Return the end of every open breach: the series will be watched no more."""
        known = self.reference.estimates(self.watch.metrics, self.series.layout, look)
        return self.watch.end_all(self._figures(look), known)

    def worst_classes(self, size: int, names: list[str], count_max: int) -> list[str]:
        """Return the classes whose recall in a window is furthest under that of the reference, or of 1, worst first."""
        layout = self.series.layout
        if not layout.classes:
            return []
        now = _recalls(confusion(self.series.tally(size), layout))
        tally = self.reference.tally
        before = np.ones(len(now)) if tally is None else np.nan_to_num(_recalls(confusion(tally, layout)), nan=1.0)
        lost = np.nan_to_num(before - now, nan=-1.0)
        order = np.argsort(-lost, kind="stable")[:count_max].tolist()
        return [("(other)", *names)[code] for code in order if lost[code] > 0.0 and code <= len(names)]

    def change_layout(self, layout: Layout) -> None:
        """Move all tallies to another layout."""
        old = self.series.layout
        self.series.change_layout(layout)
        self.reference.change_layout(self.series, old)

    # Storing and restoring.

    def plain(self) -> StoredWatched:
        """Return the plain part of the state."""
        breaches = list(self.watch.open.values())
        return StoredWatched(self.series.plain(), breaches, self.watch.cleared, self.calibration.state())

    def arrays(self) -> dict[str, AnyArray]:
        """Return the arrays of the state."""
        return {
            "wrong": np.array(list(self.wrong), dtype=np.int64).reshape(-1, 2),
            **prefixed("series", self.series.arrays()),
            **prefixed("reference", self.reference.arrays()),
        }

    def restore(self, plain: StoredWatched, arrays: Arrays) -> None:
        """Take over what `plain` and `arrays` gave; ValueError for what cannot be."""
        own = {name: array for name, array in arrays.items() if name == "wrong"}
        rows = len(own["wrong"]) if "wrong" in own and own["wrong"].ndim else 0
        check_like(_STORED, own, {"wrong": blank(np.int64, rows, 2)})
        wrong = own["wrong"]
        refuse_if(_STORED, {"there is too much evidence": rows > WRONG_MAX, "evidence": outside(wrong, 0, 2**62)})
        rest = {name: array for name, array in arrays.items() if name != "wrong"}
        parts = by_part(_STORED, rest, ("series", "reference"))
        self.series.restore(plain.series, parts["series"])
        self.reference.restore(parts["reference"], self.series)
        self.watch.restore(plain.breaches, plain.cleared)
        if plain.calibration is not None:
            self.calibration.restore(plain.calibration, self.series.block)
        self.wrong.extend(_place(wrong, row) for row in range(rows))


def estimates_of(tally: Tally, layout: Layout, look: Look, names: Collection[str]) -> Mapping[str, Estimate]:
    """Return estimates of metrics of a task and of lags."""
    lags = lag_estimates(tally, look.z, names)
    others = set(names) - set(LAG_METRICS)
    return lags | (look.formulas.estimates(tally, layout, look.z, others) if others else {})


def _place(places: AnyArray, row: int) -> Place:
    return Place(int(places[row, 0]), int(places[row, 1]))


def _recalls(matrix: F64) -> F64:
    with np.errstate(invalid="ignore"):
        recalls: F64 = np.diagonal(matrix) / matrix.sum(axis=1)
    return recalls
