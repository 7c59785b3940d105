"""What a recalibration has brought: figures before and after, their paired difference, and the published coefficients.

Both sides are of the same labels. What was judged was not fitted on: each output is that of the coefficients that were
published when the event was predicted.
"""

from collections.abc import Callable
from functools import partial
from math import nan, sqrt
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from worker.core.kernels import recalibration as k
from worker.core.kernels.arrays import F64
from worker.core.maintenance.block_estimates import block_jackknife
from worker.core.maintenance.recalibration import METHODS, Candidate, Recalibration, Task
from worker.core.performance.intervals import Estimate

_LABELS_MIN = 2.0


class Published(Struct, frozen=True, kw_only=True):
    """Coefficients as a server applies them: lines for each method in deploy/maintenance.md."""

    method: str
    windows: tuple[int, ...]
    """Of labels, on each of which it was fitted; the coefficients are the mean of these fits."""
    coefficients: dict[str, list[float]]
    p_min: float | None
    """Probabilities count as at least this, and at most 1 less this, before a logarithm is taken."""
    first_offset: int | None
    last_offset: int | None
    """Of the predictions whose labels it was fitted on."""


class Compared(NamedTuple):
    """A figure before and after, and after less before, on the same labels, each with its interval."""

    before: Estimate
    after: Estimate
    difference: Estimate


def published(recalibration: Recalibration) -> Published:
    """Return what a server must apply now."""
    candidate, row = recalibration.published()
    offsets = recalibration.fitted_on()
    first, last = offsets if offsets is not None else (None, None)
    return Published(
        method=candidate.method,
        windows=candidate.windows,
        coefficients=_named(candidate, row, recalibration.outputs, recalibration.segments_max),
        p_min=None if recalibration.task == "regression" or candidate.method == "identity" else k.P_MIN,
        first_offset=first,
        last_offset=last,
    )


def _named(candidate: Candidate, row: F64, outputs: int, segments: int) -> dict[str, list[float]]:
    method, values = METHODS[candidate.method], row.tolist()
    if method == k.ISOTONIC:
        half, knots = (len(values) - 1) // 2, int(values[0])
        return {"x": values[1 : 1 + knots], "y": values[1 + half : 1 + half + knots]}
    if method == k.VECTOR:
        return {"w": values[:outputs], "b": values[outputs : 2 * outputs]}
    if method == k.BIAS:
        return {"bias": values[:1], "bias_of_segment": values[1 : 1 + segments]}
    names = {k.IDENTITY: "", k.PLATT: "ab", k.TEMPERATURE: "b", k.BETA: "abc", k.LINEAR: "ab"}[method]
    return {name: [value] for name, value in zip(names, values, strict=False)}


def applied(found: Published, outputs: F64, segment: int = -1) -> F64:
    """Return one row of outputs f64[K] as a server would put it right; what the documented lines say, in numpy."""
    c = {name: np.array(values) for name, values in found.coefficients.items()}
    p_min = found.p_min or 0.0
    p = np.clip(outputs, p_min, 1.0 - p_min) if found.p_min is not None else outputs
    several = len(outputs) > 1
    lines: dict[str, Callable[[], F64]] = {
        "identity": lambda: outputs,
        "platt": lambda: 1.0 / (1.0 + np.exp(-c["a"] - c["b"] * np.log(p / (1.0 - p)))),
        "temperature": lambda: _softmax(c["b"] * np.log(p)) if several else 1.0 / (1.0 + (p / (1.0 - p)) ** -c["b"]),
        "beta": lambda: 1.0 / (1.0 + np.exp(-c["a"] - c["b"] * np.log(p) + c["c"] * np.log(1.0 - p))),
        "isotonic": lambda: np.interp(outputs, c["x"], c["y"]),
        "vector": lambda: _softmax(c["w"] * np.log(p) + c["b"]),
        "linear": lambda: c["a"] + c["b"] * outputs,
        "segment_bias": lambda: outputs + (c["bias_of_segment"][segment] if segment >= 0 else c["bias"]),
    }
    return lines[found.method]()


def _softmax(logits: F64) -> F64:
    e = np.exp(logits - logits.max())
    shares: F64 = e / e.sum()
    return shares


def compared(task: Task, blocks: F64, z: float) -> dict[str, Compared]:
    """Return figures before and after from `Recalibration.blocks` (B x 2 x SUMS), by name.

    Of a classification: log_loss, brier, accuracy, ece; of a regression: r2, rmse, mae. Intervals: `block_jackknife`.
    """
    return {
        name: Compared(
            block_jackknife(blocks[:, 0], figure, z),
            block_jackknife(blocks[:, 1], figure, z),
            _difference(blocks, figure, z),
        )
        for name, figure in _FIGURES["number" if task == "regression" else "class"].items()
    }


def _difference(blocks: F64, figure: Callable[[F64], float], z: float) -> Estimate:
    size = blocks.shape[2]

    def gain(sums: F64) -> float:
        return figure(sums[size:]) - figure(sums[:size])

    return block_jackknife(blocks.reshape(len(blocks), 2 * size), gain, z)


def _mean(loss: int, sums: F64) -> float:
    return float(sums[k.FIRST_LOSS + loss] / sums[k.LABELS]) if sums[k.LABELS] > 0.0 else nan


def _accuracy(sums: F64) -> float:
    return 1.0 - _mean(k.WRONG, sums)


def _rmse(sums: F64) -> float:
    return sqrt(_mean(k.SQUARED, sums))


def _r2(sums: F64) -> float:
    """Return 1 - sum of squared errors / sum of squares around the mean."""
    n = float(sums[k.LABELS])
    if n < _LABELS_MIN:
        return nan
    spread = float(sums[k.LABEL2] - sums[k.LABEL1] ** 2 / n)
    return 1.0 - float(sums[k.FIRST_LOSS + k.SQUARED]) / spread if spread > 0.0 else nan


def _ece(sums: F64) -> float:
    """Return sum |events of the class - their probabilities| / events over bins of equal width (Guo et al. 2017)."""
    bins = sums[k.BINS :].reshape(k.ECE_BINS, 3)
    return float(np.abs(bins[:, 2] - bins[:, 1]).sum() / sums[k.LABELS]) if sums[k.LABELS] > 0.0 else nan


_FIGURES: dict[str, dict[str, Callable[[F64], float]]] = {
    "class": {
        "log_loss": partial(_mean, k.LOG_LOSS),
        "brier": partial(_mean, k.BRIER),
        "accuracy": _accuracy,
        "ece": _ece,
    },
    "number": {"r2": _r2, "rmse": _rmse, "mae": partial(_mean, k.ABSOLUTE)},
}
