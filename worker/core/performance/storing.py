"""The performance of a model as state that can be stored, and back: one plain struct and named arrays."""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from worker.core.performance.concept import StoredConcept
from worker.core.performance.coverage import StoredCoverage
from worker.core.performance.batch import Pending
from worker.core.performance.ledger import Key, Ledger, series_code, series_key
from worker.core.performance.monitoring import PerformanceMonitor
from worker.core.performance.segments import OTHER, Segment
from worker.core.performance.task import Quality, Task
from worker.core.performance.values import Names
from worker.core.performance.watched import StoredWatched, Watched
from worker.core.state import COUNT_MAX, AnyArray, Arrays, by_part, check_like, outside, prefixed, refuse_if

_STORED = "stored performance"


class StoredLedger(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The plain part of a ledger; series by `series_code`."""

    task: Task
    classes: list[str]
    has_scores: bool
    usual_error: float
    revision: int
    coverage: StoredCoverage
    concept: StoredConcept
    series: dict[int, StoredWatched]


class StoredPerformance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The plain part of the performance of a model."""

    texts: list[str]
    columns: list[str]
    segments: list[Segment]
    pending: list[Pending]
    early_predictions: dict[int, dict[int, int]]
    seen: int
    ledger: StoredLedger | None


def plain_state(performance: PerformanceMonitor) -> StoredPerformance:
    """Return the plain part of the state."""
    ledger = performance.ledger
    return StoredPerformance(
        texts=performance.texts.names,
        columns=performance.columns.names,
        segments=performance.segments.all,
        pending=performance.pending,
        early_predictions=performance.early_predictions,
        seen=performance.seen,
        ledger=None if ledger is None else _plain_ledger(ledger, len(performance.segments.all)),
    )


def _plain_ledger(ledger: Ledger, segments: int) -> StoredLedger:
    return StoredLedger(
        task=ledger.task,
        classes=ledger.class_names,
        has_scores=ledger.layout.has_scores,
        usual_error=ledger.usual_error,
        revision=ledger.revision,
        coverage=ledger.coverage.state(),
        concept=ledger.concept.plain(),
        series={series_code(key, segments): watched.plain() for key, watched in ledger.all_series()},
    )


def arrays_state(performance: PerformanceMonitor) -> dict[str, AnyArray]:
    """Return the arrays of the state. They are the live ones, or copies."""
    arrays = prefixed("join", performance.join.state()) | prefixed("confidences", performance.confidences.state())
    ledger = performance.ledger
    if ledger is None:
        return arrays
    arrays |= {"quality": ledger.quality, **prefixed("concept", ledger.concept.arrays())}
    for key, watched in ledger.all_series():
        arrays |= prefixed(f"series{series_code(key, len(performance.segments.all))}", watched.arrays())
    return arrays


def restore(performance: PerformanceMonitor, plain: StoredPerformance, arrays: Arrays) -> None:
    """Make a new one what `plain` and `arrays` came from; ValueError for what cannot be."""
    classes_max, panes_max = performance.options.classes_max, performance.options.panes_max
    refuse_if(
        _STORED,
        {
            "there are too many names": max(len(plain.texts), len(plain.columns)) > classes_max,
            "a name is there twice": any(len(set(each)) < len(each) for each in (plain.texts, plain.columns)),
            "there are too many events without a task": len(plain.pending) >= performance.options.task_labels,
            "it has a task and does not": plain.ledger is not None and bool(plain.pending or plain.early_predictions),
            "a pane is out of range": any(
                not -1 <= pane <= COUNT_MAX or not 0 <= count <= COUNT_MAX
                for panes in plain.early_predictions.values()
                for pane, count in panes.items()
            ),
            "there are too many panes": any(len(panes) > panes_max + 1 for panes in plain.early_predictions.values()),
            "its count is out of range": not 0 <= plain.seen <= COUNT_MAX,
        },
    )
    performance.texts, performance.columns = Names(classes_max, plain.texts), Names(classes_max, plain.columns)
    performance.segments.restore(plain.segments)
    performance.pending, performance.seen = plain.pending, plain.seen
    performance.early_predictions = plain.early_predictions
    for code in plain.early_predictions:
        _check_key(performance, code)
    own = {name: array for name, array in arrays.items() if "." not in name}
    names = ["join", "confidences"]
    if plain.ledger is not None:
        names += ["concept", *(f"series{code}" for code in plain.ledger.series)]
    parts = by_part(_STORED, {name: array for name, array in arrays.items() if "." in name}, names)
    performance.join.restore(parts["join"], len(plain.columns))
    performance.confidences.restore(parts["confidences"])
    _check_join(performance)
    if plain.ledger is not None:
        _restore_ledger(performance, plain.ledger, parts, own)
    elif own:
        raise ValueError(f"{_STORED}: nothing here has an array `{next(iter(own))}`")


def _check_join(performance: PerformanceMonitor) -> None:
    """Refuse codes of texts, and segments, that there are not."""
    columns = performance.join.columns
    texts = columns.prediction[columns.prediction_kind == 2]
    refuse_if(
        _STORED,
        {
            "a prediction has no text": outside(texts, -(2.0**33), len(performance.texts)),
            "a label has no text": performance.join.largest_text() > len(performance.texts),
            "a pending event has no text": any(
                kind == 2 and value > len(performance.texts)
                for each in performance.pending
                for kind, value in ((each.label_kind, each.label), (each.prediction_kind, each.prediction))
            ),
            "a segment is out of range": outside(columns.segments, 0, 2**31 - 1),
            "a block is out of range": outside(columns.blocks, -1, 2**31 - 1),
        },
    )


def _check_key(performance: PerformanceMonitor, code: int) -> Key | None:
    segments = len(performance.segments.all)
    refuse_if(_STORED, {"a series has no segment": code != 0 and (segments == 0 or code < 0)})
    key = series_key(code, segments)
    if key is not None and key[1] != OTHER:
        refuse_if(_STORED, {"a series has no segment": not performance.segments.is_live(*key)})
    return key


def _restore_ledger(
    performance: PerformanceMonitor, plain: StoredLedger, parts: Mapping[str, Arrays], own: Arrays
) -> None:
    ledger = performance.new_ledger(plain.task, plain.classes)
    refuse_if(
        _STORED,
        {
            "the whole model is missing": 0 not in plain.series,
            "its classes are others": ledger.class_names != plain.classes,
            "its usual error is none": not 0.0 < plain.usual_error < np.inf,
            "its scale is none": not (np.isfinite(plain.task.center) and 0.0 < plain.task.unit < np.inf),
            "its revision is out of range": not 0 <= plain.revision <= COUNT_MAX,
        },
    )
    ledger.usual_error, ledger.revision = plain.usual_error, plain.revision
    ledger.restore_layout(has_scores=plain.has_scores)
    check_like(_STORED, own, {"quality": np.zeros(len(Quality), dtype=np.int64)})
    ledger.quality[:] = own["quality"]
    ledger.coverage.restore(plain.coverage)
    ledger.concept.restore(plain.concept, parts["concept"])
    for code, watched in _series(performance, ledger, plain.series):
        watched.restore(plain.series[code], parts[f"series{code}"])
    performance.ledger = ledger


def _series(
    performance: PerformanceMonitor, ledger: Ledger, codes: Mapping[int, StoredWatched]
) -> Sequence[tuple[int, Watched]]:
    keys = [(code, _check_key(performance, code)) for code in codes]
    return [(code, ledger.whole if key is None else ledger.of_segment(key)) for code, key in keys]
