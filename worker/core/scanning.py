"""STUB until H1's scanner is here."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from worker.core.kernels.arrays import F64, I8, I32, I64, Bool

NO_TIME = -(2**63)
NUMBER, BOOLEAN, TEXT = 0, 1, 2
NO_LABEL = -1


class ScannedPredictions(NamedTuple):
    text: bytes
    clean: Bool
    event_ids: I32
    model_ids: I32
    versions: I32
    times_ms: I64
    predictions: F64
    prediction_kinds: I8
    prediction_texts: I32
    labels: F64
    label_kinds: I8
    label_texts: I32


class ScannedLabels(NamedTuple):
    text: bytes
    clean: Bool
    event_ids: I32
    model_ids: I32
    times_ms: I64
    labels: F64
    label_kinds: I8
    label_texts: I32


def _spans(n: int) -> I32:
    return np.zeros((n, 2), dtype=np.int32)


def scan_predictions(values: Sequence[bytes | None], record_bytes_max: int) -> ScannedPredictions:
    n = len(values)
    return ScannedPredictions(
        b"",
        np.zeros(n, np.bool),
        _spans(n),
        _spans(n),
        _spans(n),
        np.zeros(n, np.int64),
        np.zeros(n),
        np.zeros(n, np.int8),
        _spans(n),
        np.zeros(n),
        np.zeros(n, np.int8),
        _spans(n),
    )


def scan_labels(values: Sequence[bytes | None], record_bytes_max: int) -> ScannedLabels:
    n = len(values)
    return ScannedLabels(
        b"",
        np.zeros(n, np.bool),
        _spans(n),
        _spans(n),
        np.zeros(n, np.int64),
        np.zeros(n),
        np.zeros(n, np.int8),
        _spans(n),
    )
