"""Groups of an incident's unusual events as alerts tell them, from the engine's own path of events."""

import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec
import numpy as np
import pytest

from worker.core.alerts.incident import Flagged, Incident, Step
from worker.core.alerts.records import Story, summary
from worker.core.alerts.silences import SilenceBook
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.events import FeatureValue, Output, PredictionEvent
from worker.core.events.alerts import AnomalyGroup, GroupFeature
from worker.core.monitor import Home, Monitor
from worker.core.options import (
    AlertOptions,
    CalibrationOptions,
    DriftOptions,
    EngineOptions,
    IncidentOptions,
    NoiseOptions,
    PerformanceOptions,
    QualityOptions,
)
from worker.core.options.detection import GroupingOptions

START_MS = 1_767_225_600_000
OPTIONS = EngineOptions(
    alert_rate=0.005,
    warmup_events=64,
    rebuild_events=128,
    detectors=("half_space_trees", "moments", "tails"),
    calibration=CalibrationOptions(detector_events_min=20, verdict_events_min=50, regime_events=500),
    performance=PerformanceOptions(enabled=False),
    quality=QualityOptions(enabled=False),
    drift=DriftOptions(enabled=False),
    incident=IncidentOptions(quiet_ms=1_000, quiet_events=10),
    alerts=AlertOptions(noise=NoiseOptions(severity_min="info", cooldown_ms=0, flap_openings=0, update_ms=5_000)),
)
BURST = range(2_000, 2_200)


def event(rng: random.Random, number: int) -> dict[str, FeatureValue]:
    """Within the burst a third is far above in `amount`, a third far below in `age`, a third far above in `rest`."""
    features: dict[str, FeatureValue] = {
        "amount": rng.gauss(100, 10),
        "age": rng.gauss(40, 5),
        "rest": rng.gauss(0, 1),
        "country": rng.choice(["DE", "FR"]),
    }
    if number in BURST:
        causes: tuple[tuple[str, FeatureValue], ...] = (
            ("amount", rng.uniform(500, 900)),
            ("age", -rng.uniform(30, 60)),
            ("rest", rng.uniform(10, 20)),
        )
        name, value = causes[number % 3]
        features[name] = value
    return features


@cache
def stream() -> list[PredictionEvent]:
    """Seeded events."""
    rng = random.Random(5)
    return [PredictionEvent(f"e{n}", "m", event(rng, n), rng.random(), model_version="v1") for n in range(2_400)]


def new_monitor(options: EngineOptions) -> Monitor:
    """A monitor that has seen nothing."""
    return Monitor("m", Home(0, "predictions", "labels"), options, InlineRefits(), SilenceBook(10))


def feed(monitor: Monitor, begin: int, end: int, size: int = 1_000) -> list[Output]:
    """Let events [begin, end) happen, ten a second."""
    out: list[Output] = []
    while begin < end:
        places = np.arange(begin, min(end, begin + size))
        out += monitor.process(stream()[places[0] : places[-1] + 1], places, START_MS + 100 * places)
        begin += size
    return out


@cache
def whole() -> list[Output]:
    """What is said of the stream as one batch."""
    return feed(new_monitor(OPTIONS), 0, len(stream()), len(stream()))


def steps(outputs: Sequence[Output]) -> list[dict[str, Any]]:
    """The steps of the incident of the burst."""
    records = [msgspec.json.decode(each.value or b"") for each in outputs if each.topic == "alerts"]
    (incident_id,) = {each["incident_id"] for each in records if each["flagged_events"] > 50}
    return [each for each in records if each["incident_id"] == incident_id]


def test_an_incident_with_three_causes_is_told_in_three_groups() -> None:
    """When it is over: each cause with its feature, direction and share, and events of it."""
    last = steps(whole())[-1]
    assert last["status"] == "resolved"
    found = {(each["features"][0]["name"], each["features"][0]["direction"]): each for each in last["groups"]}
    assert found.keys() == {("amount", "above"), ("age", "below"), ("rest", "above")}
    for (name, _), group in found.items():
        place = ["amount", "age", "rest"].index(name)
        assert {offset % 3 for offset in group["example_offsets"]} == {place}
        assert 0.25 < group["share"] < 0.4
    assert sum(each["share"] for each in last["groups"]) == pytest.approx(1.0)
    assert sum(each["rows"] for each in last["groups"]) == last["flagged_events"]
    assert f"{len(last['groups'])} groups: " in last["summary"]


