"""The topics themselves: creates them as the worker needs them, and checks those that are there.

Topics are given by role (`predictions`, `labels`, `dead_letters`, ...: the field names of `[topics]`).
Rule 1: nothing that exists is changed; what differs is reported.
Rule 2: an error is what breaks a law (lost replay data, state in the wrong partition); the rest are warnings.
"""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from confluent_kafka import KafkaException, TopicCollection, Uuid
from confluent_kafka.admin import (  # type: ignore[attr-defined] # documented there, only not listed in __all__
    ClusterMetadata,
    ConfigResource,
    NewTopic,
    ResourceType,
    TopicDescription,
    TopicMetadata,
)

from worker.edges.kafka.asking import PAUSE_S, SETTLING_MS, is_there
from worker.edges.kafka.client import FORBIDDEN, TOPIC_EXISTS, Deadline, KafkaConnection, blame, error_of
from worker.edges.kafka.probing import Reasons

if TYPE_CHECKING:
    from concurrent.futures import Future

INPUTS = ("predictions", "labels", "feedback")
OUTPUTS = ("alerts", "incidents", "metrics", "maintenance", "scores", "dead_letters")
FEEDBACK = "feedback"
INCIDENTS = "incidents"
STATE = "state"
SHARDED = ("predictions", "labels", STATE)
"""Partition p of each of these belongs to shard p."""
REQUIRED = ("predictions", "labels", *OUTPUTS, STATE)
"""Without these nothing runs; `feedback` may come later. `scores` is given only where it is written."""

_STATE_CONFIG = {
    "cleanup.policy": "compact",
    "min.cleanable.dirty.ratio": "0.2",
    # The segment that is written to is never compacted: it ends soon, by time or by size.
    "segment.ms": "1200000",
    "segment.bytes": "67108864",
    "max.compaction.lag.ms": "3600000",
}
_INCIDENTS_CONFIG = {
    "cleanup.policy": "compact",
    "min.cleanable.dirty.ratio": "0.2",
    # A reader wants the open incidents, not what has been resolved for an hour.
    "segment.ms": "1200000",
    "segment.bytes": "16777216",
    "max.compaction.lag.ms": "3600000",
}
_REPLICAS_WANTED = 3
_IN_SYNC_WANTED = 2
_RECORD_BYTES_WANTED = 1_000_000
UNREADABLE = "settings could not be read"
"""How a finding begins that says only that."""
_EXTRA_S = 1.0
"""Given to the client beyond the timeout of a request, so that its own error arrives before ours."""

Configs = Mapping[str, Mapping[str, str]]


class BrokerUnreachableError(Exception):
    """Kafka does not answer; the message is one line and says what to look at."""


class TopicReport(NamedTuple):
    """What became of one topic."""

    topic: str
    outcome: Literal["created", "exists", "differs", "failed"]
    detail: str = ""


class Finding(NamedTuple):
    """Something about a topic that is wrong (error) or unwise (warning)."""

    severity: Literal["error", "warning"]
    topic: str
    message: str


class ClusterIdentity(NamedTuple):
    """Tells a cluster and its topics from others of the same names; "" for what the broker or the ACLs do not tell."""

    cluster_id: str
    topic_ids: dict[str, str]
    """By role: `predictions`, `labels`, `state`, `feedback`."""
    partitions: dict[str, int]
    """By role, of the same topics; without those that do not exist."""


