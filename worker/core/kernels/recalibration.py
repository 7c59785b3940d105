"""Outputs of a model put right by coefficients, and what is lost with each set of coefficients, label by label."""

import math

import numba

from worker.core.kernels.arrays import F64, I64
from worker.core.kernels.isotonic import interpolated
from worker.core.kernels.logit_fit import scaled_softmax

BINARY, CLASSES, NUMBER = range(3)
"""Tasks: outputs are the probability of the positive class (n x 1), of each class (n x K), or numbers (n x 1)."""

IDENTITY, PLATT, TEMPERATURE, BETA, ISOTONIC, VECTOR, LINEAR, BIAS = range(8)
"""Methods. Coefficients: PLATT a, b; TEMPERATURE b; BETA a, b, c; ISOTONIC count, x ..., y ...; VECTOR w ..., b ...;
LINEAR a, b; BIAS that of rows without a segment, then that of each segment."""

P_MIN = 1e-5
"""Probabilities count as at least this, and at most 1 less this, before a logarithm is taken."""

LOG_LOSS, BRIER, WRONG = range(3)
"""Losses of a classification; of a regression the first two are the squared and the absolute error."""
SQUARED, ABSOLUTE = range(2)
LOSSES = 3

ECE_BINS = 10
LABELS, FIRST_LOSS, LABEL1, LABEL2, BINS = 0, 1, 4, 5, 6
"""Places in the sums of a block: labels, losses (3), label and its square (of a regression), then for each bin of the
probability its events, their probabilities and how many of them were of the class."""
SUMS = BINS + 3 * ECE_BINS


@numba.njit(cache=True, nogil=True)
def clipped(p: float) -> float:
    """Return p within [P_MIN, 1 - P_MIN]."""
    return min(max(p, P_MIN), 1.0 - P_MIN)


@numba.njit(cache=True, nogil=True)
def _logistic(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-min(max(x, -700.0), 700.0)))


@numba.njit(cache=True, nogil=True)
def recalibrate(task: int, method: int, coefficients: F64, output: F64, segment: int, logits: F64, out: F64) -> None:
    """Put what `method` makes of `output` f64[K] into `out` f64[K]; `logits` f64[K] is overwritten. O(K)."""
    if method == IDENTITY:
        out[:] = output
    elif method == ISOTONIC:
        half = (coefficients.shape[0] - 1) // 2
        knots = int(coefficients[0])
        out[0] = interpolated(output[0], coefficients[1 : 1 + half], coefficients[1 + half :], knots)
    elif task == BINARY:
        p = clipped(output[0])
        if method == PLATT:
            out[0] = _logistic(coefficients[0] + coefficients[1] * math.log(p / (1.0 - p)))
        elif method == TEMPERATURE:
            out[0] = _logistic(coefficients[0] * math.log(p / (1.0 - p)))
        else:
            out[0] = _logistic(coefficients[0] + coefficients[1] * math.log(p) - coefficients[2] * math.log(1.0 - p))
    elif task == CLASSES:
        for each in range(output.shape[0]):
            logits[each] = math.log(clipped(output[each]))
        scaled_softmax(logits, coefficients, method == TEMPERATURE, out)
    elif method == LINEAR:
        out[0] = coefficients[0] + coefficients[1] * output[0]
    else:
        out[0] = output[0] + coefficients[1 + segment]


@numba.njit(cache=True, nogil=True)
def recalibrate_all(
    task: int, methods: I64, coefficients: F64, slots: I64, outputs: F64, segments: I64, out: F64
) -> None:
    """Recalibrate rows, each with the set of coefficients in its slot; out f64[n, K]. O(n K).

    Args:
        task: BINARY, CLASSES or NUMBER.
        methods: i64[G], the method of each slot.
        coefficients: f64[G, W].
        slots: i64[n]; below 0 leaves an output as it is.
        outputs: f64[n, K].
        segments: i64[n], -1 for none.
        out: f64[n, K], filled in.
    """
    logits = outputs[0].copy() if outputs.shape[0] > 0 else outputs.reshape(-1)
    for row in range(outputs.shape[0]):
        slot = slots[row]
        if slot < 0:
            out[row] = outputs[row]
        else:
            recalibrate(task, methods[slot], coefficients[slot], outputs[row], segments[row], logits, out[row])