def test_groups_are_told_from_the_least_number_of_events_on() -> None:
    """In updates as well; an opening never has any."""
    told = steps(whole())
    assert [bool(each["groups"]) for each in told] == [each["flagged_events"] >= 30 for each in told]
    assert {each["status"] for each in told if each["groups"]} == {"updated", "resolved"}
    assert not told[0]["groups"]


@pytest.mark.parametrize("size", [7, 64])
def test_how_the_stream_is_cut_changes_nothing(size: int) -> None:
    """Also with fewer rows kept than there are."""
    options = msgspec.structs.replace(
        OPTIONS, incident=msgspec.structs.replace(OPTIONS.incident, grouping=GroupingOptions(rows_max=40))
    )
    one, many = new_monitor(options), new_monitor(options)
    assert feed(many, 0, 2_400, size) == feed(one, 0, 2_400)
    (last,) = [each for each in steps(feed(new_monitor(options), 0, 2_400)) if each["status"] == "resolved"]
    assert sum(each["rows"] for each in last["groups"]) == 40
    assert many.trace == one.trace


@pytest.mark.parametrize("cut", [1_990, 2_020, 2_150])
def test_a_restored_monitor_tells_the_same_groups(cut: int) -> None:
    """Wherever in the incident it is stored; and what is kept of another incident is refused."""
    monitor, twin = new_monitor(OPTIONS), new_monitor(OPTIONS)
    feed(monitor, 0, cut)
    live, fitted = monitor.live_state(), monitor.fitted_state()
    arrays = {name: array.copy() for name, array in live.arrays.items()}
    twin.restore(live._replace(arrays=arrays), fitted)
    assert feed(twin, cut, 2_400) == feed(monitor, cut, 2_400)
    name = "judge.incident.offsets"
    if name in arrays:
        with pytest.raises(ValueError, match="stored rows of an incident"):
            new_monitor(OPTIONS).restore(live._replace(arrays=arrays | {name: arrays[name][:-1]}), fitted)


def test_switched_off_nothing_is_kept_or_told() -> None:
    """The alerts are the same otherwise."""
    off = msgspec.structs.replace(OPTIONS.incident, grouping=GroupingOptions(enabled=False))
    monitor = new_monitor(msgspec.structs.replace(OPTIONS, incident=off))
    out = feed(monitor, 0, 2_150)
    assert not any(name.startswith("judge.incident") for name in monitor.live_state().arrays)
    told, others = steps(out + feed(monitor, 2_150, 2_400)), steps(whole())
    assert not any(each["groups"] for each in told)
    assert [each["alert_id"] for each in told] == [each["alert_id"] for each in others]


def test_without_an_incident_nothing_is_kept() -> None:
    """The sample goes with the incident."""
    monitor = new_monitor(OPTIONS)
    feed(monitor, 0, 2_150)
    assert any(name.startswith("judge.incident") for name in monitor.live_state().arrays)
    feed(monitor, 2_150, 2_250)
    assert not any(name.startswith("judge.incident") for name in monitor.live_state().arrays)


def test_the_summary_names_the_three_largest_groups() -> None:
    """With their share and first feature; one group is no news."""
    flagged = Flagged(5, 5, "e5", 1_000, 1_000, 1e-5, None)
    incident = Incident(flagged, flagged, flagged, [flagged], 1_000, flagged=90)
    step = Step("resolved", 9, 9, 1_000, None)

    def group(name: str, share: float) -> AnomalyGroup:
        features = [GroupFeature(name, "above", 1.0, 0.0, -1.0, 1.0, 1.0)] if name else []
        return AnomalyGroup(10, share, features, [], "")

    four = [group("a", 0.5), group("", 0.3), group("b", 0.15), group("c", 0.05)]
    text = summary(step, incident, "m", Story([], disagreement=False, features=[], groups=four))
    assert text.endswith("90 unusual inputs in all; 4 groups: 50% a above, 30% no single feature, 15% b above, ...")
    text = summary(step, incident, "m", Story([], disagreement=False, features=[], groups=four[:1]))
    assert text.endswith("90 unusual inputs in all")
