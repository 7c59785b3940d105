"""Questions to Kafka that are repeated for a while: a broker may be away, or not know yet what another one knows."""

import time
from collections.abc import Callable
from typing import TypeVar

from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import TopicMetadata  # type: ignore[attr-defined] # documented there, only not in __all__

from worker.edges.kafka.client import Deadline, blame, error_of
from worker.ports import SourceError, UnavailableError

SETTLING_MS = 1_000
"""Brokers learn of a new topic one after the other: so long a topic that nobody knows is asked for again."""
PAUSE_S = 0.1
_CALL_MS = 5_000
_Answer = TypeVar("_Answer")


def asked(what: str, ask: Callable[[], _Answer], timeout_ms: int = 30_000) -> _Answer:
    """Ask until there is an answer.

    Raises:
        SourceError: what waiting does not mend; `what` is named in it.
        UnavailableError: time is over; the message is the last error, and nothing else.
    """
    deadline = Deadline(timeout_ms)
    while True:
        try:
            return ask()
        except KafkaException as exception:
            error = error_of(exception)
            why, reason = error.str(), blame(error, what)
        except (TimeoutError, UnavailableError) as exception:
            why, reason = str(exception) or "no answer", None
        if reason is not None:
            raise SourceError(reason)
        if deadline.passed():
            raise UnavailableError(why)
        time.sleep(PAUSE_S)


def topic_metadata(
    client: Consumer | Producer, topic: str, deadline: Deadline, settling_ms: int = SETTLING_MS
) -> TopicMetadata | None:
    """Return what brokers know of a topic, None if that is nothing even after a while. Raises KafkaException."""
    settling = Deadline(settling_ms)
    while True:
        found: TopicMetadata | None = client.list_topics(topic, timeout=deadline.left_s()).topics.get(topic)
        if is_there(found) or settling.passed() or deadline.passed():
            return found
        time.sleep(PAUSE_S)


def is_there(topic: TopicMetadata | None) -> bool:
    """Tell whether a broker knows a topic, and its partitions."""
    return topic is not None and topic.error is None and bool(topic.partitions)


def partitions_of(client: Consumer, topic: str, settling_ms: int = SETTLING_MS) -> list[int]:
    """Return the partitions of a topic. Raises KafkaException, and SourceError if there are none."""
    found = topic_metadata(client, topic, Deadline(_CALL_MS), settling_ms)
    if found is None or not is_there(found):
        raise SourceError(f"topic {topic} cannot be read: run `modelvigil topics create`")
    return sorted(found.partitions)
