"""Detectors begin anew: another version of the model takes over, or what was unusual stays. The laws hold then, too."""

import random
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.streams import SMALL, START_MS, TOPIC
from worker.core.alerts.silences import SilenceBook
from worker.core.cut import FITTED, Cut
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.events import FeatureValue, Output, PredictionEvent
from worker.core.monitor import Home, Monitor
from worker.core.options import EngineOptions, PerformanceOptions
from worker.core.snapshot import pack, unpack

PACED = msgspec.structs.replace(
    SMALL,
    scores="all",
    detectors=("half_space_trees", "isolation_forest", "nearest_neighbours", "tails"),
    false_alarm_interval_ms=1_000,
    performance=PerformanceOptions(enabled=False),
)
"""What is not judged here is left out: it has its own laws."""


class Bits(NamedTuple):
    """All that a run gave."""

    outputs: list[Output]
    state: dict[str, tuple[str, tuple[int, ...], bytes]]


def mixed(seed: int) -> list[PredictionEvent]:
    """Return events of a model with many features: a regime that stays, then a version with more features."""
    rng = random.Random(seed)
    events = []
    for number in range(760):
        version = "v1" if number < 420 else rng.choice(["v2", None])
        features: dict[str, FeatureValue] = {"a": rng.gauss(5, 1), "colour": rng.choice(["red", "green", "blue"])}
        if 200 <= number < 420:
            features["a"] = rng.gauss(500, 1)
        if number >= 420:
            features |= {"b": rng.lognormvariate(0, 1), "shape": rng.choice(["round", "square", f"s{number}"])}
        if rng.random() < 0.02:
            features["a"] = rng.choice([None, -1e6, "text"])
        events.append(PredictionEvent(f"e{number}", "m0", features, rng.random(), model_version=version))
    return events


def single(seed: int) -> list[PredictionEvent]:
    """Return events that are one number: its level changes, then a version with a text beside it takes over."""
    rng = random.Random(seed)
    events = []
    for number in range(760):
        version = "v1" if number < 420 else "v2"
        value = rng.gauss(5 if number < 200 else 5 + (number - 200) ** 2, 1) + 40.0 * (rng.random() < 0.02)
        features: dict[str, FeatureValue] = {} if number < 480 else {"colour": rng.choice(["red", "green"])}
        events.append(PredictionEvent(f"e{number}", "m0", features, value, model_version=version))
    return events


STREAMS = {"mixed": mixed, "single": single}


def new_monitor(options: EngineOptions = PACED) -> Monitor:
    """Return a monitor that has seen nothing."""
    return Monitor("m0", Home(0, TOPIC, "labels"), options, InlineRefits(), SilenceBook(10))


