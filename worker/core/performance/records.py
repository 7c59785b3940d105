"""Windows of a series as metric records: what a person wants to read, and what merges exactly with other shards."""

from typing import Literal, NamedTuple

import numpy as np

from worker.core.events import (
    BucketCounts,
    ClassificationParts,
    ClassMetrics,
    LabelLag,
    MetricValue,
    PerformanceEvent,
    RegressionParts,
    ScoreHistogram,
    SegmentName,
)
from worker.core.identity import derived_id
from worker.core.kernels import tally as k
from worker.core.kernels.arrays import F64
from worker.core.performance.formulas import Formulas, lag_estimates
from worker.core.performance.intervals import Estimate, wilson
from worker.core.performance.layout import (
    Layout,
    Tally,
    classification_figures,
    labelled,
    regression_figures,
)
from worker.core.performance.task import Classes, Task

Z95 = 1.959963984540054
"""Of the published intervals of 95 %."""

Window = Literal["pane", "sliding", "decayed", "lifetime"]
Order = Literal["prediction_time", "label_arrival"]


class Source(NamedTuple):
    """Whose records they are, and what is common to all of them."""

    model_id: str
    model_version: str | None
    shard: int
    task: Task
    classes: Classes | None
    formulas: Formulas


class Extent(NamedTuple):
    """Which window of which series a record is of."""

    segment: SegmentName | None
    order: Order
    window: Window
    start_ms: int | None
    end_ms: int | None
    revision: int
    offset: int
    predictions: int | None


def performance_record(source: Source, extent: Extent, tally: Tally, layout: Layout) -> PerformanceEvent:
    """Build the record of one window."""
    number, predictions = labelled(tally), extent.predictions
    coverage = None
    if predictions:
        # A correction can come for a prediction whose pane is gone: never more than all.
        coverage = _value(wilson(min(number, float(predictions)), float(predictions), Z95))
    lags = lag_estimates(tally, Z95)
    merges = extent.window in ("pane", "lifetime")
    classes = {
        name: ClassMetrics(**{metric: _value(each[metric]) for metric in ("precision", "recall", "f1")})
        for name, each in source.formulas.by_class(tally, layout, Z95).items()
    }
    return PerformanceEvent(
        metric_id=_metric_id(source, extent),
        model_id=source.model_id,
        model_version=source.model_version,
        shard=source.shard,
        task=source.task.name,
        segment=extent.segment,
        order=extent.order,
        window=extent.window,
        start_ms=extent.start_ms,
        end_ms=extent.end_ms,
        revision=extent.revision,
        offset=extent.offset,
        predictions=predictions,
        labelled=number,
        label_coverage=coverage,
        label_lag=LabelLag(_value(lags["label_lag_median"]), _value(lags["label_lag_p95"])),
        metrics={name: _value(each) for name, each in source.formulas.estimates(tally, layout, Z95).items()},
        classes=None if source.classes is None else classes,
        estimate=None,
        classification=_classification(source.classes, tally, layout) if merges and source.classes else None,
        regression=_regression(source.task, tally, layout) if merges and source.task.is_regression else None,
        label_facts=None,
    )


def _metric_id(source: Source, extent: Extent) -> str:
    segment = extent.segment
    named = ("", "") if segment is None else (segment.name, segment.value)
    span = (-1 if extent.start_ms is None else extent.start_ms, -1 if extent.end_ms is None else extent.end_ms)
    return derived_id("performance", source.model_id, source.shard, *named, extent.order, extent.window, *span)


def _value(estimate: Estimate) -> MetricValue:
    return MetricValue(*estimate)


def _classification(classes: Classes, tally: Tally, layout: Layout) -> ClassificationParts:
    names = list(classes.table.names)
    # A binary score is that of code 2, whatever class is the positive one: so it merges.
    binary = layout.at[k.SCORE_CLASSES] == 1
    figures = classification_figures(tally, layout, names, 2 if binary else None)
    scored = names[1:2] if binary else names
    scores = [
        ScoreHistogram(name, trimmed(of_class), trimmed(of_others))
        for name, (of_others, of_class) in zip(scored, figures.score_counts, strict=False)
    ]
    return ClassificationParts(
        classes=names,
        confusion=figures.confusion.astype(np.int64).tolist(),
        scored=int(figures.scored),
        scores=scores if figures.scored else [],
        calibration=figures.calibration_counts.astype(np.int64).tolist(),
        confidence=figures.calibration_confidence.tolist(),
        log_loss=figures.log_loss,
        log_loss_squares=figures.log_loss_squares,
        brier=figures.brier,
        brier_squares=figures.brier_squares,
    )


def _regression(task: Task, tally: Tally, layout: Layout) -> RegressionParts:
    figures = regression_figures(tally, layout, task)
    names = [name for name in RegressionParts.__struct_fields__ if name not in ("errors", "percentage_n")]
    plain = {name: getattr(figures, name) for name in names}
    return RegressionParts(**plain, percentage_n=int(figures.percentage_n), errors=trimmed(figures.absolute_counts))


def trimmed(counts: F64) -> BucketCounts:
    """Return counts without the zeros at both ends."""
    used = np.flatnonzero(counts)
    if len(used) == 0:
        return BucketCounts(0, [])
    first, last = int(used[0]), int(used[-1])
    return BucketCounts(first, counts[first : last + 1].astype(np.int64).tolist())
