"""Predictions and labels that were written side by side are read side by side, in a backlog, too.

While enough labels are held back no more are fetched (`Alignment`), and those that are fetched again afterwards come
behind all predictions that librdkafka has read ahead. If these are more than the held labels are for, predictions give
way in the join before their labels come.
"""

import random
import time
from functools import partial

from confluent_kafka import Producer

from tests.e2e.kafka_corner import WAIT_MAX_S, Cluster, patiently
from worker.core.events import InputTopic
from worker.core.options import PerformanceOptions
from worker.edges.clock import SystemClock
from worker.intake import Intake
from worker.loop import LoopOptions
from worker.observer import Observer
from worker.settings import WorkerSettings

RECORDS = 300_000
PER_SECOND = 150_000
"""So fast the engine is."""


def write(cluster: Cluster) -> None:
    """Write predictions, and their labels, which are a third as long, with the same stamps."""
    producer = Producer({"bootstrap.servers": cluster.servers, "linger.ms": 20, "compression.type": "lz4"})
    rng = random.Random(5)
    first_ms = time.time_ns() // 1_000_000 - RECORDS
    for number in range(RECORDS):
        for topic, length in ((InputTopic.PREDICTIONS, 150), (InputTopic.LABELS, 50)):
            value, name = rng.randbytes(length).hex(), cluster.topics[topic]
            patiently(producer, partial(producer.produce, name, value, None, 0, timestamp=first_ms + number))
    assert producer.flush(WAIT_MAX_S) == 0


def test_predictions_do_not_run_ahead_of_their_labels(cluster: Cluster) -> None:
    """No further than all of them can wait, were they of one model."""
    write(cluster)
    usual = WorkerSettings()
    intake = Intake(
        cluster.source(),
        SystemClock(),
        Observer(),
        records_max=usual.fetch_records_max,
        label_hold_ms=usual.label_hold_ms,
        held_labels_max=LoopOptions().held_labels_max,
        gather_ms=0,
    )
    intake.attach(0, 0, 0, 0)
    taken = dict.fromkeys((InputTopic.PREDICTIONS, InputTopic.LABELS), 0)
    ahead = 0
    until = time.monotonic() + 4 * WAIT_MAX_S
    while min(taken.values()) < RECORDS:
        assert time.monotonic() < until, taken
        intake.fetch(100)
        while intake.next is not None:
            batch = intake.take()
            taken[batch.topic] += len(batch.offsets)
            ahead = max(ahead, taken[InputTopic.PREDICTIONS] - taken[InputTopic.LABELS])
            time.sleep(len(batch.offsets) / PER_SECOND)
    assert ahead < PerformanceOptions().join_events_max
