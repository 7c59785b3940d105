"""The promotion gate on seeded streams: how often it lets an equal challenger pass, and when it sees a better one.

    python -m benchmarks.promotion                                 200 streams of 20,000 labels of each kind
    python -m benchmarks.promotion --streams 40
    python -m benchmarks.promotion --labelled ../shared/quality    and models of real streams (labelled_*.npz: X, y)

The production `PromotionGate` tests two challengers at once, with the options as shipped. Drawn losses are 0 or 1: the
champion errs in 30 %, a challenger differs from it in so many labels, and is better by a mean that may wander (an
AR(1) process with that standard deviation). "Logistic" are probabilities of three models that know y by the same
feature, and each has another one that says nothing; their loss is Brier's, all features AR(0.99).
`false`: streams in which a challenger that is not better got ready. `known limit`: wandering of that kind cannot be
told from a gain. Of better ones: in how many streams the better challenger got ready, and after how many labels in the
median (never = infinite).

Real streams: three models of the same kind, one of them the champion at random. `refitted`: each every 1,000 labels on
its own random half of the latest 2,000, labels 500 late: equal by symmetry, at any time. `frozen`: each on a third of
the first rows (15 %, bike 20 %): equal before they are fitted only; such models part for good when the world moves on.
So `false` is of those that were worse after they got ready, and `ready` of all. The last line is JSON.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.signal import lfilter  # type: ignore[import-untyped] # ships no types
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from threadpoolctl import threadpool_limits

from worker.core.kernels.arrays import F64, I32
from worker.core.maintenance.gate import PromotionGate
from worker.core.options.maintenance import GateOptions

LABELS = 20_000
ERROR_SHARE = 0.3
DELAY = 500
REFIT_LABELS = 1_000
RECENT_ROWS = 2_000
REFITS_SHARE = 8
"""Of real streams with refits an eighth of the seeds: each is some 100 fits."""
AFTER_MIN = 500
"""Labels after which it can be said whether a model was better after it got ready."""

console = Console(stderr=True)


class Ready(NamedTuple):
    """Which challenger got ready first, and after how many labels."""

    challenger: int
    labels: int


class Drawn(NamedTuple):
    """A kind of challengers."""

    gain: float
    """Of the first one; of both, if it is not above 0."""
    differs: float = 0.2
    memory: float = 0.0
    """Of the AR(1) process around the gain, label to label."""
    amplitude: float = 0.0
    begins: int = 0
    """Labels before which there is no gain."""


FALSE = {
    "equal, differing in 5 %": Drawn(0.0, 0.05),
    "equal, differing in 20 %": Drawn(0.0),
    "equal, differing in 50 %": Drawn(0.0, 0.5),
    **{f"equal, AR({a}) of {s}": Drawn(0.0, memory=a, amplitude=s) for a in (0.9, 0.99) for s in (0.02, 0.04, 0.08)},
    "equal, AR(0.999) of 0.02": Drawn(0.0, memory=0.999, amplitude=0.02),
    "0.5 points worse": Drawn(-0.005),
    "1 point worse": Drawn(-0.01),
    "2 points worse": Drawn(-0.02),
    "0.5 points worse, AR(0.999) of 0.02": Drawn(-0.005, memory=0.999, amplitude=0.02),
    "1 point worse, AR(0.99) of 0.08": Drawn(-0.01, memory=0.99, amplitude=0.08),
}
LIMITS = {f"known limit: equal, AR(0.999) of {s}": Drawn(0.0, 0.3, memory=0.999, amplitude=s) for s in (0.04, 0.08)}
BETTER = {
    "1 point better": Drawn(0.01),
    "2 points better": Drawn(0.02),
    "5 points better": Drawn(0.05),
    "10 points better": Drawn(0.1),
    "5 points better, AR(0.99) of 0.08": Drawn(0.05, memory=0.99, amplitude=0.08),
    "5 points better after 8,000 equal labels": Drawn(0.05, begins=8_000),
    "10 points better after 8,000 equal labels": Drawn(0.1, begins=8_000),
}


# Losses, n x 3: of the champion and two challengers.


def wandering(rng: np.random.Generator, labels: int, memory: float, amplitude: float) -> F64:
    """Return a stationary AR(1) process."""
    steps = rng.normal(size=labels) * math.sqrt(1.0 - memory * memory)
    steps[0] = rng.normal()
    found: F64 = amplitude * lfilter([1.0], [1.0, -memory], steps)
    return found


def drawn_losses(kind: Drawn, rng: np.random.Generator) -> F64:
    """Draw 0/1 losses."""
    losses = np.empty((LABELS, 3))
    losses[:, 0] = rng.random(LABELS) < ERROR_SHARE
    for challenger in (0, 1):
        gain = np.zeros(LABELS) if challenger and kind.gain > 0.0 else np.full(LABELS, kind.gain)
        gain[: kind.begins] = 0.0
        gain += wandering(rng, LABELS, kind.memory, kind.amplitude)
        gain = np.clip(gain, -kind.differs, kind.differs)
        is_wrong = losses[:, 0] > 0.0
        chance = np.where(
            is_wrong, (kind.differs + gain) / (2.0 * ERROR_SHARE), (kind.differs - gain) / (2.0 - 2.0 * ERROR_SHARE)
        )
        losses[:, 1 + challenger] = (rng.random(LABELS) < chance) != is_wrong
    return losses


def logistic_losses(rng: np.random.Generator) -> F64:
    """Draw features and targets, and return the Brier losses of three models."""
    features = np.column_stack([wandering(rng, LABELS, 0.99, 1.0) for _ in range(4)])
    known = 2.0 * features[:, :1]
    targets = rng.random(LABELS) < 1.0 / (1.0 + np.exp(-known[:, 0]))
    found: F64 = (1.0 / (1.0 + np.exp(-known - features[:, 1:])) - targets[:, np.newaxis]) ** 2
    return found


# Real streams.


class Labelled(NamedTuple):
    """A stream with labels in the order of time."""

    name: str
    rows: F64
    targets: F64
    first: int
    """Rows before the stream begins."""

    @property
    def is_numeric(self) -> bool:
        """Whether the target is a number; there are no streams of more than two classes."""
        return len(np.unique(self.targets)) > 2


def labelled_streams(folder: Path) -> Iterator[Labelled]:
    """Read labelled_*.npz; the first column of elec2 is a running date."""
    for path in sorted(folder.glob("labelled_*.npz")):
        name = path.stem.removeprefix("labelled_")
        with np.load(path) as file:
            rows, targets = file["X"].astype(np.float64), file["y"].astype(np.float64)
        rows = rows[:, 1:] if name == "elec2" else rows
        first = int(len(rows) * (0.2 if name == "bike" else 0.15))
        middle, spread = np.nanmedian(rows[:first], axis=0), np.nanstd(rows[:first], axis=0)
        rows = (np.where(np.isnan(rows), middle, rows) - middle) / np.where(spread > 0.0, spread, 1.0)
        yield Labelled(name, rows, targets, first)


def fitted(is_linear: bool, is_numeric: bool, rows: F64, targets: F64) -> Callable[[F64], F64]:  # noqa: FBT001 (a table of four)
    """Fit a model; return what predicts."""
    model: Any
    if is_linear:
        model = Ridge() if is_numeric else LogisticRegression(C=0.3, tol=1e-3)
    else:
        kind = HistGradientBoostingRegressor if is_numeric else HistGradientBoostingClassifier
        model = kind(max_iter=25, max_leaf_nodes=8, learning_rate=0.2, max_bins=63, early_stopping=False)
    predict: Callable[[F64], F64] = model.fit(rows, targets).predict
    return predict


def real_losses(stream: Labelled, rng: np.random.Generator, *, is_linear: bool, is_refitted: bool) -> F64:
    """Fit three models on random rows; return their losses, of 20,000 labels at most."""
    first, end = stream.first, min(stream.first + LABELS, len(stream.rows))
    outputs = np.empty((end - first, 3))
    step = REFIT_LABELS if is_refitted else end - first
    parts = np.array_split(rng.permutation(first), 3)
    for begin in range(first, end, step):
        known = first if begin == first else begin - DELAY
        for model in range(3):
            chosen = parts[model]
            if is_refitted:
                recent = min(RECENT_ROWS, known)
                chosen = known - recent + rng.permutation(recent)[: recent // 2]
            predict = fitted(is_linear, stream.is_numeric, stream.rows[chosen], stream.targets[chosen])
            outputs[begin - first : begin - first + step, model] = predict(stream.rows[begin : min(begin + step, end)])
    targets = stream.targets[first:end, np.newaxis]
    if not stream.is_numeric:
        errors: F64 = (outputs != targets).astype(np.float64)
        return errors
    squares: F64 = (outputs - targets) ** 2
    clipped: F64 = np.minimum(squares / (4.0 * np.quantile(squares[:DELAY, 0], 0.9)), 1.0)
    return clipped


# What the gate makes of them.


def first_ready(losses: F64) -> Ready | None:
    """Send losses through a gate; return the first challenger that gets ready."""
    gate = PromotionGate(2, 0, 1.0, GateOptions())
    places: I32 = np.zeros((len(losses), 0), dtype=np.int32)
    row = 0
    while (row := gate.take(losses, places, row)) < len(losses):
        row += 1
        ready = [each for each in range(2) if gate.status(each) == "ready"]
        if ready:
            return Ready(ready[0], row)
    return None


def was_better(losses: F64, ready: Ready) -> bool:
    """Return whether a challenger was better after it got ready; so few labels that nobody knows count as yes."""
    after = losses[ready.labels :]
    return len(after) < AFTER_MIN or bool(after[:, 0].mean() > after[:, 1 + ready.challenger].mean())


def false_of(found: list[Ready | None]) -> dict[str, float]:
    """Return the share of streams with a false promotion."""
    return {"streams": len(found), "false": sum(each is not None for each in found) / len(found)}


def better_of(found: list[Ready | None]) -> dict[str, float | None]:
    """Return in how many streams the first challenger, the better one, got ready, and when."""
    labels = [each.labels if each is not None and each.challenger == 0 else math.inf for each in found]
    middle = median(labels)
    share = sum(each < math.inf for each in labels) / len(labels)
    return {"streams": len(found), "ready": share, "labels": middle if middle < math.inf else None}


def drawn_results(streams: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run all kinds of drawn streams; the seeds are of the kind and the stream."""
    kinds = {**FALSE, **LIMITS, **BETTER}
    for place, (name, kind) in enumerate(track(kinds.items(), "drawn", len(kinds), console=console)):
        found = [first_ready(drawn_losses(kind, np.random.default_rng([9, place, seed]))) for seed in range(streams)]
        yield name, better_of(found) if kind.gain > 0.0 else false_of(found)
    found = [first_ready(logistic_losses(np.random.default_rng([9, 99, seed]))) for seed in range(streams)]
    yield "equal, logistic", false_of(found)


