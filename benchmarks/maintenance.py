"""What maintenance brings: a server that follows its advice, against the deployed model as it is (frozen).

    python -m benchmarks.maintenance                            streams that River and scikit-learn ship or generate
    python -m benchmarks.maintenance --streams FOLDER           those, and FOLDER/labelled_*.npz (X, y) before them
    python -m benchmarks.maintenance --streams FOLDER --only elec2,bike --late 5000

A model is trained on the first 15 % of a stream and serves the rest through the production engine, as shipped; labels
come `--late` events after their predictions. Accuracy, or R2 of numbers, over all that is served:

frozen        the model as it is
recalibrated  its outputs, put right by the coefficients of each `recalibration_ready` from then on
advised       whatever `advice_changed` says is best now; the model as it is goes on being published
promoted      a run of its own: each `challenger_ready` is deployed as a new version, and `rollback_advised` is followed

Gain: less frozen, with an interval of 95 % that stands autocorrelation (jackknife of ten groups of consecutive events).
Regained: gain / (promised - frozen), where promised is the accuracy or R2 of the same kind of model trained on the
first 80 % of the training time, on the last 20 % of it; not told where less than 0.01 was lost. The last line is JSON.
"""

import argparse
import json
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.labelled_streams import LabelledStream, folder_streams, shipped_streams, train
from benchmarks.served import FollowingServer, Served, Server, SwappingServer, serve
from worker.core.kernels.arrays import F64
from worker.core.maintenance.block_estimates import block_jackknife
from worker.core.maintenance.fitting import one_thread
from worker.core.options import EngineOptions
from worker.core.performance.intervals import Estimate

STRATEGIES = ("frozen", "recalibrated", "advised", "promoted")
SERVERS: Mapping[str, type[FollowingServer | SwappingServer]] = {
    "following": FollowingServer,
    "swapping": SwappingServer,
}
WINDOWS = 20
BLOCK_EVENTS = 100
LOST_MIN = 0.01
Z95 = 1.959963984540054
LEVELS = "▁▂▃▄▅▆▇█"
LABEL, LABEL2, FIRST_LOSS = 1, 2, 3
"""Columns of sums: events, labels, their squares, and a loss of each strategy."""
CONSOLE = Console(stderr=True, width=170)


class Run(NamedTuple):
    """One run of one server, and what the model had promised."""

    served: Served
    promised: float


class Figures(NamedTuple):
    """A strategy over all that was served."""

    value: float
    gain: Estimate
    regained: Estimate | None
    windows: list[float]


class Report(NamedTuple):
    """One stream."""

    stream: LabelledStream
    promised: float
    figures: Mapping[str, Figures]
    runs: Mapping[str, Served]
    after: Mapping[str, float] | None
    """From the first promotion on: events, frozen, promoted."""


def main() -> None:
    """Measure, show a table, and end with one line of JSON."""
    arguments = _arguments()
    streams = list(_streams(arguments.streams, arguments.only))
    reports = _reports(streams, arguments.late, arguments.processes)
    CONSOLE.print(_table(reports))
    gains = {each.stream.name: each.figures["advised"].value - each.figures["frozen"].value for each in reports}
    worst = min(gains, key=lambda name: gains[name])
    CONSOLE.print(f"labels {arguments.late} events late; worst of advised less frozen: {gains[worst]:+.4f} ({worst})")
    figures = {
        "late": arguments.late,
        "worst_advised_minus_frozen": round(gains[worst], 4),
        "worst_stream": worst,
        "advised_worse_for_sure": [
            each.stream.name for each in reports if (each.figures["advised"].gain.high or 0.0) < 0.0
        ],
        "streams": {each.stream.name: _facts(each) for each in reports},
    }
    print(json.dumps(figures))


def _reports(streams: list[LabelledStream], late: int, processes: int) -> list[Report]:
    """Let both servers run on each stream, the longest first, some at once."""
    runs: dict[tuple[str, str], Run] = {}
    with ProcessPoolExecutor(processes) as pool, Progress(console=CONSOLE) as progress:
        task = progress.add_task("runs", total=len(SERVERS) * len(streams))
        waiting: dict[Future[Run], tuple[str, str]] = {}
        for stream in sorted(streams, key=lambda each: -len(each.rows)):
            waiting |= {pool.submit(run, stream, name, late): (stream.name, name) for name in SERVERS}
        for done in as_completed(waiting):
            runs[waiting[done]] = done.result()
            progress.update(task, advance=1, description=" ".join(waiting[done]))
    return [report(each, {name: runs[each.name, name] for name in SERVERS}) for each in streams]


