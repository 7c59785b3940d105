"""Marks all tests of this folder as integrations."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integrations.elasticsearch import ELASTICSEARCH
from tests.integrations.opensearch import OPENSEARCH, OpenSearch, fetch

_HERE = Path(__file__).parent
_SERVERS = {"opensearch": OPENSEARCH, "elasticsearch": ELASTICSEARCH}
"""By the fixture that starts it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in this folder: it runs only where it is asked for."""
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker("integration")
        for name in _SERVERS.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group(name))  # one server for all of them


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fetch servers, the first time, outside the time limit of any test."""
    if session.config.option.collectonly:
        return
    for name, distribution in _SERVERS.items():
        if any(name in getattr(item, "fixturenames", ()) for item in session.items):
            fetch(distribution=distribution)


@pytest.fixture(scope="session")
def opensearch() -> Iterator[OpenSearch]:
    """A running OpenSearch that all tests share: each has a namespace or names of its own."""
    with OpenSearch() as server:
        yield server
