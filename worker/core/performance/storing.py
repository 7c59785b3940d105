"""The performance of a model as state that can be stored, and back: one plain struct and named arrays."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
import numpy as np

from worker.core.kernels.arrays import F64, I8
from worker.core.performance.batch import Pending
from worker.core.performance.bias import StoredGaps
from worker.core.performance.concept import StoredConcept
from worker.core.performance.coverage import StoredCoverage
from worker.core.performance.label_join import NO_BLOCK
from worker.core.performance.ledger import Ledger
from worker.core.performance.monitoring import PerformanceMonitor
from worker.core.performance.segments import OTHER, Segment
from worker.core.performance.series_keys import ARCHIVED, Key, series_code, series_key
from worker.core.performance.task import Quality, Task
from worker.core.performance.values import Names
from worker.core.performance.watched import StoredWatched, Watched
from worker.core.scanning import BOOLEAN, TEXT
from worker.core.state import COUNT_MAX, AnyArray, Arrays, by_part, check_like, outside, prefixed, refuse_if

_STORED = "stored performance"
_ID_MAX = 2**31 - 1


class StoredLedger(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The plain part of a ledger; series by `series_code`."""

    task: Task
    classes: list[str]
    has_scores: bool
    usual_error: float
    revision: Annotated[int, msgspec.Meta(ge=0, le=COUNT_MAX)]
    coverage: StoredCoverage
    concept: StoredConcept
    series: dict[int, StoredWatched]
    gaps: StoredGaps | None = None


