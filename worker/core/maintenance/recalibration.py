"""Recalibration: what a model says is put right by a few coefficients, fitted on its latest labels.

Candidates (a method and a window each) are refitted every so many labels. Each set of them is a *generation*. A
prediction is remembered with the generation in force; when its label comes, each candidate's loss is that of the
coefficients of that time, so nothing is ever judged on labels it has seen. The best candidate is published when that
changes what a server would answer. Where none is better than the model as it is, that is published: the identity.

    prediction ──► generation in force ─ ─ ─ waits in the join ─ ─ ─► label
                                                                        │ losses of all candidates as of then
                                             ring of labelled rows ◄────┤
                                                   │ every block        ▼ every block
                                                   └─► refits ──► new generation ◄── choice (recalibration_choice.py)

Everything happens at counts of labels, so that how a stream is cut changes nothing.
"""

from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from worker.core.kernels import recalibration as k
from worker.core.kernels.arrays import F64, I64
from worker.core.maintenance import recalibration_fits as fits
from worker.core.maintenance.recalibration_choice import Choice
from worker.core.maintenance.recalibration_fits import Rows
from worker.core.maintenance.recalibration_rows import LabelledRows
from worker.core.options.maintenance import ClassLoss, NumberLoss, RecalibrationOptions
from worker.core.state import COUNT_MAX, AnyArray, Arrays, by_part, check_like, fill, outside, prefixed, refuse_if

Task: TypeAlias = Literal["binary", "multiclass", "regression"]

_STORED = "stored recalibration"
_TASKS: dict[Task, int] = {"binary": k.BINARY, "multiclass": k.CLASSES, "regression": k.NUMBER}
_CLASS_LOSSES: dict[ClassLoss, int] = {"log_loss": 0, "brier": 1, "error": 2}
_NUMBER_LOSSES: dict[NumberLoss, int] = {"squared_error": 0, "absolute_error": 1}
METHODS: dict[str, int] = {
    "identity": k.IDENTITY,
    "platt": k.PLATT,
    "temperature": k.TEMPERATURE,
    "beta": k.BETA,
    "isotonic": k.ISOTONIC,
    "vector": k.VECTOR,
    "linear": k.LINEAR,
    "segment_bias": k.BIAS,
}
"""Names of methods, as published, and their codes in kernels."""

_METHODS_OF: dict[Task, tuple[str, ...]] = {
    "binary": ("platt", "temperature", "beta", "isotonic"),
    "multiclass": ("temperature", "vector"),
    "regression": ("linear", "segment_bias", "isotonic"),
}
_REFITS, _CLASS_REFITS = 20, 10
"""A window is refitted after this share of its length at most, of several classes less often: those fits are dear."""

UNKNOWN_GENERATION = -1
"""Of a prediction that was made before there was a recalibration, or that is not remembered."""


class Candidate(NamedTuple):
    """A method, fitted on each of some windows of the latest labels; its coefficients are the mean of those fits.

    The best window differs from stream to stream and from month to month, and to choose one by its losses is mostly
    noise (measured on three streams). The mean of coefficients is a set of coefficients: of logits, a geometric mean of
    the probabilities (a logarithmic opinion pool, Genest & Zidek 1986).
    """

    method: str
    windows: tuple[int, ...]


WINDOWS = (500, 1_000, 2_000, 8_000)
DEFAULT_CANDIDATES: dict[Task, tuple[Candidate, ...]] = {
    "binary": (
        Candidate("platt", WINDOWS),
        Candidate("beta", WINDOWS),
    ),
    "multiclass": (Candidate("temperature", WINDOWS), Candidate("vector", (1_000, 4_000))),
    "regression": (
        Candidate("linear", (500,)),
        Candidate("linear", WINDOWS),
        Candidate("segment_bias", (500, 2_000)),
    ),
}


class Step(NamedTuple):
    """After a row of `learn`, the coefficients to publish have changed."""

    row: int
    generation: int


def _check(candidate: Candidate, task: Task) -> None:
    """Refuse a candidate that there cannot be; ValueError."""
    method, windows = candidate
    if method not in _METHODS_OF[task]:
        raise ValueError(f"recalibration of a {task} model: `{method}` is none of {', '.join(_METHODS_OF[task])}")
    if not windows or min(windows) < 1 or (method == "isotonic" and len(windows) > 1):
        raise ValueError(f"recalibration: `{method}` needs {'one window' if method == 'isotonic' else 'windows'}")


