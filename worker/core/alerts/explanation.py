"""Why an event was flagged: what each feature was, what is usual, and what it adds to the anomaly.

The parts are Shapley values (shapley.py): those of the fused score, and those of each detector's own score. They are
against one baseline, the event with its features at their usual values (the medians of the reservoir). A feature
that is missing in the event stays missing, and one that usually has no value has none in the baseline. All parts
together are score(event) - score(baseline), exactly but for rounding; what is not told completes the sum.

It costs one batch of at most `shapley.ROWS_MAX` rows on each detector, and only when an alert is told.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from worker.core.alerts.shapley import trials
from worker.core.columns import Column, Kind
from worker.core.events import FeatureEvidence
from worker.core.kernels.arrays import F64, I64
from worker.core.statistics.bands import Usual

_FAR = 1e6
"""Distance, in widths of the band, of what lies farther away, or of any change where the band has no width."""


class Explainer(NamedTuple):
    """What explanations are made with: the feature columns (d), their usual band, and the scores to be explained."""

    columns: list[Column]
    usual: Usual
    scorers: Mapping[str, Callable[[F64], F64]]
    """Each detector's own score of rows (n x d), learning nothing; NaN = none, then the detector is left out."""
    fused: Callable[[F64], F64]
    """The fused score (n) of scores (k x n) of the detectors in that order; NaN = none."""


class Parts(NamedTuple):
    """What each feature adds (d) to the fused score, and to the score of each detector that had one."""

    fused: F64
    detectors: Mapping[str, F64]


def explain(explainer: Explainer, cells: F64, row: F64, seed: int, features_max: int) -> list[FeatureEvidence]:
    """Explain one event (d cells, and d values as detectors see them), largest contribution first.

    Features that add nothing are left out. Those that make the event more usual come last, where there is room.
    """
    parts = contributions(explainer, row, seed)
    return [
        _evidence(explainer, parts, float(cells[place]), int(place))
        for place in largest(parts.fused, features_max)
        if parts.fused[place] != 0.0
    ]


def contributions(explainer: Explainer, row: F64, seed: int) -> Parts:
    """Return what each feature of one event (d, NaN = missing) adds; distances from the band before there are scores.

    The seed chooses the orders in which features are put back to usual, where there are too many for all orders.
    """
    usual = explainer.usual
    far = _distances(row, usual)
    chosen = trials(far, seed)
    rows = chosen.rows(row, np.where(far > 0.0, usual.median, row))
    scores = np.full((len(explainer.scorers), len(rows)), np.nan)
    for place, scorer in enumerate(explainer.scorers.values()):
        scores[place] = scorer(rows)
    has_score = np.isfinite(scores).all(axis=1)
    scores[~has_score] = np.nan
    fused = explainer.fused(scores) if has_score.any() else np.full(len(rows), np.nan)
    if not np.isfinite(fused).all():
        return Parts(_band_distances(row, usual), {})
    names = [name for name, is_scored in zip(explainer.scorers, has_score.tolist(), strict=True) if is_scored]
    parts = chosen.parts(np.vstack([fused, scores[has_score]]))
    return Parts(parts[0], dict(zip(names, parts[1:], strict=True)))


def largest(values: F64, count: int) -> I64:
    """Return the places of the largest values, largest first; ties in column order."""
    return np.argsort(-values, kind="stable")[:count]


def _distances(row: F64, usual: Usual) -> F64:
    """How far each value (d) is from its median, in widths of the band; 0 where it is equal or missing."""
    changed = ~np.isnan(row) & (row != usual.median)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        far = np.abs(row - usual.median) / (usual.high - usual.low)
    # A value where there is usually none is NaN here: as far as can be.
    far = np.clip(np.nan_to_num(far, nan=_FAR, posinf=_FAR), np.finfo(np.float64).tiny, _FAR)
    return np.where(changed, far, 0.0)


def _band_distances(row: F64, usual: Usual) -> F64:
    """Before there is a detector to ask: how far outside of its band each value lies, in widths of the band."""
    with np.errstate(over="ignore"):
        width = np.maximum(usual.high - usual.low, np.finfo(np.float64).tiny)
        beyond = np.maximum(np.maximum(usual.low - row, row - usual.high), 0.0)
        return np.nan_to_num(beyond / width, nan=0.0, posinf=np.finfo(np.float64).max)


def _evidence(explainer: Explainer, parts: Parts, cell: float, place: int) -> FeatureEvidence:
    column, usual = explainer.columns[place], explainer.usual
    return FeatureEvidence(
        name=column.name,
        observed=_observed(column, cell),
        expected=_expected(column, usual.median[place]),
        expected_low=_expected(column, usual.low[place]),
        expected_high=_expected(column, usual.high[place]),
        contribution=float(parts.fused[place]),
        contributions={name: float(added[place]) for name, added in parts.detectors.items()},
    )


def _observed(column: Column, cell: float) -> float | bool | str | None:
    if np.isnan(cell):
        return None
    if column.kind is Kind.BOOLEAN:
        return bool(cell)
    if column.kind in {Kind.NUMERIC, Kind.TEXT}:
        return cell
    return next((name for name, code in column.codes.items() if code == int(cell)), "(other)")


def _expected(column: Column, value: float) -> float | None:
    """Bands are told for numbers only: for a category the detectors see how rare it is, not what it is."""
    return None if column.kind is Kind.CATEGORICAL or np.isnan(value) else float(value)
