"""Sufficient statistics of labelled predictions as integers: adding a row, and taking it away again, leave no trace.

A tally is a row of `counts` i32[., C] and of `sums` i64[., S, L] (`exact_sum`). What lies where is told by `at`
(`performance.layout`). All of it merges by addition.
"""

import math
from typing import NamedTuple, TypeAlias

import numba
import numpy as np

from worker.core.kernels.arrays import F64, I8, I16, I32, I64
from worker.core.kernels.exact_sum import PARTS, carry_all, split

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


class Target(NamedTuple):
    """Tallies that rows are added to, and the slot of each row (n) there; a negative one is none."""

    counts: I32
    sums: I64
    slots: I64


Targets: TypeAlias = tuple[Target, Target, Target]
"""Always as many: another number would be compiled when it comes for the first time, while events wait."""

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
    targets: Targets,
    signs: I8,
    lag_buckets: I16,
    labels: I16,
    predictions: I16,
    probabilities: F64,
    at: I64,
) -> None:
    """Add rows (n) to the tallies in their slots of each target, or take them away (sign -1). O(n K).

    `labels` and `predictions` are class codes (0: other). `probabilities` (n x K) has a column for each class, code 1
    first; a row of them that begins with NaN has none. With one SCORE_CLASSES (binary) the score is that of code 2.
    An event of another class has no score: nothing was said of its class.
    """
    count, n_classes = signs.shape[0], at[CLASSES]
    cells, places = np.empty((count, 6 + n_classes), dtype=np.int32), np.empty((count, _LOSSES), dtype=np.int32)
    used = np.zeros((count, 2), dtype=np.int32)
    terms, parts = np.empty(_LOSSES), np.empty((count, _LOSSES, PARTS), dtype=np.int64)
    for row in range(count):
        label, prediction = int(labels[row]), int(predictions[row])
        cells[row, 0], cells[row, 1] = at[LABELLED], at[LAG] + lag_buckets[row]
        cells[row, 2] = at[CONFUSION] + label * (n_classes + 1) + prediction
        used[row, 0] = 3
        if at[SCORE_CLASSES] > 0 and label > 0 and not np.isnan(probabilities[row, 0]):
            used[row, 0] = _score_cells(probabilities[row], label, prediction, at, cells[row])
            used[row, 1] = _losses(probabilities[row], label, prediction, at, terms, places[row])
            for term in range(_LOSSES):
                split(terms[term], signs[row], parts[row, term])
    for target in targets:
        _add(target, signs, cells, places, parts, used)


@numba.njit(cache=True, nogil=True)
def _add(target: Target, signs: I8, cells: I32, places: I32, parts: I64, used: I32) -> None:
    """Add rows (n), with so many cells of counts and so many terms of sums in use, `used` i32[n, 2]. O(n)."""
    counts, sums, slots = target
    last = -1
    for row in range(slots.shape[0]):
        slot = slots[row]
        # When the row before was of another slot, its sums are brought into normal form: once for all rows in turn.
        if slot != last and last >= 0:
            carry_all(sums[last])
        last = slot
        if slot < 0:
            continue
        for cell in range(used[row, 0]):
            counts[slot, cells[row, cell]] += signs[row]
        for term in range(used[row, 1]):
            place, lane = places[row, term], parts[row, term, 0]
            sums[slot, place, lane] += parts[row, term, 1]
            sums[slot, place, lane + 1] += parts[row, term, 2]
            sums[slot, place, lane + 2] += parts[row, term, 3]
    if last >= 0:
        carry_all(sums[last])


@numba.njit(cache=True, nogil=True)
def _score_cells(probabilities: F64, label: int, prediction: int, at: I64, cells: I32) -> int:
    """Put the cells of the scores and of the confidence behind the first three; return how many there are now."""
    cells[3] = at[SCORED]
    place = _confidence_bin(_confidence(probabilities, prediction))
    cells[4] = at[CALIBRATION] + 2 * place
    end = 5
    if label == prediction:
        cells[end] = at[CALIBRATION] + 2 * place + 1
        end += 1
    if at[SCORE_CLASSES] == 1:
        cells[end] = at[SCORES] + (label == _POSITIVE) * SCORE_BINS + score_bin(probabilities[1])
        return end + 1
    for each in range(at[CLASSES]):
        cells[end] = at[SCORES] + (2 * each + (label == each + 1)) * SCORE_BINS + score_bin(probabilities[each])
        end += 1
    return end


@numba.njit(cache=True, nogil=True)
def _confidence(probabilities: F64, prediction: int) -> float:
    return float(probabilities[prediction - 1]) if prediction > 0 else 0.0


