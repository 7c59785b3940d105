"""How well the production engine finds anomalies: ROC AUC, average precision, flagged share, speed; by stream.

    python -m benchmarks.quality                              on streams that the dependencies ship
    python -m benchmarks.quality --streams FOLDER             on FOLDER/*.npz (X: rows x features, y: 1 = anomaly)
    python -m benchmarks.quality --only satimage2,smtp
    python -m benchmarks.quality --orders 3 --quick           means over the given order of the rows and two others
    python -m benchmarks.quality --set forest.trees=100       with another setting; may be repeated

Events go through decoding, columns, detectors and the topic `scores` as in a worker. One pass, score then learn, no
labels; the first 500 events are not counted (shared protocol); an event without a score counts as the least anomalous.
The last line is JSON with `mean_auc` and `mean_ap` of the verdict.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.engine_run import detectors_only, encoded, run_engine, score_columns, score_events, stored_streams
from benchmarks.shipped_streams import shipped_streams
from worker.core.events import RawBatch
from worker.core.kernels.arrays import F64, I64
from worker.core.options import EngineOptions
from worker.settings import load_settings

NOT_COUNTED = 500
CONSOLE = Console(stderr=True)


class Stream(NamedTuple):
    """Rows (n x d) and which of them are anomalies (n)."""

    name: str
    rows: F64
    anomalies: I64


class Result(NamedTuple):
    """Quality of one scorer on one stream."""

    auc: float
    ap: float


class Report(NamedTuple):
    """One stream: quality of each detector and of the verdict, and what the whole cost."""

    stream: Stream
    results: Mapping[str, Result]
    flagged_share: float
    events_per_second: Mapping[str, float]


def main() -> None:
    """Measure, show a table, and end with one line of JSON."""
    arguments = _arguments()
    settings = (
        (f"engine.{name}", json.loads(value)) for name, _, value in (each.partition("=") for each in arguments.set)
    )
    options = load_settings(None, {}, dict(settings)).engine
    streams = list(_streams(arguments.streams, arguments.only))
    orders = [_shuffled(stream, seed) for seed in range(1, arguments.orders) for stream in streams]
    tracked = track([*streams, *orders], "streams", console=CONSOLE)
    found = [report(stream, options, speed=not arguments.quick) for stream in tracked]
    reports = [_mean(found[place :: len(streams)]) for place in range(len(streams))]
    for detector in reports[0].results:
        CONSOLE.print(_table(detector, reports))
    verdicts = [each.results["verdict"] for each in reports]
    figures = {
        "mean_auc": round(float(np.mean([each.auc for each in verdicts])), 4),
        "mean_ap": round(float(np.mean([each.ap for each in verdicts])), 4),
        "detectors": {
            name: {
                "mean_auc": round(float(np.mean([each.results[name].auc for each in reports])), 4),
                "mean_ap": round(float(np.mean([each.results[name].ap for each in reports])), 4),
            }
            for name in reports[0].results
        },
        "streams": {
            each.stream.name: {
                "auc": round(each.results["verdict"].auc, 4),
                "ap": round(each.results["verdict"].ap, 4),
                "flagged_share": round(each.flagged_share, 5),
                "events_per_second": {name: round(pace) for name, pace in each.events_per_second.items()},
            }
            for each in reports
        },
    }
    print(json.dumps(figures))


def report(stream: Stream, options: EngineOptions, *, speed: bool = True) -> Report:
    """Run one stream through the engine."""
    options = detectors_only(replace(options, scores="all"))
    batches = encoded(stream.name, stream.rows)
    outputs, _ = run_engine(options, batches)
    told = score_events(outputs)
    scores = score_columns(told, len(stream.rows), options.detectors)
    counted = slice(NOT_COUNTED, None)
    truth = stream.anomalies[counted]
    results = {
        name: Result(
            float(roc_auc_score(truth, column[counted])), float(average_precision_score(truth, column[counted]))
        )
        for name, column in scores.items()
    }
    flagged = sum(each.flagged for each in told) / max(sum(each.p_value is not None for each in told), 1)
    return Report(stream, results, flagged, _pace(batches, options) if speed else {})


def _shuffled(stream: Stream, seed: int) -> Stream:
    order = np.random.default_rng(seed).permutation(len(stream.rows))
    return Stream(stream.name, stream.rows[order], stream.anomalies[order])


def _mean(orders: Sequence[Report]) -> Report:
    """Return the first report, with the means over all orders of the same rows."""
    names = orders[0].results
    results = {
        name: Result(*(float(np.mean(each)) for each in zip(*(order.results[name] for order in orders), strict=True)))
        for name in names
    }
    flagged = float(np.mean([order.flagged_share for order in orders]))
    return orders[0]._replace(results=results, flagged_share=flagged)


def _pace(batches: list[RawBatch], options: EngineOptions) -> dict[str, float]:
    """Return the events per second of the engine with one detector, and with all of them."""
    events = sum(len(batch.offsets) for batch in batches)
    found = {}
    alone = [(name, (name,)) for name in options.detectors]
    for name, names in [*alone, ("verdict", options.detectors)]:
        _, seconds = run_engine(detectors_only(replace(options, detectors=names, scores="off")), batches)
        found[name] = events / seconds
    return found


def _streams(folder: Path | None, only: str) -> Iterator[Stream]:
    wanted = set(filter(None, only.split(",")))
    for stream in shipped_streams() if folder is None else stored_streams(folder):
        if not wanted or stream[0] in wanted:
            yield Stream(*stream)


def _table(scorer: str, reports: list[Report]) -> Table:
    table = Table("stream", "events", "anomalies", "ROC AUC", "AP", "flagged", "events/s", title=scorer)
    for each in reports:
        auc, ap = each.results[scorer]
        pace = each.events_per_second.get(scorer)
        table.add_row(
            each.stream.name,
            f"{len(each.stream.rows):,}",
            f"{each.stream.anomalies.mean():.2%}",
            f"{auc:.4f}",
            f"{ap:.4f}",
            f"{each.flagged_share:.2%}" if scorer == "verdict" else "",
            "" if pace is None else f"{pace:,.0f}",
        )
    return table


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Detection quality of the production engine.")
    parser.add_argument("--streams", type=Path, help="folder with *.npz; without it, streams that dependencies ship")
    parser.add_argument("--only", default="", help="names of streams, with commas between them")
    parser.add_argument("--quick", action="store_true", help="do not measure speed")
    parser.add_argument("--orders", type=int, default=1, help="orders of the rows: the given one, and shuffled ones")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="another setting of `[engine]`, as JSON"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
