"""The watch after a promotion: a broken version is told, a harder world is not taken for one."""

import numpy as np
import pytest

from worker.core.kernels.arrays import F64
from worker.core.maintenance.after_promotion import AfterPromotion, Promise, promises
from worker.core.maintenance.ranking import Ranking
from worker.core.options.maintenance import AfterOptions, RankingOptions

CHAMPION, PROMOTED, CONTROL = range(3)


def losses(seed: int, errors: list[float], rows: int = 8_000) -> F64:
    """Return 0/1 losses that are correlated, as those of models on the same events are."""
    rng = np.random.default_rng(seed)
    shape = (rows, len(errors))
    return (np.where(rng.random(shape) < 0.7, rng.random((rows, 1)), rng.random(shape)) < errors).astype(float)


def promised(control: int | None, former: int | None = None) -> list[Promise]:
    """Return what a challenger with 20 % errors is promoted for; champion 30 %, control 25 %."""
    ranking = Ranking(3, RankingOptions())
    rows, row = losses(1, [0.3, 0.2, 0.25], 3_000), 0
    while (row := ranking.take(rows, row)) < len(rows):
        row += 1
    return promises(ranking, PROMOTED, control, former)


def run(watch: AfterPromotion, new: F64, references: F64) -> None:
    """Take all rows."""
    row = 0
    while (row := watch.take(new, references, row)) < len(new):
        row += 1


@pytest.mark.parametrize(
    ("errors", "conclusion"),
    [
        ([0.2, 0.25], "watching"),
        ([0.4, 0.25], "rollback_advised"),
        ([0.4, 0.45], "world_changed"),
    ],
)
def test_a_control_tells_a_broken_version_from_a_harder_world(errors: list[float], conclusion: str) -> None:
    """Kept, broken while the control is as before, and worse together with the control."""
    watch = AfterPromotion(promised(CONTROL), 1.0, AfterOptions())
    rows = losses(2, errors)
    run(watch, rows[:, 0].copy(), np.column_stack([rows[:, 1], rows[:, 1]]))
    assert watch.conclusion == conclusion


def test_without_anything_else_the_record_decides() -> None:
    """Only the own record before the promotion: a version that errs twice as often is to be rolled back."""
    watch = AfterPromotion(promised(None), 1.0, AfterOptions())
    rows = losses(3, [0.4])
    run(watch, rows[:, 0].copy(), rows)
    assert watch.conclusion == "rollback_advised"
    assert [each.promise.against for each in watch.regressions()] == ["record"]


def test_a_former_champion_that_is_better_is_to_come_back() -> None:
    """Where its outputs still come, the old champion needs to be better only; an equal one does not come back."""
    for error, conclusion in ((0.1, "rollback_advised"), (0.2, "watching")):
        watch = AfterPromotion(promised(None, former=0), 1.0, AfterOptions())
        rows = losses(4, [0.2, error])
        run(watch, rows[:, 0].copy(), np.column_stack([rows[:, 1], rows[:, 1]]))
        assert watch.conclusion == conclusion


def test_nothing_is_allowed_against_a_former_champion() -> None:
    """A former champion that avoids a tenth of the new version's errors comes back, though that is 2 points only."""
    watch = AfterPromotion(promised(None, former=0), 1.0, AfterOptions(allowed_loss=0.02))
    new = losses(6, [0.2])[:, 0].copy()
    former = new * (np.random.default_rng(7).random(len(new)) < 0.9)
    run(watch, new, np.column_stack([former, former]))
    assert "former" in [each.promise.against for each in watch.regressions()]


def test_a_badly_broken_version_is_told_soon() -> None:
    """Twenty points worse than promised: a rollback is advised within 2,000 labels, whatever it is compared with."""
    for control in (CONTROL, None):
        watch = AfterPromotion(promised(control), 1.0, AfterOptions())
        rows = losses(8, [0.4, 0.25], 2_000)
        run(watch, rows[:, 0].copy(), np.column_stack([rows[:, 1], rows[:, 1]]))
        assert watch.conclusion == "rollback_advised"


def test_false_rollbacks_are_rare() -> None:
    """Of forty versions that keep their promise at most two are advised to be rolled back."""
    made, advised = promised(CONTROL), 0
    for seed in range(40):
        watch = AfterPromotion(made, 1.0, AfterOptions())
        rows = losses(100 + seed, [0.2, 0.25])
        run(watch, rows[:, 0].copy(), np.column_stack([rows[:, 1], rows[:, 1]]))
        advised += watch.conclusion == "rollback_advised"
    assert advised <= 2


def test_the_watch_ends_and_can_be_stored() -> None:
    """It is over after its labels; restored in the middle it goes on as if nothing had been; wrong counts are out."""
    options = AfterOptions(watch_labels_max=2_000)
    whole, first, second = (AfterPromotion(promised(CONTROL), 1.0, options) for _ in range(3))
    rows = losses(5, [0.4, 0.25], 2_100)
    references = np.column_stack([rows[:, 1], rows[:, 1]])
    run(whole, rows[:, 0].copy(), references)
    run(first, rows[:950, 0].copy(), references[:950])
    assert not first.is_over
    second.restore({name: array.copy() for name, array in first.arrays().items()})
    run(second, rows[950:, 0].copy(), references[950:])
    assert second.is_over
    assert all(array.tobytes() == second.arrays()[name].tobytes() for name, array in whole.arrays().items())
    with pytest.raises(ValueError, match="stored watch"):
        second.restore({**whole.arrays(), "labels": np.array([-1])})
