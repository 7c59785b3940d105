"""The detectors of one monitor as one: warm-up, the rows that they see, their judgement, their refits."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from worker.core.detectors.calibration import Calibration, Judgement
from worker.core.detectors.protocol import NEVER, Detector, RefitNote
from worker.core.detectors.refit import RefitPool
from worker.core.detectors.refitted_forest import RefittedForest
from worker.core.detectors.registry import Site, build
from worker.core.kernels.arrays import F64, I64, Bool
from worker.core.kernels.surprisal import replace_by_surprisal
from worker.core.options import EngineOptions
from worker.core.state import (
    COUNT_MAX,
    AnyArray,
    Arrays,
    blank,
    by_part,
    check_like,
    fill,
    outside,
    prefixed,
    refuse_if,
)
from worker.core.statistics.bands import Usual, usual_band

_STORED = "stored detectors"


_Saved: TypeAlias = dict[str, AnyArray]


class Scorers(NamedTuple):
    """Detectors at one moment, to ask what they would say; nothing is learned.

    `by_name` gives each detector's score (n) of rows (n x d); `fused` the fused score (n) of scores (k x n).
    """

    by_name: Mapping[str, Callable[[F64], F64]]
    fused: Callable[[F64], F64]


class _Mark(NamedTuple):
    """A batch, and as they were before it the arrays of all that says something else in the course of it.

    Most batches are within windows and between renewals, so that nearest neighbours and moments are all that moves.
    """

    rows: F64
    scores: F64
    alert_rate: float
    moving: list[tuple[Detector, _Saved]]
    calibration: _Saved | None


class Ensemble:
    """Keeps the rows of the warm-up, builds the detectors from them, then scores and learns every event.

    Every detector is given every row, the warm-up's too, so their counts of rows are the monitor's count of events.
    """

    def __init__(self, options: EngineOptions, refits: RefitPool, seed: int) -> None:
        self._options = options
        self._refits = refits
        self._seed = seed
        self._warmup: list[F64] = []
        self._totals: I64 = np.zeros((0, options.categories_max + 1), dtype=np.int64)
        self._detectors: list[Detector] = []
        self._calibration: Calibration | None = None
        self._mark: _Mark | None = None
        self._barrier: int | None = None
        """The least of the detectors', which moves when one of them crosses it; None: look again."""
        self.usual = Usual(np.empty(0), np.empty(0), np.empty(0))

    @property
    def names(self) -> list[str]:
        """Names of the detectors, in the order of their scores."""
        return [detector.name for detector in self._detectors]

    @property
    def phase(self) -> Literal["warming_up", "calibrating", "ready"]:
        """Where the monitor is on its way to verdicts: warming_up, calibrating or ready."""
        if self._calibration is None:
            return "warming_up"
        return "ready" if self._calibration.ready else "calibrating"

    def barrier(self) -> int:
        """Return the count of events at which `cross` is due."""
        if self._calibration is None:
            return self._options.warmup_events
        if self._barrier is None:
            self._barrier = min((detector.barrier() for detector in self._detectors), default=NEVER)
        return self._barrier

    def rows(self, cells: F64, is_categorical: Bool) -> F64:
        """Return feature cells (n x d) as detectors see them: categories as their surprisal so far, then learned."""
        rows = cells.copy()
        if is_categorical.any():
            self._grow_totals(rows.shape[1])
            replace_by_surprisal(rows, is_categorical, self._totals)
        return rows

    def learn_warmup(self, rows: F64) -> None:
        """Keep rows of the warm-up; features may be added from one call to the next."""
        self._warmup.append(rows)

    def judge(self, rows: F64, alert_rate: float) -> Judgement:
        """Score, learn and judge rows (n x d); the warm-up must be over.

        Up to the row at which a burst has lasted for so long that it is the new normal (`is_new_normal`). Then this
        ensemble is of no use any more: its detectors have learned all rows.
        """
        if self._calibration is None:
            raise AssertionError("rows are judged during the warm-up")
        count = len(rows)
        moving = [(each, _saved(each.live())) for each in self._detectors if not each.steady(count)]
        calibration = None if self._calibration.steady(count) else _saved(self._calibration.state())
        scores = np.empty((len(self._detectors), len(rows)))
        for place, detector in enumerate(self._detectors):
            scores[place] = detector.score_and_learn(rows)
        self._mark = _Mark(rows, scores, alert_rate, moving, calibration)
        return self._calibration.judge(scores, alert_rate)[1]

    @property
    def is_new_normal(self) -> bool:
        """Whether a burst has lasted for so long that detectors must begin anew."""
        return self._calibration is not None and self._calibration.is_new_normal

    @contextmanager
    def before(self, row: int) -> Iterator[Scorers]:
        """Give the detectors as they were before a row of the last batch, then put them back.

        What they say of an event may not depend on how many events came after it in its batch (law 3).
        """
        mark, calibration = self._mark, self._calibration
        if mark is None or calibration is None:
            raise AssertionError("nothing was judged")
        after = [(detector, _saved(detector.live())) for detector, _ in mark.moving]
        for detector, old in mark.moving:
            fill(detector.live(), old)
            detector.score_and_learn(mark.rows[:row])
        judged = None if mark.calibration is None else _saved(calibration.state())
        if mark.calibration is not None:
            fill(calibration.state(), mark.calibration)
            calibration.judge(np.ascontiguousarray(mark.scores[:, :row]), mark.alert_rate)
        yield self.scorers()
        for detector, new in after:
            fill(detector.live(), new)
        if judged is not None:
            fill(calibration.state(), judged)

    def release(self) -> None:
        """Give back the memory that `before` needs, a third of a megabyte perhaps, until rows are judged again."""
        self._mark = None

    def scorers(self) -> Scorers:
        """Return the detectors as they are now."""
        if self._calibration is None:
            raise AssertionError("there are no detectors during the warm-up")
        return Scorers({each.name: each.score for each in self._detectors}, self._calibration.fused)

    def end_warmup(self, rows: F64) -> None:
        """Build the detectors for the rows of the warm-up (n x d), and let them learn these.

        A model without features has no detectors, and no verdicts.
        """
        features = rows.shape[1]
        self._warmup = []
        self.usual = usual_band(rows)
        self._calibration = self._build(features)
        for detector in self._detectors:
            detector.fit(rows)
            detector.score_and_learn(rows)

    def take_categories(self, predecessor: "Ensemble") -> None:
        """Take over the counts of categories: what is known is no surprise."""
        self._totals = predecessor.category_counts

    @property
    def category_counts(self) -> I64:
        """How often each category was seen (features x codes)."""
        return self._totals

    def begin_with(self, rows: F64, alert_rate: float) -> None:
        """Go through warm-up, refits and calibration with rows (n x d, at least those of the warm-up) at once."""
        self.end_warmup(rows[: self._options.warmup_events])
        seen = self._options.warmup_events
        while True:
            for _ in self.cross(seen):
                pass
            if seen == len(rows):
                break
            end = min(len(rows), self.barrier())
            self.judge(rows[seen:end], alert_rate)
            seen = end
        self._mark = None

    def _build(self, features: int) -> Calibration:
        """Make the detectors of so many features, and return what judges their scores; they know nothing yet."""
        options = self._options
        site = Site(features, options, self._refits, self._seed)
        self._detectors, self._barrier = build(options.detectors, site) if features else [], None
        weights = [options.weight(detector.name) for detector in self._detectors]
        alone = [detector.name in options.alone for detector in self._detectors]
        return Calibration(weights, options.calibration, self._seed, alone)

    def cross(self, seen: int) -> Iterator[RefitNote]:
        """Request and take over refits that are due at this count of events."""
        if seen != self.barrier():
            return
        for detector in self._detectors:
            if detector.barrier() != seen:
                continue
            note, self._barrier = detector.cross(), None
            if note is not None:
                if isinstance(detector, RefittedForest):
                    self.usual = usual_band(detector.reservoir())
                yield note

    def _grow_totals(self, features: int) -> None:
        missing = features - len(self._totals)
        if missing > 0:
            self._totals = np.vstack([self._totals, np.zeros((missing, self._totals.shape[1]), dtype=np.int64)])

    @property
    def fitted_version(self) -> int:
        """0 in the warm-up; grows when `fitted` changes: at its end, and with every refit that is taken over."""
        if self._calibration is None:
            return 0
        return 1 + sum(detector.taken_over for detector in self._detectors)

    def live(self) -> Arrays:
        """Return what changes with every event, as named arrays: live ones where there are any."""
        live = prefixed("surprisal", {"totals": self._totals})
        if self._warmup:
            # One array, as wide as the table is now: how the rows came in batches is not state.
            live |= prefixed("warmup", {"rows": self.warmup_rows(self._warmup[-1].shape[1])})
        for detector in self._detectors:
            live |= prefixed(detector.name, detector.live())
        if self._calibration is not None:
            live |= prefixed("calibration", self._calibration.state())
        return live

    def fitted(self) -> Arrays:
        """Return what changes with `fitted_version` alone; nothing in the warm-up."""
        if self._calibration is None:
            return {}
        fitted = prefixed("usual", self.usual._asdict())
        for detector in self._detectors:
            fitted |= prefixed(detector.name, detector.fitted())
        return fitted

    def restore(self, seen: int, is_categorical: Bool, width: int, live: Arrays, fitted: Arrays) -> None:
        """Take over copies of both parts, after `seen` events with such features, and rows of another width perhaps."""
        features = len(is_categorical)
        if seen < self._options.warmup_events:
            by_part(_STORED, fitted, ())
            parts = by_part(_STORED, live, ("surprisal", "warmup"))
            self._warmup = _stored_warmup(seen, features, parts["warmup"])
        else:
            self._calibration = self._build(width)
            parts = by_part(_STORED, live, ["surprisal", "calibration", *self.names])
            fitted_parts = by_part(_STORED, fitted, ["usual", *self.names])
            self._calibration.restore(parts["calibration"])
            self.usual = _stored_usual(width, fitted_parts["usual"])
            for detector in self._detectors:
                detector.restore(seen, parts[detector.name], fitted_parts[detector.name])
        counted = features if is_categorical.any() else 0
        check_like(_STORED, parts["surprisal"], {"totals": blank(np.int64, counted, self._totals.shape[1])})
        self._totals = parts["surprisal"]["totals"].copy()
        # They are older than this ensemble (`take_categories`); the sum of a column's counts must not overflow.
        count_max = COUNT_MAX // self._totals.shape[1]
        refuse_if(_STORED, {"a count of a category is out of range": outside(self._totals, 0, count_max)})

    def warmup_rows(self, features: int) -> F64:
        """Return the rows of the warm-up so far (n x features), NaN for features that were not known yet."""
        rows = np.full((sum(map(len, self._warmup)), features), np.nan)
        start = 0
        for part in self._warmup:
            rows[start : start + len(part), : part.shape[1]] = part
            start += len(part)
        return rows


def _saved(arrays: Arrays) -> _Saved:
    """Return copies."""
    return {name: array.copy() for name, array in arrays.items()}


def _stored_warmup(seen: int, features: int, arrays: Arrays) -> list[F64]:
    """Return a copy of the stored rows of the warm-up, as one part; no part if there are none."""
    check_like(_STORED, arrays, {"rows": blank(np.float64, seen, features)} if seen else {})
    refuse_if(_STORED, {f"`{name}` holds an infinite value": np.isinf(rows).any() for name, rows in arrays.items()})
    return [rows.copy() for rows in arrays.values()]


def _stored_usual(features: int, arrays: Arrays) -> Usual:
    """Return a copy of the stored bands."""
    check_like(_STORED, arrays, dict.fromkeys(Usual._fields, blank(np.float64, features)))
    refuse_if(_STORED, {f"`{name}` holds an infinite value": np.isinf(band).any() for name, band in arrays.items()})
    return Usual(**{name: band.copy() for name, band in arrays.items()})
