"""Seeded streams of raw records for the laws: everything that a real topic throws at a worker, in small."""

import json
import random
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import msgspec

from worker.core.detectors.forest_fit import InlineRefits
from worker.core.engine import Engine
from worker.core.events import Output, RawBatch
from worker.core.maintenance.challengers import ChallengerPool
from worker.core.options import (
    DETECTORS,
    AlertOptions,
    BiasOptions,
    CalibrationOptions,
    ConceptDriftOptions,
    DriftOptions,
    EngineOptions,
    ForestOptions,
    HalfSpaceOptions,
    IncidentOptions,
    KindNoiseOptions,
    LimitOptions,
    ModelPerformanceOptions,
    NeighboursOptions,
    NoiseOptions,
    PerformanceOptions,
    QualityOptions,
    RateOptions,
    StaleOptions,
    StandingAlertOptions,
    SvmOptions,
    TailsOptions,
    WindowOptions,
)
from worker.core.shard import Topics

START_MS = 1_767_225_600_000
FAR_MS = 253_402_300_799_999
TOPIC = "predictions"

PERFORMANCE = PerformanceOptions(
    label_wait_max_ms=20_000,
    join_events_max=150,
    early_labels_max=20,
    pane_ms=2_000,
    panes_max=14,
    windows_ms=(4_000, 8_000),
    block_labels=10,
    blocks_max=8,
    half_life_labels=20,
    task_labels=8,
    reference_labels=40,
    support_min=20,
    alert_confidence=0.9,
    classes_max=4,
    segments=("region", "device"),
    segments_max=3,
    segment_idle_events=40,
    limits=(
        LimitOptions("accuracy", drop=0.0),
        LimitOptions("f1", minimum=0.6),
        LimitOptions("f1_macro", drop=0.0),
        LimitOptions("mae", rise=0.1),
        LimitOptions("r2", minimum=0.5),
        LimitOptions("label_coverage", drop=0.05),
        LimitOptions("label_lag_median", rise=0.2),
    ),
    drift=ConceptDriftOptions(effect_min=0.02, rest_labels=30),
    models=(ModelPerformanceOptions("declared-*", task="multiclass", classes=("a", "b", "c"), segments=("region",)),),
)

SMALL = EngineOptions(
    alert_rate=0.02,
    pane_ms=1000,
    pane_grace_ms=300,
    warmup_events=16,
    models_max=4,
    features_max=8,
    categories_max=4,
    buckets_max=64,
    detectors=DETECTORS,
    rebuild_events=32,
    scores="flagged",
    half_space=HalfSpaceOptions(trees=3, height=4, window_events=12, gate_quantile=0.9, fade=0.5),
    neighbours=NeighboursOptions(neighbours=3, rows_max=32, memory_events=64),
    svm=SvmOptions(rows_max=16),
    tails=TailsOptions(rows_max=64, memory_events=100),
    forest=ForestOptions(
        trees=5,
        sample_rows=16,
        rows_max=32,
        refit_events_first=16,
        refit_growth=2,
        refit_events_max=64,
        takeover_events_min=4,
        takeover_events_max=16,
    ),
    calibration=CalibrationOptions(
        scores_max=64, memory_events=200, regime_events=60, detector_events_min=20, verdict_events_min=30
    ),
    incident=IncidentOptions(quiet_ms=500, quiet_events=10, evidence_max=3, features_max=3),
    # Without segments and short windows: records of metrics would take most of the time of every other test.
    performance=msgspec.structs.replace(PERFORMANCE, segments=(), windows_ms=(8_000,)),
    standing=StandingAlertOptions(quiet_looks=1, features_max=3),
    rate=RateOptions(share=0.1, false_alarm_probability=0.2),
    drift=DriftOptions(
        reference_events=200, block_events=20, blocks_max=4, bins=4, false_alarms_per_day=0.9, adopt_events=60
    ),
    quality=QualityOptions(
        block_events=20,
        reference_blocks=3,
        ids_max=16,
        names_max=3,
        rise_min=0.02,
        adopt_blocks=10,
        false_alarm_probability=0.01,
    ),
    alerts=AlertOptions(
        noise=NoiseOptions(
            severity_min="info",
            cooldown_ms=300,
            update_ms=200,
            flap_openings=3,
            flap_window_ms=4_000,
            flap_clear_ms=1_500,
            clear_ms=50,
        ),
        kinds=(
            KindNoiseOptions(kind="quality.*", panes_min=2, panes=3),
            KindNoiseOptions(kind="drift.input", duration_ms=150, strength_min=0.5),
        ),
        openings_per_day_max=150,
        windows=(
            WindowOptions(
                name="upgrade",
                begin=datetime(2026, 1, 1, 0, 0, 10, tzinfo=UTC),
                end=datetime(2026, 1, 1, 0, 0, 12, tzinfo=UTC),
                kind="anomaly.*",
            ),
        ),
        rebaseline_events=40,
        situation_gap_ms=1_000,
        stale=StaleOptions(predictions_ms=4_000, labels_ms=3_000, records_min=20),
        incidents_max=25,
        remembered_max=5,
        feedback_max=5,
    ),
    bias=BiasOptions(gap_max=0.02, error_max=0.02, slope_min=0.9, support_min=10),
)
"""Options under which a few hundred events and labels go through everything: warm-up, refits, incidents, bounds."""

