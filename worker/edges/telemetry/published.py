"""Reads figures out of records that have just been committed: there are few, and of each only some fields are read."""

from collections.abc import Callable, Sequence

import msgspec

from worker.core.events import Output, OutputTopic
from worker.edges.telemetry.metrics import Metrics
from worker.edges.telemetry.records import Alert, Maintenance, Pane, Performance
from worker.edges.telemetry.telemetry import Telemetry

_metric_of = msgspec.json.Decoder(Pane | Performance).decode
_alert_of = msgspec.json.Decoder(Alert).decode
_maintenance_of = msgspec.json.Decoder(Maintenance).decode
_PER_MODEL = (Metrics.ALERTS, Metrics.MAINTENANCE_EVENTS, Metrics.MODEL_EVENTS)


class PublishedFigures:
    """Takes committed records and keeps the metrics of models up to date with them."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._series = telemetry.series
        self._models = telemetry.models
        self._takes: dict[OutputTopic, Callable[[Output, bytes], None]] = {
            OutputTopic.METRICS: self._take_metric,
            OutputTopic.ALERTS: self._take_alert,
            OutputTopic.MAINTENANCE: self._take_maintenance,
        }

    def take(self, outputs: Sequence[Output]) -> int:
        """Take what a transaction has made visible; return how many records could not be read, which is a bug."""
        unreadable = 0
        for output in outputs:
            take = self._takes.get(output.topic)
            if take is None or output.value is None:
                continue
            try:
                take(output, output.value)
            except msgspec.MsgspecError:  # The record is written, and comes again after a restart: go on without it.
                unreadable += 1
        for model_id in self._models.take_evicted():
            self._series.forget(model_id, _PER_MODEL)
        return unreadable

    def _take_metric(self, output: Output, value: bytes) -> None:
        """Read a pane or a window; of models without series not even that."""
        if output.key is None or not self._models.appeared(output.key.decode(), output.shard):
            return
        record = _metric_of(value)
        if isinstance(record, Pane):
            self._series.count(Metrics.MODEL_EVENTS, record.model_id, str(record.shard), by=record.events)
            self._models.show_pane(record)
        else:
            self._models.show_performance(record)

    def _take_alert(self, _: Output, value: bytes) -> None:
        alert = _alert_of(value)
        label = self._models.label_of(alert.model_id, alert.shard)
        self._series.count(Metrics.ALERTS, label, alert.kind, alert.severity, alert.status)

    def _take_maintenance(self, _: Output, value: bytes) -> None:
        record = _maintenance_of(value)
        label = "" if record.model_id is None else self._models.label_of(record.model_id, record.shard)
        self._series.count(Metrics.MAINTENANCE_EVENTS, label, record.kind)
        if record.kind == "alert_suppressed":
            self._series.count(Metrics.ALERTS_SUPPRESSED, record.reason)