class TopicAdmin:
    """Creates and checks the topics of one configuration.

    Args:
        connection: the cluster.
        topics: topic names by role.
        timeout_ms: bound of each request.
    """

    def __init__(self, connection: KafkaConnection, topics: Mapping[str, str], *, timeout_ms: int = 5_000) -> None:
        self._servers = connection.bootstrap_servers
        self._topics = dict(topics)
        self._timeout_s = timeout_ms / 1000
        self._watch = Reasons()
        self._admin = connection.admin(self._watch)

    def create(self, partitions: int, replication: int | None = None) -> list[TopicReport]:
        """Create what is missing: `feedback` with one partition, the others as `predictions`, if that exists.

        Args:
            partitions: for new topics, when there is no `predictions` topic to follow.
            replication: copies of each partition; without it 3, or as many as there are brokers.

        Raises:
            BrokerUnreachableError: Kafka does not answer.
        """
        cluster = self._cluster()
        there = self._existing(cluster)
        if "predictions" in there:
            partitions = len(there["predictions"].partitions)
        copies = replication or min(_REPLICAS_WANTED, len(cluster.brokers))
        missing = [role for role in (*INPUTS, *OUTPUTS, STATE) if role in self._topics and role not in there]
        created = dict(zip(missing, self._create(missing, partitions, copies), strict=True))
        existing = {role: self._compared(role, there[role], partitions) for role in there}
        return [report for role in self._topics if (report := created.get(role) or existing.get(role)) is not None]

    def check(self) -> list[Finding]:
        """Compare the topics with what the worker relies on; errors first.

        Raises:
            BrokerUnreachableError: Kafka does not answer.
        """
        cluster, there = self._settled()
        configs, findings = self._configs(sorted(there))
        findings += self._missing(there)
        findings += _partition_findings(self._topics, {role: len(t.partitions) for role, t in there.items()})
        findings += _policy_findings(self._topics, configs)
        if len(cluster.brokers) > 1:
            copies = {role: _copies(topic) for role, topic in there.items()}
            findings += _replication_findings(self._topics, copies, configs)
        return sorted(findings, key=lambda finding: finding.severity)

    def wrong_policies(self) -> list[str]:
        """Say which topics lose what is needed: state and incidents that are not compacted alone, compacted inputs.

        What this user may not look at is not judged.
        """
        there = self._existing(self._cluster())
        configs, _ = self._configs([role for role in (*INPUTS, INCIDENTS, STATE) if role in there])
        return [f"{finding.topic}: {finding.message}" for finding in _policy_findings(self._topics, configs)]

    def partition_counts(self, needed: Collection[str] = REQUIRED) -> dict[str, int]:
        """Return how many partitions each topic has, by role, without those that do not exist.

        Where a needed one is missing, which may just have been created, it looks again for a moment.

        Raises:
            BrokerUnreachableError: Kafka does not answer.
        """
        return {role: len(topic.partitions) for role, topic in self._settled(needed)[1].items()}

    def hidden(self, roles: Collection[str]) -> list[str]:
        """Return those topics that this user may not see: they look as if they did not exist."""
        names = [self._topics[role] for role in roles]
        answers = self._admin.describe_topics(TopicCollection(names), request_timeout=self._timeout_s) if names else {}
        return [name for name in names if _is_forbidden(answers[name], self._timeout_s + _EXTRA_S)]

    def identify(self) -> ClusterIdentity:
        """Return what tells this cluster and the topics that a shard's state belongs to from others of the same names.

        Raises:
            BrokerUnreachableError: Kafka does not answer.
        """
        cluster, there = self._settled()
        roles = (*SHARDED, FEEDBACK)
        counts = {role: len(there[role].partitions) for role in roles if role in there}
        return ClusterIdentity(str(cluster), self._topic_ids([role for role in roles if role in self._topics]), counts)

    def _topic_ids(self, roles: Sequence[str]) -> dict[str, str]:
        names = [self._topics[role] for role in roles]
        answers = self._admin.describe_topics(TopicCollection(names), request_timeout=self._timeout_s)
        return {role: self._topic_id(answers[self._topics[role]]) for role in roles}

    def _topic_id(self, answer: "Future[TopicDescription]") -> str:
        try:
            topic_id = answer.result(self._timeout_s + _EXTRA_S).topic_id
        except (KafkaException, TimeoutError):
            return ""
        # A broker older than 2.8 gives nothing but zeros.
        return "" if topic_id == Uuid(0, 0) else str(topic_id)

    def _settled(self, needed: Collection[str] = REQUIRED) -> tuple[ClusterMetadata, dict[str, TopicMetadata]]:
        deadline = Deadline(SETTLING_MS)
        while True:
            cluster = self._cluster()
            there = self._existing(cluster)
            if deadline.passed() or there.keys() >= self._topics.keys() & set(needed):
                return cluster, there
            time.sleep(PAUSE_S)

    def _cluster(self) -> ClusterMetadata:
        try:
            return self._admin.list_topics(timeout=self._timeout_s)
        except KafkaException as exception:
            # Serves `error_cb`, which alone knows of refused credentials and certificates.
            self._admin.poll(0.0)
            why = self._watch.why or error_of(exception).str()
            raise BrokerUnreachableError(
                f"Kafka at {self._servers} did not answer within {self._timeout_s:g} s ({why}): "
                "check that it runs, the address ([kafka] bootstrap_servers) and the credentials, or ask "
                "`modelvigil doctor`"
            ) from None

    def _existing(self, cluster: ClusterMetadata) -> dict[str, TopicMetadata]:
        found = {role: cluster.topics.get(name) for role, name in self._topics.items()}
        return {role: topic for role, topic in found.items() if topic is not None and is_there(topic)}

    def _create(self, roles: Sequence[str], partitions: int, copies: int) -> Iterator[TopicReport]:
        if not roles:
            return
        counts = {role: 1 if role == FEEDBACK else partitions for role in roles}
        new = [NewTopic(self._topics[role], counts[role], copies, config=_config_for(role, copies)) for role in roles]
        answers = self._admin.create_topics(new, operation_timeout=self._timeout_s, request_timeout=self._timeout_s)
        for role in roles:
            name = self._topics[role]
            yield self._created(name, answers[name], f"{counts[role]} partitions, {copies} copies")

    def _created(self, name: str, answer: "Future[None]", detail: str) -> TopicReport:
        try:
            answer.result(self._timeout_s + _EXTRA_S)
        except KafkaException as exception:
            error = error_of(exception)
            if error.code() == TOPIC_EXISTS:
                return TopicReport(name, "exists", "created by somebody else just now")
            return TopicReport(name, "failed", blame(error, f"topic {name}") or error.str())
        except TimeoutError:
            return TopicReport(name, "failed", "no answer in time")
        return TopicReport(name, "created", detail)

    def _compared(self, role: str, topic: TopicMetadata, partitions: int) -> TopicReport:
        count = len(topic.partitions)
        if role == FEEDBACK and count > 1:
            return TopicReport(self._topics[role], "differs", f"{count} partitions, must have one")
        if count == partitions or role in {FEEDBACK, "scores"}:
            return TopicReport(self._topics[role], "exists", f"{count} partitions")
        return TopicReport(self._topics[role], "differs", f"{count} partitions, predictions has {partitions}")

    def _missing(self, there: Mapping[str, TopicMetadata]) -> list[Finding]:
        gone = [role for role in (*INPUTS, *OUTPUTS, STATE) if role in self._topics and role not in there]
        return [
            Finding("error", self._topics[role], "does not exist: run `modelvigil topics create`")
            if role in REQUIRED
            else Finding("warning", self._topics[role], f"does not exist: no {role} will be read")
            for role in gone
        ]

    def _configs(self, roles: Sequence[str]) -> tuple[dict[str, dict[str, str]], list[Finding]]:
        """Read the settings of topics, by role; what may not be read is reported, not fatal."""
        if not roles:
            return {}, []
        resources = {role: ConfigResource(ResourceType.TOPIC, self._topics[role]) for role in roles}
        answers: Mapping[ConfigResource, Future[Mapping[str, Any]]] = self._admin.describe_configs(
            list(resources.values()), request_timeout=self._timeout_s
        )
        configs: dict[str, dict[str, str]] = {}
        findings: list[Finding] = []
        for role, resource in resources.items():
            try:
                entries = answers[resource].result(self._timeout_s + _EXTRA_S)
            except (KafkaException, TimeoutError) as exception:
                findings.append(Finding("warning", self._topics[role], _unreadable(exception)))
            else:
                configs[role] = {name: str(entry.value) for name, entry in entries.items()}
        return configs, findings


