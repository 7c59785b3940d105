"""Confidences: isotonic rates are scikit-learn's, the estimate holds the truth, and shifts are scipy's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]  # ships no types
from sklearn.isotonic import IsotonicRegression

from worker.core.kernels.arrays import F64, I64
from worker.core.kernels.tally import SCORE_BINS, score_bin
from worker.core.performance.confidence import Confidences, confidence_bins, isotonic
from worker.core.state import AnyArray

Z = 1.959963984540054
REFERENCE = 500


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0.0, 1.0)), min_size=1, max_size=40))
@settings(max_examples=300, deadline=None)
def test_rates_are_those_of_scikit_learn(pairs: list[tuple[int, float]]) -> None:
    """Pool adjacent violators with weights; and rates rise with the bin."""
    number = np.array([each for each, _ in pairs], dtype=np.int64)
    right = np.array([round(each * share) for each, share in pairs], dtype=np.int64)
    number[-1] += 1
    rates, variances = isotonic(right, number)
    used = np.flatnonzero(number)
    expected = IsotonicRegression().fit_transform(used, right[used] / number[used], sample_weight=number[used])
    np.testing.assert_allclose(rates[used], expected, atol=1e-12)
    assert (np.diff(rates) >= 0.0).all()
    assert (variances > 0.0).all()


def test_bins_without_events_take_the_next_rate_below() -> None:
    """Or above, where there is none below; pooled bins have the variance of all their events."""
    right, number = np.zeros(10, dtype=np.int64), np.zeros(10, dtype=np.int64)
    right[[2, 5, 6]], number[[2, 5, 6]] = (10, 30, 30), (100, 50, 50)
    rates, variances = isotonic(right, number)
    np.testing.assert_allclose(rates, [0.1] * 5 + [0.6] * 5)
    smooth = 61 / 102
    assert variances[5] == variances[9] == pytest.approx(smooth * (1 - smooth) / 100)
    assert variances[0] == variances[4]


def calibrated(rng: np.random.Generator, count: int, share: float = 1.0) -> tuple[I64, I64]:
    """Bins of confidences, and which were right: each as often as `share` of its confidence says."""
    confidences = 0.5 + 0.5 * rng.beta(2, 1.5, size=count)
    right = (rng.random(count) < share * confidences).astype(np.int64)
    return confidence_bins(np.stack([confidences, 1.0 - confidences], axis=1)), right


def accuracy(share: float = 1.0) -> float:
    """The true accuracy of `calibrated`."""
    return share * (0.5 + 0.5 * 2 / 3.5)


def learned(rng: np.random.Generator, labelled: int, pane: I64, share: float = 1.0) -> Confidences:
    """Confidences that have learned from labelled events, and have seen a pane without labels."""
    confidences = Confidences(10, REFERENCE)
    bins, right = calibrated(rng, labelled, share)
    confidences.predicted(np.zeros(labelled, dtype=np.int64), bins)
    confidences.labelled(bins, right, np.ones(labelled, dtype=np.int64))
    confidences.predicted(np.ones(len(pane), dtype=np.int64), pane)
    return confidences


@pytest.mark.parametrize("share", [1.0, 0.7])
def test_the_estimate_is_near_the_truth(share: float) -> None:
    """On plenty of data it is right to 1 %, for a model that is as sure as it should be and one that is not."""
    rng = np.random.default_rng(1)
    estimate = learned(rng, 20_000, calibrated(rng, 20_000)[0], share).estimate(1, Z, 0.0, 0.0)
    assert estimate is not None
    assert estimate.accuracy == pytest.approx(accuracy(share), abs=0.01)
    assert estimate.realised_error is None


@pytest.mark.parametrize(("labelled", "unlabelled"), [(400, 5_000), (2_000, 300)])
def test_the_interval_holds_the_accuracy_as_often_as_it_says(labelled: int, unlabelled: int) -> None:
    """The accuracy that labels would show is inside of the interval of 95 % in 92 to 99 % of 400 trials."""
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(400):
        bins, right = calibrated(rng, unlabelled)
        estimate = learned(rng, labelled, bins).estimate(1, Z, 0.0, 0.0)
        assert estimate is not None
        assert estimate.low is not None
        assert estimate.high is not None
        inside += estimate.low <= right.mean() <= estimate.high
    assert 0.92 <= inside / 400 <= 0.99


def test_there_is_no_estimate_before_there_is_enough() -> None:
    """199 labelled events are too few, 200 are not; no distance before the first confidences are complete."""
    rng = np.random.default_rng(3)
    pane = calibrated(rng, 100)[0]
    for count, enough in ((199, False), (200, True)):
        estimate = learned(rng, count, pane).estimate(1, Z, 0.0, 0.0)
        assert estimate is not None
        assert (estimate.accuracy is not None, estimate.low is not None, estimate.high is not None) == (enough,) * 3
        assert estimate.predictions == 100
        assert estimate.confidence_distance is None
    assert learned(rng, 300, pane).estimate(7, Z, 0.0, 0.0) is None
    without = learned(rng, 300, np.full(9, -1, dtype=np.int64))
    assert without.estimate(1, Z, 0.0, 0.0) is None


def test_the_error_is_told_once_enough_labels_came() -> None:
    """From 30 labelled events of a pane on, the estimate is compared with what they say."""
    rng = np.random.default_rng(4)
    confidences = learned(rng, 1_000, calibrated(rng, 200)[0])
    few, many = confidences.estimate(1, Z, 29.0, 29.0), confidences.estimate(1, Z, 15.0, 30.0)
    assert few is not None
    assert many is not None
    assert few.realised_error is None
    assert many.accuracy is not None
    assert many.realised_error == pytest.approx(many.accuracy - 0.5)


@given(seed=st.integers(0, 2**32), skew=st.floats(0.5, 3.0))
@settings(max_examples=60, deadline=None)
def test_the_distance_is_that_of_kolmogorov_and_smirnov(seed: int, skew: float) -> None:
    """Of the bins of a pane from those of the first predictions, and of no later ones."""
    rng = np.random.default_rng(seed)
    bins = confidence_bins(rng.random((REFERENCE + 300, 1)) ** skew)
    confidences = Confidences(5, REFERENCE)
    confidences.predicted(np.repeat([0, 1], [REFERENCE, 300]), bins)
    estimate = confidences.estimate(1, Z, 0.0, 0.0)
    assert estimate is not None
    assert estimate.confidence_distance == pytest.approx(
        stats.ks_2samp(bins[:REFERENCE], bins[REFERENCE:]).statistic, abs=1e-12
    )


def naive_bin(row: list[float]) -> int:
    """The bin of the largest probability, or of what is lacking."""
    total = 0.0
    for each in row:
        total += each
    return score_bin(max(*row, 1.0 - total)) if row else -1


@given(
    st.lists(st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.25]), min_size=4, max_size=4), max_size=8), st.integers(0, 6)
)
@settings(max_examples=200, deadline=None)
def test_bins_of_rows_stay_when_classes_come(rows: list[list[float]], more: int) -> None:
    """A row that is longer by zeros is in the bin it was in, so that a correction takes it from there."""
    for width in range(5):
        cells = np.array([row[:width] for row in rows]).reshape(len(rows), width)
        bins = confidence_bins(cells)
        assert bins.tolist() == [naive_bin(row[:width]) for row in rows]
        if width:
            longer = np.concatenate([cells, np.zeros((len(rows), more))], axis=1)
            np.testing.assert_array_equal(confidence_bins(longer), bins)


def test_rows_without_probabilities_have_no_bin() -> None:
    """NaN in the first column, or no column at all."""
    cells: F64 = np.array([[np.nan, np.nan], [0.25, 0.75]])
    assert confidence_bins(cells).tolist() == [-1, score_bin(0.75)]
    assert confidence_bins(np.array([[0.2], [0.8]])).tolist() == [score_bin(0.8)] * 2


@given(
    rows=st.lists(st.tuples(st.integers(0, 8), st.integers(-1, SCORE_BINS - 1)), max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=5),
)
@settings(max_examples=150, deadline=None)
def test_cuts_change_nothing_and_old_panes_give_way(rows: list[tuple[int, int]], cuts: list[int]) -> None:
    """Of four panes the oldest gives way, one that is older than all is not counted, however the stream is cut."""
    kept: dict[int, list[int]] = {}
    for pane, score in rows:
        if score >= 0 and (pane in kept or len(kept) < 4 or pane > min(kept)):
            if pane not in kept and len(kept) == 4:
                del kept[min(kept)]
            kept.setdefault(pane, [0] * SCORE_BINS)[score] += 1
    first = [score for _, score in rows if score >= 0][:10]
    columns = np.array(rows, dtype=np.int64).reshape(-1, 2)
    for places in ([], sorted(cuts)):
        confidences = Confidences(4, 10)
        for part in np.split(columns, places):
            confidences.predicted(part[:, 0], part[:, 1])
        state = confidences.state()
        assert state["keys"].tolist() == sorted(kept)
        assert state["panes"].tolist() == [kept[pane] for pane in sorted(kept)]
        assert state["first"].tolist() == np.bincount(first, minlength=SCORE_BINS).tolist()


def test_labelled_events_are_taken_away_exactly() -> None:
    """What was added and taken away leaves nothing; rows without a confidence do not count."""
    confidences = Confidences(4, 10)
    bins, right = np.array([5, -1, 5, 90]), np.array([1, 1, 0, 1])
    confidences.labelled(bins, right, np.ones(4, dtype=np.int64))
    assert confidences.state()["labelled"][:, [5, 90]].tolist() == [[2, 1], [1, 1]]
    confidences.labelled(bins, right, -np.ones(4, dtype=np.int64))
    assert not confidences.state()["labelled"].any()


def stored() -> dict[str, AnyArray]:
    """A state of two panes."""
    rng = np.random.default_rng(5)
    source = learned(rng, 600, calibrated(rng, 100)[0])
    return {name: array.copy() for name, array in source.state().items()}


def test_what_was_stored_goes_on() -> None:
    """The same estimate comes from state that was taken back."""
    rng = np.random.default_rng(5)
    source, again = learned(rng, 600, calibrated(rng, 100)[0]), Confidences(10, REFERENCE)
    again.restore(stored())
    assert again.estimate(1, Z, 3.0, 40.0) == source.estimate(1, Z, 3.0, 40.0)
    assert source.estimate(1, Z, 3.0, 40.0) is not None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("keys", np.array([1, 0])),
        ("keys", np.array([0, 0])),
        ("keys", np.array([0])),
        ("keys", np.array(0)),
        ("panes", np.zeros((2, SCORE_BINS), dtype=np.int32)),
        ("panes", np.full((2, SCORE_BINS), -1, dtype=np.int32)),
        ("panes", np.ones((2, SCORE_BINS))),
        ("first", np.full(SCORE_BINS, -1)),
        ("first", np.zeros(SCORE_BINS - 1, dtype=np.int64)),
        ("labelled", np.stack([np.zeros(SCORE_BINS, dtype=np.int64), np.ones(SCORE_BINS, dtype=np.int64)])),
        ("labelled", np.full((2, SCORE_BINS), -1)),
    ],
)
def test_what_cannot_be_is_refused(name: str, value: AnyArray) -> None:
    """Panes out of order, empty ones, negative counts, more right answers than answers, and other shapes."""
    with pytest.raises(ValueError, match="stored confidences"):
        Confidences(10, REFERENCE).restore(stored() | {name: value})
    with pytest.raises(ValueError, match="there are too many"):
        Confidences(1, REFERENCE).restore(stored())
