"""How far drift alerts can be trusted: false alarms on stationary streams, delay of detection after a shift, cost.

    python -m benchmarks.drift_quality                     100 days of each kind, 40 shifts of each size
    python -m benchmarks.drift_quality --days 20 --shifts 10

A day is 100,000 events of 100 features: numbers (normal, lognormal, of three sources, with a few extremes, with missing
values), counts, booleans of all rates, categories. `independent`: one event says nothing of the next. `autocorrelated`:
numbers follow an autoregressive process (0.8). `noisy`: a slow one (0.98) under noise. Each seed is another model. The
reference is learned from the stream itself, as shipped. A shift moves one numeric feature by a part of its standard
deviation at a random place; the delay is counted in events, from it to the alert. What runs is `DriftWatch` of
`worker.core.drift`, with all options as shipped. The last line is one JSON object.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from statistics import median, quantiles
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.signal import lfilter  # type: ignore[import-untyped] # no stubs

from worker.core.arrivals import PredictionEvents
from worker.core.columns import ColumnTable, Kind, StoredColumn
from worker.core.drift.watch import DriftWatch
from worker.core.events import AlertEvent
from worker.core.kernels.arrays import F64, I64
from worker.core.options import EngineOptions
from worker.core.seen import Seen
from worker.core.telling import Owner, Told

DAY_EVENTS = 100_000
EVENT_MS = 864
START_MS = 1_767_225_600_000
FEATURES = 100
CATEGORIES = 12
SHIFTS = (0.25, 0.5, 1.0)
STREAMS = {"independent": (0.0, 0.0), "autocorrelated": (0.8, 0.0), "noisy": (0.98, 0.5)}
"""Autoregression of the numbers, and the share of noise in their variance."""
SHIFT_FROM, SHIFT_EVENTS = 20_000, 30_000
BATCH = 2_000
PROCESSES = 2
MEASURED_EVENTS = 50_000

console = Console(stderr=True)


class Job(NamedTuple):
    """One run: a stationary day, or a shift of one feature by so many deviations."""

    stream: str
    shift: float
    seed: int
    features: int


class Result(NamedTuple):
    """What a run gave: kinds of the alerts that were opened in time; delay of the first one, whom it named."""

    job: Job
    kinds: list[str]
    delay: int | None
    is_right: bool


def numbers(rng: np.random.Generator, events: int, stream: str) -> F64:
    """Return a numeric feature of mean 0 and deviation 1 before it takes its shape."""
    rho, noise = STREAMS[stream]
    own = rng.normal(size=events)
    if rho:
        own = np.asarray(lfilter([math.sqrt(1.0 - rho * rho)], [1.0, -rho], own), dtype=np.float64)
    mixed: F64 = math.sqrt(1.0 - noise) * own + math.sqrt(noise) * rng.normal(size=events)
    return mixed


def shaped(rng: np.random.Generator, place: int, z: F64) -> F64:
    """Return the feature that normal values (n) make at a place of the table."""
    shape = place % 10
    values: F64
    if shape in (0, 1, 2):
        values = z * rng.uniform(0.1, 50.0) + rng.normal() * 100.0
    elif shape == 3:
        values = np.exp(z * rng.uniform(0.3, 2.0))
    elif shape == 4:
        values = 1_000.0 + z
    elif shape == 5:
        values = np.where(rng.random(len(z)) < 0.01, z * 1e4, z)
    elif shape == 6:
        values = np.where(rng.random(len(z)) < 0.1, np.nan, z)
    elif shape == 7:
        values = np.floor(np.exp(z * 0.8))
    elif shape == 8:
        values = (z > rng.uniform(-1.0, 2.5)).astype(np.float64)
    else:
        edges = np.sort(rng.normal(size=CATEGORIES - 1))
        values = 1.0 + np.searchsorted(edges, z).astype(np.float64)
    return values


def table_of(features: int) -> ColumnTable:
    """Return the columns, in the order of `shaped`."""
    kinds = {8: Kind.BOOLEAN, 9: Kind.CATEGORICAL}
    columns = [StoredColumn("prediction", Kind.NUMERIC, [])]
    for place in range(features):
        kind = kinds.get(place % 10, Kind.NUMERIC)
        names = [f"c{code}" for code in range(CATEGORIES)] if kind is Kind.CATEGORICAL else []
        columns.append(StoredColumn(f"f{place}", kind, names))
    table = ColumnTable(features_max=2_000, categories_max=64)
    table.restore(columns, frozen=True)
    return table


def cells_of(job: Job) -> tuple[F64, int, int]:
    """Return the events (n x columns) of a run, where its shift begins, and which feature shifts."""
    rng = np.random.default_rng([job.seed, int(job.shift * 100), list(STREAMS).index(job.stream)])
    at = SHIFT_FROM + int(rng.integers(0, 500)) if job.shift else DAY_EVENTS
    events = at + SHIFT_EVENTS if job.shift else DAY_EVENTS
    # One whose deviation is that of the normal values: a shift is told in it.
    feature = 10 * int(rng.integers(0, job.features // 10)) + int(rng.choice([0, 1, 2, 4])) if job.shift else -1
    cells = np.empty((events, 1 + job.features))
    cells[:, 0] = 1.0 / (1.0 + np.exp(-numbers(rng, events, job.stream)))
    for place in range(job.features):
        z = numbers(rng, events, job.stream)
        if place == feature:
            z[at:] += job.shift
        cells[:, place + 1] = shaped(rng, place, z)
    return cells, at, feature


def segments(cells: F64) -> Iterator[Seen]:
    """Cut a stream into what a monitor hands over."""
    nobody = PredictionEvents.of(())
    offsets: I64 = np.arange(len(cells), dtype=np.int64)
    times = START_MS + EVENT_MS * offsets
    for begin in range(0, len(cells), BATCH):
        part = slice(begin, begin + BATCH)
        nothing = np.zeros((0, 2), dtype=np.int64)
        yield Seen(begin, nobody, offsets[part], times[part], times[part], cells[part], nothing, None)


def run(job: Job) -> Result:
    """Run one stream."""
    cells, at, feature = cells_of(job)
    watch = DriftWatch(Owner("model", 0, "predictions"), table_of(job.features), EngineOptions())
    watch.begin()
    kinds: list[str] = []
    for seen in segments(cells):
        for record in opened(watch.process(seen)):
            kinds.append(record.kind)
            if job.shift and record.kind == "drift.input" and record.change is not None:
                delay = (record.timestamp_ms - START_MS) // EVENT_MS - at + 1
                if delay > 0:
                    return Result(job, kinds[:-1], delay, record.change.changed[0].name == f"f{feature}")
    return Result(job, kinds, None, is_right=False)


def opened(told: Sequence[Told]) -> Iterator[AlertEvent]:
    """Return the alerts that begin."""
    for each in told:
        if isinstance(each.record, AlertEvent) and each.record.status == "opened":
            yield each.record


def cost_ns(features: int) -> float:
    """Return nanoseconds per event, the reference being learned: the best of five."""
    cells, _, _ = cells_of(Job("independent", 0.0, 1, features))
    watch = DriftWatch(Owner("model", 0, "predictions"), table_of(features), EngineOptions())
    watch.begin()
    all_seen = list(segments(cells))
    first = sum(1 for seen in all_seen if seen.first_sequence < DAY_EVENTS - MEASURED_EVENTS)
    for seen in all_seen[:first]:
        watch.process(seen)
    best = math.inf
    rest = all_seen[first:]
    for part in range(5):
        mine = rest[part::5]
        begin = time.perf_counter()
        for seen in mine:
            watch.process(seen)
        best = min(best, (time.perf_counter() - begin) / sum(len(seen.cells) for seen in mine))
    return best * 1e9


def upper_limit(hits: int, n: int) -> float:
    """Return the upper end of Wilson's 95 % interval of a share."""
    z = 1.96
    centre, half = hits + z * z / 2.0, z * math.sqrt(hits * (n - hits) / n + z * z / 4.0)
    return min((centre + half) / (n + z * z), 1.0)


