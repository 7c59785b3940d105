"""Creating and checking topics on a real broker."""

import re
import time
from collections.abc import Mapping

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined] # not listed in its __all__
    AdminClient,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from worker.cluster import (
    TopicsError,
    check_topics,
    create_topics,
    identify,
    refuse_contradicting_topics,
    refuse_missing_topics,
)
from worker.edges.kafka import ClientError, KafkaConnection
from worker.edges.kafka.topics import BrokerUnreachableError, Finding, TopicAdmin
from worker.settings import KafkaSettings, Settings, TopicSettings

_INPUTS = ("predictions", "labels", "feedback")
_ROLES = (*_INPUTS, "alerts", "incidents", "metrics", "maintenance", "dead_letters", "state", "scores")


def _names(prefix: str) -> dict[str, str]:
    return {role: f"{prefix}{role}" for role in _ROLES}


def _make(servers: str, *topics: NewTopic) -> None:
    admin = AdminClient({"bootstrap.servers": servers})
    for answer in admin.create_topics(list(topics)).values():
        answer.result(10)
    for topic in topics:
        _await(admin, topic.topic, topic.num_partitions)


def _grow(servers: str, topic: str, partitions: int) -> None:
    admin = AdminClient({"bootstrap.servers": servers})
    admin.create_partitions([NewPartitions(topic, partitions)])[topic].result(10)
    _await(admin, topic, partitions)


def _await(admin: AdminClient, topic: str, partitions: int) -> None:
    """Wait for the broker: the controller answers a moment before the broker knows."""
    end = time.monotonic() + 10
    while len(admin.list_topics(topic).topics[topic].partitions) != partitions:
        assert time.monotonic() < end, f"{topic} has not got {partitions} partitions"
        time.sleep(0.01)


def _settings(servers: str, names: Mapping[str, str]) -> Settings:
    return Settings(kafka=KafkaSettings(bootstrap_servers=servers), topics=TopicSettings(**names))


def test_created_topics_pass_the_check_and_are_created_once(kafka: str, topic_prefix: str) -> None:
    """What `create` makes, `check` accepts; a second run changes nothing."""
    names = _names(topic_prefix)
    admin = TopicAdmin(KafkaConnection(kafka), names)
    missing = admin.check()
    assert {finding.topic for finding in missing if finding.severity == "error"} == {
        names[role] for role in _ROLES if role != "feedback"
    }
    assert admin.partition_counts() == {}
    reports = admin.create(3)
    assert [(report.topic, report.outcome) for report in reports] == [(names[role], "created") for role in _ROLES]
    assert admin.check() == []
    assert admin.partition_counts() == dict.fromkeys(_ROLES, 3) | {"feedback": 1}
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
    """Partitions that do not fit, state and incidents that expire, an input that vanishes, a topic too narrow."""
    names = _names(topic_prefix)
    _make(
        kafka,
        NewTopic(names["predictions"], 2, 1, config={"cleanup.policy": "compact"}),
        NewTopic(names["labels"], 3, 1, config={"cleanup.policy": "compact"}),
        NewTopic(names["state"], 4, 1),
        NewTopic(names["feedback"], 2, 1, config={"cleanup.policy": "compact"}),
        NewTopic(names["incidents"], 2, 1, config={"cleanup.policy": "compact,delete"}),
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
        (names["labels"], "cleanup.policy must not be compact"),
        (names["feedback"], "cleanup.policy must not be compact"),
        (names["feedback"], "has 2 partitions, but must have one"),
        (names["incidents"], "cleanup.policy must be compact alone"),
        (names["alerts"], "max.message.bytes must be 1000000 or more"),
        (names["metrics"], "does not exist"),
    } <= said


@pytest.mark.parametrize(("role", "segment_bytes"), [("state", "67108864"), ("incidents", "16777216")])
def test_a_compacted_topic_is_created_so_that_it_stays_small(
    kafka: str, topic_prefix: str, role: str, segment_bytes: str
) -> None:
    """What has been replaced is compacted soon: segments end early, and none may wait for ever."""
    names = {name: f"{topic_prefix}{role}-{name}" for name in ("predictions", role)}
    TopicAdmin(KafkaConnection(kafka), names).create(1)
    resource = ConfigResource(ResourceType.TOPIC, names[role])
    admin = AdminClient({"bootstrap.servers": kafka})
    _await(admin, names[role], 1)
    config = admin.describe_configs([resource])[resource].result(10)
    wanted = {
        "cleanup.policy": "compact",
        "min.cleanable.dirty.ratio": "0.2",
        "segment.ms": "1200000",
        "segment.bytes": segment_bytes,
        "max.compaction.lag.ms": "3600000",
    }
    assert {name: config[name].value for name in wanted} == wanted


