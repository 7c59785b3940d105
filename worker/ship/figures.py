"""Figures of shipping, as Prometheus gets them, and the pages of `/metrics`, `/healthz` and `/readyz`."""

from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from worker.edges.ops_http import Page
from worker.elasticsearch_settings import STREAMS
from worker.ops_pages import pages_of
from worker.ship.health import Health

HEARTBEAT_S_MAX: Final = 120.0
"""Above what a question to Kafka may take."""
OUTCOMES: Final = ("created", "repeated", "refused")
_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Figures:
    """All threads may use it.

    Args:
        health: tells whether shipping works.
    """

    def __init__(self, health: Health) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # ships no types
        self.registry = CollectorRegistry()
        self._health = health
        self.lag: Mapping[tuple[str, int], int] = {}
        """Records that are not in the cluster, by topic and partition; replaced as a whole."""
        self.documents = Counter(
            "modelvigil_ship_documents",
            "Documents by what became of them: created, repeated (there already), refused (a dead letter now)",
            ("stream", "outcome"),
            registry=self.registry,
        )
        self.requests = Counter(
            "modelvigil_ship_requests",
            "Requests to the cluster: ok, or retried (some of its documents, or all, are sent again)",
            ("outcome",),
            registry=self.registry,
        )
        self.bulk_seconds = Histogram(
            "modelvigil_ship_bulk_seconds",
            "Time that the cluster took to answer a bulk request",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        for stream in STREAMS:
            for outcome in OUTCOMES:
                self.documents.labels(stream, outcome)
        self.requests.labels("ok")
        self.requests.labels("retried")
        self.registry.register(_Now(self, health))
        ProcessCollector(registry=self.registry)

    def pages(self) -> dict[str, Page]:
        """Return what is served."""
        health = self._health
        return pages_of(self.registry, lambda: health.heartbeat_age_s, HEARTBEAT_S_MAX, health.trouble)


class _Now(Collector):
    """What is true at the time of a scrape."""

    def __init__(self, figures: Figures, health: Health) -> None:
        self._figures = figures
        self._health = health

    def collect(self) -> Iterator[Metric]:
        ready = GaugeMetricFamily("modelvigil_ship_ready", "1 if records are read and the cluster takes them, else 0")
        ready.add_metric((), float(not self._health.trouble()))
        yield ready
        lag = GaugeMetricFamily(
            "modelvigil_ship_lag_records",
            "Records of a partition that are not in the cluster yet",
            labels=("topic", "partition"),
        )
        for (topic, partition), records in self._figures.lag.items():
            lag.add_metric((topic, str(partition)), float(records))
        yield lag