def real_results(folder: Path, streams: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run models of real streams."""
    for stream in labelled_streams(folder):
        for is_linear, kind in ((True, "linear"), (False, "boosted")):
            for is_refitted in (True, False):
                name = f"{stream.name}, {kind}, {'refitted' if is_refitted else 'frozen'}"
                seeds = range(max(streams // REFITS_SHARE, 1) if is_refitted else streams)
                ready = wrong = 0
                for seed in track(seeds, name, console=console):
                    rng = np.random.default_rng([10, seed])
                    losses = real_losses(stream, rng, is_linear=is_linear, is_refitted=is_refitted)
                    found = first_ready(losses)
                    ready += found is not None
                    wrong += found is not None and (is_refitted or not was_better(losses, found))
                count = len(seeds)
                yield name, {"streams": count, "false": wrong / count, "ready": ready / count}


def main() -> None:
    """Run the streams, show a table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description="False promotions, and how soon a better challenger is seen.")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--labelled", type=Path, help="a folder of labelled_*.npz")
    arguments = parser.parse_args()
    results = dict(drawn_results(arguments.streams))
    if arguments.labelled is not None:
        with threadpool_limits(1):
            results |= dict(real_results(arguments.labelled, arguments.streams))
    table = Table("challengers", "streams", "false", "ready", "labels, median")
    for name, found in results.items():
        shares = ("" if name not in found else f"{found[name]:.1%}" for name in ("false", "ready"))
        labels = found.get("labels", 0)
        shown = "never" if labels is None else f"{labels:,.0f}" if labels else ""
        table.add_row(name, str(found["streams"]), *shares, shown)
    console.print(table)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
