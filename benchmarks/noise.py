"""A day of real data with two faults: what would wake people before noise control, what does after it, what is caught.

    python -m benchmarks.noise                                   on streams that the dependencies ship
    python -m benchmarks.noise --streams FOLDER                  on the streams of FOLDER/*.npz (X, y)
    python -m benchmarks.noise --only wine,shuttle --seeds 3 --picture day.svg

A day has 86,400 events, one a second, each with its label 200 s later. Its rows are the normal rows of a data set, all
of them once in a seeded order, then all of them again in another one, until the day is full; every data set here is
shorter than a day, and those that ship, but for Shuttle (River's, 45,586 normal rows), are drawn from 178 to 2,310 rows
(`benchmarks.shipped_streams`). Sets of less than 10,000 rows also get a little noise (2 % of a feature's deviation), so
that no two rows are equal. A made-up linear model predicts from five features, those with faults among them, and gets
what is faulty, too. The two faults, each for 20 minutes: between 9 and 10 h a feature comes in another unit (x 1000),
between 17 and 18 h another feature is missing. Another seed is another order, other features, and other moments.

`before` is what sources raise, told at once: the rules of `engine.alerts` are off. `after` is as shipped. A fault is
caught when an incident that opened within it is more than for information and has the feature among its lines. What
opens within an hour after the end of a fault is its aftermath; all other openings are false. The last line is JSON.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import msgspec
import numpy as np
import orjson
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text
from river import datasets

from benchmarks.engine_run import START_MS, stored_streams
from benchmarks.shipped_streams import shipped_streams
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.engine import Engine
from worker.core.events import AlertEvent, Output, OutputTopic, RawBatch
from worker.core.events import InputTopic as Topic
from worker.core.kernels.arrays import F64, I64
from worker.core.options import AlertOptions, EngineOptions, NoiseOptions
from worker.core.shard import Topics

EVENT_MS = 1_000
HOUR = 3_600
EVENTS = 24 * HOUR
FAULT_EVENTS = 1_200
AFTERMATH_EVENTS = HOUR
UNIT_FACTOR = 1_000.0
LABEL_DELAY = 200
BATCH = 200
SMALL_ROWS = 10_000
JITTER = 0.02
BIN_EVENTS = 1_200
TOLD = (OutputTopic.ALERTS, OutputTopic.MAINTENANCE)

OPTIONS = {
    "before": AlertOptions(
        noise=NoiseOptions(severity_min="info", clear_share=0.0, cooldown_ms=0, update_ms=0, flap_openings=0),
        openings_per_day_max=0,
        rebaseline_events=0,
        incidents_max=10_000,
    ),
    "after": AlertOptions(),
}

console = Console(stderr=True)


class Fault(NamedTuple):
    """What is wrong with one feature for `FAULT_EVENTS` events."""

    name: str
    feature: int
    begin: int

    @property
    def end(self) -> int:
        """The first event after it."""
        return self.begin + FAULT_EVENTS


class Day(NamedTuple):
    """A day of one data set."""

    name: str
    seed: int
    rows: int
    faults: tuple[Fault, Fault]
    cells: F64
    """Features (n x d) as the model gets them, NaN where one is missing."""
    answers: F64
    truth: F64

    @property
    def title(self) -> str:
        """What it is called."""
        return f"{self.name} {self.seed}"


class Catch(NamedTuple):
    """The first incident that opened within a fault and named its feature; None: there is none."""

    fault: str
    kind: str | None
    delay_events: int | None
    delay_s: float | None
    cause: str | None
    """Likely first cause of the situation, as last told within the fault."""


class Outcome(NamedTuple):
    """What was told on one day."""

    openings: int
    kinds: dict[str, int]
    severities: dict[str, int]
    records: int
    situations: int
    catches: list[Catch]
    aftermath: dict[str, int]
    false: dict[str, int]
    suppressed: dict[str, int]
    """By reason."""
    suppressed_faults: dict[str, int]
    """By kind, of what was suppressed within the faults: these openings were right."""
    bins: list[int]
    """Openings of each 20 minutes."""


# A day.


def sources(folder: Path | None) -> Iterator[tuple[str, F64, I64]]:
    """Yield names, rows (n x d) and anomalies (n) of data sets."""
    if folder is not None:
        yield from stored_streams(folder)
        return
    yield from shipped_streams()
    events = list(datasets.Shuttle())
    rows = np.array([list(features.values()) for features, _ in events], dtype=np.float64)
    yield "shuttle", rows, np.array([label for _, label in events], dtype=np.int64)


def make_day(name: str, normal: F64, seed: int) -> Day:
    """Return a day of a data set's normal rows (n x d) with two faults."""
    rng = np.random.default_rng([seed, len(normal), normal.shape[1]])
    passes = -(-EVENTS // len(normal))
    rows = normal[np.concatenate([rng.permutation(len(normal)) for _ in range(passes)])[:EVENTS]]
    deviations = normal.std(axis=0)
    if len(normal) < SMALL_ROWS:
        rows = rows + rng.normal(size=rows.shape) * deviations * JITTER
    unit, missing = _features(rng, normal, deviations)
    faults = (
        Fault("unit", unit, 9 * HOUR + int(rng.integers(HOUR - FAULT_EVENTS))),
        Fault("missing", missing, 17 * HOUR + int(rng.integers(HOUR - FAULT_EVENTS))),
    )
    weights = np.zeros(normal.shape[1])
    others = [place for place in rng.permutation(len(weights)).tolist() if place not in (unit, missing)]
    weights[[unit, missing, *others[:3]]] = 1.0
    scale = np.where(deviations > 0.0, deviations, 1.0)
    truth = ((rows - normal.mean(axis=0)) / scale) @ weights
    rows = rows.copy()
    rows[faults[0].begin : faults[0].end, unit] *= UNIT_FACTOR
    rows[faults[1].begin : faults[1].end, missing] = np.nan
    # Where a feature is missing, the model takes the usual value.
    answers = np.nan_to_num((rows - normal.mean(axis=0)) / scale) @ weights
    return Day(name, seed, len(normal), faults, rows, answers, truth + rng.normal(size=EVENTS))


def _features(rng: np.random.Generator, normal: F64, deviations: F64) -> tuple[int, int]:
    """Draw two features that vary; of the first one, another unit changes more than the value zero."""
    varied = [place for place in rng.permutation(normal.shape[1]).tolist() if deviations[place] > 0.0]
    unit = next(place for place in varied if np.mean(normal[:, place] != 0.0) > 0.5)
    return unit, next(place for place in varied if place != unit)


def batch(day: Day, topic: Topic, begin: int) -> RawBatch:
    """Return consecutive records of a day."""
    offsets = range(begin, begin + BATCH)
    times = [START_MS + place * EVENT_MS for place in offsets]
    record = _prediction if topic is Topic.PREDICTIONS else _label
    values = [orjson.dumps({"event_id": f"e{place}", "model_id": day.name, **record(day, place)}) for place in offsets]
    nothing = [None] * BATCH
    return RawBatch(0, offsets, times, values, nothing, nothing, topic)


def _prediction(day: Day, place: int) -> dict[str, object]:
    # NaN is written as null: a missing value.
    features = {f"f{feature}": value for feature, value in enumerate(day.cells[place].tolist())}
    return {
        "timestamp": START_MS + place * EVENT_MS,
        "features": features,
        "prediction": float(day.answers[place]),
    }


def _label(day: Day, place: int) -> dict[str, object]:
    return {"timestamp": START_MS + (place + LABEL_DELAY) * EVENT_MS, "label": float(day.truth[place])}


# What is told of it.


def run(day: Day, alerts: AlertOptions) -> Outcome:
    """Send a day through the production engine."""
    options = msgspec.structs.replace(EngineOptions(), alerts=alerts)
    engine = Engine(options, Topics(), InlineRefits())
    engine.add_shard(0)
    told: list[Output] = []
    for begin in range(0, EVENTS, BATCH):
        told += engine.handle(batch(day, Topic.PREDICTIONS, begin)).outputs
        if begin >= LABEL_DELAY:
            told += engine.handle(batch(day, Topic.LABELS, begin - LABEL_DELAY)).outputs
        told = [each for each in told if each.topic in TOLD]
    values = {topic: [each.value for each in told if each.topic is topic and each.value is not None] for topic in TOLD}
    steps = [msgspec.json.decode(value, type=AlertEvent) for value in values[OutputTopic.ALERTS]]
    notes = [orjson.loads(value) for value in values[OutputTopic.MAINTENANCE]]
    return _outcome(day, steps, [note for note in notes if note["kind"] == "alert_suppressed"])


def _outcome(day: Day, steps: Sequence[AlertEvent], held: Sequence[dict[str, Any]]) -> Outcome:
    opened = [step for step in steps if step.status == "opened"]
    when = [_when(_event(step.timestamp_ms), day.faults) for step in opened]
    bins = Counter(_event(step.timestamp_ms) // BIN_EVENTS for step in opened)
    return Outcome(
        openings=len(opened),
        kinds=_counts(step.kind for step in opened),
        severities=_counts(step.severity for step in opened),
        records=len(steps),
        situations=len({step.situation.situation_id for step in opened if step.situation is not None}),
        catches=[_catch(fault, steps) for fault in day.faults],
        aftermath=_counts(step.kind for step, part in zip(opened, when, strict=True) if part == "aftermath"),
        false=_counts(step.kind for step, part in zip(opened, when, strict=True) if part == "false"),
        suppressed=_counts(note["reason"] for note in held),
        suppressed_faults=_counts(
            note["alert_kind"] for note in held if _when(_event(note["timestamp_ms"]), day.faults) == "fault"
        ),
        bins=[bins[place] for place in range(EVENTS // BIN_EVENTS)],
    )


def _counts(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())


def _when(event: int, faults: Iterable[Fault]) -> str:
    """Tell in which part of the day an event lies."""
    for fault in faults:
        if fault.begin <= event < fault.end:
            return "fault"
        if fault.end <= event < fault.end + AFTERMATH_EVENTS:
            return "aftermath"
    return "false"


def _event(time_ms: int) -> int:
    """Return the event of a time, counted from the beginning of the day."""
    return (time_ms - START_MS) // EVENT_MS


def _catch(fault: Fault, steps: Sequence[AlertEvent]) -> Catch:
    within = [step for step in steps if fault.begin <= _event(step.timestamp_ms) < fault.end]
    opened = {step.incident_id for step in within if step.status == "opened"}
    name = f"f{fault.feature}"
    told = [step for step in within if step.incident_id in opened and step.severity != "info" and name in _named(step)]
    causes = [step.situation.cause_kind for step in within if step.situation is not None]
    cause = causes[-1] if causes else None
    if not told:
        return Catch(fault.name, None, None, None, cause)
    delay = _event(told[0].timestamp_ms) - fault.begin + 1
    return Catch(fault.name, told[0].kind, delay, delay * EVENT_MS / 1000.0, cause)


def _named(step: AlertEvent) -> set[str]:
    """Return the features that an alert tells of."""
    changed = [] if step.change is None else step.change.changed
    return {each.name for each in changed} | {each.name for each in step.features}


# What is shown.

Results = list[tuple[Day, dict[str, Outcome]]]


def main() -> None:
    """Run the days, show tables and a picture, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description="A day of real data with two faults, before and after noise control.")
    parser.add_argument("--streams", type=Path, help="folder with *.npz; without it, streams that dependencies ship")
    parser.add_argument("--only", default="", help="names of data sets, with a comma between them")
    parser.add_argument("--seeds", type=int, default=1, help="days of each data set")
    parser.add_argument("--picture", type=Path, help="write tables and picture to this file, as SVG")
    arguments = parser.parse_args()
    wanted = set(filter(None, arguments.only.split(",")))
    found = [(name, rows[y == 0]) for name, rows, y in sources(arguments.streams) if not wanted or name in wanted]
    jobs = [(name, normal, seed) for name, normal in found for seed in range(arguments.seeds)]
    results: Results = []
    for name, normal, seed in track(jobs, "days", console=console):
        day = make_day(name, normal, seed)
        outcomes = {side: run(day, alerts) for side, alerts in OPTIONS.items()}
        nothing = np.zeros(0)
        results.append((day._replace(cells=nothing, answers=nothing, truth=nothing), outcomes))
    shown = Console(stderr=True, record=True, width=170)
    shown.print(_table(results))
    shown.print(_kinds(results))
    shown.print(_picture(results))
    if arguments.picture is not None:
        shown.save_svg(str(arguments.picture), title="A day with two faults, before and after noise control")
    print(json.dumps(_summary(results)))


def _table(results: Results) -> Table:
    columns = ["stream, rows", "", "openings", "unit", "missing", "aftermath", "false", "situations"]
    columns += ["held back", "of it in faults"]
    table = Table(*columns, title="openings in a day, and after how long an incident names the fault")
    for day, outcomes in results:
        for side, outcome in outcomes.items():
            table.add_row(
                day.title if side == "before" else f"{day.rows:,}",
                side,
                str(outcome.openings),
                *(_caught(catch) for catch in outcome.catches),
                str(sum(outcome.aftermath.values())),
                _text(outcome.false) or "0",
                str(outcome.situations),
                _text(outcome.suppressed) or "0",
                _text(outcome.suppressed_faults) or "0",
                end_section=side == "after",
            )
    return table


def _kinds(results: Results) -> Table:
    table = Table("kind", *OPTIONS, *(f"false {side}" for side in OPTIONS), title="openings per day by kind, mean")
    totals = {side: _added(outcomes[side].kinds for _, outcomes in results) for side in OPTIONS}
    false = {side: _added(outcomes[side].false for _, outcomes in results) for side in OPTIONS}
    for kind in sorted({kind for counts in totals.values() for kind in counts}):
        figures = [counts[side][kind] / len(results) for counts in (totals, false) for side in OPTIONS]
        table.add_row(kind, *(f"{figure:.2f}" for figure in figures))
    return table


def _added(parts: Iterable[dict[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return total


def _text(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _caught(catch: Catch) -> str:
    return "MISSED" if catch.delay_s is None else f"{catch.kind} after {catch.delay_s:.0f} s"


def _picture(results: Results) -> Text:
    """Draw openings over the day, one sign for 20 minutes: how many there were, `+` for ten and more."""
    axis = "".join(f"{hour:<9d}" for hour in range(0, 24, 3))
    picture = Text(f"{'openings in 20 min; hour':>32} {axis}\n")
    for day, outcomes in results:
        faulty = {place // BIN_EVENTS for fault in day.faults for place in range(fault.begin, fault.end)}
        for side, outcome in outcomes.items():
            picture.append(f"{day.title:>24} {side:>7} ")
            for place, count in enumerate(outcome.bins):
                sign = "·" if count == 0 else str(count) if count < 10 else "+"
                picture.append(sign, "bold white on red" if place in faulty else "yellow" if count else "dim")
            picture.append("\n")
    picture.append(f"{'':>33}red: a fault")
    return picture


def _summary(results: Results) -> dict[str, object]:
    found: dict[str, object] = {"days": len(results), "faults": sum(len(day.faults) for day, _ in results)}
    for side in OPTIONS:
        told = [outcomes[side] for _, outcomes in results]
        delays = sorted(catch.delay_s for each in told for catch in each.catches if catch.delay_s is not None)
        found[side] = {
            "openings_per_day": sum(each.openings for each in told) / len(told),
            "openings_max": max(each.openings for each in told),
            "false_per_day": sum(sum(each.false.values()) for each in told) / len(told),
            "aftermath_per_day": sum(sum(each.aftermath.values()) for each in told) / len(told),
            "situations_per_day": sum(each.situations for each in told) / len(told),
            "records_per_day": sum(each.records for each in told) / len(told),
            "kinds": dict(_added(each.kinds for each in told).most_common()),
            "suppressed": dict(_added(each.suppressed for each in told)),
            "suppressed_in_faults": dict(_added(each.suppressed_faults for each in told)),
            "causes": _counts(str(catch.cause) for each in told for catch in each.catches),
            "faults_caught": len(delays),
            "delay_s_median": median(delays) if delays else None,
            "delay_s_max": delays[-1] if delays else None,
        }
    found["results"] = [
        {
            "stream": day.name,
            "seed": day.seed,
            "faults": [fault._asdict() for fault in day.faults],
            **{side: _as_json(outcome) for side, outcome in outcomes.items()},
        }
        for day, outcomes in results
    ]
    return found


def _as_json(outcome: Outcome) -> dict[str, object]:
    return {**outcome._asdict(), "catches": [catch._asdict() for catch in outcome.catches]}


if __name__ == "__main__":
    main()
