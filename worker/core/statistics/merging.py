"""Metric records of one pane, from several shards or in several parts, merged to what one shard would have said."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from worker.core.events import ColumnMetric, HistogramRecord, MetricEvent
from worker.core.statistics.histogram import Buckets, Histogram
from worker.core.statistics.moments import Moments


class MergedPane(msgspec.Struct, frozen=True):
    """One pane over all shards. Columns have the fields of `ColumnMetric`, recomputed from the merged statistics."""

    model_id: str
    pane_start_ms: int
    pane_end_ms: int
    events: int
    late_events: int
    scored_events: int
    flagged_events: int
    labels: int
    anomaly_rate: float | None
    drift_psi: float | None
    columns: list[ColumnMetric]


def merge_panes(records: Sequence[MetricEvent], buckets_max: int) -> MergedPane:
    """Merge all records of one model and one pane; counts and histograms exactly, floats to rounding.

    Raises ValueError when the records are not of one model and pane, or there are none.
    """
    if len({(record.model_id, record.pane_start_ms, record.pane_end_ms) for record in records}) != 1:
        raise ValueError("records of exactly one model and one pane can be merged")
    first = records[0]
    events = sum(record.events for record in records)
    scored = sum(record.scored_events for record in records)
    flagged = sum(record.flagged_events for record in records)
    names = dict.fromkeys((column.role, column.name, column.kind) for record in records for column in record.columns)
    by_name = {
        key: [
            column for record in records for column in record.columns if (column.role, column.name, column.kind) == key
        ]
        for key in names
    }
    return MergedPane(
        first.model_id,
        first.pane_start_ms,
        first.pane_end_ms,
        events,
        sum(record.late_events for record in records),
        scored,
        flagged,
        sum(record.labels for record in records),
        flagged / scored if scored else None,
        _largest(record.drift_psi for record in records),
        [_merge_column(columns, events, buckets_max) for columns in by_name.values()],
    )


def _merge_column(columns: Sequence[ColumnMetric], events: int, buckets_max: int) -> ColumnMetric:
    """Merge one column. A record without the column has no value of it: its events are missing."""
    count = sum(column.count for column in columns)
    invalid = sum(column.invalid for column in columns)
    missing = events - count - invalid
    merged = msgspec.structs.replace(
        columns[0],
        count=count,
        invalid=invalid,
        missing=missing,
        missing_rate=missing / events if events else None,
        drift_psi=_largest(column.drift_psi for column in columns),
    )
    if merged.kind == "categorical":
        categories: Counter[str] = Counter()
        for column in columns:
            categories.update(column.categories or {})
        others = sum(column.other_categories or 0 for column in columns)
        return msgspec.structs.replace(merged, categories=dict(categories), other_categories=others)
    return _merge_numeric(merged, [column for column in columns if column.count], buckets_max)


def _largest(values: Iterable[float | None]) -> float | None:
    """Return the largest of what is known: effects against different references cannot be merged."""
    return max((value for value in values if value is not None), default=None)


def _merge_numeric(merged: ColumnMetric, columns: Sequence[ColumnMetric], buckets_max: int) -> ColumnMetric:
    if not columns:
        return merged
    moments, histogram = Moments(), Histogram()
    for column in columns:
        moments = moments.merge(_moments(column))
        histogram = histogram.merge(_histogram(column.histogram), buckets_max)
    low, high = moments.minimum, moments.maximum
    return msgspec.structs.replace(
        merged,
        mean=moments.mean,
        standard_deviation=moments.standard_deviation,
        minimum=low,
        maximum=high,
        median=histogram.quantile(0.5, low, high),
        p05=histogram.quantile(0.05, low, high),
        p95=histogram.quantile(0.95, low, high),
        m2=moments.m2,
        histogram=HistogramRecord(**histogram.as_fields()),
    )


def _moments(column: ColumnMetric) -> Moments:
    """Read back moments; a field that overflowed was published as null."""
    values = (column.mean, column.m2, column.minimum, column.maximum)
    mean, m2, low, high = (math.inf if value is None else value for value in values)
    return Moments(column.count, mean, m2, low, high)


def _histogram(record: HistogramRecord | None) -> Histogram:
    if record is None:
        raise ValueError("a numeric column with values has no histogram")
    return Histogram(
        record.scale,
        record.zero_count,
        _buckets(record.positive_start, record.positive_counts),
        _buckets(record.negative_start, record.negative_counts),
    )


def _buckets(start: int, counts: Iterable[int]) -> Buckets:
    return Buckets(start, np.array(list(counts), dtype=np.int64))
