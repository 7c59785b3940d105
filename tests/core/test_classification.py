"""Metrics of a classifier: the values of scikit-learn, and intervals that hold the truth as often as they say."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from worker.core.kernels.arrays import F64, I64
from worker.core.performance.calibration import Bins
from worker.core.performance.classification import (
    DEFINITIONS,
    OTHER,
    ClassificationFigures,
    class_metrics,
    classification_metrics,
)
from worker.core.performance.intervals import Estimate

Z = 1.959963984540054
CALIBRATION_BINS = 15
OF_BIAS = {"selection_rate", "calibration_in_the_large", "calibration_slope"}
BINARY_ONLY = {"precision", "recall", "f1"} | OF_BIAS
OF_PROBABILITIES = {"log_loss", "brier", "expected_calibration_error", "roc_auc", "average_precision"}
OF_CONFUSION = DEFINITIONS.keys() - BINARY_ONLY - OF_PROBABILITIES


def figures_of(
    labels: I64,
    predictions: I64,
    probabilities: F64 | None = None,
    *,
    n_classes: int,
    n_bins: int = 200,
    binary: bool = False,
) -> ClassificationFigures:
    """Count rows in the obvious way: codes 1 to K of labels and predictions, 0 = other, probabilities f64[n, K]."""
    matrix = np.zeros((n_classes + 1, n_classes + 1))
    np.add.at(matrix, (labels, predictions), 1.0)
    classes = [f"class {k}" for k in range(n_classes)]
    positive = 2 if binary else None
    calibration, confidence = np.zeros((CALIBRATION_BINS, 2)), np.zeros(CALIBRATION_BINS)
    if probabilities is None:
        scores = np.zeros((0, 2, n_bins))
        return ClassificationFigures(classes, matrix, positive, 0.0, scores, calibration, confidence, 0, 0, 0, 0)
    codes = [2] if binary else list(range(1, n_classes + 1))
    scores = np.zeros((len(codes), 2, n_bins))
    log_terms, brier_terms = np.zeros(len(labels)), np.zeros(len(labels))
    for i, (label, prediction, row) in enumerate(zip(labels, predictions, probabilities, strict=True)):
        for h, code in enumerate(codes):
            scores[h, int(label == code), min(int(row[code - 1] * n_bins), n_bins - 1)] += 1.0
            brier_terms[i] += (row[code - 1] - (label == code)) ** 2
        log_terms[i] = -np.log(row[label - 1])
        sure = row[prediction - 1]
        place = min(int(sure * CALIBRATION_BINS), CALIBRATION_BINS - 1)
        calibration[place] += (1.0, label == prediction)
        confidence[place] += sure
    sums = log_terms.sum(), (log_terms**2).sum(), brier_terms.sum(), (brier_terms**2).sum()
    bins = Bins.of(np.linspace(0.0, 1.0, n_bins + 1))
    log_loss, log_squares, brier, brier_squares = map(float, sums)
    return ClassificationFigures(
        classes,
        matrix,
        positive,
        len(labels),
        scores,
        calibration,
        confidence,
        log_loss,
        log_squares,
        brier,
        brier_squares,
        score_bins=bins,
    )


def scaled(figures: ClassificationFigures, by: float, design: float) -> ClassificationFigures:
    """All counts and sums times a factor."""
    kept = {"classes", "positive", "design", "score_bins"}
    numbers = {name: getattr(figures, name) * by for name in figures._fields if name not in kept}
    return figures._replace(**numbers, design=design)


def ordered(estimate: Estimate, least: float, most: float) -> bool:
    """Whether the limits hold the value and are in the range of the metric."""
    assert estimate.value is not None
    assert estimate.low is not None
    assert estimate.high is not None
    return least <= estimate.low <= estimate.value <= estimate.high <= most


def expected_of_confusion(labels: I64, predictions: I64) -> dict[str, float]:
    """What scikit-learn says of the same rows."""
    names = np.array([f"name {code}" for code in range(30)])
    y, p = names[labels], names[predictions]
    expected = {"accuracy": sk.accuracy_score(y, p), "matthews": sk.matthews_corrcoef(y, p)}
    expected["balanced_accuracy"] = sk.balanced_accuracy_score(y, p)
    for average in ("macro", "weighted", "micro"):
        for name, score in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)):
            expected[f"{name}_{average}"] = score(y, p, average=average, zero_division=0)
    return expected


ROWS = st.integers(1, 6).flatmap(
    lambda k: st.lists(st.tuples(st.integers(0, k), st.integers(0, k)), min_size=1, max_size=40)
)


@given(rows=ROWS)
@settings(max_examples=100, deadline=None)
def test_values_of_a_confusion_matrix_are_those_of_scikit_learn(rows: list[tuple[int, int]]) -> None:
    """Any labels and predictions, with absent classes, constant predictions and "(other)", give equal values."""
    labels, predictions = (np.array(column) for column in zip(*rows, strict=True))
    found = classification_metrics(figures_of(labels, predictions, n_classes=8), Z)
    assert found.keys() == DEFINITIONS.keys() - BINARY_ONLY
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = expected_of_confusion(labels, predictions)
    if len(set(labels.tolist())) == 1:
        assert found["matthews"].value is None
        del expected["matthews"]
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=1e-12), name
        if name in {"balanced_accuracy", "precision_macro", "recall_macro", "f1_macro"}:
            # As if all classes had as few events as the rarest.
            assert found[name].support <= len(rows)
        else:
            assert found[name].support == len(rows)
        assert ordered(found[name], -1.0 if name == "matthews" else 0.0, 1.0), name
    assert all(found[name].value is None for name in OF_PROBABILITIES)


@given(rows=ROWS)
@settings(max_examples=60, deadline=None)
def test_values_of_a_class_are_those_of_scikit_learn(rows: list[tuple[int, int]]) -> None:
    """Precision, recall and F1 of each class are equal, and None where scikit-learn divides by zero."""
    labels, predictions = (np.array(column) for column in zip(*rows, strict=True))
    figures = figures_of(labels, predictions, n_classes=6)
    found = class_metrics(figures, Z)
    codes = list(range(7))
    expected = sk.precision_recall_fscore_support(labels, predictions, labels=codes, zero_division=np.nan)
    assert list(found)[-6:] == list(figures.classes)
    assert (OTHER in found) == (0 in labels or 0 in predictions)
    for code, name in enumerate([OTHER, *figures.classes]):
        if name not in found:
            continue
        for position, metric in enumerate(("precision", "recall", "f1")):
            value, estimate = expected[position][code], found[name][metric]
            assert estimate.support == expected[3][code]
            if np.isnan(value):
                assert estimate[:3] == (None, None, None)
            else:
                assert estimate.value == pytest.approx(value, abs=1e-12)
                assert ordered(estimate, 0.0, 1.0)


def draw(
    random: np.random.Generator, n: int, n_classes: int, *, rare: float = 0.5, sharpness: float = 2.0
) -> tuple[I64, I64, F64]:
    """Labels, predictions and probabilities of a model that knows something: class 1 has the prior 1 - rare."""
    priors = np.full(n_classes, rare / (n_classes - 1))
    priors[0] = 1.0 - rare
    labels = random.choice(n_classes, n, p=priors) + 1
    logits = random.normal(size=(n, n_classes)) + sharpness * (labels[:, None] == np.arange(1, n_classes + 1))
    weights = np.exp(logits) * priors
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    return labels, probabilities.argmax(axis=1) + 1, probabilities


@given(seed=st.integers(0, 10_000), n=st.integers(2, 60), rare=st.sampled_from([0.5, 0.1]), n_bins=st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_values_of_binary_probabilities_are_those_of_scikit_learn(seed: int, n: int, rare: float, n_bins: int) -> None:
    """Sums give equal values, ranks are within `error_max` for any width of bins; one class alone ranks nothing."""
    labels, predictions, probabilities = draw(np.random.default_rng(seed), n, 2, rare=rare)
    found = classification_metrics(
        figures_of(labels, predictions, probabilities, n_classes=2, n_bins=n_bins, binary=True), Z
    )
    y, score = labels == 2, probabilities[:, 1]
    assert found["log_loss"].value == pytest.approx(sk.log_loss(y, score, labels=[False, True]))
    assert found["brier"].value == pytest.approx(sk.brier_score_loss(y, score, labels=[False, True], pos_label=True))
    if y.all() or not y.any():
        assert found["roc_auc"].value is found["average_precision"].value is None
        return
    for name, score_of in (("roc_auc", sk.roc_auc_score), ("average_precision", sk.average_precision_score)):
        estimate = found[name]
        assert estimate.value is not None
        assert estimate.error_max is not None
        assert abs(estimate.value - score_of(y, score)) <= estimate.error_max + 1e-12, name
        assert ordered(estimate, 0.0, 1.0)
    hits = ((predictions == 2) & y).sum()
    assert found["precision"].value == (pytest.approx(hits / (predictions == 2).sum()) if 2 in predictions else None)
    assert found["recall"].value == pytest.approx(hits / y.sum())
    assert found["f1"].value == pytest.approx(sk.f1_score(y, predictions == 2, zero_division=0))


@given(seed=st.integers(0, 10_000), levels=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_ranks_are_exact_when_each_score_has_its_own_bin(seed: int, levels: int) -> None:
    """Ties of equal scores are what scikit-learn makes of them, and its values are met to rounding."""
    random = np.random.default_rng(seed)
    y, place = np.arange(50) % 2 == random.integers(0, 2, 50), random.integers(0, levels, 50)
    y[:2] = False, True
    counts = np.zeros((1, 2, levels))
    np.add.at(counts[0], (y.astype(int), place), 1.0)
    figures = figures_of(np.array([1]), np.array([1]), n_classes=2, binary=True)._replace(score_counts=counts)
    found = classification_metrics(figures, Z, names=["roc_auc", "average_precision"])
    assert found["roc_auc"].value == pytest.approx(sk.roc_auc_score(y, place), abs=1e-12)
    assert found["average_precision"].value == pytest.approx(sk.average_precision_score(y, place), abs=1e-12)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_values_of_multiclass_probabilities_are_those_of_scikit_learn(seed: int) -> None:
    """Four classes: log loss and Brier score are equal, the one-against-the-rest means are within `error_max`."""
    labels, predictions, probabilities = draw(np.random.default_rng(seed), 80, 4, rare=0.6)
    found = classification_metrics(figures_of(labels, predictions, probabilities, n_classes=4), Z)
    assert found["log_loss"].value == pytest.approx(sk.log_loss(labels, probabilities, labels=[1, 2, 3, 4]))
    one_hot = labels[:, None] == np.arange(1, 5)
    assert found["brier"].value == pytest.approx(((probabilities - one_hot) ** 2).sum(axis=1).mean())
    if one_hot.any(axis=0).all():
        expected = {
            "roc_auc": sk.roc_auc_score(labels, probabilities, multi_class="ovr"),
            "average_precision": sk.average_precision_score(one_hot, probabilities, average="macro"),
        }
        for name, value in expected.items():
            estimate = found[name]
            assert estimate.value is not None
            assert estimate.error_max is not None
            assert abs(estimate.value - value) <= estimate.error_max + 1e-12


def test_calibration_error_of_a_known_set() -> None:
    """Ten events with confidence 0.9, seven of them right, are 0.2 off; the lower limit is freed of the bias."""
    counts, confidence = np.zeros((CALIBRATION_BINS, 2)), np.zeros(CALIBRATION_BINS)
    counts[13], confidence[13] = (10.0, 7.0), 9.0
    figures = figures_of(np.array([1]), np.array([1]), n_classes=2)
    figures = figures._replace(calibration_counts=counts, calibration_confidence=confidence, scored=10.0)
    found = classification_metrics(figures, Z, names={"expected_calibration_error"})["expected_calibration_error"]
    assert found.value == pytest.approx(0.2)
    assert found.low == 0.0
    assert ordered(found, 0.0, 1.0)


def test_nothing_is_known_of_nothing() -> None:
    """Without events every metric is None; each one that was asked for is there."""
    nothing = np.zeros(0, dtype=np.int64)
    for binary in (False, True):
        found = classification_metrics(figures_of(nothing, nothing, n_classes=2, binary=binary), Z)
        assert found.keys() == DEFINITIONS.keys() - (set() if binary else BINARY_ONLY)
        assert all(estimate == Estimate(None, None, None, 0.0) for estimate in found.values())
    assert OTHER not in class_metrics(figures_of(nothing, nothing, n_classes=2), Z)


@pytest.mark.parametrize("z", [1.0, Z, 4.4])
@pytest.mark.parametrize("n", [1, 3, 100])
def test_intervals_of_perfect_predictions_are_not_degenerate(n: int, z: float) -> None:
    """Whatever is all right, or all wrong, may have been luck: the other limit is away from the value."""
    labels = np.arange(n) % 2 + 1
    probabilities = np.eye(2)[labels - 1] * 0.98 + 0.01
    right = classification_metrics(figures_of(labels, labels, probabilities, n_classes=2, binary=True), z)
    wrong = classification_metrics(figures_of(labels, 3 - labels, n_classes=2, binary=True), z)
    for name in DEFINITIONS.keys() - {"log_loss", "brier", "expected_calibration_error"} - OF_BIAS:
        value, low, _ = right[name][:3]
        if value is not None and low is not None:
            assert value == pytest.approx(1.0)
            assert low < 1.0 - 0.3 / n, name
        value, _, high = wrong[name][:3]
        if value is not None and high is not None:
            assert value + 0.3 / n < high, name


@given(seed=st.integers(0, 10_000), n_classes=st.integers(2, 5), n=st.integers(5, 100))
@settings(max_examples=40, deadline=None)
def test_intervals_grow_with_z_and_shrink_with_events(seed: int, n_classes: int, n: int) -> None:
    """More confidence means a wider interval; ten times the same events a narrower one of the same value."""
    rows = draw(np.random.default_rng(seed), n, n_classes)
    figures = figures_of(*rows, n_classes=n_classes, binary=n_classes == 2)
    base, sure = classification_metrics(figures, Z), classification_metrics(figures, 4.4)
    more = classification_metrics(scaled(figures, 10.0, 1.0), Z)
    for name, estimate in base.items():
        if estimate.value is None or (name == "calibration_slope" and estimate.low is None):
            continue
        assert width(estimate) <= width(sure[name]) + 1e-12, name
        assert width(more[name]) < width(estimate), name
        assert more[name].value == pytest.approx(estimate.value)
        assert more[name].support == pytest.approx(10.0 * estimate.support)


def width(estimate: Estimate) -> float:
    """The width of the interval."""
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.high - estimate.low


@given(seed=st.integers(0, 10_000), n_classes=st.integers(2, 5), by=st.floats(0.3, 30.0))
@settings(max_examples=40, deadline=None)
def test_the_design_effect_divides_the_counts(seed: int, n_classes: int, by: float) -> None:
    """All counts times a factor, with that factor as the design effect, give the same intervals."""
    rows = draw(np.random.default_rng(seed), 50, n_classes)
    figures = figures_of(*rows, n_classes=n_classes, binary=n_classes == 2)
    other = scaled(figures, by, by)
    pairs = [(classification_metrics(figures, Z), classification_metrics(other, Z))]
    pairs += zip(class_metrics(figures, Z).values(), class_metrics(other, Z).values(), strict=True)
    for base, designed in pairs:
        for name, estimate in base.items():
            same = [value if value is None else pytest.approx(value, abs=1e-9) for value in estimate[:3]]
            assert list(designed[name][:3]) == same, name


def test_names_choose_metrics() -> None:
    """Only the metrics that were asked for come back, with the values they have among all; a strange name is a bug."""
    rows = draw(np.random.default_rng(3), 60, 2)
    figures = figures_of(*rows, n_classes=2, binary=True)
    everything = classification_metrics(figures, Z)
    for name, estimate in everything.items():
        assert classification_metrics(figures, Z, names={name}) == {name: estimate}
    with pytest.raises(AssertionError):
        classification_metrics(figures, Z, names=["accuracies"])


SAMPLES = 400
SCENARIOS: dict[str, dict[str, Any]] = {
    "binary": {"n": 400, "n_classes": 2, "rare": 0.4, "sharpness": 2.0},
    "imbalanced": {"n": 1000, "n_classes": 2, "rare": 0.08, "sharpness": 2.5},
    "strong": {"n": 300, "n_classes": 2, "rare": 0.3, "sharpness": 3.5},
    "four": {"n": 500, "n_classes": 4, "rare": 0.6, "sharpness": 2.0},
}


def quick_figures(labels: I64, predictions: I64, probabilities: F64, n_classes: int) -> ClassificationFigures:
    """As `figures_of`, for many rows; the tests below compare the two."""
    binary, n_bins = n_classes == 2, 500
    codes = [2] if binary else list(range(1, n_classes + 1))
    scores = np.zeros((len(codes), 2, n_bins))
    one_hot = labels[:, None] == np.array(codes)
    chosen = probabilities[:, [code - 1 for code in codes]]
    places = np.minimum((chosen * n_bins).astype(int), n_bins - 1)
    for h in range(len(codes)):
        index = one_hot[:, h] * n_bins + places[:, h]
        scores[h] = np.bincount(index, minlength=2 * n_bins).reshape(2, n_bins)
    log_terms = -np.log(probabilities[np.arange(len(labels)), labels - 1])
    brier_terms = ((chosen - one_hot) ** 2).sum(axis=1)
    sure = probabilities[np.arange(len(labels)), predictions - 1]
    place = np.minimum((sure * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    right = (labels == predictions).astype(float)
    calibration = np.zeros((CALIBRATION_BINS, 2))
    calibration[:, 0], calibration[:, 1] = (
        np.bincount(place, w, CALIBRATION_BINS) for w in (np.ones(len(labels)), right)
    )
    width_of_matrix = n_classes + 1
    matrix = np.bincount(labels * width_of_matrix + predictions, minlength=width_of_matrix**2)
    sums = log_terms.sum(), (log_terms**2).sum(), brier_terms.sum(), (brier_terms**2).sum()
    log_loss, log_squares, brier, brier_squares = map(float, sums)
    return ClassificationFigures(
        [f"class {k}" for k in range(n_classes)],
        matrix.reshape(width_of_matrix, width_of_matrix).astype(float),
        2 if binary else None,
        float(len(labels)),
        scores,
        calibration,
        np.bincount(place, sure, CALIBRATION_BINS).astype(np.float64),
        log_loss,
        log_squares,
        brier,
        brier_squares,
        score_bins=Bins.of(np.linspace(0.0, 1.0, n_bins + 1)),
    )


@pytest.mark.parametrize("n_classes", [2, 4])
def test_the_quick_count_is_the_obvious_one(n_classes: int) -> None:
    """The figures of the simulations are those of the naive function."""
    rows = draw(np.random.default_rng(5), 200, n_classes)
    naive = figures_of(*rows, n_classes=n_classes, n_bins=500, binary=n_classes == 2)
    quick = quick_figures(*rows, n_classes)
    assert all(map(np.array_equal, quick.score_bins, naive.score_bins))
    for name, figure in quick._asdict().items():
        if name == "score_bins":
            continue
        expected = getattr(naive, name)
        assert figure == expected if name in {"classes", "positive"} else np.allclose(figure, expected), name


def coverage(
    compute: Callable[[ClassificationFigures, float], dict[str, Estimate]], scenario: dict[str, Any], samples: int
) -> dict[str, float]:
    """The share of simulated samples whose interval holds the value of a sample of 300,000 rows."""
    options = dict(scenario)
    n, n_classes, random = options.pop("n"), options["n_classes"], np.random.default_rng(20260101)
    truth = compute(quick_figures(*draw(random, 300_000, **options), n_classes), Z)
    held, known = dict.fromkeys(truth, 0), dict.fromkeys(truth, 0)
    for _ in range(samples):
        for name, estimate in compute(quick_figures(*draw(random, n, **options), n_classes), Z).items():
            true = truth[name].value
            assert true is not None
            # Where scores do not overlap, there is no slope.
            known[name] += estimate.value is not None or name != "calibration_slope"
            if estimate.low is not None and estimate.high is not None:
                held[name] += estimate.low <= true <= estimate.high
    return {name: count / known[name] for name, count in held.items()}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_intervals_cover_the_truth(scenario: str) -> None:
    """In 400 samples of 300 to 1000 events, 95 % intervals hold the true value at least nine times in ten."""
    for name, share in coverage(classification_metrics, SCENARIOS[scenario], SAMPLES).items():
        assert share >= 0.9, f"{name}: {share}"