def _is_forbidden(answer: "Future[TopicDescription]", timeout_s: float) -> bool:
    try:
        answer.result(timeout_s)
    except KafkaException as exception:
        return error_of(exception).code() in FORBIDDEN
    except TimeoutError:
        return False
    return False


def _unreadable(exception: Exception) -> str:
    forbidden = isinstance(exception, KafkaException) and error_of(exception).code() in FORBIDDEN
    why = "this user lacks the ACL DescribeConfigs" if forbidden else str(exception) or "no answer in time"
    return f"{UNREADABLE} ({why}): not checked"


def _config_for(role: str, copies: int) -> dict[str, str]:
    config = dict({STATE: _STATE_CONFIG, INCIDENTS: _INCIDENTS_CONFIG}.get(role, {}))
    if copies >= _REPLICAS_WANTED:
        config["min.insync.replicas"] = str(_IN_SYNC_WANTED)
    return config


def _copies(topic: TopicMetadata) -> int:
    return min((len(partition.replicas) for partition in topic.partitions.values()), default=0)


def _partition_findings(topics: Mapping[str, str], counts: Mapping[str, int]) -> Iterator[Finding]:
    if counts.get(FEEDBACK, 1) > 1:
        yield Finding("error", topics[FEEDBACK], _one_partition(counts[FEEDBACK]))
    expected = counts.get("predictions")
    if expected is None:
        return
    for role, count in counts.items():
        counted = f"has {count} partitions, {topics['predictions']} has {expected}"
        if count == expected:
            continue
        if role in SHARDED and count < expected:
            yield Finding("error", topics[role], f"{counted}: {_growth(topics, expected)}")
        elif role == "labels":
            yield Finding("error", topics[role], f"{counted}: an event and its label would not meet")
        elif role == STATE:
            yield Finding("error", topics[role], f"{counted}: a shard would not find its state")
        elif role in OUTPUTS:
            yield Finding("warning", topics[role], f"{counted}: outputs of several shards share a partition")


