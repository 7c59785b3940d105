"""Drift of inputs and predictions of one monitor, as a watcher.

learning ──reference is stable──► watching ──a drift stays──► watching, the latest blocks as reference
   ▲                                 └──and its values are beyond the bins──┐
   └────────────────────────────────────────────────────────────────────────┘
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np

from worker.core.columns import ColumnTable, Kind
from worker.core.drift import storing
from worker.core.drift.bins import Bins
from worker.core.drift.decisions import MARGINS_SHARE, spent_share
from worker.core.drift.dependence import Dependence, Projected
from worker.core.drift.effects import OTHER_EFFECTS, PSI_CRITICAL
from worker.core.drift.pattern import shape_of
from worker.core.drift.reference import ReferencePhase
from worker.core.drift.regimes import Regimes, outgrown
from worker.core.drift.storing import StoredDrift
from worker.core.drift.windows import NOT_AFFECTED, Level, Windows
from worker.core.events import Changed
from worker.core.kernels.arrays import F64, I64, U8, Bool
from worker.core.kernels.binning import count_bins
from worker.core.options import DriftOptions, EngineOptions
from worker.core.options.change import DriftColumnOptions
from worker.core.seen import Seen
from worker.core.standing import Finding, Moment, Pattern, Standing, StandingOptions
from worker.core.state import AnyArray, Arrays
from worker.core.telling import Owner, Told

_STABLE_CHECK_BLOCKS = 4


class DriftWatch:
    """Compares windows of the latest events with a reference, column by column and in how columns depend."""

    def __init__(self, owner: Owner, columns: ColumnTable, options: EngineOptions) -> None:
        self.options: DriftOptions = options.drift
        self.owner = owner
        self._table = columns
        self._codes = options.categories_max + 1
        self._seed = options.seed
        standing = StandingOptions.of(options)
        self.inputs = Standing("drift.input", owner, standing, _input_sentence)
        self.predictions = Standing("drift.prediction", owner, standing, _prediction_sentence)
        self.multivariate = Standing("drift.multivariate", owner, standing, _multivariate_sentence)
        self._lists_max = standing.features_max
        self.allocate(0)

    def allocate(self, columns: int) -> None:
        """Make room for so many columns, and know nothing of them."""
        options = self.options
        self.fill = 0
        self.block_ms = -1
        """The watermark at the end of the latest block."""
        self.open_blocks = self.open_dependence = 0
        self.bins = Bins.empty(columns, options.bins, self._codes)
        self.windows = Windows(
            columns, options.bins + 1, options, Level(options.false_alarms_per_day * MARGINS_SHARE, options.psi_min)
        )
        self.starts: I64 = np.zeros((options.blocks_max, 2), dtype=np.int64)
        self.regimes = Regimes(columns, options.bins + 1, options.regimes_max)
        self.dependence = Dependence(columns, options, self._seed) if options.multivariate and columns > 1 else None
        self._is_categorical: Bool = np.array(
            [each.kind is Kind.CATEGORICAL for each in self._table.columns[:columns]], dtype=np.bool
        )
        self.windows.is_ordered = ~self._is_categorical
        self.learning: ReferencePhase | None = None
        self._found: U8 = np.zeros((0, columns), dtype=np.uint8)

    def begin(self) -> None:
        """Forget all that was known, and take the columns as they are now; open alerts are told as over at a look."""
        if self.options.enabled:
            self.allocate(len(self._table))
            self.learn()

    def learn(self) -> None:
        """Take the reference from the events that come next."""
        self.learning = ReferencePhase(
            self._table.columns, self._given(), self.bins, self.options.reference_events, self._codes
        )

    def _given(self) -> dict[str, DriftColumnOptions]:
        model_id = self.owner.model_id
        own = next((each for each in self.options.references if fnmatchcase(model_id, each.model)), None)
        return {} if own is None else {each.name: each for each in own.columns}

    @property
    def inputs_drifted_for(self) -> int:
        """For how many events an alert of drifted inputs has stood; 0 when there is none."""
        return self.open_blocks * self.options.block_events + self.fill if self.inputs.open is not None else 0

    @property
    def latest_psi(self) -> list[float | None]:
        """PSI of each column (the prediction first) in its latest blocks; empty when there is no watch."""
        return self.windows.latest_psi if self.learning is None else [None] * len(self._is_categorical)

    # The path of the events.

    def process(self, seen: Seen) -> list[Told]:
        """Take in events; return what is to be told."""
        told: list[Told] = []
        if not self.options.enabled:
            return told
        begin, count = 0, len(seen.cells)
        while begin < count:
            if self.learning is not None:
                end = min(count, begin + self.learning.room)
                self.learning.add(seen.cells[begin:end])
                if self.learning.is_full:
                    told += self._take_learned(self.learning, seen, end - 1)
            else:
                end = min(count, begin + self.options.block_events - self.fill)
                told += self._count(seen, begin, end)
            begin = end
        return told

    def _take_learned(self, learning: ReferencePhase, seen: Seen, row: int) -> list[Told]:
        halves, design, least_design = learning.learned()
        windows = self.windows
        windows.begin(halves[0], self.bins.score, ~self._is_categorical)
        windows.begin_design(*least_design)
        if learning.may_start_anew and not windows.is_stable(halves[0], halves[1]):
            learning.start_anew()
            return []
        windows.begin_design(*design)
        reference = halves[0] + halves[1]
        for column, counts in learning.given_counts().items():
            reference[column] = counts
        self.learning = None
        return [self._begin_watching(reference, seen, row)]

    def _begin_watching(self, reference: I64, seen: Seen, row: int) -> Told:
        self.bins.rank(reference, ~self._is_categorical)
        self.windows.begin(reference, self.bins.score, ~self._is_categorical)
        if self.dependence is not None:
            self.dependence.begin()
        self.fill = self.open_blocks = self.open_dependence = 0
        self.block_ms = int(seen.watermarks_ms[row])
        return self.owner.maintenance(
            "drift_reference_taken", int(seen.offsets[row]), events=seen.first_sequence + row + 1
        )

    def _count(self, seen: Seen, begin: int, end: int) -> list[Told]:
        windows, bins = self.windows, self.bins
        if self.fill == 0:
            place = windows.blocks % self.options.blocks_max
            self.starts[place] = seen.offsets[begin], seen.times_ms[begin]
        if len(self._found) < end - begin:
            self._found = np.empty((end - begin, len(self._is_categorical)), dtype=np.uint8)
        found, cells = self._found[: end - begin], seen.cells[begin:end]
        other = bins.count - 2
        count_bins(cells, self._is_categorical, bins.center, bins.edges, bins.table, other, found, windows.counts)
        if self.dependence is not None:
            self.dependence.add(found, bins.score)
        self.fill += end - begin
        return self._end_block(seen, end - 1) if self.fill == self.options.block_events else []

    def _end_block(self, seen: Seen, row: int) -> list[Told]:
        now_ms, windows, dependence = int(seen.watermarks_ms[row]), self.windows, self.dependence
        share = spent_share(now_ms - self.block_ms, self.fill)
        self.block_ms, self.fill = now_ms, 0
        windows.end_block(share)
        is_affected = windows.is_affected
        told = self._look(seen, row, is_affected=is_affected)
        if dependence is not None:
            dependence.end_block(share, is_calm=not is_affected)
            told += self._look_at_dependence(dependence, seen, row)
        told += self._adopt(seen, row)
        if self.learning is None:
            self.windows.next_block()
            if dependence is not None:
                dependence.next_block()
        return told

    # What is found.

    def _look(self, seen: Seen, row: int, *, is_affected: bool) -> list[Told]:
        if not is_affected and self.predictions.open is None and self.inputs.open is None:
            self.predictions.stay_closed()
            self.inputs.stay_closed()
            self.open_blocks = 0
            return []
        columns = np.flatnonzero(self.windows.affected >= 0)
        findings = self._findings(columns)
        of_prediction = [each for place, each in zip(columns, findings, strict=True) if place == 0]
        of_inputs = [each for place, each in zip(columns, findings, strict=True) if place != 0]
        told: list[Told] = []
        for standing, found, places, looked_at in (
            (self.predictions, of_prediction, columns[columns == 0], 1),
            (self.inputs, of_inputs, columns[columns != 0], len(self._is_categorical) - 1),
        ):
            moment = Moment.at(seen, row, self._window_of(self.windows, places), looked_at)
            told += standing.look(found, moment, self._pattern(places))
        self.open_blocks = self.open_blocks + 1 if self.predictions.open or self.inputs.open else 0
        return told

    def _findings(self, columns: I64) -> list[Finding]:
        windows, names = self.windows, [each.name for each in self._table.columns]
        names[0] = "prediction"
        lengths = windows.affected[columns]
        if len(columns) == 0:
            return []
        effects = np.zeros((len(self.options.tests), len(columns)))
        for length in np.unique(lengths).tolist():
            here = lengths == length
            places = columns[here]
            effects[:, here] = self._effects(windows, places, windows.total(windows.lengths[length])[places])
        order = np.lexsort((columns, -effects[0]))
        shown = set(order[: self._lists_max + 1].tolist())
        return [
            self._finding(windows, int(column), names[column], effects[:, k].tolist(), is_shown=k in shown)
            for k, column in enumerate(columns)
        ]

    def _effects(self, windows: Windows, places: I64, window: I64) -> F64:
        reference = windows.reference[places]
        return np.array(
            [
                windows.psi[places] if name == "psi" else OTHER_EFFECTS[name](reference, window)
                for name in self.options.tests
            ]
        )

    def _finding(
        self, windows: Windows, place: int, name: str, effects: Sequence[float], *, is_shown: bool, detail: str = ""
    ) -> Finding:
        length = min(windows.lengths[windows.affected[place]], windows.blocks)
        offset, time_ms = self.starts[(windows.blocks - length) % self.options.blocks_max].tolist()
        others = [f"{test} {effect:.3f}" for test, effect in zip(self.options.tests[1:], effects[1:], strict=True)]
        told = ", ".join(([detail] if detail else []) + others) if is_shown else None
        changed = Changed(
            name=name,
            measure=self.options.tests[0],
            observed=effects[0],
            expected=0.0,
            effect=effects[0],
            p_value=float(windows.p_value[place]),
            since_offset=offset,
            since_ms=time_ms,
            detail=told or None,
        )
        return Finding(changed, "critical" if windows.psi[place] >= PSI_CRITICAL else "warning")

    def _window_of(self, windows: Windows, places: I64) -> int:
        """Return the events of the window in which the worst column was found; of a block when there is none."""
        if len(places) == 0:
            return self.options.block_events
        worst = places[np.argmax(windows.psi[places])]
        length = windows.lengths[int(windows.affected[worst])]
        return min(length, windows.blocks) * self.options.block_events

    def _pattern(self, places: I64) -> Pattern | None:
        windows = self.windows
        if len(places) == 0:
            return None
        worst = int(places[np.argmax(windows.psi[places])])
        total = windows.total(windows.lengths[windows.affected[worst]])
        if self.regimes.match(windows, total, windows.affected >= 0, self.options.psi_min) is not None:
            return "recurring"
        return shape_of(
            windows.reference[worst], total[worst], windows.latest(self.options.blocks_max, worst).astype(np.int64)
        )

    def _look_at_dependence(self, dependence: Dependence, seen: Seen, row: int) -> list[Told]:
        windows = dependence.windows
        if not windows.is_affected and self.multivariate.open is None:
            self.multivariate.stay_closed()
            self.open_dependence = 0
            return []
        affected = dependence.affected(self.windows.affected >= 0)
        places = np.array([each.place for each in affected], dtype=np.int64)
        findings = [self._relation(windows, each) for each in affected]
        moment = Moment.at(seen, row, self._window_of(windows, places), len(windows.affected))
        told = self.multivariate.look(_once(findings), moment)
        self.open_dependence = 0 if self.multivariate.open is None else self.open_dependence + 1
        if self.open_dependence * self.options.block_events >= self.options.adopt_events:
            dependence.begin()
            self.open_dependence = 0
            told += self.multivariate.close(moment)
        return told

    def _relation(self, windows: Windows, projected: Projected) -> Finding:
        place, names = projected.place, [each.name for each in self._table.columns]
        names[0] = "prediction"
        total = windows.total(windows.lengths[windows.affected[place]])
        effects = self._effects(windows, np.array([place]), total[[place]])[:, 0].tolist()
        if projected.pair is None:
            return self._finding(windows, place, "", effects, is_shown=True, detail="all columns")
        # A feature is named rather than the prediction.
        one, other = sorted(projected.pair, key=lambda column: (column == 0, column))
        detail = f"how it goes with {names[other]}"
        return self._finding(windows, place, names[one], effects, is_shown=True, detail=detail)

    # A drift that stays.

    def _adopt(self, seen: Seen, row: int) -> list[Told]:
        """Take what is now for the reference, when an alarm has stood for `adopt_events` and nothing moves any more."""
        options, windows = self.options, self.windows
        due = self.open_blocks * options.block_events >= options.adopt_events and (windows.affected >= 0).any()
        if not due or self.open_blocks % min(_STABLE_CHECK_BLOCKS, options.blocks_max) or not self._is_settled():
            return []
        blocks = min(self.open_blocks, options.blocks_max)
        now = windows.total(blocks).copy()
        moment = Moment.at(seen, row, blocks * options.block_events, len(self._is_categorical))
        told = self.inputs.close(moment) + self.predictions.close(moment) + self.multivariate.close(moment)
        old = windows.reference.copy()
        if outgrown(old, now) or blocks * options.block_events < options.reference_events:
            # The bins, or the events at hand, are too few for what is now.
            self.regimes.forget()
            self.windows.affected[:] = NOT_AFFECTED
            self.open_blocks = self.open_dependence = 0
            self.learn()
            return told
        self.regimes.remember(windows, old, now, options.psi_min)
        return [*told, self._begin_watching(now, seen, row)]

    def _is_settled(self) -> bool:
        windows, blocks = self.windows, min(self.open_blocks, self.options.blocks_max)
        half = blocks // 2
        if half == 0:
            return True
        newer = windows.total(half).copy()
        return windows.is_stable(windows.total(blocks) - newer, newer)

    # Storing and restoring.

    def plain(self) -> StoredDrift:
        """Return the plain part of the state."""
        return StoredDrift.of(self)

    def arrays(self) -> dict[str, AnyArray]:
        """Return the live arrays."""
        return storing.arrays_of(self)

    def restore(self, plain: StoredDrift, arrays: Arrays) -> None:
        """Take over what `plain` and `arrays` gave, the columns being known; ValueError for what cannot be."""
        storing.restore(self, plain, arrays, len(self._table))


def _once(findings: Sequence[Finding]) -> list[Finding]:
    """Return the first finding of each name: the largest change comes first."""
    return list({each.changed.name: each for each in reversed(findings)}.values())


def _input_sentence(changed: Changed) -> str:
    return f"feature `{changed.name}` has drifted ({changed.measure} {changed.effect:.3f})"


def _prediction_sentence(changed: Changed) -> str:
    return f"predictions have drifted ({changed.measure} {changed.effect:.3f})"


def _multivariate_sentence(changed: Changed) -> str:
    what = f"feature `{changed.name}`" if changed.name else "the columns"
    return f"the dependence of {what} has changed ({changed.measure} {changed.effect:.3f})"
