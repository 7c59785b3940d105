"""The null loop: consume, decode, commit transactionally; nothing else. What any exactly-once worker has to do.

No step of Python for each record beside the decoder. It runs with librdkafka's default fetch settings (what people
mean by such a loop, and what the project's aims were set against: a full queue is looked at again only after a second),
and with the worker's own, far faster ones.
"""

import sys
import time
from collections import deque

import msgspec
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from worker.core.events import PredictionEvent
from worker.edges.kafka.source import FETCH_SETTINGS
from worker.lagging import LATE_COMMIT_MS_MAX

COMMIT_SECONDS = LATE_COMMIT_MS_MAX / 1000
"""As seldom as the worker in a backlog."""
FETCH_RECORDS = 5000


def main(bootstrap: str, topic: str, group: str, settings: str) -> None:
    """Run until killed; `settings` is "default" or "tuned"."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            **(FETCH_SETTINGS if settings == "tuned" else {}),
        }
    )
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": group, "linger.ms": 5})
    producer.init_transactions(30)
    consumer.subscribe([topic])
    decode = msgspec.json.Decoder(PredictionEvent).decode
    due = time.monotonic() + COMMIT_SECONDS
    positions: dict[int, int] = {}
    while True:
        messages = consumer.consume(FETCH_RECORDS, 0.0)
        if not messages:
            time.sleep(0.001)
        deque(map(decode, map(Message.value, messages)), maxlen=0)  # type: ignore[arg-type]  # no value is None here
        places = zip(map(Message.partition, messages), map(Message.offset, messages), strict=True)
        positions.update(places)  # type: ignore[arg-type]  # only errors have no offset
        if positions and time.monotonic() >= due:
            producer.begin_transaction()
            offsets = [TopicPartition(topic, partition, offset + 1) for partition, offset in positions.items()]
            producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), 30)
            producer.commit_transaction(30)
            positions.clear()
            due = time.monotonic() + COMMIT_SECONDS


if __name__ == "__main__":
    main(*sys.argv[1:])
