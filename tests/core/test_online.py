"""Online challengers: what they learn, the same bits however a stream is cut or restored, and state from anywhere."""

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import ValidationError, json
from river import linear_model, optim, preprocessing

from worker.core.kernels.arrays import F32, F64
from worker.core.maintenance.online import OnlineChallenger
from worker.core.options.maintenance import OnlineLinearOptions, OnlineOptions, OnlineTreeOptions
from worker.core.state import AnyArray

SMALL = OnlineTreeOptions(trees=2, leaf_rows=10, depth_max=4, rows_max=40, rows_kept=15)
LINEAR = OnlineOptions()
TREE = OnlineOptions(kind="hoeffding_adaptive_tree", trees=SMALL)
FOREST = OnlineOptions(kind="adaptive_random_forest", trees=SMALL)
ALL = pytest.mark.parametrize("options", [LINEAR, TREE, FOREST], ids=lambda options: options.kind)
TASKS = pytest.mark.parametrize("classes", [0, 2, 3])


def stream(n_rows: int, classes: int, seed: int = 0, missing: float = 0.1) -> tuple[F32, F64]:
    """Three columns of different scales with gaps, and a target that follows from the first two, with noise."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(n_rows, 3))
    target = 5.0 + 2.0 * table[:, 0] - table[:, 1] + 0.3 * rng.normal(size=n_rows)
    if classes:
        target = np.digitize(target, np.linspace(3.0, 7.0, classes + 1)[1:-1]).astype(np.float64)
    rows = (table * [1.0, 100.0, 0.01] + [0.0, 1_000.0, 0.0]).astype(np.float32)
    rows[rng.random(rows.shape) < missing] = np.nan
    return rows, target


def taught(options: OnlineOptions, classes: int, n_rows: int) -> OnlineChallenger:
    """Return a challenger that has learned so many rows at once."""
    challenger = OnlineChallenger(classes, 3, options, seed=7)
    challenger.learn(*stream(n_rows, classes))
    return challenger


def copies(challenger: OnlineChallenger) -> dict[str, AnyArray]:
    """Return the state as it would be stored."""
    return {name: array.copy() for name, array in challenger.arrays().items()}


@ALL
@TASKS
def test_not_enough_data(options: OnlineOptions, classes: int) -> None:
    """Nothing is predicted before anything was learned."""
    outputs = OnlineChallenger(classes, 3, options, seed=7).predict(stream(4, classes)[0])
    assert outputs.shape == (4, max(classes, 1))
    assert np.isnan(outputs).all()


@ALL
@TASKS
def test_learns(options: OnlineOptions, classes: int) -> None:
    """After some hundred rows it is better than the mean or the most frequent class; probabilities add up to one."""
    if options is not LINEAR:
        options = OnlineOptions(kind=options.kind)
    challenger = taught(options, classes, 800)
    rows, targets = stream(300, classes, seed=1)
    outputs = challenger.predict(rows)
    if classes == 0:
        assert np.mean((outputs[:, 0] - targets) ** 2) < 0.7 * targets.var()
        return
    assert outputs.sum(axis=1) == pytest.approx(1.0)
    assert outputs.min() >= 0.0
    most_frequent = np.bincount(targets.astype(int)).max() / len(targets)
    assert (outputs.argmax(axis=1) == targets).mean() > most_frequent + 0.15


@ALL
@TASKS
@given(cuts=st.lists(st.integers(0, 70), max_size=6), restored_at=st.integers(0, 70))
@settings(max_examples=5, deadline=None)
def test_cuts_and_restores(options: OnlineOptions, classes: int, cuts: list[int], restored_at: int) -> None:
    """However the rows are cut, whatever is predicted between, and wherever it is restored: the same bits."""
    rows, targets = stream(70, classes)
    probes = stream(10, classes, seed=2)[0]
    whole = taught(options, classes, 70)
    parts = OnlineChallenger(classes, 3, options, seed=7)
    edges = sorted({0, 70, restored_at, *cuts})
    for first, last in pairwise(edges):
        if first == restored_at:
            stored = copies(parts)
            parts = OnlineChallenger(classes, 3, options, seed=7)
            parts.restore(stored)
        parts.learn(rows[first:last], targets[first:last])
        parts.predict(probes[:3])
    together = whole.predict(probes)
    one_by_one = np.concatenate([parts.predict(probe[None]) for probe in probes])
    assert together.tobytes() == one_by_one.tobytes()
    for name, array in whole.arrays().items():
        assert array.tobytes() == parts.arrays()[name].tobytes(), name


def test_parity_with_river() -> None:
    """Without fading, on rows that are never cut, it is River's scaler and logistic regression."""
    rows, targets = stream(400, 2, missing=0.0)
    rows = np.clip(rows, [-1.5, 850.0, -0.015], [1.5, 1_150.0, 0.015]).astype(np.float32)
    mine = OnlineChallenger(2, 3, OnlineOptions(linear=OnlineLinearOptions(learning_rate=0.05, fade=1e-9)), seed=0)
    descent = optim.SGD(0.05)
    theirs = preprocessing.StandardScaler() | linear_model.LogisticRegression(optimizer=descent, intercept_lr=0.05)
    for row, target in zip(rows, targets, strict=True):
        mine.learn(row[None], np.array([target]))
        cells = dict(enumerate(row.tolist()))
        theirs.learn_one(cells, bool(target))
        assert mine.predict(row[None])[0, 1] == pytest.approx(theirs.predict_proba_one(cells)[True], rel=1e-9)


