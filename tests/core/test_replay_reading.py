"""Questions to Kafka that are asked again, without a Kafka: what passes is waited for, what does not is told."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from worker.edges.kafka import asking
from worker.edges.kafka.asking import asked, partitions_of
from worker.ports import SourceError, UnavailableError

AWAY = KafkaException(KafkaError(KafkaError._TRANSPORT, "away"))
UNKNOWN = SimpleNamespace(error=KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART), partitions={})
BARE = SimpleNamespace(error=None, partitions={})
THERE = SimpleNamespace(error=None, partitions={1: None, 0: None})


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a shorter time."""
    monkeypatch.setattr(asking, "PAUSE_S", 0.001)


def in_turn(*answers: Any) -> Callable[[], Any]:  # noqa: ANN401 - whatever is asked for
    """Return a question that is answered differently each time; exceptions are raised, the last answer stays."""
    left = list(answers)

    def ask() -> Any:  # noqa: ANN401 - as above
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return ask


def client(*answers: object) -> Any:  # noqa: ANN401 - in the place of a client
    """Return a client to which brokers describe a topic in turn."""
    ask = in_turn(*answers)

    def list_topics(topic: str, timeout: float) -> SimpleNamespace:
        assert timeout > 0
        return SimpleNamespace(topics={topic: ask()})

    return SimpleNamespace(list_topics=list_topics)


def test_a_topic_that_was_just_created_is_waited_for() -> None:
    """Brokers learn of it one after the other; a topic that stays unknown is refused."""
    assert partitions_of(client(UNKNOWN, BARE, THERE), "alerts", 5_000) == [0, 1]
    for never in (UNKNOWN, BARE):
        with pytest.raises(SourceError, match="topic alerts cannot be read: run `modelvigil topics create`"):
            partitions_of(client(never), "alerts", 20)


def test_what_passes_is_asked_again() -> None:
    """A broker that is away, or gives no answer, is asked until it answers; then nothing is told."""
    assert asked("ends", in_turn(AWAY, UnavailableError("later"), TimeoutError(), 7)) == 7


@pytest.mark.parametrize(("answer", "says"), [(AWAY, "^away$"), (TimeoutError(), "^no answer$")])
def test_patience_ends(answer: Exception, says: str) -> None:
    """The last error is told."""
    with pytest.raises(UnavailableError, match=says):
        asked("ends", in_turn(answer), timeout_ms=10)


def test_a_user_without_rights_is_not_asked_to_wait() -> None:
    """What does not pass by itself is told at once, with what was asked."""
    refused = KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
    with pytest.raises(SourceError, match=r"^ends: .*check the credentials and the ACLs"):
        asked("ends", in_turn(refused), timeout_ms=60_000)
