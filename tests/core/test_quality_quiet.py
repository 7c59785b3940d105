"""Streams without a fault, of every sort of feature, cause no alert of data quality."""

import numpy as np
import pytest

from worker.core.arrivals import PredictionEvents
from worker.core.columns import ColumnTable, Kind, StoredColumn
from worker.core.kernels.arrays import F64
from worker.core.options import EngineOptions
from worker.core.quality.watch import QualityWatch
from worker.core.seen import Seen
from worker.core.telling import Owner, Told

_EVENTS = 20_000
_NOTHING = np.zeros((0, 2), dtype=np.int64)


def _feed(kinds: list[Kind], cells: F64, gaps_ms: F64) -> list[Told]:
    """Feed cells (n x columns) whose events come after these gaps; return what was told."""
    names = ["prediction", *(f"f{place}" for place in range(1, len(kinds)))]
    categories = [f"c{code}" for code in range(1, 65)]
    table = ColumnTable(features_max=100, categories_max=64)
    table.restore(
        [
            StoredColumn(name, kind, categories if kind is Kind.CATEGORICAL else [])
            for name, kind in zip(names, kinds, strict=True)
        ],
        frozen=True,
    )
    watch = QualityWatch(Owner("m", 0, "predictions"), table, EngineOptions())
    watch.begin()
    times = 1_767_225_600_000 + np.cumsum(gaps_ms).astype(np.int64)
    return watch.process(
        Seen(
            0,
            PredictionEvents.of(()),
            np.arange(len(cells)),
            times,
            np.maximum.accumulate(times),
            cells,
            _NOTHING,
            None,
        )
    )


def _codes(labels: F64) -> F64:
    """Codes in the order of appearance; 0 beyond 64."""
    first = {label: place for place, label in enumerate(dict.fromkeys(labels.tolist()), start=1)}
    return np.array([first[label] if first[label] <= 64 else 0 for label in labels.tolist()], dtype=np.float64)


def _independent(rng: np.random.Generator) -> tuple[list[Kind], F64]:
    """Independent events: heavy tails, zeros, rare flags, categories that never end, counters."""
    n = _EVENTS
    share = rng.random(n)
    cells: list[tuple[Kind, F64]] = [
        (Kind.NUMERIC, rng.random(n)),
        (Kind.NUMERIC, rng.lognormal(0, 2, n)),
        (Kind.NUMERIC, rng.standard_cauchy(n)),
        (Kind.NUMERIC, rng.pareto(1.1, n)),
        (Kind.NUMERIC, np.where(share < 0.9, 0.0, rng.lognormal(0, 1, n))),
        (Kind.NUMERIC, np.where(share < 0.99, 0.0, rng.lognormal(2, 2, n))),
        (Kind.NUMERIC, np.where(share < 0.97, rng.normal(size=n), 1000.0)),
        (Kind.NUMERIC, rng.poisson(0.1, n).astype(np.float64)),
        (Kind.NUMERIC, np.cumsum(rng.integers(1, 5, n)).astype(np.float64)),
        (Kind.NUMERIC, np.where(share < 0.99, np.nan, rng.random(n))),
        (Kind.NUMERIC, np.where(share < 0.5, np.nan, rng.standard_t(1.5, n))),
        (Kind.NUMERIC, np.full(n, np.nan)),
        (Kind.NUMERIC, np.full(n, 7.0)),
        (Kind.BOOLEAN, (share < 0.001).astype(np.float64)),
        (Kind.CATEGORICAL, _codes(rng.zipf(1.5, n).astype(np.float64))),
        (Kind.CATEGORICAL, _codes(rng.zipf(2.5, n).astype(np.float64))),
        (Kind.CATEGORICAL, _codes(rng.integers(0, 1_000, n).astype(np.float64))),
    ]
    return [kind for kind, _ in cells], np.column_stack([values for _, values in cells])


def _dependent(rng: np.random.Generator) -> tuple[list[Kind], F64]:
    """Events that hang together: sessions, random walks, seasons, bursts of missing values, sticky states."""
    n = _EVENTS
    t = np.arange(n)

    def sticky(mean: float) -> F64:
        return np.repeat(rng.random(n), rng.geometric(1.0 / mean, n))[:n]

    cells: list[tuple[Kind, F64]] = [
        (Kind.NUMERIC, sticky(10.0)),
        (Kind.NUMERIC, np.cumsum(rng.normal(size=n))),
        (Kind.NUMERIC, 20.0 + 10.0 * np.sin(t / 3_000.0) + rng.normal(size=n)),
        (Kind.NUMERIC, np.floor(t / 1_000.0)),
        (Kind.NUMERIC, np.where(sticky(20.0) < 0.2, np.nan, rng.normal(size=n))),
        (Kind.NUMERIC, np.exp(6.0 * sticky(10.0))),
        (Kind.BOOLEAN, (sticky(30.0) < 0.3).astype(np.float64)),
        (Kind.CATEGORICAL, _codes(np.floor(300.0 * sticky(20.0)))),
    ]
    return [kind for kind, _ in cells], np.column_stack([values for _, values in cells])


@pytest.mark.parametrize("seed", range(6))
def test_independent_events_of_any_sort_are_quiet(seed: int) -> None:
    """Heavy tails, zeros, rare flags and open sets of categories are told by nobody."""
    rng = np.random.default_rng(seed)
    assert _feed(*_independent(rng), rng.exponential(20.0, _EVENTS)) == []


@pytest.mark.parametrize("seed", range(6))
def test_events_that_hang_together_are_quiet(seed: int) -> None:
    """Sessions, walks, seasons, bursts and bulk producers are how a stream is, not faults."""
    rng = np.random.default_rng(seed)
    bulk = np.where(rng.random(_EVENTS) < 0.03, rng.exponential(1_000.0, _EVENTS), 0.0)
    assert _feed(*_dependent(rng), bulk) == []
