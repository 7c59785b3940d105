"""How many records wait to be read, as the source tells it without asking Kafka."""

import time
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
        read = sum(len(batch.offsets) for batch in source.fetch(100, 5000) if batch.topic is InputTopic.PREDICTIONS)
        assert 0 < read <= 100
        assert source.lag()[places[InputTopic.PREDICTIONS]] == 500 - read
        fetched(source, 501 - 100)
        until = time.monotonic() + 20
        while source.lag() != dict.fromkeys(places.values(), 0):
            assert time.monotonic() < until, source.lag()
            assert source.fetch(100, 50) == []
        source.detach([0])
        assert source.lag() == {}
