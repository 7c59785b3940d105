"""Memory: anomalies that come in long bursts, and a normal that changes for good.

    python -m benchmarks.regimes --streams FOLDER     from *.npz (X, y) in a folder; without it, from shipped streams

Bursts: the anomalies of a stream come in blocks of 1,000 to 2,000 consecutive events, 5 % of all; ROC AUC of the
verdict against the same events shuffled (aim: at least 0.95 of it). Regimes: half way, another stream's normal rows
come for good; flagged share once `regime_events` have passed (aim: at most twice `alert_rate`). The last line is JSON.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score

from benchmarks.engine_run import detectors_only, encoded, run_engine, score_columns, score_events, stored_streams
from benchmarks.shipped_streams import shipped_streams
from worker.core.kernels.arrays import F64, I64
from worker.core.options import EngineOptions

EVENTS = 60_000
BURST_SHARE = 0.05
BURSTS = (1_000, 2_000)
NOT_COUNTED = 500
ALERT_RATE = 0.01
JITTER = 0.01
CONSOLE = Console(stderr=True)


class Pool(NamedTuple):
    """Normal rows and anomalies of one stream."""

    name: str
    normal: F64
    anomalies: F64


def main() -> None:
    """Measure, show tables, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description="Bursts of anomalies, and regimes.")
    parser.add_argument("--streams", type=Path, help="folder with *.npz; without it, streams that dependencies ship")
    folder = parser.parse_args().streams
    found = shipped_streams() if folder is None else stored_streams(folder)
    pools = [Pool(name, rows[y == 0], rows[y == 1]) for name, rows, y in found]
    bursts = {pool.name: _burst(pool) for pool in pools}
    regimes = {f"{a.name} to {b.name}": _regime(a, b) for a, b in _pairs(pools)}
    _show(bursts, regimes)
    print(json.dumps({"bursts": bursts, "regimes": regimes}))


def _burst(pool: Pool) -> dict[str, float]:
    rng = np.random.default_rng(11)
    is_anomaly = np.zeros(EVENTS, dtype=np.int64)
    begin = 6_000
    while is_anomaly.sum() < BURST_SHARE * EVENTS:
        length = int(min(rng.integers(*BURSTS, endpoint=True), BURST_SHARE * EVENTS - is_anomaly.sum()))
        is_anomaly[begin : begin + max(length, BURSTS[0])] = 1
        begin += int(rng.integers(12_000, 20_000))
    rows = np.where(is_anomaly[:, np.newaxis] == 1, _drawn(pool.anomalies, rng), _drawn(pool.normal, rng))
    order = rng.permutation(EVENTS)
    in_bursts, shuffled = _auc(pool.name, rows, is_anomaly), _auc(pool.name, rows[order], is_anomaly[order])
    return {"auc": round(in_bursts, 4), "shuffled": round(shuffled, 4), "ratio": round(in_bursts / shuffled, 4)}


def _auc(name: str, rows: F64, is_anomaly: I64) -> float:
    outputs, _ = run_engine(detectors_only(EngineOptions(scores="all")), encoded(name, rows))
    verdicts = score_columns(score_events(outputs), len(rows), EngineOptions().detectors)["verdict"]
    return float(roc_auc_score(is_anomaly[NOT_COUNTED:], verdicts[NOT_COUNTED:]))


def _drawn(rows: F64, rng: np.random.Generator, events: int = EVENTS) -> F64:
    """Draw rows with replacement, a little moved so that no two are equal."""
    noise = rng.normal(size=(events, rows.shape[1])) * rows.std(axis=0) * JITTER
    drawn: F64 = rows[rng.integers(len(rows), size=events)] + noise
    return drawn


def _pairs(pools: Sequence[Pool]) -> list[tuple[Pool, Pool]]:
    """Pair streams of equally many features; and each stream with itself, every feature moved by three deviations."""
    moved = [
        (pool, Pool(f"{pool.name} + 3 deviations", pool.normal + 3.0 * pool.normal.std(axis=0), pool.anomalies))
        for pool in pools
    ]
    others = [
        (a, b) for place, a in enumerate(pools) for b in pools[place + 1 :] if a.normal.shape[1] == b.normal.shape[1]
    ]
    return others + moved


def _regime(before: Pool, after: Pool) -> dict[str, float]:
    rng = np.random.default_rng(12)
    half = EVENTS // 2
    rows = np.concatenate([_drawn(before.normal, rng, half), _drawn(after.normal, rng, half)])
    options = detectors_only(EngineOptions(scores="flagged", alert_rate=ALERT_RATE))
    outputs, _ = run_engine(options, encoded("regime", rows))
    flagged = np.zeros(EVENTS)
    flagged[[each.offset for each in score_events(outputs)]] = 1.0
    regime = options.calibration.regime_events
    return {
        "before": round(float(flagged[5_000:half].mean()), 4),
        "during": round(float(flagged[half : half + regime].mean()), 4),
        "after": round(float(flagged[half + regime :].mean()), 4),
    }


def _show(bursts: dict[str, dict[str, float]], regimes: dict[str, dict[str, float]]) -> None:
    table = Table("anomalies in bursts", "ROC AUC", "shuffled", "ratio")
    for name, each in bursts.items():
        table.add_row(name, *(f"{value:.4f}" for value in each.values()))
    CONSOLE.print(table)
    table = Table(f"flagged share at alert_rate {ALERT_RATE:.0%}", "before", "regime_events", "after")
    for name, each in regimes.items():
        table.add_row(name, *(f"{value:.2%}" for value in each.values()))
    CONSOLE.print(table)


if __name__ == "__main__":
    main()
