"""Seeded streams for model maintenance: models that could be better, labels of every kind, ticks, thinning."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias, TypeVar

import msgspec

from tests.streams import PERFORMANCE, SMALL, START_MS, Record, batch
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.detectors.refit import FittedModel, FitTicket, RefitRequest
from worker.core.engine import Engine
from worker.core.events import InputTopic, Output
from worker.core.maintenance.challengers import FitRequest
from worker.core.options import (
    BiasOptions,
    EngineOptions,
    MaintenanceOptions,
    ModelPerformanceOptions,
    QualityOptions,
    RateOptions,
)
from worker.core.options.maintenance import (
    AfterOptions,
    BoostedOptions,
    GateOptions,
    RankingOptions,
    RecalibrationOptions,
    RegimeOptions,
    RetrainOptions,
    ThresholdOptions,
)
from worker.core.shard import Topics

MAINTENANCE = MaintenanceOptions(
    waiting_rows_max=100,
    begin_labels=20,
    class_labels_min=5,
    challengers=("recent", "all", "linear", "online"),
    recent_rows=120,
    sampled_rows=400,
    fit_rows_min=50,
    refit_labels=150,
    refit_interval_ms=200,
    drift_refit_labels=100,
    takeover_labels=50,
    takeover_ms=100,
    search_labels=300,
    search_interval_ms=0,
    recent=BoostedOptions(iterations=3, leaves_max=4, leaf_rows_min=5),
    all=BoostedOptions(iterations=3, leaves_max=4, leaf_rows_min=5, learning_rate=0.02),
    recalibration=RecalibrationOptions(
        block_labels=20, rows_min=40, class_labels_min=2, evidence=0.1, blocks_min=2, generations_max=4, blocks_max=20
    ),
    gate=GateOptions(
        false_promotion_probability=0.9,
        span_labels=1_000,
        gain_min=0.0,
        block_labels=50,
        labels_min=100,
        hold_labels=0,
        segment_loss_max=0.5,
        segment_labels_min=20,
    ),
    ranking=RankingOptions(memory_labels=200, switch_errors=0.1, labels_min=100),
    after=AfterOptions(
        false_rollback_probability=0.9, labels_min=100, hold_labels=0, allowed_loss=0.0, watch_labels_max=1_000
    ),
    threshold=ThresholdOptions(
        every_labels=100, change_min=0.01, block_labels=10, blocks_max=40, positives_min=10, z=0.5
    ),
    regimes=RegimeOptions(start_rows=64, pane_rows=64, new_panes=1, false_panes=5.0, vanished_panes=1, examples_max=2),
    retrain=RetrainOptions(cooldown_ms=2_000, reasons_max=2),
)
MAINTAINED = msgspec.structs.replace(
    SMALL,
    detectors=("moments",),
    pane_ms=20_000,
    categories_max=30,
    quality=QualityOptions(enabled=False),
    rate=RateOptions(enabled=False),
    bias=BiasOptions(enabled=False),
    performance=msgspec.structs.replace(
        PERFORMANCE,
        pane_ms=20_000,
        windows_ms=(),
        panes_max=3,
        block_labels=30,
        limits=PERFORMANCE.limits[:1],
        models=(ModelPerformanceOptions("three", segments=("region",)),),
    ),
    maintenance=MAINTENANCE,
)
"""Options under which some hundred labels go through all of maintenance; metrics are few, they take their time."""

Model: TypeAlias = Literal["two", "three", "number", "plain", "bare"]
MODELS: tuple[Model, ...] = ("two", "three", "number", "plain", "bare")
"""Two classes with probabilities; more of them, of which one comes late; numbers; classes alone; without features."""


class Item(NamedTuple):
    """Something that happens to a shard: a record of one of two topics, a tick at `value`, a level of thinning."""

    kind: Literal["prediction", "label", "tick", "thin"]
    value: Any
    now_ms: int = 0

    @property
    def record(self) -> Record:
        """The record as Kafka has it."""
        return json.dumps(self.value).encode(), self.now_ms


def items(model: Model, seed: int, count: int) -> list[Item]:
    """Return what happens to one model during so many predictions."""
    rng = random.Random(f"{model} {seed}")
    out: list[tuple[float, Item]] = []
    now = START_MS
    for number in range(count):
        now += rng.choice([0, 10, 40, 40, 80])
        truth, event = _event(rng, model, number / count, is_better=seed % 2 == 1)
        event |= {"event_id": f"e{number}", "model_id": model, "timestamp": now}
        # For some time nearly all labels come with the predictions.
        inside = rng.random() < (0.9 if number // 150 % 3 == 2 else 0.1)
        sent = event | ({"label": truth} if inside else {})
        out.append((now, Item("prediction", sent, now)))
        if rng.random() < 0.06:
            again = now + rng.choice([5, 2_900, 3_400, 3_900])
            out.append((again, Item("prediction", event | {"label": truth}, again)))
        if not inside:
            out += _labels(rng, model, number, truth, now)
        if rng.random() < 0.03:
            out.append((now + 1, Item("tick", now + rng.choice([1, 500, 3_000]))))
        if rng.random() < 0.005:
            out.append((now + 1, Item("thin", rng.choice([0, 0, 0, 1]))))
    out.sort(key=lambda each: each[0])
    return [item for _, item in out]


_NAMES: dict[Model, list[Any]] = {"two": ["ok", "fraud"], "three": list("abcd"), "plain": ["no", "yes"]}


def _event(rng: random.Random, model: Model, part: float, *, is_better: bool) -> tuple[Any, dict[str, Any]]:
    """Return the truth and the prediction of an event. Another version answers late, badly at first."""
    is_late = part > 0.3
    version = "v1" if is_late or (part > 0.2 and rng.random() < 0.05) else "v0"
    # Two places for the regimes of the inputs, one of which is empty for some time; then a third one.
    shift = 8.0 if rng.random() < 0.5 and not 0.62 < part < 0.78 else 0.0
    shift = -8.0 if rng.random() < 0.4 and part > 0.85 else shift
    x, y = rng.gauss(0, 1), rng.gauss(0, 1)
    event: dict[str, Any] = {"features": _features(rng, model, x + shift, y, is_late=is_late)}
    if rng.random() < 0.97:
        event["model_version"] = version
    if rng.random() < 0.9:
        event["segment"] = {"region": rng.choice(["north", "south", f"r{part // 0.12:.0f}"])}
        if rng.random() < 0.5:
            event["segment"]["device"] = rng.choice("pq")
    quality = 0.3 if version == "v0" else (1.0 if is_better and part > 0.8 else -1.0)
    if model in ("number", "bare"):
        truth = 100 + 10 * x
        return truth, event | {"prediction": 100 + 10 * quality * x + rng.gauss(6 - 6 * (quality > 0.5), 1)}
    names = _NAMES[model]
    place = min(int(abs(x) * 2), (3 if part > 0.15 else 2)) if model == "three" else int(x > 0)
    truth = names[place]
    right = rng.random() < {0.3: 0.6, -1.0: 0.2, 1.0: 0.99}[quality]
    answer = truth if right else rng.choice([name for name in names[:3] if name != truth])
    if model != "plain" and rng.random() < 0.97:
        sure = 0.99 if quality > 0.5 else round(rng.uniform(0.6, 0.99), 3)
        others = [name for name in names[:3] if name != answer]
        event["probabilities"] = {answer: sure} | {name: (1 - sure) / len(others) for name in others}
    return truth, event | {"prediction": answer}


def _features(rng: random.Random, model: Model, x: float, y: float, *, is_late: bool) -> dict[str, Any]:
    if model == "bare":
        return {}
    features: dict[str, Any] = {"x": x, "y": y, "colour": rng.choice(["red", "green"])}
    if rng.random() < 0.03:
        features["colour"] = f"rare {rng.randrange(1_000)}"
    if rng.random() < 0.05:
        features[rng.choice(list(features))] = None
    if is_late:
        features["z"] = rng.random()
    return features


def _labels(rng: random.Random, model: Model, number: int, truth: Any, now: int) -> Iterator[tuple[float, Item]]:  # noqa: ANN401 - any label
    """Yield the labels of an event with when they come; most have one."""
    if rng.random() < 0.05:
        return
    lag = rng.choice([-30, 200, 300, 300, 600, 1_500, 4_500])
    stamp = now + max(lag, 1)
    yield now + lag, _label(model, number, truth, stamp)
    if rng.random() < 0.1:
        other: Any = rng.choice([truth, "zzz", 3, True, 1e30, 104.5, "ok", "a"])
        yield now + lag + rng.choice([-20, 0, 400]), _label(model, number, other, stamp + rng.choice([-5, 0, 5]))


def _label(model: Model, number: int, label: Any, stamp: int) -> Item:  # noqa: ANN401 - any label
    return Item("label", {"event_id": f"e{number}", "model_id": model, "label": label, "timestamp": stamp}, stamp)


# ------------------------------------------------------------------------------------------------------------- running

_Fitted = TypeVar("_Fitted")


class RememberedFits:
    """Fits here and now, and an equal request once only: a stream is run many times."""

    found: ClassVar[dict[tuple[str, bytes], Any]] = {}
    """Shared by all."""

    def __init__(self) -> None:
        self._inline = InlineRefits()

    def submit(self, request: RefitRequest) -> FitTicket[FittedModel]:
        """Fit a model of a detector."""
        return self._inline.submit(request)

    def fit_challenger(self, request: FitRequest[_Fitted]) -> FitTicket[_Fitted]:
        """Fit, or remember."""
        key = request.kind, request.to_bytes()
        if key not in self.found:
            self.found[key] = self._inline.fit_challenger(request)
        ticket: FitTicket[_Fitted] = self.found[key]
        return ticket


class Shard:
    """A shard that takes items, and cuts them into batches."""

    def __init__(self, options: EngineOptions = MAINTAINED) -> None:
        self.options = options
        self.engine = self.new_engine()
        self.offsets = {"prediction": 0, "label": 0}

    def new_engine(self) -> Engine:
        """Return an engine with an empty shard."""
        engine = Engine(self.options, Topics(), RememberedFits())
        engine.add_shard(0)
        return engine

    def take(self, stream: Sequence[Item], is_cut: Callable[[int], bool] = lambda _: False) -> list[Output]:
        """Take items; batches end where the kind changes, and before each place for which `is_cut`."""
        out: list[Output] = []
        begin = 0
        for place in range(1, len(stream) + 1):
            if place == len(stream) or stream[place].kind != stream[begin].kind or is_cut(place):
                out += self._take_batch(stream[begin:place])
                begin = place
        return out

    def _take_batch(self, part: Sequence[Item]) -> list[Output]:
        kind = part[0].kind
        if kind == "tick":
            return [output for item in part for output in self.engine.tick(0, item.value)]
        if kind == "thin":
            return [output for item in part for output in self.engine.thin(0, item.value)]
        raw = batch(0, self.offsets[kind], [item.record for item in part])
        self.offsets[kind] += len(part)
        topic = InputTopic.LABELS if kind == "label" else InputTopic.PREDICTIONS
        return self.engine.handle(raw._replace(topic=topic)).outputs

    @property
    def result(self) -> tuple[str, str]:
        """Checksums of all state, and of all that was computed."""
        return self.engine.digest(0), self.engine.trace(0)


def grouped(stream: Sequence[Item], size: int) -> list[Item]:
    """Return the stream as a worker takes it that reads `size` records at a time: predictions first, then labels."""
    order = {"prediction": 0, "label": 1, "tick": 2, "thin": 3}
    out: list[Item] = []
    for begin in range(0, len(stream), size):
        out += sorted(stream[begin : begin + size], key=lambda item: order[item.kind])
    return out


def reached(outputs: Sequence[Output]) -> set[str]:
    """Return the kinds of maintenance events among outputs."""
    records = [msgspec.json.decode(output.value or b"{}") for output in outputs if output.topic == "maintenance"]
    return {record["kind"] for record in records}
