"""What the state of a deployment belongs to: its group, cluster, topics, options and libraries."""

from uuid import uuid4

from worker.cluster import ClusterIdentity
from worker.core.journal import Origin
from worker.fingerprint import environment, fingerprint, options_text, policy
from worker.recovery.track import Identity
from worker.settings import Settings


def state_identity(settings: Settings, cluster: ClusterIdentity) -> Identity:
    """Return what every committed position tells of itself, and what a restore compares it with."""
    ids = cluster.topic_ids
    return Identity(
        group=settings.kafka.group_id,
        origin=Origin(cluster.cluster_id, ids["predictions"], ids["labels"], ids["state"], ids["feedback"]),
        fingerprint=fingerprint(settings.engine, settings.topics.predictions),
        environment=environment(),
        options=options_text(settings.engine),
        writer=uuid4().hex[:12],
        policy=policy(settings.engine),
    )
