"""All of a model's maintenance that begins once it is known what its labels are: the pool, and what learns for it.

    labelled rows ─► judged (pool.py) ─► told (advising.py)
          '─► buffer ─► after each GRID_LABELS: fits, a search, the online challenger, a threshold

What is told of a row is as of that row; what changes for predictions changes at the grid alone.
"""

from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta, Struct

from worker.core.columns import ColumnTable
from worker.core.kernels.arrays import F32, I64, Bool
from worker.core.maintenance.advising import Adviser, Moment, Ready, Stored
from worker.core.maintenance.after_promotion import AfterPromotion, Promise, promises
from worker.core.maintenance.challenger_fits import FITTED, GRID_LABELS, ChallengerFits, StoredFits
from worker.core.maintenance.challengers import ChallengerPool
from worker.core.maintenance.labelled_buffer import LabelledBuffer
from worker.core.maintenance.offers import Offer, Offers
from worker.core.maintenance.online import OnlineChallenger
from worker.core.maintenance.pool import CHAMPION, Happening, Judged, ShadowPool
from worker.core.maintenance.said import Challengers, Kept
from worker.core.maintenance.segment_places import SegmentPlaces
from worker.core.maintenance.targets import Sides, Subject, known_classes, sides
from worker.core.maintenance.thresholds import advise
from worker.core.options import MaintenanceOptions
from worker.core.performance.batch import Labelled
from worker.core.performance.ledger import Ledger
from worker.core.performance.values import Names
from worker.core.state import COUNT_MAX, AnyArray, Arrays, by_part, prefixed, refuse_if
from worker.core.telling import Told

_STORED = "stored shadow"
_PROMISE_LABELS_MIN = 500
"""Labels that a pool must have judged, before anything is promised of the version that comes after it."""
_Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]


class Setting(NamedTuple):
    """What does not change while a monitor lives."""

    options: MaintenanceOptions
    threshold: float
    """From which a probability of the positive class means that class, as configured."""
    seed: int
    fit_pool: ChallengerPool
    columns: ColumnTable
    places: SegmentPlaces
    adviser: Adviser
    offers: Offers


class StoredShadow(Struct, frozen=True, forbid_unknown_fields=True):
    """The plain part of the state."""

    subject: Subject
    labels: _Count
    unknown: _Count
    learned: _Count
    """Rows that the challenger that learns online has been shown."""
    features: _Count
    """Columns that there were at the beginning; without any there are no challengers."""
    width: _Count
    """Columns of the rows that are kept."""
    told_threshold: Annotated[float, Meta(ge=0.0, le=1.0)] | None
    promises: list[Promise]
    fits: StoredFits


