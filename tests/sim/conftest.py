"""Clusters for the tests that run on the model and on a real Kafka."""

from collections.abc import Iterator

import pytest

from tests.sim.kafka_rig import KafkaRig
from tests.sim.rigs import Rig
from tests.sim.sim_rig import SimRig
from worker.edges.broker import LocalBroker

_QUICK_CLEANER = {"log.cleaner.backoff.ms": "100", "log.initial.task.delay.ms": "100"}


@pytest.fixture(params=["model", pytest.param("kafka", marks=pytest.mark.e2e)])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """A cluster, once the model and once a real one."""
    rig: Rig
    if request.param == "model":
        rig = SimRig()
    else:
        rig = KafkaRig(request.getfixturevalue("kafka"), request.getfixturevalue("topic_prefix"))
    yield rig
    rig.close()


@pytest.fixture(params=["model", pytest.param("kafka", marks=pytest.mark.e2e)])
def compacting(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """A cluster that compacts, the real one without its usual delays."""
    if request.param == "model":
        yield SimRig()
        return
    with LocalBroker(properties=_QUICK_CLEANER) as broker:
        rig = KafkaRig(broker.bootstrap_servers, request.getfixturevalue("topic_prefix"))
        yield rig
        rig.close()
