"""What `doctor` says of the newest events."""

import itertools
import json
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from tests.malformed import GOOD, malformed
from worker.core.events import InputTopic, RawBatch, RejectCode
from worker.core.options import EngineOptions
from worker.doctor.findings import Area, Finding, Status
from worker.doctor.sample_checks import sample_findings
from worker.edges.kafka.diagnosis import Missing
from worker.settings import Settings

NOW_MS = 1_767_225_600_000
"""When `GOOD` happened."""
BAD = list(itertools.islice(malformed(3), 60))


def records(
    topic: InputTopic, values: Sequence[bytes | None], partition: int = 0, keys: Sequence[bytes | None] | None = None
) -> RawBatch:
    """Return a batch whose records were written just now."""
    count = len(values)
    return RawBatch(
        partition,
        list(range(count)),
        [NOW_MS] * count,
        list(values),
        list(keys or [b"k"] * count),
        [None] * count,
        topic,
    )


def event(number: int, **changed: object) -> bytes:
    """Return a prediction."""
    return json.dumps(GOOD | {"event_id": f"e{number}"} | changed).encode()


def label(number: int) -> bytes:
    """Return the label of a prediction."""
    return json.dumps({"event_id": f"e{number}", "model_id": GOOD["model_id"], "label": True}).encode()


def findings(*batches: RawBatch, options: EngineOptions | None = None) -> list[Finding]:
    """Judge a sample of both topics."""
    sample = {
        topic: [each for each in batches if each.topic is topic]
        for topic in (InputTopic.PREDICTIONS, InputTopic.LABELS)
    }
    return list(sample_findings(Settings(engine=options or EngineOptions()), sample))


def about(found: Sequence[Finding], word: str) -> Finding:
    """Return the only finding that has a word in it."""
    (only,) = [each for each in found if word in each.message]
    return only


def predictions(values: Sequence[bytes | None], options: EngineOptions | None = None) -> list[Finding]:
    """Judge predictions alone, without what is said of missing labels."""
    found = findings(records(InputTopic.PREDICTIONS, values), options=options)
    return [each for each in found if not each.message.startswith("labels")]


def test_events_that_can_be_read_are_told_once() -> None:
    """Nothing to be done, nothing said."""
    (only,) = predictions([event(number) for number in range(50)])
    assert (only.status, only.area) == (Status.OK, Area.EVENTS)
    assert "the newest 50 records" in only.message


def test_refused_records_are_told_by_reason_with_an_example() -> None:
    """As the worker itself would refuse them: few are a warning, half of all an error."""
    values: list[bytes | None] = [event(number) for number in range(8)]
    found = predictions([*values, b"not json", event(9, prediction=[1])])
    assert about(found, "not_json").status is Status.WARNING
    assert "10% of the newest 10 records" in about(found, "not_json").message
    assert "partition 0, offset 8" in about(found, "not_json").message
    assert "mend the writer" in about(found, "wrong_type").advice
    assert about(predictions([*values[:1], None]), "empty").status is Status.ERROR


@given(st.lists(st.one_of(st.binary(max_size=40), st.none(), st.sampled_from(BAD)), max_size=30))
def test_whatever_is_in_a_topic_is_judged(values: list[bytes | None]) -> None:
    """Hostile records are counted like all others; no finding breaks a line."""
    found = findings(records(InputTopic.PREDICTIONS, values), records(InputTopic.LABELS, values, 1))
    assert found
    assert all("\n" not in each.message + each.advice for each in found)
    codes = set(RejectCode)
    told = [each for each in found if "dead letters" in each.message and each.message.startswith("predictions")]
    assert all(any(f": {code} (" in each.message for code in codes) for each in told)


def test_units_of_timestamps_are_guessed() -> None:
    """Seconds are read, but mean 1970; micro- and nanoseconds are refused; text without a zone, too."""
    seconds = predictions([event(number, timestamp=NOW_MS // 1000) for number in range(5)])
    assert "they look like seconds" in about(seconds, "before 1974").advice
    assert about(seconds, "before 1974").status is Status.ERROR
    for factor in (1_000, 1_000_000):
        finer = predictions([event(number, timestamp=NOW_MS * factor) for number in range(5)])
        assert "micro- or nanoseconds" in about(finer, "dead letters").advice
    local = predictions([event(1, timestamp="2026-01-01 10:00:00")])
    assert "with a time zone" in about(local, "dead letters").advice
    ahead = predictions([event(1, timestamp=NOW_MS + 7_200_000)])
    assert "later than its Kafka record" in about(ahead, "timestamp_in_future").advice
    late = predictions([event(number, timestamp=NOW_MS - 3 * 86_400_000) for number in range(5)])
    assert about(late, "more than a day older").status is Status.WARNING


def test_labels_may_be_sent_as_often_as_one_likes() -> None:
    """A correction repeats the id of what it corrects: that is what it is for."""
    found = findings(records(InputTopic.LABELS, [label(1), label(1), label(2)]))
    assert [each.status for each in found if each.message.startswith("labels")] == [Status.OK]


def test_ids_that_repeat_and_models_that_are_too_many() -> None:
    """A repeated event_id counts in its model alone."""
    found = predictions([event(1), event(1), event(1, model_id="other")])
    assert "1 of 3 records repeat" in about(found, "repeat").message
    many = [event(number, model_id=f"m{number}") for number in range(20)]
    assert about(predictions(many, EngineOptions(models_max=5)), "models_max").status is Status.WARNING
    assert len(predictions(many)) == 1
    each_its_own = [event(number, model_id=f"m{number}") for number in range(300)]
    assert about(predictions(each_its_own), "id of something else").status is Status.WARNING


def test_a_feature_of_two_types_is_named() -> None:
    """Null is no type: a missing value may be in any feature."""
    values = [event(1, features={"a": 1, "b": "x"}), event(2, features={"a": 2.5, "b": None})]
    assert len(predictions(values)) == 1
    found = about(predictions([*values, event(3, features={"a": "3", "b": True})]), "several types")
    assert "a of credit (2 number, 1 text)" in found.message
    assert "b of credit (1 text, 1 boolean)" in found.message


def test_labels_must_be_in_the_partition_of_their_predictions() -> None:
    """With the same key the partitioners differ; with another one the keys do."""
    here = records(InputTopic.PREDICTIONS, [event(number) for number in range(4)], 1)
    same = records(InputTopic.LABELS, [label(number) for number in range(3)], 1)
    assert about(findings(here, same), "in the partitions of their").status is Status.OK
    apart = about(findings(here, records(InputTopic.LABELS, [label(0), label(1)], 2)), "never meet")
    assert apart.status is Status.ERROR
    assert "2 of 2 labels" in apart.message
    assert "partitioner" in apart.advice
    keyed = about(findings(here, records(InputTopic.LABELS, [label(0)], 2, [b"other"])), "never meet")
    assert keyed.advice == "key each label as its prediction is keyed"
    few = about(findings(here, same, records(InputTopic.LABELS, [label(3)], 2)), "never meet")
    assert few.status is Status.WARNING
    strangers = findings(here, records(InputTopic.LABELS, [label(99)], 1))
    assert about(strangers, "no label in the sample").status is Status.UNKNOWN


def test_what_was_not_read_is_unknown() -> None:
    """An empty topic, no answer, or a topic that is not there: that one is another check's."""
    assert {each.status for each in findings()} == {Status.UNKNOWN}
    (only,) = sample_findings(Settings(), Missing("no answer"))
    assert only.status is Status.UNKNOWN
    assert list(sample_findings(Settings(), {})) == []
