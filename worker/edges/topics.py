"""Creates and checks the topics that a worker needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # not named in the module's __all__
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

TIMEOUT_S = 10.0
_DEAD_LETTER_BYTES_MAX = 2_097_152
"""A dead letter is a record at the input's limit plus our headers."""


class BrokerUnreachableError(Exception):
    """No broker answers; the message says what to do."""


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """Names of all topics, and how the state topic and the dead letters are kept."""

    predictions: str
    labels: str
    outputs: Sequence[str]
    dead_letters: str
    state: str
    feedback: str
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def all(self) -> list[str]:
        """Return every topic, in the order of a person's interest."""
        return [self.predictions, self.labels, self.feedback, *self.outputs, self.dead_letters, self.state]

    def needed(self) -> list[str]:
        """Return the topics without which a worker cannot run today."""
        return [self.predictions, *self.outputs, self.dead_letters]

    def settings_of(self, topic: str) -> dict[str, str]:
        """Return the settings that a new topic gets."""
        if topic == self.state:
            return {
                "cleanup.policy": "compact",
                "segment.ms": "1800000",
                "min.cleanable.dirty.ratio": "0.2",
                "delete.retention.ms": "86400000",
            }
        if topic == self.dead_letters:
            return {"max.message.bytes": str(_DEAD_LETTER_BYTES_MAX)}
        return {}


class Finding(NamedTuple):
    """Something about a topic that is not as it must be (`error`) or should be (`warning`)."""

    level: Literal["error", "warning"]
    topic: str
    text: str


class TopicAdmin:
    """Asks and tells the cluster about topics."""

    def __init__(self, client: AdminClient, servers: str) -> None:
        self._client = client
        self._servers = servers

    def describe(self) -> dict[str, tuple[int, int]]:
        """Return partition count and replication factor of every topic."""
        try:
            metadata = self._client.list_topics(timeout=TIMEOUT_S)
        except KafkaException as error:
            raise BrokerUnreachableError(
                f"no Kafka broker answers at {self._servers} ({error.args[0].str()}): check --bootstrap-servers, "
                "the network, and kafka.properties (security.protocol, sasl.*)"
            ) from None
        return {
            name: (len(topic.partitions), min((len(part.replicas) for part in topic.partitions.values()), default=0))
            for name, topic in metadata.topics.items()
        }

    def brokers(self) -> int:
        """Return how many brokers there are."""
        return len(self._client.list_topics(timeout=TIMEOUT_S).brokers)

    def create(self, plan: TopicPlan, partitions: int, replication_factor: int | None) -> list[str]:
        """Create what is missing; return one line for each topic."""
        existing = self.describe()
        count = existing.get(plan.predictions, (partitions, 0))[0]
        missing = [name for name in plan.all() if name not in existing]
        wanted = [NewTopic(name, count, replication_factor or -1, config=plan.settings_of(name)) for name in missing]
        problems = self._create(wanted)
        lines = []
        for name in plan.all():
            if name in problems:
                lines.append(f"{name}: not created: {problems[name]}")
            elif name in existing:
                lines.append(f"{name}: exists with {existing[name][0]} partitions")
            else:
                lines.append(f"{name}: created with {count} partitions")
        return lines

    def _create(self, wanted: Sequence[Any]) -> dict[str, str]:
        """Create topics; return the problems by topic."""
        problems = {}
        if wanted:
            for name, future in self._client.create_topics(list(wanted), request_timeout=TIMEOUT_S).items():
                try:
                    future.result(TIMEOUT_S)
                except KafkaException as error:
                    if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                        problems[name] = error.args[0].str()
        return problems

    def check(self, plan: TopicPlan) -> list[Finding]:
        """Return everything that is not as it must or should be."""
        existing = self.describe()
        findings = [
            Finding("error", name, "does not exist: run `modelvigil topics create`")
            for name in plan.all()
            if name not in existing
        ]
        findings += self._check_counts(plan, existing)
        present = [name for name in plan.all() if name in existing]
        findings += self._check_cleanup(plan, present)
        if self.brokers() > 1:
            findings += [
                Finding("warning", name, f"has {existing[name][1]} replicas: 3 survive the loss of a broker")
                for name in present
                if existing[name][1] < 3  # noqa: PLR2004 - as the text says
            ]
        return findings

    def _check_counts(self, plan: TopicPlan, existing: Mapping[str, tuple[int, int]]) -> list[Finding]:
        """An event, its label and its state must have the same partition number."""
        if plan.predictions not in existing:
            return []
        count = existing[plan.predictions][0]
        return [
            Finding("error", name, f"has {existing[name][0]} partitions, but {plan.predictions} has {count}")
            for name in (plan.labels, plan.state)
            if name in existing and existing[name][0] != count
        ]

    def _check_cleanup(self, plan: TopicPlan, present: Sequence[str]) -> list[Finding]:
        policies = self._cleanup_policies(
            [name for name in present if name in {plan.predictions, plan.labels, plan.state}]
        )
        findings = []
        for name, policy in policies.items():
            if name == plan.state and policy != "compact":
                findings.append(Finding("error", name, f"has cleanup.policy={policy}: it must be compact"))
            if name != plan.state and "compact" in policy:
                findings.append(Finding("error", name, "is compacted: records that replay needs would go; use delete"))
        return findings

    def _cleanup_policies(self, names: Sequence[str]) -> dict[str, str]:
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        policies = {}
        for resource, future in self._client.describe_configs(resources, request_timeout=TIMEOUT_S).items():
            policies[resource.name] = future.result(TIMEOUT_S)["cleanup.policy"].value
        return policies
