"""The detectors of one monitor as one: warm-up, the rows that they see, their judgement, their refits."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np

from worker.core.detectors.calibration import Calibration, Judgement
from worker.core.detectors.isolation_forest import to_forest_rows
from worker.core.detectors.moments import MomentsDistance
from worker.core.detectors.protocol import NEVER, Detector, RefitNote
from worker.core.detectors.refit import RefitPool
from worker.core.detectors.refitted_forest import RefittedForest
from worker.core.detectors.scaled_half_space import ScaledHalfSpaceTrees
from worker.core.identity import derived_seed
from worker.core.kernels.arrays import F64, I64, Bool
from worker.core.kernels.surprisal import replace_by_surprisal
from worker.core.options import EngineOptions
from worker.core.statistics.bands import Usual, usual_band


class Ensemble:
    """Keeps the rows of the warm-up, builds the detectors from them, then scores and learns every event.

    Every detector learns every row, the warm-up's too, so their counts of rows are the monitor's count of events.
    """

    def __init__(self, options: EngineOptions, refits: RefitPool, seed: int) -> None:
        self._options = options
        self._refits = refits
        self._seed = seed
        self._warmup: list[F64] = []
        self._totals: I64 = np.zeros((0, options.categories_max + 1), dtype=np.int64)
        self._detectors: list[Detector] = []
        self._forest: RefittedForest | None = None
        self._calibration: Calibration | None = None
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
        return min((detector.barrier() for detector in self._detectors), default=NEVER)

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

    def judge(self, rows: F64) -> Judgement:
        """Score, learn and judge rows (n x d); the warm-up must be over."""
        if self._calibration is None:
            raise AssertionError("rows are judged during the warm-up")
        scores = np.empty((len(self._detectors), len(rows)))
        for place, detector in enumerate(self._detectors):
            scores[place] = detector.score_and_learn(rows)
        return self._calibration.judge(scores)

    def end_warmup(self, features: int) -> None:
        """Build the detectors for the features of the frozen schema, and let them learn the rows so far.

        A model without features has no detectors, and no verdicts.
        """
        rows = self._warmup_rows(features)
        self._warmup = []
        self.usual = usual_band(rows)
        if features:
            self._detectors = self._build(rows, features)
        for detector in self._detectors:
            detector.score_and_learn(rows)
        self._calibration = Calibration(
            len(self._detectors), self._options.calibration, self._options.alert_rate, self._seed
        )

    def _build(self, rows: F64, features: int) -> list[Detector]:
        options, seed = self._options, self._seed
        self._forest = RefittedForest(features, options.forest, self._refits, derived_seed("forest", seed))
        trees = ScaledHalfSpaceTrees(rows, options.half_space, derived_seed("half_space", seed))
        return [trees, self._forest, MomentsDistance(rows)]

    def cross(self, seen: int) -> Iterator[RefitNote]:
        """Request and take over refits that are due at this count of events."""
        for detector in self._detectors:
            if detector.barrier() == seen and (note := detector.cross()) is not None:
                if self._forest is not None:
                    self.usual = usual_band(self._forest.reservoir())
                yield note

    def explaining_score(self) -> Callable[[F64], F64] | None:
        """Return the score that explanations use: the forest's, which does not move between refits."""
        forest = None if self._forest is None else self._forest.forest
        if forest is None:
            return None
        return lambda rows: forest.score(to_forest_rows(rows))

    def _grow_totals(self, features: int) -> None:
        missing = features - len(self._totals)
        if missing > 0:
            self._totals = np.vstack([self._totals, np.zeros((missing, self._totals.shape[1]), dtype=np.int64)])

    def state(self) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
        """Return all mutable state as named arrays: live ones where there are any."""
        state: dict[str, np.ndarray[Any, np.dtype[Any]]] = {"totals": self._totals}
        if self._warmup:
            # One array, as wide as the table is now: how the rows came in batches is not state.
            state["warmup"] = self._warmup_rows(self._warmup[-1].shape[1])
        state |= {f"usual.{name}": band for name, band in self.usual._asdict().items()}
        for detector in self._detectors:
            state |= {f"{detector.name}.{name}": array for name, array in detector.state().items()}
        if self._calibration is not None:
            state |= {f"calibration.{name}": array for name, array in self._calibration.state().items()}
        return state

    def _warmup_rows(self, features: int) -> F64:
        """Return the warm-up rows (n x features), NaN for features that were not known yet."""
        rows = np.full((sum(map(len, self._warmup)), features), np.nan)
        start = 0
        for part in self._warmup:
            rows[start : start + len(part), : part.shape[1]] = part
            start += len(part)
        return rows
