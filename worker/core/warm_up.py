"""Runs a few made-up events through everything once, so that every kernel is compiled before the first real one.

numba keeps what it compiled beside the modules; with a warm cache this takes a fraction of a second, the first time on
a machine about ten.
"""

import numpy as np

from worker.core.codec import encode
from worker.core.detectors.isolation_forest import ForestArrays
from worker.core.detectors.refit import RefitRequest
from worker.core.engine import Engine
from worker.core.events import InputTopic, LabelEvent, PredictionEvent, RawBatch
from worker.core.options import (
    CalibrationOptions,
    EngineOptions,
    ForestOptions,
    HalfSpaceOptions,
    PerformanceOptions,
)
from worker.core.shard import Topics

_EVENTS = 128
_OPTIONS = EngineOptions(
    pane_ms=1000,
    pane_grace_ms=100,
    warmup_events=16,
    half_space=HalfSpaceOptions(trees=2, height=2, window_events=8),
    forest=ForestOptions(
        trees=2, sample_rows=8, rows_max=16, refit_events_first=16, takeover_events_min=4, takeover_events_max=8
    ),
    calibration=CalibrationOptions(scores_max=64, detector_events_min=16, verdict_events_min=16),
    performance=PerformanceOptions(
        pane_ms=1000, windows_ms=(2000,), block_labels=10, task_labels=4, reference_labels=20, support_min=10
    ),
)


class _Stump:
    """A forest made by hand, so that scikit-learn need not be loaded."""

    def result(self) -> ForestArrays:
        """Return one split and two leaves."""
        return ForestArrays(
            n_features=2,
            feature=np.zeros((1, 1), dtype=np.int16),
            threshold=np.zeros((1, 1), dtype=np.float32),
            missing_left=np.zeros((1, 1), dtype=np.bool_),
            leaf_value=np.ones((1, 2)),
            denominator=1.0,
        )


class _Stumps:
    def submit(self, _: RefitRequest) -> _Stump:
        return _Stump()


def compile_kernels() -> None:
    """Compile every kernel, or load it from numba's cache."""
    engine = Engine(_OPTIONS, Topics(), _Stumps())
    engine.add_shard(0)
    values = [
        encode(PredictionEvent(f"e{n}", "warm-up", {"a": n * 0.618 % 1.0, "b": "xyz"[n % 3]}, n % 7 * 0.1))
        for n in range(_EVENTS)
    ]
    times = [n * 100 for n in range(_EVENTS)]
    nothing = [None] * _EVENTS
    engine.handle(RawBatch(0, range(_EVENTS), times, values, nothing, nothing))
    binary = [
        encode(PredictionEvent(f"e{n}", "binary", {}, n % 3 == 0, probabilities={"true": 0.4, "false": 0.6}))
        for n in range(_EVENTS)
    ]
    engine.handle(RawBatch(0, range(_EVENTS, 2 * _EVENTS), times, binary, nothing, nothing))
    for first, model_id in ((0, "warm-up"), (_EVENTS, "binary")):
        labels = [encode(LabelEvent(f"e{n}", model_id, n % 2 == 0 if first else n % 5 * 0.1)) for n in range(_EVENTS)]
        offsets = range(first, first + _EVENTS)
        engine.handle(RawBatch(0, offsets, times, labels, nothing, nothing, InputTopic.LABELS))
    for _ in range(3):  # at the first tick the model is not idle yet
        engine.tick(0, times[-1] + 10 * _OPTIONS.pane_ms)
