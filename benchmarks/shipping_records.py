"""Alerts and metrics of realistic size in a Kafka, to benchmark shipping: real structs, written in transactions.

Some transactions are aborted: what was in them must not be shipped.
"""

import math
from collections.abc import Iterator
from functools import cache
from typing import Final

import msgspec
from confluent_kafka import Consumer, Producer, TopicPartition
from rich.progress import Progress

from worker import schemas
from worker.core.events import AlertEvent, MetricEvent, PerformanceEvent
from worker.edges.kafka.arrived import arrived_of
from worker.ship.documents import id_of

PARTITIONS: Final = 4
TOPICS: Final = {"alerts": "modelvigil.alerts", "metrics": "modelvigil.metrics"}
_TRANSACTION_RECORDS: Final = 1_000
_ABORTED_EVERY: Final = 10
_ABORTED_RECORDS: Final = 50
_MODELS: Final = 20
_READ_SECONDS: Final = 30.0


def _values(count: int) -> Iterator[tuple[str, bytes]]:
    """Yield a topic and a value: alerts, panes and performance records in turn, each with its own id and time."""
    alerts, metrics = _patterns()
    encode = msgspec.json.encode
    for number in range(count):
        model, identifier, step_ms = f"model-{number % _MODELS}", f"{number:032x}", number * 10
        alert = alerts[number % len(alerts)]
        if number % 2 == 0:
            changes = {"alert_id": identifier, "model_id": model, "timestamp_ms": alert.timestamp_ms + step_ms}
            yield TOPICS["alerts"], encode(msgspec.structs.replace(alert, **changes))
            continue
        metric = metrics[number % len(metrics)]
        time = (
            {"pane_start_ms": metric.pane_start_ms + step_ms, "pane_end_ms": metric.pane_end_ms + step_ms}
            if isinstance(metric, MetricEvent)
            else {"end_ms": (metric.end_ms or 0) + step_ms}
        )
        changed = msgspec.structs.replace(metric, metric_id=identifier, model_id=model, **time)
        yield TOPICS["metrics"], encode(changed)


@cache
def _patterns() -> tuple[list[AlertEvent], list[MetricEvent | PerformanceEvent]]:
    examples = schemas.examples()
    metrics: list[MetricEvent | PerformanceEvent] = []
    for each in examples["metrics"]:
        kind: type[MetricEvent | PerformanceEvent] = MetricEvent if each["kind"] == "pane" else PerformanceEvent
        metrics.append(msgspec.convert(each, kind))
    # By twos, as every other record is an alert: each kind of metric has its turn.
    metrics = [each for each in metrics for _ in range(2)]
    return msgspec.convert(examples["alerts"], list[AlertEvent]), metrics


def publish(servers: str, count: int, progress: Progress) -> int:
    """Write the records; return the bytes of their values."""
    producer = Producer(
        {
            "bootstrap.servers": servers,
            "transactional.id": "benchmark",
            "linger.ms": 20,
            "compression.type": "lz4",
            "queue.buffering.max.kbytes": 200_000,
        }
    )
    producer.init_transactions(60)
    task = progress.add_task("published", total=count)
    written = bytes_written = 0
    values = _values(count)
    for number in range(math.ceil(count / _TRANSACTION_RECORDS)):
        if number % _ABORTED_EVERY == 0:
            _abort(producer)
        producer.begin_transaction()
        for _, (topic, value) in zip(range(min(_TRANSACTION_RECORDS, count - written)), values, strict=False):
            producer.produce(topic, value, key=b"key", partition=written // 2 % PARTITIONS)
            producer.poll(0)
            written += 1
            bytes_written += len(value)
        producer.commit_transaction(60)
        progress.update(task, completed=written)
    return bytes_written


def _abort(producer: Producer) -> None:
    producer.begin_transaction()
    for place in range(_ABORTED_RECORDS):
        producer.produce(TOPICS["alerts"], b'{"aborted": true}', partition=place % PARTITIONS)
    producer.flush(60)
    producer.abort_transaction(60)


def expected_ids(servers: str, count: int) -> set[str]:
    """Return the id that each committed record is to have as a document, from what is in Kafka."""
    reader = Consumer({"bootstrap.servers": servers, "group.id": "expected", "isolation.level": "read_committed"})
    places = [(topic, partition) for topic in TOPICS.values() for partition in range(PARTITIONS)]
    reader.assign([TopicPartition(topic, partition, 0) for topic, partition in places])
    found: set[str] = set()
    while len(found) < count:
        messages = reader.consume(10_000, _READ_SECONDS)
        if not messages:
            raise SystemExit(f"only {len(found):,} of {count:,} records can be read")
        found |= {id_of(arrived_of(message)) for message in messages if message.error() is None}
    reader.close()
    return found
