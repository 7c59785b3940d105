"""A batch of records as columns: what most records need, without a Python object for any of them.

A row is clean only if msgspec accepts the record and gives the same values (`worker/core/kernels/json_scan.py`). All
others mean nothing here: they are decoded one by one, as objects.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from worker.core.kernels.arrays import F64, I8, I32, I64, U8, Bool
from worker.core.kernels.json_scan import (
    EVENT_ID,
    FEATURES,
    LABEL,
    MODEL_ID,
    PREDICTION,
    TIMESTAMP,
    UNKNOWN,
    nothing_before,
    scan_records,
)
from worker.core.kernels.json_text import PADDING, count_byte
from worker.core.kernels.json_times import NO_TIME
from worker.core.kernels.json_values import BOOLEAN, NO_TEXT, NULL, NUMBER, TEXT, Pairs
from worker.core.kernels.text_groups import EMPTY, GIVEN_UP, fill_cells, fill_table, group_spans

__all__ = [
    "BOOLEAN",
    "NO_LABEL",
    "NO_TEXT",
    "NO_TIME",
    "NULL",
    "NUMBER",
    "TEXT",
    "FeatureNames",
    "ScannedLabels",
    "ScannedPredictions",
    "feature_cells",
    "group_texts",
    "scan_labels",
    "scan_predictions",
]

NO_LABEL = NULL
"""Kind of a label that is not there."""

_TEXT_BYTES_MAX = 2**31 - 1
_COLON = 0x3A

_PREDICTION_FIELDS = (1 << UNKNOWN) - 1
_PREDICTION_REQUIRED = 1 << EVENT_ID | 1 << MODEL_ID | 1 << FEATURES | 1 << PREDICTION
_LABEL_REQUIRED = 1 << EVENT_ID | 1 << MODEL_ID | 1 << LABEL
_LABEL_FIELDS = _LABEL_REQUIRED | 1 << TIMESTAMP


class ScannedPredictions(NamedTuple):
    """Columns of n prediction events. Texts are begin and length in `text` (UTF-8, without escapes).

    What a row holds that is not `clean` means nothing. `versions` have the length NO_TEXT where there is none,
    `times_ms` are NO_TIME, `label_kinds` NO_LABEL; texts of what is no TEXT have the length NO_TEXT. The features of
    row r are the rows first_feature[r] ... first_feature[r + 1] - 1 of `names`, `kinds` (NULL, NUMBER, BOOLEAN, TEXT),
    `values` and `texts`; a name may be there twice: the last one counts. Probabilities and segments alike, with
    names that differ; none and null are the same as an empty object.
    """

    text: U8
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
    first_feature: I64
    names: I32
    kinds: I8
    values: F64
    texts: I32
    first_probability: I64
    probability_names: I32
    probabilities: F64
    first_segment: I64
    segment_names: I32
    segment_texts: I32


class ScannedLabels(NamedTuple):
    """Columns of n labels, as in `ScannedPredictions`; a clean row has a label."""

    text: U8
    clean: Bool
    event_ids: I32
    model_ids: I32
    times_ms: I64
    labels: F64
    label_kinds: I8
    label_texts: I32


class _Columns(NamedTuple):
    text: U8
    clean: Bool
    spans: I32
    times_ms: I64
    values: F64
    kinds: I8
    ends: I64
    pairs: tuple[Pairs, Pairs, Pairs]


def scan_predictions(values: Sequence[bytes | None], record_bytes_max: int) -> ScannedPredictions:
    """Scan a batch of `predictions`. A record that is too long, or none, is not clean."""
    found = _scan(values, record_bytes_max, _PREDICTION_FIELDS, _PREDICTION_REQUIRED)
    firsts, (features, probabilities, segments) = found.ends, found.pairs
    n_features, n_probabilities, n_segments = firsts[:, -1].tolist()
    return ScannedPredictions(
        text=found.text,
        clean=found.clean,
        event_ids=found.spans[0],
        model_ids=found.spans[1],
        versions=found.spans[2],
        times_ms=found.times_ms,
        predictions=found.values[0],
        prediction_kinds=found.kinds[0],
        prediction_texts=found.spans[3],
        labels=found.values[1],
        label_kinds=found.kinds[1],
        label_texts=found.spans[4],
        first_feature=firsts[0],
        names=features.names[:n_features],
        kinds=features.kinds[:n_features],
        values=features.values[:n_features],
        texts=features.texts[:n_features],
        first_probability=firsts[1],
        probability_names=probabilities.names[:n_probabilities],
        probabilities=probabilities.values[:n_probabilities],
        first_segment=firsts[2],
        segment_names=segments.names[:n_segments],
        segment_texts=segments.texts[:n_segments],
    )


def scan_labels(values: Sequence[bytes | None], record_bytes_max: int) -> ScannedLabels:
    """Scan a batch of `labels`, as `scan_predictions` does."""
    found = _scan(values, record_bytes_max, _LABEL_FIELDS, _LABEL_REQUIRED)
    spans = found.spans
    return ScannedLabels(
        found.text, found.clean, spans[0], spans[1], found.times_ms, found.values[1], found.kinds[1], spans[4]
    )


class FeatureNames:
    """Names of the feature columns of a model, which differ, to be found among scanned ones."""

    def __init__(self, names: Sequence[str]) -> None:
        encoded = [name.encode() for name in names]
        lengths = np.fromiter(map(len, encoded), np.int32, len(encoded))
        self.text: U8 = np.frombuffer(bytearray(b"".join([*encoded, bytes(PADDING)])), np.uint8)
        self.spans: I32 = np.stack([np.cumsum(lengths, dtype=np.int32) - lengths, lengths], axis=1)
        self.table = _table(len(encoded))
        fill_table(self.text, self.spans, self.table)

    def __len__(self) -> int:
        return len(self.spans)


def feature_cells(
    scanned: ScannedPredictions, rows: I64, names: FeatureNames, kinds: I8
) -> tuple[F64, I32 | None, bool]:
    """Return features of clean rows (r, in any order) as cells (r x d), texts (r x d x 2), and whether all of them fit.

    `kinds` (d) are those of the columns: NUMBER, BOOLEAN or TEXT. A cell is NaN where there is no value, and in columns
    of TEXT; texts are begin and length (NO_TEXT: none), or None if no column has them. They do not fit if a name is
    there twice, has a value and no column, or a value whose kind is not its column's: then nothing else means anything.
    """
    count, width = len(rows), len(names)
    texts = np.empty((count, width, 2), np.int32) if TEXT in kinds else None
    cells = np.empty((count, width))
    s = scanned
    fits = fill_cells(
        s.text,
        s.first_feature,
        s.names,
        s.kinds,
        s.values,
        s.texts,
        rows,
        names.text,
        names.spans,
        names.table,
        kinds,
        cells,
        np.empty((0, 0, 2), np.int32) if texts is None else texts,
    )
    return cells, texts, fits


def group_texts(text: U8, spans: I32) -> tuple[I64, I64]:
    """Return codes (n) of texts (n x 2), 0, 1, ... as they first appear, and the first row (k) of each code.

    `text` ends with NUL bytes, as that of a scan. A length below 0 is the same as an empty text.
    """
    codes, first_rows = np.empty(len(spans), np.int64), np.empty(len(spans), np.int64)
    count = group_spans(text, spans, _table(len(spans)), codes, first_rows)
    return _grouped_by_bytes(text, spans) if count == GIVEN_UP else (codes, first_rows[:count])


def _grouped_by_bytes(text: U8, spans: I32) -> tuple[I64, I64]:
    """Return what `group_texts` does, with Python's own hashes, which are keyed."""
    texts = [bytes(text[begin : begin + max(length, 0)]) for begin, length in spans.tolist()]
    first: dict[bytes, int] = {}
    for row, each in enumerate(texts):
        first.setdefault(each, row)
    codes = {each: code for code, each in enumerate(first)}
    return np.array([codes[each] for each in texts], np.int64), np.array(list(first.values()), np.int64)


