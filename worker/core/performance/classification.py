"""Metrics of a classifier from counts of labelled predictions, with the names and values of scikit-learn.

`confusion`, `ranking` and `probabilities` say how each value and interval is computed; this module puts them together.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from worker.core.kernels.arrays import F64
from worker.core.performance import calibration, confusion, probabilities, ranking
from worker.core.performance.calibration import SCORE_BINS, Bins
from worker.core.performance.confusion import Confusion
from worker.core.performance.intervals import Estimate, bracketed, unknown, wilson, wilson_limits

OTHER = "(other)"

_WILSON = "Wilson interval"
_MOVER = "Wilson limits of the classes, combined by MOVER"
_EFFECTIVE = "Wilson interval of a binomial sample with the delta-method variance"

# Name: definition with formula; how its interval is made.
DEFINITIONS: dict[str, str] = {
    "accuracy": f"Share of events whose predicted class is the label's: correct / n; {_WILSON}.",
    "balanced_accuracy": f"Mean recall over the classes that occur in labels: sum TP_k / (TP_k + FN_k) / m; {_MOVER}.",
    "precision": f"Of the events predicted positive, the share that are: TP / (TP + FP); binary tasks; {_WILSON}.",
    "recall": f"Of the positive events, the share predicted so: TP / (TP + FN); binary tasks; {_WILSON}.",
    "f1": "Harmonic mean of precision and recall: 2 TP / (2 TP + FP + FN); binary tasks; "
    "Wilson limits of TP / (TP + FP + FN), transformed.",
    "precision_macro": f"Mean precision over the classes that occur, 0 for one never predicted; {_MOVER}.",
    "recall_macro": f"Mean recall over the classes that occur, 0 for one without labels; {_MOVER}.",
    "f1_macro": f"Mean F1 over the classes that occur; {_MOVER} with their delta-method correlations.",
    "precision_weighted": f"Mean precision, each class weighted by its labels; {_EFFECTIVE}.",
    "recall_weighted": f"Mean recall, each class weighted by its labels, which is accuracy: correct / n; {_WILSON}.",
    "f1_weighted": f"Mean F1, each class weighted by its labels; {_EFFECTIVE}.",
    "precision_micro": f"Precision over all classes together, which is accuracy: correct / n; {_WILSON}.",
    "recall_micro": f"Recall over all classes together, which is accuracy: correct / n; {_WILSON}.",
    "f1_micro": f"F1 over all classes together, which is accuracy: correct / n; {_WILSON}.",
    "matthews": "Correlation of labels and predictions, R_K = (n tr C - sum r_k c_k) / sqrt((n² - sum r_k²) "
    "(n² - sum c_k²)), r and c the sums of rows and columns; "
    f"{_EFFECTIVE}.",
    "log_loss": "Mean of -log(probability of the label's class); interval of a mean on the log scale.",
    "brier": "Mean of (p - y)² for a binary task, of sum_k (p_k - y_k)² for more classes; interval of a mean on the "
    "log scale.",
    "expected_calibration_error": "Gap of accuracy and confidence in 15 bins of confidence: "
    "sum n_b / n |accuracy_b - confidence_b|; biased upwards; delta method, the lower limit freed of the bias.",
    "roc_auc": "Share of pairs of a positive and a negative that the score orders right, ties counted half; more "
    "classes: mean of one against the rest; "
    "Wilson interval with the size from DeLong's variance.",
    "average_precision": "Precision at the rank of each positive, averaged: sum (R_b - R_b-1) P_b; more classes: mean "
    "of one against the rest; Wilson interval for as many events as positives.",
    "selection_rate": f"Of the labelled events, the share predicted positive: (TP + FP) / n; binary tasks; {_WILSON}.",
    "calibration_in_the_large": "Mean probability of the positive class minus its share in labels, positive when "
    "probabilities are too high: sum (p - y) / n; binary tasks; interval of a mean.",
    "calibration_slope": "Slope b of logit P(y) = a + b logit p (Cox 1958), below 1 when probabilities are too "
    "extreme; binary tasks; maximum likelihood, robust standard error.",
}


class ClassificationFigures(NamedTuple):
    """Sums over labelled predictions, weighted when the window decays.

    `confusion` f64[K + 1, K + 1]: row = the label's code, column = the prediction's; code 0 is "(other)", code k + 1
    is classes[k]. `positive` is the code of the positive class of a binary task, None for more classes.

    `scored` events had probabilities. `score_counts` f64[H, 2, B], over bins of ascending score: [h, 0] the events that
    are not of the class, [h, 1] those that are; H is 1 (the positive class) for a binary task, K for more classes, 0
    without probabilities. `calibration_counts` f64[15, 2]: the events with their confidence (probability of the
    predicted class) in the bin, and the correct ones among them; `calibration_confidence` f64[15]: the sums of
    confidence. `log_loss` and `brier` are sums of terms over scored events, `..._squares` those of squared terms.

    `score_bins` are the bins of scores. `design` is the design effect (`intervals`).
    """

    classes: Sequence[str]
    confusion: F64
    positive: int | None
    scored: float
    score_counts: F64
    calibration_counts: F64
    calibration_confidence: F64
    log_loss: float
    log_loss_squares: float
    brier: float
    brier_squares: float
    design: float = 1.0
    score_bins: Bins = SCORE_BINS


def _precision(figures: ClassificationFigures, z: float) -> Estimate:
    hits, _, predictions = _of_positive(figures)
    return wilson(hits, predictions, z, figures.design)


def _recall(figures: ClassificationFigures, z: float) -> Estimate:
    hits, labels, _ = _of_positive(figures)
    return wilson(hits, labels, z, figures.design)


def _f1(figures: ClassificationFigures, z: float) -> Estimate:
    hits, labels, predictions = _of_positive(figures)
    return confusion.f1_of_class(hits, labels + predictions, z, figures.design)


def _selection_rate(figures: ClassificationFigures, z: float) -> Estimate:
    _, _, predictions = _of_positive(figures)
    return wilson(predictions, float(figures.confusion.sum()), z, figures.design)


def _calibration_in_the_large(figures: ClassificationFigures, z: float) -> Estimate:
    if len(figures.score_counts) == 0:
        return unknown()
    return calibration.calibration_in_the_large(figures.score_counts[0], figures.score_bins, z, figures.design)


def _calibration_slope(figures: ClassificationFigures, z: float) -> Estimate:
    if len(figures.score_counts) == 0:
        return unknown()
    return calibration.calibration_slope(figures.score_counts[0], figures.score_bins, z, figures.design)


def _of_positive(figures: ClassificationFigures) -> tuple[float, float, float]:
    """Return true positives, labels and predictions of the positive class."""
    k, cells = figures.positive, figures.confusion
    assert k is not None, "only a binary task has a positive class"
    return float(cells[k, k]), float(np.add.reduce(cells[k])), float(np.add.reduce(cells[:, k]))


def _log_loss(figures: ClassificationFigures, z: float) -> Estimate:
    return probabilities.log_loss(figures.log_loss, figures.log_loss_squares, figures.scored, z, figures.design)


def _brier(figures: ClassificationFigures, z: float) -> Estimate:
    most = probabilities.BRIER_MAX if figures.positive is None else probabilities.BRIER_MAX_BINARY
    sums = figures.brier, figures.brier_squares, figures.scored
    return probabilities.brier(*sums, z, figures.design, most)


def _calibration(figures: ClassificationFigures, z: float) -> Estimate:
    counts, confidence = figures.calibration_counts, figures.calibration_confidence
    return probabilities.expected_calibration_error(counts, confidence, z, figures.design)


def _roc_auc(figures: ClassificationFigures, z: float) -> Estimate:
    return ranking.roc_auc(figures.score_counts, z, figures.design)


def _average_precision(figures: ClassificationFigures, z: float) -> Estimate:
    return ranking.average_precision(figures.score_counts, z, figures.design)


_OF_CONFUSION: Mapping[str, Callable[[Confusion, float], Estimate]] = {
    "accuracy": confusion.accuracy,
    "balanced_accuracy": confusion.balanced_accuracy,
    "precision_macro": confusion.precision_macro,
    "recall_macro": confusion.recall_macro,
    "f1_macro": confusion.f1_macro,
    "precision_weighted": confusion.precision_weighted,
    "recall_weighted": confusion.accuracy,
    "f1_weighted": confusion.f1_weighted,
    "precision_micro": confusion.accuracy,
    "recall_micro": confusion.accuracy,
    "f1_micro": confusion.accuracy,
    "matthews": confusion.matthews,
}
_OF_POSITIVE: Mapping[str, Callable[[ClassificationFigures, float], Estimate]] = {
    "precision": _precision,
    "recall": _recall,
    "f1": _f1,
    "selection_rate": _selection_rate,
    "calibration_in_the_large": _calibration_in_the_large,
    "calibration_slope": _calibration_slope,
}
_OF_PROBABILITIES: Mapping[str, Callable[[ClassificationFigures, float], Estimate]] = {
    "log_loss": _log_loss,
    "brier": _brier,
    "expected_calibration_error": _calibration,
    "roc_auc": _roc_auc,
    "average_precision": _average_precision,
}


def classification_metrics(
    figures: ClassificationFigures, z: float, *, names: Collection[str] | None = None
) -> dict[str, Estimate]:
    """Return the metrics of `DEFINITIONS`, or those in `names`, in its order.

    Precision, recall and F1 without a suffix, the selection rate and the calibration in the large and its slope are
    there for a binary task only.
    """
    table: Confusion | None = None
    metrics = {}
    for name in DEFINITIONS if names is None else _in_order(frozenset(names)):
        if name in _OF_CONFUSION:
            table = table or Confusion.of(figures.confusion, figures.design)
            metrics[name] = _OF_CONFUSION[name](table, z)
        elif name in _OF_PROBABILITIES:
            metrics[name] = _OF_PROBABILITIES[name](figures, z)
        elif figures.positive is not None:
            metrics[name] = _OF_POSITIVE[name](figures, z)
    return metrics


@cache
def _in_order(names: frozenset[str]) -> list[str]:
    assert names <= DEFINITIONS.keys(), "no such metric"
    return [name for name in DEFINITIONS if name in names]


class _Columns(NamedTuple):
    """One metric for each code; `of` is 0 where there is nothing to compute it from."""

    value: list[float]
    low: list[float]
    high: list[float]
    of: list[float]

    def estimate(self, code: int, support: float) -> Estimate:
        if self.of[code] <= 0.0:
            return unknown(support)
        return bracketed(self.value[code], self.low[code], self.high[code], support, least=0.0, most=1.0)


def _shares(hits: F64, of: F64, z: float, design: float) -> _Columns:
    low, high = wilson_limits(hits / design, of / design, z)
    return _columns(confusion.quotient(hits, of), low, high, of)


def _columns(value: F64, low: F64, high: F64, of: F64) -> _Columns:
    return _Columns(value.tolist(), low.tolist(), high.tolist(), of.tolist())


def class_metrics(figures: ClassificationFigures, z: float) -> dict[str, dict[str, Estimate]]:
    """Return precision, recall and F1 of each class, and of "(other)" when it occurs.

    `support` is the number of events labelled with the class. Precision is None without predictions of the class,
    recall without labels, F1 without both.
    """
    cells, design = figures.confusion, figures.design
    hits, labels, predictions = cells.diagonal(), cells.sum(axis=1), cells.sum(axis=0)
    both = labels + predictions
    columns = {
        "precision": _shares(hits, predictions, z, design),
        "recall": _shares(hits, labels, z, design),
        "f1": _columns(*confusion.f1_estimates(hits, both, z, design), both),
    }
    codes = range(0 if both[0] > 0.0 else 1, len(labels))
    names, support = [OTHER, *figures.classes], labels.tolist()
    return {
        names[code]: {name: column.estimate(code, support[code]) for name, column in columns.items()} for code in codes
    }
