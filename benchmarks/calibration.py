"""Is the realised share of flagged events on stationary streams what `alert_rate` says?

    python -m benchmarks.calibration                          50 streams of 200,000 events, at 1 %, 0.1 % and 0.01 %
    python -m benchmarks.calibration --streams 5 --events 50000

The production detectors and their calibration, on rows instead of records. Streams differ in law (normal, heavy tails,
skew, mixtures, correlated features), by seed. Counted are all events with a verdict. The last line is JSON: the share
over all streams with its exact 95 % interval under the wanted rate, and how many single streams were outside of theirs.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import binom  # type: ignore[import-untyped] # ships no types

from worker.core.detectors.ensemble import Ensemble
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.kernels.arrays import F64
from worker.core.options import EngineOptions

RATES = (0.01, 0.001, 0.0001)
FEATURES = 5
BATCH = 1_000
CONSOLE = Console(stderr=True)

Law = Callable[[np.random.Generator, int], F64]


def _mixture(rng: np.random.Generator, count: int) -> F64:
    centers = np.where(rng.random(count) < 0.3, 6.0, 0.0)[:, np.newaxis]
    return rng.normal(size=(count, FEATURES)) + centers


def _correlated(rng: np.random.Generator, count: int) -> F64:
    common = rng.normal(size=(count, 1))
    return common + 0.3 * rng.normal(size=(count, FEATURES))


LAWS: dict[str, Law] = {
    "normal": lambda rng, count: rng.normal(size=(count, FEATURES)),
    "heavy tails": lambda rng, count: rng.standard_t(3, size=(count, FEATURES)),
    "skew": lambda rng, count: rng.lognormal(size=(count, FEATURES)),
    "mixture": _mixture,
    "correlated": _correlated,
}


def main() -> None:
    """Measure, show a table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description="Realised share of flagged events.")
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--events", type=int, default=200_000)
    arguments = parser.parse_args()
    jobs = [(rate, seed) for rate in RATES for seed in range(arguments.streams)]
    counts: dict[float, list[tuple[int, int]]] = {rate: [] for rate in RATES}
    for rate, seed in track(jobs, "streams", console=CONSOLE):
        counts[rate].append(_flagged(rate, seed, arguments.events))
    figures = {f"{rate:g}": _figures(rate, counts[rate]) for rate in RATES}
    table = Table("wanted", "realised", "95 % interval", "streams outside of theirs", "within")
    for name, each in figures.items():
        outside = f"{each.outside} of {arguments.streams}"
        table.add_row(name, f"{each.share:.6f}", f"{each.low:.6f} to {each.high:.6f}", outside, str(each.within))
    CONSOLE.print(table)
    print(json.dumps({name: each._asdict() for name, each in figures.items()}))


class Figures(NamedTuple):
    """Realised share over all streams, the interval that it should lie in, and single streams outside of theirs."""

    share: float
    low: float
    high: float
    within: bool
    outside: int


def _figures(rate: float, counts: list[tuple[int, int]]) -> Figures:
    flagged, events = (sum(column) for column in zip(*counts, strict=True))
    low, high = (float(each) / events for each in binom.interval(0.95, events, rate))
    outside = 0
    for one, of in counts:
        least, most = binom.interval(0.95, of, rate)
        outside += not least <= one <= most
    share = flagged / events
    return Figures(round(share, 7), round(low, 7), round(high, 7), low <= share <= high, outside)


def _flagged(rate: float, seed: int, events: int) -> tuple[int, int]:
    """Return how many events of one stream are flagged, and how many have a verdict."""
    options = EngineOptions(alert_rate=rate)
    ensemble = Ensemble(options, InlineRefits(), seed)
    flagged = judged = seen = 0
    for rows in _batches(seed, events, options.warmup_events):
        begin = 0
        while begin < len(rows):
            end = min(len(rows), begin + ensemble.barrier() - seen)
            if seen < options.warmup_events:
                ensemble.learn_warmup(rows[begin:end])
            else:
                verdicts = ensemble.judge(rows[begin:end], rate).verdicts
                flagged += int(np.count_nonzero(verdicts <= rate))
                judged += int(np.count_nonzero(~np.isnan(verdicts)))
            seen += end - begin
            if seen == options.warmup_events:
                ensemble.end_warmup(ensemble.warmup_rows(FEATURES))
            for _ in ensemble.cross(seen):
                pass
            begin = end
    return flagged, judged


def _batches(seed: int, events: int, warmup: int) -> Iterator[F64]:
    """Yield the rows of a stream; the first batch is the warm-up."""
    rng = np.random.default_rng(1_000 + seed)
    law = list(LAWS.values())[seed % len(LAWS)]
    sent = 0
    while sent < events:
        size = warmup if sent == 0 else min(BATCH, events - sent)
        yield law(rng, size)
        sent += size


if __name__ == "__main__":
    main()
