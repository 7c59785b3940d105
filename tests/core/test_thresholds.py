"""Decision thresholds: the best one is found, its gain is told honestly, and chance is not taken for a gain."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from worker.core.kernels.arrays import F64
from worker.core.maintenance.recalibration_fits import SCORE_BOUNDS
from worker.core.maintenance.thresholds import ScoreCounts, advise
from worker.core.options.maintenance import ObjectiveOptions, ThresholdOptions

OPTIONS = ThresholdOptions(z=1.96)


def events(n: int, shift: float, seed: int = 1, rate: float = 0.3) -> tuple[F64, F64]:
    """Return scores and labels; the logit of a score is too low by `shift`."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < rate).astype(float)
    logits = 2.0 * rng.normal(size=n) + 4.0 * labels - 2.0 - shift
    return 1.0 / (1.0 + np.exp(-logits)), labels


def counted(scores: F64, labels: F64) -> ScoreCounts:
    """Return the counts of events."""
    counts = ScoreCounts(OPTIONS)
    counts.add(scores, labels)
    return counts


@pytest.mark.parametrize("kind", ["accuracy", "f1", "cost"])
def test_scores_that_are_too_low_need_a_lower_threshold(kind: str) -> None:
    """What is gained is proven on labels that it was not chosen on."""
    objective = ObjectiveOptions(kind=kind, false_negative_cost=5.0)  # type: ignore[arg-type] # one of three, spelt above
    advice = advise(counted(*events(6_000, 3.0)).blocks(), objective, 0.5, OPTIONS)
    assert advice is not None
    assert advice.proven
    assert advice.threshold < 0.3
    assert (advice.after.value or 0.0) > (advice.before.value or 0.0)


def test_figures_are_those_of_the_newer_half() -> None:
    """The value with the new threshold is scikit-learn's, of the newer events."""
    scores, labels = events(6_000, 2.0)
    advice = advise(counted(scores, labels).blocks(), ObjectiveOptions(kind="f1"), 0.5, OPTIONS)
    assert advice is not None
    assert advice.after.value == pytest.approx(f1_score(labels[3_000:], scores[3_000:] >= advice.threshold))
    assert advice.before.value == pytest.approx(f1_score(labels[3_000:], scores[3_000:] >= 0.5))


def test_chance_is_seldom_a_gain() -> None:
    """Where the present threshold is right, a gain is proven in few of sixty streams."""
    proven = 0
    for seed in range(60):
        scores, labels = events(4_000, 0.0, seed, rate=0.5)
        advice = advise(counted(scores, labels).blocks(), ObjectiveOptions(kind="accuracy"), 0.5, OPTIONS)
        proven += advice is not None and advice.proven
    assert proven <= 5


def test_a_precision_is_kept() -> None:
    """The threshold with the most recall whose precision has its lower limit above what is wanted."""
    objective = ObjectiveOptions(kind="recall_at_precision", precision_min=0.8)
    advice = advise(counted(*events(8_000, 3.0)).blocks(), objective, 0.5, OPTIONS)
    assert advice is not None
    assert advice.precision is not None
    assert advice.precision.value is not None
    assert advice.precision.value >= 0.78
    assert advice.gain.value is not None
    assert advice.gain.value > 0.1
    impossible = ObjectiveOptions(kind="recall_at_precision", precision_min=0.9999)
    assert advise(counted(*events(8_000, 3.0)).blocks(), impossible, 0.5, OPTIONS) is None


def test_too_few_of_a_kind_make_no_advice() -> None:
    """Each half needs enough positives and negatives."""
    scores, _ = events(6_000, 3.0)
    assert advise(counted(scores, np.zeros(6_000)).blocks(), ObjectiveOptions(kind="f1"), 0.5, OPTIONS) is None
    assert advise(counted(scores[:100], np.ones(100)).blocks(), ObjectiveOptions(kind="f1"), 0.5, OPTIONS) is None


@given(cut=st.integers(1, 700))
@settings(max_examples=20, deadline=None)
def test_how_events_are_cut_changes_nothing(cut: int) -> None:
    """Counts are the same, and blocks that were forgotten too."""
    scores, labels = events(9_000, 1.0)
    whole, parts = counted(scores, labels), ScoreCounts(OPTIONS)
    for begin in range(0, 9_000, cut):
        parts.add(scores[begin : begin + cut], labels[begin : begin + cut])
    assert all((array == parts.arrays()[name]).all() for name, array in whole.arrays().items())
    assert whole.blocks().sum() == 40 * 200


def test_a_score_on_a_bound_is_positive() -> None:
    """A threshold decides as `score >= threshold` does, bit for bit."""
    scores = SCORE_BOUNDS[1:-1].repeat(2)[:1_000]
    counts = counted(np.concatenate([scores, scores - 1e-13]), np.tile([0.0, 1.0], 1_000))
    assert (
        counts.blocks().sum(axis=(0, 1))[300]
        == ((scores >= SCORE_BOUNDS[300]) & (scores < SCORE_BOUNDS[301])).sum()
        + ((scores - 1e-13 >= SCORE_BOUNDS[300]) & (scores - 1e-13 < SCORE_BOUNDS[301])).sum()
    )


@pytest.mark.parametrize(("name", "value"), [("counts", -1), ("counts", 201), ("counters", -1)])
def test_counts_that_cannot_be_are_refused(name: str, value: int) -> None:
    """Stored state is checked."""
    mine = ScoreCounts(OPTIONS)
    arrays = {each: array.copy() for each, array in mine.arrays().items()}
    arrays[name].flat[0] = value
    with pytest.raises(ValueError, match="stored score counts"):
        mine.restore(arrays)
