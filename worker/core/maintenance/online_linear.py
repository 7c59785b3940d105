"""An online linear challenger: River's linear, logistic or softmax regression on features standardised as they come.

A missing cell is the mean of its column. Each column is standardised by its faded mean and variance (Finch 2009,
"Incremental calculation of weighted mean and variance"), so that it keeps up with what drifts, and cut. So one wild
value moves neither the weights nor the variance far; values that stay far off are followed: the variance may grow by
a tenth with each of them. Numbers as targets are standardised likewise.
"""

import math
from typing import Any

import numpy as np

from worker.core.kernels.arrays import F32, F64
from worker.core.options.maintenance import OnlineLinearOptions
from worker.core.state import COUNT_MAX, AnyArray, Arrays, blank, check_like, outside, refuse_if

CUT = 3.0
"""Standardised values are cut here, and so is the gradient by the output. With 5: bike's R2 0.33 instead of 0.34."""
REACH, REACH_ROWS = 10.0, 30
"""From so many rows on, mean and variance learn values no farther than so many standard deviations from the mean."""
NUMBER_MAX = 1e100
"""No stored number is larger: cells and targets are within 1e30."""
_TWO = 2
_STORED = "stored online linear model"


class OnlineLinear:
    """Learns row by row; its state is a few numbers per column. Learning costs O(features x outputs)."""

    def __init__(self, classes: int, features: int, options: OnlineLinearOptions) -> None:
        self._classes, self._features, self._fade = classes, features, options.fade
        self._regression = _regression(classes, features, options.learning_rate)
        # The last column is the target's. Lists: single elements of arrays are slow.
        self._counts = [0] * (features + 1)
        self._means = [0.0] * (features + 1)
        self._variances = [0.0] * (features + 1)

    def learn(self, rows: F32, targets: F64) -> None:
        """Learn rows [n, features] with numbers or codes of classes [n], one after the other."""
        for cells, target in zip(rows.tolist(), targets.tolist(), strict=True):
            self._learn_one(cells, target)

    def predict(self, rows: F32) -> F64:
        """Return numbers [n, 1] or probabilities [n, classes]; NaN before anything was learned."""
        outputs = np.full((len(rows), max(self._classes, 1)), np.nan)
        if self._counts[-1]:
            for row, cells in enumerate(rows.tolist()):
                outputs[row] = self._predict_one(cells)
        return outputs

    def _learn_one(self, cells: list[float], target: float) -> None:
        for column, value in enumerate([*cells, target]):
            if not math.isnan(value):
                self._learn_scale(column, value)
        truth: float | int | bool = int(target)
        if self._classes == 0:
            truth = self._standardised(self._features, target)
        elif self._classes == _TWO:
            truth = bool(target)
        self._regression.learn_one(self._inputs(cells), truth)

    def _learn_scale(self, column: int, value: float) -> None:
        variance, distance = self._variances[column], value - self._means[column]
        if self._counts[column] >= REACH_ROWS and variance > 0.0:
            reach = REACH * math.sqrt(variance)
            distance = min(max(distance, -reach), reach)
        self._counts[column] += 1
        weight = max(1.0 / self._counts[column], self._fade)
        self._means[column] += weight * distance
        self._variances[column] = (1.0 - weight) * (variance + weight * distance * distance)

    def _predict_one(self, cells: list[float]) -> list[float]:
        inputs = self._inputs(cells)
        if self._classes == 0:
            standardised: float = self._regression.predict_one(inputs)
            return [self._means[-1] + standardised * math.sqrt(self._variances[-1])]
        probabilities = self._regression.predict_proba_one(inputs)
        return [probabilities[code] for code in range(self._classes)]  # False == 0 and True == 1 are the same keys

    def _inputs(self, cells: list[float]) -> dict[int, float]:
        inputs = {column: self._standardised(column, value) for column, value in enumerate(cells)}
        if self._classes not in {0, _TWO}:
            inputs[self._features] = 1.0  # River's softmax has no intercept
        return inputs

    def _standardised(self, column: int, value: float) -> float:
        variance = self._variances[column]
        if math.isnan(value) or variance == 0.0:
            return 0.0
        return min(max((value - self._means[column]) / math.sqrt(variance), -CUT), CUT)

    # Storing and restoring.

    def arrays(self) -> dict[str, AnyArray]:
        """Return copies of all state."""
        return {
            "counts": np.array(self._counts, dtype=np.int64),
            "means": np.array(self._means),
            "variances": np.array(self._variances),
            "weights": _weights(self._regression, self._classes, self._features),
        }

    def restore(self, arrays: Arrays) -> None:
        """Take over what `arrays` returned. Raises ValueError, with the reason, for anything else."""
        check_like(_STORED, arrays, self._like())
        refuse_if(
            _STORED,
            {
                "a count is out of range": outside(arrays["counts"], 0, COUNT_MAX),
                "more cells than labels": bool((arrays["counts"] > arrays["counts"][-1]).any()),
                "a mean is out of range": outside(arrays["means"], -NUMBER_MAX, NUMBER_MAX),
                "a variance is out of range": outside(arrays["variances"], 0.0, NUMBER_MAX),
                "a weight is out of range": outside(arrays["weights"], -NUMBER_MAX, NUMBER_MAX),
            },
        )
        self._counts = arrays["counts"].tolist()
        self._means = arrays["means"].tolist()
        self._variances = arrays["variances"].tolist()
        _set_weights(self._regression, self._classes, arrays["weights"])

    def _like(self) -> Arrays:
        columns, outputs = self._features + 1, _outputs(self._classes)
        return {
            "counts": blank(np.int64, columns),
            "means": blank(np.float64, columns),
            "variances": blank(np.float64, columns),
            "weights": blank(np.float64, outputs, columns),
        }


