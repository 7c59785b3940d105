"""The books of one model, once its task is known: series, limits, coverage, drift, and what labels did not fit."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from worker.core.kernels.arrays import F64, I8, I16, I32, I64, Bool
from worker.core.metric_names import COVERAGE, LAG_METRICS
from worker.core.options import ModelPerformanceOptions, PerformanceOptions
from worker.core.performance.alerts import Facts, Subject, drift_alert, limit_alert
from worker.core.performance.batch import Labelled
from worker.core.performance.bias import BiasSetup, CalibrationWatch, GapWatch
from worker.core.performance.concept import ConceptWatch
from worker.core.performance.confidence import Confidences, confidence_bins
from worker.core.performance.coverage import Coverage
from worker.core.performance.formulas import Formulas, lag_estimates
from worker.core.performance.label_join import NO_BLOCK
from worker.core.performance.layout import Layout, labelled
from worker.core.performance.limits import Step, conditions
from worker.core.performance.publishing import Flush, Publisher
from worker.core.performance.records import Z95
from worker.core.performance.reference import Look, Reference
from worker.core.performance.segments import OTHER, Segments
from worker.core.performance.series import Addition
from worker.core.performance.series_keys import Key, series_key
from worker.core.performance.tallies import Rows
from worker.core.performance.task import Classes, Pairs, Quality, Task
from worker.core.performance.telling import PerformanceOwner
from worker.core.performance.values import Names
from worker.core.performance.watched import WRONG_MAX, Happening, Watched
from worker.core.scanning import NUMBER
from worker.core.standing import Moment
from worker.core.telling import Place, Told

_CLASSES_TOLD = 3


class _Sides(NamedTuple):
    """Labels, labels before and predictions of labelled events (n) as classes or numbers, and which are usable.

    `old_predictions`: the predictions as they stand against the labels before.
    """

    labels: F64 | I16
    label_ok: Bool
    old_labels: F64 | I16
    old_ok: Bool
    predictions: F64 | I16
    old_predictions: F64 | I16
    prediction_ok: Bool


class Ledger:
    """Everything that depends on the task."""

    def __init__(
        self,
        owner: PerformanceOwner,
        options: PerformanceOptions,
        known: ModelPerformanceOptions,
        task: Task,
        segments: Segments,
        names: tuple[Names, Names],
        bias: BiasSetup,
        class_names: Sequence[str] = (),
    ) -> None:
        """Take, beside the options, all texts so far and all names with a probability, and the classes of a restore."""
        texts, columns = names
        self._owner = owner
        self._bias = bias
        self._options = options
        self._known = known
        self._segments = segments
        self._z = NormalDist().inv_cdf(0.5 + options.alert_confidence / 2.0)
        self.task = task
        self.classes = None if task.is_regression else Classes(task, known, options.classes_max, texts, class_names)
        if self.classes is not None:
            self.classes.learn(texts, columns)
        self._formulas = Formulas(task, self.classes)
        self._publisher = Publisher(owner, options, segments, task, self.classes, self._formulas)
        self._look = Look(self._formulas, self._z)
        self.layout = self._wanted_layout(has_scores=False)
        self.whole = self._new_watched({*self._formulas.names, *LAG_METRICS}, None)
        self.gaps = GapWatch(owner, bias, task, self.classes, segments)
        self.by_segment: dict[Key, Watched] = {}
        self.coverage = Coverage(options, conditions(known.limits or (), (COVERAGE,)), self._z)
        self.concept = ConceptWatch(options.drift, max(options.support_min, _DRIFT_CHUNK_MIN))
        self.quality: I64 = np.zeros(len(Quality), dtype=np.int64)
        self.usual_error = 1.0
        self.revision = 0

    def _wanted_layout(self, *, has_scores: bool) -> Layout:
        classes = 0 if self.classes is None else len(self.classes.table)
        return Layout.of(self.task, classes, has_scores=has_scores and self.classes is not None)

    def _new_watched(self, metrics: set[str], key: Key | None) -> Watched:
        options, known = self._options, self._known
        blocks = -(-options.reference_labels // options.block_labels)
        found = conditions(known.limits or (), metrics)
        calibration = CalibrationWatch(self._owner, self._bias, self.task, self._publisher.segment(key))
        reference = Reference(blocks, known.report, self._z)
        return Watched(options, self.task, self.layout, found, reference, calibration)

    @property
    def class_names(self) -> list[str]:
        """The classes known so far."""
        return [] if self.classes is None else list(self.classes.table.names)

    def usual(self, pairs: Pairs) -> None:
        """Learn from the first labelled events how large an error of a regression usually is."""
        fits = (pairs.label_kinds == NUMBER) & (pairs.prediction_kinds == NUMBER)
        if self.task.is_regression and fits.any():
            errors = np.sort(np.abs(pairs.predictions[fits] - pairs.labels[fits]))
            self.usual_error = max(float(errors[len(errors) // 2]), self.task.unit * 1e-6)

    # Predictions.

    def take_predictions(self, early: Mapping[int, Mapping[int, int]]) -> None:
        """Count the predictions from before the task was known (`series_code` -> pane -> predictions)."""
        for code, panes in sorted(early.items()):
            key = series_key(code, len(self._segments.all))
            watched = self.whole if key is None else self.of_segment(key)
            for pane, count in sorted(panes.items()):
                watched.series.predicted(np.full(1, pane), np.full(1, count))

    def predicted(self, key: Key | None, panes: I64, counts: I64) -> None:
        """Count so many predictions in each of some panes of a series (None: the whole)."""
        watched = self.whole if key is None else self.of_segment(key)
        watched.series.predicted(panes, counts)

    def due(self, due: I32, times_ms: I64, offsets: I64) -> list[Told]:
        """Count predictions that are old enough to have a label."""
        told = []
        for row, steps in self.coverage.process(due, times_ms, offsets):
            place = Place(int(offsets[row]), int(times_ms[row]))
            for step in steps:
                places = [self.coverage.begin(step.blocks), place]
                facts = self._facts(place.time_ms, place, int(step.estimate.support), places)
                told.append(self._owner.alert(limit_alert(self._subject(None), step, facts), place.offset))
        return told

    def of_segment(self, key: Key) -> Watched:
        """Return the series of a value of a segment, a new one if it has none."""
        watched = self.by_segment.get(key)
        if watched is None:
            watched = self.by_segment[key] = self._new_watched(set(self._formulas.names), key)
        return watched

    def all_series(self) -> list[tuple[Key | None, Watched]]:
        """Return all series: the whole first, then segments in order."""
        return [(None, self.whole), *sorted(self.by_segment.items())]

    def restore_layout(self, *, has_scores: bool) -> None:
        """Take the layout that goes with the classes, in a ledger without any figures."""
        self.layout = self._wanted_layout(has_scores=has_scores)
        self.whole.change_layout(self.layout)

    def drop_segment(self, key: Key, offset: int, confidences: Confidences, counters: I64) -> Iterator[Told]:
        """Forget a value of a segment that gives way to another; yield its last metrics and the end of its alerts."""
        self.gaps.drop(key)
        watched = self.by_segment.get(key)
        if watched is None:
            return
        flush = Flush(None, self.revision, offset, confidences, counters, self.quality)
        yield from self._publisher.flush(key, watched.series, flush)
        moment = Moment(watched.series.latest_ms, offset, 0, 0)
        for step in watched.farewell(self._look):
            yield self._limit_alert(key, watched, step, moment)
        yield from watched.calibration.close(moment)
        del self.by_segment[key]

    # Labels.

    def learn(self, texts: Names, columns: Names) -> None:
        """Give a class to each name that has none yet."""
        if self.classes is not None:
            known = len(self.classes.table)
            self.classes.learn(texts, columns)
            if len(self.classes.table) > known:
                self._fit_layout(has_scores=self.layout.has_scores)

    def _fit_layout(self, *, has_scores: bool) -> None:
        wanted = self._wanted_layout(has_scores=has_scores)
        if wanted != self.layout:
            self.layout = wanted
            for watched in (self.whole, *self.by_segment.values()):
                watched.change_layout(wanted)

    def labelled(self, batch: Labelled, columns: Names, confidences: Confidences) -> list[Told]:
        """Take in labelled events (n); `batch.blocks` is filled in with the blocks of new contributions."""
        told: list[Told] = []
        begin = 0
        while begin < batch.size:
            end = begin + self.until_new(batch.part(slice(begin, batch.size)))
            end = begin + self._until_another(batch.part(slice(begin, end)))
            told += self._labelled(batch.part(slice(begin, end)), columns, confidences)
            begin = end
        return told

    def until_new(self, batch: Labelled) -> int:
        """Return how many events there are up to the first one, after the very first, that brings a new class."""
        if self.classes is None:
            return batch.size
        rest = batch.part(slice(1, batch.size))
        values = np.stack([rest.labels, rest.predictions], axis=1).ravel()
        kinds = np.stack([rest.label_kinds, rest.prediction_kinds], axis=1).ravel()
        found = self.classes.first_new(values, kinds)
        return batch.size if found is None else 1 + found // 2

    def _until_another(self, batch: Labelled) -> int:
        """Return how many events there are up to the first one, after the very first, that needs `ANOTHER` at last."""
        if self.classes is None or self.classes.has_another:
            return batch.size
        labels, _ = self.classes.codes(batch.labels, batch.label_kinds)
        predictions, _ = self.classes.prediction_codes(batch.predictions, batch.prediction_kinds)
        if not (predictions == 0).any():
            return batch.size
        old_labels, _ = self._old_codes(batch)
        apart = (labels == 0) & (batch.labels != batch.predictions)
        apart |= (batch.corrected == 1) & (old_labels == 0) & (batch.old_labels != batch.predictions)
        found = np.flatnonzero(apart & (predictions == 0))
        return max(int(found[0]), 1) if len(found) else batch.size

    def _labelled(self, batch: Labelled, columns: Names, confidences: Confidences) -> list[Told]:
        sides = self._sides(batch)
        # What was never added, because it did not fit, is not taken away either.
        old_ok = sides.old_ok & sides.prediction_ok & (batch.blocks[:, 0] != NO_BLOCK)
        new_ok = sides.label_ok & sides.prediction_ok
        self._note_quality(batch, sides)
        probabilities = self._probabilities(batch, columns)
        rows = np.repeat(np.arange(batch.size), 2)
        used = np.stack([old_ok, new_ok], axis=1).ravel()
        rows = rows[used]
        signs = np.tile(np.array([-1, 1], dtype=np.int8), batch.size)[used]
        labels = np.stack([sides.old_labels, sides.labels], axis=1).ravel()[used]
        predictions = np.stack([sides.old_predictions, sides.predictions], axis=1).ravel()[used]
        contributions = Rows(signs, batch.lag_buckets[rows], labels, predictions, probabilities[rows])
        fresh = (signs > 0) & (batch.blocks[rows, 0] == NO_BLOCK)
        wrong = self._is_wrong(contributions)
        drifted = self._note_drift(batch, rows[fresh], wrong[fresh])
        told = self._add_to_series(batch, rows, contributions, fresh & wrong) + drifted
        # Taken away and nothing added: as if it had never been labelled.
        batch.blocks[old_ok & ~new_ok] = NO_BLOCK
        self._note_confidences(probabilities, rows, labels == predictions, signs, confidences)
        # Stable: what one record causes stays in its order, and records are in theirs.
        told.sort(key=lambda each: each.offset)
        return told

    def _sides(self, batch: Labelled) -> _Sides:
        corrected = batch.corrected == 1
        if self.classes is None:
            return _Sides(
                batch.labels,
                batch.label_kinds == NUMBER,
                batch.old_labels,
                corrected & (batch.old_kinds == NUMBER),
                batch.predictions,
                batch.predictions,
                batch.prediction_kinds == NUMBER,
            )
        labels, label_ok = self.classes.codes(batch.labels, batch.label_kinds)
        old_labels, old_ok = self._old_codes(batch)
        predictions, prediction_ok = self.classes.prediction_codes(batch.predictions, batch.prediction_kinds)
        return _Sides(
            labels,
            label_ok,
            old_labels,
            old_ok,
            self._apart(predictions, (labels == 0) & (batch.labels != batch.predictions)),
            self._apart(predictions, old_ok & (old_labels == 0) & (batch.old_labels != batch.predictions)),
            prediction_ok,
        )

    def _old_codes(self, batch: Labelled) -> tuple[I16, Bool]:
        """Return the class codes of the labels before, and whether there was one that could be a class."""
        codes, usable = np.zeros(batch.size, dtype=np.int16), np.zeros(batch.size, dtype=np.bool)
        rows = np.flatnonzero(batch.corrected)
        if self.classes is not None and len(rows):
            codes[rows], usable[rows] = self.classes.codes(batch.old_labels[rows], batch.old_kinds[rows])
        return codes, usable

    def _apart(self, codes: I16, differs: Bool) -> I16:
        """Return the codes of predictions, with those told apart that are no class, and differ from such a label."""
        apart = (codes == 0) & differs
        if self.classes is None or not apart.any():
            return codes
        return np.where(apart, self.classes.another(), codes).astype(np.int16)

    def _note_quality(self, batch: Labelled, sides: _Sides) -> None:
        # What is wrong with a prediction is told once, with its first label.
        self.quality[Quality.LABEL_KIND] += np.count_nonzero(~sides.label_ok)
        self.quality[Quality.PREDICTION_KIND] += np.count_nonzero(~sides.prediction_ok & (batch.corrected == 0))
        if self.classes is not None:
            self.quality[Quality.UNKNOWN_CLASS] += np.count_nonzero(sides.label_ok & (sides.labels == 0))

    def _probabilities(self, batch: Labelled, columns: Names) -> F64:
        if self.classes is None:
            return np.zeros((batch.size, 0))
        width = max(self._wanted_layout(has_scores=False).classes, 2)
        found, bad = self.classes.probabilities(
            width, batch.probabilities, columns, batch.predictions, batch.prediction_kinds
        )
        self.quality[Quality.PROBABILITIES] += np.count_nonzero(bad & (batch.corrected == 0))
        self._fit_layout(has_scores=self.layout.has_scores or not np.isnan(found[:, 0]).all())
        return found

    def _add_to_series(self, batch: Labelled, rows: I64, contributions: Rows, wrong: Bool) -> list[Told]:
        panes = batch.times_ms[rows] // self._options.pane_ms
        places = np.stack([batch.offsets[rows], batch.times_ms[rows]], axis=1)
        causes, arrived = batch.causes[rows], batch.arrived_ms[rows]
        told: list[Told] = []
        for key, chosen in self._targets(batch, rows):
            watched = self.whole if key is None else self.of_segment(key)
            column = 0 if key is None else 1 + key[0]
            addition = Addition(
                contributions.part(chosen), panes[chosen], batch.blocks[rows[chosen], column], arrived[chosen]
            )
            # The second row of a correction goes where the first one went; only new ones get a block.
            compared = 0
            for each in watched.add(addition, causes[chosen], wrong[chosen], places[chosen], self._look):
                told += self._tell(key, watched, each)
                if key is None and each.arrival is None:
                    self._compare(batch, rows, addition, slice(compared, each.row + 1))
                    told += self.gaps.look(watched.series, watched.calibration.begins, each.moment)
                    compared = each.row + 1
            if key is None:
                self._compare(batch, rows, addition, slice(compared, len(rows)))
            batch.blocks[rows[chosen], column] = addition.blocks
        return told

    def _compare(self, batch: Labelled, rows: I64, addition: Addition, part: slice) -> None:
        """Count some contributions to the whole model for the values of its segments: those have a block by now."""
        if not self.gaps.is_on:
            return
        self.gaps.add(addition.rows.part(part), addition.blocks[part], batch.segments[rows[part]])

    def _targets(self, batch: Labelled, rows: I64) -> Iterator[tuple[Key | None, I64]]:
        """Yield each series that gets contributions, and which: the whole first, then segments in order."""
        yield None, np.arange(len(rows))
        for place in range(batch.segments.shape[1]):
            ids = batch.segments[rows, place]
            for value_id in np.unique(ids).tolist():
                if value_id == OTHER or self._segments.is_live(place, value_id):
                    yield (place, value_id), np.flatnonzero(ids == value_id)

    def _is_wrong(self, contributions: Rows) -> Bool:
        if self.classes is not None:
            return np.not_equal(contributions.labels, contributions.predictions)
        return np.greater(self._bounded_errors(contributions.predictions, contributions.labels), _WRONG_FROM)

    def _bounded_errors(self, predictions: F64 | I16, labels: F64 | I16) -> F64:
        with np.errstate(over="ignore"):
            errors: F64 = np.minimum(np.abs(predictions - labels), 1e300)
            return errors / (errors + self.usual_error)

    def _note_confidences(
        self, probabilities: F64, rows: I64, right: Bool, signs: I8, confidences: Confidences
    ) -> None:
        """Count the confidences of labelled events that have one; by class, for so they are the same ever after."""
        if self.layout.has_scores:
            bins = confidence_bins(probabilities[:, :2] if self.task.name == "binary" else probabilities)[rows]
            confidences.labelled(bins, right.astype(np.int64), signs.astype(np.int64))

    def _note_drift(self, batch: Labelled, chosen: I64, wrong: Bool) -> list[Told]:
        """Feed the errors of new labelled events (rows `chosen`) to the drift detector, before they are counted."""
        if len(chosen) == 0:
            return []
        if self.classes is None:
            errors = self._bounded_errors(batch.predictions[chosen], batch.labels[chosen])
        else:
            errors = wrong.astype(np.float64)
        told = []
        options = self._options.drift
        for step in self.concept.process(errors, batch.arrived_ms[chosen], batch.offsets[chosen]):
            row = chosen[step.row]
            place = Place(int(batch.offsets[row]), int(batch.times_ms[row]))
            seen = chosen[: step.row + 1][wrong[: step.row + 1]]
            wrongs = map(Place, batch.offsets[seen].tolist(), batch.times_ms[seen].tolist())
            places = [*self.whole.wrong, *wrongs][-WRONG_MAX:] or [place]
            facts = self._facts(int(batch.arrived_ms[row]), place, self.whole.series.labels + step.row + 1, places)
            facts = facts._replace(confidence=_DRIFT_CONFIDENCE)
            record = drift_alert(self._subject(None), step, facts, options.detector, options.effect_min)
            told.append(self._owner.alert(record, int(batch.causes[row])))
        return told

    # Telling.

    def _subject(self, key: Key | None) -> Subject:
        return Subject(self._owner, self._publisher.segment(key))

    def _facts(self, now_ms: int, place: Place, labels: int, places: list[Place]) -> Facts:
        return Facts(
            now_ms, place, self._options.alert_confidence, labels, [], places, self._bias.standing.evidence_max
        )

    def _tell(self, key: Key | None, watched: Watched, what: Happening) -> list[Told]:
        offset = what.moment.offset
        if what.arrival is not None:
            return [self._publisher.arrival(key, watched.series, what.arrival, offset)]
        told = []
        if what.reference_taken:
            segment = self._publisher.segment(key)
            name = None if segment is None else f"{segment.name} = {segment.value}"
            told.append(self._owner.reference_taken(name, watched.reference.labels, offset))
            if key is None and watched.reference.tally is not None:
                lag = lag_estimates(watched.reference.tally, Z95)["label_lag_p95"].value
                self.coverage.learn(lag or 0.0)
        return [*told, *(self._limit_alert(key, watched, step, what.moment) for step in what.steps), *what.told]

    def _limit_alert(self, key: Key | None, watched: Watched, step: Step, moment: Moment) -> Told:
        tally = watched.series.tally(step.blocks)
        places = [] if step.condition.metric in LAG_METRICS else list(watched.wrong)
        places = places or [place for place in (watched.begin(step.blocks), moment.known_at) if place is not None]
        facts = self._facts(moment.now_ms, moment.known_at, int(labelled(tally)), places)
        facts = facts._replace(classes=watched.worst_classes(step.blocks, self.class_names, _CLASSES_TOLD))
        return self._owner.alert(limit_alert(self._subject(key), step, facts), moment.offset)

    @property
    def has_news(self) -> bool:
        """Whether a pane has changed since it was published."""
        return any(pane.changed for pane in self.whole.series.known.values()) or self.whole.series.arrival_changed

    def flush(self, newest_pane: int | None, offset: int, confidences: Confidences, counters: I64) -> Iterator[Told]:
        """Yield the metrics of all panes that changed, up to `newest_pane` (None: all), and of the windows."""
        flush = Flush(newest_pane, self.revision, offset, confidences, counters, self.quality)
        for key, watched in self.all_series():
            yield from self._publisher.flush(key, watched.series, flush)
        self.revision += 1


_WRONG_FROM = 0.9
"""Of the error on the scale of 0 to 1: nine times the usual one."""
_DRIFT_CHUNK_MIN = 100
"""Labels in a row by which the end of a drift is judged, at least."""
_DRIFT_CONFIDENCE = 0.998
"""Of ADWIN: its delta is 0.002."""
