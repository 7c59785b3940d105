"""What a window of one series says of its calibration: the signed error and the slope, against absolute limits."""

import math
from collections.abc import Container
from typing import NamedTuple

from worker.core.events import Changed
from worker.core.options import BiasOptions
from worker.core.performance.intervals import Estimate
from worker.core.performance.layout import labelled, regression_figures
from worker.core.performance.reference import Look
from worker.core.performance.regression import label_deviation
from worker.core.performance.series import Series
from worker.core.performance.task import Task
from worker.core.performance.windowed import Outcome, Outcomes
from worker.core.standing import Finding
from worker.core.telling import Place

SUBJECT = "prediction"
_CRITICAL = 2.0
"""Critical is what is so many times the limit."""


class _Judged(NamedTuple):
    """A value on a scale on which `limit` is 1, and what is right is 0."""

    broken: bool
    effect: float


def measures_of(task: Task) -> tuple[str, ...]:
    """Return the metrics that tell of the calibration of a task; there are none for more than two classes."""
    return {"binary": ("calibration_in_the_large", "calibration_slope"), "regression": ("bias",)}.get(task.name, ())


def calibration_outcomes(
    task: Task,
    series: Series,
    size: int,
    look: Look,
    options: BiasOptions,
    since: Place,
    held: Container[str],
) -> Outcomes:
    """Judge the window of so many blocks that ends now; `since` is its first labelled prediction."""
    measures = measures_of(task)
    tally = series.tally(size, sums=task.is_regression)
    if task.is_regression:
        found = look.formulas.estimates(tally, series.layout, look.z, measures)
        deviation = label_deviation(regression_figures(tally, series.layout, task))
    else:
        found, deviation = look.formulas.of_calibration(tally, series.layout, look.z), 1.0
    outcomes, looked_at = {}, 0
    for measure in measures:
        estimate = found.get(measure)
        if estimate is None or estimate.value is None or estimate.low is None or estimate.high is None:
            continue
        if estimate.support < options.support_min or deviation is None:
            continue
        looked_at += 1
        judged = _judge(measure, estimate, options, deviation)
        if judged.effect > 1.0 or measure in held:
            finding = _finding(measure, estimate, judged, since)
            outcomes[measure] = Outcome(judged.broken, judged.effect <= 1.0, finding, int(labelled(tally)))
    return Outcomes(outcomes, looked_at)


def _judge(measure: str, estimate: Estimate, options: BiasOptions, deviation: float) -> _Judged:
    """Judge one measure. What the bins of a histogram can have added to it is not held against it."""
    value, low, high = estimate.value or 0.0, estimate.low or 0.0, estimate.high or 0.0
    error = estimate.error_max or 0.0
    if measure == "calibration_slope":
        error *= _LIKELY
        least, most = options.slope_min, 1.0 / options.slope_min
        # A slope that is not positive is as bad as can be told on the scale of ratios.
        ratio = abs(math.log(max(value, least**_STEPS_MAX))) / math.log(most)
        return _Judged(high + error < least or low - error > most, ratio)
    limit = options.error_max * deviation
    return _Judged(low - error > limit or high + error < -limit, abs(value) / limit)


_STEPS_MAX = 10
_LIKELY = 1.0 / 3.0
"""Of the error that bins can add to a slope, what is likely: were scores spread evenly over some 27 bins in use, 3
standard deviations would be a third of what there is when all lie at those ends that change the slope most."""


def _finding(measure: str, estimate: Estimate, judged: _Judged, since: Place) -> Finding:
    changed = Changed(
        name=SUBJECT,
        measure=measure,
        observed=estimate.value,
        expected=1.0 if measure == "calibration_slope" else 0.0,
        low=estimate.low,
        high=estimate.high,
        effect=judged.effect,
        since_offset=since.offset,
        since_ms=since.time_ms,
    )
    return Finding(changed, "critical" if judged.effect >= _CRITICAL else "warning")


def calibration_text(worst: Changed) -> str:
    """Return the worst of it as a sentence."""
    interval = f"{worst.observed:.3g} ({worst.low:.3g} to {worst.high:.3g})"
    if worst.measure == "calibration_slope":
        return f"the calibration slope is {interval} instead of 1"
    if worst.measure == "bias":
        return f"predictions miss the labels by {interval} in the mean"
    return f"probabilities miss the share of positives by {interval} in the mean"