class Shadow:
    """The candidates of one model, and the labelled rows that they learn from."""

    def __init__(self, setting: Setting, subject: Subject, features: int) -> None:
        self._setting, self._options = setting, setting.options
        self.subject = subject
        self._features = features
        self.challengers = self._new_challengers()
        self._buffer = LabelledBuffer(self._options.recent_rows, self._options.sampled_rows, features, setting.seed)
        self._pool = self._new_pool()
        self.labels = 0
        self.is_at_grid = False
        """Whether the label taken last was one with which predictions may change."""
        self.has_begun_anew = False
        """Whether the pool has begun anew with that label: what was said before is void."""
        self._unknown, self._learned = 0, 0
        self._told_threshold: float | None = None
        self._told: list[Told] = []

    def _new_challengers(self) -> Challengers:
        options, seed, classes = self._options, self._setting.seed, self.subject.n_classes
        names = options.challengers if self._features else ()
        fits = ChallengerFits(names, classes, options, self._setting.fit_pool, seed)
        online = OnlineChallenger(classes, self._features, options.online, seed) if "online" in names else None
        return Challengers(names, fits, online)

    def _new_pool(self) -> ShadowPool:
        places, names = self._setting.places.count, self.challengers.names
        return ShadowPool(self.subject, names, places, self._setting.threshold, self._options)

    @property
    def room(self) -> int:
        """Labels up to the next one at which anything may change for predictions."""
        return min(GRID_LABELS - self.labels % GRID_LABELS, self._pool.room)

    @property
    def generation(self) -> int:
        """Of the recalibration: to be remembered with each prediction that is made now."""
        return self._pool.generation

    @property
    def outputs(self) -> int:
        """Numbers that all challengers together say of an event."""
        return len(self.challengers.names) * self.subject.outputs

    @property
    def marks(self) -> I64:
        """Marks of the latest labelled rows (n x MARKS), oldest first."""
        return self._buffer.recent_marks()

    def forget_place(self, place: int) -> None:
        """A value of a segment has given way."""
        self._pool.forget_place(place, of_first=place < self._setting.places.size)

    # Labels.

    def take(self, batch: Labelled, kept: Kept, epoch: int, now_ms: int, ledger: Ledger, columns: Names) -> list[Told]:
        """Take in labelled events (n, at most `room` of them first labels) whose rows are still there.

        Events of another epoch than this one teach challengers and judge nobody. `now_ms`: event time.
        """
        both = sides(batch, ledger, columns, self.subject)
        first, known = batch.corrected == 0, both.usable & ~np.isnan(both.targets)
        self._unknown += int(np.count_nonzero(both.usable & ~known & first))
        self._correct(batch, both, known & ~first)
        self._learn(batch, kept, both, np.flatnonzero(first & known), epoch)
        before = self.labels
        self.labels += int(np.count_nonzero(first))
        self.is_at_grid = self.labels // GRID_LABELS > before // GRID_LABELS
        self.has_begun_anew = False
        if self.is_at_grid:
            moment = Moment(int(batch.causes[-1]), int(batch.arrived_ms[-1]), self.labels)
            self._cross(moment, now_ms)
            self.has_begun_anew = self._take_new_classes(ledger, moment)
        told, self._told = self._told, []
        return told

    def _correct(self, batch: Labelled, both: Sides, chosen: Bool) -> None:
        """Put right what is kept of labels that are corrected; what was judged stays judged."""
        for row in np.flatnonzero(chosen).tolist():
            self._buffer.correct(int(batch.numbers[row]), float(both.targets[row]))

    def _learn(self, batch: Labelled, kept: Kept, both: Sides, chosen: I64, epoch: int) -> None:
        """Judge the pool on labelled events, then keep them to learn from."""
        counts = kept.epochs[chosen] == epoch
        if self._pool.recalibration is not None:
            counts &= ~np.isnan(both.outputs[chosen]).any(axis=1)
        judged = chosen[counts]
        if len(judged):
            self._judge(batch, kept, both, judged)
        if kept.cells.shape[1] > self._buffer.features:
            self._buffer.widen(kept.cells.shape[1])
        marks = np.stack([batch.numbers[chosen], batch.offsets[chosen], batch.times_ms[chosen]], axis=1)
        self._buffer.add(kept.cells[chosen], both.targets[chosen], marks)

    def _judge(self, batch: Labelled, kept: Kept, both: Sides, judged: I64) -> None:
        places = self._setting.places.of(batch.segments[judged])
        rows = Judged(
            outputs=both.outputs[judged],
            targets=both.targets[judged],
            wrong=both.wrong[judged],
            challengers=kept.outputs[judged],
            generations=kept.generations[judged],
            places=places,
            segments=self._setting.places.first_segment(places),
            offsets=batch.offsets[judged],
        )
        labels = self.labels + np.cumsum(batch.corrected == 0)
        for happening in self._pool.judge(rows):
            row = int(judged[happening.row])
            moment = Moment(int(batch.causes[row]), int(batch.arrived_ms[row]), int(labels[row]))
            self._tell(happening, moment)

    def _tell(self, happening: Happening, moment: Moment) -> None:
        pool, candidate, adviser, places = self._pool, happening.candidate, self._setting.adviser, self._setting.places
        if happening.event == "recalibration":
            self._told.append(adviser.recalibration(pool, places, moment))
        elif happening.event == "advice":
            self._advise(candidate, moment)
        elif happening.event == "ready":
            self._told.append(adviser.ready(pool, candidate, places, self._stored(candidate, moment), moment))
        elif happening.event == "withdrawn":
            self._told.append(adviser.withdrawn(pool, candidate, places, moment))
        elif pool.watch is not None:
            self._told.append(adviser.rollback(pool.watch.regressions()[0], moment))

    def _advise(self, candidate: int, moment: Moment) -> None:
        stored = self._stored(candidate, moment) if self._options.advice_artefacts else None
        self._told.append(self._setting.adviser.advice(self._pool, candidate, stored, moment))

    def _stored(self, candidate: int, moment: Moment) -> Stored | None:
        """Return a candidate's artefact, and remember that it was offered; None for what is no model of its own."""
        name, fits, adviser = self._pool.names[candidate], self.challengers.fits, self._setting.adviser
        model = fits.models.get(name)
        if model is None:
            return None
        trained = next(fits.trained[each] for each in FITTED if each == name)
        columns = self._setting.columns.columns[1 : 1 + model.n_features]
        stored = adviser.store(self._pool, Ready(name, model, trained, columns, fits.seed(name, trained.fit)), moment)
        offer = Offer(stored.report.manifest.version, name, stored.report.path)
        self._setting.offers.add(offer, adviser.in_service)
        return stored

    # What is due after so many labels.

    def _cross(self, moment: Moment, now_ms: int) -> None:
        """Do what is due after each `GRID_LABELS` labels."""
        pool, fits = self._pool, self.challengers.fits
        pool.end_block()
        self._learn_online()
        taken, found = fits.cross(self.labels, now_ms, self._buffer)
        if found is not None:
            self._told.append(self._setting.adviser.tuned(found, moment))
        if pool.names[pool.ranking.advised] in taken and self._options.advice_artefacts:
            # Who follows the advice wants the model as it is now.
            self._advise(pool.ranking.advised, moment)
        every = self._options.threshold.every_labels
        if self.labels // every > (self.labels - GRID_LABELS) // every:
            self._look_for_threshold(moment)

    def _learn_online(self) -> None:
        """Let the online challenger learn what has come since the last time.

        At no other label: it would know more of an event than when that was predicted, if batches are cut otherwise.
        """
        fresh, self._learned = self._buffer.seen - self._learned, self._buffer.seen
        if self.challengers.online is not None and fresh:
            latest = self._buffer.recent(fresh, self.subject.n_classes)
            rows: F32 = latest.rows[:, : self._features].astype(np.float32, copy=False)
            self.challengers.online.learn(rows, latest.targets)

    def _look_for_threshold(self, moment: Moment) -> None:
        if self._pool.scores is None:
            return
        options, present, objective = self._options.threshold, self._setting.threshold, self._options.objective
        found = advise(self._pool.scores.blocks(), objective, present, options)
        if found is None or not found.proven:
            return
        told = present if self._told_threshold is None else self._told_threshold
        if abs(found.threshold - told) >= options.change_min:
            self._told_threshold = found.threshold
            self._told.append(self._setting.adviser.threshold(self.subject, found, objective, moment))

    def _take_new_classes(self, ledger: Ledger, moment: Moment) -> bool:
        """Begin anew if enough labels are of classes that were not there when the pool began; tell whether."""
        if self._unknown < self._options.class_labels_min:
            return False
        self._unknown = 0
        found = known_classes(ledger)
        if found is None or found[1] == self.subject.codes:
            return False
        former = self._pool
        self.subject = msgspec.structs.replace(self.subject, classes=found[0], codes=found[1])
        self.challengers = self._new_challengers()
        self._pool = self._new_pool()
        self._take_back(former, moment)
        return True

    def _take_back(self, former: ShadowPool, moment: Moment) -> None:
        """Take back what was told of a pool that is gone: it is about the same version, so it would stand for ever."""
        adviser, places = self._setting.adviser, self._setting.places
        if former.ranking.advised:
            self._told.append(adviser.advice(former, 0, None, moment))
        self._told += [adviser.withdrawn(former, candidate, places, moment) for candidate in former.ready]
        if former.recalibration is not None and former.recalibration.published()[0].method != "identity":
            self._told.append(adviser.recalibration(self._pool, places, moment))

    # From the monitor.

    def begin_version(self, version: str | None) -> None:
        """Another version is in service from the next event on: the pool begins anew, and the version is watched."""
        watch = self._promised(version)
        self._pool = self._new_pool()
        self._pool.watch = watch
        self._told_threshold = None

    def _promised(self, version: str | None) -> AfterPromotion | None:
        """Return the watch of a version: a challenger that was offered, or, of another one, as good as the last."""
        pool = self._pool
        if pool.ranking.labels < _PROMISE_LABELS_MIN:
            return None
        taken = self._setting.offers.candidate(version) or CHAMPION
        promoted = pool.names.index(taken) if taken in pool.names else 0
        # A control must not rest on the outputs of the version that has gone.
        controls = [place for place in range(pool.first_challenger, len(pool.names)) if place != promoted]
        known = [place for place in controls if not np.isnan(pool.ranking.loss(place).mean)]
        promised = promises(pool.ranking, promoted, known[-1] if known else None, None)
        return AfterPromotion(promised, 1.0, self._options.after) if promised else None

    def drifted(self) -> None:
        """Concept drift was told: the next fit is due soon."""
        self.challengers.fits.drifted()

    # Storing and restoring.

    def plain(self) -> StoredShadow:
        """Return the plain part of the state."""
        watch = self._pool.watch
        return StoredShadow(
            subject=self.subject,
            labels=self.labels,
            unknown=self._unknown,
            learned=self._learned,
            features=self._features,
            width=self._buffer.features,
            told_threshold=self._told_threshold,
            promises=[] if watch is None else list(watch.promised),
            fits=self.challengers.fits.plain(),
        )

    def arrays(self) -> dict[str, AnyArray]:
        """Return the arrays of the state."""
        online = self.challengers.online
        return {
            **prefixed("buffer", self._buffer.arrays()),
            **prefixed("fits", self.challengers.fits.arrays()),
            **prefixed("online", {} if online is None else online.arrays()),
            **prefixed("pool", self._pool.arrays()),
        }

    def restore(self, plain: StoredShadow, arrays: Arrays) -> None:
        """Become, from new with the subject and features of `plain`, what gave both; ValueError if that cannot be."""
        parts = by_part(_STORED, arrays, ("buffer", "fits", "online", "pool"))
        most = len(self._pool.names)
        refuse_if(
            _STORED,
            {
                "rows have less columns than at the beginning": plain.width < self._features,
                "a promise is about nobody": any(not -1 <= each.candidate < most for each in plain.promises),
                "the online challenger knows the future": not 0 <= plain.learned <= COUNT_MAX,
            },
        )
        self.labels, self._unknown, self._learned = plain.labels, plain.unknown, plain.learned
        self._told_threshold = plain.told_threshold
        self._buffer.widen(plain.width)
        self._buffer.restore(parts["buffer"], self.subject.n_classes)
        self.challengers.fits.restore(plain.fits, parts["fits"], plain.width)
        if self.challengers.online is not None:
            self.challengers.online.restore(parts["online"])
        if plain.promises:
            self._pool.watch = AfterPromotion(plain.promises, 1.0, self._options.after)
        self._pool.restore(parts["pool"])
