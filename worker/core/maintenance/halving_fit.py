"""Searches options of boosted challengers by successive halving, judged on rows that are newer than those of the fits.

A search is a pure function of its request. Nothing that scores events imports this: it loads scikit-learn.
"""

import math

import numpy as np

from worker.core.kernels.arrays import F64
from worker.core.maintenance.boosted_arrays import NODES_MAX
from worker.core.maintenance.boosted_fit import fit_boosted
from worker.core.maintenance.challengers import LabelledRows
from worker.core.maintenance.halving import (
    CANDIDATES_MAX,
    ERRORS_MIN,
    ROWS_MIN,
    RUNGS_MAX,
    HalvingOutcome,
    HalvingRequest,
    Trial,
)
from worker.core.options.maintenance import BoostedOptions
from worker.core.state import refuse_if

_KEPT = 2
"""Of so many candidates one gets on to the next rung, with so many times the rows: eta."""
_JUDGED_SHARE = 4
"""One row in so many judges."""
_RUNG_ROWS_MIN = 200
_TREES_MAX = 6_000
"""Of all candidates on the first rung: a search of 8,000 rows of 10 columns takes some 20 s of CPU at most."""
_BLOCKS = 10


def halve(request: HalvingRequest) -> HalvingOutcome:
    """Search. Raises ValueError for rows or candidates beyond the limits, or options in use that cannot be fitted.

    The newest quarter of the rows judges; candidates are fitted on the newest quarter, half, and all of the rows
    before (prequential: nothing is judged by what it was fitted on, or by older rows). After each rung the better
    half gets on, and the options in use always do: the last rung compares with them, row by row. They are replaced
    only by what is better by more than ERRORS_MIN standard errors of the paired difference (after Breiman et al. 1984,
    "Classification and regression trees", section 3.4.3: the simplest within one; here the simplest is what one has).
    O(candidates x log2 candidates) fits at most: 12 candidates take 12 + 6 + 3 (+ up to 2 of the options in use).
    """
    labelled, candidates, seed = request
    n_rows = len(labelled.rows)
    refuse_if(
        "request of a halving",
        {
            f"{n_rows} rows are less than {ROWS_MIN}": n_rows < ROWS_MIN,
            f"there are {len(candidates)} of 1 to {CANDIDATES_MAX} candidates": not 1
            <= len(candidates)
            <= CANDIDATES_MAX,
        },
    )
    older = n_rows - n_rows // _JUDGED_SHARE
    judged = _part(labelled, older, n_rows)
    trials = [Trial(0, None)] * len(candidates)
    running = _affordable(candidates, labelled)
    losses: dict[int, F64] = {}
    for rung, n_fitted in enumerate(_rungs(older)):
        if rung > 0:
            running = _better_half(running, trials)
        fitted_on = _part(labelled, older - n_fitted, older)
        losses = {k: _losses(fit_boosted(fitted_on, candidates[k], seed).predict(judged.rows), judged) for k in running}
        for k, loss in losses.items():
            trials[k] = Trial(rung + 1, float(loss.mean()))
    return _outcome(trials, losses)


def _rungs(older: int) -> list[int]:
    """Return how many rows the fits of each rung have."""
    rungs = [older // _KEPT**step for step in range(RUNGS_MAX)]
    return [rows for rows in reversed(rungs) if rows >= _RUNG_ROWS_MIN]


def _part(labelled: LabelledRows, first: int, end: int) -> LabelledRows:
    weights = None if labelled.weights is None else labelled.weights[first:end]
    return labelled._replace(rows=labelled.rows[first:end], targets=labelled.targets[first:end], weights=weights)


def _affordable(candidates: tuple[BoostedOptions, ...], labelled: LabelledRows) -> list[int]:
    """Return the options in use, and those after them that `fit_boosted` takes until there are _TREES_MAX trees."""
    n_seen = len(np.unique(labelled.targets)) if labelled.n_classes else 0
    n_raw = n_seen if n_seen > 2 else 1  # noqa: PLR2004 (two classes have one raw output)
    found, trees = [0], candidates[0].iterations * n_raw
    for k, options in enumerate(candidates[1:], start=1):
        own = options.iterations * n_raw
        if own * (2 * options.leaves_max - 1) <= NODES_MAX and trees + own <= _TREES_MAX:
            found.append(k)
            trees += own
    return found


def _better_half(running: list[int], trials: list[Trial]) -> list[int]:
    """Return the options in use, and the better half of all, by the loss of the last rung; ties go to the earlier."""
    by_loss = sorted(running, key=lambda k: (trials[k].loss, k))
    return sorted({0, *by_loss[: max(len(running) // _KEPT, 1)]})


def _losses(outputs: F64, judged: LabelledRows) -> F64:
    """Return the loss of each row [n]: Brier's score over all classes (Brier 1950), or the squared error."""
    if judged.n_classes == 0:
        return np.asarray((outputs[:, 0] - judged.targets) ** 2)
    outputs[np.arange(len(outputs)), judged.targets.astype(np.int64)] -= 1.0
    return np.asarray((outputs**2).sum(axis=1))


def _outcome(trials: list[Trial], losses: dict[int, F64]) -> HalvingOutcome:
    """Compare the best of the last rung with the options in use."""
    judged = len(losses[0])
    rivals = [k for k in losses if k > 0]
    if not rivals:
        return HalvingOutcome(0, tuple(trials), judged, 0.0, 0.0)
    best = min(rivals, key=lambda k: (trials[k].loss, k))
    gain, gain_error = _mean_with_error(losses[0] - losses[best])
    return HalvingOutcome(best if gain > ERRORS_MIN * gain_error else 0, tuple(trials), judged, gain, gain_error)


def _mean_with_error(difference: F64) -> tuple[float, float]:
    """Return the mean of a series and its standard error, from the means of consecutive blocks.

    Neighbouring rows are alike (Künsch 1989): a standard error over single rows would be too small.
    """
    means = np.array([block.mean() for block in np.array_split(difference, _BLOCKS)])
    return float(difference.mean()), float(means.std(ddof=1)) / math.sqrt(_BLOCKS)
