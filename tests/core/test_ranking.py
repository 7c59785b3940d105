"""The advice of the shadow pool: it follows what is better, and stays with the champion where nothing is."""

import numpy as np
import pytest

from worker.core.kernels.arrays import F64
from worker.core.maintenance.ranking import Ranking
from worker.core.options.maintenance import RankingOptions


def advised_losses(losses: F64, delay: int = 500) -> tuple[F64, Ranking]:
    """Return the losses of following the advice, with labels so late, and the ranking."""
    ranking = Ranking(losses.shape[1], RankingOptions())
    advised = np.zeros(len(losses), dtype=int)
    row = 0
    while (row := ranking.take(losses, row)) < len(losses):
        row += 1
        advised[row + delay :] = ranking.advised
    return losses[np.arange(len(losses)), advised], ranking


def pool(seed: int, errors: list[float], rows: int = 20_000) -> F64:
    """Return 0/1 losses that are correlated, as those of models on the same events are."""
    rng = np.random.default_rng(seed)
    shape = (rows, len(errors))
    return (np.where(rng.random(shape) < 0.7, rng.random((rows, 1)), rng.random(shape)) < errors).astype(float)


@pytest.mark.parametrize("gap", [0.002, 0.005, 0.01, 0.02, 0.05])
def test_where_the_champion_is_best_the_advice_hardly_costs(gap: float) -> None:
    """Three challengers that are worse by a little to a lot cost less than 0.2 points of accuracy on average."""
    costs = []
    for seed in range(10):
        losses = pool(seed, [0.25, 0.25 + gap, 0.25 + gap, 0.25 + gap])
        costs.append(advised_losses(losses)[0].mean() - losses[:, 0].mean())
    assert float(np.mean(costs)) < 0.002


def test_it_follows_a_change_and_comes_back() -> None:
    """The champion breaks and is repaired: the advice goes to the challenger and returns, at a small price."""
    losses = np.concatenate([pool(1, [0.2, 0.3], 4_000), pool(2, [0.5, 0.3], 4_000), pool(3, [0.2, 0.3], 4_000)])
    followed, ranking = advised_losses(losses)
    assert followed.mean() < losses.mean(axis=0).min() - 0.02
    assert (ranking.advised, ranking.switches, ranking.returns) == (0, 2, 1)


def test_a_candidate_without_losses_is_never_advised() -> None:
    """One that cannot answer counts as the champion; rows without the champion's loss do not count at all."""
    losses = pool(4, [0.4, 0.2])
    losses[:, 1] = np.nan
    assert advised_losses(losses)[1].advised == 0
    losses[:, 0] = np.nan
    ranking = advised_losses(losses)[1]
    assert np.isnan(ranking.paired(0, 1).mean)


def test_another_model_in_a_slot_begins_as_equal() -> None:
    """After `forget` the advice is the champion's, and the difference to it is 0."""
    _, ranking = advised_losses(pool(5, [0.4, 0.2, 0.3], 2_000))
    assert ranking.advised == 1
    ranking.forget(1)
    assert ranking.advised == 0
    assert ranking.paired(0, 1).mean == 0.0
    assert ranking.paired(1, 2).mean == ranking.paired(0, 2).mean
    with pytest.raises(ValueError, match="no challenger"):
        ranking.forget(0)


def test_a_restored_ranking_goes_on_as_if_nothing_had_been() -> None:
    """Restored in the middle of a block, it is byte for byte the one that went on."""
    losses = pool(6, [0.3, 0.25], 1_700)
    _, whole = advised_losses(losses)
    _, first = advised_losses(losses[:777])
    second = Ranking(2, RankingOptions())
    second.restore({name: array.copy() for name, array in first.arrays().items()})
    row = 0
    while (row := second.take(losses[777:], row)) < len(losses) - 777:
        row += 1
    assert all(array.tobytes() == second.arrays()[name].tobytes() for name, array in whole.arrays().items())


@pytest.mark.parametrize(("name", "value"), [("counts", 5), ("means", np.nan), ("squares", -1.0), ("weights", 1e9)])
def test_stored_arrays_that_cannot_be_are_refused(name: str, value: float) -> None:
    """An advice for nobody, sums that are no numbers, weights that cannot be."""
    ranking = Ranking(3, RankingOptions())
    stored = {key: array.copy() for key, array in ranking.arrays().items()}
    stored[name][...] = value
    with pytest.raises(ValueError, match="stored ranking"):
        ranking.restore(stored)
