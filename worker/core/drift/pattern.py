"""How a drift came: at once, or little by little."""

import numpy as np

from worker.core.kernels.arrays import F64, I64
from worker.core.standing import Pattern

_BLOCKS_MIN = 4
_RISING_MIN = 3
_BETTER = 0.6
"""One explanation must leave at most this share of the squares that the other one leaves."""


def shape_of(reference: I64, window: I64, blocks: I64) -> Pattern | None:
    """Tell how the counts of one column moved from `reference` (bins) to `window` (bins) over blocks (n x bins).

    Each block is projected on the direction of the change, log(q / p) (the likelihood ratio of the two ends), and the
    path is explained by one step, or by a level and a slope over the last blocks, three at least; least squares decide.
    None: fewer than four blocks, no clear winner, or neither explains half of what there is.
    """
    used = blocks.sum(axis=1) > 0
    path = _path(reference, window, blocks[used])
    if len(path) < _BLOCKS_MIN:
        return None
    whole = _squares(path - path.mean())
    step = min(_step(path, at) for at in range(1, len(path)))
    slope = min(_slope(path, at) for at in range(1, len(path) - _RISING_MIN + 1))
    if min(step, slope) > whole / 2.0:
        return None
    if slope < _BETTER * step:
        return "gradual"
    return "sudden" if step < _BETTER * slope else None


def _path(reference: I64, window: I64, blocks: I64) -> F64:
    bins = len(reference)
    p = (reference + 0.5) / (reference.sum() + 0.5 * bins)
    q = (window + 0.5) / (window.sum() + 0.5 * bins)
    shares = blocks / np.maximum(blocks.sum(axis=1, keepdims=True), 1)
    path: F64 = np.cumsum(shares * np.log(q / p), axis=1)[:, -1]
    return path


def _step(path: F64, at: int) -> float:
    return _squares(path[:at] - path[:at].mean()) + _squares(path[at:] - path[at:].mean())


def _slope(path: F64, at: int) -> float:
    rise = np.maximum(np.arange(len(path)) - (at - 1.0), 0.0)
    rise -= rise.mean()
    level = path - path.mean()
    return _squares(level - rise * (_sum(rise * level) / _sum(rise * rise)))


def _squares(rest: F64) -> float:
    return _sum(rest * rest)


def _sum(terms: F64) -> float:
    # One after the other: np.sum adds in an order that depends on the CPU.
    return float(np.cumsum(terms)[-1])
