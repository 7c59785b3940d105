"""What each detector costs by itself: events per second, scored and learned, in this thread.

    python -m benchmarks.detectors [--features 10] [--events 40000]

Rows are Gaussian, 2 % of the values are missing, in batches of 1,000 as a busy model has them. Models are fitted before
the clock starts; the median batch of the second half counts. The last line is JSON.
"""

import argparse
import json
import time
from collections.abc import Mapping
from statistics import median

import numpy as np
from msgspec.structs import replace
from rich.console import Console

from worker.core.detectors.forest_fit import InlineRefits
from worker.core.detectors.protocol import Detector
from worker.core.detectors.registry import BUILDERS, Site, build
from worker.core.kernels.arrays import F64
from worker.core.options import EngineOptions, HalfSpaceOptions, NeighboursOptions

BATCH = 1_000
DEFAULTS = EngineOptions()
LOG = HalfSpaceOptions(trees=25, height=8, score="log")
VARIANTS: Mapping[str, tuple[str, EngineOptions]] = {
    **{name: (name, DEFAULTS) for name in BUILDERS},
    "half_space_trees, River 10 x 8": (
        "half_space_trees",
        replace(DEFAULTS, half_space=replace(LOG, trees=10, score="river")),
    ),
    "half_space_trees, log 25 x 8": ("half_space_trees", replace(DEFAULTS, half_space=LOG)),
    "half_space_trees, log 50 x 10": (
        "half_space_trees",
        replace(DEFAULTS, half_space=replace(LOG, trees=50, height=10, gate_quantile=0.95)),
    ),
    "nearest_neighbours, 256 rows": (
        "nearest_neighbours",
        replace(DEFAULTS, neighbours=replace(DEFAULTS.neighbours, rows_max=256)),
    ),
    "nearest_neighbours, 500 rows": (
        "nearest_neighbours",
        replace(DEFAULTS, neighbours=replace(NeighboursOptions(), rows_max=500)),
    ),
}
"""The defaults, and what else there is to choose."""


def rows_of(count: int, features: int) -> F64:
    """Return rows with some values missing."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(count, features))
    rows[rng.random(rows.shape) < 0.02] = np.nan
    return rows


def seconds_per_batch(detector: Detector, rows: F64, warmup: int) -> float:
    """Feed rows as a monitor does; return the median time of a whole batch, refits and takeovers not counted."""
    detector.fit(rows[:warmup])
    seen, times = 0, []
    while seen < len(rows):
        stop = min(len(rows), detector.barrier(), seen + BATCH)
        begun = time.perf_counter()
        detector.score_and_learn(rows[seen:stop])
        if stop - seen == BATCH and seen >= len(rows) // 2:
            times.append(time.perf_counter() - begun)
        seen = stop
        while detector.barrier() == seen:
            detector.cross()
    return median(times)


def main() -> None:
    """Print a table and the JSON line."""
    parser = argparse.ArgumentParser(description="What each detector costs by itself.")
    parser.add_argument("--features", type=int, default=10)
    parser.add_argument("--events", type=int, default=40_000)
    arguments = parser.parse_args()
    console = Console(stderr=True)
    rows = rows_of(arguments.events, arguments.features)
    figures = {}
    for variant, (name, options) in VARIANTS.items():
        (detector,) = build([name], Site(arguments.features, options, InlineRefits(), seed=1))
        seconds = seconds_per_batch(detector, rows, options.warmup_events)
        figures[variant] = round(BATCH / seconds)
        console.print(f"{variant:<34}{figures[variant]:>12,} events/s{seconds / BATCH * 1e6:>8.2f} µs")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
