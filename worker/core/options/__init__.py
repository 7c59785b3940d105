"""Frozen options of the core: every bound and threshold, with its unit last in the name.

The edges read TOML and the environment (`worker.settings`); the core only ever sees these structs.
Defaults are meant to be right for a stream nobody has described: point the worker at a topic and go.
"""

from worker.core.options.alerts import (
    AlertOptions,
    KindNoiseOptions,
    NoiseOptions,
    StaleOptions,
    TuningOptions,
    WindowOptions,
)
from worker.core.options.change import (
    BiasOptions,
    DriftColumnOptions,
    DriftOptions,
    DriftReferenceOptions,
    QualityOptions,
    RangeOptions,
    RateOptions,
    StandingAlertOptions,
    UnivariateOptions,
)
from worker.core.options.detection import (
    CalibrationOptions,
    ForestOptions,
    GroupingOptions,
    HalfSpaceOptions,
    IncidentOptions,
    NeighboursOptions,
    SvmOptions,
    TailsOptions,
)
from worker.core.options.engine import DETECTORS, DetectorName, EngineOptions, ModelDetectionOptions, contradictions
from worker.core.options.maintenance import MaintenanceOptions
from worker.core.options.performance import (
    DEFAULT_LIMITS,
    ConceptDriftOptions,
    LimitOptions,
    ModelPerformanceOptions,
    PerformanceOptions,
    ReportOptions,
)
from worker.core.options.units import Count, Milliseconds, Share

__all__ = [
    "DEFAULT_LIMITS",
    "DETECTORS",
    "AlertOptions",
    "BiasOptions",
    "CalibrationOptions",
    "ConceptDriftOptions",
    "Count",
    "DetectorName",
    "DriftColumnOptions",
    "DriftOptions",
    "DriftReferenceOptions",
    "EngineOptions",
    "ForestOptions",
    "GroupingOptions",
    "HalfSpaceOptions",
    "IncidentOptions",
    "KindNoiseOptions",
    "LimitOptions",
    "MaintenanceOptions",
    "Milliseconds",
    "ModelDetectionOptions",
    "ModelPerformanceOptions",
    "NeighboursOptions",
    "NoiseOptions",
    "PerformanceOptions",
    "QualityOptions",
    "RangeOptions",
    "RateOptions",
    "ReportOptions",
    "Share",
    "StaleOptions",
    "StandingAlertOptions",
    "SvmOptions",
    "TailsOptions",
    "TuningOptions",
    "UnivariateOptions",
    "WindowOptions",
    "contradictions",
]
