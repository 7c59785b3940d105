"""Faults put into real streams: which alert comes first, how many events later, and does it name the right feature?

    python -m benchmarks.faults                           on two streams that the dependencies ship
    python -m benchmarks.faults --streams FOLDER          on two streams of FOLDER/*.npz (X, y), normal rows only

Each stream runs `CLEAN` events without a fault, then the fault for good (or a burst of missing values). Everything goes
through the production engine, labels too. Counted are alerts that open after the fault; what opened before is told as
false. The last line is JSON.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import orjson
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.engine_run import EVENT_MS, START_MS, stored_streams
from benchmarks.shipped_streams import shipped_streams
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.engine import Engine
from worker.core.events import AlertEvent, InputTopic, OutputTopic, RawBatch
from worker.core.kernels.arrays import F64
from worker.core.options import EngineOptions
from worker.core.shard import Topics

CLEAN = 20_000
FAULTY = 10_000
BATCH = 100
LABEL_DELAY = 200
STREAMS = 2
GRADUAL_EVENTS = 4_000
CONSOLE = Console(stderr=True)

Event = dict[str, Any]
Fault = Callable[["Course", Event, int], None]


class Course(NamedTuple):
    """One real stream as events, and the names that faults need: its steadiest features."""

    name: str
    events: list[Event]
    deviations: dict[str, float]
    first: str
    second: str


class Outcome(NamedTuple):
    """What became of one fault."""

    stream: str
    fault: str
    kind: str | None
    delay: int | None
    named: str | None
    right: bool | None
    kinds: dict[str, int]
    false_before: list[str]
    """Kinds of what was raised before the fault."""


def main() -> None:
    """Measure, show a table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description="Faults in real streams.")
    parser.add_argument("--streams", type=Path, help="folder with *.npz; without it, streams that dependencies ship")
    parser.add_argument("--only", default="", help="names of two streams, with a comma between them")
    arguments = parser.parse_args()
    found = shipped_streams() if arguments.streams is None else stored_streams(arguments.streams)
    wanted = set(filter(None, arguments.only.split(",")))
    courses = [_course(name, rows[y == 0]) for name, rows, y in found if not wanted or name in wanted][:STREAMS]
    jobs = [(course, fault) for course in courses for fault in FAULTS]
    outcomes = [_outcome(course, fault) for course, fault in track(jobs, "faults", console=CONSOLE)]
    CONSOLE.print(_table(outcomes))
    print(
        json.dumps(
            {
                "found": sum(each.kind is not None for each in outcomes),
                "of": len(outcomes),
                "right_feature_first": sum(each.right is True for each in outcomes),
                "right_feature_of": sum(each.right is not None for each in outcomes),
                "faults": [each._asdict() for each in outcomes],
            }
        )
    )


def _course(name: str, rows: F64) -> Course:
    """Draw a stream's normal rows, a little moved; a made-up model predicts from three features."""
    rng = np.random.default_rng(5)
    count = CLEAN + FAULTY
    deviations = rows.std(axis=0)
    drawn = rows[rng.integers(len(rows), size=count)] + rng.normal(size=(count, rows.shape[1])) * deviations * 0.02
    names = [f"f{place}" for place in range(rows.shape[1])]
    scaled = (drawn - rows.mean(axis=0)) / np.where(deviations > 0.0, deviations, 1.0)
    truth = scaled[:, :3].sum(axis=1)
    noise = rng.normal(size=count) * 0.5
    sites = rng.choice(["north", "south", "east"], size=count)
    events = [
        {
            "event_id": f"e{place}",
            "model_id": name,
            "timestamp": START_MS + place * EVENT_MS,
            "features": {**dict(zip(names, drawn[place].tolist(), strict=True)), "site": str(sites[place])},
            "prediction": float(truth[place]),
            "label": float(truth[place] + noise[place]),
        }
        for place in range(count)
    ]
    # The two features whose values differ most from one another, of those that vary: swapping them must be visible.
    steady = [place for place in range(rows.shape[1]) if deviations[place] > 0.0]
    distance = {
        (a, b): abs(np.median(rows[:, a]) - np.median(rows[:, b])) / (deviations[a] + deviations[b])
        for a in steady
        for b in steady
        if a < b
    }
    first, second = max(distance, key=lambda pair: distance[pair])
    return Course(name, events, dict(zip(names, deviations.tolist(), strict=True)), names[first], names[second])


# Faults: each changes one event, `since` events after its beginning.


def _stuck(course: Course, event: Event, since: int) -> None:
    event["features"][course.first] = course.events[CLEAN]["features"][course.first]


def _thousandfold(course: Course, event: Event, since: int) -> None:
    event["features"][course.first] *= 1000.0


def _sign(course: Course, event: Event, since: int) -> None:
    event["features"][course.first] *= -1.0