def _one_partition(count: int) -> str:
    return (
        f"has {count} partitions, but must have one: every shard reads all of it, in one order; name another topic "
        "([topics] feedback) and run `modelvigil topics create`, then send again what is to stay in force"
    )


def _growth(topics: Mapping[str, str], partitions: int) -> str:
    return (
        f"if {topics['predictions']} has grown, its keys are spread anew: stop the writers, let the workers drain what "
        f"is there, grow {topics['labels']} and {topics[STATE]} to {partitions} partitions, too "
        "(kafka-topics --alter), and start again"
    )


def contradictions(topics: Mapping[str, str], counts: Mapping[str, int]) -> Iterator[str]:
    """Say in which topics the partitions are not as they must be, and what to do.

    More of `predictions` than of the others is none: the shards that are whole can work; `check` reports it.

    Args:
        topics: topic names by role.
        counts: partitions by role; a topic that does not exist contradicts nothing.
    """
    leader, expected = topics["predictions"], counts.get("predictions")
    if counts.get(FEEDBACK, 1) > 1:
        yield f"{topics[FEEDBACK]} {_one_partition(counts[FEEDBACK])}"
    for role in ("labels", STATE):
        if expected is not None and counts.get(role, 0) > expected:
            yield (
                f"{topics[role]} has {counts[role]} partitions, {leader} has {expected}: it belongs to another topic, "
                f"or {leader} was created again: name another one ([topics] {role}), or delete it with all that it "
                "holds, and run `modelvigil topics create`"
            )
    labels, state = counts.get("labels"), counts.get(STATE)
    if labels is not None and state is not None and labels != state:
        smaller = topics[STATE] if state < labels else topics["labels"]
        yield (
            f"{topics['labels']} has {labels} partitions, {topics[STATE]} has {state}: "
            f"grow {smaller} to {max(labels, state)} (kafka-topics --alter)"
        )


def _policy_findings(topics: Mapping[str, str], configs: Configs) -> Iterator[Finding]:
    for role, config in configs.items():
        policies = set(config.get("cleanup.policy", "delete").split(","))
        if role == STATE and policies != {"compact"}:
            yield Finding(
                "error", topics[role], "cleanup.policy must be compact alone: an idle partition would lose its state"
            )
        if role == INCIDENTS and policies != {"compact"}:
            yield Finding(
                "error", topics[role], "cleanup.policy must be compact alone: who reads it wants exactly what is open"
            )
        if role in INPUTS and "compact" in policies:
            yield Finding(
                "error", topics[role], "cleanup.policy must not be compact: records needed for replay would vanish"
            )
        if (
            role in (*OUTPUTS, STATE)
            and int(config.get("max.message.bytes", _RECORD_BYTES_WANTED)) < _RECORD_BYTES_WANTED
        ):
            yield Finding(
                "error",
                topics[role],
                f"max.message.bytes must be {_RECORD_BYTES_WANTED} or more: records would be refused",
            )


def _replication_findings(topics: Mapping[str, str], copies: Mapping[str, int], configs: Configs) -> Iterator[Finding]:
    for role, count in copies.items():
        if count < _REPLICAS_WANTED:
            yield Finding(
                "warning",
                topics[role],
                f"has {count} copies: with fewer than {_REPLICAS_WANTED}, a lost broker can lose data",
            )
        elif int(configs.get(role, {}).get("min.insync.replicas", _IN_SYNC_WANTED)) < _IN_SYNC_WANTED:
            yield Finding(
                "warning",
                topics[role],
                f"min.insync.replicas is under {_IN_SYNC_WANTED}: a record can be lost after it is acknowledged",
            )
