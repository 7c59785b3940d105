"""Runs a few made-up events through everything once, so that every kernel is compiled before the first real one.

numba keeps what it compiled beside the modules; with a warm cache this takes a fraction of a second, the first time on
a machine about ten.
"""

import numpy as np

from worker.core.codec import encode
from worker.core.detectors.isolation_forest import ForestArrays
from worker.core.detectors.refit import FittedModel, RefitRequest, SvmRequest
from worker.core.detectors.svm_arrays import SvmArrays
from worker.core.engine import Engine
from worker.core.events import InputTopic, LabelEvent, PredictionEvent, RawBatch
from worker.core.options import (
    DETECTORS,
    CalibrationOptions,
    DriftOptions,
    EngineOptions,
    ForestOptions,
    HalfSpaceOptions,
    NeighboursOptions,
    PerformanceOptions,
    QualityOptions,
    TailsOptions,
)
from worker.core.shard import Topics

_EVENTS = 512
_SHIFT = 300
_FAR = 20
_OPTIONS = EngineOptions(
    pane_ms=1000,
    pane_grace_ms=100,
    warmup_events=16,
    half_space=HalfSpaceOptions(trees=2, height=2, window_events=8),
    forest=ForestOptions(
        trees=2, sample_rows=8, rows_max=16, refit_events_first=16, takeover_events_min=4, takeover_events_max=8
    ),
    detectors=DETECTORS,
    rebuild_events=32,
    neighbours=NeighboursOptions(neighbours=2, rows_max=32),
    tails=TailsOptions(rows_max=64),
    calibration=CalibrationOptions(scores_max=64, regime_events=32, detector_events_min=16, verdict_events_min=16),
    drift=DriftOptions(reference_events=200, block_events=20, blocks_max=2, bins=4),
    quality=QualityOptions(block_events=20, reference_blocks=2, ids_max=16),
    performance=PerformanceOptions(
        pane_ms=1000, windows_ms=(2000,), block_labels=10, task_labels=4, reference_labels=20, support_min=10
    ),
)


class _Fitted:
    """A model made by hand, so that scikit-learn need not be loaded."""

    def __init__(self, request: RefitRequest) -> None:
        self._request = request

    def result(self) -> FittedModel:
        """Return a tree of one split, or one support vector."""
        features = self._request.rows.shape[1]
        if isinstance(self._request, SvmRequest):
            return SvmArrays(vectors=np.zeros((features, 1)), coefficients=np.ones(1), offset=0.5, gamma=1.0)
        return ForestArrays(
            n_features=features,
            feature=np.zeros((1, 1), dtype=np.int16),
            threshold=np.zeros((1, 1), dtype=np.float32),
            missing_left=np.zeros((1, 1), dtype=np.bool_),
            leaf_value=np.ones((1, 2)),
            denominator=1.0,
        )


class _Fits:
    def submit(self, request: RefitRequest) -> _Fitted:
        return _Fitted(request)


def compile_kernels() -> None:
    """Compile every kernel, or load it from numba's cache."""
    engine = Engine(_OPTIONS, Topics(), _Fits())
    engine.add_shard(0)
    times = [n * 100 for n in range(_EVENTS)]
    nothing = [None] * _EVENTS
    for place, predictions in enumerate((_inputs(), _numbers(), _answers())):
        offsets = range(place * _EVENTS, (place + 1) * _EVENTS)
        values = [encode(event) for event in predictions]
        engine.handle(RawBatch(0, offsets, times, values, nothing, nothing))
        labels = [
            encode(LabelEvent(event.event_id, event.model_id, n % 2 == 0 if event.probabilities else n % 5 * 0.1))
            for n, event in enumerate(predictions)
        ]
        engine.handle(RawBatch(0, offsets, times, labels, nothing, nothing, InputTopic.LABELS))
    for _ in range(3):  # at the first tick the model is not idle yet
        engine.tick(0, times[-1] + 10 * _OPTIONS.pane_ms)


def _inputs() -> list[PredictionEvent]:
    """Return events with a number and a category; the number drifts, and is far off at last."""
    return [
        PredictionEvent(
            f"e{n}",
            "inputs",
            {"a": n * 0.618 % 1.0 + (n > _SHIFT) + 1000.0 * (n > _EVENTS - _FAR), "b": "xyz"[n % 3]},
            n % 7 * 0.1,
        )
        for n in range(_EVENTS)
    ]


def _numbers() -> list[PredictionEvent]:
    """Return events of a plain metric."""
    return [PredictionEvent(f"e{n}", "numbers", {"a": n * 0.618 % 1.0}, 0.0) for n in range(_EVENTS)]


def _answers() -> list[PredictionEvent]:
    """Return answers of a classifier."""
    return [
        PredictionEvent(f"e{n}", "answers", {}, n % 3 == 0, probabilities={"true": 0.4, "false": 0.6})
        for n in range(_EVENTS)
    ]
