"""All options of the core together."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from worker.core.options.change import (
    BiasOptions,
    DriftOptions,
    QualityOptions,
    RateOptions,
    StandingAlertOptions,
    UnivariateOptions,
)
from worker.core.options.detection import (
    CalibrationOptions,
    ForestOptions,
    HalfSpaceOptions,
    IncidentOptions,
    NeighboursOptions,
    SvmOptions,
)
from worker.core.options.performance import PerformanceOptions, performance_contradictions
from worker.core.options.units import Count, Milliseconds, Share


class EngineOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """All options of the core. Two workers with equal options and equal input give equal bytes."""

    alert_rate: Share = 0.001
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
    incident: IncidentOptions = IncidentOptions()
    performance: PerformanceOptions = PerformanceOptions()
    standing: StandingAlertOptions = StandingAlertOptions()
    rate: RateOptions = RateOptions()
    drift: DriftOptions = DriftOptions()
    quality: QualityOptions = QualityOptions()
    bias: BiasOptions = BiasOptions()
    univariate: UnivariateOptions = UnivariateOptions()
    scores: Literal["off", "flagged", "all"] = "off"
    """Which events' verdicts are published on the topic `scores`."""


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
    return found + performance_contradictions(options.performance, options.pane_ms)
