"""What consumers share that bring records elsewhere: where they begin, what they ask, how they commit."""

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from worker.edges.kafka import asking
from worker.edges.kafka.client import error_of
from worker.ports import SourceError, UnavailableError

CALL_S = 5.0
"""Of one question."""
_NOT_A_MEMBER = frozenset(
    {
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.UNKNOWN_MEMBER_ID,
    }
)
_Answer = TypeVar("_Answer")


class NotTakenError(Exception):
    """Kafka does not take positions from this member (any more)."""


def asked(what: str, ask: Callable[[], _Answer]) -> _Answer:
    """Ask Kafka until it answers, or patience is over. Raises SourceError."""
    try:
        return asking.asked(what, ask)
    except UnavailableError as error:
        raise SourceError(f"{what}: {error}") from None


def ends_of(consumer: Consumer, place: TopicPartition) -> tuple[int, int]:
    """Return the first offset of a partition, and where it ends. Raises SourceError."""
    return asked(f"ends of topic {place.topic}", lambda: consumer.get_watermark_offsets(place, CALL_S))


def start_of(
    committed: int | None, low: int, high: int, *, served_before: bool, start_at: Literal["earliest", "latest"]
) -> int:
    """Return where to begin in a partition.

    Args:
        committed: the committed position, None without one.
        low: the first offset that is still there.
        high: the end.
        served_before: the group has a position in another partition, so that this one is new: nothing of it is old.
        start_at: where a group begins that was never served.
    """
    if committed is None:
        return low if served_before or start_at == "earliest" else high
    # Beyond the end: the topic was created again. Before the beginning: retention was faster.
    return low if committed > high or committed < low else committed


def commit(consumer: Consumer, group_id: str, places: Sequence[TopicPartition]) -> None:
    """Commit positions, and return when Kafka has them.

    Raises:
        NotTakenError: this member is in the group no more.
        SourceError: Kafka fails.
    """
    asked(f"commit of group {group_id}", lambda: _commit_once(consumer, list(places)))


def _commit_once(consumer: Consumer, places: list[TopicPartition]) -> None:
    try:
        answers = consumer.commit(offsets=places, asynchronous=False)
    except KafkaException as exception:
        if error_of(exception).code() in _NOT_A_MEMBER:
            raise NotTakenError(error_of(exception).str()) from None
        raise
    for answer in answers or ():
        if answer.error is not None:
            raise KafkaException(answer.error)
