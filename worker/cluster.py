"""What the settings say of the cluster: how to connect, which topics there must be. Light enough for quick commands."""

from collections.abc import Collection, Sequence

import msgspec
import structlog

from worker.edges.kafka import KafkaConnection
from worker.edges.kafka.topics import REQUIRED, BrokerUnreachableError, ClusterIdentity, TopicAdmin, contradictions
from worker.settings import Settings

__all__ = [
    "BrokerUnreachableError",
    "ClusterIdentity",
    "TopicsError",
    "check_topics",
    "connect",
    "create_topics",
    "identify",
    "refuse_contradicting_topics",
    "refuse_missing_topics",
    "topic_names",
    "writes_scores",
]


class TopicsError(Exception):
    """Topics are missing or not as they must be; the message says which and what to do."""


def connect(settings: Settings) -> KafkaConnection:
    """Return how all clients reach the cluster."""
    logger = structlog.get_logger("modelvigil.kafka")
    return KafkaConnection(settings.kafka.bootstrap_servers, settings.kafka.properties, logger)


def create_topics(settings: Settings, partitions: int, replication_factor: int | None) -> Sequence[str]:
    """Create the topics that are missing; return one line for each topic. Raises TopicsError if one failed."""
    reports = _admin(settings).create(partitions, replication_factor)
    failed = [report for report in reports if report.outcome == "failed"]
    if failed:
        raise TopicsError("; ".join(f"{report.topic} was not created: {report.detail}" for report in failed))
    return [f"{report.topic}: {report.outcome}, {report.detail}" for report in reports]


def check_topics(settings: Settings) -> Sequence[str]:
    """Return warnings, one line each; raise TopicsError if something is not as it must be."""
    findings = _admin(settings).check()
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise TopicsError("; ".join(f"{finding.topic} {finding.message}" for finding in errors))
    return [f"{finding.topic} {finding.message}" for finding in findings]


def refuse_missing_topics(settings: Settings, needed: Collection[str] = REQUIRED) -> None:
    """Stop before joining the group when a topic is missing that cannot be done without.

    Args:
        settings: the names of the topics.
        needed: their roles; without it, those of the worker.
    """
    admin, names = _admin(settings), topic_names(settings)
    there = admin.partition_counts(needed)
    roles = [role for role in names if role in needed and role not in there]
    hidden = admin.hidden(roles)
    if hidden:
        raise TopicsError(
            f"Kafka does not let this user see {', '.join(hidden)}: grant what `modelvigil doctor --acls` lists"
        )
    missing = [names[role] for role in roles]
    if missing:
        verb = "does" if len(missing) == 1 else "do"
        raise TopicsError(f"{', '.join(missing)} {verb} not exist: run `modelvigil topics create`")


def refuse_contradicting_topics(settings: Settings) -> None:
    """Stop before joining the group when topics cannot belong together, or would lose what a restore needs.

    More partitions of predictions than of the others are no reason: only the surplus ones cannot be worked on.
    """
    admin = _admin(settings)
    found = [*contradictions(topic_names(settings), admin.partition_counts()), *admin.wrong_policies()]
    if found:
        raise TopicsError("; ".join(found))


def identify(settings: Settings) -> ClusterIdentity:
    """Return what tells this cluster and its topics from others of the same names."""
    return _admin(settings).identify()


def _admin(settings: Settings) -> TopicAdmin:
    return TopicAdmin(connect(settings), topic_names(settings))


def topic_names(settings: Settings) -> dict[str, str]:
    """Return the names of the topics by role; `scores` only if a model's scores are to be published."""
    names: dict[str, str] = msgspec.structs.asdict(settings.topics)
    return {role: name for role, name in names.items() if role != "scores" or writes_scores(settings)}


def writes_scores(settings: Settings) -> bool:
    """Return whether scores of any model are to be published."""
    engine = settings.engine
    return bool({engine.scores, *(model.scores for model in engine.models)} - {"off", None})
