"""How events are judged: generations of detectors, a regime that stays, scores, disagreement, options of a model."""

import random
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import msgspec
import numpy as np
import pytest

from worker.core import judging
from worker.core.alerts.silences import SilenceBook
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.events import FeatureValue, Output, PredictionEvent
from worker.core.monitor import REGIME_GRID_EVENTS, Home, Monitor
from worker.core.options import (
    AlertOptions,
    CalibrationOptions,
    DriftOptions,
    EngineOptions,
    ForestOptions,
    IncidentOptions,
    ModelDetectionOptions,
    NoiseOptions,
    PerformanceOptions,
    QualityOptions,
)

START_MS = 1_767_225_600_000
OPTIONS = EngineOptions(
    alert_rate=0.01,
    warmup_events=64,
    rebuild_events=128,
    detectors=("half_space_trees", "moments", "nearest_neighbours"),
    calibration=CalibrationOptions(detector_events_min=20, verdict_events_min=50, regime_events=300),
    performance=PerformanceOptions(enabled=False),
    quality=QualityOptions(enabled=False),
    drift=DriftOptions(enabled=False),
    incident=IncidentOptions(quiet_ms=1_000, quiet_events=10),
    alerts=AlertOptions(noise=NoiseOptions(severity_min="info", cooldown_ms=0, flap_openings=0), rebaseline_events=200),
)
LASTING = msgspec.structs.replace(OPTIONS, incident=IncidentOptions(quiet_ms=100_000, quiet_events=1_000))
"""Incidents are never over by themselves."""
Features = Callable[[random.Random, int], dict[str, FeatureValue]]


def events(
    count: int, features: Features, version: Callable[[int], str | None] = lambda _: "v1"
) -> list[PredictionEvent]:
    """Return seeded events, their features and versions by their number."""
    rng = random.Random(5)
    return [
        PredictionEvent(f"e{n}", "m", features(rng, n), rng.random(), model_version=version(n)) for n in range(count)
    ]


def run(stream: Sequence[PredictionEvent], options: EngineOptions, size: int = 1_000) -> list[Output]:
    """Return what one monitor says of events that come ten a second."""
    monitor = Monitor(stream[0].model_id, Home(0, "predictions", "labels"), options, InlineRefits(), SilenceBook(10))
    out: list[Output] = []
    for begin in range(0, len(stream), size):
        part = stream[begin : begin + size]
        places = np.arange(begin, begin + len(part))
        out += monitor.process(part, places, START_MS + 100 * places)
    return out


def told(outputs: Sequence[Output], topic: str, kind: str | None = None) -> list[dict[str, Any]]:
    """Return the records of a topic, of one kind perhaps."""
    records = [msgspec.json.decode(each.value or b"") for each in outputs if each.topic == topic]
    return [each for each in records if kind is None or each["kind"] == kind]


def with_scores(options: EngineOptions = OPTIONS, **changes: Any) -> EngineOptions:  # noqa: ANN401 - fields of EngineOptions
    """Return the options with all scores published, and other changes."""
    return msgspec.structs.replace(options, scores="all", **changes)


# ---------------------------------------------------------------------------------------------------- explanations


def one_far_event(rng: random.Random, number: int) -> dict[str, FeatureValue]:
    """Return numbers of which all are far out at once, and nothing else is."""
    return {name: 50.0 if number == 400 else rng.gauss(0, 1) for name in "abc"}


@pytest.mark.parametrize("size", [1, 1_000])
def test_an_event_is_explained_once(size: int) -> None:
    """The end of an incident tells of its event what its opening did, whatever the detectors have learned since."""
    options = msgspec.structs.replace(OPTIONS, alert_rate=0.002, incident=IncidentOptions(quiet_ms=20_000))
    opened, resolved = told(run(events(700, one_far_event), options, size), "alerts", "anomaly.input")
    assert (opened["status"], resolved["status"]) == ("opened", "resolved")
    assert [each["event_id"] for each in resolved["evidence"]] == ["e400"]
    assert resolved["timestamp_ms"] - opened["timestamp_ms"] > 100 * options.rebuild_events
    assert [each["name"] for each in opened["features"]] == ["b", "c", "a"]
    assert resolved["features"] == opened["features"]


def two_far_events(rng: random.Random, number: int) -> dict[str, FeatureValue]:
    """Return numbers of which `a` is far out once, and soon after `b` much farther."""
    return {"a": 4.0 if number == 350 else rng.gauss(0, 1), "b": 1e3 if number == 360 else rng.gauss(0, 1)}