def summary(results: Sequence[Result]) -> dict[str, object]:
    """Return what the last line says, and print it as tables."""
    found: dict[str, object] = {}
    alarms = Table("stream", "days", "with an alarm", "share", "95 % limit", "kinds", title="false alarms per day")
    delays = Table("stream", "shift", "runs", "found", "median", "90 %", "named first", title="delay in events")
    for stream in STREAMS:
        days = [each for each in results if each.job.stream == stream and not each.job.shift]
        if days:
            false = [each for each in days if each.kinds]
            kinds = sorted({kind for each in false for kind in each.kinds})
            limit = upper_limit(len(false), len(days))
            found[f"{stream}_false_days"] = len(false) / len(days)
            found[f"{stream}_false_days_limit"] = round(limit, 4)
            share = f"{len(false) / len(days):.3f}"
            alarms.add_row(stream, str(len(days)), str(len(false)), share, f"{limit:.3f}", ", ".join(kinds))
        for shift in SHIFTS:
            runs = [each for each in results if (each.job.stream, each.job.shift) == (stream, shift)]
            known = [each.delay for each in runs if each.delay is not None]
            if not runs:
                continue
            middle = median(known) if known else None
            late = quantiles(known, n=10)[-1] if len(known) > 1 else None
            right = sum(each.is_right for each in runs) / len(runs)
            found[f"{stream}_{shift}"] = {
                "found": len(known) / len(runs),
                "median": middle,
                "p90": late,
                "named_first": right,
            }
            delays.add_row(stream, str(shift), str(len(runs)), str(len(known)), str(middle), str(late), f"{right:.2f}")
    console.print(alarms)
    console.print(delays)
    return found


def main() -> None:
    """Run all, print tables and the line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=100)
    parser.add_argument("--shifts", type=int, default=40)
    parser.add_argument("--features", type=int, default=FEATURES)
    parser.add_argument("--streams", nargs="*", default=list(STREAMS), choices=list(STREAMS))
    arguments = parser.parse_args()
    jobs = [
        Job(stream, 0.0, seed, arguments.features) for stream in arguments.streams for seed in range(arguments.days)
    ]
    jobs += [
        Job(stream, shift, seed, arguments.features)
        for stream in arguments.streams
        for shift in SHIFTS
        for seed in range(arguments.shifts)
    ]
    costs = {f"ns_per_event_{features}": round(cost_ns(features)) for features in (10, 100)}
    console.print(costs)
    with ProcessPoolExecutor(PROCESSES) as pool:
        done = pool.map(run, jobs)
        results = list(track(done, "streams", total=len(jobs), console=console))
    print(json.dumps({**summary(results), **costs}))


if __name__ == "__main__":
    main()
