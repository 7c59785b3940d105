"""The alert budget on seeded streams: openings in any 24 hours against it, and what is told of what is critical.

    python -m benchmarks.alert_budget                           100 streams of five days, and 6 through the whole engine
    python -m benchmarks.alert_budget --streams 20 --days 3 --budget 10 --engine-streams 0

Each stream raises conditions at its own mean pace, from 0.2 to 20 times the budget a day (evenly spaced on a log
scale), by a Poisson process: every other one all day, the others nine tenths of it in two hours of the day. A condition
is of one of 300 fingerprints; it is info, warning or critical (10, 70, 20 %), has a strength of 1.5 doublings in the
mean (exponential), and stands for 20 minutes in the mean (exponential). They go to the production `AlertDesk`, with an
event every ten seconds. Options are as shipped, but `severity_min` is info, so that all compete.

A condition is told if an incident of its fingerprint is open at some time while it stands. `first come` is what a plain
limiter makes of the same openings: it lets through what comes until the budget is spent in 24 hours, whatever it is.
`at best` is what a clairvoyant could tell of the critical ones: a budget each day.

The streams through the engine are events, one in five seconds, of which stretches of a few minutes are unusual; their
conditions are the incidents that open without a budget. Their budget is a quarter. The last line is JSON.
"""

import argparse
import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import orjson
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.engine_run import BATCH_EVENTS, START_MS, run_engine
from worker.core.alerts.desk import AlertDesk, Rows
from worker.core.alerts.silences import SilenceBook
from worker.core.events import AlertEvent, AuditEvent, Changed, ChangeEvidence, OutputTopic, RawBatch
from worker.core.identity import derived_id
from worker.core.options import AlertOptions, EngineOptions, NoiseOptions
from worker.core.options.alerts import DAY_MS
from worker.core.telling import Owner, Told

ROW_MS = 10_000
DAY_ROWS = DAY_MS // ROW_MS
LOAD_MIN, LOAD_MAX = 0.2, 20.0
BANDS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
FINGERPRINTS = 300
STRENGTH_MEAN = 1.5
STANDS_ROWS_MEAN = 120.0
RUSH_SHARE = 0.9
RUSH_ROWS = DAY_ROWS // 12
EVENT_MS = 5_000
FEATURES = 4
STRETCHES_PER_DAY = (5, 10, 20)
"""Of one stream after the other."""

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
SEVERITY_SHARES = (0.1, 0.7, 0.2)

COLUMNS = (
    *("load", "streams", "budget", "most in any 24 h", "a day, mean", "days it binds", "held back a day"),
    *("critical told", "at best", "first come", "others told", "first come"),
)
_SHARES = ("critical_told", "critical_at_best", "critical_first_come", "others_told", "others_first_come")

console = Console(stderr=True)


class Condition(NamedTuple):
    """Something that stands from one row to another one."""

    fingerprint: str
    severity: Severity
    strength: float
    begin_ms: int
    end_ms: int


class Span(NamedTuple):
    """One incident, from its opening to its end."""

    fingerprint: str
    severity: Severity
    begin_ms: int
    end_ms: int


class Result(NamedTuple):
    """What became of one stream."""

    load: float
    """Openings without a budget, as a multiple of the budget."""
    budget: int
    days: int
    openings: int
    any_24h_max: int
    bound_days: int
    """Days in which it was told that the budget binds."""
    held_back: int
    counts: dict[str, int]
    """Conditions, critical and others: how many there are, are told, and could be (see above)."""


# Conditions that are drawn.