@pytest.mark.parametrize("size", [1, 1_000])
def test_a_rarer_event_has_an_explanation_of_its_own(size: int) -> None:
    """What was said of the event before is not said of it."""
    options = msgspec.structs.replace(OPTIONS, alert_rate=0.002, incident=IncidentOptions(quiet_ms=20_000))
    opened, *_, resolved = told(run(events(700, two_far_events), options, size), "alerts", "anomaly.input")
    assert [each["event_id"] for each in resolved["evidence"]] == ["e350", "e358", "e360"]
    assert (opened["features"][0]["name"], opened["features"][0]["observed"]) == ("a", 4.0)
    assert (resolved["features"][0]["name"], resolved["features"][0]["observed"]) == ("b", 1e3)


# ------------------------------------------------------------------------------------------------ another version


def two_versions(rng: random.Random, number: int) -> dict[str, FeatureValue]:
    """Feature `b` is there from the second version on, and once far out: as it is without a version."""
    features: dict[str, FeatureValue] = {"a": rng.gauss(0, 1), "colour": rng.choice(["red", "green"])}
    if number >= 600:
        features |= {"b": 1e3 if number == 1_200 else rng.gauss(0, 1), "shape": "round"}
    return features


@cache
def takeover() -> list[Output]:
    """Return what is said of a stream in which a version with more features takes over."""
    return run(events(1_400, two_versions, lambda n: "v1" if n < 600 else "v2"), with_scores())


def test_a_new_version_is_watched_with_its_own_features() -> None:
    """Detectors are reset once it has taken over; the schema freezes again, with the new features in it."""
    maintenance = told(takeover(), "maintenance")
    frozen = [each["features"] for each in maintenance if each["kind"] == "schema_frozen"]
    assert frozen == [["a", "colour"], ["a", "colour", "b", "shape"]]
    (reset,) = [each for each in maintenance if each["kind"] == "detectors_reset"]
    assert reset["model_version"] == "v2"
    assert 650 < reset["events"] < 800
    steps = [each for each in maintenance if each["kind"] != "alert_suppressed"]
    assert steps[1]["kind"] == "detectors_reset"
    assert steps[2]["events"] == reset["events"] + OPTIONS.warmup_events


def test_a_feature_of_the_new_version_is_found_unusual() -> None:
    """A value far out in it opens an incident that names it."""
    opened = [each for each in told(takeover(), "alerts") if 1_200 in [row["offset"] for row in each["evidence"]]]
    assert opened
    assert opened[0]["features"][0]["name"] == "b"
    assert opened[0]["model_version"] == "v2"


def test_there_is_no_verdict_in_any_warm_up() -> None:
    """Between the reset and the second freeze of the schema no event is scored, and then each one is."""
    first, second = (each["events"] for each in told(takeover(), "maintenance", "schema_frozen"))
    scored = [each["offset"] for each in told(takeover(), "scores")]
    reset = told(takeover(), "maintenance", "detectors_reset")[0]["events"]
    assert scored == [*range(first, reset), *range(second, 1_400)]


def test_an_incident_ends_when_its_version_does() -> None:
    """What comes is judged by other detectors: nothing stays open, and the end is told with the reset."""
    stream = events(
        1_000,
        lambda rng, n: {"a": rng.gauss(0, 1) + 50.0 * (n >= 600 and n % 3 == 0), "b": rng.random()},
        lambda n: "v1" if n < 600 else "v2",
    )
    outputs = run(stream, LASTING)
    (reset,) = told(outputs, "maintenance", "detectors_reset")
    (ended,) = [each for each in told(outputs, "alerts", "anomaly.input") if each["status"] == "resolved"]
    assert ended["resolved_at_ms"] == START_MS + 100 * reset["offset"]
    assert ended["model_version"] == "v2"


def test_alerts_of_drift_end_when_the_version_does() -> None:
    """There is nothing any more that the inputs could be compared with."""
    options = msgspec.structs.replace(OPTIONS, drift=DriftOptions(reference_events=200, block_events=50))
    stream = events(
        1_400, lambda rng, n: {"a": rng.gauss(3.0 * (n >= 500), 1), "b": rng.random()}, lambda n: f"v{n // 900}"
    )
    outputs = run(stream, options)
    (reset,) = told(outputs, "maintenance", "detectors_reset")
    steps = [(each["status"], each["timestamp_ms"]) for each in told(outputs, "alerts", "drift.input")]
    assert [status for status, _ in steps if status != "updated"] == ["opened", "resolved"]
    assert steps[-1][1] == START_MS + 100 * reset["offset"]


