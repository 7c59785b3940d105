"""How far performance alerts can be trusted: false alarms on stationary streams, detection and delay after a real loss.

    python -m benchmarks.performance_quality                       200 streams of 20,000 labels; the last line is JSON
    python -m benchmarks.performance_quality --streams 40

Each seed is a model of its own: another difficulty, another share of positives, other errors, labels that come late and
partly never. Its stream is run as it is, and twice with a loss in its second half: answers are flipped at random until
the accuracy is 5 or 10 points lower, or the errors of a regression grow by 10 or 25 %. What runs is the production code
of `worker.core.performance`, with limits on all metrics at once: the shipped ones, and for the other metrics a drop of
0.02 or a rise of 5 %. `strict` is the stationary stream with no allowance at all, so that nothing but the intervals
keeps an alert from firing.
"""

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from statistics import NormalDist, median, quantiles
from typing import Any, NamedTuple

import numpy as np
from msgspec.structs import replace
from rich.console import Console
from rich.progress import track
from rich.table import Table

from worker.core.arrivals import LabelEvents, PredictionEvents
from worker.core.events import AlertEvent, LabelEvent, PredictionEvent, PredictionValue
from worker.core.kernels.arrays import F64, I64, Bool
from worker.core.metric_names import LESS_IS_BETTER
from worker.core.options import DEFAULT_LIMITS, EngineOptions, LimitOptions, PerformanceOptions
from worker.core.performance.following import Arrived
from worker.core.performance.intervals import wilson
from worker.core.performance.monitoring import PerformanceMonitor
from worker.core.performance.records import Z95
from worker.core.performance.telling import PerformanceOwner
from worker.core.telling import Told

METRICS: Mapping[str, Sequence[str]] = {
    "binary": (
        "accuracy",
        "balanced_accuracy",
        "precision",
        "recall",
        "f1",
        "f1_macro",
        "matthews",
        "log_loss",
        "brier",
        "expected_calibration_error",
        "roc_auc",
        "average_precision",
    ),
    "multiclass": ("accuracy", "f1_macro", "balanced_accuracy", "matthews", "log_loss"),
    "regression": ("mse", "rmse", "mae", "median_absolute_error", "r2", "mape"),
}
CONDITIONS = ("strict", "stationary", "small", "large")
LOSS = {"strict": 0.0, "stationary": 0.0, "small": 0.05, "large": 0.10}
"""Points of accuracy."""
GROWTH = {"strict": 1.0, "stationary": 1.0, "small": 1.10, "large": 1.25}
"""Of the absolute error of a regression."""
DRIFT = "drift.concept"
SHIPPED = "(as shipped)"
"""Any alert of the limits that are shipped, or of the drift detector."""
SHIPPED_NAMES = frozenset({limit.metric for limit in DEFAULT_LIMITS} | {DRIFT})
OF_LABELS = ("label_coverage", "label_lag_median")

CLASSES = 5
POSITIVES_MIN, POSITIVES_MAX = 0.05, 0.5
ACCURACY_MIN, ACCURACY_MAX = 0.70, 0.98
START_MS = 1_767_225_600_000
EVENT_MS = 100
LAG_MS = 20_000
LAST_EVENTS = 1_000
BATCH = 500
PROCESSES = 2

console = Console(stderr=True)


class Stream(NamedTuple):
    """Predictions (n) of a model with what turned out to be true, and which of them come after the change."""

    predictions: list[PredictionValue]
    probabilities: list[dict[str, float]] | None
    truths: list[PredictionValue]
    changed: Bool


class Job(NamedTuple):
    """One run."""

    task: str
    condition: str
    seed: int
    labels: int
    options: PerformanceOptions


class Alarm(NamedTuple):
    """An alert that was opened."""

    name: str
    delay: int
    """Labels of changed predictions by then; 0: before the change."""


class Result(NamedTuple):
    """What a run gave."""

    task: str
    condition: str
    alarms: list[Alarm]


# Streams.


