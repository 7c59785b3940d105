"""Open panes as published statistics: what a person wants to read, and what merges exactly with other shards."""

import math
from typing import Any

import numpy as np

from worker.core.columns import OTHER_CODE, Column, ColumnTable, Kind
from worker.core.events import ColumnMetric, HistogramRecord
from worker.core.statistics.histogram import Histogram

Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]


def column_metrics(table: ColumnTable, arrays: Arrays, slot: int, events: int) -> list[ColumnMetric]:
    """Return the statistics of every column in a pane of `events` events.

    While the table still grows, a column without a value in this pane is left out: whether it is known yet depends on
    later events.
    """
    return [
        _numeric(column, place, arrays, slot, events)
        if column.kind is not Kind.CATEGORICAL
        else _categorical(column, place, arrays, slot, events)
        for place, column in enumerate(table.columns)
        if table.frozen or any(arrays[name][slot, place].any() for name in ("count", "codes", "invalid"))
    ]


def _numeric(column: Column, place: int, arrays: Arrays, slot: int, events: int) -> ColumnMetric:
    count = int(arrays["count"][slot, place])
    invalid = int(arrays["invalid"][slot, place])
    common = _common(column, place, count, events, invalid)
    if count == 0:
        return ColumnMetric(**common)
    m2 = float(arrays["m2"][slot, place])
    low, high = float(arrays["minimum"][slot, place]), float(arrays["maximum"][slot, place])
    histogram = Histogram.from_arrays(arrays, slot, place)
    median, p05, p95 = (histogram.quantile(q, low, high) for q in (0.5, 0.05, 0.95))
    return ColumnMetric(
        **common,
        mean=float(arrays["mean"][slot, place]),
        standard_deviation=math.sqrt(m2 / (count - 1)) if count > 1 and m2 >= 0.0 else None,
        minimum=low,
        maximum=high,
        median=median,
        p05=p05,
        p95=p95,
        m2=m2,
        histogram=HistogramRecord(**histogram.as_fields()),
    )


def _categorical(column: Column, place: int, arrays: Arrays, slot: int, events: int) -> ColumnMetric:
    codes = arrays["codes"][slot, place]
    count = int(codes.sum())
    # Categories first seen by later events of the batch have a code already, but no count in this pane.
    categories = {name: int(codes[code]) for name, code in column.codes.items() if codes[code]}
    return ColumnMetric(
        **_common(column, place, count, events, int(arrays["invalid"][slot, place])),
        categories=categories,
        other_categories=int(codes[OTHER_CODE]),
    )


def _common(column: Column, place: int, count: int, events: int, invalid: int) -> dict[str, Any]:
    missing = events - count - invalid
    return {
        "name": column.name,
        "role": "prediction" if place == 0 else "feature",
        "kind": column.kind.value,
        "count": count,
        "missing": missing,
        "invalid": invalid,
        "missing_rate": missing / events if events else None,
    }
