"""The end of a transaction that is late on its way must not end the next one (Jepsen's Bufstream case)."""

import threading
from collections.abc import Iterator

import pytest

from tests.e2e.faults.frames import Api, end_txn_error
from tests.e2e.faults.proxied_broker import ProxiedBroker
from tests.e2e.kafka_corner import Cluster
from worker.core.events import Output, OutputTopic
from worker.edges.kafka import KafkaConnection, KafkaSink
from worker.ports import Commit, CommitOutcome

pytestmark = pytest.mark.e2e
_WAIT_S = 30.0


@pytest.fixture
def proxied() -> Iterator[ProxiedBroker]:
    """A broker behind a proxy."""
    with ProxiedBroker() as broker:
        yield broker


def commit_beside(sink: KafkaSink, value: bytes) -> tuple[threading.Thread, list[Commit]]:
    """Commit one record on a thread; the outcome comes into the list."""
    outcomes: list[Commit] = []
    output = Output(OutputTopic.ALERTS, 0, 0, b"key", value)
    thread = threading.Thread(target=lambda: outcomes.append(sink.commit([output], {})))
    thread.start()
    return thread, outcomes


def test_a_late_end_of_a_transaction_does_not_end_the_next_one(proxied: ProxiedBroker, topic_prefix: str) -> None:
    """The client asks again by itself and calls it a success; the first request arrives while another one is open."""
    cluster = Cluster(proxied.direct_servers, topic_prefix)
    rules = proxied.proxy.rules
    sink = cluster.sink(lambda: b"", connection=KafkaConnection(proxied.bootstrap_servers))
    first = rules.hold_requests(Api.END_TXN, times=1)
    thread, outcomes = commit_beside(sink, b"one")
    first.wait()
    proxied.proxy.cut()
    thread.join(_WAIT_S)
    assert outcomes == [Commit(CommitOutcome.COMMITTED)]
    rules.clear()
    second = rules.hold_requests(Api.END_TXN, times=1)
    thread, outcomes = commit_beside(sink, b"two")
    second.wait()
    late = first.held[0]
    assert end_txn_error(late.request.version, proxied.proxy.deliver(late)) != 0
    rules.clear()
    proxied.proxy.cut()
    thread.join(_WAIT_S)
    assert outcomes == [Commit(CommitOutcome.COMMITTED)]
    assert [message.value() for message in cluster.visible(OutputTopic.ALERTS)] == [b"one", b"two"]
    cluster.close()
