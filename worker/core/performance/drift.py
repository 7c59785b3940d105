"""Concept drift: has a model's error changed? One class over the compiled detectors, with state that can be stored.

River's detectors decide the same, but its ADWIN can be stored only by pickle, and the others only attribute by
attribute. Here a detector is a few arrays of fixed names, types and shapes.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from worker.core.kernels.arrays import F64
from worker.core.kernels.drift import ddm, eddm, hddm_a, hddm_w, page_hinkley
from worker.core.kernels.drift_adwin import ROWS, adwin
from worker.core.state import COUNT_MAX, AnyArray, Arrays, check_like, fill, outside, refuse_if

_STORED = "stored concept drift detector"
_BUCKETS_PER_ROW = 5

Reasons = Mapping[str, bool | np.bool_]


@dataclass(frozen=True, slots=True)
class Detector:
    """A kernel, its parameters (River's defaults), its empty state, and what must not be in a stored one."""

    kernel: Callable[..., Any]
    """kernel(errors, begin, *state, *parameters) -> index of the first alarm, or len(errors)."""
    parameters: tuple[float, ...]
    empty: Callable[[], dict[str, AnyArray]]
    """The state in the order that the kernel takes it."""
    damage: Callable[[Arrays], Reasons]
    """Reasons to refuse arrays of the right shapes, `change` apart."""


class ConceptDrift:
    """One detector on one stream of errors, each in [0, 1]. Memory is fixed; an alarm makes it start anew."""

    def __init__(self, name: str) -> None:
        """Take a name from `DRIFT_DETECTORS`."""
        self._detector = DRIFT_DETECTORS[name]
        self._arrays = self._detector.empty()

    def update(self, errors: F64, begin: int) -> int:
        """Process errors[begin:] (n) up to and including the first row that alarms; return its index, or n.

        To go on after an alarm, call again with the returned index + 1.
        """
        assert 0 <= begin <= len(errors), "begin is outside of the errors"
        assert not outside(errors[begin:], 0.0, 1.0), "an error is outside of [0, 1]"
        return int(self._detector.kernel(errors, begin, *self._arrays.values(), *self._detector.parameters))

    def before_after(self) -> tuple[float, float]:
        """Return the mean error before and after the change as the last alarm saw it; NaN before the first alarm.

        ADWIN: the two sides of the most likely place of the change. The others know no such point: the
        mean since the alarm before, the change included, and the fading mean of about the last 50 values.
        """
        before, after = self._arrays["change"].tolist()
        return before, after

    def state(self) -> dict[str, AnyArray]:
        """Return the live arrays."""
        return dict(self._arrays)

    def restore(self, arrays: Arrays) -> None:
        """Take over copies; ValueError if a kernel could not rely on them."""
        check_like(_STORED, arrays, self._arrays)
        change = arrays["change"]
        refuse_if(
            _STORED,
            {
                "a mean of the last change is out of range": not np.isnan(change).all() and outside(change, 0.0, 1.0),
                **self._detector.damage(arrays),
            },
        )
        fill(self._arrays, arrays)


def _empty_running(n_counts: int, n_own: int) -> Callable[[], dict[str, AnyArray]]:
    """Return a maker of the state that `kernels.drift` describes."""
    return lambda: {
        "counts": np.zeros(n_counts, dtype=np.int64),
        "means": np.zeros(3),
        "own": np.zeros(n_own),
        "change": np.full(2, math.nan),
    }


def _damage_running(own_max: Callable[[float], tuple[float, ...]], own_min: float = 0.0) -> Callable[[Arrays], Reasons]:
    """Return the checks of a state as above; `own` lies between `own_min` and 1 times its limits for n values."""

    def damage(arrays: Arrays) -> Reasons:
        counts, means, own = arrays["counts"], arrays["means"], arrays["own"]
        high = np.array(own_max(float(counts[0])))
        return {
            "a count is out of range": outside(counts, 0, min(int(counts[0]), COUNT_MAX)),
            # The weight tends to 1, give or take its last bits.
            "a mean is out of range": outside(means, 0.0, np.array([1.0, 1.0, 2.0])),
            "a number of the detector's is out of range": outside(own, own_min * high, high),
        }

    return damage


def _damage_eddm(arrays: Arrays) -> Reasons:
    """Check in addition that there are no more errors than values up to the last one."""
    # Distances add up to n at most, their squares to n^2, and the deviation is at most the root of that.
    shared = _damage_running(lambda n: (n, 2.0 * n * n, 4.0 * n))
    _, last_error, n_errors = arrays["counts"].tolist()
    return {**shared(arrays), "there are more errors than values": n_errors > last_error}


def _empty_adwin() -> dict[str, AnyArray]:
    """Return the state that `kernels.drift_adwin` describes."""
    return {
        "buckets": np.zeros(ROWS, dtype=np.int64),
        "totals": np.zeros((ROWS, _BUCKETS_PER_ROW + 1)),
        "variances": np.zeros((ROWS, _BUCKETS_PER_ROW + 1)),
        "width": np.zeros(1, dtype=np.int64),
        "window": np.zeros(2),
        "change": np.full(2, math.nan),
    }


def _damage_adwin(arrays: Arrays) -> Reasons:
    """Check that the rows in use are the first ones and hold the width, and that sums are those of values in [0, 1]."""
    buckets, width = arrays["buckets"], int(arrays["width"][0])
    in_use = buckets > 0
    sizes = 2.0 ** np.arange(ROWS)[:, np.newaxis]
    return {
        "a number of buckets is out of range": outside(buckets, 0, _BUCKETS_PER_ROW),
        "there is a gap between rows of buckets": bool((in_use[1:] & ~in_use[:-1]).any()),
        "the width is out of range": not 0 <= width <= COUNT_MAX,
        "the buckets do not hold the width": sum(n << row for row, n in enumerate(buckets.tolist())) != width,
        "a bucket's total is out of range": outside(arrays["totals"], 0.0, sizes),
        "a bucket's variance is out of range": outside(arrays["variances"], 0.0, sizes),
        "the window's total or variance is out of range": outside(arrays["window"], 0.0, float(width)),
    }


DRIFT_DETECTORS: dict[str, Detector] = {
    # delta, clock, min_window_length, grace_period
    "adwin": Detector(adwin, (0.002, 32, 5, 10), _empty_adwin, _damage_adwin),
    # min_instances, delta, threshold, alpha; each value moves the sum by less than 2
    "page_hinkley": Detector(
        page_hinkley,
        (30, 0.005, 50.0, 1.0 - 0.0001),
        _empty_running(1, 2),
        _damage_running(lambda n: (2.0 * n, 2.0 * n), own_min=-1.0),
    ),
    # warm_start, drift_threshold
    "ddm": Detector(ddm, (30, 3.0), _empty_running(1, 2), _damage_running(lambda _: (1.0, 1.0))),
    # warm_start, beta
    "eddm": Detector(eddm, (30, 0.9), _empty_running(3, 3), _damage_eddm),
    # drift_confidence
    "hddm_a": Detector(hddm_a, (0.001,), _empty_running(2, 1), _damage_running(lambda _: (1.0,))),
    # drift_confidence, lambda; the least mean plus bound is under 1 + sqrt(ln(1000) / 2)
    "hddm_w": Detector(
        hddm_w, (0.001, 0.05), _empty_running(2, 7), _damage_running(lambda _: (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 3.0))
    ),
}
"""The detectors by the names that options use."""