def run(stream: LabelledStream, server: str, late: int) -> Run:
    """Let one server run on one stream, with the options as they are shipped."""
    warnings.filterwarnings("ignore", category=UserWarning, module="sklearn")
    with one_thread():
        champion = train(stream)
    serving: Server = SERVERS[server](stream, champion)
    return Run(serve(stream, serving, late, EngineOptions()), champion.promised)


def report(stream: LabelledStream, runs: Mapping[str, Run]) -> Report:
    """Compare the strategies on one stream."""
    answers = {name: each for run_ in runs.values() for name, each in run_.served.answers.items()}
    served, promised = {name: each.served for name, each in runs.items()}, runs["following"].promised
    sums = _sums(stream, answers)
    figures = {name: _figures(sums, place, promised, bool(stream.classes)) for place, name in enumerate(STRATEGIES)}
    return Report(stream, promised, figures, served, _after(sums, served["swapping"], bool(stream.classes)))


def _sums(stream: LabelledStream, answers: Mapping[str, F64]) -> F64:
    """Return what accuracy and R2 are functions of, for each event (n x columns)."""
    truth = stream.targets[stream.trained :]
    losses = [
        (answers[name] != truth).astype(np.float64) if stream.classes else (answers[name] - truth) ** 2
        for name in STRATEGIES
    ]
    return np.column_stack([np.ones(len(truth)), truth, truth**2, *losses])


def _value(place: int, is_class: bool, sums: F64) -> float:  # noqa: FBT001 - two formulas, one signature
    """Return the accuracy, or R2 = 1 - sum of squared errors / sum of squares around the mean, of a strategy."""
    loss = float(sums[FIRST_LOSS + place])
    if is_class:
        return 1.0 - loss / float(sums[0])
    spread = float(sums[LABEL2] - sums[LABEL] ** 2 / sums[0])
    return 1.0 - loss / spread if spread > 0.0 else math.nan


def _figures(sums: F64, place: int, promised: float, is_class: bool) -> Figures:  # noqa: FBT001 - passed on to `_value`
    blocks = np.add.reduceat(sums, np.arange(0, len(sums), BLOCK_EVENTS))
    value, frozen = partial(_value, place, is_class), partial(_value, 0, is_class)

    def gain(total: F64) -> float:
        return value(total) - frozen(total)

    def regained(total: F64) -> float:
        return gain(total) / (promised - frozen(total))

    total = sums.sum(axis=0)
    lost = promised - frozen(total) >= LOST_MIN
    windows = [value(part.sum(axis=0)) for part in np.array_split(sums, WINDOWS)]
    regain = block_jackknife(blocks, regained, Z95) if lost else None
    return Figures(value(total), block_jackknife(blocks, gain, Z95), regain, windows)


def _after(sums: F64, swapping: Served, is_class: bool) -> dict[str, float] | None:  # noqa: FBT001 - as above
    """Return frozen and promoted from the first promotion on."""
    promotions = swapping.followed["promotion"]
    rest = sums[promotions[0][0] :].sum(axis=0) if promotions else np.zeros(1)
    if rest[0] == 0.0:
        return None
    places = {name: STRATEGIES.index(name) for name in ("frozen", "promoted")}
    found = {name: round(_value(place, is_class, rest), 4) for name, place in places.items()}
    return {"events": float(rest[0]), **found}


