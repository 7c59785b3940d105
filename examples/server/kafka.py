"""Kafka on both sides: predictions and labels out, maintenance events in."""

import json
import logging
import threading
from collections.abc import Mapping
from typing import Any, Protocol

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

_FLUSH_S = 10.0
_METADATA_S = 10.0
_POLL_S = 0.2
_log = logging.getLogger(__name__)


class Publisher:
    """Writes events, each under the model's key, so that a prediction and its label meet in one partition."""

    def __init__(self, client: Mapping[str, str]) -> None:
        self._producer = Producer({**client, "enable.idempotence": True, "linger.ms": 5})
        self.lost = 0

    def send(self, topic: str, key: str, event: Mapping[str, Any]) -> None:
        """Hand one event to the client, which sends it soon. A full queue counts as lost: answers must not wait."""
        try:
            self._producer.produce(topic, json.dumps(event).encode(), key.encode(), on_delivery=self._told)
        except BufferError:
            self.lost += 1
        self._producer.poll(0)

    def close(self) -> None:
        """Send what is left."""
        self.lost += self._producer.flush(_FLUSH_S)

    def _told(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self.lost += 1
            _log.error("an event was not delivered: %s", error)


class Advised(Protocol):
    """Who follows maintenance events."""

    positions: dict[int, int]

    def handle(self, event: Mapping[str, Any], partition: int, offset: int) -> bool:
        """Follow one event."""


class MaintenanceReader:
    """Reads the `maintenance` topic in a thread of its own, from where the advised one has got to.

    It reads committed events only: what a worker has not committed was never said.
    """

    def __init__(self, client: Mapping[str, str], topic: str, advised: Advised) -> None:
        # No group: every server must see every event, and remembers by itself how far it got.
        settings = {"group.id": "none", "enable.auto.commit": False, "isolation.level": "read_committed"}
        earliest = {"auto.offset.reset": "earliest"}
        self._consumer = Consumer({**client, **settings, **earliest})
        self._topic = topic
        self._advised = advised
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="maintenance", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        self._thread.join()
        self._consumer.close()

    def _run(self) -> None:
        self._assign()
        while not self._stop.is_set():
            message = self._consumer.poll(_POLL_S)
            if message is None:
                continue
            if message.error() is not None:
                _log.warning("maintenance: %s", message.error())
                continue
            event, partition, offset = _parsed(message.value()), message.partition(), message.offset()
            if event is not None and partition is not None and offset is not None:
                self._advised.handle(event, partition, offset)

    def _assign(self) -> None:
        """Take all partitions, as soon as the topic is there."""
        while not self._stop.is_set():
            try:
                found = self._consumer.list_topics(self._topic, _METADATA_S).topics[self._topic].partitions
            except KafkaException as error:
                _log.warning("maintenance: %s", error)
                found = {}
            if found:
                begin = self._advised.positions
                places = [TopicPartition(self._topic, each, begin.get(each, OFFSET_BEGINNING)) for each in found]
                self._consumer.assign(places)
                return
            self._stop.wait(_POLL_S)


def _parsed(value: bytes | None) -> Mapping[str, Any] | None:
    """Return a record as an event; None for what is none."""
    try:
        event = json.loads(value or b"")
    except ValueError:
        return None
    return event if isinstance(event, dict) else None
