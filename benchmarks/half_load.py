"""From an event to its alert while the worker has half of the load that it can take (`latency.py` says how)."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.latency import AIM_MS, Load, Outcome, name_of, run
from benchmarks.rates import console, shown
from benchmarks.results import Part, spread, table

SECONDS, WARM_UP_S = 60.0, 60.0
COMMIT_INTERVAL_MS = 200
"""The worker's own."""
ALERTS_PER_SECOND = 5.0
_ROWS = (
    ("p50, ms", name_of(0.5), "-"),
    ("p99, ms", name_of(0.99), f"< {AIM_MS}"),
    ("maximum, ms", "max_ms", "-"),
    ("most events behind", "lag_max", "-"),
)


def part(rate: int, whose: str, rounds: int, scale: float) -> Part:
    """Measure one load several times; `whose` says what rate it is, `scale` shortens it."""
    load = Load(rate, COMMIT_INTERVAL_MS, SECONDS * scale, WARM_UP_S * scale, ALERTS_PER_SECOND)
    outcomes = [_round(load, number, rounds) for number in range(1, rounds + 1)]
    runs = [outcome.figures() for outcome in outcomes]
    fewest = min(len(outcome.latencies_ms) for outcome in outcomes)
    text = (
        f"{rate:,} events/s, {whose}; {rounds} runs, each of {load.seconds:.0f} s after {load.warm_up_s:.0f} s that do "
        f"not count, with a broker of its own; {fewest} alerts in the run with the fewest; a commit every "
        f"{COMMIT_INTERVAL_MS} ms, or after a quarter of that where an alert waits. From the event sent to the alert "
        "readable under `read_committed`.\n\n"
    )
    rows = [(title, *_spread(runs, name), aim) for title, name, aim in _ROWS]
    after = f"\n\np99 of the runs, in their order: {', '.join(_cell(run[name_of(0.99)]) for run in runs)}."
    return Part(text + table(("run by run", "minimum", "median", "maximum", "aim"), rows) + after, {"runs": runs})


def _round(load: Load, number: int, rounds: int) -> Outcome:
    folder = Path(tempfile.mkdtemp(prefix="modelvigil-latency-"))
    title = f"round {number} of {rounds}: latency at {load.rate:,} events/s"
    with shown(title, round(load.seconds + load.warm_up_s)) as look:
        outcome = run(load, folder, lambda seconds, _lag: look(round(seconds)))
    if outcome.unread:
        console.print(f"the worker could not keep up: {outcome.unread:,} events unread at the end")
    return outcome


def _spread(runs: Sequence[dict[str, object]], name: str) -> list[str]:
    """Return minimum, median and maximum of a figure; dashes where a run has none: there were too few alerts."""
    values = [value for value in (run[name] for run in runs) if isinstance(value, int | float)]
    return [*map(_cell, spread(values))] if len(values) == len(runs) else ["-"] * 3


def _cell(value: object) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) else "-"
