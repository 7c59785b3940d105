"""Losses of recalibrated outputs: those of a naive loop in numpy, whatever the cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.kernels import recalibration as k
from worker.core.kernels.arrays import F64

BY_TASK = {
    k.BINARY: [k.IDENTITY, k.PLATT, k.TEMPERATURE, k.BETA, k.ISOTONIC],
    k.CLASSES: [k.IDENTITY, k.TEMPERATURE, k.VECTOR],
    k.NUMBER: [k.IDENTITY, k.LINEAR, k.BIAS, k.ISOTONIC],
}
WIDTH = 9


def naive(task: int, method: int, c: F64, output: F64, segment: int) -> F64:
    """Say each method as its paper does."""
    p = np.clip(output, k.P_MIN, 1.0 - k.P_MIN)
    if method == k.IDENTITY:
        return output
    if method == k.ISOTONIC:
        return np.interp(output, c[1 : 1 + int(c[0])], c[5 : 5 + int(c[0])])
    if task == k.BINARY:
        terms = {
            k.PLATT: lambda: c[0] + c[1] * np.log(p / (1.0 - p)),
            k.TEMPERATURE: lambda: c[0] * np.log(p / (1.0 - p)),
            k.BETA: lambda: c[0] + c[1] * np.log(p) - c[2] * np.log(1.0 - p),
        }
        return np.asarray(1.0 / (1.0 + np.exp(-terms[method]())))
    if task == k.CLASSES:
        logits = c[0] * np.log(p) if method == k.TEMPERATURE else c[:3] * np.log(p) + c[3:6]
        return np.asarray(np.exp(logits) / np.exp(logits).sum())
    return np.asarray(c[0] + c[1] * output if method == k.LINEAR else output + c[1 + segment])


def naive_losses(task: int, out: F64, target: float) -> list[float]:
    """Return log loss, Brier score and error; or squared and absolute error."""
    if task == k.NUMBER:
        return [(out[0] - target) ** 2, abs(out[0] - target), 0.0]
    p = np.array([1.0 - out[0], out[0]]) if task == k.BINARY else out
    truth = np.eye(len(p))[int(target)]
    called = int(out[0] >= 0.5) if task == k.BINARY else int(p.argmax())
    brier = (out[0] - target) ** 2 if task == k.BINARY else ((p - truth) ** 2).sum()
    return [-np.log(np.clip(p[int(target)], k.P_MIN, 1.0 - k.P_MIN)), brier, float(called != int(target))]


@given(seed=st.integers(0, 2**20), task=st.sampled_from(sorted(BY_TASK)), cut=st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_losses_are_those_of_the_naive_twin(seed: int, task: int, cut: int) -> None:
    """Each candidate loses what it lost in the generation of the prediction; a forgotten one is not counted."""
    rng = np.random.default_rng(seed)
    width = 3 if task == k.CLASSES else 1
    methods = rng.choice(BY_TASK[task], size=(2, 4))
    methods[:, 0] = k.IDENTITY
    coefficients = rng.uniform(0.2, 1.5, size=(2, 4, WIDTH))
    knots = np.column_stack([rng.integers(1, 5, size=8), np.sort(rng.random((8, 4))), np.sort(rng.random((8, 4)))])
    coefficients[methods == k.ISOTONIC] = knots.reshape(2, 4, WIDTH)[methods == k.ISOTONIC]
    outputs = rng.dirichlet(np.ones(3), size=30) if width == 3 else rng.random((30, 1))
    targets = rng.integers(0, max(width, 2), size=30).astype(float)
    slots, segments = rng.integers(-1, 2, size=30), rng.integers(-1, 3, size=30)
    totals, sums, counted = np.zeros((4, k.LOSSES)), np.zeros((2, k.SUMS)), 0
    for rows in (slice(0, cut), slice(cut, 30)):
        counted += k.score_labels(
            task, methods, coefficients, slots[rows], outputs[rows], targets[rows], segments[rows], 0.5, totals, sums,
            np.empty((3, 3)),
        )  # fmt: skip
    used = np.flatnonzero(slots >= 0)
    said = [
        [naive(task, methods[s, each], coefficients[s, each], outputs[row], segments[row]) for each in range(4)]
        for row in used
        for s in [slots[row]]
    ]
    losses = np.array(
        [[naive_losses(task, out, targets[row]) for out in of] for row, of in zip(used, said, strict=True)]
    )
    assert counted == len(used)
    assert totals == pytest.approx(losses.reshape(-1, 4, 3).sum(axis=0))
    assert sums[1, k.LABELS] == len(used)
    assert sums[1, k.FIRST_LOSS : k.FIRST_LOSS + 3] == pytest.approx(totals[3])
    if task == k.NUMBER:
        assert sums[0, k.LABEL1] == pytest.approx((targets[used] - 0.5).sum())
        assert sums[0, k.LABEL2] == pytest.approx(((targets[used] - 0.5) ** 2).sum())
    else:
        bins = sums[1, k.BINS :].reshape(k.ECE_BINS, 3)
        confidence = np.array([float(of[3].max()) for of in said])
        assert bins[:, 0].tolist() == np.histogram(confidence, bins=k.ECE_BINS, range=(0.0, 1.0))[0].tolist()
        assert bins[:, 1].sum() == pytest.approx(confidence.sum())
        hits = targets[used].sum() if task == k.BINARY else len(used) - totals[3, k.WRONG]
        assert bins[:, 2].sum() == pytest.approx(hits)
