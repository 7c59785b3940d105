"""Fixtures for all tests. A test that asks for `kafka` gets a real one, started once for the whole session."""

import os
import re
import sys
import uuid
from collections.abc import Iterator

import pytest

from tests.e2e.faults.node import QUICK_FAILOVER
from worker.edges.broker import LocalBroker
from worker.edges.broker.jars import class_path

_GIVEN_SERVERS = os.environ.get("MODELVIGIL_BOOTSTRAP_SERVERS", "")


def _say(message: str) -> None:
    if sys.__stderr__ is not None:
        sys.__stderr__.write(f"{message}\n")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a Kafka, so that `-m 'not e2e'` leaves it out."""
    for item in items:
        if "kafka" in getattr(item, "fixturenames", ()):
            item.add_marker("e2e")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fetch Kafka's jars, the first time, outside the time limit of any test."""
    if not session.config.option.collectonly and any(item.get_closest_marker("e2e") for item in session.items):
        class_path(_say)


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """The bootstrap servers of a running Kafka: the one of MODELVIGIL_BOOTSTRAP_SERVERS, or else our own."""
    if _GIVEN_SERVERS:
        yield _GIVEN_SERVERS
        return
    with LocalBroker(properties=QUICK_FAILOVER, say=_say) as broker:
        yield broker.bootstrap_servers


@pytest.fixture
def topic_prefix(request: pytest.FixtureRequest) -> str:
    """A prefix for topics, groups and transactional ids that no other test or run has used."""
    test_name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:60]
    return f"{test_name}-{uuid.uuid4().hex[:8]}-"
