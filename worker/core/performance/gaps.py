"""Gaps between the groups of a segment: each value against all the others together, with simultaneous intervals.

Shares are compared by the hybrid score interval of Newcombe (1998, method 10), means by MOVER (Zou & Donner 2008):
both are `intervals.difference`. All groups of a segment are looked at, so each interval has the confidence 1 - alpha/K
for K comparisons (Bonferroni; Dunn 1961): together they hold with 1 - alpha, whatever their dependence. (The step-down
test of Holm (1979) rejects a little more, but gives no intervals.) Two groups are one comparison.
"""

from collections.abc import Container, Iterator
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np

from worker.core.kernels import group_tally as k
from worker.core.kernels.arrays import F64, Bool
from worker.core.performance.groups import RIGHT, WIDTH, WRONG, Sides
from worker.core.performance.intervals import difference, mean_interval, positive_mean_interval, wilson

GapKind = Literal["bias.selection_rate", "bias.true_positive_rate", "bias.error"]

POSITIVES_MIN = 30.0
"""Positive events on either side from which true-positive rates are compared."""
_PAIR = 2


class Gap(NamedTuple):
    """How one group differs from the others; `low` and `high` None: it is within the limit, so nobody asked."""

    value_id: int
    measure: str
    value: float
    others: float
    gap: float
    """Of shares as it is; of absolute errors in shares of the mean one, of signed ones in deviations of the label."""
    low: float | None
    high: float | None
    events: int
    """Labelled events of the group."""


class Rules(NamedTuple):
    """What is compared: events needed on either side, the limit, and the confidence of all intervals together."""

    support_min: int
    gap_max: float
    confidence: float


def gap_kinds(task: str) -> tuple[GapKind, ...]:
    """Return what is compared for a task: a rate of a class needs one that is the positive one."""
    if task == "binary":
        return "bias.selection_rate", "bias.true_positive_rate", "bias.error"
    return ("bias.error",)


def share_gaps(
    kind: GapKind, sides: Sides, positive: int | None, rules: Rules, wanted: Container[str]
) -> tuple[list[Gap], int]:
    """Return the gaps of a classification beyond the limit, and those of `wanted` values; and how many were looked at.

    Args:
        kind: which share.
        sides: cells of a confusion matrix (binary: WIDTH x WIDTH), or right and wrong answers.
        positive: code of the positive class, None where it is unknown or there is none.
        rules: the limit.
        wanted: ids of values, as text, whose gap is asked for in any case.
    """
    hits, of = _shares(kind, sides.counts, positive)
    n = sides.counts.sum(axis=1)
    enough = _both(n, rules.support_min)
    if kind == "bias.true_positive_rate":
        enough &= _both(of, POSITIVES_MIN)
    enough &= _both(of, 1.0)
    compared = int(enough.sum())
    found = []
    for row in np.flatnonzero(enough).tolist():
        mine = float(hits[row]), float(of[row])
        rest = float(hits.sum()) - mine[0], float(of.sum()) - mine[1]
        value, others = mine[0] / mine[1], rest[0] / rest[1]
        gap, low, high = value - others, None, None
        if abs(gap) > rules.gap_max:
            z = _z(rules.confidence, compared)
            gap, low, high = difference(wilson(*mine, z), wilson(*rest, z))
        elif str(sides.ids[row]) not in wanted:
            continue
        found.append(Gap(sides.ids[row], MEASURES[kind], value, others, gap, low, high, int(n[row])))
    return found, compared


MEASURES = {"bias.selection_rate": "selection_rate", "bias.true_positive_rate": "recall", "bias.error": "error_rate"}
"""What is compared in a classification."""


def _shares(kind: GapKind, counts: F64, positive: int | None) -> tuple[F64, F64]:
    """Return hits and events, f64[g], of each group."""
    if counts.shape[1] == RIGHT + WRONG + 1:
        return counts[:, WRONG], counts.sum(axis=1)
    cells = counts.reshape(-1, WIDTH, WIDTH)
    n = cells.sum(axis=(1, 2))
    if kind == "bias.error":
        return n - np.trace(cells, axis1=1, axis2=2), n
    if positive is None:
        return np.zeros(len(n)), np.zeros(len(n))
    if kind == "bias.selection_rate":
        return cells[:, :, positive].sum(axis=1), n
    return cells[:, positive, positive], cells[:, positive].sum(axis=1)