@numba.njit(cache=True, nogil=True)
def losses_of(task: int, out: F64, target: float, losses: F64) -> None:
    """Put the losses of one output into `losses` f64[LOSSES]; a class is the first of the most probable ones. O(K)."""
    if task == NUMBER:
        error = out[0] - target
        losses[SQUARED], losses[ABSOLUTE], losses[WRONG] = error * error, abs(error), 0.0
    elif task == BINARY:
        p = out[0]
        at_label = p if target > 0.0 else 1.0 - p
        losses[LOG_LOSS] = -math.log(clipped(at_label))
        losses[BRIER] = (p - target) ** 2
        losses[WRONG] = 1.0 if (p >= 0.5) != (target > 0.0) else 0.0  # noqa: PLR2004 - the usual threshold
    else:
        label, best, brier = int(target), 0, 0.0
        for each in range(out.shape[0]):
            if out[each] > out[best]:
                best = each
            brier += (out[each] - (1.0 if each == label else 0.0)) ** 2
        losses[LOG_LOSS], losses[BRIER] = -math.log(clipped(out[label])), brier
        losses[WRONG] = 1.0 if best != label else 0.0


@numba.njit(cache=True, nogil=True)
def _add_sums(task: int, out: F64, target: float, losses: F64, shift: float, sums: F64) -> None:
    sums[LABELS] += 1.0
    for each in range(LOSSES):
        sums[FIRST_LOSS + each] += losses[each]
    if task == NUMBER:
        sums[LABEL1] += target - shift
        sums[LABEL2] += (target - shift) ** 2
        return
    confidence = out[0]
    if task == CLASSES:
        for each in range(1, out.shape[0]):
            confidence = max(confidence, out[each])
    hit = target if task == BINARY else 1.0 - losses[WRONG]
    place = BINS + 3 * min(max(int(confidence * ECE_BINS), 0), ECE_BINS - 1)
    sums[place] += 1.0
    sums[place + 1] += confidence
    sums[place + 2] += hit


@numba.njit(cache=True, nogil=True)
def score_labels(
    task: int,
    methods: I64,
    coefficients: F64,
    slots: I64,
    outputs: F64,
    targets: F64,
    segments: I64,
    shift: float,
    totals: F64,
    sums: F64,
    work: F64,
) -> int:
    """Add the losses of labels, of each candidate as it was when the event was predicted; return how many counted.

    Candidate 0 changes nothing; the last one is what is published. O(n C K), one label after the other.

    Args:
        task: BINARY, CLASSES or NUMBER.
        methods: i64[G, C], method of each candidate in each generation.
        coefficients: f64[G, C, W].
        slots: i64[n], the generation in force at the prediction; below 0: no longer known, the label does not count.
        outputs: f64[n, K], the model's own.
        targets: f64[n]; of a classification the class 0 .. K - 1, or 0 and 1.
        segments: i64[n].
        shift: taken from labels before they are summed up, against cancellation.
        totals: f64[C, LOSSES], added to.
        sums: f64[2, SUMS], of the model's own outputs and of the published ones, added to.
        work: f64[3, max(K, LOSSES)], overwritten.
    """
    counted = 0
    candidates, width = methods.shape[1], outputs.shape[1]
    logits, out, losses = work[0, :width], work[1, :width], work[2, :LOSSES]
    for row in range(outputs.shape[0]):
        slot = slots[row]
        if slot < 0:
            continue
        counted += 1
        for each in range(candidates):
            recalibrate(task, methods[slot, each], coefficients[slot, each], outputs[row], segments[row], logits, out)
            losses_of(task, out, targets[row], losses)
            for loss in range(LOSSES):
                totals[each, loss] += losses[loss]
            if each == 0:
                _add_sums(task, out, targets[row], losses, shift, sums[0])
            elif each == candidates - 1:
                _add_sums(task, out, targets[row], losses, shift, sums[1])
    return counted