@numba.njit(cache=True, nogil=True)
def _confidence_bin(confidence: float) -> int:
    return min(int(confidence * CALIBRATION_BINS), CALIBRATION_BINS - 1)


_LOSSES = 5


@numba.njit(cache=True, nogil=True)
def _losses(probabilities: F64, label: int, prediction: int, at: I64, terms: F64, places: I32) -> int:
    """Put what a scored row adds to sums into `terms`, and to which ones into `places`; return how many there are."""
    loss = -math.log(min(max(probabilities[label - 1], _EPSILON), 1.0 - _EPSILON))
    brier = 0.0
    if at[SCORE_CLASSES] == 1:
        brier = (probabilities[1] - np.float64(label == _POSITIVE)) ** 2
    else:
        for each in range(at[CLASSES]):
            brier += (probabilities[each] - np.float64(label == each + 1)) ** 2
    confidence = _confidence(probabilities, prediction)
    terms[0], terms[1], terms[2], terms[3], terms[4] = loss, loss * loss, brier, brier * brier, confidence
    places[0], places[1], places[2], places[3] = LOG_LOSS, LOG_LOSS_SQUARES, BRIER, BRIER_SQUARES
    places[4] = CONFIDENCE + _confidence_bin(confidence)
    return _LOSSES


@numba.njit(cache=True, nogil=True)
def add_numbers(
    targets: Targets,
    signs: I8,
    lag_buckets: I16,
    labels: F64,
    predictions: F64,
    center: float,
    unit: float,
    at: I64,
) -> None:
    """Add rows (n) of a regression to the tallies in their slots of each target, or take them away (sign -1). O(n)."""
    count = signs.shape[0]
    cells, places = np.empty((count, 5), dtype=np.int32), np.empty((count, NUMBER_SUMS), dtype=np.int32)
    used = np.empty((count, 2), dtype=np.int32)
    terms, parts = np.empty(NUMBER_SUMS), np.empty((count, NUMBER_SUMS, PARTS), dtype=np.int64)
    for row in range(count):
        n_cells, n_terms = _numbers(labels[row], predictions[row], center, unit, at, cells[row], terms)
        cells[row, n_cells] = at[LAG] + lag_buckets[row]
        used[row, 0], used[row, 1] = n_cells + 1, n_terms
        for term in range(n_terms):
            places[row, term] = term
            split(terms[term], signs[row], parts[row, term])
    for target in targets:
        _add(target, signs, cells, places, parts, used)


@numba.njit(cache=True, nogil=True)
def _numbers(
    label: float, prediction: float, center: float, unit: float, at: I64, cells: I32, terms: F64
) -> tuple[int, int]:
    """Put where a row of a regression counts into `cells`, what it adds to sums into `terms`; return how many."""
    raw_error = prediction - label
    y, error = (label - center) / unit, raw_error / unit
    cells[0], n_cells, n_terms = at[LABELLED], 1, PERCENTAGE
    if not (abs(y) <= VALUE_MAX and abs(error) <= VALUE_MAX):
        cells[n_cells] = at[CLIPPED]
        n_cells += 1
        y = min(max(y, -VALUE_MAX), VALUE_MAX)
        error = min(max(error, -VALUE_MAX), VALUE_MAX)
    cells[n_cells] = at[ERRORS] + octave_bucket(abs(error), ERROR_LOW_OCTAVE, ERROR_OCTAVES, ERROR_STEPS)
    n_cells += 1
    squared, y2 = error * error, y * y
    terms[ERROR], terms[ABSOLUTE], terms[SQUARES], terms[FOURTH] = error, abs(error), squared, squared * squared
    terms[LABEL1], terms[LABEL2], terms[LABEL3], terms[LABEL4] = y, y2, y2 * y, y2 * y2
    terms[SQUARES_LABEL1], terms[SQUARES_LABEL2] = squared * y, squared * y2
    if label != 0.0:
        share = min(abs(raw_error / label), VALUE_MAX)
        cells[n_cells] = at[NON_ZERO]
        terms[PERCENTAGE], terms[PERCENTAGE_SQUARES] = share, share * share
        n_cells, n_terms = n_cells + 1, NUMBER_SUMS
    return n_cells, n_terms


@numba.njit(cache=True, nogil=True)
def bin_scores(values: F64, bins: I64) -> None:
    """Put the bin of each probability (n) into `bins`, -1 for NaN. O(n)."""
    for row in range(values.shape[0]):
        bins[row] = -1 if np.isnan(values[row]) else score_bin(values[row])
