"""How many records wait to be read, as the source tells it without asking Kafka."""

import time
from collections import Counter
from contextlib import closing

from tests.e2e.kafka_corner import Cluster, fetched
from worker.core.events import InputTopic
from worker.edges.kafka import KafkaSource

SILENCE_S = 0.5


def test_lag_is_what_is_left_and_a_marker_is_no_record_for_long(cluster: Cluster) -> None:
    """Unknown before the first answer, then all that was not delivered; the end of a transaction keeps none waiting."""
    cluster.fill({0: [b"%d" % n for n in range(500)]})
    writer = cluster.writer()
    writer.begin_transaction()
    writer.produce(cluster.topics[InputTopic.LABELS], b"label", partition=0)
    writer.commit_transaction()
    places = {topic: (topic, 0) for topic in (InputTopic.PREDICTIONS, InputTopic.LABELS, InputTopic.FEEDBACK)}
    made = KafkaSource(cluster.connection, group_id=cluster.group, topics=cluster.topics, silence_s=SILENCE_S)
    with closing(made) as source:
        source.attach(0, 0, 0, 0)
        assert source.lag() == {}
        taken = Counter[InputTopic]()
        until = time.monotonic() + 20
        while not taken[InputTopic.PREDICTIONS]:  # the label may come first
            assert time.monotonic() < until
            for batch in source.fetch(100, 5000):
                taken[batch.topic] += len(batch.offsets)
        assert taken[InputTopic.PREDICTIONS] <= 100
        assert source.lag()[places[InputTopic.PREDICTIONS]] == 500 - taken[InputTopic.PREDICTIONS]
        fetched(source, 501 - taken.total())
        until = time.monotonic() + 20
        while source.lag() != dict.fromkeys(places.values(), 0):
            assert time.monotonic() < until, source.lag()
            assert source.fetch(100, 50) == []
        source.detach([0])
        assert source.lag() == {}
