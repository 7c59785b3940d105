"""Frozen options of the core: every bound and threshold, with its unit last in the name.

The edges read TOML and the environment (`worker.settings`); the core only ever sees these structs.
Defaults are meant to be right for a stream nobody has described: point the worker at a topic and go.
"""

from typing import Annotated

from msgspec import Meta, Struct

Count = Annotated[int, Meta(ge=1)]
Milliseconds = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(gt=0.0, lt=1.0)]


class HalfSpaceOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Half-space trees (Tan, Ting, Liu 2011), built by River and run as arrays."""

    trees: Annotated[int, Meta(ge=1, le=200)] = 10
    height: Annotated[int, Meta(ge=1, le=15)] = 8
    window_events: Count = 250


class ForestOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Isolation forest (Liu, Ting, Zhou 2008), scikit-learn's, refitted off the hot path.

    The fits start when a monitor has seen `refit_events_first` events, then at every `refit_growth` times as many,
    at last every `refit_events_max` events. With 50 ms a fit, that is under 2 µs per event in the long run.
    """

    trees: Annotated[int, Meta(ge=1, le=1000)] = 100
    sample_rows: Annotated[int, Meta(ge=2, le=4096)] = 256
    rows_max: Annotated[int, Meta(ge=16, le=100_000)] = 2048
    refit_events_first: Count = 256
    refit_growth: Annotated[int, Meta(ge=2, le=100)] = 8
    refit_events_max: Count = 32_768
    takeover_events_min: Count = 256
    takeover_events_max: Count = 8192


class CalibrationOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """How scores become p-values: a reservoir of past scores and an exponential tail beyond its 98 % quantile.

    Flagged events of a burst are not learned until there have been `regime_events` of them.
    """

    scores_max: Annotated[int, Meta(ge=64, le=65_536)] = 2048
    memory_events: Count = 200_000
    regime_events: Count = 5000
    detector_events_min: Count = 100
    verdict_events_min: Count = 500


class IncidentOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """When flagged events become one incident, how often it may speak, and when it is over (event time).

    It is over when both `quiet_ms` and `quiet_events` have passed without a flagged event. `burst_flagged_min`
    flagged events among about a hundred make it critical: on a clean stream one such event in a thousand is expected.
    """

    quiet_ms: Annotated[int, Meta(ge=1)] = 30_000
    quiet_events: Annotated[int, Meta(ge=1)] = 100
    update_ms: Annotated[int, Meta(ge=0)] = 60_000
    evidence_max: Annotated[int, Meta(ge=1, le=100)] = 10
    features_max: Annotated[int, Meta(ge=1, le=100)] = 5
    burst_flagged_min: Annotated[float, Meta(gt=1.0, lt=100.0)] = 5.0


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
    incident: IncidentOptions = IncidentOptions()


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
    return found
