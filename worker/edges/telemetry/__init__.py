"""What the worker says of itself: structured logs, a periodic line of counters and timings, and Prometheus metrics."""

from worker.edges.telemetry.exposition import CONTENT_TYPE, Exposition
from worker.edges.telemetry.log_fields import OUTPUT_COUNTS, Count, Gauge, Stage
from worker.edges.telemetry.logs import configure_logging
from worker.edges.telemetry.metrics import Metric, Metrics
from worker.edges.telemetry.models import ModelBook
from worker.edges.telemetry.published import PublishedFigures
from worker.edges.telemetry.telemetry import REPORT_SECONDS, Readiness, Telemetry

__all__ = [
    "CONTENT_TYPE",
    "OUTPUT_COUNTS",
    "REPORT_SECONDS",
    "Count",
    "Exposition",
    "Gauge",
    "Metric",
    "Metrics",
    "ModelBook",
    "PublishedFigures",
    "Readiness",
    "Stage",
    "Telemetry",
    "configure_logging",
]
