"""Seeded streams of predictions and labels: late, early, inside, repeated, corrected, outdated, wrong, and missing."""

import json
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from tests.streams import PERFORMANCE, SMALL, START_MS, Record, batch
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.engine import Engine
from worker.core.events import InputTopic, Output, RawBatch
from worker.core.options import DriftOptions, EngineOptions, QualityOptions, RateOptions
from worker.core.shard import Topics

LABELLED = msgspec.structs.replace(
    SMALL,
    models_max=8,
    detectors=("moments",),
    drift=DriftOptions(enabled=False),
    quality=QualityOptions(enabled=False),
    rate=RateOptions(enabled=False),
    performance=PERFORMANCE,
)
"""Options under which a few hundred labels go through everything that labels touch."""


class Item(NamedTuple):
    """One record of either topic."""

    is_label: bool
    record: Record


TASKS = ("binary", "boolean", "score", "multiclass", "digits", "regression", "declared-a")


def items(seed: int, count: int, tasks: Sequence[str] = TASKS) -> list[Item]:
    """Return predictions and labels in an order in which a shard could take them."""
    rng = random.Random(seed)
    now = START_MS
    out: list[tuple[float, Item]] = []
    for number in range(count):
        now += rng.choice([0, 10, 40, 40, 80]) if rng.random() > 0.01 else 2_500
        task = rng.choice(tasks)
        truth, event = _event(rng, task, now, degraded=number > 0.7 * count)
        event |= {"event_id": f"e{number}", "model_id": task}
        inside = rng.random() < 0.05
        out.append(
            (now, Item(is_label=False, record=(json.dumps(event | ({"label": truth} if inside else {})).encode(), now)))
        )
        if rng.random() < 0.02:
            out.append((now + 5, Item(is_label=False, record=(json.dumps(event | {"label": truth}).encode(), now + 5))))
        out += _labels(rng, task, event["event_id"], truth, now)
    out.sort(key=lambda each: each[0])
    return [item for _, item in out]


def _event(rng: random.Random, task: str, now: int, *, degraded: bool) -> tuple[Any, dict[str, Any]]:
    x = rng.random()
    event: dict[str, Any] = {"timestamp": now, "features": {"x": x}}
    if rng.random() < 0.9:
        event["segment"] = {"region": rng.choice(["north", "south", f"r{now // 8_000 % 5}"])}
        if rng.random() < 0.5:
            event["segment"]["device"] = rng.choice("pq")
    good = 0.55 if degraded else 0.85
    if task == "regression":
        truth = 100 + 10 * x
        return truth, event | {"prediction": truth + rng.gauss(0, 4 if degraded else 1)}
    if task == "score":
        return rng.random() < x, event | {"prediction": 1 - x if degraded else x}
    known: dict[str, list[Any]] = {"binary": ["ok", "fraud"], "boolean": [False, True], "digits": [0, 1, 2, 3, 7]}
    names = known.get(task, list("abcdef"))
    if task == "digits":
        event["probabilities"] = {"0": 0.5, "1": 0.2, "2": 0.2, "3": 0.1}
    truth = rng.choice(names)
    answer = truth if rng.random() < good else rng.choice(names)
    if task == "binary" and rng.random() < 0.9:
        p = round(0.5 + x / 2, 3)
        event["probabilities"] = {answer: p, next(name for name in names if name != answer): 1 - p}
    return truth, event | {"prediction": answer}


def _labels(rng: random.Random, task: str, event_id: str, truth: Any, now: int) -> list[tuple[float, Item]]:  # noqa: ANN401 - any label
    """Return the labels of an event with when they come; most have one."""
    if rng.random() < 0.1:
        return []
    lag = rng.choice([-30, 200, 500, 500, 900, 3_000, 25_000])
    stamp = now + max(lag, 1)
    found: list[tuple[float, Item]] = [(now + lag, _label(task, event_id, truth, stamp))]
    if rng.random() < 0.1:
        found.append((now + lag + rng.choice([0, 300]), found[0][1]))
    if rng.random() < 0.1:
        other: Any = rng.choice([truth, "zzz", 3, True, 1e9, 104.5])
        found.append(
            (now + lag + rng.choice([-20, 0, 400]), _label(task, event_id, other, stamp + rng.choice([-5, 0, 5])))
        )
    if rng.random() < 0.02:
        found.append((now + lag, _label(task, f"unknown{event_id}", truth, stamp)))
    return found


def _label(task: str, event_id: str, label: Any, stamp: int) -> Item:  # noqa: ANN401 - any label
    value = {"event_id": event_id, "model_id": task, "label": label, "timestamp": stamp}
    return Item(is_label=True, record=(json.dumps(value).encode(), stamp))


def batches(stream: Sequence[Item], cuts: Sequence[int] = (), partition: int = 0) -> list[RawBatch]:
    """Cut a stream into batches of one topic: where the topic changes, and at the given places."""
    out: list[RawBatch] = []
    offsets = {True: 0, False: 0}
    places = set(cuts)
    begin = 0
    for place in range(1, len(stream) + 1):
        if place == len(stream) or stream[place].is_label != stream[begin].is_label or place in places:
            part = [item.record for item in stream[begin:place]]
            is_label = stream[begin].is_label
            topic = InputTopic.LABELS if is_label else InputTopic.PREDICTIONS
            out.append(batch(partition, offsets[is_label], part)._replace(topic=topic))
            offsets[is_label] += len(part)
            begin = place
    return out


def grouped(stream: Sequence[Item], size: int) -> list[Item]:
    """Return the stream as a worker takes it that reads `size` records at a time: predictions first, then labels."""
    out: list[Item] = []
    for begin in range(0, len(stream), size):
        part = stream[begin : begin + size]
        out += sorted(part, key=lambda item: item.is_label)
    return out


def run(raw: Sequence[RawBatch], options: EngineOptions = LABELLED) -> tuple[list[Output], Engine]:
    """Feed batches to a fresh engine; return all outputs and the engine."""
    engine = Engine(options, Topics(), InlineRefits())
    engine.add_shard(0)
    out: list[Output] = []
    for each in raw:
        out += engine.handle(each).outputs
    return out, engine
