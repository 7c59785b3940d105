"""The example's Kafka side, against the mock cluster inside librdkafka: events out, advice in."""

import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from examples.server.kafka import MaintenanceReader, Publisher

_WAIT_S = 20.0


class _Advised:
    """Notes what it is told."""

    def __init__(self, positions: dict[int, int]) -> None:
        self.positions = positions
        self.told: list[tuple[Mapping[str, Any], int, int]] = []

    def handle(self, event: Mapping[str, Any], partition: int, offset: int) -> bool:
        self.told.append((event, partition, offset))
        return True

    def has(self, count: int) -> bool:
        return len(self.told) >= count


def _wait(until: Callable[[], object]) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + _WAIT_S
    while not until():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def mock() -> Producer:
    """Return a producer that carries the mock cluster."""
    return Producer({"test.mock.num.brokers": 1})


@pytest.fixture(scope="module")
def servers(mock: Producer) -> dict[str, str]:
    """Return how to connect to it."""
    broker = next(iter(mock.list_topics(timeout=_WAIT_S).brokers.values()))
    return {"bootstrap.servers": f"{broker.host}:{broker.port}"}


def test_advice_is_read_on_from_where_it_was_taken(mock: Producer, servers: dict[str, str]) -> None:
    """All events come, in order, with their places; what is no event is skipped; a later start reads on."""
    for value in (b'{"kind": "a"}', b"not JSON", b"[1]", b'{"kind": "b"}'):
        mock.produce("advice", value, partition=0)
    assert mock.flush(_WAIT_S) == 0
    first, later = _Advised({}), _Advised({0: 3})
    for advised, expected in ((first, [("a", 0), ("b", 3)]), (later, [("b", 3)])):
        reader = MaintenanceReader(servers, "advice", advised)
        reader.start()
        _wait(partial(advised.has, len(expected)))
        reader.close()
        assert [(event["kind"], offset) for event, partition, offset in advised.told if partition == 0] == expected


def test_events_are_sent_under_the_model_s_key(servers: dict[str, str]) -> None:
    """What was handed over is in Kafka after `close`, and nothing counts as lost."""
    publisher = Publisher(servers)
    for number in range(3):
        publisher.send("said", "parcels", {"event_id": number})
    publisher.close()
    assert publisher.lost == 0
    consumer = Consumer({**servers, "group.id": "none", "auto.offset.reset": "earliest"})
    places = consumer.list_topics("said", _WAIT_S).topics["said"].partitions
    consumer.assign([TopicPartition("said", place, 0) for place in places])
    found = [consumer.poll(_WAIT_S) for _ in range(3)]
    consumer.close()
    assert {message.key() for message in found if message} == {b"parcels"}
    assert [json.loads(message.value() or b"")["event_id"] for message in found if message] == [0, 1, 2]