def drawn(seed: int, per_day: float, days: int) -> list[Condition]:
    """Draw the conditions of a stream, in the order in which they begin; no fingerprint overlaps itself."""
    rng = np.random.default_rng([8, seed])
    begins = np.sort(rng.integers(1, DAY_ROWS * days, rng.poisson(per_day * days)))
    if seed % 2:
        is_rush = rng.random(len(begins)) < RUSH_SHARE
        begins = np.sort(np.where(is_rush, begins - begins % DAY_ROWS + begins % RUSH_ROWS + 1, begins))
    rows = np.maximum(rng.exponential(STANDS_ROWS_MEAN, len(begins)).astype(np.int64), 1)
    severities = rng.choice(3, len(begins), p=SEVERITY_SHARES)
    strengths = np.minimum(rng.exponential(STRENGTH_MEAN, len(begins)), 8.0)
    free_from = np.zeros(FINGERPRINTS, dtype=np.int64)
    found = []
    for begin, length, severity, strength in zip(begins.tolist(), rows.tolist(), severities, strengths, strict=True):
        free = np.flatnonzero(free_from < begin)
        if not len(free):
            continue
        place = int(rng.choice(free))
        free_from[place] = begin + length
        times = (START_MS + each * ROW_MS for each in (begin, begin + length))
        found.append(Condition(f"fingerprint {place}", SEVERITIES[int(severity)], float(strength), *times))
    return found


def steps_of(conditions: Sequence[Condition], last_row: int, options: EngineOptions) -> list[Told]:
    """Return what a source raises: that each condition begins, and that it is over, in the order of offsets."""
    owner = Owner("model", 0, "predictions")
    found = []
    for condition in conditions:
        for status, time_ms in (("opened", condition.begin_ms), ("resolved", condition.end_ms)):
            offset = (time_ms - START_MS) // ROW_MS
            if offset <= last_row:
                found.append(owner.alert(_raised(condition, status, offset, options), offset))
    # Of one fingerprint, the end comes before the next beginning: they are never in one row.
    return sorted(found, key=lambda told: told.offset)


def _raised(condition: Condition, status: str, offset: int, options: EngineOptions) -> AlertEvent:
    is_over = status == "resolved"
    changed = Changed(
        name="f0",
        measure="psi",
        observed=1.0,
        expected=0.0,
        effect=options.drift.psi_min * 2.0**condition.strength,
        since_offset=offset,
        since_ms=condition.begin_ms,
    )
    return AlertEvent(
        alert_id=derived_id("alert", condition.fingerprint, status, offset),
        incident_id=derived_id("incident", condition.fingerprint, condition.begin_ms),
        fingerprint=condition.fingerprint,
        kind="drift.input",
        status="resolved" if is_over else "opened",
        severity=condition.severity,
        summary=condition.fingerprint,
        runbook="drift.input",
        model_id="model",
        model_version=None,
        shard=0,
        timestamp_ms=condition.end_ms if is_over else condition.begin_ms,
        opened_at_ms=condition.begin_ms,
        last_flagged_ms=condition.begin_ms,
        resolved_at_ms=condition.end_ms if is_over else None,
        change=ChangeEvidence(changed=[] if is_over else [changed], changed_count=1, looked_at=1, events=1),
    )


def desk_told(conditions: Sequence[Condition], days: int, budget: int) -> tuple[list[AlertEvent], list[AuditEvent]]:
    """Send conditions to a desk with a budget (0: none); return the steps and the notes that it tells."""
    options = _options(budget)
    desk = AlertDesk(Owner("model", 0, "predictions"), options, SilenceBook(10))
    offsets = np.arange(DAY_ROWS * days, dtype=np.int64)
    rows = Rows(offsets, START_MS + ROW_MS * offsets, 0)
    told = list(desk.process(steps_of(conditions, len(offsets) - 1, options), rows))
    steps = [each.record for each in told if each.topic is OutputTopic.ALERTS and isinstance(each.record, AlertEvent)]
    return steps, [each.record for each in told if isinstance(each.record, AuditEvent)]


def _options(budget: int) -> EngineOptions:
    alerts = AlertOptions(noise=NoiseOptions(severity_min="info"), openings_per_day_max=budget)
    return msgspec.structs.replace(EngineOptions(), alerts=alerts)


# Streams through the whole engine.


