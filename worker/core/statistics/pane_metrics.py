"""Open panes as published statistics: what a person wants to read, and what merges exactly with other shards."""

import math
from typing import Any

import numpy as np

from worker.core.columns import OTHER_CODE, Column, ColumnTable, Kind
from worker.core.events import ColumnMetric, HistogramRecord
from worker.core.kernels.accumulate import NEGATIVE, POSITIVE
from worker.core.kernels.bucket_quantiles import find_quantiles
from worker.core.statistics.histogram import quantile_at

Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]


def column_metrics(table: ColumnTable, arrays: Arrays, slot: int, events: int) -> list[ColumnMetric]:
    """Return the statistics of every column in a pane of `events` events.

    While the table still grows, a column without a value in this pane is left out: whether it is known yet depends on
    later events.
    """
    spread: Spread | None = None
    found = []
    for place, column in enumerate(table.columns):
        if not (table.frozen or any(arrays[name][slot, place].any() for name in ("count", "codes", "invalid"))):
            continue
        if column.kind is Kind.CATEGORICAL:
            found.append(_categorical(column, place, arrays, slot, events))
        else:
            spread = spread or Spread(arrays, slot)
            found.append(_numeric(column, place, arrays, slot, events, spread))
    return found


_SHARES = np.array([0.5, 0.05, 0.95])
"""Of the quantiles that a pane tells."""


class Spread:
    """Quantiles and histograms of the columns of one pane: what `Histogram` gives, of all of them at once."""

    def __init__(self, arrays: Arrays, slot: int) -> None:
        self._buckets = arrays["buckets"][slot]
        self._zero_counts = arrays["zero_count"][slot]
        self._scales: list[int] = arrays["scale"][slot].tolist()
        self._starts: list[list[int]] = arrays["bucket_start"][slot].tolist()
        columns = len(self._buckets)
        used, places = np.empty((columns, 2, 2), dtype=np.int64), np.empty((columns, len(_SHARES)), dtype=np.int64)
        find_quantiles(self._buckets, self._zero_counts, _SHARES, used, places)
        self._used: list[list[list[int]]] = used.tolist()
        self._places: list[list[int]] = places.tolist()

    def quantiles(self, column: int, low: float, high: float) -> list[float]:
        """Return median, 5 % and 95 % quantile of a column that has values, all of them in [low, high]."""
        scale, starts = self._scales[column], self._starts[column]
        return [quantile_at(place, starts, scale, low, high) for place in self._places[column]]

    def histogram(self, column: int) -> HistogramRecord:
        """Return what is published of the histogram of a column."""
        negative_start, negative = self._side(column, NEGATIVE)
        positive_start, positive = self._side(column, POSITIVE)
        return HistogramRecord(
            scale=self._scales[column],
            zero_count=int(self._zero_counts[column]),
            positive_start=positive_start,
            positive_counts=positive,
            negative_start=negative_start,
            negative_counts=negative,
        )

    def _side(self, column: int, sign: int) -> tuple[int, list[int]]:
        first, end = self._used[column][sign]
        return self._starts[column][sign] + first if end else 0, self._buckets[column, sign, first:end].tolist()


def _numeric(column: Column, place: int, arrays: Arrays, slot: int, events: int, spread: Spread) -> ColumnMetric:
    count = int(arrays["count"][slot, place])
    invalid = int(arrays["invalid"][slot, place])
    common = _common(column, place, count, events, invalid)
    if count == 0:
        return ColumnMetric(**common)
    m2 = float(arrays["m2"][slot, place])
    low, high = float(arrays["minimum"][slot, place]), float(arrays["maximum"][slot, place])
    median, p05, p95 = spread.quantiles(place, low, high)
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
        histogram=spread.histogram(place),
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
