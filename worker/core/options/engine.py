"""All options of the core together."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from worker.core.options.alerts import AlertOptions, alert_contradictions
from worker.core.options.change import (
    BiasOptions,
    DriftOptions,
    QualityOptions,
    RateOptions,
    StandingAlertOptions,
    UnivariateOptions,
    bias_contradictions,
    drift_contradictions,
    quality_contradictions,
)
from worker.core.options.detection import (
    CalibrationOptions,
    ForestOptions,
    HalfSpaceOptions,
    IncidentOptions,
    NeighboursOptions,
    SvmOptions,
    TailsOptions,
)
from worker.core.options.maintenance import MaintenanceOptions, maintenance_contradictions
from worker.core.options.performance import PerformanceOptions, performance_contradictions
from worker.core.options.units import Count, Milliseconds, Share

DetectorName = Literal[
    "half_space_trees", "isolation_forest", "one_class_svm", "moments", "nearest_neighbours", "tails"
]
DETECTORS: tuple[DetectorName, ...] = (
    "half_space_trees",
    "isolation_forest",
    "one_class_svm",
    "moments",
    "nearest_neighbours",
    "tails",
)
"""All there are."""

WEIGHTS: Mapping[str, float] = {
    "half_space_trees": 1.0,
    "isolation_forest": 0.5,
    "moments": 0.5,
    "nearest_neighbours": 2.0,
    "one_class_svm": 0.5,
    "tails": 1.5,
}
"""Chosen by measurement (ARCHITECTURE.md)."""


class ModelDetectionOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """What is different for the models whose id fits `model`, a shell pattern. The first that fits counts."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    alert_rate: Share | None = None
    false_alarm_interval_ms: Milliseconds | None = None
    detectors: tuple[DetectorName, ...] | None = None
    weights: dict[DetectorName, Annotated[float, Meta(gt=0.0)]] | None = None
    univariate: Literal["off", "auto"] | None = None
    scores: Literal["off", "flagged", "all"] | None = None


class EngineOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """All options of the core. Two workers with equal options and equal input give equal bytes."""

    alert_rate: Share = 0.001
    """Wanted share of flagged events while nothing is wrong."""
    false_alarm_interval_ms: Milliseconds = 0
    """Instead of `alert_rate`, unless 0: wanted mean time between events that are flagged while nothing is wrong."""
    detectors: tuple[DetectorName, ...] = (
        "half_space_trees",
        "isolation_forest",
        "moments",
        "nearest_neighbours",
        "tails",
    )
    weights: dict[DetectorName, Annotated[float, Meta(gt=0.0)]] = {}
    """Weight of a detector in the verdict, where it is not the usual one."""
    alone: tuple[DetectorName, ...] = ("moments",)
    """Detectors that can flag an event by themselves: in a mean over many, one that is alarmed says little."""
    rebuild_events: Annotated[int, Meta(ge=32, le=100_000)] = 1_024
    """Latest events that are kept, for detectors to begin anew with when a new regime is accepted."""
    models: tuple[ModelDetectionOptions, ...] = ()
    pane_ms: Annotated[int, Meta(ge=100)] = 60_000
    pane_grace_ms: Milliseconds = 2_000
    warmup_events: Annotated[int, Meta(ge=16, le=100_000)] = 256
    models_max: Count = 10_000
    features_max: Annotated[int, Meta(ge=1, le=2000)] = 256
    categories_max: Annotated[int, Meta(ge=1, le=2000)] = 64
    buckets_max: Annotated[int, Meta(ge=32, le=4096)] = 320
    record_bytes_max: Count = 262_144
    future_max_ms: Milliseconds = 3_600_000
    seed: int = 0
    half_space: HalfSpaceOptions = HalfSpaceOptions()
    forest: ForestOptions = ForestOptions()
    calibration: CalibrationOptions = CalibrationOptions()
    neighbours: NeighboursOptions = NeighboursOptions()
    svm: SvmOptions = SvmOptions()
    tails: TailsOptions = TailsOptions()
    incident: IncidentOptions = IncidentOptions()
    performance: PerformanceOptions = PerformanceOptions()
    standing: StandingAlertOptions = StandingAlertOptions()
    rate: RateOptions = RateOptions()
    drift: DriftOptions = DriftOptions()
    quality: QualityOptions = QualityOptions()
    bias: BiasOptions = BiasOptions()
    univariate: UnivariateOptions = UnivariateOptions()
    maintenance: MaintenanceOptions = MaintenanceOptions()
    alerts: AlertOptions = AlertOptions()
    scores: Literal["off", "flagged", "all"] = "off"
    """Which events' verdicts are published on the topic `scores`."""

    def weight(self, detector: str) -> float:
        """Return the weight of a detector in the verdict."""
        weights: dict[str, float] = {**WEIGHTS}
        return (weights | dict(self.weights))[detector]

    def uses(self, detector: DetectorName) -> bool:
        """Tell whether any model may have this detector."""
        return detector in self.detectors or any(detector in (own.detectors or ()) for own in self.models)

    def of_model(self, model_id: str) -> "EngineOptions":
        """Return the options of a model."""
        own = next((each for each in self.models if fnmatchcase(model_id, each.model)), None)
        if own is None:
            return self
        names = ("alert_rate", "false_alarm_interval_ms", "detectors", "weights", "scores")
        changed = {name: value for name in names if (value := getattr(own, name)) is not None}
        if own.alert_rate is not None and own.false_alarm_interval_ms is None:
            changed["false_alarm_interval_ms"] = 0
        if own.univariate is not None:
            changed["univariate"] = msgspec.structs.replace(self.univariate, mode=own.univariate)
        return msgspec.structs.replace(self, **changed)


def contradictions(options: EngineOptions) -> list[str]:
    """What cannot be meant together, one sentence each; empty when the options are sound."""
    found = []
    if options.pane_grace_ms > options.pane_ms:
        found.append("engine.pane_grace_ms must not be larger than engine.pane_ms: at most two panes are kept open")
    if options.forest.rows_max < options.warmup_events:
        found.append("engine.forest.rows_max must be at least engine.warmup_events: the warm-up rows are kept there")
    if options.forest.takeover_events_min > options.forest.takeover_events_max:
        found.append("engine.forest.takeover_events_min must not be larger than takeover_events_max")
    if options.calibration.detector_events_min > options.calibration.scores_max:
        found.append("engine.calibration.detector_events_min must not be larger than scores_max")
    if options.forest.refit_events_first < options.warmup_events:
        found.append("engine.forest.refit_events_first must be at least engine.warmup_events")
    if options.forest.refit_events_max < options.forest.takeover_events_max:
        found.append("engine.forest.refit_events_max must be at least takeover_events_max: one fit at a time")
    if options.rebuild_events < options.warmup_events:
        found.append("engine.rebuild_events must be at least engine.warmup_events: detectors begin with them")
    if options.calibration.regime_events < options.rebuild_events:
        found.append("engine.calibration.regime_events must be at least engine.rebuild_events: these are its events")
    declared = [options.detectors, *(model.detectors for model in options.models if model.detectors is not None)]
    if any(not names or len(set(names)) < len(names) for names in declared):
        found.append("engine.detectors must name at least one detector, and none twice")
    found += alert_contradictions(options.alerts) + drift_contradictions(options.drift)
    found += quality_contradictions(options.quality)
    found += bias_contradictions(options.bias, options.performance.blocks_max * options.performance.block_labels)
    found += maintenance_contradictions(options.maintenance)
    return found + performance_contradictions(options.performance, options.pane_ms)
