"""Labelled counters, gauges and histograms of one process.

The thread of the loop writes, threads of the HTTP server read: they take copies of dictionaries and lists, which are
made in one piece (by C code, of keys that need no Python code to be hashed), so nobody waits for a lock.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from worker.edges.telemetry.metrics import DECLARED, Metric

Labels = tuple[str, ...]
"""Values of a metric's labels, in their order."""


class Observed(NamedTuple):
    """What a histogram has counted: observations in each bucket, the last one without an upper bound, and their sum."""

    counts: list[int]
    total: float


class _Histogram:
    def __init__(self, buckets: int) -> None:
        self.counts = [0] * (buckets + 1)
        self.total = 0.0


class Series:
    """All series that have labels or are histograms."""

    def __init__(self) -> None:
        self._counters: dict[Metric, Counter[Labels]] = {}
        self._gauges: dict[Metric, Mapping[Labels, float]] = {}
        self._histograms: dict[Metric, dict[Labels, _Histogram]] = {}
        for metric in DECLARED:
            begun: list[Labels] = [(value,) for value in metric.known] if metric.labels else [()]
            if metric.kind == "histogram":
                self._histograms[metric] = {labels: _Histogram(len(metric.buckets)) for labels in begun}
            elif metric.kind == "counter" and metric.labels:
                self._counters[metric] = Counter(dict.fromkeys(begun, 0))

    def count(self, metric: Metric, *labels: str, by: int = 1) -> None:
        """Add to a counter."""
        self._counters[metric][labels] += by

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Add one observation to a histogram; its labels are among those that are known."""
        histogram = self._histograms[metric][labels]
        histogram.counts[bisect_left(metric.buckets, value)] += 1
        histogram.total += value

    def set_all(self, metric: Metric, values: Mapping[Labels, float]) -> None:
        """Say what all series of a gauge are now; the mapping must not be changed afterwards."""
        self._gauges[metric] = values

    def forget(self, first_label: str, metrics: tuple[Metric, ...]) -> None:
        """Drop the series of these counters whose first label is this one."""
        for metric in metrics:
            counter = self._counters[metric]
            for labels in [labels for labels in counter if labels[0] == first_label]:
                del counter[labels]

    def values(self) -> dict[Metric, Mapping[Labels, float]]:
        """Return counters and gauges as they are now."""
        return {metric: dict(counter) for metric, counter in self._counters.items()} | self._gauges

    def histograms(self) -> dict[Metric, dict[Labels, Observed]]:
        """Return histograms as they are now."""
        return {
            metric: {labels: Observed(each.counts.copy(), each.total) for labels, each in by_labels.items()}
            for metric, by_labels in self._histograms.items()
        }
