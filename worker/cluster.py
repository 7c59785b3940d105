"""What the settings say of the cluster: how to connect, which topics there must be. Light enough for quick commands."""

from collections.abc import Sequence

import structlog

from worker.edges.kafka.client import ErrorWatch, KafkaConnection
from worker.edges.topics import BrokerUnreachableError, Finding, TopicAdmin, TopicPlan
from worker.settings import Settings

__all__ = [
    "BrokerUnreachableError",
    "TopicsError",
    "check_topics",
    "connect",
    "create_topics",
    "refuse_missing_topics",
]


class TopicsError(Exception):
    """Topics are missing or not as they must be; the message says which and what to do."""


def connect(settings: Settings) -> KafkaConnection:
    """Return how all clients reach the cluster."""
    logger = structlog.get_logger("modelvigil.kafka")
    return KafkaConnection(settings.kafka.bootstrap_servers, settings.kafka.properties, logger)


def create_topics(settings: Settings, partitions: int, replication_factor: int | None) -> Sequence[str]:
    """Create the topics that are missing; return one line for each topic."""
    admin = _admin(settings)
    return admin.create(_plan(settings), partitions, replication_factor)


def check_topics(settings: Settings) -> Sequence[str]:
    """Return warnings, one line each; raise TopicsError if something is not as it must be."""
    findings = _admin(settings).check(_plan(settings))
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        raise TopicsError(_in_one_line(errors))
    return [f"{finding.topic} {finding.text}" for finding in findings]


def refuse_missing_topics(settings: Settings) -> None:
    """Stop before joining the group when a topic is missing that the worker cannot do without."""
    plan = _plan(settings)
    existing = _admin(settings).describe()
    missing = [name for name in plan.needed() if name not in existing]
    if missing:
        verb = "does" if len(missing) == 1 else "do"
        raise TopicsError(f"{', '.join(missing)} {verb} not exist: run `modelvigil topics create`")


def _in_one_line(findings: Sequence[Finding]) -> str:
    return "; ".join(f"{finding.topic} {finding.text}" for finding in findings)


def _admin(settings: Settings) -> TopicAdmin:
    connection = connect(settings)
    return TopicAdmin(connection.admin(ErrorWatch(connection.logger)), settings.kafka.bootstrap_servers)


def _plan(settings: Settings) -> TopicPlan:
    topics = settings.topics
    return TopicPlan(
        predictions=topics.predictions,
        labels=topics.labels,
        feedback=topics.feedback,
        outputs=[topics.alerts, topics.metrics, topics.maintenance],
        dead_letters=topics.dead_letters,
        state=topics.state,
    )