def binary(rng: np.random.Generator, flips: np.random.Generator, changed: Bool, condition: str) -> Stream:
    """Return scores of two normal classes; in half of the streams calibrated, in the others as if classes were equal.

    A calibrated model makes at most 70 % of the errors of the constant answer.
    """
    positives = math.exp(rng.uniform(math.log(POSITIVES_MIN), math.log(POSITIVES_MAX)))
    prior = math.log(positives / (1.0 - positives)) if rng.random() < 0.5 else 0.0
    least = max(ACCURACY_MIN, 1.0 - 0.7 * positives) if prior else ACCURACY_MIN
    accuracy = rng.uniform(least, ACCURACY_MAX)
    normal = NormalDist()

    def right(apart: float) -> float:
        shift = prior / (2.0 * apart)
        return positives * normal.cdf(apart + shift) + (1.0 - positives) * normal.cdf(apart - shift)

    apart = _solved(right, accuracy)
    truths = rng.random(len(changed)) < positives
    scores = np.where(truths, apart, -apart) + rng.normal(size=len(changed))
    probabilities = 1.0 / (1.0 + np.exp(-(2.0 * apart * scores + prior)))
    flipped = changed & (flips.random(len(changed)) < LOSS[condition] / (2.0 * accuracy - 1.0))
    answers = np.where(flipped, 1.0 - probabilities, probabilities)
    return Stream(answers.tolist(), None, truths.tolist(), changed)


def multiclass(rng: np.random.Generator, flips: np.random.Generator, changed: Bool, condition: str) -> Stream:
    """Return probabilities of five normal classes, the rarest with 5 % at least."""
    count = len(changed)
    shares = POSITIVES_MIN + (1.0 - CLASSES * POSITIVES_MIN) * rng.dirichlet(np.full(CLASSES, 2.0))
    accuracy = rng.uniform(ACCURACY_MIN, ACCURACY_MAX)
    grid = np.linspace(-6.0, 6.0, 241)
    density = np.exp(-grid * grid / 2.0)
    density /= density.sum()

    def right(apart: float) -> float:
        below = 0.5 * (1.0 + np.array([math.erf((each + apart) / math.sqrt(2.0)) for each in grid.tolist()]))
        return float(density @ below ** (CLASSES - 1))

    apart = _solved(right, accuracy)
    truths = rng.choice(CLASSES, size=count, p=shares)
    logits = rng.normal(size=(count, CLASSES))
    logits[np.arange(count), truths] += apart
    weights = np.exp(apart * (logits - logits.max(axis=1, keepdims=True)))
    cells = weights / weights.sum(axis=1, keepdims=True)
    chance = LOSS[condition] / (accuracy - (1.0 - accuracy) / (CLASSES - 1))
    rows = np.flatnonzero(changed & (flips.random(count) < chance))
    first = cells[rows].argmax(axis=1)
    second = (first + flips.integers(1, CLASSES, size=len(rows))) % CLASSES
    cells[rows, first], cells[rows, second] = cells[rows, second], cells[rows, first]
    names = [f"class-{number}" for number in range(CLASSES)]
    return Stream(
        [names[code] for code in cells.argmax(axis=1).tolist()],
        [dict(zip(names, row, strict=True)) for row in cells.tolist()],
        [names[code] for code in truths.tolist()],
        changed,
    )


def regression(rng: np.random.Generator, _: np.random.Generator, changed: Bool, condition: str) -> Stream:
    """Return labels with a gamma distribution and errors that are normal, Laplace's or Student's (6 degrees)."""
    count = len(changed)
    scale, shape = math.exp(rng.uniform(-5.0, 5.0)), rng.uniform(5.0, 30.0)
    truths = scale * rng.gamma(shape, size=count)
    unexplained = 1.0 - rng.uniform(0.5, 0.98)
    draws: list[F64] = [
        rng.normal(size=count),
        rng.laplace(size=count) / math.sqrt(2.0),
        rng.standard_t(6.0, size=count) * math.sqrt(4.0 / 6.0),
    ]
    errors = draws[int(rng.integers(len(draws)))] * scale * math.sqrt(shape * unexplained)
    errors *= np.where(changed, GROWTH[condition], 1.0)
    return Stream((truths + errors).tolist(), None, truths.tolist(), changed)


