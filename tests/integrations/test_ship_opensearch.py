"""`modelvigil ship elasticsearch` against a real OpenSearch: what a stub cannot prove."""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined] # not listed in its __all__

from tests.core.test_notify_messages import event
from tests.integrations.opensearch import OpenSearch
from tests.integrations.published import published
from worker.core.codec import encode
from worker.elasticsearch_settings import STREAMS

WAIT_MAX_S = 90.0
PARTITIONS = 2


class Story:
    """Topics, a namespace of its own, and shippers in processes."""

    def __init__(self, servers: str, prefix: str, server: OpenSearch) -> None:
        self.servers = servers
        self.prefix = prefix
        self.server = server
        self.namespace = prefix.rstrip("-").replace("-", "_")[-60:].lstrip("_")
        self.group = f"{prefix}ship"
        admin = AdminClient({"bootstrap.servers": servers})
        topics = [NewTopic(f"{prefix}{stream}", PARTITIONS, 1) for stream in STREAMS]
        for created in admin.create_topics(topics).values():
            created.result(WAIT_MAX_S)
        self.producer = Producer({"bootstrap.servers": servers})

    def command(self, *more: str) -> list[str]:
        """Return the command."""
        sets = {f"topics.{stream}": f"{self.prefix}{stream}" for stream in STREAMS} | {
            "elasticsearch.urls": f'["{self.server.url}"]',
            "elasticsearch.namespace": self.namespace,
            "elasticsearch.group_id": self.group,
            "elasticsearch.retry_ms": "100",
            "elasticsearch.retry_max_ms": "1000",
            "elasticsearch.timeout_ms": "20000",
            "elasticsearch.ops_port": "0",
        }
        options = [each for name, value in sets.items() for each in ("--set", f"{name}={value}")]
        command = [sys.executable, "-m", "worker", "ship", "elasticsearch", "--bootstrap-servers", self.servers]
        return [*command, *options, *more]

    def run(self, *more: str) -> str:
        """Run the command to its end; return what it said."""
        done = subprocess.run(self.command(*more), capture_output=True, text=True, timeout=WAIT_MAX_S, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    @contextmanager
    def shipping(self, *more: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run the command beside the test."""
        with subprocess.Popen(self.command(*more), stderr=subprocess.DEVNULL) as process:
            try:
                yield process
            finally:
                process.kill()

    def publish(self, count: int, begin: int = 0) -> None:
        """Write alerts."""
        for place in range(begin, begin + count):
            value = encode(event(alert_id=f"a{place}", summary=f"s{place}"))
            self.producer.produce(f"{self.prefix}alerts", value, b"k", partition=place % PARTITIONS)
            self.producer.poll(0)
        self.producer.flush(WAIT_MAX_S)

    def move_back(self) -> None:
        """Put the position of each partition of the alerts back to 0, as an operator may."""
        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": self.group})
        places = [TopicPartition(f"{self.prefix}alerts", partition, 0) for partition in range(PARTITIONS)]
        consumer.commit(offsets=places, asynchronous=False)
        consumer.close()

    def stream(self, name: str) -> str:
        """Return the name of a data stream."""
        return f"modelvigil-{name}-{self.namespace}"

    def messages(self) -> Counter[str]:
        """Return how many times each alert is there."""
        name, wanted = self.stream("alerts"), {"size": 10_000, "_source": ["message"]}
        self.server.request("POST", f"/{name}/_refresh")
        answer = self.server.request("POST", f"/{name}/_search", wanted)
        hits: list[dict[str, Any]] = answer.body["hits"]["hits"] if answer.status == 200 else []
        return Counter(hit["_source"]["message"] for hit in hits)

    def roll_over(self) -> None:
        """Begin a new index."""
        assert self.server.request("POST", f"/{self.stream('alerts')}/_rollover").status == 200


@pytest.fixture
def story(kafka: str, topic_prefix: str, opensearch: OpenSearch) -> Story:
    """A story on both servers, with templates."""
    story = Story(kafka, topic_prefix, opensearch)
    story.run("--setup")
    return story


def until(reached: Callable[[], bool], what: str) -> None:
    """Wait until something is so."""
    end = time.monotonic() + WAIT_MAX_S
    while not reached():
        assert time.monotonic() < end, what
        time.sleep(0.2)


@pytest.mark.timeout(300)
def test_setup_can_be_repeated_and_says_what_this_server_cannot_do(story: Story) -> None:
    """This distribution has no lifecycle policies: a warning, and all else is installed."""
    said = story.run("--setup")
    assert said.startswith("OpenSearch ")
    assert "_index_template/modelvigil-alerts: installed" in said
    assert "_plugins/_ism/policies/modelvigil-events: WARNING: not installed, this server cannot do it" in said


@pytest.mark.timeout(300)
def test_every_published_record_is_taken(story: Story) -> None:
    """Of real engines and of the contract's examples; none is refused, and no field is made up."""
    records = published()
    for stream, record in records:
        topic = f"{story.prefix}{stream}"
        story.producer.produce(topic, record.value, record.key, headers=list(record.headers))
        story.producer.poll(0)
    story.producer.flush(WAIT_MAX_S)
    said = story.run("--once")
    assert "shipping_refused" not in said
    counts = Counter(stream for stream, _ in records)
    for stream in STREAMS:
        name = story.stream(stream.replace("_", "-"))
        story.server.request("POST", f"/{name}/_refresh")
        assert story.server.count(name) == counts[stream], stream


@pytest.mark.timeout(300)
def test_what_is_sent_again_after_a_roll_over_is_not_stored_again(story: Story) -> None:
    """A data stream itself would take it: its new index knows nothing of the one before."""
    story.publish(500)
    story.run("--once")
    story.roll_over()
    story.move_back()
    story.publish(100, begin=500)
    story.run("--once")
    assert story.messages() == Counter(f"s{place}" for place in range(600))


@pytest.mark.timeout(400)
def test_nothing_is_lost_or_stored_twice_over_kills_of_both_and_overload(story: Story) -> None:
    """The server answers 429, is killed and restarted; the shipper is killed; the stream rolls over in between."""
    story.publish(3_000)
    few = ("--set", "elasticsearch.bulk_records_max=50", "--set", "elasticsearch.linger_ms=10")
    with story.shipping(*few) as first:
        until(lambda: len(story.messages()) >= 300, "nothing is shipped")
        first.kill()
    story.roll_over()
    with story.server.refusing(), story.shipping(*few):
        time.sleep(2.0)
    with story.shipping(*few) as second:
        until(lambda: len(story.messages()) >= 1_000, "it does not go on")
        story.server.kill()
        time.sleep(1.0)
        story.server.start()
        until(lambda: len(story.messages()) >= 3_000, "records are lost")
        second.terminate()
        assert second.wait(WAIT_MAX_S) == 0
    assert story.messages() == Counter(f"s{place}" for place in range(3_000))


@pytest.mark.timeout(300)
def test_a_document_that_is_refused_is_a_dead_letter_and_that_is_found_there(story: Story) -> None:
    """Its neighbours are taken. A number of no length is what the mapping of a date refuses."""
    story.publish(1)
    broken = encode(event(alert_id="bad")).replace(b'"schema_version":1', b'"schema_version":1,"schema_version":1')
    story.producer.produce(f"{story.prefix}alerts", broken, b"k", partition=0)
    story.producer.flush(WAIT_MAX_S)
    story.publish(1, begin=1)
    story.run("--once")
    story.run("--once")
    name = story.stream("dead-letters")
    story.server.request("POST", f"/{name}/_refresh")
    (hit,) = story.server.request("POST", f"/{name}/_search", {}).body["hits"]["hits"]
    assert hit["_source"]["event"]["reason"] == "shipping_refused"
    assert "Duplicate field" in hit["_source"]["message"]
    assert hit["_source"]["modelvigil"]["value"].encode() == broken
    assert story.messages() == Counter(["s0", "s1"])
