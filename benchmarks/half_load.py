"""From an event to its alert while the worker has half of the load that it can take (`latency.py` says how)."""

import tempfile
from pathlib import Path

from benchmarks.latency import AIM_MS, QUANTILES, Load, name_of, run
from benchmarks.rates import console, shown
from benchmarks.results import Part, table

SECONDS, WARM_UP_S = 120.0, 60.0
COMMIT_INTERVAL_MS = 200
"""The worker's own."""
ALERTS_PER_SECOND = 5.0


def part(rate: int, whose: str, scale: float) -> Part:
    """Measure one load; `whose` says what rate it is, `scale` shortens it."""
    load = Load(rate, COMMIT_INTERVAL_MS, SECONDS * scale, WARM_UP_S * scale, ALERTS_PER_SECOND)
    folder = Path(tempfile.mkdtemp(prefix="modelvigil-latency-"))
    whole = load.seconds + load.warm_up_s
    with shown(f"latency at {rate:,} events/s", round(whole)) as look:
        outcome = run(load, folder, lambda seconds, _lag: look(round(seconds)))
    figures = outcome.figures()
    names = [name_of(quantile) for quantile in QUANTILES]
    cells = [figures[name] for name in (*names, "max_ms")]
    if outcome.unread:
        console.print(f"the worker could not keep up: {outcome.unread:,} events unread at the end")
    text = (
        f"{rate:,} events/s, {whose}; {load.seconds:.0f} s after "
        f"{load.warm_up_s:.0f} s that do not count, a commit every {COMMIT_INTERVAL_MS} ms, or after a quarter of that "
        "where an alert waits. From the event sent to the alert readable under `read_committed`, in ms.\n\n"
    )
    head = ("alerts", *(name.removesuffix("_ms") for name in names), "maximum", "aim of p99", "most events behind")
    row = (str(figures["alerts"]), *("-" if cell is None else f"{cell:,.0f}" for cell in cells), f"< {AIM_MS}")
    return Part(text + table(head, [(*row, f"{outcome.lag_max:,}")]), figures)
