"""Sufficient statistics of labelled predictions as integers: adding a row, and taking it away again, leave no trace.

A tally is a row of `counts` i32[., C] and of `sums` i64[., S, L] (`exact_sum`). What lies where is told by `at`
(`performance.layout`). All of it merges by addition.
"""

import math

import numba
import numpy as np

from worker.core.kernels.arrays import F64, I8, I16, I32, I64
from worker.core.kernels.exact_sum import carry_all, exact_add

LAG_OCTAVES, LAG_STEPS = 37, 8
LAG_BUCKETS = LAG_OCTAVES * LAG_STEPS + 1
"""Of lags in ms: bucket 0 is 0 ms or less; above, eight to an octave, up to some four years."""

SCORE_OCTAVES, SCORE_STEPS = 16, 4
SCORE_BINS = 2 * SCORE_OCTAVES * SCORE_STEPS
"""Of probabilities: four to an octave towards both ends, so that rare classes are resolved, too."""

ERROR_LOW_OCTAVE, ERROR_OCTAVES, ERROR_STEPS = -24, 32, 16
ERROR_BUCKETS = ERROR_OCTAVES * ERROR_STEPS + 2
"""Of absolute errors in units: one bucket below 2^-25, sixteen to an octave, one above 2^7."""

CALIBRATION_BINS = 15
"""Of equal width (Guo et al. 2017, "On calibration of modern neural networks", section 3)."""

LABELLED, LAG, CONFUSION, SCORED, SCORES, CALIBRATION, ERRORS, NON_ZERO, CLIPPED = 0, 1, 2, 3, 4, 5, 6, 7, 8
"""Places in `at` of where the parts of `counts` begin; CLASSES and SCORE_CLASSES hold numbers."""
CLASSES, SCORE_CLASSES = 9, 10
AT = 11

LOG_LOSS, LOG_LOSS_SQUARES, BRIER, BRIER_SQUARES, CONFIDENCE = 0, 1, 2, 3, 4
CLASS_SUMS = CONFIDENCE + CALIBRATION_BINS
CLASS_LANES = 6

ERROR, ABSOLUTE, SQUARES, FOURTH, LABEL1, LABEL2, LABEL3, LABEL4 = 0, 1, 2, 3, 4, 5, 6, 7
SQUARES_LABEL1, SQUARES_LABEL2, PERCENTAGE, PERCENTAGE_SQUARES = 8, 9, 10, 11
NUMBER_SUMS = 12
NUMBER_LANES = 12

VALUE_MAX = 2.0**60
"""In units. Larger values are cut to it and counted, so that a fourth power stays within the lanes."""

_MIDDLE = 0.5
_POSITIVE = 2
"""Code of the class that the one score of a binary task is of."""

_EPSILON = float(np.finfo(np.float64).eps)
"""Probabilities are cut to [eps, 1 - eps] for the log-loss, as scikit-learn does."""


@numba.njit(cache=True, nogil=True)
def score_bin(p: float) -> int:
    """Return the bin of a probability: ascending, symmetric around 0.5, four to an octave. O(1)."""
    near = min(p, 1.0 - p)
    half = SCORE_OCTAVES * SCORE_STEPS
    if near >= _MIDDLE:
        place = half - 1
    else:
        mantissa, exponent = math.frexp(near)
        octave = -exponent - 1
        if near <= 0.0 or octave >= SCORE_OCTAVES:
            place = 0
        else:
            place = half - (octave + 1) * SCORE_STEPS + int((mantissa - 0.5) * 2.0 * SCORE_STEPS)
    return place if p <= _MIDDLE else SCORE_BINS - 1 - place


@numba.njit(cache=True, nogil=True)
def octave_bucket(value: float, low_octave: int, octaves: int, steps: int) -> int:
    """Return 0 below 2^(low_octave - 1), octaves x steps + 1 from 2^(low_octave + octaves - 1) on. O(1)."""
    if value <= 0.0:
        return 0
    mantissa, exponent = math.frexp(value)
    octave = exponent - low_octave
    if octave < 0:
        return 0
    if octave >= octaves:
        return octaves * steps + 1
    return 1 + octave * steps + int((mantissa - 0.5) * 2.0 * steps)


@numba.njit(cache=True, nogil=True)
def bucket_lags(lags_ms: I64, buckets: I16) -> None:
    """Put the bucket of each lag (n) into `buckets`. O(n)."""
    for row in range(lags_ms.shape[0]):
        bucket = octave_bucket(float(lags_ms[row]), 1, LAG_OCTAVES, LAG_STEPS)
        buckets[row] = min(bucket, LAG_BUCKETS - 1)