def _table(entries: int) -> I32:
    """Return an empty table that is at most half full with so many entries."""
    return np.full(1 << (2 * entries).bit_length(), EMPTY, np.int32)


def _scan(values: Sequence[bytes | None], record_bytes_max: int, known: int, required: int) -> _Columns:
    count = len(values)
    text, lengths = _joined(values, record_bytes_max)
    # A pair has a colon. Room that is never written should still be small, so that it is taken from memory in use.
    # The shortest pair is `"":0,`.
    pairs_max = min(count_byte(text, _COLON), len(text) // 5 + 1)
    found = _Columns(
        text=text,
        clean=np.empty(count, np.bool_),
        spans=np.empty((5, count, 2), np.int32),
        times_ms=np.empty(count, np.int64),
        values=np.empty((2, count)),
        kinds=np.empty((2, count), np.int8),
        ends=np.empty((3, count + 1), np.int64),
        pairs=(_pairs(pairs_max), _pairs(pairs_max), _pairs(pairs_max)),
    )
    scan_records(text, lengths, known, required, *found[1:], nothing_before())
    return found


def _joined(values: Sequence[bytes | None], record_bytes_max: int) -> tuple[U8, I64]:
    """Return records behind each other, a NUL byte behind each, and their lengths (n); what is none or too long: 0."""
    try:
        lengths = np.fromiter(map(len, values), np.int64, len(values))  # type: ignore[arg-type]  # None raises
    except TypeError:
        return _joined([value or b"" for value in values], record_bytes_max)
    if lengths.max(initial=0) > record_bytes_max:
        kept = [b"" if not value or len(value) > record_bytes_max else value for value in values]
        return _joined(kept, record_bytes_max)
    if lengths.sum() + len(values) + PADDING > _TEXT_BYTES_MAX:
        # Places of 32 bits do not reach so far, and no consumer fetches so much at once.
        return _joined([b""] * len(values), record_bytes_max)
    joined = bytearray(b"\0").join([*values, bytes(PADDING)])  # type: ignore[list-item]  # no None is left
    return np.frombuffer(joined, np.uint8), lengths


def _pairs(size: int) -> Pairs:
    """Return room for pairs."""
    return Pairs(np.empty((size, 2), np.int32), np.empty(size, np.int8), np.empty(size), np.empty((size, 2), np.int32))
