"""Figures of delivery, as Prometheus gets them, and the pages of `/metrics`, `/healthz` and `/readyz`."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from worker.edges.ops_http import Page
from worker.notify.courier import Counts
from worker.notify.health import TargetHealth, trouble
from worker.ops_pages import pages_of


class Watched(NamedTuple):
    """One target."""

    counts: Counts
    health: TargetHealth


class Figures(Collector):
    """What is true at the time of a scrape.

    Args:
        targets: all of them.
    """

    def __init__(self, targets: Sequence[Watched]) -> None:
        self._targets = targets
        self._healths = [target.health for target in targets]
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def pages(self, silent_s_max: float) -> dict[str, Page]:
        """Return what is served; a thread that is silent for so long hangs."""
        return pages_of(self.registry, self._silent_s, silent_s_max, lambda: trouble(self._healths))

    def collect(self) -> Iterator[Metric]:
        """Yield all families."""
        ready = GaugeMetricFamily(
            "modelvigil_notify_ready", "1 if Kafka is there and no target has been failing for a minute, else 0"
        )
        ready.add_metric((), float(not trouble(self._healths)))
        yield ready
        yield from self._counters()
        yield from self._gauges()

    def _counters(self) -> Iterator[Metric]:
        alerts = CounterMetricFamily(
            "modelvigil_notify_alerts",
            "Records of the topic of alerts by what became of them: delivered, given_up (a dead letter now), "
            "passed_over (the target does not want it)",
            labels=("target", "outcome"),
        )
        attempts = CounterMetricFamily(
            "modelvigil_notify_attempts",
            "Requests that were to deliver an alert; open incidents that Alertmanager is told again do not count",
            labels=("target",),
        )
        for counts, health in self._targets:
            alerts.add_metric((health.name, "delivered"), counts.delivered)
            alerts.add_metric((health.name, "given_up"), counts.given_up)
            alerts.add_metric((health.name, "passed_over"), counts.passed_over)
            attempts.add_metric((health.name,), counts.attempts)
        yield alerts
        yield attempts

    def _gauges(self) -> Iterator[Metric]:
        failing = GaugeMetricFamily(
            "modelvigil_notify_failing_seconds",
            "How long the target has taken nothing, since the first attempt that failed; 0: it works",
            labels=("target",),
        )
        lag = GaugeMetricFamily(
            "modelvigil_notify_lag_records",
            "Records of a partition of the topic of alerts that the target has not been through yet; a marker of a "
            "transaction may count as one",
            labels=("target", "partition"),
        )
        for health in self._healths:
            failing.add_metric((health.name,), health.failing_s)
            for partition, records in health.lag.items():
                lag.add_metric((health.name, str(partition)), records)
        yield failing
        yield lag

    def _silent_s(self) -> float:
        return max((health.silent_s for health in self._healths), default=0.0)
