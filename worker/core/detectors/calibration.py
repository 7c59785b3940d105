"""Calibrated p-values and the verdict of one monitor. The kernel holds the formulas; this holds the state."""

from typing import NamedTuple

import numpy as np

from worker.core.kernels.arrays import F64
from worker.core.kernels.calibration import LENGTH, MEAN_EXCESS, RENEWAL, RENEWAL_EVENTS_MAX, SEEN, judge
from worker.core.options import CalibrationOptions
from worker.core.state import COUNT_MAX, Arrays, check_like, fill, outside, refuse_if

_STORED = "stored calibration"


class Judgement(NamedTuple):
    """Scores (k x n), their p-values (k x n), the fused score (n) and its p-value (n); NaN = not enough data yet."""

    scores: F64
    p_values: F64
    fused: F64
    verdicts: F64


class Calibration:
    """Judges every event before it learns the event's scores. It learns them all, single flagged ones too.

    So the share of flagged events settles near `alert_rate` (the tail is exponential: spikes that are rarer than 2 %
    and lie outside of everything else are flagged more often). Flagged events of a burst are
    not learned until there have been `regime_events` of them; then they are taken for the new normal.
    """

    def __init__(self, detectors: int, options: CalibrationOptions, alert_rate: float, seed: int) -> None:
        series, size = detectors + 1, options.scores_max
        self._memory_events = options.memory_events
        self._regime_events = options.regime_events
        self._alert_rate = alert_rate
        self._events_min = np.full(series, options.detector_events_min, dtype=np.int64)
        self._events_min[detectors] = options.verdict_events_min
        self._pool = np.zeros((series, size))
        self._reference = np.zeros((series, size))
        self._counters = np.zeros((series, 3), dtype=np.int64)
        self._tail = np.zeros((series, 2))
        self._random_state = np.arange(series, dtype=np.uint64) + np.uint64(seed * series)
        self._members = np.zeros(1, dtype=np.int64)
        self._burst = np.zeros(2)

    @property
    def ready(self) -> bool:
        """Whether the next event can get a verdict."""
        return bool(self._counters[-1, LENGTH] > 0)

    def judge(self, scores: F64) -> Judgement:
        """Judge a batch in order: scores (k x n), C-contiguous."""
        detectors, rows = scores.shape
        p_values = np.empty((detectors + 1, rows))
        fused = np.empty(rows)
        judge(
            scores,
            self._pool,
            self._reference,
            self._counters,
            self._tail,
            self._random_state,
            self._members,
            self._burst,
            self._events_min,
            self._memory_events,
            self._alert_rate,
            self._regime_events,
            fused,
            p_values,
        )
        return Judgement(scores, p_values[:detectors], fused, p_values[detectors])

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
            "the burst is out of range": outside(arrays["burst"], 0.0, COUNT_MAX),
        },
    )