def _solved(function: Callable[[float], float], value: float) -> float:
    """Return where a rising function has a value, between 0.01 and 10."""
    low, high = 0.01, 10.0
    for _ in range(50):
        middle = (low + high) / 2.0
        low, high = (middle, high) if function(middle) < value else (low, middle)
    return high


STREAMS: Mapping[str, Callable[[np.random.Generator, np.random.Generator, Bool, str], Stream]] = {
    "binary": binary,
    "multiclass": multiclass,
    "regression": regression,
}


# Runs.


def with_limits(options: PerformanceOptions, task: str, *, strict: bool) -> PerformanceOptions:
    """Return options with a limit on each metric of the task; `strict`: without any allowance."""
    shipped = {limit.metric: limit for limit in options.limits}
    limits = [shipped[name] for name in OF_LABELS if name in shipped]
    for metric in METRICS[task]:
        sort = "rise" if metric in LESS_IS_BETTER else "drop"
        usual = LimitOptions(metric, **{sort: 0.05 if sort == "rise" else 0.02})
        limits.append(LimitOptions(metric, **{sort: 0.0}) if strict else shipped.get(metric, usual))
    return replace(options, limits=tuple(limits))


def run(job: Job) -> Result:
    """Run one stream through a monitor of its own."""
    seeds = [job.seed, sorted(METRICS).index(job.task)]
    rng, flips = np.random.default_rng([*seeds, 0]), np.random.default_rng([*seeds, 1])
    coverage = rng.uniform(0.7, 1.0)
    # Labels stop to be read with the last prediction: the late ones of the last minutes alone would look like a lag.
    count = math.ceil(job.labels / coverage) + LAST_EVENTS
    stream = STREAMS[job.task](rng, flips, np.arange(count) >= count // 2, job.condition)
    times_ms = START_MS + EVENT_MS * np.arange(count)
    arrivals = times_ms + (LAG_MS * rng.lognormal(sigma=1.0, size=count)).astype(np.int64)
    rows = np.flatnonzero(rng.random(count) < coverage)
    rows = rows[arrivals[rows] <= times_ms[-1]]
    order = rows[np.argsort(arrivals[rows], kind="stable")][: job.labels]
    options = with_limits(job.options, job.task, strict=job.condition == "strict")
    changed_so_far = np.cumsum(stream.changed[order])
    alarms = []
    for told in _told(options, stream, times_ms, arrivals, order):
        record = told.record
        if isinstance(record, AlertEvent) and record.status == "opened" and record.performance is not None:
            name = DRIFT if record.kind == DRIFT else record.performance.metric
            # Coverage is told at a prediction.
            seen = changed_so_far[told.offset] if name != "label_coverage" else told.offset - count // 2
            alarms.append(Alarm(name, max(int(seen), 0)))
    return Result(job.task, job.condition, alarms)


def _told(options: PerformanceOptions, stream: Stream, times_ms: I64, arrivals: I64, order: I64) -> Iterator[Told]:
    """Feed a monitor: a batch of predictions, then the labels that have come meanwhile. Offsets are places in order."""
    monitor = PerformanceMonitor(PerformanceOwner("model", 0, "predictions"), EngineOptions(performance=options))
    count = len(times_ms)
    probabilities: Sequence[dict[str, float] | None] = stream.probabilities or [None] * count
    predictions = [
        PredictionEvent(f"e{place}", "model", {}, answer, probabilities=cells)
        for place, (answer, cells) in enumerate(zip(stream.predictions, probabilities, strict=True))
    ]
    labels = [LabelEvent(f"e{place}", "model", stream.truths[place]) for place in order.tolist()]
    came_ms = arrivals[order]
    begin = 0
    for first in range(0, count, BATCH):
        part = slice(first, min(first + BATCH, count))
        offsets = np.arange(part.start, part.stop)
        yield from monitor.predicted(
            Arrived(PredictionEvents.of(predictions[part]), offsets, times_ms[part], times_ms[part])
        )
        monitor.pane_closed()
        end = int(np.searchsorted(came_ms, times_ms[part.stop - 1], side="right"))
        if end > begin:
            yield from monitor.label(LabelEvents.of(labels[begin:end]), np.arange(begin, end), came_ms[begin:end])
        begin = end


# Figures.


def names_of(task: str) -> list[str]:
    """Return everything that can alarm for a task."""
    return [*METRICS[task], *OF_LABELS, DRIFT, SHIPPED]


def figures(results: Sequence[Result]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return by task and name what there is to say."""
    runs: dict[tuple[str, str], list[list[Alarm]]] = defaultdict(list)
    for result in results:
        shipped = [alarm._replace(name=SHIPPED) for alarm in result.alarms if alarm.name in SHIPPED_NAMES]
        runs[result.task, result.condition].append([*result.alarms, *shipped])
    tasks = [task for task in METRICS if any(key[0] == task for key in runs)]
    return {
        task: {
            name: {
                condition: (_false if condition in ("strict", "stationary") else _found)(runs[task, condition], name)
                for condition in CONDITIONS
                if runs[task, condition]
            }
            for name in names_of(task)
        }
        for task in tasks
    }


def _false(runs: Sequence[Sequence[Alarm]], name: str) -> dict[str, float]:
    """Return the share of streams with an alarm and its interval."""
    alarmed = sum(any(alarm.name == name for alarm in run) for run in runs)
    share = wilson(float(alarmed), float(len(runs)), Z95)
    assert share.value is not None
    assert share.low is not None
    assert share.high is not None
    return {"share": round(share.value, 4), "low": round(share.low, 4), "high": round(share.high, 4)}


def _found(runs: Sequence[Sequence[Alarm]], name: str) -> dict[str, float | None]:
    """Return the share of streams with an alarm after the change and one before it, and the delays in labels."""
    after = [[alarm.delay for alarm in run if alarm.name == name and alarm.delay > 0] for run in runs]
    before = sum(any(alarm.name == name and alarm.delay == 0 for alarm in run) for run in runs)
    delays = [min(each) for each in after if each]
    late = quantiles(delays, n=10, method="inclusive")[-1] if len(delays) > 1 else None
    return {
        "found": round(len(delays) / len(runs), 4),
        "false_before": round(before / len(runs), 4),
        "delay_median": median(delays) if delays else None,
        "delay_p90": None if late is None else round(late),
    }


def tables(found: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]) -> Iterator[Table]:
    """Yield a table for each task."""
    for task, by_name in found.items():
        table = Table(title=task)
        for title in ("metric", "strict: false", "false alarms (95 %)"):
            table.add_column(title)
        for loss in ("-10 points", "-5 points") if task != "regression" else ("errors +25 %", "errors +10 %"):
            table.add_column(f"{loss}: found")
            table.add_column("delay: median, p90", justify="right")
            table.add_column("false before", justify="right")
        for name, of in by_name.items():
            false = of["stationary"]
            cells = [
                name,
                f"{of['strict']['share']:.1%}",
                f"{false['share']:.1%} ({false['low']:.1%} to {false['high']:.1%})",
            ]
            for condition in ("large", "small"):
                each = of[condition]
                delays = (each["delay_median"], each["delay_p90"])
                cells += [
                    f"{each['found']:.1%}",
                    ", ".join("-" if delay is None else f"{delay:,.0f}" for delay in delays),
                    f"{each['false_before']:.1%}",
                ]
            table.add_row(*cells)
        yield table


def main() -> None:
    """Run it all."""
    parser = argparse.ArgumentParser(description="False alarms and detection of performance alerts.")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--labels", type=int, default=20_000)
    parser.add_argument("--tasks", nargs="*", choices=list(METRICS), default=list(METRICS))
    arguments = parser.parse_args()
    jobs = [
        Job(task, condition, seed, arguments.labels, PerformanceOptions())
        for task in arguments.tasks
        for seed in range(arguments.streams)
        for condition in CONDITIONS
    ]
    with ProcessPoolExecutor(PROCESSES) as pool:
        done = pool.map(run, jobs, chunksize=4)
        results = list(track(done, description="streams", total=len(jobs), console=console))
    found = figures(results)
    for table in tables(found):
        console.print(table)
    print(json.dumps({"streams": arguments.streams, "labels": arguments.labels, **found}))


if __name__ == "__main__":
    main()