class StoredPerformance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The plain part of the performance of a model."""

    texts: list[str]
    columns: list[str]
    segments: list[Segment]
    pending: list[Pending]
    early_predictions: dict[int, dict[int, int]]
    seen: Annotated[int, msgspec.Meta(ge=0, le=COUNT_MAX)]
    ledger: StoredLedger | None


def plain_state(performance: PerformanceMonitor) -> StoredPerformance:
    """Return the plain part of the state."""
    ledger = performance.ledger
    return StoredPerformance(
        texts=performance.texts.names,
        columns=performance.columns.names,
        segments=performance.segments.all,
        pending=performance.pending,
        # Sorted: in which order panes were met depends on how batches were cut.
        early_predictions={
            code: dict(sorted(panes.items())) for code, panes in sorted(performance.early_predictions.items())
        },
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
        gaps=ledger.gaps.plain(),
    )


def arrays_state(performance: PerformanceMonitor) -> dict[str, AnyArray]:
    """Return the arrays of the state. They are the live ones, or copies."""
    arrays = prefixed("join", performance.join.state()) | prefixed("confidences", performance.confidences.state())
    ledger = performance.ledger
    if ledger is None:
        return arrays
    arrays |= {"quality": ledger.quality, **prefixed("concept", ledger.concept.arrays())}
    arrays |= prefixed("gaps", ledger.gaps.arrays())
    for key, watched in ledger.all_series():
        arrays |= prefixed(f"series{series_code(key, len(performance.segments.all))}", watched.arrays())
    return arrays


def restore(performance: PerformanceMonitor, plain: StoredPerformance, arrays: Arrays) -> None:
    """Make a new one what `plain` and `arrays` came from; ValueError for what cannot be."""
    classes_max, panes_max = performance.options.classes_max, performance.options.panes_max
    pane_max = COUNT_MAX // performance.options.pane_ms
    refuse_if(
        _STORED,
        {
            "there are too many names": max(len(plain.texts), len(plain.columns)) > classes_max,
            "a name is there twice": any(len(set(each)) < len(each) for each in (plain.texts, plain.columns)),
            "there are too many events without a task": len(plain.pending) >= performance.options.task_labels,
            "it has a task and does not": plain.ledger is not None and bool(plain.pending or plain.early_predictions),
            "a pane is out of range": any(
                not ARCHIVED <= pane <= pane_max or not 0 <= count <= COUNT_MAX
                for panes in plain.early_predictions.values()
                for pane, count in panes.items()
            ),
            "there are too many panes": any(len(panes) > panes_max + 1 for panes in plain.early_predictions.values()),
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
        names += ["concept", "gaps", *(f"series{code}" for code in plain.ledger.series)]
    parts = by_part(_STORED, {name: array for name, array in arrays.items() if "." in name}, names)
    performance.join.restore(parts["join"], len(plain.columns))
    performance.confidences.restore(parts["confidences"])
    _check_join(performance, parts["join"])
    _check_pending(performance)
    if plain.ledger is not None:
        _restore_ledger(performance, plain.ledger, parts, own)
    elif own:
        raise ValueError(f"{_STORED}: nothing here has an array `{next(iter(own))}`")


def _check_join(performance: PerformanceMonitor, arrays: Arrays) -> None:
    """Refuse values, probabilities and segments that there cannot be."""
    columns, texts = performance.join.columns, len(performance.texts)
    given = arrays["columns.probabilities"]
    given = given[~np.isnan(given[:, 0])] if given.shape[1] else given
    refuse_if(
        _STORED,
        {
            "a prediction is none": _are_odd(columns.prediction, columns.prediction_kind, texts),
            "a label is none": any(
                _are_odd(arrays[f"{ring}.label"], arrays[f"{ring}.kind"], texts) for ring in ("waiting", "early")
            ),
            "a probability is none": outside(given, 0.0, 1.0),
            "a segment is out of range": outside(columns.segments, 0, _ID_MAX)
            or any(each.next_id > _ID_MAX for each in performance.segments.all),
            "a block is out of range": outside(columns.blocks, NO_BLOCK, _ID_MAX),
        },
    )


def _are_odd(values: F64, kinds: I8, texts: int) -> bool:
    """Tell whether values (n) are no numbers, no booleans or no texts, whatever their kinds say they are."""
    return (
        not bool(np.isfinite(values).all())
        or not bool(np.isin(values[kinds == BOOLEAN], (0.0, 1.0)).all())
        # A text without a code has a hash, which is negative.
        or outside(values[kinds == TEXT], -(2.0**33), texts)
    )


def _check_pending(performance: PerformanceMonitor) -> None:
    """Refuse events without a task that no join can have given."""
    pending, segments = performance.pending, len(performance.segments.all)
    refuse_if(
        _STORED,
        {
            "a pending event is none": any(
                not all(0 <= part < 2**64 for part in each.key)
                or len(each.segments) != segments
                or not all(0 <= part <= _ID_MAX for part in each.segments)
                or len(each.probabilities) > len(performance.columns)
                or not (all(p is None for p in each.probabilities) or _are_shares(each.probabilities))
                for each in pending
            ),
            "a pending value is none": any(
                _are_odd(
                    np.array([each.label, each.prediction]),
                    np.array([each.label_kind, each.prediction_kind], dtype=np.int8),
                    len(performance.texts),
                )
                for each in pending
            ),
        },
    )


def _are_shares(values: Sequence[float | None]) -> bool:
    return all(value is not None and 0.0 <= value <= 1.0 for value in values)


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
        },
    )
    ledger.usual_error, ledger.revision = plain.usual_error, plain.revision
    ledger.restore_layout(has_scores=plain.has_scores)
    check_like(_STORED, own, {"quality": np.zeros(len(Quality), dtype=np.int64)})
    ledger.quality[:] = own["quality"]
    ledger.coverage.restore(plain.coverage)
    ledger.concept.restore(plain.concept, parts["concept"])
    pane_max = COUNT_MAX // performance.options.pane_ms
    for code, watched in _series(performance, ledger, plain.series):
        series = plain.series[code].series
        refuse_if(_STORED, {"a pane is out of range": any(pane > pane_max for pane in (series.arrival, *series.panes))})
        watched.restore(plain.series[code], parts[f"series{code}"])
    ledger.gaps.restore(plain.gaps, parts["gaps"], ledger.whole.series.block)
    performance.ledger = ledger


def _series(
    performance: PerformanceMonitor, ledger: Ledger, codes: Mapping[int, StoredWatched]
) -> Sequence[tuple[int, Watched]]:
    keys = [(code, _check_key(performance, code)) for code in codes]
    return [(code, ledger.whole if key is None else ledger.of_segment(key)) for code, key in keys]
