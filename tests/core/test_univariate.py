"""A model whose events are one number: spikes, levels and times of day that are not as usual."""

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from worker.core.alerts.silences import SilenceBook
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.events import Output, PredictionEvent
from worker.core.monitor import Home, Monitor
from worker.core.options import (
    DriftOptions,
    EngineOptions,
    IncidentOptions,
    ModelDetectionOptions,
    PerformanceOptions,
    QualityOptions,
    UnivariateOptions,
)

START_MS = 1_767_225_600_000
HOUR_MS = 3_600_000
OPTIONS = EngineOptions(
    scores="all",
    performance=PerformanceOptions(enabled=False),
    quality=QualityOptions(enabled=False),
    drift=DriftOptions(enabled=False),
    incident=IncidentOptions(quiet_ms=1, quiet_events=20),
)
Value = Callable[[random.Random, int], float | None]


def run(
    count: int, value: Value, gap_ms: int = 1_000, options: EngineOptions = OPTIONS, name: str = ""
) -> list[Output]:
    """Return what is said of a number: a feature of this name, or else the prediction."""
    rng = random.Random(11)
    numbers = [value(rng, n) for n in range(count)]
    events = [
        PredictionEvent(f"e{n}", "m", {name: number} if name else {}, 0.0 if name or number is None else number)
        for n, number in enumerate(numbers)
    ]
    places = np.arange(count)
    monitor = Monitor("m", Home(0, "predictions", "labels"), options, InlineRefits(), SilenceBook(10))
    return monitor.process(events, places, START_MS + gap_ms * places)


def told(outputs: Sequence[Output], topic: str) -> list[dict[str, Any]]:
    """Return the records of a topic."""
    return [msgspec.json.decode(each.value or b"") for each in outputs if each.topic == topic]


def flagged(outputs: Sequence[Output]) -> set[int]:
    """Return the offsets of flagged events."""
    return {each["offset"] for each in told(outputs, "scores") if each["flagged"]}


def first_features(outputs: Sequence[Output], begin: int, end: int) -> list[str]:
    """Return the features that the first alert about an event of [begin, end) names."""
    for each in told(outputs, "alerts"):
        if each["status"] == "opened" and begin <= each["evidence"][0]["offset"] < end:
            return [feature["name"] for feature in each["features"]]
    return []


@pytest.mark.parametrize("name", ["", "latency"])
def test_a_spike_is_flagged_at_once_and_named(name: str) -> None:
    """One value far away from the others is an incident; it shows in what is derived from the number."""
    outputs = run(2_600, lambda rng, n: rng.gauss(10, 1) + 25.0 * (n == 2_500), name=name)
    assert 2_500 in flagged(outputs)
    names = first_features(outputs, 2_500, 2_501)
    number = name or "prediction"
    derived = [f"{number}: difference", f"{number}: fast residual", f"{number}: slow residual"]
    assert names[0] in [number, *derived]
    assert set(names) & set(derived)


def test_a_step_that_no_single_value_shows_is_flagged_and_named() -> None:
    """A number that wanders far: a jump within its usual range shows in the difference and the fast mean alone."""

    def wandering(rng: random.Random, n: int) -> float:
        return 50.0 * math.sin(n / 100) + rng.gauss(0, 1) + 30.0 * (n == 2_513)

    outputs = run(2_600, wandering)
    assert 2_513 in flagged(outputs)
    assert first_features(outputs, 2_513, 2_514)[0] in ("prediction: difference", "prediction: fast residual")


def test_another_level_is_flagged_until_it_is_usual() -> None:
    """A level shift is found within a few events; the distance from the slow mean is named."""
    outputs = run(3_400, lambda rng, n: rng.gauss(10 + 8.0 * (n >= 2_500), 1))
    found = sorted(each for each in flagged(outputs) if each >= 2_500)
    assert found[0] <= 2_502
    names = first_features(outputs, 2_500, 2_510)
    assert {"prediction: slow residual", "prediction: fast residual", "prediction: difference"} & set(names[:3])


def test_a_day_without_its_usual_pattern_is_flagged() -> None:
    """A number that is high by day and low by night stays low one day: usual values, at the wrong time."""
    hour = 36

    def daily(rng: random.Random, n: int) -> float:
        day, of_day = divmod(n, 24)
        is_high = 8 <= of_day < 20 and day != hour
        return 100.0 * is_high + rng.gauss(0, 2)

    outputs = run(24 * 40, daily, gap_ms=HOUR_MS, options=SEASONAL)
    missing = {24 * hour + of_day for of_day in range(8, 20)}
    assert len(missing & flagged(outputs)) >= 2
    assert "prediction: seasonal residual" in first_features(outputs, min(missing), max(missing) + 1)


SEASONAL = msgspec.structs.replace(
    OPTIONS,
    alert_rate=0.01,
    warmup_events=128,
    calibration=msgspec.structs.replace(OPTIONS.calibration, verdict_events_min=100),
)


def test_a_steady_number_is_as_quiet_as_was_asked_for() -> None:
    """About one event in a thousand is flagged."""
    outputs = run(12_000, lambda rng, _: rng.gauss(0, 1))
    judged = [each["flagged"] for each in told(outputs, "scores") if each["p_value"] is not None]
    assert len(judged) > 10_000
    assert np.mean(judged) <= 0.0025


def test_a_number_that_is_missing_now_and_then_is_no_trouble() -> None:
    """It is neither flagged nor does it stop the verdicts."""
    outputs = run(2_000, lambda rng, n: None if n % 50 == 0 else rng.gauss(0, 1), name="latency")
    scores = [each for each in told(outputs, "scores") if each["offset"] > 1_500]
    assert all(each["p_value"] is not None for each in scores)
    assert not any(each["flagged"] for each in scores if each["offset"] % 50 == 0)


def test_the_mode_can_be_turned_off_for_a_model() -> None:
    """Then the feature is what it is."""
    off = ModelDetectionOptions("m", univariate="off")
    for options in (
        msgspec.structs.replace(OPTIONS, models=(off,)),
        msgspec.structs.replace(OPTIONS, univariate=UnivariateOptions(mode="off")),
    ):
        outputs = run(2_600, lambda rng, n: rng.gauss(10, 1) + 25.0 * (n == 2_500), name="latency", options=options)
        assert first_features(outputs, 2_500, 2_501) == ["latency"]
