"""Figures of candidates against the champion: those of the single labels, on labels that both have."""

import math

import numpy as np
import pytest
from sklearn.metrics import r2_score, root_mean_squared_error

from worker.core.kernels.shadow import BRIER, SQUARED, add_figures, candidate_losses
from worker.core.maintenance.pool_figures import BLOCKS_MAX, PoolFigures


def _filled(outputs: np.ndarray, targets: np.ndarray, loss: int, blocks: int) -> PoolFigures:
    figures = PoolFigures(outputs.shape[1])
    for rows in np.array_split(np.arange(len(targets)), blocks):
        losses = np.empty((len(rows), outputs.shape[1]))
        candidate_losses(loss, outputs[rows], targets[rows], 0.5, 1e6, losses)
        add_figures(loss == SQUARED, outputs[rows], targets[rows], losses, 0.5, 100.0, figures.open_block)
        figures.end_block()
    return figures


def test_numbers_are_scikit_learns() -> None:
    """R2 and RMSE of champion and candidate, on the labels that the candidate said something of."""
    rng = np.random.default_rng(1)
    targets = 100.0 + rng.normal(size=400)
    outputs = np.stack([targets + rng.normal(size=400), targets + 0.3 * rng.normal(size=400)], axis=1)[:, :, np.newaxis]
    outputs[:150, 1] = math.nan
    r2, rmse = _filled(outputs, targets, SQUARED, 8).changes(1, is_number=True)
    known = slice(150, None)
    for change, score in ((r2, r2_score), (rmse, root_mean_squared_error)):
        assert change.before.value == pytest.approx(score(targets[known], outputs[known, 0, 0]), rel=1e-9)
        assert change.after.value == pytest.approx(score(targets[known], outputs[known, 1, 0]), rel=1e-9)
        gain = score(targets[known], outputs[known, 1, 0]) - score(targets[known], outputs[known, 0, 0])
        assert change.difference.value == pytest.approx(gain)
    assert r2.after.support == 250


def test_only_the_latest_blocks_count() -> None:
    """What was long ago is forgotten: a candidate that was bad at first is shown as it is now."""
    targets = np.tile([0.0, 1.0], 2 * (BLOCKS_MAX - 1))
    outputs = np.stack([targets * 0.8 + 0.1, 1.0 - targets], axis=1)[:, :, np.newaxis]
    outputs[len(targets) // 2 :, 1, 0] = targets[len(targets) // 2 :]
    accuracy, loss = _filled(outputs, targets, BRIER, 2 * (BLOCKS_MAX - 1)).changes(1, is_number=False)
    assert (accuracy.after.value, loss.after.value) == (1.0, 0.0)
    assert loss.before.value == pytest.approx(0.01)