def test_alerts_of_data_quality_end_when_the_version_does() -> None:
    """A feature that the new version does not have has not vanished: the alert is over after two looks."""
    options = msgspec.structs.replace(OPTIONS, quality=QualityOptions(block_events=50, reference_blocks=5))

    def vanishing(rng: random.Random, number: int) -> dict[str, FeatureValue]:
        return {"a": rng.random(), "b": rng.random() if number < 600 else None}

    outputs = run(events(1_400, vanishing, lambda n: f"v{n // 750}"), options)
    frozen = told(outputs, "maintenance", "schema_frozen")[1]
    steps = told(outputs, "alerts", "quality.missing")
    opened, resolved = [each for each in steps if each["status"] != "updated"]
    assert (opened["status"], resolved["status"]) == ("opened", "resolved")
    assert 0 < resolved["timestamp_ms"] - (START_MS + 100 * frozen["offset"]) <= 100 * 3 * options.quality.block_events


# ------------------------------------------------------------------------------------------------ a regime that stays


def shifted(rng: random.Random, number: int) -> dict[str, FeatureValue]:
    """All features move for good."""
    return {name: rng.gauss(30.0 * (number >= 800), 1) for name in "abc"}


def test_a_regime_that_stays_is_accepted() -> None:
    """It is announced after `regime_events` of a burst; after it as few events are flagged as before."""
    outputs = run(events(2_400, shifted), with_scores())
    (accepted,) = told(outputs, "maintenance", "regime_accepted")
    assert 1_100 <= accepted["events"] < 1_150
    assert accepted["rows"] == OPTIONS.rebuild_events
    flagged = np.zeros(2_400, dtype=bool)
    flagged[[each["offset"] for each in told(outputs, "scores") if each["flagged"]]] = True
    assert flagged[800:880].mean() > 0.95
    assert flagged[accepted["events"] :].mean() < 0.03


def test_an_incident_ends_when_its_regime_is_accepted() -> None:
    """What it was about is normal from now on."""
    outputs = run(events(1_400, shifted), LASTING)
    (accepted,) = told(outputs, "maintenance", "regime_accepted")
    ended = [each for each in told(outputs, "alerts", "anomaly.input") if each["status"] == "resolved"]
    assert [each["resolved_at_ms"] for each in ended] == [START_MS + 100 * accepted["offset"]]


