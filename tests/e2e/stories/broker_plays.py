"""Stories in which Kafka itself is what breaks: each has brokers of its own."""

import os
import signal
import time
from collections.abc import Callable
from functools import partial

from confluent_kafka.admin import (  # type: ignore[attr-defined] # documented there, only not listed in __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from tests.e2e.faults.cluster import LocalCluster
from tests.e2e.faults.frames import Api
from tests.e2e.faults.node import QUICK_FAILOVER
from tests.e2e.faults.proxied_broker import ProxiedBroker
from tests.e2e.stories.performance import Result, perform
from tests.e2e.stories.plays import Tally, storm
from tests.e2e.stories.stage import Stage
from worker.edges.broker import LocalBroker

WORKERS = ("a", "b")
_REST_S = 4.0
_STRIKE_MAX_S = 90.0
"""Longer than a watchdog: both workers can hang in librdkafka after the fault before."""
_CLEANING = {"log.cleaner.backoff.ms": "200", "log.cleaner.threads": "1"}
_TINY_SEGMENTS = {
    "segment.bytes": "1048576",
    "segment.ms": "400",
    "min.cleanable.dirty.ratio": "0.001",
    "max.compaction.lag.ms": "400",
    "delete.retention.ms": "100",
}


def broker_broken(prefix: str) -> Result:
    """A single broker is killed, is away for a while, is restarted, and hangs."""
    with LocalBroker(properties=QUICK_FAILOVER) as broker:

        def run(stage: Stage) -> Tally:
            _begin(stage)
            for seconds in (3, 20):
                _kill(broker, seconds)
                time.sleep(2 * _REST_S)
            broker.restart()
            time.sleep(2 * _REST_S)
            for seconds in (3, 12):
                os.kill(broker.pid, signal.SIGSTOP)
                time.sleep(seconds)
                os.kill(broker.pid, signal.SIGCONT)
                time.sleep(2 * _REST_S)
            return Tally(5)

        return perform(Stage(broker.bootstrap_servers, prefix), run)


def network_broken(prefix: str) -> Result:
    """Replies vanish or are late, connections break, and the end of a transaction arrives in the next one."""
    with ProxiedBroker() as proxied:
        rules, proxy = proxied.proxy.rules, proxied.proxy

        def run(stage: Stage) -> Tally:
            _begin(stage)
            faults = [
                partial(rules.cut_at_replies, Api.END_TXN, times=3),
                partial(rules.cut_at_requests, Api.END_TXN, times=3),
                partial(rules.drop_replies, Api.END_TXN, times=1),
                partial(rules.delay_replies, Api.TXN_OFFSET_COMMIT, seconds=1.0, times=3),
                partial(rules.drop_replies, Api.TXN_OFFSET_COMMIT, times=1),
                partial(rules.cut_at_replies, Api.PRODUCE, times=3, client_id="modelvigil"),
                partial(rules.drop_requests, Api.PRODUCE, times=1, client_id="modelvigil"),
                partial(rules.drop_replies, Api.ADD_OFFSETS_TO_TXN, times=1),
            ]
            for fault in faults:
                rule = fault()
                rule.wait(seconds_max=_STRIKE_MAX_S)
                time.sleep(_REST_S)
                rules.clear()
            held = 0
            for _ in range(3):
                rule = rules.hold_requests(Api.END_TXN, times=1)
                rule.wait(seconds_max=_STRIKE_MAX_S)
                proxy.cut()
                time.sleep(1.5)
                proxy.deliver(rule.held[0])
                held += 1
                time.sleep(_REST_S)
            for broken in (rules.half_open, rules.stall):
                broken()
                time.sleep(8)
                rules.clear()
                proxy.cut()
                time.sleep(2 * _REST_S)
            return Tally(len(faults) + held + 2)

        stage = Stage(proxied.bootstrap_servers, prefix, direct=proxied.direct_servers)
        return perform(stage, run)


def rolling_bounce(prefix: str) -> Result:
    """Of three brokers each one is restarted, then each one is killed."""
    with LocalCluster() as cluster:

        def run(stage: Stage) -> Tally:
            _begin(stage)
            for number in cluster.nodes:
                cluster.restart(number)
                cluster.wait_until_healthy()
                time.sleep(_REST_S)
            for number in cluster.nodes:
                cluster.kill(number)
                time.sleep(_REST_S)
                cluster.start(number)
                cluster.wait_until_healthy()
            return Tally(2 * len(cluster.nodes))

        return perform(Stage(cluster.bootstrap_servers, prefix), run)


def compacted(prefix: str) -> Result:
    """The state topic is compacted all the time, in tiny segments, while workers are killed."""
    with LocalBroker(properties={**QUICK_FAILOVER, **_CLEANING}) as broker:
        stage = Stage(broker.bootstrap_servers, prefix)
        _alter(broker.bootstrap_servers, stage.deployment.topics["state"], _TINY_SEGMENTS)
        return perform(stage, partial(storm, seconds=30.0, seed=2, workers=2))


def new_protocol(prefix: str) -> Result:
    """A storm under the group protocol of KIP-848."""
    sessions = {"group.consumer.min.session.timeout.ms": "3000", "group.consumer.session.timeout.ms": "3000"}
    beats = {"group.consumer.min.heartbeat.interval.ms": "500", "group.consumer.heartbeat.interval.ms": "500"}
    with LocalBroker(properties={**QUICK_FAILOVER, **sessions, **beats}) as broker:
        stage = Stage(broker.bootstrap_servers, prefix, environment={"MODELVIGIL_KAFKA_GROUP_PROTOCOL": "consumer"})
        return perform(stage, partial(storm, seconds=30.0, seed=3, workers=3))


def _kill(broker: LocalBroker, seconds: float) -> None:
    """Kill a broker, and bring it back after a while."""
    broker.kill()
    time.sleep(seconds)
    broker.start()


def _begin(stage: Stage) -> None:
    for name in WORKERS:
        stage.crew.start(name)
    for name in WORKERS:
        stage.crew.wait_until_said(name, '"partition live"')
    time.sleep(_REST_S)


def _alter(servers: str, topic: str, config: dict[str, str]) -> None:
    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in config.items()]
    client = AdminClient({"bootstrap.servers": servers})
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    client.incremental_alter_configs([resource])[resource].result(20)


BROKER_PLAYS: dict[str, Callable[[str], Result]] = {
    "broker killed, restarted, paused": broker_broken,
    "network: replies lost, late, EndTxn delayed": network_broken,
    "three brokers, rolling bounce and kills": rolling_bounce,
    "state topic compacted under load": compacted,
    "group storm, KIP-848": new_protocol,
}