def records(seed: int, days: int) -> list[RawBatch]:
    """Return the events of a stream: correlated normal features, and stretches in which one of them is off."""
    rng = np.random.default_rng([9, seed])
    count = days * DAY_MS // EVENT_MS
    rows = rng.normal(size=(count, FEATURES)) @ rng.normal(size=(FEATURES, FEATURES)) + 10.0
    stretches = STRETCHES_PER_DAY[seed % len(STRETCHES_PER_DAY)] * days
    for begin in rng.integers(2_000, count, rng.poisson(stretches)).tolist():
        length, size = int(rng.integers(24, 96)), float(rng.exponential(6.0))
        hit = begin + np.flatnonzero(rng.random(min(length, count - begin)) < rng.uniform(0.1, 1.0))
        rows[hit, rng.integers(FEATURES)] += size * rows.std()
    batches = []
    for begin in range(0, count, BATCH_EVENTS):
        offsets = range(begin, min(begin + BATCH_EVENTS, count))
        values = [_event(place, rows[place].tolist()) for place in offsets]
        nothing = [None] * len(offsets)
        batches.append(RawBatch(0, offsets, [START_MS + each * EVENT_MS for each in offsets], values, nothing, nothing))
    return batches


def _event(place: int, row: list[float]) -> bytes:
    features = {f"f{feature}": value for feature, value in enumerate(row)}
    event = {"event_id": f"e{place}", "model_id": "model", "timestamp": START_MS + place * EVENT_MS}
    return orjson.dumps({**event, "features": features, "prediction": sum(row)})


def engine_told(batches: list[RawBatch], budget: int) -> tuple[list[AlertEvent], list[AuditEvent]]:
    """Send events through the engine with a budget (0: none); return the steps and the notes that it tells."""
    outputs, _ = run_engine(_options(budget), batches)
    values = [each.value for each in outputs if each.topic is OutputTopic.ALERTS and each.value is not None]
    notes = [each.value for each in outputs if each.topic is OutputTopic.MAINTENANCE and each.value is not None]
    audits = [msgspec.json.decode(note, type=AuditEvent) for note in notes if b'"audit_id"' in note]
    return [msgspec.json.decode(value, type=AlertEvent) for value in values], audits


# What became of them.


def spans_of(steps: Iterable[AlertEvent], end_ms: int) -> list[Span]:
    """Return the incidents in the order of their openings; what is open at the end ends there."""
    found: dict[str, Span] = {}
    for step in steps:
        opened = found.get(step.incident_id)
        begin_ms = step.timestamp_ms if opened is None else opened.begin_ms
        until_ms = step.timestamp_ms if step.status == "resolved" else end_ms
        found[step.incident_id] = Span(step.fingerprint, step.severity, begin_ms, until_ms)
    return list(found.values())


def any_24h(times_ms: Sequence[int]) -> int:
    """Return the most openings in any 24 hours; the times are in order."""
    return max((place + 1 - bisect_right(times_ms, time - DAY_MS) for place, time in enumerate(times_ms)), default=0)


def first_come(spans: Sequence[Span], budget: int) -> list[Span]:
    """Return what a plain limiter lets through."""
    kept: list[Span] = []
    for span in spans:
        if sum(each.begin_ms > span.begin_ms - DAY_MS for each in kept[-budget:]) < budget:
            kept.append(span)
    return kept


def told_count(conditions: Iterable[Condition | Span], spans: Iterable[Span]) -> int:
    """Return the number of conditions during which an incident of their fingerprint was open, bounds included."""
    by_fingerprint: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        by_fingerprint[span.fingerprint].append(span)
    return sum(
        any(
            span.begin_ms <= each.end_ms and each.begin_ms <= span.end_ms
            for span in by_fingerprint.get(each.fingerprint, ())
        )
        for each in conditions
    )


def result(
    conditions: Sequence[Condition | Span],
    all_spans: Sequence[Span],
    told: tuple[Sequence[AlertEvent], Sequence[AuditEvent]],
    budget: int,
    days: int,
) -> Result:
    """Return what a budget made of a stream that has the incidents `all_spans` without one."""
    spans = spans_of(told[0], START_MS + days * DAY_MS)
    times = [step.timestamp_ms for step in told[0] if step.status == "opened"]
    notes = [each for each in told[1] if each.reason == "budget"]
    counts: dict[str, int] = {}
    for name, is_critical in (("critical", True), ("others", False)):
        part = [each for each in conditions if (each.severity == "critical") is is_critical]
        counts[name] = len(part)
        counts[f"{name}_at_best"] = min(len(part), budget * days)
        counts[f"{name}_told"] = told_count(part, spans)
        counts[f"{name}_first_come"] = told_count(part, first_come(all_spans, budget))
    return Result(
        load=len(all_spans) / (budget * days),
        budget=budget,
        days=days,
        openings=len(times),
        any_24h_max=any_24h(times),
        bound_days=len({_day(each) for each in notes}),
        held_back=sum(each.kind == "alert_suppressed" for each in notes),
        counts=counts,
    )