def test_predictions_that_have_grown_are_explained(kafka: str, topic_prefix: str) -> None:
    """The worker goes on with the shards that are whole; `topics check` says how to take in the new ones."""
    names = _names(topic_prefix)
    settings = _settings(kafka, names)
    create_topics(settings, 2, 1)
    _grow(kafka, names["predictions"], 3)
    refuse_contradicting_topics(settings)
    with pytest.raises(TopicsError) as caught:
        check_topics(settings)
    for role in ("labels", "state"):
        assert f"{names[role]} has 2 partitions, {names['predictions']} has 3" in str(caught.value)
    advice = f"stop the writers, let the workers drain .* grow {names['labels']} and {names['state']} to 3 partitions"
    assert re.search(advice, str(caught.value))
    for role in ("labels", "state"):
        _grow(kafka, names[role], 3)
    refuse_contradicting_topics(settings)
    assert all("partitions" in line for line in check_topics(settings))


def test_topics_that_contradict_each_other_stop_the_start(kafka: str, topic_prefix: str) -> None:
    """More of labels or of state than of predictions, or not as many of one as of the other: who, and what to do."""
    names = _names(topic_prefix)
    settings = _settings(kafka, names)
    create_topics(settings, 2, 1)
    refuse_contradicting_topics(settings)
    _grow(kafka, names["labels"], 3)
    with pytest.raises(TopicsError) as caught:
        refuse_contradicting_topics(settings)
    labels, state = str(caught.value).split("; ")
    assert labels.startswith(f"{names['labels']} has 3 partitions, {names['predictions']} has 2: ")
    assert "[topics] labels" in labels
    assert state == (
        f"{names['labels']} has 3 partitions, {names['state']} has 2: grow {names['state']} to 3 (kafka-topics --alter)"
    )
    _grow(kafka, names["predictions"], 4)
    with pytest.raises(TopicsError, match=f"^{names['labels']} has 3 partitions, {names['state']} has 2: grow"):
        refuse_contradicting_topics(settings)


def test_a_worker_does_not_start_without_labels_and_state(kafka: str, topic_prefix: str) -> None:
    """Both belong to every shard; `feedback` may be missing."""
    names = _names(topic_prefix)
    settings = _settings(kafka, names)
    _make(
        kafka,
        *(NewTopic(names[role], 1, 1) for role in _ROLES if role not in {"labels", "state", "feedback", "incidents"}),
        NewTopic(names["incidents"], 1, 1, config={"cleanup.policy": "compact"}),
    )
    with pytest.raises(TopicsError, match=f"^{names['labels']}, {names['state']} do not exist: run"):
        refuse_missing_topics(settings)
    refuse_contradicting_topics(settings)
    _make(kafka, NewTopic(names["labels"], 1, 1), NewTopic(names["state"], 1, 1))
    refuse_missing_topics(settings)


def test_feedback_may_be_missing_but_must_have_one_partition(kafka: str, topic_prefix: str) -> None:
    """Without it a worker runs and `check` warns; with two partitions it does not start: there would be no order."""
    names = _names(topic_prefix)
    settings = _settings(kafka, names)
    _make(kafka, *(NewTopic(names[role], 1, 1) for role in ("predictions", "labels")))
    finding = Finding("warning", names["feedback"], "does not exist: no feedback will be read")
    assert finding in TopicAdmin(KafkaConnection(kafka), names).check()
    assert "feedback" not in identify(settings).partitions
    _make(kafka, NewTopic(names["feedback"], 2, 1))
    with pytest.raises(TopicsError, match=f"^{names['feedback']} has 2 partitions, but must have one: every shard"):
        refuse_contradicting_topics(settings)


def test_a_topic_created_again_has_another_identity(kafka: str, topic_prefix: str) -> None:
    """Names and offsets can be the same: the ids of the cluster and of its topics tell."""
    names = _names(topic_prefix)
    settings = _settings(kafka, names)
    _make(kafka, NewTopic(names["predictions"], 2, 1), NewTopic(names["labels"], 3, 1))
    before = identify(settings)
    assert before == identify(settings)
    assert before.cluster_id
    assert before.partitions == {"predictions": 2, "labels": 3}
    assert before.topic_ids["predictions"] != before.topic_ids["labels"]
    assert before.topic_ids["state"] == ""
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.delete_topics([names["labels"]])[names["labels"]].result(10)
    _make(kafka, NewTopic(names["labels"], 3, 1))
    after = identify(settings)
    assert after.topic_ids["labels"] not in {"", before.topic_ids["labels"]}
    assert after.topic_ids["predictions"] == before.topic_ids["predictions"]
    assert (after.cluster_id, after.partitions) == (before.cluster_id, before.partitions)


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
