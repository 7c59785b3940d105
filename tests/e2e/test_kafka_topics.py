"""Creating and checking topics on a real broker."""

import time

import pytest
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined] # not listed in its __all__

from worker.edges.kafka import ClientError, KafkaConnection
from worker.edges.kafka.topics import BrokerUnreachableError, Finding, TopicAdmin

_ROLES = ("predictions", "labels", "feedback", "alerts", "metrics", "maintenance", "dead_letters", "state", "scores")


def _names(prefix: str) -> dict[str, str]:
    return {role: f"{prefix}{role}" for role in _ROLES}


def _make(servers: str, *topics: NewTopic) -> None:
    admin = AdminClient({"bootstrap.servers": servers})
    for answer in admin.create_topics(list(topics)).values():
        answer.result(10)


def test_created_topics_pass_the_check_and_are_created_once(kafka: str, topic_prefix: str) -> None:
    """What `create` makes, `check` accepts; a second run changes nothing."""
    names = _names(topic_prefix)
    admin = TopicAdmin(KafkaConnection(kafka), names)
    missing = admin.check()
    assert {finding.topic for finding in missing if finding.severity == "error"} == {
        names[role] for role in ("predictions", "alerts", "metrics", "maintenance", "dead_letters", "state")
    }
    assert admin.partition_count("predictions") is None
    reports = admin.create(3)
    assert [(report.topic, report.outcome) for report in reports] == [
        (names[role], "created") for role in _ROLES if role != "scores"
    ]
    assert admin.check() == []
    assert admin.partition_count("state") == 3
    again = admin.create(5)
    assert {report.outcome for report in again} == {"exists"}
    assert len(again) == len(reports)


def test_new_topics_follow_the_partitions_of_the_input(kafka: str, topic_prefix: str) -> None:
    """The input decides; what differs from it is reported and left alone."""
    names = _names(topic_prefix)
    _make(kafka, NewTopic(names["predictions"], 2, 1), NewTopic(names["alerts"], 1, 1))
    admin = TopicAdmin(KafkaConnection(kafka), names)
    outcomes = {report.topic: report for report in admin.create(7)}
    assert outcomes[names["predictions"]].outcome == "exists"
    assert outcomes[names["alerts"]].outcome == "differs"
    assert outcomes[names["state"]].detail.startswith("2 partitions")
    assert [(finding.severity, finding.topic) for finding in admin.check()] == [("warning", names["alerts"])]


def test_what_breaks_a_law_is_an_error(kafka: str, topic_prefix: str) -> None:
    """Labels and state in other partitions, a state that expires, an input that vanishes, a topic too narrow."""
    names = _names(topic_prefix)
    _make(
        kafka,
        NewTopic(names["predictions"], 2, 1, config={"cleanup.policy": "compact"}),
        NewTopic(names["labels"], 3, 1),
        NewTopic(names["state"], 4, 1),
        NewTopic(names["alerts"], 2, 1, config={"max.message.bytes": "1000"}),
    )
    findings = TopicAdmin(KafkaConnection(kafka), names).check()
    errors = [finding for finding in findings if finding.severity == "error"]
    assert findings[: len(errors)] == errors
    said = {(finding.topic, finding.message.split(":")[0]) for finding in errors}
    assert {
        (names["labels"], f"has 3 partitions, {names['predictions']} has 2"),
        (names["state"], f"has 4 partitions, {names['predictions']} has 2"),
        (names["state"], "cleanup.policy must be compact alone"),
        (names["predictions"], "cleanup.policy must not be compact"),
        (names["alerts"], "max.message.bytes must be 1000000 or more"),
        (names["metrics"], "does not exist"),
    } <= said
    assert Finding("warning", names["feedback"], "does not exist: no feedback will be read") in findings


def test_an_unreachable_broker_is_one_line(topic_prefix: str) -> None:
    """Nobody listens: the answer comes within the timeout, says where we looked, and has no stack of errors in it."""
    admin = TopicAdmin(KafkaConnection("127.0.0.1:9"), _names(topic_prefix), timeout_ms=300)
    started = time.monotonic()
    with pytest.raises(BrokerUnreachableError, match=r"Kafka at 127\.0\.0\.1:9 did not answer") as caught:
        admin.check()
    assert time.monotonic() - started < 2.0
    assert "\n" not in str(caught.value)


def test_a_property_that_librdkafka_does_not_know_is_named() -> None:
    """A slip in `[kafka.properties]` is found when the first client is built."""
    with pytest.raises(ClientError, match=r'\[kafka\.properties\] cannot be used: .*"sasl\.pasword"'):
        TopicAdmin(KafkaConnection("127.0.0.1:9", {"sasl.pasword": "hidden"}), {})


def test_a_connection_does_not_show_its_passwords() -> None:
    """Connections end up in logs and tracebacks."""
    assert "hidden" not in repr(KafkaConnection("127.0.0.1:9", {"sasl.password": "hidden"}))
