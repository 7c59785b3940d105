"""Calibrated p-values and the verdict of one monitor. The kernel holds the formulas; this holds the state."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from worker.core.kernels.arrays import F64, Bool
from worker.core.kernels.calibration import (
    LASTED,
    LEARN_ALWAYS,
    LEARN_NEVER,
    LEARN_UNLESS_BURST,
    LEVEL,
    LOG_COARSE,
    LOG_COARSE_MIN,
    LOG_FACTOR,
    LOG_FACTOR_MAX,
    disagree,
    fuse,
    judge,
)
from worker.core.kernels.score_past import LENGTH, MEAN_EXCESS, RENEWAL, RENEWAL_EVENTS_MAX, SEEN, until_first_due
from worker.core.options import CalibrationOptions
from worker.core.state import COUNT_MAX, Arrays, check_like, fill, outside, refuse_if

_STORED = "stored calibration"
_LARGEST = float(np.finfo(np.float32).max)
_POLICIES = {"always": LEARN_ALWAYS, "unless_burst": LEARN_UNLESS_BURST, "never": LEARN_NEVER}


class Judgement(NamedTuple):
    """Scores (k x n), their p-values (k x n), the fused score (n) and its p-value (n); NaN = not enough data yet.

    `raw` is the p-value (n) of the fused score alone, without the factor that keeps the share of flagged events.
    """

    scores: F64
    p_values: F64
    fused: F64
    verdicts: F64
    raw: F64

    def disagreements(self, alert_rate: float) -> Bool:
        """Tell for each event (n) whether detectors contradict each other about it.

        The kernel says when they do.
        """
        found = np.empty(len(self.verdicts), dtype=np.bool)
        disagree(self.p_values, self.verdicts, alert_rate, found)
        return found


class Calibration:
    """Judges every event before it learns the event's scores.

    Which flagged events are learned is told by `learn_flagged`: all, none, or, as it is by default, single ones only:
    flagged events of a burst are not learned until it has lasted for `regime_events`; then it is the new normal.
    """

    def __init__(
        self, weights: Sequence[float], options: CalibrationOptions, seed: int, alone: Sequence[bool] = ()
    ) -> None:
        """Take the weight of each detector in the fused score, and which of them can flag an event alone."""
        detectors = len(weights)
        series, size = detectors + 1, options.scores_max
        self._weights = np.array(weights, dtype=np.float64)
        self._alone = np.array(alone or [False] * detectors, dtype=np.bool)
        self._memory_events = options.memory_events
        self._regime_events = options.regime_events
        self._policy = _POLICIES[options.learn_flagged]
        self._events_min = np.full(series, options.detector_events_min, dtype=np.int64)
        self._events_min[detectors] = options.verdict_events_min
        self._pool = np.zeros((series, size), dtype=np.float32)
        self._reference = np.zeros((series, size), dtype=np.float32)
        self._counters = np.zeros((series, 3), dtype=np.int64)
        self._tail = np.zeros((series, 2))
        self._random_state = np.arange(series, dtype=np.uint64) + np.uint64(seed * series)
        self._members = np.zeros(1, dtype=np.int64)
        self._burst = np.zeros(4)
        self._steady_rows = 0

    @property
    def ready(self) -> bool:
        """Whether the next event can get a verdict."""
        return bool(self._counters[-1, LENGTH] > 0)

    def judge(self, scores: F64, alert_rate: float) -> tuple[int, Judgement]:
        """Judge a batch in order: scores (k x n), C-contiguous. Return for how many rows, and the judgement of these.

        That is all of them, unless a burst has lasted for `regime_events` at the last of them.
        """
        detectors, rows = scores.shape
        p_values = np.empty((detectors + 1, rows))
        fused, raw = np.empty(rows), np.empty(rows)
        done = judge(
            _single(scores),
            self._weights,
            self._alone,
            self._pool,
            self._reference,
            self._counters,
            self._tail,
            self._random_state,
            self._members,
            self._burst,
            self._events_min,
            self._memory_events,
            alert_rate,
            self._regime_events,
            self._policy,
            fused,
            raw,
            p_values,
        )
        self._steady_rows -= done
        verdicts = p_values[detectors, :done]
        return done, Judgement(scores[:, :done], p_values[:detectors, :done], fused[:done], verdicts, raw[:done])

    @property
    def is_new_normal(self) -> bool:
        """Whether a burst has lasted for so long that it is not one."""
        return bool(self._burst[LASTED] >= self._regime_events)

    def steady(self, rows: int) -> bool:
        """Return whether `fused` is sure to say the same now and after any part of so many next rows.

        That is, no reference of a detector can be renewed. Counts down, and looks at them when it gets to 0.
        """
        if rows >= self._steady_rows:
            self._steady_rows = until_first_due(self._counters, self._events_min)
        return rows < self._steady_rows

    def fused(self, scores: F64) -> F64:
        """Return the fused scores (n) of scores (k x n) as they would be now; learns nothing."""
        fused = np.empty(scores.shape[1])
        fuse(_single(scores), self._weights, self._pool, self._reference, self._counters, self._tail, fused)
        return fused

    def state(self) -> Arrays:
        """Return all that changes, as live arrays."""
        return {
            "pool": self._pool,
            "reference": self._reference,
            "counters": self._counters,
            "tail": self._tail,
            "random_state": self._random_state,
            "members": self._members,
            "burst": self._burst,
        }

    def restore(self, arrays: Arrays) -> None:
        """Take over copies of what `state` gave; ValueError for what cannot be."""
        check_like(_STORED, arrays, self.state())
        _check(arrays)
        fill(self.state(), arrays)


def _single(scores: F64) -> F64:
    """Return scores as they are in single precision, in which past ones are kept: equal ones must stay equal."""
    return np.clip(scores, -_LARGEST, _LARGEST).astype(np.float32).astype(np.float64)


def _check(arrays: Arrays) -> None:
    """Refuse what the kernel would read out of bounds with, or wait for without end."""
    pool, reference, tail = arrays["pool"], arrays["reference"], arrays["tail"]
    seen, length, renewal = (arrays["counters"][:, place] for place in (SEEN, LENGTH, RENEWAL))
    is_wrong = (renewal <= seen) | (renewal > seen + RENEWAL_EVENTS_MAX)
    past = [row[:end] for row, end in zip(reference, length, strict=True)]
    refuse_if(
        _STORED,
        {
            "a count is out of range": outside(seen, 0, COUNT_MAX),
            "a length is out of range": outside(length, 0, np.minimum(seen, pool.shape[1])),
            "a renewal is out of range": (is_wrong & (length > 0)).any(),
            "a score is not finite": not (np.isfinite(pool).all() and np.isfinite(reference).all()),
            "a reference is not sorted": any((row[1:] < row[:-1]).any() for row in past),
            "a tail is out of range": not np.isfinite(tail).all() or (tail[:, MEAN_EXCESS] < 0.0).any(),
            "the members are out of range": outside(arrays["members"], 0, len(pool) - 1),
            "the burst is out of range": outside(arrays["burst"][[LEVEL, LASTED]], 0.0, COUNT_MAX),
            "the factor is out of range": outside(arrays["burst"][LOG_FACTOR], -LOG_FACTOR_MAX, LOG_FACTOR_MAX)
            or outside(arrays["burst"][LOG_COARSE], LOG_COARSE_MIN, 0.0),
        },
    )