def error_gaps(
    sides: Sides, unit: float, deviation: float | None, rules: Rules, wanted: Container[str]
) -> tuple[list[Gap], int]:
    """Return the same of a regression: of each group the larger one of two gaps.

    Of the mean absolute error, in shares of that of all; and of the mean signed error, in deviations of the label.
    The scales are taken as known: they rest on all events, and both sides have the same.

    Args:
        sides: sums of errors in units.
        unit: in units of the label.
        deviation: standard deviation of the label; None where it is unknown.
        rules: the limit.
        wanted: ids of values, as text, whose gap is asked for in any case.
    """
    n, sums = sides.counts[:, 0], sides.sums
    enough = _both(n, rules.support_min)
    compared = int(enough.sum())
    if compared == 0:
        return [], 0
    scales = _Scales(float(sums[:, k.ABSOLUTE].sum() / n.sum()), None if deviation is None else deviation / unit)
    found = []
    for row in np.flatnonzero(enough).tolist():
        value_id = sides.ids[row]
        means = _Means(
            sums[row].tolist(), float(n[row]), (sums.sum(axis=0) - sums[row]).tolist(), float(n.sum() - n[row])
        )
        largest = max(_distances(means, scales))
        if largest <= rules.gap_max and str(value_id) not in wanted:
            continue
        gaps = list(_mean_gaps(means, scales, _z(rules.confidence, compared)))
        if gaps:
            told = max(gaps, key=lambda each: (_excludes(each, rules.gap_max), abs(each.gap)))
            value, others = told.value * unit, told.others * unit
            found.append(told._replace(value_id=value_id, value=value, others=others, events=int(n[row])))
    return found, compared


def _excludes(gap: Gap, limit: float) -> bool:
    return gap.low is not None and gap.high is not None and (gap.low > limit or gap.high < -limit)


class _Means(NamedTuple):
    """Sums and events of a group, and of the others."""

    mine: list[float]
    n: float
    rest: list[float]
    rest_n: float


class _Scales(NamedTuple):
    """In what gaps are told, in units: the mean absolute error of all, and the deviation of the label."""

    mean: float
    deviation: float | None


def _distances(means: _Means, scales: _Scales) -> Iterator[float]:
    """Yield how large the gaps are, without their intervals."""
    gaps = [one / means.n - other / means.rest_n for one, other in zip(means.mine, means.rest, strict=True)]
    yield abs(gaps[k.ABSOLUTE]) / scales.mean if scales.mean > 0.0 else 0.0
    if scales.deviation is not None:
        yield abs(gaps[k.ERROR]) / scales.deviation


def _mean_gaps(means: _Means, scales: _Scales, z: float) -> Iterator[Gap]:
    """Yield the gaps of the mean absolute and signed error; all in units."""
    sides = ((means.mine, means.n), (means.rest, means.rest_n))
    if scales.mean > 0.0:
        one, other = (positive_mean_interval(s[k.ABSOLUTE], s[k.SQUARES], n, z) for s, n in sides)
        gap, low, high = (each / scales.mean for each in difference(one, other))
        yield Gap(0, "mae", one.value or 0.0, other.value or 0.0, gap, low, high, 0)
    if scales.deviation is not None:
        one, other = (mean_interval(s[k.ERROR], s[k.SQUARES], n, z) for s, n in sides)
        gap, low, high = (each / scales.deviation for each in difference(one, other))
        yield Gap(0, "bias", one.value or 0.0, other.value or 0.0, gap, low, high, 0)


def _both(n: F64, least: float) -> Bool:
    """Tell which groups (g) have enough events, as have the others together."""
    found: Bool = (n >= least) & (n.sum() - n >= least)
    return found


def _z(confidence: float, compared: int) -> float:
    """Return how many standard errors wide each of so many intervals is."""
    comparisons = 1 if compared == _PAIR else max(compared, 1)
    return NormalDist().inv_cdf(1.0 - (1.0 - confidence) / (2.0 * comparisons))