def _outputs(classes: int) -> int:
    """Return the number of linear outputs: two classes need one only."""
    return 1 if classes in {0, _TWO} else classes


def _regression(classes: int, features: int, rate: float) -> Any:  # noqa: ANN401 - one of three classes of River
    """Return River's model with weights of 0."""
    # River takes a second to load, and only a worker with online challengers needs this part of it.
    from river import linear_model, optim  # noqa: PLC0415 - see above

    descent = optim.SGD(rate)
    if classes == 0:
        model: Any = linear_model.LinearRegression(optimizer=descent, intercept_lr=rate, clip_gradient=CUT)
    elif classes == _TWO:
        model = linear_model.LogisticRegression(optimizer=descent, intercept_lr=rate)
    else:
        model = linear_model.SoftmaxRegression(optimizer=descent)
    # Weights in the order of columns from the start: sums have an order that does not depend on the rows.
    _set_weights(model, classes, np.zeros((_outputs(classes), features + 1)))
    return model


def _weights(model: Any, classes: int, features: int) -> F64:  # noqa: ANN401 - one of three classes of River
    """Return the weights and, in the last column, the intercepts."""
    if _outputs(classes) == 1 and classes != 1:
        weights = model.weights
        return np.array([[*(weights[column] for column in range(features)), model.intercept]], dtype=np.float64)
    rows = [[model.weights[code][column] for column in range(features + 1)] for code in range(classes)]
    return np.array(rows, dtype=np.float64)


def _set_weights(model: Any, classes: int, weights: F64) -> None:  # noqa: ANN401 - one of three classes of River
    from river.utils import VectorDict  # noqa: PLC0415 - as in `_regression`

    if _outputs(classes) == 1 and classes != 1:
        *coefficients, intercept = weights[0].tolist()
        model._weights = VectorDict(dict(enumerate(coefficients)))  # noqa: SLF001 - River has no other way in
        model.intercept = intercept
        return
    for code, row in enumerate(weights.tolist()):
        model.weights[code] = dict(enumerate(row))
