"""The shadow pool: the deployed model, its recalibrated self and the challengers, each judged on the same labels.

    labelled rows ─► losses of all candidates, as of the prediction ─► gate (proof) ─► ready, taken back
                        │                                          └─► ranking (advice) ─► another candidate is best now
                        ├─► recalibration ─► coefficients              └─► watch of a new version ─► roll back
                        └─► figures, thresholds

Nothing is judged on labels that it has seen. A pool belongs to one version of the model; with the next one it begins
anew, and only the watch of that version remembers what was promised of it.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from worker.core.kernels.arrays import F32, F64, I32, I64
from worker.core.kernels.shadow import add_figures, candidate_losses
from worker.core.maintenance.after_promotion import AfterPromotion
from worker.core.maintenance.gate import PromotionGate
from worker.core.maintenance.pool_figures import PoolFigures
from worker.core.maintenance.ranking import Ranking
from worker.core.maintenance.recalibration import UNKNOWN_GENERATION, Recalibration
from worker.core.maintenance.targets import LOSS_CODES, Subject
from worker.core.maintenance.thresholds import ScoreCounts
from worker.core.options import MaintenanceOptions
from worker.core.state import AnyArray, Arrays, by_part, check_like, prefixed, refuse_if

CHAMPION, RECALIBRATED = "champion", "recalibrated"
_STORED = "stored shadow pool"

Event: TypeAlias = Literal["advice", "ready", "withdrawn", "recalibration", "rollback"]


class Judged(NamedTuple):
    """Labelled events (n) of the version that the pool is about, in the order in which labels came.

    `outputs` f64[n, K] of the model, `wrong` f64[n] whether its decision was, `challengers` f32[n, C x K] what each
    challenger said then; `generations` of the recalibration then; `places` i32[n, segments]; `offsets` of predictions.
    """

    outputs: F64
    targets: F64
    wrong: F64
    challengers: F32
    generations: I64
    places: I32
    segments: I64
    offsets: I64

    def part(self, begin: int, end: int) -> "Judged":
        """Return rows [begin, end)."""
        return Judged._make(column[begin:end] for column in self)


class Happening(NamedTuple):
    """Something to be told, at a row; `candidate` by its place in the pool."""

    row: int
    event: Event
    candidate: int


class ShadowPool:
    """All candidates of one version of one model."""

    def __init__(
        self, subject: Subject, challengers: tuple[str, ...], places: int, threshold: float, options: MaintenanceOptions
    ) -> None:
        self.subject, self._threshold, self._options = subject, threshold, options
        self._outputs_known = subject.has_probabilities or subject.task == "regression"
        self.names = (CHAMPION, *([RECALIBRATED] if self._outputs_known else []), *challengers)
        self.first_challenger = len(self.names) - len(challengers)
        self.recalibration: Recalibration | None = None
        if self._outputs_known:
            self.recalibration = Recalibration(subject.task, subject.outputs, options.recalibration)
        self.ranking = Ranking(len(self.names), options.ranking)
        self.gate = PromotionGate(len(challengers), places, 1.0, options.gate) if challengers else None
        self.figures = PoolFigures(len(self.names))
        self.scores: ScoreCounts | None = None
        if subject.task == "binary" and subject.has_probabilities:
            self.scores = ScoreCounts(options.threshold)
        self.watch: AfterPromotion | None = None
        self._ready: set[int] = set()
        # The first number: what targets are shifted by before they are squared. NaN: none yet.
        self._shift: F64 = np.full(1, np.nan)

    @property
    def room(self) -> int:
        """Labels until the next look of the recalibration."""
        return self.recalibration.room if self.recalibration is not None else self._options.recalibration.block_labels

    @property
    def generation(self) -> int:
        """To be remembered with each prediction that is made now."""
        return UNKNOWN_GENERATION if self.recalibration is None else self.recalibration.generation

    @property
    def ready(self) -> list[int]:
        """The candidates that were told to be ready, and are still."""
        return [self.first_challenger + each for each in sorted(self._ready)]

    def judge(self, rows: Judged) -> Iterator[Happening]:
        """Take in labels (n <= room); yield what happens at each row, with everything as it was at that row."""
        outputs = self._all_outputs(rows)
        losses = np.empty((len(rows.targets), len(self.names)))
        loss, scale = LOSS_CODES[self.subject.loss], self.subject.scale
        candidate_losses(loss, outputs, rows.targets, self._threshold, scale, losses)
        if not self._outputs_known:
            losses[:, 0] = rows.wrong
        yield from self._compare(losses, rows.places)
        self._add_figures(outputs, losses, rows)
        if self.scores is not None:
            self.scores.add(rows.outputs[:, 0], rows.targets)
        if self.recalibration is not None:
            steps = self.recalibration.learn(rows.outputs, rows.targets, rows.generations, rows.segments, rows.offsets)
            yield from (Happening(step.row, "recalibration", 1) for step in steps)

    def _all_outputs(self, rows: Judged) -> F64:
        """Return what each candidate said, f64[n, C, K]."""
        count, width = len(rows.targets), self.subject.outputs
        outputs = np.full((count, len(self.names), width), np.nan)
        if self.recalibration is not None:
            outputs[:, 0] = rows.outputs
            outputs[:, 1] = self.recalibration.apply(rows.outputs, rows.segments, rows.generations)
        challengers = len(self.names) - self.first_challenger
        outputs[:, self.first_challenger :] = rows.challengers.reshape(count, challengers, width)
        return outputs

    def _compare(self, losses: F64, places: I32) -> Iterator[Happening]:
        """Let gate, ranking and watch take the same rows in step: what is told at one is as of that row in all."""
        begin, count = 0, len(losses)
        tested = np.ascontiguousarray(losses[:, [0, *range(self.first_challenger, len(self.names))]])
        while begin < count:
            stop = count if self.gate is None else min(self.gate.take(tested, places, begin), count)
            end = min(stop + 1, count)
            yield from self._rank(losses[:end], begin)
            yield from self._watch(losses[:end], begin)
            if stop < count and self.gate is not None:
                yield from self._gate_changes(stop)
            begin = end

    def _rank(self, losses: F64, begin: int) -> Iterator[Happening]:
        row = begin
        while (row := self.ranking.take(losses, row)) < len(losses):
            yield Happening(row, "advice", self.ranking.advised)
            row += 1

    def _watch(self, losses: F64, begin: int) -> Iterator[Happening]:
        row = begin
        while self.watch is not None and row < len(losses):
            references = losses[:, np.array([max(each.candidate, 0) for each in self.watch.promised])]
            row = self.watch.take(losses[:, 0], references, row)
            if self.watch.conclusion == "rollback_advised" and row < len(losses):
                yield Happening(row, "rollback", 0)
                self.watch = None
            row += 1

    def _gate_changes(self, row: int) -> Iterator[Happening]:
        if self.gate is None:
            return
        for challenger in range(len(self.names) - self.first_challenger):
            is_ready = self.gate.status(challenger) == "ready"
            if is_ready != (challenger in self._ready):
                # What is true of one row is told at that row, and remembered for the next.
                self._ready ^= {challenger}
                yield Happening(row, "ready" if is_ready else "withdrawn", self.first_challenger + challenger)

    def _add_figures(self, outputs: F64, losses: F64, rows: Judged) -> None:
        is_number = self.subject.task == "regression"
        if np.isnan(self._shift[0]) and len(rows.targets):
            self._shift[0] = rows.targets[0]
        add_figures(
            is_number, outputs, rows.targets, losses, self._threshold, float(self._shift[0]), self.figures.open_block
        )

    def forget_place(self, place: int, *, of_first: bool) -> None:
        """A value of a segment has given way; `of_first`: of the first declared one, that the recalibration knows."""
        if self.gate is not None:
            self.gate.forget_places([place])
        if self.recalibration is not None and of_first and place < self.recalibration.segments_max:
            self.recalibration.forget_segment(place)

    def end_block(self) -> None:
        """Look at what is due after so many labels, wherever batches are cut."""
        self.figures.end_block()
        if self.watch is not None and self.watch.is_over:
            self.watch = None

    # Storing and restoring; the promises of the watch are the caller's to store.

    def arrays(self) -> dict[str, AnyArray]:
        """Return the live arrays."""
        arrays: dict[str, AnyArray] = {"own.shift": self._shift, **prefixed("figures", self.figures.arrays())}
        for name, part in self._parts().items():
            arrays |= prefixed(name, part.arrays())
        return arrays

    def _parts(self) -> dict[str, Recalibration | Ranking | PromotionGate | ScoreCounts | AfterPromotion]:
        parts = {
            "recalibration": self.recalibration,
            "ranking": self.ranking,
            "gate": self.gate,
            "scores": self.scores,
            "watch": self.watch,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def restore(self, arrays: Arrays) -> None:
        """Take over copies, with the watch in place if there was one; ValueError for what cannot be."""
        owned = self._parts()
        parts = by_part(_STORED, arrays, ("own", "figures", *owned))
        check_like(_STORED, parts["own"], {"shift": self._shift})
        refuse_if(_STORED, {"the shift is infinite": bool(np.isinf(parts["own"]["shift"]).any())})
        self.figures.restore(parts["figures"])
        for name, part in owned.items():
            part.restore(parts[name])
        self._shift[:] = parts["own"]["shift"]
        challengers = range(len(self.names) - self.first_challenger)
        self._ready = {each for each in challengers if self.gate is not None and self.gate.status(each) == "ready"}
