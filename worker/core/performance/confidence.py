"""What a model's confidence says while labels are missing: an estimate of its accuracy, and how the confidences moved.

Confidence-based performance estimation (CBPE; Kivimäki, Białek, Nurminen, Kuberski 2025, "Confidence-based estimators
for predictive performance in model monitoring", JAIR 82): each confidence counts as the probability of being right that
it has had so far, by isotonic regression over bins (pool adjacent violators; Zadrozny, Elkan 2002).
"""

from math import sqrt

import numpy as np

from worker.core.events import AccuracyEstimate
from worker.core.kernels.arrays import F64, I32, I64
from worker.core.kernels.tally import SCORE_BINS, bin_scores
from worker.core.state import COUNT_MAX, AnyArray, Arrays, blank, check_like, outside, refuse_if

_STORED = "stored confidences"
_REALISED_MIN = 30
"""Labelled events from which a pane's estimate is compared with its accuracy."""
_CALIBRATED_MIN = 200
"""Labelled events with a confidence from which there is an estimate."""


def confidence_bins(probabilities: F64) -> I64:
    """Return the bin of the largest probability of each row (n x K); -1 for a row that begins with NaN.

    What a row lacks to 1 is a probability, too: a single column is that of one of two classes. A column of zeros
    changes no bin, so that a row has its bin for good, whatever classes come later.
    """
    if probabilities.shape[1] == 0:
        return np.full(len(probabilities), -1, dtype=np.int64)
    # Summed from left to right, unlike `sum`: zeros at the end change no bit.
    lacking = 1.0 - probabilities.cumsum(axis=1)[:, -1]
    largest = np.maximum(probabilities.max(axis=1), lacking)
    bins = np.empty(len(largest), dtype=np.int64)
    bin_scores(largest, bins)
    return bins


class Confidences:
    """Histograms of confidences: of each pane, of the first ones, and of labelled events with those that were right."""

    def __init__(self, panes_max: int, reference_predictions: int) -> None:
        self._panes_max = panes_max
        self._reference_predictions = reference_predictions
        self._panes: dict[int, I32] = {}
        self._first: I64 = np.zeros(SCORE_BINS, dtype=np.int64)
        self._labelled: I64 = np.zeros((2, SCORE_BINS), dtype=np.int64)

    def predicted(self, panes: I64, bins: I64) -> None:
        """Count predictions (n) with a confidence (bin -1: without)."""
        used = np.flatnonzero(bins >= 0)
        if len(used) == 0:
            return
        early = used[: max(self._reference_predictions - int(self._first.sum()), 0)]
        self._first += np.bincount(bins[early], minlength=SCORE_BINS)
        for pane in np.unique(panes[used]).tolist():
            counts = self._pane(pane)
            if counts is not None:
                counts += np.bincount(bins[used][panes[used] == pane], minlength=SCORE_BINS).astype(np.int32)

    def labelled(self, bins: I64, right: I64, signs: I64) -> None:
        """Count labelled events (n), or take them away: `right` is 1 where the model was."""
        used = bins >= 0
        np.add.at(self._labelled[0], bins[used], signs[used])
        np.add.at(self._labelled[1], bins[used], (signs * right)[used])

    def _pane(self, key: int) -> I32 | None:
        counts = self._panes.get(key)
        if counts is None:
            if len(self._panes) >= self._panes_max:
                oldest = min(self._panes)
                if key < oldest:
                    return None
                del self._panes[oldest]
            counts = self._panes[key] = np.zeros(SCORE_BINS, dtype=np.int32)
        return counts

    def estimate(self, pane: int, z: float, right: float, labelled: float) -> AccuracyEstimate | None:
        """Return the estimate of a pane; `right` of `labelled` events of it were answered rightly so far."""
        counts = self._panes.get(pane)
        if counts is None:
            return None
        number = int(counts.sum())
        distance = self._distance(counts)
        if self._labelled[0].sum() < _CALIBRATED_MIN:
            return AccuracyEstimate(None, None, None, number, distance, None)
        rates, variances = isotonic(self._labelled[1], self._labelled[0])
        share = counts / number
        accuracy = float(share @ rates)
        # Bins that were pooled have one rate, and err together.
        _, firsts, pool = np.unique(rates, return_index=True, return_inverse=True)
        pooled = np.bincount(pool, share)
        spread = z * sqrt(float(share @ (rates * (1.0 - rates))) / number + float(pooled**2 @ variances[firsts]))
        realised = accuracy - right / labelled if labelled >= _REALISED_MIN else None
        low, high = max(accuracy - spread, 0.0), min(accuracy + spread, 1.0)
        return AccuracyEstimate(accuracy, low, high, number, distance, realised)

    def _distance(self, counts: I32) -> float | None:
        total = int(self._first.sum())
        if total < self._reference_predictions:
            return None
        gap = np.cumsum(counts) / counts.sum() - np.cumsum(self._first) / total
        return float(np.abs(gap).max())

    # Storing and restoring.

    def state(self) -> dict[str, AnyArray]:
        """Return the histograms."""
        keys = sorted(self._panes)
        panes = np.array([self._panes[key] for key in keys], dtype=np.int32).reshape(len(keys), SCORE_BINS)
        return {
            "keys": np.array(keys, dtype=np.int64),
            "panes": panes,
            "first": self._first,
            "labelled": self._labelled,
        }

    def restore(self, arrays: Arrays) -> None:
        """Take over copies of what `state` gave; ValueError for what cannot be."""
        keys = arrays.get("keys")
        count = len(keys) if keys is not None and keys.ndim else 0
        refuse_if(_STORED, {"there are too many": count > self._panes_max})
        like = {"keys": blank(np.int64, count), "panes": blank(np.int32, count, SCORE_BINS)}
        check_like(_STORED, arrays, like | {"first": self._first, "labelled": self._labelled})
        refuse_if(
            _STORED,
            {
                "panes are out of order": (np.diff(arrays["keys"]) <= 0).any(),
                "a count is out of range": any(
                    outside(arrays[name], 0, COUNT_MAX) for name in ("panes", "first", "labelled")
                ),
                "a pane is empty": (arrays["panes"].sum(axis=1) == 0).any(),
                "more were right than there were": (arrays["labelled"][1] > arrays["labelled"][0]).any(),
            },
        )
        self._panes = {int(key): arrays["panes"][place].copy() for place, key in enumerate(arrays["keys"])}
        self._first[:], self._labelled[:] = arrays["first"], arrays["labelled"]


def isotonic(right: I64, number: I64) -> tuple[F64, F64]:
    """Return for each bin the share of right answers, made to rise with the confidence, and its variance.

    Bins without events take the share of the next one below that has some, or above.
    """
    blocks: list[list[float]] = []
    for place in np.flatnonzero(number).tolist():
        blocks.append([float(right[place]), float(number[place]), float(place)])
        while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] >= blocks[-1][0] * blocks[-2][1]:
            last = blocks.pop()
            blocks[-1] = [blocks[-1][0] + last[0], blocks[-1][1] + last[1], blocks[-1][2]]
    # A block begins with the bin in its third entry; bins below the first one belong to that.
    begins = [block[2] for block in blocks[1:]]
    of_bin = np.searchsorted(begins, np.arange(len(number)), side="right")
    rates = np.array([block[0] / block[1] for block in blocks])
    # One added right and one wrong answer: a bin of three right ones is not certain.
    smooth = np.array([(block[0] + 1.0) / (block[1] + 2.0) for block in blocks])
    variances = smooth * (1.0 - smooth) / np.array([block[1] for block in blocks])
    return rates[of_bin], variances[of_bin]