def test_the_rate_of_anomalies_begins_anew_with_a_regime() -> None:
    """Its alert opens with the burst, and is over at the first event that other detectors judge."""
    stream = events(4_000, lambda rng, n: {name: rng.gauss(30.0 * (n >= 3_000), 1) for name in "abc"})
    outputs = run(stream, OPTIONS)
    (accepted,) = told(outputs, "maintenance", "regime_accepted")
    steps = [
        (each["status"], (each["timestamp_ms"] - START_MS) // 100) for each in told(outputs, "alerts", "anomaly.rate")
    ]
    assert steps[0][0] == "opened"
    assert 3_000 <= steps[0][1] < 3_100
    assert steps[-1] == ("resolved", accepted["offset"] + 1)
    assert run(stream, OPTIONS, size=61) == outputs


def test_inputs_that_have_drifted_for_long_are_accepted() -> None:
    """Though no burst tells of it: detectors begin anew at the next place where that is looked at, refits in time."""
    options = msgspec.structs.replace(
        OPTIONS,
        detectors=("half_space_trees", "isolation_forest"),
        drift=DriftOptions(reference_events=500, block_events=100),
        forest=ForestOptions(
            trees=5, refit_events_first=64, refit_growth=2, takeover_events_min=16, takeover_events_max=16
        ),
        # Never by a burst: that has regimes of its own.
        calibration=CalibrationOptions(detector_events_min=20, verdict_events_min=50, regime_events=1_000),
    )
    stream = events(
        REGIME_GRID_EVENTS + 300,
        lambda rng, n: {"a": rng.gauss(0.7 * (n >= 2_000), 1), "b": rng.gauss(0, 1)},
    )
    outputs = run(stream, options)
    (accepted,) = told(outputs, "maintenance", "regime_accepted")
    assert accepted["events"] == REGIME_GRID_EVENTS
    # The forest had come to a refit with the rows that it began with: it is taken over in time.
    refits = [each["events"] for each in told(outputs, "maintenance", "detector_refitted")]
    assert REGIME_GRID_EVENTS + 16 in refits
    assert outputs == run(stream, options, size=37)


# ------------------------------------------------------------------------------------------------ scores


def plain(rng: random.Random, number: int) -> dict[str, FeatureValue]:
    """Two numbers; one of them is far out at 700."""
    return {"a": 60.0 if number == 700 else rng.gauss(0, 1), "b": rng.gauss(0, 1)}


def test_scores_hold_every_event_with_its_parts() -> None:
    """One record for each judged event: each detector with score and p-value, and the verdict; flagged as alerted."""
    outputs = run(events(900, plain), with_scores())
    scores = told(outputs, "scores")
    assert [each["offset"] for each in scores] == list(range(OPTIONS.warmup_events, 900))
    assert {part["detector"] for part in scores[-1]["scores"]} == set(OPTIONS.detectors)
    last = scores[-1]
    parts = {part["detector"]: -np.log10(part["p_value"]) for part in last["scores"]}
    weights = {name: OPTIONS.weight(name) for name in parts}
    fused = sum(weights[name] * parts[name] for name in parts) / sum(weights.values())
    assert last["score"] == pytest.approx(fused)
    assert scores[0]["p_value"] is None
    assert not scores[0]["flagged"]
    found = next(each for each in scores if each["offset"] == 700)
    assert found["flagged"]
    flagged = sum(each["flagged"] for each in scores)
    assert flagged == len(told(run(events(900, plain), msgspec.structs.replace(OPTIONS, scores="flagged")), "scores"))


def test_the_realised_rate_counts_verdicts_of_these_detectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the events judged of late, how many were flagged; detectors that begin anew count anew."""
    monkeypatch.setattr(judging, "BLOCK_EVENTS", 1_024)
    stream, places = events(2_300, plain), np.arange(2_300)
    monitor = Monitor("m", Home(0, "predictions", "labels"), with_scores(), InlineRefits(), SilenceBook(10))
    scores = told(monitor.process(stream, places, START_MS + 100 * places), "scores")
    flagged = sum(each["flagged"] for each in scores if each["offset"] >= 1_024)
    assert monitor._judge.realised == (OPTIONS.alert_rate, flagged, 2_300 - 1_024)
    monitor._judge.accept_regime(monitor._step(2_299))
    assert monitor._judge.realised == (OPTIONS.alert_rate, 0, 0)


def test_without_the_option_no_scores_are_published() -> None:
    """They are as many as the events: off by default."""
    assert not told(run(events(200, plain), OPTIONS), "scores")


def test_detectors_that_contradict_each_other_are_told() -> None:
    """One of three detectors is certain, two see nothing: the verdict says that they disagree."""
    outputs = run(events(900, plain), with_scores())
    for each in told(outputs, "scores"):
        known = [part["p_value"] for part in each["scores"] if part["p_value"] is not None]
        if each["p_value"] is None:
            assert not each["disagreement"]
        elif each["flagged"]:
            assert each["disagreement"] == (2 * sum(p > 0.2 for p in known) >= len(known))
        else:
            assert each["disagreement"] == any(p <= OPTIONS.alert_rate for p in known)
    assert any(each["disagreement"] for each in told(outputs, "scores"))


# ------------------------------------------------------------------------------------------------ options of a model


def test_a_model_may_have_its_own_detectors_weights_and_rate() -> None:
    """The first pattern that fits its id counts; other models have what is configured for all."""
    own = ModelDetectionOptions(
        "m*", alert_rate=0.05, detectors=("moments", "tails"), weights={"tails": 3.0}, scores="all"
    )
    options = msgspec.structs.replace(OPTIONS, models=(own, ModelDetectionOptions("*", alert_rate=0.2)))
    stream = events(1_500, lambda rng, _: {"a": rng.gauss(0, 1), "b": rng.gauss(0, 1)})
    scores = told(run(stream, options), "scores")
    last = scores[-1]
    assert [part["detector"] for part in last["scores"]] == ["moments", "tails"]
    moments, tails = (-np.log10(part["p_value"]) for part in last["scores"])
    weight = OPTIONS.weight("moments")
    assert last["score"] == pytest.approx((weight * moments + 3.0 * tails) / (weight + 3.0))
    judged = [each["flagged"] for each in scores if each["p_value"] is not None]
    assert 0.03 < np.mean(judged) < 0.07
    others = [msgspec.structs.replace(each, model_id="other") for each in stream]
    assert not told(run(others, msgspec.structs.replace(options, models=options.models[:1])), "scores")


def one_vanishes(rng: random.Random, number: int) -> dict[str, FeatureValue]:
    """Feature `b` is gone from some event on."""
    return {"a": rng.random(), "b": rng.random() if number < 2_600 else None}


def test_quality_that_is_off_says_nothing() -> None:
    """With `engine.quality.enabled` false, a feature that vanishes is no alert of its own."""
    stream = events(3_000, one_vanishes)
    on = msgspec.structs.replace(OPTIONS, quality=QualityOptions(block_events=50, reference_blocks=10))
    kinds = {each["kind"].partition(".")[0] for each in told(run(stream, on), "alerts")}
    assert "quality" in kinds
    assert "quality" not in {each["kind"].partition(".")[0] for each in told(run(stream, OPTIONS), "alerts")}
