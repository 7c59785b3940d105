"""What `modelvigil doctor` asks the brokers beside the topics: what this user may do, settings, clocks, transactions.

Rule 1: no record is written to any topic of the user's. `try_transactions` registers a transactional id, as the start
of a worker does, and nothing else is changed.
Rule 2: every question is bounded in time, and what is not answered is told as a reason, not raised.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined] # documented there, only not listed in __all__
    AclOperation,
    AdminClient,
    ConfigResource,
    OffsetSpec,
    ResourceType,
    TopicMetadata,
)

from worker.edges.kafka.asking import PAUSE_S, is_there
from worker.edges.kafka.client import FORBIDDEN, Deadline, ErrorWatch, KafkaConnection, error_of
from worker.edges.kafka.probing import Reasons

if TYPE_CHECKING:
    from concurrent.futures import Future

_EXTRA_S = 1.0
"""Given to the client beyond the timeout of a request, so that its own error arrives before ours."""
_NAMES = {
    AclOperation.READ: "Read",
    AclOperation.WRITE: "Write",
    AclOperation.CREATE: "Create",
    AclOperation.DESCRIBE: "Describe",
    AclOperation.DESCRIBE_CONFIGS: "DescribeConfigs",
}
_NEWEST = OffsetSpec.max_timestamp()  # type: ignore[no-untyped-call] # the client's own has no types
_OFFSETS_TOPIC = "__consumer_offsets"
_JAVA_INT = 1 << 32


class Missing(NamedTuple):
    """What could not be found out, and why."""

    reason: str
    forbidden: bool = False
    """This user lacks an ACL for it."""
    absent: bool = False
    """There is no such thing."""


class BrokerPlace(NamedTuple):
    """Where a broker says that it can be reached."""

    number: int
    address: str


class TopicSeen(NamedTuple):
    """How a topic is spread over brokers."""

    partitions: int
    copies: int
    """Of the partition that has the fewest."""
    in_sync: int
    """Likewise."""
    leaderless: int
    """Partitions that nobody leads: they can be neither read nor written."""


class ClusterSeen(NamedTuple):
    """The brokers."""

    cluster_id: str
    brokers: list[BrokerPlace]
    topics: dict[str, TopicSeen]
    """All that this user may see."""

    def topics_of(self, names: Mapping[str, str]) -> dict[str, TopicSeen]:
        """Return topics by role, without those that are not there."""
        return {role: self.topics[name] for role, name in names.items() if name in self.topics}


class GroupSeen(NamedTuple):
    """A consumer group."""

    state: str
    assignor: str
    members: list[str]
    operations: frozenset[str] | None
    """What this user may do with it; None if the broker does not tell."""


class Diagnosis:
    """Questions of one configuration.

    Args:
        connection: the cluster.
        timeout_s: bound of each question.
    """

    def __init__(self, connection: KafkaConnection, *, timeout_s: float = 5.0) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._watch = Reasons()
        self._admin: AdminClient = connection.admin(self._watch)

    def cluster(self) -> ClusterSeen | Missing:
        """Return who is there, or why nobody answers."""
        try:
            seen = self._admin.list_topics(timeout=self._timeout_s)
        except KafkaException as exception:
            # Serves `error_cb`, which alone knows of refused credentials and certificates.
            self._admin.poll(0.0)
            return Missing(self._watch.why or error_of(exception).str(), forbidden=bool(self._watch.refusal))
        places = [BrokerPlace(each.id, f"{each.host}:{each.port}") for each in seen.brokers.values()]
        topics = {name: _spread(topic) for name, topic in seen.topics.items() if is_there(topic)}
        return ClusterSeen(str(seen.cluster_id), sorted(places), topics)

    def topic_operations(self, topics: Sequence[str]) -> dict[str, frozenset[str] | Missing]:
        """Return what this user may do with each topic."""
        answers = self._admin.describe_topics(
            TopicCollection(list(topics)), include_authorized_operations=True, request_timeout=self._timeout_s
        )
        found: dict[str, frozenset[str] | Missing] = {}
        for topic, answer in answers.items():
            described = self._answer(answer)
            found[topic] = described if isinstance(described, Missing) else _named(described.authorized_operations)
        return found

    def group(self, group_id: str) -> GroupSeen | Missing:
        """Return who is in a group, and what this user may do with it."""
        deadline = Deadline(int(self._timeout_s * 1_000))
        seen = self._described(group_id)
        # The first question ever about a group makes a broker create the topic of positions, which takes a moment.
        while isinstance(seen, Missing) and not (seen.forbidden or seen.absent or deadline.passed()):
            time.sleep(PAUSE_S)
            seen = self._described(group_id)
        if isinstance(seen, Missing):
            return seen
        members = [f"{member.client_id} at {member.host.removeprefix('/')}" for member in seen.members]
        operations = None if seen.authorized_operations is None else _named(seen.authorized_operations)
        return GroupSeen(seen.state.name.lower(), seen.partition_assignor, members, operations)

    def _described(self, group_id: str) -> Any:  # noqa: ANN401 - see `_answer`
        (answer,) = self._admin.describe_consumer_groups(
            [group_id], include_authorized_operations=True, request_timeout=self._timeout_s
        ).values()
        return self._answer(answer)

    def settings_of_broker(self, number: int) -> dict[str, str] | Missing:
        """Return the settings of a broker."""
        return self._settings(ConfigResource(ResourceType.BROKER, str(number)))

    def settings_of_topics(self, topics: Sequence[str]) -> dict[str, dict[str, str] | Missing]:
        """Return the settings of each topic."""
        return {topic: self._settings(ConfigResource(ResourceType.TOPIC, topic)) for topic in topics}

    def newest_ms(self, partitions: Mapping[str, int]) -> dict[str, int | Missing | None]:
        """Return the greatest timestamp of any record in each topic, None of empty ones.

        Args:
            partitions: how many there are, by topic name.
        """
        places = {
            TopicPartition(topic, partition): _NEWEST
            for topic, count in partitions.items()
            for partition in range(count)
        }
        if not places:
            return {}
        answers = self._admin.list_offsets(places, request_timeout=self._timeout_s)
        found: dict[str, int | Missing | None] = {}
        for place, answer in answers.items():
            seen, before = self._answer(answer), found.get(place.topic)
            if isinstance(before, Missing):
                continue
            if isinstance(seen, Missing):
                found[place.topic] = seen
            elif seen.timestamp >= 0:
                found[place.topic] = max(seen.timestamp, before or 0)
            else:
                found.setdefault(place.topic, None)
        return found

    def last_commit_ms(self, group_id: str) -> int | Missing | None:
        """Return when the coordinator of a group stored something last, by the broker's clock; None if never."""
        try:
            there = self._admin.list_topics(_OFFSETS_TOPIC, timeout=self._timeout_s).topics.get(_OFFSETS_TOPIC)
        except KafkaException as exception:
            return _missing(exception)
        if there is None or there.error is not None or not there.partitions:
            return Missing(f"{_OFFSETS_TOPIC} is not to be seen")
        place = TopicPartition(_OFFSETS_TOPIC, java_hash(group_id) % len(there.partitions))
        (answer,) = self._admin.list_offsets({place: _NEWEST}, request_timeout=self._timeout_s).values()
        seen = self._answer(answer)
        if isinstance(seen, Missing):
            return seen
        return int(seen.timestamp) if seen.timestamp >= 0 else None

    def try_transactions(self, transactional_id: str, transaction_timeout_ms: int) -> Missing | None:
        """Register a transactional id; return why that did not go, if so. Nothing is produced."""
        watch = ErrorWatch()
        producer = self._connection.producer(
            watch, {}, {"transactional.id": transactional_id, "transaction.timeout.ms": transaction_timeout_ms}
        )
        try:
            # Of a new cluster the first question of this kind makes a broker create the topic of transactions.
            producer.init_transactions(2 * self._timeout_s)
        except KafkaException as exception:
            return _missing(exception)
        return None

    def _settings(self, resource: ConfigResource) -> dict[str, str] | Missing:
        (answer,) = self._admin.describe_configs([resource], request_timeout=self._timeout_s).values()
        entries = self._answer(answer)
        if isinstance(entries, Missing):
            return entries
        return {name: str(entry.value) for name, entry in entries.items() if not entry.is_sensitive}

    def _answer(self, answer: "Future[Any]") -> Any:  # noqa: ANN401 - what the client's stubs say
        try:
            return answer.result(self._timeout_s + _EXTRA_S)
        except KafkaException as exception:
            return _missing(exception)
        except TimeoutError:
            return Missing("no answer in time")


def java_hash(text: str) -> int:
    """Return what Java's String.hashCode gives, without its sign as Kafka takes it off: the partition of a group."""
    value = 0
    for high, low in zip(*[iter(text.encode("utf-16-be"))] * 2, strict=True):
        value = (31 * value + (high << 8 | low)) % _JAVA_INT
    signed = value - _JAVA_INT if value >= _JAVA_INT // 2 else value
    return 0 if signed == -_JAVA_INT // 2 else abs(signed)


def _spread(topic: TopicMetadata) -> TopicSeen:
    partitions = list(topic.partitions.values())
    return TopicSeen(
        len(partitions),
        min(len(each.replicas) for each in partitions),
        min(len(each.isrs) for each in partitions),
        sum(each.leader < 0 for each in partitions),
    )


def _missing(exception: KafkaException) -> Missing:
    error = error_of(exception)
    absent = error.code() in {
        KafkaError.GROUP_ID_NOT_FOUND,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,
    }
    return Missing(error.str(), error.code() in FORBIDDEN, absent)


def _named(operations: Iterable[object] | None) -> frozenset[str]:
    return frozenset(name for each in operations or () if (name := _NAMES.get(each)) is not None)  # type: ignore[call-overload] # an AclOperation, the stubs say less
