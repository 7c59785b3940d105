"""Subscribes to what the worker publishes, as any program would: read_committed, from the beginning of the topics."""

from collections.abc import Mapping
from contextlib import suppress

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from worker.core.codec import decode_metric
from worker.core.events import AlertEvent, ColumnMetric, MetricEvent, MetricValue, PerformanceEvent
from worker.edges.kafka.asking import partitions_of
from worker.settings import TopicSettings

_CALL_S = 5.0
_POLL_RECORDS_MAX = 500
_TRIES_MAX = 50
_TRY_S = 0.1
_SETTLING_MS = 5_000


class ModelView:
    """What the metrics have said of one model so far."""

    def __init__(self) -> None:
        self.events = 0
        self.latest: MetricEvent | None = None
        self.open_alert: AlertEvent | None = None
        self.accuracy: MetricValue | None = None
        """Of the latest labels, as far as they have come."""

    def add(self, metric: MetricEvent) -> None:
        """Count one pane, or one part of it."""
        self.events += metric.events
        self.latest = metric

    def add_performance(self, metric: PerformanceEvent) -> None:
        """Note the accuracy, in which the latest labels count most."""
        if metric.window == "decayed" and metric.segment is None:
            self.accuracy = metric.metrics.get("accuracy")

    def column(self, feature: str) -> ColumnMetric | None:
        """Return a feature's statistics in the latest pane."""
        columns = self.latest.columns if self.latest else []
        return next((column for column in columns if column.name == feature), None)


class Watch:
    """Everything that came out of the worker's topics, and how far the worker is."""

    def __init__(self, topics: TopicSettings, client: Mapping[str, str | int | float | bool], group_id: str) -> None:
        self._topics = topics
        self._consumer = Consumer(
            {
                **client,
                # The worker's group, but never a member of it: only to ask for its committed positions.
                "group.id": group_id,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 100,
            }
        )
        self._inputs = self._partitions(topics.predictions)
        self._outputs = [
            place for topic in (topics.alerts, topics.metrics, topics.dead_letters) for place in self._partitions(topic)
        ]
        self._consumer.assign(self._outputs)
        self._ended: set[tuple[str, int]] = set()
        self.models: dict[str, ModelView] = {}
        self.criticals: list[AlertEvent] = []
        self.label_alerts: list[AlertEvent] = []
        """What labels said, as against inputs."""
        self._new_alerts: list[AlertEvent] = []
        self.opened = 0
        self.dead_letters = 0
        self._committed = 0

    @property
    def counted(self) -> int:
        """How many events the metrics account for."""
        return sum(view.events for view in self.models.values())

    def poll(self, wait_s: float = 0.0) -> None:
        """Take in what is there."""
        for message in self._consumer.consume(_POLL_RECORDS_MAX, wait_s):
            topic, partition, error = message.topic() or "", message.partition() or 0, message.error()
            if error is None:
                self._ended.discard((topic, partition))
                self._take(topic, message.value() or b"")
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the public name of librdkafka's code
                self._ended.add((topic, partition))
            elif error.fatal():
                raise KafkaException(error)

    def new_alerts(self) -> list[AlertEvent]:
        """Return the alerts since the last call."""
        new, self._new_alerts = self._new_alerts, []
        return new

    def read_to_end(self) -> None:
        """Read what is left, once the worker has gone."""
        self._consumer.assign(self._positions())  # anew, so that every partition tells its end once more
        self._ended.clear()
        for _ in range(_TRIES_MAX):
            if len(self._ended) == len(self._outputs):
                return
            self.poll(_TRY_S)

    def behind(self, written: int) -> int:
        """Compare what the worker has committed with what has been written: the topic holds nothing else."""
        with suppress(KafkaException):  # the group may just be moving; then the last answer stands
            committed = self._consumer.committed(self._inputs, timeout=_CALL_S)
            self._committed = sum(max(place.offset, 0) for place in committed)
        return max(written - self._committed, 0)

    def close(self) -> None:
        """Leave."""
        self._consumer.close()

    def _partitions(self, topic: str) -> list[TopicPartition]:
        found = partitions_of(self._consumer, topic, _SETTLING_MS)
        return [TopicPartition(topic, partition, 0) for partition in found]

    def _positions(self) -> list[TopicPartition]:
        places = self._consumer.position(self._outputs)
        for place in places:
            place.offset = max(place.offset, 0)
        return places

    def _take(self, topic: str, value: bytes) -> None:
        if topic == self._topics.dead_letters:
            self.dead_letters += 1
        elif topic == self._topics.metrics:
            metric = decode_metric(value)
            view = self.models.setdefault(metric.model_id, ModelView())
            if isinstance(metric, MetricEvent):
                view.add(metric)
            else:
                view.add_performance(metric)
        else:
            self._take_alert(msgspec.json.decode(value, type=AlertEvent))

    def _take_alert(self, alert: AlertEvent) -> None:
        self._new_alerts.append(alert)
        self.opened += alert.status == "opened"
        if alert.kind != "anomaly.input":
            self.label_alerts.append(alert)
            return
        if alert.severity == "critical":
            self.criticals.append(alert)
        view = self.models.setdefault(alert.model_id, ModelView())
        view.open_alert = None if alert.status == "resolved" else alert
