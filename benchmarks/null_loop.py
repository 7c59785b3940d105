"""The null loop: consume, decode, commit transactionally; nothing else. What any exactly-once worker has to do."""

import sys
import time

import msgspec
from confluent_kafka import Consumer, Producer, TopicPartition

from worker.core.events import PredictionEvent

COMMIT_SECONDS = 0.2
FETCH_RECORDS = 5000


def main(bootstrap: str, topic: str, group: str) -> None:
    """Run until killed."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "queued.min.messages": 100_000,
        }
    )
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": group, "linger.ms": 5})
    producer.init_transactions(30)
    consumer.subscribe([topic])
    decode = msgspec.json.Decoder(PredictionEvent).decode
    due = time.monotonic() + COMMIT_SECONDS
    positions: dict[int, int] = {}
    while True:
        for message in consumer.consume(FETCH_RECORDS, 0.05):
            decode(message.value())  # type: ignore[arg-type]  # never None here
            positions[message.partition()] = message.offset() + 1  # type: ignore[index, operator]  # as above
        if positions and time.monotonic() >= due:
            producer.begin_transaction()
            offsets = [TopicPartition(topic, partition, offset) for partition, offset in positions.items()]
            producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), 30)
            producer.commit_transaction(30)
            positions.clear()
            due = time.monotonic() + COMMIT_SECONDS


if __name__ == "__main__":
    main(*sys.argv[1:])