def test_fade_keeps_up() -> None:
    """When the scale of a column changes for good, a linear model that fades finds its way back."""
    rows, targets = stream(4_000, 0, missing=0.0)
    rows[2_000:, 0] = rows[2_000:, 0] * 50.0 + 300.0
    errors = []
    for fade in (0.01, 1e-9):
        challenger = OnlineChallenger(0, 3, OnlineOptions(linear=OnlineLinearOptions(fade=fade)), seed=0)
        challenger.learn(rows[:3_500], targets[:3_500])
        errors.append(float(np.mean((challenger.predict(rows[3_500:])[:, 0] - targets[3_500:]) ** 2)))
    assert errors[0] < 0.5 < errors[1]


def test_wild_row_is_forgiven() -> None:
    """One row of absurd cells and an absurd target does not spoil a linear model."""
    rows, targets = stream(1_500, 0, missing=0.0)
    rows[1_000], targets[1_000] = 1e30, 1e30
    challenger = OnlineChallenger(0, 3, OnlineOptions(linear=OnlineLinearOptions(learning_rate=0.01)), seed=0)
    challenger.learn(rows[:1_100], targets[:1_100])
    assert np.mean((challenger.predict(rows[1_100:])[:, 0] - targets[1_100:]) ** 2) < 0.5


@ALL
def test_shares_of_classes(options: OnlineOptions) -> None:
    """Where the columns tell nothing, the probabilities are the shares of the classes."""
    targets = (np.arange(2_000) * 7 % 10 >= 7).astype(np.float64) + (np.arange(2_000) * 7 % 10 >= 9)
    challenger = OnlineChallenger(3, 3, OnlineOptions(kind=options.kind), seed=0)
    challenger.learn(np.zeros((2_000, 3), dtype=np.float32), targets)
    shares = challenger.predict(np.zeros((1, 3), dtype=np.float32))
    assert shares[0] == pytest.approx([0.7, 0.2, 0.1], abs=0.05)


@ALL
def test_restored_over_another(options: OnlineOptions) -> None:
    """Nothing is left of what a challenger had learned before it was restored."""
    other, mine = taught(options, 0, 38), OnlineChallenger(0, 3, options, seed=7)
    mine.learn(*stream(10, 0, seed=5))
    other.restore(copies(mine))
    probes = stream(10, 0, seed=2)[0]
    assert other.predict(probes).tobytes() == mine.predict(probes).tobytes()
    for challenger in (mine, other):
        challenger.learn(*stream(40, 0, seed=6))
    assert other.predict(probes).tobytes() == mine.predict(probes).tobytes()


@pytest.mark.parametrize("options", [TREE, FOREST], ids=lambda options: options.kind)
def test_born_again(options: OnlineOptions) -> None:
    """When its room is full it forgets all but the latest rows: the same as a new life that learned only these."""
    challenger = taught(options, 2, 39)
    assert challenger.births == 0
    challenger = taught(options, 2, 40)
    assert challenger.births == 1
    rows, targets = stream(40, 2)
    stored = challenger.arrays()
    assert np.array_equal(stored["rows"][:15], rows[25:], equal_nan=True)
    assert np.array_equal(stored["targets"][:15], targets[25:])
    assert not stored["rows"][15:].any()
    assert taught(options, 2, 40 + 25 * 3).births == 4


def test_seed() -> None:
    """Another seed grows another forest."""
    rows, targets = stream(50, 2)
    outputs = []
    for seed in (1, 2):
        challenger = OnlineChallenger(2, 3, FOREST, seed)
        challenger.learn(rows, targets)
        outputs.append(challenger.predict(rows))
    assert not np.array_equal(outputs[0], outputs[1])


@ALL
@TASKS
def test_missing_is_the_mean(options: OnlineOptions, classes: int) -> None:
    """A row without any value is predicted as the row of means is; a column that never had one does no harm."""
    rows, targets = stream(30, classes)
    rows[:, 2] = np.nan
    challenger = OnlineChallenger(classes, 3, options, seed=7)
    challenger.learn(rows, targets)
    nothing = np.full((1, 3), np.nan, dtype=np.float32)
    means = np.append(np.nanmean(rows[:, :2].astype(np.float64), axis=0), 0.0)[None].astype(np.float32)
    assert np.isfinite(challenger.predict(nothing)).all()
    assert challenger.predict(nothing) == pytest.approx(challenger.predict(means), rel=1e-4, abs=1e-4)


