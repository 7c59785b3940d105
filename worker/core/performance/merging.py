"""Performance records of one window from several shards, or of several panes, merged to the metrics of all of them.

Counts merge exactly, sums to rounding. So a reader who spreads a model over partitions gets what one shard would have
said, and a reader who wants another window merges its panes.
"""

from collections.abc import Sequence
from math import comb

import numpy as np

from worker.core.events import BucketCounts, ClassificationParts, PerformanceEvent, RegressionParts
from worker.core.kernels import tally as k
from worker.core.kernels.arrays import F64
from worker.core.performance.classification import ClassificationFigures, classification_metrics
from worker.core.performance.intervals import Estimate
from worker.core.performance.layout import error_bounds
from worker.core.performance.regression import RegressionFigures, regression_metrics


def latest(records: Sequence[PerformanceEvent]) -> list[PerformanceEvent]:
    """Return the highest revision of each record."""
    found: dict[str, PerformanceEvent] = {}
    for record in records:
        before = found.get(record.metric_id)
        if before is None or record.revision >= before.revision:
            found[record.metric_id] = record
    return list(found.values())


def merge_performance(
    records: Sequence[PerformanceEvent], z: float, positive: str | None = None
) -> dict[str, Estimate]:
    """Return the metrics of all records together; each must be there once (`latest`).

    Args:
        records: of panes or lifetimes of one model; those of other windows hold no parts.
        z: width of the intervals in standard errors, 1.96 for 95 %.
        positive: name of the positive class of a binary task.

    Raises:
        ValueError: they are of several models or tasks, or hold no parts.
    """
    if len({(record.model_id, record.task) for record in records}) != 1:
        raise ValueError("records of exactly one model and task can be merged")
    if records[0].task == "regression":
        numbers = [record.regression for record in records if record.regression is not None]
        counts = [record.labelled for record in records if record.regression is not None]
        _refuse_partless(numbers, records)
        return regression_metrics(_regression(numbers, counts), z)
    parts = [record.classification for record in records if record.classification is not None]
    _refuse_partless(parts, records)
    return classification_metrics(_classification(parts, positive, is_binary=records[0].task == "binary"), z)


def _refuse_partless(parts: Sequence[object], records: Sequence[PerformanceEvent]) -> None:
    if len(parts) != len(records):
        raise ValueError("only records of panes and lifetimes hold what can be merged")


def _classification(
    parts: Sequence[ClassificationParts], positive: str | None, *, is_binary: bool
) -> ClassificationFigures:
    names = list(dict.fromkeys(name for part in parts for name in part.classes))
    code = {name: place for place, name in enumerate(names, start=1)}
    matrix = np.zeros((len(names) + 1, len(names) + 1))
    for part in parts:
        places = [0, *(code[name] for name in part.classes)]
        matrix[np.ix_(places, places)] += np.array(part.confusion, dtype=np.float64)
    positive = positive or (max(names) if len(names) > 1 else None)
    scored = [positive] if is_binary else names
    scores = np.zeros((len(scored) if any(part.scored for part in parts) else 0, 2, k.SCORE_BINS))
    for place in range(len(scores)):
        for part in parts:
            scores[place] += _scores(part, scored[place], is_binary=is_binary)
    sums = {name: sum(getattr(part, name) for part in parts) for name in _LOSSES}
    bins = [np.array(part.calibration or np.zeros((k.CALIBRATION_BINS, 2)), dtype=np.float64) for part in parts]
    return ClassificationFigures(
        classes=names,
        confusion=matrix,
        positive=code[positive] if is_binary and positive is not None else None,
        scored=float(sum(part.scored for part in parts)),
        score_counts=scores,
        calibration_counts=np.sum(bins, axis=0),
        calibration_confidence=np.sum([part.confidence or [0.0] * k.CALIBRATION_BINS for part in parts], axis=0),
        **sums,
    )


_LOSSES = ("log_loss", "log_loss_squares", "brier", "brier_squares")


def _scores(part: ClassificationParts, name: str | None, *, is_binary: bool) -> F64:
    """Return the histograms of one class: of the others, and of the class."""
    found = np.zeros((2, k.SCORE_BINS))
    for each in part.scores:
        pair = np.stack([_spread(each.of_others, k.SCORE_BINS), _spread(each.of_class, k.SCORE_BINS)])
        if each.class_name == name:
            found += pair
        elif is_binary:
            # The other class of two: its probability is what is left to 1.
            found += pair[::-1, ::-1]
    if not part.scores and part.scored and not is_binary:
        raise ValueError("a record has scores and does not")
    if part.scored and not any(each.class_name == name for each in part.scores) and not is_binary:
        # A class that this part has not met: probability 0 for all.
        found[0, 0] += part.scored
    return found


def _spread(buckets: BucketCounts, length: int) -> F64:
    found = np.zeros(length)
    found[buckets.start : buckets.start + len(buckets.counts)] = buckets.counts
    return found


def _regression(parts: Sequence[RegressionParts], counts: Sequence[float]) -> RegressionFigures:
    """Bring all sums to the center of the first part and the smallest unit, and add them."""
    center, unit = parts[0].center, min(part.unit for part in parts)
    octaves = [round(np.log2(part.unit / unit)) for part in parts]
    total = np.zeros(len(_MOMENTS))
    errors = np.zeros(k.ERROR_BUCKETS + max(octaves) * k.ERROR_STEPS)
    for part, n, above in zip(parts, counts, octaves, strict=True):
        total += _moved(part, n, center, unit)
        # In a unit that is 2^octaves as large, the same bucket lies so many octaves higher.
        begin = above * k.ERROR_STEPS
        errors[begin : begin + k.ERROR_BUCKETS] += _spread(part.errors, k.ERROR_BUCKETS)
    values = dict(zip(_MOMENTS, total.tolist(), strict=True))
    return RegressionFigures(
        n=sum(counts),
        center=center,
        unit=unit,
        **values,
        percentage=sum(part.percentage for part in parts),
        percentage_squares=sum(part.percentage_squares for part in parts),
        percentage_n=float(sum(part.percentage_n for part in parts)),
        absolute_counts=errors,
        absolute_bounds=error_bounds(k.ERROR_OCTAVES + max(octaves)),
    )


_MOMENTS = (
    "error",
    "absolute",
    "squares",
    "fourth",
    "label1",
    "label2",
    "label3",
    "label4",
    "squares_label1",
    "squares_label2",
)


def _moved(part: RegressionParts, n: float, center: float, unit: float) -> F64:
    """Return the sums of a part about another center, in another unit, by the binomial theorem."""
    scale, shift = part.unit / unit, (part.center - center) / unit
    powers = [n, part.label1, part.label2, part.label3, part.label4]
    labels = [
        sum(comb(power, i) * scale**i * powers[i] * shift ** (power - i) for i in range(power + 1))
        for power in range(1, 5)
    ]
    squares = part.squares * scale**2
    first = scale**2 * (scale * part.squares_label1 + shift * part.squares)
    second = scale**2 * (
        scale**2 * part.squares_label2 + 2.0 * scale * shift * part.squares_label1 + shift**2 * part.squares
    )
    return np.array(
        [
            part.error * scale,
            part.absolute * scale,
            squares,
            part.fourth * scale**4,
            *labels,
            first,
            second,
        ]
    )