@numba.njit(cache=True, nogil=True)
def add_classes(
    counts: I32,
    sums: I64,
    slots: I64,
    signs: I8,
    lag_buckets: I16,
    labels: I16,
    predictions: I16,
    probabilities: F64,
    at: I64,
) -> None:
    """Add rows (n) to the tallies in their slots (negative: to none), or take them away (sign -1). O(n K).

    `labels` and `predictions` are class codes (0: other). `probabilities` (n x K) has a column for each class, code 1
    first; a row of them that begins with NaN has none. With one SCORE_CLASSES (binary) the score is that of code 2.
    An event of another class has no score: nothing was said of its class.
    """
    n_classes = at[CLASSES]
    width, last = n_classes + 1, -1
    for row in range(slots.shape[0]):
        slot, sign = slots[row], signs[row]
        if slot < 0:
            continue
        last = _carry_last(sums, last, slot)
        count, label, prediction = counts[slot], int(labels[row]), int(predictions[row])
        count[at[LABELLED]] += sign
        count[at[LAG] + lag_buckets[row]] += sign
        count[at[CONFUSION] + label * width + prediction] += sign
        if at[SCORE_CLASSES] == 0 or label == 0 or np.isnan(probabilities[row, 0]):
            continue
        count[at[SCORED]] += sign
        if at[SCORE_CLASSES] == 1:
            _add_score(count, at[SCORES], 0, label == _POSITIVE, probabilities[row, 1], sign)
        else:
            for each in range(n_classes):
                _add_score(count, at[SCORES], each, label == each + 1, probabilities[row, each], sign)
        _add_losses(count, sums[slot], probabilities[row], label, prediction, sign, at)
    _carry_last(sums, last, -1)


@numba.njit(cache=True, nogil=True)
def _carry_last(sums: I64, last: int, slot: int) -> int:
    """When the row before was of another slot, bring its sums into normal form; return the slot. Once for all rows."""
    if slot != last and last >= 0:
        carry_all(sums[last])
    return slot


@numba.njit(cache=True, nogil=True)
def _add_score(count: I32, begin: int, place: int, is_class: bool, p: float, sign: int) -> None:  # noqa: FBT001 - a row's fact
    count[begin + (2 * place + is_class) * SCORE_BINS + score_bin(p)] += sign


@numba.njit(cache=True, nogil=True)
def _add_losses(count: I32, sums: I64, probabilities: F64, label: int, prediction: int, sign: int, at: I64) -> None:
    n_classes = at[CLASSES]
    loss = -math.log(min(max(probabilities[label - 1], _EPSILON), 1.0 - _EPSILON))
    brier = 0.0
    if at[SCORE_CLASSES] == 1:
        brier = (probabilities[1] - np.float64(label == _POSITIVE)) ** 2
    else:
        for each in range(n_classes):
            brier += (probabilities[each] - np.float64(label == each + 1)) ** 2
    confidence = probabilities[prediction - 1] if prediction > 0 else 0.0
    place = min(int(confidence * CALIBRATION_BINS), CALIBRATION_BINS - 1)
    count[at[CALIBRATION] + 2 * place] += sign
    count[at[CALIBRATION] + 2 * place + 1] += sign * (label == prediction)
    exact_add(sums[LOG_LOSS], loss, sign)
    exact_add(sums[LOG_LOSS_SQUARES], loss * loss, sign)
    exact_add(sums[BRIER], brier, sign)
    exact_add(sums[BRIER_SQUARES], brier * brier, sign)
    exact_add(sums[CONFIDENCE + place], confidence, sign)


@numba.njit(cache=True, nogil=True)
def add_numbers(
    counts: I32,
    sums: I64,
    slots: I64,
    signs: I8,
    lag_buckets: I16,
    labels: F64,
    predictions: F64,
    center: float,
    unit: float,
    at: I64,
) -> None:
    """Add rows (n) of a regression to the tallies in their slots, or take them away (sign -1). O(n)."""
    last = -1
    for row in range(slots.shape[0]):
        slot, sign = slots[row], signs[row]
        if slot < 0:
            continue
        last = _carry_last(sums, last, slot)
        count, total = counts[slot], sums[slot]
        raw_error = predictions[row] - labels[row]
        y, error = (labels[row] - center) / unit, raw_error / unit
        if not (abs(y) <= VALUE_MAX and abs(error) <= VALUE_MAX):
            count[at[CLIPPED]] += sign
            y = min(max(y, -VALUE_MAX), VALUE_MAX)
            error = min(max(error, -VALUE_MAX), VALUE_MAX)
        count[at[LABELLED]] += sign
        count[at[LAG] + lag_buckets[row]] += sign
        count[at[ERRORS] + octave_bucket(abs(error), ERROR_LOW_OCTAVE, ERROR_OCTAVES, ERROR_STEPS)] += sign
        squared, y2 = error * error, y * y
        exact_add(total[ERROR], error, sign)
        exact_add(total[ABSOLUTE], abs(error), sign)
        exact_add(total[SQUARES], squared, sign)
        exact_add(total[FOURTH], squared * squared, sign)
        exact_add(total[LABEL1], y, sign)
        exact_add(total[LABEL2], y2, sign)
        exact_add(total[LABEL3], y2 * y, sign)
        exact_add(total[LABEL4], y2 * y2, sign)
        exact_add(total[SQUARES_LABEL1], squared * y, sign)
        exact_add(total[SQUARES_LABEL2], squared * y2, sign)
        if labels[row] != 0.0:
            share = min(abs(raw_error / labels[row]), VALUE_MAX)
            count[at[NON_ZERO]] += sign
            exact_add(total[PERCENTAGE], share, sign)
            exact_add(total[PERCENTAGE_SQUARES], share * share, sign)
    _carry_last(sums, last, -1)


@numba.njit(cache=True, nogil=True)
def bin_scores(values: F64, bins: I64) -> None:
    """Put the bin of each probability (n) into `bins`, -1 for NaN. O(n)."""
    for row in range(values.shape[0]):
        bins[row] = -1 if np.isnan(values[row]) else score_bin(values[row])
