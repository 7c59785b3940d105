"""Fixtures for the tests of single edges against a real broker."""

from collections.abc import Iterator

import pytest

from tests.e2e.kafka_corner import Cluster


@pytest.fixture
def cluster(kafka: str, topic_prefix: str) -> Iterator[Cluster]:
    """Topics of this test alone."""
    cluster = Cluster(kafka, topic_prefix)
    yield cluster
    cluster.close()
