"""Runs a few made-up events through everything once, so that every kernel is compiled before the first real one.

numba keeps what it compiled; `edges/kernel_cache.py` sees to it that this is called only when something is missing.
"""

from typing import Generic, TypeVar

import numpy as np

from worker.core.alerts.grouping import groups
from worker.core.alerts.incident_rows import IncidentRows
from worker.core.arrivals import Texts
from worker.core.codec import encode
from worker.core.columns import Column, Kind
from worker.core.detectors.forest_fit import fit_forest
from worker.core.detectors.isolation_forest import ForestArrays
from worker.core.detectors.refit import FittedModel, RefitRequest, SvmRequest
from worker.core.detectors.svm_arrays import SvmArrays
from worker.core.engine import Engine
from worker.core.events import InputTopic, LabelEvent, PredictionEvent, RawBatch
from worker.core.kernels.shadow import rows_until_used
from worker.core.maintenance.boosted_arrays import BoostedArrays, without_trees
from worker.core.maintenance.challengers import FitRequest
from worker.core.maintenance.halving import HalvingOutcome, Trial
from worker.core.maintenance.linear_arrays import LinearArrays
from worker.core.maintenance.ranking import Ranking
from worker.core.maintenance.target import Target
from worker.core.options import (
    DETECTORS,
    CalibrationOptions,
    DriftOptions,
    EngineOptions,
    ForestOptions,
    GroupingOptions,
    HalfSpaceOptions,
    MaintenanceOptions,
    NeighboursOptions,
    PerformanceOptions,
    QualityOptions,
    RangeOptions,
    TailsOptions,
)
from worker.core.options.maintenance import RankingOptions, RecalibrationOptions, RegimeOptions, ThresholdOptions
from worker.core.shard import Topics
from worker.core.statistics.bands import Usual

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
    # Beyond this range is the end of `_inputs`: a block with a finding is learned apart.
    quality=QualityOptions(block_events=20, reference_blocks=2, ids_max=16, ranges={"a": RangeOptions(maximum=100.0)}),
    performance=PerformanceOptions(
        pane_ms=1000, windows_ms=(2000,), block_labels=10, task_labels=4, reference_labels=20, support_min=10
    ),
    maintenance=MaintenanceOptions(
        begin_labels=20,
        recent_rows=100,
        sampled_rows=100,
        fit_rows_min=50,
        refit_labels=100,
        refit_interval_ms=0,
        drift_refit_labels=100,
        takeover_labels=50,
        takeover_ms=0,
        search_labels=0,
        recalibration=RecalibrationOptions(block_labels=20, rows_min=40, class_labels_min=2, blocks_min=2),
        threshold=ThresholdOptions(every_labels=100, block_labels=10, positives_min=2),
        regimes=RegimeOptions(start_rows=64, pane_rows=64),
    ),
)
_PART = 128
"""Events before their labels: the first labels are of events of which nothing was kept."""


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


_Result = TypeVar("_Result")


class _FittedChallenger(Generic[_Result]):
    """As above."""

    def __init__(self, request: FitRequest[_Result]) -> None:
        self._request = request

    def result(self) -> _Result:
        """Return a model without trees or slopes, or options that stay as they are."""
        labelled = self._request.labelled
        target, features = Target(labelled.n_classes, tuple(range(labelled.n_classes))), labelled.rows.shape[1]
        match self._request.kind:
            case "halving":
                return self._request.fitted_from(HalvingOutcome(0, (Trial(1, 0.0),), 1, 0.0, 0.0).to_bytes())
            case "linear":
                return self._request.fitted_from(_flat(features, target).to_bytes())
            case _:
                return self._request.fitted_from(without_trees(features, target).to_bytes())


def _flat(features: int, target: Target) -> LinearArrays:
    """Return a linear model that always says the same."""
    slopes = np.zeros((target.n_raw, features))
    return LinearArrays(target, np.zeros(features), np.ones(features), slopes, np.zeros(target.n_raw))


class _Fits:
    def submit(self, request: RefitRequest) -> _Fitted:
        return _Fitted(request)

    def fit_challenger(self, request: FitRequest[_Result]) -> _FittedChallenger[_Result]:
        return _FittedChallenger(request)


def compile_kernels() -> None:
    """Compile every kernel, or load it from numba's cache."""
    engine = Engine(_OPTIONS, Topics(), _Fits())
    engine.add_shard(0)
    times = [n * 20 for n in range(_EVENTS)]  # some panes, but not one for each few events
    nothing = [None] * _EVENTS
    for place, predictions in enumerate((_inputs(), _numbers(), _answers(), _choices())):
        values = [encode(event) for event in predictions]
        labels = [
            encode(LabelEvent(event.event_id, event.model_id, _truth(n, event))) for n, event in enumerate(predictions)
        ]
        for first in range(0, _EVENTS, _PART):
            rows, offsets = slice(first, first + _PART), range(place * _EVENTS + first, place * _EVENTS + first + _PART)
            engine.handle(RawBatch(0, offsets, times[rows], values[rows], nothing[rows], nothing[rows]))
            batch = RawBatch(0, offsets, times[rows], labels[rows], nothing[rows], nothing[rows], InputTopic.LABELS)
            engine.handle(batch)
    for _ in range(3):  # at the first tick the model is not idle yet
        engine.tick(0, times[-1] + 10 * _OPTIONS.pane_ms)
    _score_challengers()
    _group_rows()
    # What free texts need.
    Texts.of(["a"]).characters()
    # What labels within predictions and the first advice need.
    rows_until_used(0, 0, 1, 1)
    # What fits are answered with where no process is free for them; above, they are made up.
    fit_forest(np.zeros((4, 1)), n_trees=1, sample_size=4, seed=0)
    Ranking(2, RankingOptions()).paired(0, 1)


def _truth(n: int, event: PredictionEvent) -> bool | float | str:
    """Return what came true of event number n."""
    if event.model_id == "choices":
        return "abc"[n % 3]
    return n % 2 == 0 if event.probabilities else n % 5 * 0.1


def _group_rows() -> None:
    """Group the unusual events of an incident."""
    rows = IncidentRows(2, 8, 0)
    for number in range(6):
        rows.add(np.eye(2)[number % 2], np.ones(2), number)
    columns = [Column(name, Kind.NUMERIC, {}) for name in "ab"]
    groups(rows.kept(), columns, Usual(np.zeros(2), np.zeros(2), np.zeros(2)), GroupingOptions(), 0)


def _score_challengers() -> None:
    """Let a challenger of each kind predict a number, one of two classes, one of three."""
    for n_classes in (0, 2, 3):
        target = Target(n_classes, tuple(range(n_classes)))
        challengers: tuple[BoostedArrays | LinearArrays, ...] = (without_trees(1, target), _flat(1, target))
        for challenger in challengers:
            challenger.predict(np.zeros((1, 1), dtype=np.float32))


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
        PredictionEvent(
            f"e{n}",
            "answers",
            {"a": n * 0.618 % 1.0},
            n % 3 == 0,
            probabilities={"true": n % 7 * 0.1, "false": 1 - n % 7 * 0.1},
        )
        for n in range(_EVENTS)
    ]


def _choices() -> list[PredictionEvent]:
    """Return answers of a classifier with three classes."""
    shares = ({"a": 0.5, "b": 0.3, "c": 0.2}, {"a": 0.1, "b": 0.6, "c": 0.3})
    return [
        PredictionEvent(f"e{n}", "choices", {"a": n * 0.618 % 1.0}, "ab"[n % 2], probabilities=shares[n % 2])
        for n in range(_EVENTS)
    ]