def _day(note: AuditEvent) -> int:
    return -1 if note.timestamp_ms is None else (note.timestamp_ms - START_MS) // DAY_MS


def desk_results(streams: int, days: int, budget: int) -> Iterator[Result]:
    """Run streams of drawn conditions."""
    loads = np.geomspace(LOAD_MIN, LOAD_MAX, streams).tolist()
    for seed, load in enumerate(track(loads, "desk", console=console)):
        conditions = drawn(seed, load * budget, days)
        all_spans = spans_of(desk_told(conditions, days, 0)[0], START_MS + days * DAY_MS)
        yield result(conditions, all_spans, desk_told(conditions, days, budget), budget, days)


def engine_results(streams: int, days: int, budget: int) -> Iterator[Result]:
    """Run streams of events."""
    for seed in track(range(streams), "engine", console=console):
        batches = records(seed, days)
        all_spans = spans_of(engine_told(batches, 0)[0], START_MS + days * DAY_MS)
        yield result(all_spans, all_spans, engine_told(batches, budget), budget, days)


# What is shown.


def main() -> None:
    """Run the streams, show a table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description="Openings against the alert budget.")
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--engine-streams", type=int, default=6)
    parser.add_argument("--days", type=int, default=5)
    parser.add_argument("--budget", type=int, default=AlertOptions().openings_per_day_max)
    arguments = parser.parse_args()
    desk = list(desk_results(arguments.streams, arguments.days, arguments.budget))
    engine = list(engine_results(arguments.engine_streams, min(arguments.days, 3), max(1, arguments.budget // 4)))
    table = Table(*COLUMNS)
    for low, high in pairwise(BANDS):
        inner = [each for each in desk if low <= max(each.load, LOAD_MIN) and min(each.load, LOAD_MAX * 0.999) < high]
        _add_row(table, f"{low:g} to {high:g}", inner)
    table.add_section()
    _add_row(table, "all", desk)
    _add_row(table, "engine", engine)
    console.print(table)
    print(json.dumps({"desk": summary(desk), "engine": summary(engine), "streams": [each._asdict() for each in desk]}))


def _add_row(table: Table, name: str, results: Sequence[Result]) -> None:
    if not results:
        return
    found = summary(results)
    shares = [found[key] for key in _SHARES]
    table.add_row(
        name,
        str(len(results)),
        str(found["budget"]),
        str(found["any_24h_max"]),
        f"{found['openings_per_day']:.1f}",
        f"{found['bound_days_share']:.0%}",
        f"{found['held_back_per_day']:.1f}",
        *("" if share is None else f"{share:.1%}" for share in shares),
    )


def summary(results: Sequence[Result]) -> dict[str, float | None]:
    """Return what a group of streams comes to; shares are of all their conditions together."""
    days = sum(each.days for each in results)
    if not days:
        return {"streams": 0}
    return {
        "streams": len(results),
        "stream_days": days,
        "budget": results[0].budget,
        "any_24h_max": max(each.any_24h_max for each in results),
        "streams_over_budget": sum(each.any_24h_max > each.budget for each in results),
        "load": sum(each.load for each in results) / len(results),
        "openings_per_day": sum(each.openings for each in results) / days,
        "bound_days_share": sum(each.bound_days for each in results) / days,
        "held_back_per_day": sum(each.held_back for each in results) / days,
        **{name: _share(results, name) for name in _SHARES},
    }


def _share(results: Iterable[Result], name: str) -> float | None:
    """Return a share of all conditions of a group of streams; None: there are none."""
    counts = [each.counts for each in results]
    total = sum(each[name.split("_", maxsplit=1)[0]] for each in counts)
    return sum(each[name] for each in counts) / total if total else None


if __name__ == "__main__":
    main()