def _table(reports: list[Report]) -> Table:
    table = Table("stream", "strategy", "", "gain (95 %)", "regained (95 %)", f"{WINDOWS} windows", "followed")
    for each in reports:
        levels = [value for name in STRATEGIES for value in each.figures[name].windows if not math.isnan(value)]
        low, high = (max(min(levels), -1.0), max(*levels, -1.0)) if levels else (0.0, 1.0)
        followed = _followed(each)
        for name in STRATEGIES:
            found = each.figures[name]
            said = {"frozen": f"{each.stream.champion}, promised {each.promised:.3f}"}.get(name, followed.get(name, ""))
            title = {"frozen": each.stream.name, "recalibrated": f"{len(each.stream.rows) - each.stream.trained:,}"}
            is_first = name == "frozen"
            table.add_row(
                title.get(name, ""),
                name,
                f"{found.value:.4f}",
                "" if is_first else _interval(found.gain, "+.4f"),
                "" if is_first or found.regained is None else _interval(found.regained, ".2f"),
                _picture(found.windows, low, high),
                said,
                end_section=name == STRATEGIES[-1],
            )
    return table


def _interval(estimate: Estimate, form: str) -> str:
    value, low, high = estimate.value, estimate.low, estimate.high
    if value is None:
        return ""
    return f"{value:{form}}" + ("" if low is None or high is None else f" ({low:{form}}, {high:{form}})")


def _picture(windows: list[float], low: float, high: float) -> str:
    """Return one character for each window, from the lowest to the highest value of the stream."""
    places = [0.0 if math.isnan(value) else (max(value, low) - low) / max(high - low, 1e-9) for value in windows]
    return "".join(LEVELS[min(int(place * len(LEVELS)), len(LEVELS) - 1)] for place in places)


def _followed(each: Report) -> dict[str, str]:
    """Return in a few words what was followed, by strategy."""
    following, swapping = each.runs["following"].followed, each.runs["swapping"].followed
    advice = Counter(name for _, name in following["advice"])
    promotions = ", ".join(f"{name} at {number:,}" for number, name in swapping["promotion"])
    back = ", ".join(f"at {number:,}" for number, _ in swapping["rollback"])
    return {
        "recalibrated": f"{len(following['recalibration'])} sets of coefficients",
        "advised": f"{advice.total()} changes: " + ", ".join(f"{count} {name}" for name, count in advice.most_common()),
        "promoted": (promotions or "none") + (f"; back {back}" if back else ""),
    }


def _facts(each: Report) -> dict[str, Any]:
    """Return a report as JSON."""
    following, swapping = each.runs["following"], each.runs["swapping"]
    gains = {name: each.figures[name] for name in STRATEGIES[1:]}
    return {
        "metric": "accuracy" if each.stream.classes else "r2",
        "champion": each.stream.champion,
        "events": len(each.stream.rows) - each.stream.trained,
        "promised": round(each.promised, 4),
        **{name: round(each.figures[name].value, 4) for name in STRATEGIES},
        "gain": {name: _ends(found.gain) for name, found in gains.items()},
        "regained": {name: _ends(found.regained) for name, found in gains.items()},
        "after_promotion": each.after,
        "recalibrations": len(following.followed["recalibration"]),
        "advice": following.followed["advice"],
        "promotions": swapping.followed["promotion"],
        "rollbacks": swapping.followed["rollback"],
        "void": len(swapping.followed["void"]),
        "told": dict(following.told),
        "seconds": [round(following.seconds, 1), round(swapping.seconds, 1)],
        "windows": {name: [_rounded(value) for value in each.figures[name].windows] for name in STRATEGIES},
    }


def _ends(estimate: Estimate | None) -> list[float | None] | None:
    if estimate is None:
        return None
    return [None if value is None else round(value, 4) for value in (estimate.value, estimate.low, estimate.high)]


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 3)


def _streams(folder: Path | None, only: str) -> Iterator[LabelledStream]:
    wanted = set(filter(None, only.split(",")))
    for streams in (() if folder is None else folder_streams(folder), shipped_streams()):
        for stream in streams:
            if not wanted or stream.name in wanted:
                yield stream


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What following the advice of maintenance brings.")
    parser.add_argument("--streams", type=Path, help="folder with labelled_*.npz, beside the streams that are shipped")
    parser.add_argument("--late", type=int, default=500, help="events after which a label comes")
    parser.add_argument("--only", default="", help="names of streams, with commas between them")
    parser.add_argument("--processes", type=int, default=2, help="runs at once")
    return parser.parse_args()


if __name__ == "__main__":
    main()
