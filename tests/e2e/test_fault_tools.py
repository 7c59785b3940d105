"""The tools of the fault tests do what they say: a rule strikes what it names, a cue ends the process at its step."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined] # not listed in its __all__

from tests.e2e.faults.cluster import LocalCluster
from tests.e2e.faults.frames import Api, end_txn_error
from tests.e2e.faults.proxied_broker import ProxiedBroker
from tests.e2e.faults.reader import Follower, Place, Record, assert_same, read_all
from tests.e2e.faults.steps import STEPS
from tests.e2e.harness import is_alive

# One group: its tests share brokers and processes.
# `make soak` runs them: the tools are old, and each story of `make test` fails if its fault does not strike.
pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.xdist_group("fault tools")]

_WAIT_MAX_S = 20.0
_DELAY_S = 0.8
_SOCKET_TIMEOUT_S = 2.0


@pytest.fixture(scope="module")
def proxied() -> Iterator[ProxiedBroker]:
    """One broker behind a proxy, for all tests of this module."""
    with ProxiedBroker() as broker:
        yield broker


class Writer:
    """Writes single records in transactions of their own, through the proxy, and reads them beside it."""

    def __init__(self, broker: ProxiedBroker, topic: str) -> None:
        self.topic = topic
        self._servers = broker.direct_servers
        create(self._servers, topic, 1)
        self.producer = Producer(
            {
                "bootstrap.servers": broker.bootstrap_servers,
                "transactional.id": topic,
                "transaction.timeout.ms": 10_000,
                "message.timeout.ms": 10_000,
                "socket.timeout.ms": int(_SOCKET_TIMEOUT_S * 1000),
                "linger.ms": 0,
                "log_level": 0,
            }
        )
        self.producer.init_transactions(_WAIT_MAX_S)
        self.write(b"first")

    def begin(self, value: bytes) -> float:
        """Open a transaction with a record in it, and return the seconds it took."""
        begun_s = time.monotonic()
        self.producer.begin_transaction()
        self.producer.produce(self.topic, value)
        assert self.producer.flush(_WAIT_MAX_S) == 0
        return time.monotonic() - begun_s

    def commit(self) -> float:
        """Commit and return the seconds it took."""
        begun_s = time.monotonic()
        self.producer.commit_transaction(_WAIT_MAX_S)
        return time.monotonic() - begun_s

    def write(self, value: bytes) -> float:
        """Write a record and return the seconds that its commit took."""
        self.begin(value)
        return self.commit()

    def read(self) -> list[bytes | None]:
        """Return the values of all committed records."""
        return [record.value for record in read_all(self._servers, [self.topic]).get(Place(self.topic, 0), [])]


def create(servers: str, topic: str, copies: int) -> None:
    """Create a topic of one partition."""
    client = AdminClient({"bootstrap.servers": servers})
    client.create_topics([NewTopic(topic, 1, copies)])[topic].result(_WAIT_MAX_S)


@pytest.fixture
def writer(proxied: ProxiedBroker, topic_prefix: str) -> Iterator[Writer]:
    """A producer behind the proxy that has written once. No rule is left behind."""
    yield Writer(proxied, f"{topic_prefix}topic")
    proxied.proxy.rules.clear()


def test_a_delay_strikes_the_named_request_only(proxied: ProxiedBroker, writer: Writer) -> None:
    """A late reply to EndTxn makes one commit slow; records, and the next commit, are as quick as ever."""
    rule = proxied.proxy.rules.delay_replies(Api.END_TXN, seconds=_DELAY_S, times=1)
    assert writer.begin(b"slow") < _DELAY_S
    assert writer.commit() >= _DELAY_S
    assert writer.write(b"quick") < _DELAY_S
    assert rule.hits == 1
    proxied.proxy.rules.delay_requests(Api.PRODUCE, seconds=_DELAY_S)
    assert writer.begin(b"late record") >= _DELAY_S
    assert writer.commit() < _DELAY_S


def test_a_dropped_reply_is_asked_for_again(proxied: ProxiedBroker, writer: Writer) -> None:
    """The broker has committed, the client does not know: it waits for its own timeout, and asks again."""
    rule = proxied.proxy.rules.drop_replies(Api.END_TXN, times=1)
    assert writer.write(b"second") >= _SOCKET_TIMEOUT_S
    assert rule.hits == 1
    assert writer.read() == [b"first", b"second"]


def test_a_cut_connection_is_made_again(proxied: ProxiedBroker, writer: Writer) -> None:
    """Whether the broker got the request or not, the client asks again over a new connection."""
    lost = proxied.proxy.rules.cut_at_requests(Api.END_TXN, times=1)
    writer.write(b"second")
    unknown = proxied.proxy.rules.cut_at_replies(Api.END_TXN, times=1)
    writer.write(b"third")
    assert (lost.hits, unknown.hits) == (1, 1)
    assert writer.read() == [b"first", b"second", b"third"]


def test_a_held_end_of_a_transaction_ends_the_next_one(proxied: ProxiedBroker, writer: Writer) -> None:
    """The case of Jepsen: librdkafka asks again by itself, and the first request arrives in the next transaction."""
    rule = proxied.proxy.rules.hold_requests(Api.END_TXN, times=1)
    writer.begin(b"second")
    committing = threading.Thread(target=writer.commit)
    committing.start()
    rule.wait()
    assert writer.read() == [b"first"]
    proxied.proxy.cut()
    committing.join(_WAIT_MAX_S)
    assert writer.read() == [b"first", b"second"]
    writer.begin(b"not committed by its writer")
    (held,) = rule.held
    assert end_txn_error(held.request.version, proxied.proxy.deliver(held)) == 0
    assert writer.read() == [b"first", b"second", b"not committed by its writer"]


def test_half_open_swallows_and_stall_keeps(proxied: ProxiedBroker) -> None:
    """What is swallowed never comes; what is kept comes when the network is back. Direct clients notice neither."""
    rules = proxied.proxy.rules
    client = AdminClient({"bootstrap.servers": proxied.bootstrap_servers, "log_level": 0})
    client.list_topics(timeout=_WAIT_MAX_S)
    stalled = rules.stall()
    threading.Timer(_DELAY_S, stalled.remove).start()
    begun_s = time.monotonic()
    client.list_topics(timeout=_WAIT_MAX_S)
    assert time.monotonic() - begun_s >= _DELAY_S
    swallowed = rules.half_open()
    with pytest.raises(KafkaException):
        client.list_topics(timeout=0.5)
    AdminClient({"bootstrap.servers": proxied.direct_servers}).list_topics(timeout=_WAIT_MAX_S)
    swallowed.remove()
    AdminClient({"bootstrap.servers": proxied.bootstrap_servers}).list_topics(timeout=_WAIT_MAX_S)


def test_rules_count_and_choose_clients(proxied: ProxiedBroker) -> None:
    """A rule skips as many frames as it is told to, and strikes only the clients that it names."""
    rule = proxied.proxy.rules.delay_replies(Api.METADATA, seconds=0.0, client_id="chosen", skip=2, times=1)
    for name in ("other", "chosen"):
        client = AdminClient({"bootstrap.servers": proxied.bootstrap_servers, "client.id": name})
        assert rule.hits == 0
        for _ in range(4):
            client.list_topics(timeout=_WAIT_MAX_S)
    assert rule.hits == 1


def test_a_rolling_bounce_loses_nothing(topic_prefix: str) -> None:
    """Of three nodes one is restarted, one killed, one hangs: what was acknowledged is there, once, and in order."""
    topic = f"{topic_prefix}topic"
    with LocalCluster() as cluster:
        create(cluster.bootstrap_servers, topic, 3)
        pids = [node.pid for node in cluster.nodes.values()]
        with Follower(cluster.bootstrap_servers, [topic]) as follower:
            with numbers(cluster.bootstrap_servers, topic) as acknowledged:
                cluster.restart(1)
                cluster.kill(2)
                cluster.start(2)
                cluster.wait_until_healthy()
                cluster.pause(3)
                _wait_for(lambda: cluster.leader(topic, 0) in {1, 2})
                cluster.resume(3)
                cluster.wait_until_healthy()
            afterwards = read_all(cluster.bootstrap_servers, [topic])
            assert_same(follower, afterwards)
        assert [record.value for record in afterwards[Place(topic, 0)]] == acknowledged
        pids += [node.pid for node in cluster.nodes.values()]
    assert not any(map(is_alive, pids))


@contextmanager
def numbers(servers: str, topic: str) -> Iterator[list[bytes | None]]:
    """Write numbers all the while with a plain idempotent producer; the list holds those that were acknowledged."""
    acknowledged: list[bytes | None] = []
    ended = threading.Event()

    def note(error: KafkaError | None, message: Message) -> None:
        assert error is None
        acknowledged.append(message.value())

    def write() -> None:
        number = 0
        while not ended.wait(0.002):
            producer.produce(topic, str(number), on_delivery=note)
            producer.poll(0)
            number += 1
        assert producer.flush(_WAIT_MAX_S) == 0

    producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True, "log_level": 0})
    writing = threading.Thread(target=write)
    writing.start()
    try:
        yield acknowledged
    finally:
        ended.set()
        writing.join(2 * _WAIT_MAX_S)
    assert len(acknowledged) > 1_000


def test_readers_that_differ_are_told(proxied: ProxiedBroker, writer: Writer) -> None:
    """The comparison fails when a record was seen and is gone, and when it was not seen."""
    with Follower(proxied.direct_servers, [writer.topic]) as follower:
        seen = read_all(proxied.direct_servers, [writer.topic])
        assert_same(follower, seen)
        ((place, records),) = seen.items()
        with pytest.raises(AssertionError, match="then gone"):
            assert_same(follower, {place: records[1:]})
        with pytest.raises(AssertionError, match="not seen"):
            assert_same(follower, {place: [*records, Record(99, None, b"more")]}, catch_up_max_s=0.5)


STRIKES = {
    "assign_begin": (1, ""),
    "assign": (1, "assigned"),
    "committed_lookup": (1, "assigned"),
    "state_read": (1, "committed_lookup"),
    "replay_read": (1, "state_read"),
    "poll": (1, "replay_read"),
    "init": (1, "poll"),
    "begin": (2, "committed"),
    "produce": (3, "begin"),
    "state_produce": (2, "produce"),
    "flush": (2, "state_produce"),
    "send_offsets": (2, "flush"),
    "commit:0": (2, "send_offsets"),
    "committed": (2, "send_offsets"),
    "aborted": (1, "flush"),
    "revoke_begin": (1, "aborted"),
    "revoke": (1, "revoked"),
}
"""At which occurrence of a step the process is to die, and what it had said last."""


class Tiny:
    """Starts tiny workers, all at once: most of their time is the start of Python."""

    def __init__(self, servers: str, prefix: str) -> None:
        for topic in ("in", "state", "out"):
            create(servers, f"{prefix}{topic}", 1)
        producer = Producer({"bootstrap.servers": servers})
        for topic in ("in", "state"):
            producer.produce(f"{prefix}{topic}", b"there before")
        assert producer.flush(_WAIT_MAX_S) == 0
        self._command = [sys.executable, "-m", "tests.e2e.faults.tiny_worker", servers, prefix]

    def start(self, step: str, count: int, how: str) -> subprocess.Popen[str]:
        """Start one."""
        return subprocess.Popen([*self._command, step, str(count), how], stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def tiny(proxied: ProxiedBroker) -> Tiny:
    """The topics of the tiny workers."""
    return Tiny(proxied.direct_servers, "steps-")


@pytest.fixture(scope="module")
def dying(tiny: Tiny) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """One process for each step; none of them outlives the tests that this process was given."""
    processes = {step: tiny.start(step, count, "SIGKILL") for step, (count, _) in STRIKES.items()}
    yield processes
    for process in processes.values():
        process.kill()
        process.communicate()


@pytest.mark.parametrize("step", STRIKES)
def test_a_cue_kills_at_its_step(dying: dict[str, subprocess.Popen[str]], step: str) -> None:
    """The process dies by SIGKILL in the call that the step names: the call does not return to its caller."""
    said, _ = dying[step].communicate(timeout=_WAIT_MAX_S)
    assert dying[step].returncode == -signal.SIGKILL
    if step == "commit:0":
        # A thread strikes then: on a busy machine the commit, and even more, may be over before it gets its turn.
        assert said.split().count("send_offsets") == STRIKES[step][0]
        return
    assert (said.split() or [""])[-1] == STRIKES[step][1]


def test_every_step_is_tried() -> None:
    """All steps but one: an assignment is lost only by one who sleeps longer than its session."""
    assert {step.partition(":")[0] for step in STRIKES} == set(STEPS) - {"lost"}


def test_a_cue_can_pause(tiny: Tiny) -> None:
    """With SIGSTOP the process hangs at the step, and goes on to its end when it is woken."""
    with tiny.start("begin", 2, "SIGSTOP") as process:
        _wait_for(lambda: _state_of(process.pid) == "T")
        process.send_signal(signal.SIGCONT)
        said, _ = process.communicate(timeout=_WAIT_MAX_S)
    assert process.returncode == 0
    assert said.split()[-1] == "closed"


def _wait_for(is_true: Callable[[], bool]) -> None:
    end = time.monotonic() + _WAIT_MAX_S
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.02)


def _state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