class Recalibration:
    """Recalibration of one model."""

    def __init__(
        self,
        task: Task,
        outputs: int,
        options: RecalibrationOptions,
        candidates: tuple[Candidate, ...] | None = None,
    ) -> None:
        """`outputs` is the number of classes of a multiclass model, else 1."""
        self._options, self.task, self._task, self.outputs = options, task, _TASKS[task], outputs
        wanted = DEFAULT_CANDIDATES[task] if candidates is None else candidates
        if outputs > options.scaled_classes_max:
            wanted = tuple(each for each in wanted if each.method != "vector")
        for each in wanted:
            _check(each, task)
        self.candidates = (Candidate("identity", ()), *wanted)
        # One fit for each method and window, whatever candidates share it.
        self._parts = sorted({(METHODS[each.method], window) for each in wanted for window in each.windows})
        count = len(self.candidates) + 1
        width = max(2 * options.knots_max + 1, 2 * outputs, options.segments_max + 1)
        self._choice = Choice(count - 1, options.fade, options.evidence, options.blocks_min)
        rows_max = max((window for _, window in self._parts), default=1)
        self._rows = LabelledRows(rows_max, outputs, has_bins=self._task == k.BINARY)
        self._methods: I64 = np.zeros((options.generations_max, count), dtype=np.int64)
        self._coefficients: F64 = np.zeros((options.generations_max, count, width))
        self._fits: F64 = np.zeros((len(self._parts), width))
        self._fitted: I64 = np.zeros(len(self._parts), dtype=np.int64)
        self._totals: F64 = np.zeros((count, k.LOSSES))
        self._blocks: F64 = np.zeros((options.blocks_max, 2, k.SUMS))
        self._shift: F64 = np.zeros(1)
        # Generation, labels in the open block, labels that counted in it, labels that came too late, blocks kept.
        self._counters: I64 = np.zeros(5, dtype=np.int64)
        # The candidate that is published, and the offsets of the oldest and the newest label it was fitted on.
        self._published: I64 = np.array([0, -1, -1], dtype=np.int64)
        self._work: F64 = np.zeros((3, max(outputs, k.LOSSES)))

    @property
    def segments_max(self) -> int:
        """Segments with a bias of their own."""
        return self._options.segments_max

    # What a prediction needs.

    @property
    def generation(self) -> int:
        """The generation in force: to be remembered with each prediction that is made now."""
        return int(self._counters[0])

    @property
    def late(self) -> int:
        """Labels that judged nothing: their generation was not remembered any more."""
        return int(self._counters[3])

    def apply(self, outputs: F64, segments: I64, generations: I64 | None = None) -> F64:
        """Return outputs (n x K) as the published coefficients put them right, now or as of each row's generation.

        What was published in a generation that is not remembered any more leaves an output as it is.
        """
        at = np.full(len(outputs), self.generation, dtype=np.int64) if generations is None else generations
        found = np.empty_like(outputs)
        published = np.ascontiguousarray(self._coefficients[:, -1])
        methods = np.ascontiguousarray(self._methods[:, -1])
        k.recalibrate_all(self._task, methods, published, self._slots(at), outputs, self._known(segments), found)
        return found

    # What a label brings.

    @property
    def room(self) -> int:
        """Labels until the next look: a caller that tells what was published cuts its batches there."""
        return self._options.block_labels - int(self._counters[1])

    def learn(self, outputs: F64, targets: F64, generations: I64, segments: I64, offsets: I64) -> list[Step]:
        """Take in labels, in the order in which they came; return where coefficients to publish have changed.

        Args:
            outputs: f64[n, K], what the model said: finite; probability of the positive class, of each class, a number.
            targets: f64[n], the class (0 .. K - 1; binary 0, 1) or the number, finite.
            generations: i64[n], `generation` at the time of the prediction.
            segments: i64[n], -1 for none.
            offsets: i64[n], of the predictions.
        """
        steps, begin, block = [], 0, self._options.block_labels
        segments = self._known(segments)
        while begin < len(targets):
            end = min(len(targets), begin + block - int(self._counters[1]))
            self._take(outputs[begin:end], targets[begin:end], generations[begin:end], segments[begin:end])
            self._rows.add(outputs[begin:end], targets[begin:end], segments[begin:end], offsets[begin:end])
            self._counters[1] += end - begin
            if self._counters[1] == block and self._end_block():
                steps.append(Step(end - 1, self.generation))
            begin = end
        return steps

    def _take(self, outputs: F64, targets: F64, generations: I64, segments: I64) -> None:
        if self._rows.seen == 0:
            self._shift[0] = targets[0]
        slots = self._slots(generations)
        place = int(self._counters[4]) % self._options.blocks_max
        if self._counters[1] == 0:
            self._blocks[place] = 0.0
        counted = k.score_labels(
            self._task, self._methods, self._coefficients, slots, np.ascontiguousarray(outputs), targets, segments,
            float(self._shift[0]), self._totals, self._blocks[place], self._work,
        )  # fmt: skip
        self._counters[2] += counted
        self._counters[3] += len(targets) - counted

    def forget_segment(self, segment: int) -> None:
        """A segment's number stands for another one from now on: it has the bias of all rows, and no rows yet."""
        self._rows.forget_segment(segment)
        biased = self._methods == k.BIAS
        self._coefficients[biased, 1 + segment] = self._coefficients[biased, 0]
        of_parts = np.array([method == k.BIAS for method, _ in self._parts], dtype=np.bool)
        self._fits[of_parts, 1 + segment] = self._fits[of_parts, 0]

    def _slots(self, generations: I64) -> I64:
        """Return the places of generations in the ring; -1 for those that are not remembered."""
        newest, kept = self.generation, self._options.generations_max
        known = (generations >= 0) & (generations <= newest) & (generations > newest - kept)
        return np.where(known, generations % kept, -1).astype(np.int64)

    def _known(self, segments: I64) -> I64:
        return np.where((segments >= 0) & (segments < self._options.segments_max), segments, -1).astype(np.int64)

    def _end_block(self) -> bool:
        """Judge and refit; tell whether what is published has changed."""
        counted, block = int(self._counters[2]), self._options.block_labels
        if 2 * counted >= block:
            options, is_number = self._options, self._task == k.NUMBER
            loss = _NUMBER_LOSSES[options.number_loss] if is_number else _CLASS_LOSSES[options.class_loss]
            self._choice.add(self._totals[:-1, loss] / counted)
            self._counters[4] += 1
        self._totals[:] = 0.0
        self._counters[1:3] = 0
        self._new_generation()
        return self._publish()

    def _new_generation(self) -> None:
        kept = self._options.generations_max
        old, new = self.generation % kept, (self.generation + 1) % kept
        self._methods[new], self._coefficients[new] = self._methods[old], self._coefficients[old]
        self._counters[0] += 1
        self._refit()
        for place, candidate in enumerate(self.candidates[1:], 1):
            method = METHODS[candidate.method]
            fitted = [
                part for part, (of, window) in enumerate(self._parts)
                if of == method and window in candidate.windows and self._fitted[part]
            ]  # fmt: skip
            if fitted:
                self._methods[new, place] = method
                self._coefficients[new, place] = self._fits[fitted].mean(axis=0)

    def _refit(self) -> None:
        """Refit what is due: after each block, on long windows after a share of their length, and while they fill."""
        seen, block = self._rows.seen, self._options.block_labels
        if seen < self._options.rows_min:
            return
        share = _CLASS_REFITS if self._task == k.CLASSES else _REFITS
        due = {
            window
            for _, window in self._parts
            if seen % (max(window // (share * block), 1) * block) == 0 or seen < share * block
        }
        longest, is_binary = max(due, default=0), self._task == k.BINARY
        rows = self._rows.latest(0 if is_binary else longest)
        bins = self._rows.bins(longest) if is_binary else None
        counts = {} if bins is None else {window: fits.score_counts(bins[-window:]) for window in due}
        for part, (method, window) in enumerate(self._parts):
            if window in due:
                found = self._fit(part, method, rows.last(window), counts.get(window))
                if found is not None:
                    self._fits[part], self._fitted[part] = 0.0, 1
                    self._fits[part, : len(found)] = found

    def _fit(self, part: int, method: int, rows: Rows, counts: F64 | None) -> F64 | None:
        """Return new coefficients; None where there is too little to fit on: the old ones stay."""
        options, before = self._options, self._fits[part] if self._fitted[part] else None
        if self._task == k.NUMBER:
            if method == k.ISOTONIC:
                return fits.fit_number_steps(rows, options.knots_max)
            return fits.fit_line(rows) if method == k.LINEAR else fits.fit_biases(rows, options.segments_max)
        if counts is None:
            # One class tells nothing of the others.
            several = bool((rows.targets != rows.targets[0]).any())
            return fits.fit_class_scales(method, rows, options.precision, before) if several else None
        if counts.sum(axis=1).min() < options.class_labels_min:
            return None
        if method == k.ISOTONIC:
            return fits.fit_score_steps(counts, options.knots_max)
        return fits.fit_scores(method, counts, options.precision, before)

    def _publish(self) -> bool:
        """Take over the chosen candidate's coefficients as the published ones, if that changes an answer."""
        slot, chosen = self.generation % self._options.generations_max, self._choice.chosen
        before = int(self._published[0])
        if chosen == before and (chosen == 0 or self._change(slot, chosen) < self._options.publish_change_min):
            return False
        self._methods[slot, -1] = self._methods[slot, chosen]
        self._coefficients[slot, -1] = self._coefficients[slot, chosen]
        self._published[0] = chosen
        self._published[1:] = self._rows.offsets(max(self.candidates[chosen].windows)) if chosen else (-1, -1)
        return True

    def _change(self, slot: int, chosen: int) -> float:
        """Return the mean change of the latest block's outputs between the published and the new coefficients."""
        rows = self._rows.latest(self._options.block_labels)
        found = np.empty((2, *rows.outputs.shape))
        slots = np.full(len(rows.targets), slot, dtype=np.int64)
        for place, each in enumerate((-1, chosen)):
            methods = np.ascontiguousarray(self._methods[:, each])
            coefficients = np.ascontiguousarray(self._coefficients[:, each])
            k.recalibrate_all(self._task, methods, coefficients, slots, rows.outputs, rows.segments, found[place])
        change = float(np.abs(found[0] - found[1]).mean())
        if self._task != k.NUMBER:
            return change
        spread = float(rows.targets.std())
        return change / spread if spread > 0.0 else change

    # What is told.

    def published(self) -> tuple[Candidate, F64]:
        """Return what is published: the candidate and its coefficients, as `kernels.recalibration` reads them."""
        slot = self.generation % self._options.generations_max
        return self.candidates[int(self._published[0])], self._coefficients[slot, -1].copy()

    def fitted_on(self) -> tuple[int, int] | None:
        """Return the offsets of the first and the last prediction whose label may be in it; None: identity.

        They are those of the longest window at the time of publishing. A fit on a long window can be older, by a
        twentieth of its length at most (several classes: a tenth).
        """
        first, last = (int(each) for each in self._published[1:])
        return None if first < 0 else (first, last)

    def blocks(self) -> F64:
        """Return the sums (B x 2 x SUMS) of whole blocks, oldest first: the model's outputs, the published ones."""
        done, size = int(self._counters[4]), self._options.blocks_max
        # The place of the open block is no longer that of an old one.
        kept = min(done, size - 1)
        return self._blocks[(done - kept + np.arange(kept)) % size]

    # Storing and restoring.

    def arrays(self) -> dict[str, AnyArray]:
        """Return the live arrays: all the state there is."""
        return {
            **prefixed("own", self._own()),
            **prefixed("rows", self._rows.live()),
            **prefixed("choice", self._choice.live()),
        }

    def _own(self) -> dict[str, AnyArray]:
        return {
            "methods": self._methods,
            "fits": self._fits,
            "fitted": self._fitted,
            "coefficients": self._coefficients,
            "totals": self._totals,
            "blocks": self._blocks,
            "shift": self._shift,
            "counters": self._counters,
            "published": self._published,
        }

    def restore(self, arrays: Arrays) -> None:
        """Take over copies; ValueError for what cannot be."""
        parts = by_part(_STORED, arrays, ("own", "rows", "choice"))
        own = parts["own"]
        check_like(_STORED, own, self._own())
        allowed = np.array([*(METHODS[each.method] for each in self.candidates), 0])
        methods, coefficients, block = own["methods"], own["coefficients"], self._options.block_labels
        published = np.isin(methods[:, -1], allowed).all()
        refuse_if(
            _STORED,
            {
                "a method is none of its candidate": not (
                    published and ((methods == allowed) | (methods == k.IDENTITY))[:, :-1].all()
                ),
                "a number is not finite": not all(
                    np.isfinite(own[name]).all() for name in ("coefficients", "fits", "totals", "blocks", "shift")
                ),
                "knots are out of range": outside(
                    coefficients[..., 0][methods == k.ISOTONIC], 1, (coefficients.shape[2] - 1) // 2
                ),
                "a fit is neither there nor not": outside(own["fitted"], 0, 1),
                "knots of a fit are out of range": outside(
                    own["fits"][:, 0][(own["fitted"] == 1) & np.array([of == k.ISOTONIC for of, _ in self._parts])],
                    1,
                    (coefficients.shape[2] - 1) // 2,
                ),
                "a count is out of range": outside(own["counters"], 0, COUNT_MAX),
                "the open block is too full": outside(own["counters"][1], 0, block - 1)
                or outside(own["counters"][2], 0, own["counters"][1]),
                "what is published does not exist": outside(own["published"][0], 0, len(self.candidates) - 1),
                "an offset is out of range": outside(own["published"], -1, COUNT_MAX),
            },
        )
        self._rows.check(parts["rows"], self._task, self.outputs, self._options.segments_max)
        self._choice.restore(parts["choice"])
        self._rows.restore(parts["rows"])
        fill(self._own(), own)
