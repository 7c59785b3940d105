"""Tail surprise as a detector: constants, missing values, a gate, a memory, and what it refuses."""

import numpy as np
import pytest

from worker.core.detectors.tails import TailSurprise
from worker.core.kernels.arrays import F64
from worker.core.kernels.tails import SURPRISE_MAX
from worker.core.options import TailsOptions
from worker.core.state import AnyArray

SETTLE = 256


def new(features: int = 1, options: TailsOptions = TailsOptions()) -> TailSurprise:  # noqa: B008 -- options are frozen
    """Return a detector with a seed of no importance."""
    return TailSurprise(features, options, SETTLE, seed=3)


def column(*values: float) -> F64:
    """Return rows of one feature."""
    return np.array(values, dtype=np.float64)[:, np.newaxis]


def normal(count: int, features: int = 1, centre: float = 0.0, seed: int = 0) -> F64:
    """Return Gaussian rows."""
    return np.random.default_rng(seed).normal(centre, size=(count, features))


@pytest.mark.parametrize("value", [0.0, -7.0, 1e9, 1e300])
def test_a_constant_that_changes_is_as_surprising_as_can_be(value: float) -> None:
    """The only value seen is no surprise, whatever its size; any other one is the greatest."""
    detector = new()
    detector.score_and_learn(np.full((500, 1), value))
    same, less, more = detector.score(column(value, value * 0.999 - 1.0, -value * 0.999 + 1.0))
    assert same == 0.0
    assert less == more == pytest.approx(SURPRISE_MAX)


def test_zero_has_no_sign() -> None:
    """A flag's -0 is its 0."""
    detector = new()
    detector.score_and_learn(column(*[0.0, -0.0, 0.0, 1.0] * 50))
    zero, minus_zero = detector.score(column(0.0, -0.0))
    assert zero == minus_zero


def test_farther_out_is_more_surprising_beyond_all_that_was_seen() -> None:
    """Scores do not tie beyond the largest value, until the surprise cannot grow."""
    detector = new()
    detector.score_and_learn(normal(1000))
    scores = detector.score(column(3.0, 4.0, 6.0, 10.0, 1e6, 1e300, np.inf))
    assert (np.diff(scores[:4]) > 0.5).all()
    assert np.isfinite(scores).all()
    assert scores[-1] == scores[-2] == pytest.approx(SURPRISE_MAX)


def test_what_is_missing_is_neither_ordinary_nor_strange() -> None:
    """An event without any value scores about as the average one; a constant that is missing adds nothing."""
    rows = normal(4000, 3)
    rows[:, 2] = 1.0
    detector = new(3)
    average = detector.score_and_learn(rows)[1000:].mean()
    nothing, no_constant, all_there = detector.score(
        np.array([[np.nan, np.nan, np.nan], [0.5, 0.5, np.nan], [0.5, 0.5, 1.0]])
    )
    assert nothing == pytest.approx(average, rel=0.15)
    assert no_constant == all_there


def test_a_seldom_feature_counts_once_it_is_known() -> None:
    """One that is there in every fiftieth event keeps as many values as the others, and is judged by them in time."""
    rows = normal(6000, 2)
    rows[np.arange(len(rows)) % 50 != 0, 1] = np.nan
    detector = new(2)
    detector.score_and_learn(rows[:1000])
    strange = np.array([[0.0, 30.0]])
    before = detector.score(strange)
    detector.score_and_learn(rows[1000:])
    assert np.isfinite(before)
    assert detector.score(strange) > before + 5.0


def test_scores_are_none_before_enough_values() -> None:
    """A feature without 64 values has no surprise, and an event of such features no score."""
    detector = new(2)
    assert np.isnan(detector.score_and_learn(normal(64, 2))).all()
    assert np.isnan(new(2).score_and_learn(np.full((300, 2), np.nan))).all()
    assert np.isfinite(detector.score(normal(1, 2))).all()