@ALL
@pytest.mark.parametrize("classes", [0, 1, 2, 3])
@given(
    cells=st.lists(
        st.tuples(*[st.floats(width=32) for _ in range(3)], st.floats(allow_nan=False, allow_infinity=False)),
        min_size=1,
        max_size=40,
    )
)
@settings(max_examples=8, deadline=None)
def test_wild_numbers(options: OnlineOptions, classes: int, cells: list[tuple[float, ...]]) -> None:
    """No cell and no target makes an infinite output, or state that cannot be restored."""
    table = np.array(cells)
    rows = table[:, :3].astype(np.float32)
    targets = np.floor(np.abs(table[:, 3]) % classes) if classes else table[:, 3]
    challenger = OnlineChallenger(classes, 3, options, seed=7)
    challenger.learn(rows, targets)
    outputs = challenger.predict(rows)
    assert not np.isinf(outputs).any()
    again = OnlineChallenger(classes, 3, options, seed=7)
    again.restore(copies(challenger))
    assert again.predict(rows).tobytes() == outputs.tobytes()


@ALL
def test_refuses_what_it_cannot_learn(options: OnlineOptions) -> None:
    """Labels that are no classes or no numbers, and rows of another width, are refused before anything is learned."""
    challenger = taught(options, 2, 10)
    before = copies(challenger)
    rows, targets = stream(3, 2)
    with pytest.raises(ValueError, match="no class"):
        challenger.learn(rows, targets + 0.5)
    with pytest.raises(ValueError, match="no class"):
        challenger.learn(rows, targets + 2.0)
    with pytest.raises(ValueError, match="not finite"):
        OnlineChallenger(0, 3, options, 7).learn(rows, np.full(3, np.nan))
    with pytest.raises(ValueError, match="do not have 3 columns"):
        challenger.predict(rows[:, :2])
    with pytest.raises(ValueError, match="targets of shape"):
        challenger.learn(rows, targets[:2])
    for name, array in challenger.arrays().items():
        assert np.array_equal(array, before[name], equal_nan=True)


@pytest.mark.parametrize(
    ("options", "name", "place", "value", "reason"),
    [
        (LINEAR, "counts", 3, -1, "count"),
        (LINEAR, "counts", 0, 11, "more cells"),
        (LINEAR, "means", 0, np.nan, "mean"),
        (LINEAR, "variances", 0, -1.0, "variance"),
        (LINEAR, "weights", (0, 0), np.inf, "weight"),
        (FOREST, "counts", 0, 40, "kept"),
        (FOREST, "counts", 0, -1, "kept"),
        (FOREST, "counts", 1, -1, "births"),
        (FOREST, "rows", (0, 0), np.inf, "cell"),
        (FOREST, "targets", 0, 2.0, "class"),
        (FOREST, "targets", 0, 0.5, "class"),
        (FOREST, "targets", 0, np.nan, "target"),
    ],
)
def test_refuses_stored(
    options: OnlineOptions, name: str, place: int | tuple[int, int], value: float, reason: str
) -> None:
    """State that its kernels or River would stumble over is refused, with the reason."""
    stored = copies(taught(options, 2, 10))
    stored[name][place] = value
    with pytest.raises(ValueError, match=reason):
        OnlineChallenger(2, 3, options, seed=7).restore(stored)


@ALL
def test_refuses_other_shapes(options: OnlineOptions) -> None:
    """State of another number of columns, or without one of its arrays, is refused."""
    stored = copies(taught(options, 2, 10))
    with pytest.raises(ValueError, match="instead of"):
        OnlineChallenger(2, 4, options, seed=7).restore(stored)
    stored.pop("counts")
    with pytest.raises(ValueError, match="instead of"):
        OnlineChallenger(2, 3, options, seed=7).restore(stored)


def test_options_are_checked() -> None:
    """A successor cannot inherit as many rows as there is room for."""
    with pytest.raises(ValidationError, match="rows_kept"):
        json.decode(b'{"trees": {"rows_max": 10, "rows_kept": 10}}', type=OnlineOptions)


PROGRAM = """
import numpy as np
from worker.core.maintenance.online import OnlineChallenger
from worker.core.options.maintenance import OnlineOptions
rows = np.sin(np.arange(240.0) ** 2).reshape(80, 3).astype(np.float32)
for kind in ("linear", "hoeffding_adaptive_tree", "adaptive_random_forest"):
    for classes in (0, 2, 3):
        challenger = OnlineChallenger(classes, 3, OnlineOptions(kind=kind), seed=7)
        challenger.learn(rows, np.floor(rows[:, 0] * 1.4 + 1.4) % max(classes, 1) + 0.0)
        print(challenger.predict(rows).tobytes().hex())
"""


def test_other_process(capsys: pytest.CaptureFixture[str]) -> None:
    """A process with other hashes of texts has the same bits."""
    exec(PROGRAM, {})  # noqa: S102 - the same program here and there
    there = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "12345"}
    )
    assert there.stdout == capsys.readouterr().out
