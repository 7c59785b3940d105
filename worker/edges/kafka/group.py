"""A consumer group seen from outside, by commands that look at it, or change its positions while nobody works.

Rule 1: nothing here joins the group.
Rule 2: positions are committed under a static id that no member has. A broker takes such a commit only while the group
has no members. Without an id it would take it at any time, for the sake of clients older than KIP-447, and a worker
would lose its position under its feet (both seen in tests).
"""

import uuid
from collections.abc import Callable, Sequence
from typing import TypeVar

from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException, TopicPartition

from worker.edges.kafka.asking import asked
from worker.edges.kafka.client import ErrorWatch, KafkaConnection, close_beside, error_of
from worker.edges.kafka.topics import BrokerUnreachableError
from worker.ports import Position, UnavailableError

_CALL_S = 5.0
_EXTRA_S = 1.0
"""Given to the client beyond the timeout of a request, so that its own error arrives before ours."""
_Answer = TypeVar("_Answer")


class KafkaGroup:
    """One consumer group.

    Args:
        connection: the cluster.
        group_id: the group.
        timeout_ms: how long a question is repeated; a transaction that a killed worker has left open makes positions
            unknown until the broker ends it.
    """

    def __init__(self, connection: KafkaConnection, *, group_id: str, timeout_ms: int = 30_000) -> None:
        self._servers = connection.bootstrap_servers
        self._group_id = group_id
        self._timeout_ms = timeout_ms
        self._admin = connection.admin(ErrorWatch())
        forced = {
            "group.id": group_id,
            "group.instance.id": f"modelvigil-outsider-{uuid.uuid4().hex}",
            "auto.offset.reset": "error",
        }
        self._consumer = connection.consumer(ErrorWatch(), {}, forced)

    def members(self) -> list[str]:
        """Return who is in the group, as client id and host.

        Raises:
            BrokerUnreachableError: Kafka does not answer.
            SourceError: this user may not see the group.
        """
        return self._asked("members", self._members)

    def committed(self, topic: str, partitions: Sequence[int]) -> dict[int, Position | None]:
        """Return the committed position of each partition; None where there is none.

        Raises:
            BrokerUnreachableError: Kafka does not answer, or keeps saying that a transaction is open.
            SourceError: this user may not read the group.
        """
        places = [TopicPartition(topic, partition) for partition in partitions]
        return self._asked("committed positions", lambda: self._committed(places)) if places else {}

    def outsider(self) -> bytes:
        """Return the metadata for commits that are taken only while the group has no members (rule 2)."""
        metadata: bytes = self._consumer.consumer_group_metadata()
        return metadata

    def close(self) -> None:
        """Ask nothing more."""
        close_beside(self._consumer)

    def _members(self) -> list[str]:
        answer = self._admin.describe_consumer_groups([self._group_id], request_timeout=_CALL_S)[self._group_id]
        try:
            members = answer.result(_CALL_S + _EXTRA_S).members
        except KafkaException as exception:
            if error_of(exception).code() == KafkaError.GROUP_ID_NOT_FOUND:
                return []
            raise
        return [f"{member.client_id} at {member.host.removeprefix('/')}" for member in members]

    def _committed(self, places: list[TopicPartition]) -> dict[int, Position | None]:
        found: dict[int, Position | None] = {}
        for answer in self._consumer.committed(places, timeout=_CALL_S):
            if answer.error is not None:
                raise KafkaException(answer.error)
            known = answer.offset != OFFSET_INVALID
            found[answer.partition] = Position(answer.offset, answer.metadata or "") if known else None
        return found

    def _asked(self, what: str, ask: Callable[[], _Answer]) -> _Answer:
        """Ask until there is an answer, or time is over."""
        what = f"{what} of group {self._group_id}"
        try:
            return asked(what, ask, self._timeout_ms)
        except UnavailableError as error:
            raise BrokerUnreachableError(
                f"Kafka at {self._servers} did not tell the {what} within {self._timeout_ms // 1000} s ({error}): "
                "check that it runs, then try again"
            ) from None