def test_score_learns_nothing() -> None:
    """Rows may be scored as often as wanted, and are scored as they will be when they come."""
    detector = new(3)
    detector.score_and_learn(normal(700, 3))
    before = {name: array.tobytes() for name, array in detector.live().items()}
    first = normal(50, 3, seed=1)
    scores = detector.score(first)
    assert {name: array.tobytes() for name, array in detector.live().items()} == before
    assert detector.score_and_learn(first[:1])[0] == scores[0]


def with_anomalies(count: int) -> F64:
    """Return normal rows of which every thirtieth is far out, from number 300 on."""
    rows = normal(count, 3)
    rows[300::30] += 30.0
    return rows


def test_the_gate_keeps_anomalies_out() -> None:
    """Anomalies of 3 % stay as surprising as they were; without the gate they become usual."""
    rows = with_anomalies(6000)
    gated = new(3).score_and_learn(rows)[300::30]
    ungated = new(3, TailsOptions(gate_quantile=1.0)).score_and_learn(rows)[300::30]
    assert gated[-50:].min() > 15.0
    assert ungated[-50:].max() < 6.0


def test_a_new_regime_is_learned_and_the_old_one_forgotten() -> None:
    """What is there for long becomes usual, gate or not; with a memory, what was usual does not stay so."""
    detector = new(3, TailsOptions(rows_max=256, memory_events=1000))
    detector.score_and_learn(normal(3000, 3))
    usual = detector.score(normal(200, 3, seed=1)).mean()
    detector.score_and_learn(normal(20_000, 3, centre=9.0))
    assert detector.score(normal(200, 3, centre=9.0, seed=1)).mean() == pytest.approx(usual, rel=0.15)
    assert detector.score(normal(200, 3, seed=1)).mean() > 3 * usual


WIDE = TailsOptions(rows_max=512)
"""More than 400 rows: none has been replaced by chance."""


def damaged(name: str, array: AnyArray) -> dict[str, AnyArray]:
    """Return the state of a detector after 400 rows, with one array replaced, to be restored."""
    detector = new(2, WIDE)
    detector.score_and_learn(normal(400, 2))
    live = {key: value.copy() for key, value in detector.live().items()}
    live[name] = np.broadcast_to(array, live[name].shape).astype(live[name].dtype)
    return live


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("counters", -1, "a count is out of range"),
        ("counters", [399, 0], "another number of rows"),
        ("kept", 401, "more values than there were rows"),
        ("kept", -1, "more values than there were rows"),
        ("length", 513, "longer than its sample"),
        ("length", -1, "longer than its sample"),
        ("length", 63, "too short"),
        ("length", 0, "not there"),
        ("renewal", 2**60, "a renewal"),
        ("sample", np.nan, "a value is out of range"),
        ("reference", np.inf, "a value of a reference"),
        ("reference", -np.arange(512.0), "not sorted"),
        ("summary", np.nan, "a threshold"),
        ("summary", [2, 1, 0, 0, 0, 0], "wrong order"),
        ("summary", [0, 1, -1, 0, 0, 0], "mean excess"),
        ("gate.sample", np.nan, "a score is not finite"),
    ],
)
def test_what_rows_cannot_have_left_is_refused(name: str, value: AnyArray, reason: str) -> None:
    """Each damage is told by its reason."""
    with pytest.raises(ValueError, match=reason):
        new(2, WIDE).restore(400, damaged(name, np.asarray(value)), {})


def test_undamaged_state_is_taken() -> None:
    """The same state without damage goes on with equal bits."""
    live = damaged("random_state", np.asarray(3))
    live["random_state"] = np.full(1, 3, dtype=np.uint64)
    restored, original = new(2, WIDE), new(2, WIDE)
    original.score_and_learn(normal(400, 2))
    restored.restore(400, live, {})
    more = normal(2000, 2, seed=1)
    assert np.array_equal(restored.score_and_learn(more), original.score_and_learn(more))