def _missing(course: Course, event: Event, since: int) -> None:
    if since < 2_000 and since % 5 != 0:
        event["features"][course.first] = None


def _category(course: Course, event: Event, since: int) -> None:
    if since % 10 == 0:
        event["features"]["site"] = "west"


def _swapped(course: Course, event: Event, since: int) -> None:
    features = event["features"]
    features[course.first], features[course.second] = features[course.second], features[course.first]


def _gradual(course: Course, event: Event, since: int) -> None:
    share = min(since / GRADUAL_EVENTS, 1.0)
    event["features"][course.first] += 1.5 * share * course.deviations[course.first]


def _labels(course: Course, event: Event, since: int) -> None:
    event["label"] += 1.5


FAULTS: dict[str, tuple[Fault, tuple[str, ...]]] = {
    "stuck sensor": (_stuck, ("first",)),
    "unit change x1000": (_thousandfold, ("first",)),
    "sign flip": (_sign, ("first",)),
    "missing burst": (_missing, ("first",)),
    "new category": (_category, ("site",)),
    "swapped columns": (_swapped, ("first", "second")),
    "gradual shift": (_gradual, ("first",)),
    "label shift": (_labels, ()),
}
"""Each with the features that its alert should name: fields of `Course`, or a name."""


def _outcome(course: Course, fault: str) -> Outcome:
    """Run one stream with one fault."""
    change, wanted = FAULTS[fault]
    right = {str(getattr(course, name, name)) for name in wanted}
    told = [(place, alert) for place, alert in _alerts(course, change) if alert.status != "resolved"]
    # Single unusual events, for information, are expected at `alert_rate`.
    raised = [(place, alert) for place, alert in told if alert.severity != "info"]
    before = [str(alert.kind) for place, alert in raised if place < CLEAN]
    after = [(place - CLEAN, alert) for place, alert in raised if place >= CLEAN]
    kinds: dict[str, int] = {}
    for delay, alert in after:
        kinds.setdefault(alert.kind, delay)
    if not after:
        return Outcome(course.name, fault, None, None, None, None if not right else False, kinds, before)
    delay, first = after[0]
    named = next((name for _, alert in after if (name := _named(alert))), None)
    return Outcome(course.name, fault, first.kind, delay, named, named in right if right else None, kinds, before)


def _named(alert: AlertEvent) -> str | None:
    if alert.change is not None and alert.change.changed:
        return alert.change.changed[0].name or None
    return alert.features[0].name if alert.features else None


def _alerts(course: Course, change: Fault) -> Iterator[tuple[int, AlertEvent]]:
    """Yield each alert with the event during which it came, counted from the beginning."""
    engine = Engine(EngineOptions(), Topics(), InlineRefits())
    engine.add_shard(0)
    decoder = msgspec.json.Decoder(AlertEvent)
    predictions, labels = _records(course, change)
    for begin in range(0, len(predictions), BATCH):
        end = begin + BATCH
        parts = [(InputTopic.PREDICTIONS, predictions, begin, end)]
        if end > LABEL_DELAY:
            parts.append((InputTopic.LABELS, labels, max(0, begin - LABEL_DELAY), end - LABEL_DELAY))
        for topic, values, first, last in parts:
            offsets = range(first, last)
            nothing = [None] * len(offsets)
            times = [START_MS + place * EVENT_MS for place in offsets]
            batch = RawBatch(0, offsets, times, values[first:last], nothing, nothing, topic)
            shift = LABEL_DELAY if topic is InputTopic.LABELS else 0
            for output in engine.handle(batch).outputs:
                if output.topic is OutputTopic.ALERTS and output.value is not None:
                    yield output.offset + shift, decoder.decode(output.value)


def _records(course: Course, change: Fault) -> tuple[list[bytes], list[bytes]]:
    predictions, labels = [], []
    for place, clean in enumerate(course.events):
        event = {**clean, "features": dict(clean["features"])}
        if place >= CLEAN:
            change(course, event, place - CLEAN)
        label = {"event_id": event["event_id"], "model_id": event["model_id"], "label": event.pop("label")}
        predictions.append(orjson.dumps(event))
        labels.append(orjson.dumps({**label, "timestamp": event["timestamp"] + LABEL_DELAY * EVENT_MS}))
    return predictions, labels


def _table(outcomes: list[Outcome]) -> Table:
    table = Table("stream", "fault", "first alert", "delay, events", "named", "right", "other kinds", "false before")
    for each in outcomes:
        others = ", ".join(f"{kind} {delay}" for kind, delay in each.kinds.items() if kind != each.kind)
        right = "" if each.right is None else ("yes" if each.right else "NO")
        table.add_row(
            each.stream,
            each.fault,
            each.kind or "NOT FOUND",
            "" if each.delay is None else f"{each.delay:,}",
            each.named or "",
            right,
            others,
            ", ".join(each.false_before),
        )
    return table


if __name__ == "__main__":
    main()
