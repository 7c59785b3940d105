"""Tallies to estimates: one place that knows which formulas belong to a task, and its metrics by name."""

from collections.abc import Collection, Mapping

import numpy as np

from worker.core.kernels.arrays import F64
from worker.core.kernels.histograms import quantile_places
from worker.core.metric_names import BINARY_METRICS, CLASSIFICATION_METRICS, LAG_METRICS, REGRESSION_METRICS
from worker.core.performance.calibration import SCORE_BINS, calibration_in_the_large, calibration_slope
from worker.core.performance.classification import ClassificationFigures, class_metrics, classification_metrics
from worker.core.performance.confusion import OF_COUNTS, Counts, estimates_of_counts
from worker.core.performance.intervals import Estimate
from worker.core.performance.layout import (
    LAG_MIDDLES,
    Layout,
    Tally,
    classification_figures,
    labelled,
    lag_counts,
    regression_figures,
    score_counts,
)
from worker.core.performance.regression import regression_metrics
from worker.core.performance.task import Classes, Task


class Formulas:
    """The metrics of one task."""

    def __init__(self, task: Task, classes: Classes | None) -> None:
        self._task = task
        self._classes = classes

    @property
    def names(self) -> frozenset[str]:
        """The metrics there are for the task, without those of labels themselves."""
        return {"binary": BINARY_METRICS, "multiclass": CLASSIFICATION_METRICS, "regression": REGRESSION_METRICS}[
            self._task.name
        ]

    def estimates(
        self, tally: Tally, layout: Layout, z: float, names: Collection[str] | None = None
    ) -> dict[str, Estimate]:
        """Return the metrics of a tally, or some of them, with intervals of z standard errors."""
        if self._classes is None:
            return regression_metrics(regression_figures(tally, layout, self._task), z, names=names)
        if names is not None and OF_COUNTS.keys() >= set(names):
            classes = len(self._classes.table) + 1
            counts = Counts(
                tally.counts, layout.matrix_begin, layout.classes + 1, classes, self._positive, tally.design
            )
            return estimates_of_counts(counts, z, names)
        return classification_metrics(self._figures(tally, layout), z, names=names)

    def of_calibration(self, tally: Tally, layout: Layout, z: float) -> dict[str, Estimate]:
        """Return what tells of the calibration of a binary task; nothing without scores, as of another task."""
        positive = self._positive
        scores = score_counts(tally, layout, 0, positive)
        if positive is None or not len(scores):
            return {}
        return {
            "calibration_in_the_large": calibration_in_the_large(scores[0], SCORE_BINS, z, tally.design),
            "calibration_slope": calibration_slope(scores[0], SCORE_BINS, z, tally.design),
        }

    def by_class(self, tally: Tally, layout: Layout, z: float) -> Mapping[str, Mapping[str, Estimate]]:
        """Return precision, recall and F1 of each class; nothing for a regression."""
        return {} if self._classes is None else class_metrics(self._figures(tally, layout), z)

    def _figures(self, tally: Tally, layout: Layout) -> ClassificationFigures:
        if self._classes is None:
            raise AssertionError("a regression has no classes")
        return classification_figures(tally, layout, list(self._classes.table.names), self._positive)

    @property
    def _positive(self) -> int | None:
        """The code of the positive class, unless it is one of a score that no label has named yet."""
        positive = None if self._classes is None else self._classes.positive
        known = self._classes is not None and positive is not None and positive <= len(self._classes.table)
        return positive if known else None


def lag_estimates(tally: Tally, z: float, names: Collection[str] = LAG_METRICS) -> dict[str, Estimate]:
    """Return median and 95 % quantile of the lags (ms), with intervals by order statistics (Hahn, Meeker 1991, 5.2).

    A bucket's middle stands for what is in it, so the relative error is at most 1/16.
    """
    if not names:
        return {}
    return {
        name: quantile_estimate(lag_counts(tally), LAG_MIDDLES, share, z, labelled(tally))
        for name, share in zip(LAG_METRICS, (0.5, 0.95), strict=True)
        if name in names
    }


def needs_sums(names: Collection[str]) -> bool:
    """Whether any of some metrics is made of sums, not of counts alone."""
    return not _SUM_METRICS.isdisjoint(names)


_SUM_METRICS = (REGRESSION_METRICS - {"median_absolute_error"}) | {"log_loss", "brier", "expected_calibration_error"}


def quantile_estimate(counts: F64, middles: F64, share: float, z: float, n: float) -> Estimate:
    """Return a quantile of a histogram; its interval are the values at the ranks n q -+ z sqrt(n q (1 - q))."""
    places = np.empty(3, dtype=np.int64)
    if quantile_places(counts, share, z, places) <= 0.0:
        return Estimate(None, None, None, n)
    value, low, high = middles[places].tolist()
    return Estimate(value, low, high, n)