def take(monitor: Monitor, events: Sequence[PredictionEvent], begin: int, end: int) -> list[Output]:
    """Let events [begin, end) of a stream come; every tenth of a second one, now and then with a gap."""
    places = np.arange(begin, end)
    return monitor.process(events[begin:end], places, START_MS + 20 * places + 3000 * (places // 150))


def bits(monitor: Monitor) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Return all state of a monitor, to be compared."""
    return {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in monitor.state().items()}


def restored(monitor: Monitor) -> Monitor:
    """Return another monitor with the state of this one, which has gone through a snapshot."""
    twin = new_monitor()
    fitted = unpack(pack(monitor.fitted_state())) if monitor.fitted_version else None
    twin.restore(unpack(pack(monitor.live_state())), fitted)
    return twin


@cache
def whole(name: str, seed: int) -> Bits:
    """Return what a stream gives in one piece."""
    monitor, events = new_monitor(), STREAMS[name](seed)
    return Bits(take(monitor, events, 0, len(events)), bits(monitor))


def told(outputs: Sequence[Output], topic: str) -> list[dict[str, Any]]:
    """Return the records of a topic."""
    return [msgspec.json.decode(each.value or b"") for each in outputs if each.topic == topic]


@pytest.mark.parametrize("name", STREAMS)
def test_the_streams_go_through_all_generations(name: str) -> None:
    """A regime is accepted, a version takes over, schemas freeze twice, incidents open; the pace sets the rate."""
    outputs = whole(name, 1).outputs
    kinds = [each["kind"] for each in told(outputs, "maintenance")]
    assert kinds.count("schema_frozen") == 2
    assert kinds.count("detectors_reset") == 1
    assert kinds.count("regime_accepted") >= 1
    assert {"opened", "resolved"} <= {each["status"] for each in told(outputs, "alerts")}
    assert len(told(outputs, "scores")) == 760 - 2 * PACED.warmup_events


@pytest.mark.parametrize("name", STREAMS)
@settings(max_examples=8, deadline=None)
@given(cuts=st.sets(st.integers(1, 759), max_size=30), seed=st.integers(1, 3))
def test_cuts_change_nothing(name: str, cuts: set[int], seed: int) -> None:
    """Any cut into batches gives equal outputs and equal state, whatever generation it lies in."""
    monitor, events = new_monitor(), STREAMS[name](seed)
    outputs = [
        output for begin, end in pairwise(sorted({0, 760, *cuts})) for output in take(monitor, events, begin, end)
    ]
    assert outputs == whole(name, seed).outputs
    assert bits(monitor) == whole(name, seed).state


@pytest.mark.parametrize("name", STREAMS)
def test_single_events_change_nothing(name: str) -> None:
    """The same for batches of one, restored from a snapshot all the time, in all situations that there are."""
    monitor, events, outputs = new_monitor(), STREAMS[name](2), []
    seen: set[str] = set()
    for place in range(len(events)):
        outputs += take(monitor, events, place, place + 1)
        here = set(situations(monitor))
        # In each situation, now and then, and always when something new has come.
        if place % 5 == 0 or not here <= seen:
            monitor = restored(monitor)
        seen |= here
    assert outputs == whole(name, 2).outputs
    assert bits(monitor) == whole(name, 2).state
    assert seen >= {"first warm-up", "later warm-up", "accepted", "open incident", "burst"}


def situations(monitor: Monitor) -> Iterator[str]:
    """Name what is special about a monitor at this moment."""
    live = monitor.live_state()
    judge = msgspec.msgpack.decode(live.plain)["judge"]
    columns = len(msgspec.msgpack.decode(live.plain)["columns"])
    yield f"generation {judge['generation']}, {columns} columns"
    if "judge.ensemble.calibration.burst" not in live.arrays:
        yield "later warm-up" if judge["generation"] else "first warm-up"
    elif live.arrays["judge.ensemble.calibration.burst"][1] > 0:
        yield "burst"
    if judge["accepted_at"]:
        yield "accepted"
    if judge["incident"] is not None:
        yield "open incident"


@pytest.mark.parametrize("name", STREAMS)
def test_the_fitted_part_changes_with_its_version_alone(name: str) -> None:
    """Between two changes of `fitted_version` the fitted part is the same bytes; a version never comes back."""
    monitor, events = new_monitor(), STREAMS[name](3)
    by_version: dict[int, set[tuple[Any, ...]]] = {}
    versions: list[int] = []
    for place in range(len(events)):
        take(monitor, events, place, place + 1)
        plain, arrays = monitor.fitted_state()
        content = plain, *((key, array.tobytes()) for key, array in arrays.items())
        by_version.setdefault(monitor.fitted_version, set()).add(content)
        versions.append(monitor.fitted_version)
    assert versions == sorted(versions)
    assert {len(contents) for contents in by_version.values()} == {1}
    assert len(by_version) > 6


def test_a_cut_through_a_later_warm_up_holds_a_fitted_part() -> None:
    """What was fitted of the generation before is no part of it: the empty one is stored in its place."""
    monitor, events = new_monitor(), mixed(1)
    reset = next(each for each in told(whole("mixed", 1).outputs, "maintenance") if each["kind"] == "detectors_reset")
    take(monitor, events, 0, reset["events"])
    before = monitor.fitted_version
    take(monitor, events, reset["events"], reset["events"] + 3)
    assert monitor.fitted_version == before > 0
    parts = {each.part: each for each in Cut(["m0"], {"m0": 1}).take({"m0": monitor}, 10**9)}
    twin = new_monitor()
    twin.restore(unpack(parts["live"].payload), unpack(parts[FITTED].payload))
    assert bits(twin) == bits(monitor)
