"""Anomaly streams from data sets that the dependencies ship: one class is rare, and its rows are the anomalies."""

from collections.abc import Iterator

import numpy as np
from river import datasets
from sklearn.datasets import load_breast_cancer, load_digits, load_wine

from worker.core.kernels.arrays import F64, I64

ROWS = 6_000
ANOMALY_SHARE = 0.03
JITTER = 0.02
"""Of a feature's deviation: rows are drawn with replacement, and no two shall be equal."""


def shipped_streams() -> Iterator[tuple[str, F64, I64]]:
    """Yield names, rows (n x d) and anomalies (n), always the same."""
    for name, load, rare in (
        ("breast_cancer", load_breast_cancer, 0),
        ("digits", load_digits, 8),
        ("wine", load_wine, 2),
    ):
        rows, classes = load(return_X_y=True)
        yield _stream(name, rows, classes == rare)
    segments = list(datasets.ImageSegments())  # type: ignore[no-untyped-call] # River has no types here
    rows = np.array([list(features.values()) for features, _ in segments])
    yield _stream("image_segments", rows, np.array([label == "path" for _, label in segments]))
    phishing = list(datasets.Phishing())
    rows = np.array([list(features.values()) for features, _ in phishing])
    yield _stream("phishing", rows, np.array([label for _, label in phishing]))


def _stream(name: str, rows: F64, rare: F64 | I64) -> tuple[str, F64, I64]:
    rng = np.random.default_rng(7)
    is_rare = rare.astype(bool)
    anomalies = (rng.random(ROWS) < ANOMALY_SHARE).astype(np.int64)
    usual, unusual = np.flatnonzero(~is_rare), np.flatnonzero(is_rare)
    places = np.where(anomalies == 1, rng.choice(unusual, ROWS), rng.choice(usual, ROWS))
    noise = rng.normal(size=(ROWS, rows.shape[1])) * rows.std(axis=0) * JITTER
    return name, rows[places].astype(np.float64) + noise, anomalies