Record = tuple[bytes | None, int]


def records(seed: int, count: int, *, models: int = 3, bad: float = 0.05) -> list[Record]:
    """Return values with their Kafka timestamps: mostly events, some of them odd, some records not events at all."""
    rng = random.Random(seed)
    now = START_MS
    out: list[Record] = []
    for number in range(count):
        now += rng.choice([0, 1, 5, 20, 20, 60]) if rng.random() > 0.01 else 2500
        if rng.random() < bad:
            out.append((rng.choice(BAD_VALUES), now))
        else:
            out.append((json.dumps(_event(rng, number, now, models)).encode(), now))
    return out


def _event(rng: random.Random, number: int, now: int, models: int) -> dict[str, Any]:
    model = rng.randrange(models)
    features: dict[str, Any] = {
        "a": rng.gauss(5, 1),
        "b": rng.lognormvariate(0, 1) * rng.choice([1, -1]),
        "flag": rng.random() < 0.3,
        "colour": rng.choice(["red", "green", "blue"]) if rng.random() < 0.97 else f"rare{rng.randrange(9)}",
    }
    if rng.random() < 0.03:
        features["a"] *= 50
    if rng.random() < 0.1:
        del features[rng.choice(list(features))]
    if rng.random() < 0.05:
        features[rng.choice(["a", "b", "flag", "colour"])] = rng.choice([None, "text", True, 3])
    if rng.random() < 0.05:
        features[f"new{rng.randrange(6)}"] = rng.choice([1.5, "x", False])
    event: dict[str, Any] = {
        "event_id": f"e{number}",
        "model_id": f"m{model}" if rng.random() < 0.98 else f"x{rng.randrange(9)}",
        "features": features,
        "prediction": [rng.gauss(0, 1), rng.choice(["yes", "no"]), rng.random() < 0.5][model % 3],
    }
    if rng.random() < 0.9:
        event["timestamp"] = now - rng.choice([0, 0, 0, 10, 400, 3000])
    if rng.random() < 0.95:
        event["model_version"] = f"v{number // 450}"
    return event


BAD_VALUES: list[bytes | None] = [
    None,
    b"",
    b"{",
    b"[]",
    b"\xff\xfe",
    b'{"event_id":"e","model_id":"m0","features":{"a":NaN},"prediction":1}',
    b'{"event_id":"e","model_id":"m0","features":{"a":[1]},"prediction":1}',
    b'{"event_id":"e","model_id":"m0","features":{}}',
    b'{"event_id":"e","model_id":"m0","features":{},"prediction":1,"timestamp":99999999999999}',
]


def batch(partition: int, first_offset: int, part: Sequence[Record]) -> RawBatch:
    """Return consecutive records as a raw batch."""
    size = len(part)
    return RawBatch(
        partition=partition,
        offsets=list(range(first_offset, first_offset + size)),
        timestamps_ms=[stamp for _, stamp in part],
        values=[value for value, _ in part],
        keys=[b"key"] * size,
        headers=[None] * size,
    )


def cut(stream: Sequence[Record], cuts: Iterable[int], partition: int = 0) -> list[RawBatch]:
    """Cut a stream into batches at the given places."""
    places = sorted({0, len(stream), *(place for place in cuts if 0 < place < len(stream))})
    return [batch(partition, begin, stream[begin:end]) for begin, end in pairwise(places)]


def run(
    batches: Iterable[RawBatch], options: EngineOptions = SMALL, refits: ChallengerPool | None = None
) -> tuple[list[Output], Engine]:
    """Feed batches to a fresh engine; return all outputs and the engine."""
    engine = Engine(options, Topics(), refits or InlineRefits())
    out: list[Output] = []
    for raw in batches:
        if raw.partition not in engine.partitions:
            engine.add_shard(raw.partition)
        out += engine.handle(raw).outputs
    return out, engine


def close_all(engine: Engine, partition: int = 0) -> list[Output]:
    """Let time pass until nothing is open: at the first tick a model may not be idle yet, the second closes all."""
    return engine.tick(partition, FAR_MS) + engine.tick(partition, FAR_MS)
