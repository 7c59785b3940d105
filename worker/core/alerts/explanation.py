"""Why an event was flagged: what each feature was, what is usual, and what it adds to the anomaly.

One feature at a time is put back to its usual value (the median of the reservoir), all others kept, and the event is
scored again: the drop is the feature's contribution (occlusion: Robnik-Šikonja & Kononenko 2008, with one baseline).
The contributions are not additive. It costs one batch of d + 1 rows on a detector, and only when an alert is told.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from worker.core.columns import Column, Kind
from worker.core.events import FeatureEvidence
from worker.core.kernels.arrays import F64, I64
from worker.core.statistics.bands import Usual


class Explainer(NamedTuple):
    """What explanations are made with: the feature columns (d), their usual band, and a detector's score if any."""

    columns: list[Column]
    usual: Usual
    score: Callable[[F64], F64] | None


def explain(explainer: Explainer, cells: F64, row: F64, features_max: int) -> list[FeatureEvidence]:
    """Explain one event (d cells, and d values as detectors see them), largest contribution first."""
    parts = contributions(row, explainer.usual, explainer.score)
    return [
        _evidence(explainer.columns[place], float(cells[place]), explainer.usual, int(place), float(parts[place]))
        for place in largest(parts, features_max)
        if parts[place] > 0.0
    ]


def contributions(row: F64, usual: Usual, score: Callable[[F64], F64] | None) -> F64:
    """Return the contribution of each feature (d) of one event (d, NaN = missing)."""
    if score is None:
        return _band_distances(row, usual)
    trials = np.repeat(row[np.newaxis], len(row) + 1, axis=0)
    trials[np.arange(len(row)), np.arange(len(row))] = usual.median
    scores = score(trials)
    drops: F64 = scores[-1] - scores[:-1]  # the last copy was left as it is
    return drops


def largest(values: F64, count: int) -> I64:
    """Return the places of the largest values, largest first; ties in column order."""
    return np.argsort(-values, kind="stable")[:count]


def _band_distances(row: F64, usual: Usual) -> F64:
    """Before there is a detector to ask: how far outside of its band each value lies, in widths of the band."""
    with np.errstate(over="ignore"):
        width = np.maximum(usual.high - usual.low, np.finfo(np.float64).tiny)
        beyond = np.maximum(np.maximum(usual.low - row, row - usual.high), 0.0)
        return np.nan_to_num(beyond / width, nan=0.0, posinf=np.finfo(np.float64).max)


def _evidence(column: Column, cell: float, usual: Usual, place: int, contribution: float) -> FeatureEvidence:
    return FeatureEvidence(
        name=column.name,
        observed=_observed(column, cell),
        expected=_expected(column, usual.median[place]),
        expected_low=_expected(column, usual.low[place]),
        expected_high=_expected(column, usual.high[place]),
        contribution=contribution,
    )


def _observed(column: Column, cell: float) -> float | bool | str | None:
    if np.isnan(cell):
        return None
    if column.kind is Kind.BOOLEAN:
        return bool(cell)
    if column.kind is Kind.NUMERIC:
        return cell
    return next((name for name, code in column.codes.items() if code == int(cell)), "(other)")


def _expected(column: Column, value: float) -> float | None:
    """Bands are told for numbers only: for a category the detectors see how rare it is, not what it is."""
    return None if column.kind is Kind.CATEGORICAL or np.isnan(value) else float(value)
