"""Decoding: good records become events, everything else a reject with a stable code, and nothing raises."""

import itertools
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.malformed import GOOD, good, malformed
from worker.core.codec import (
    DecodedBatch,
    DecodedLabels,
    dead_letter,
    decode_feedback,
    decode_labels,
    decode_predictions,
    encode,
)
from worker.core.events import InputTopic, OutputTopic, RawBatch, RejectCode

RECORD_MS = 1_767_225_600_500


def batch(*values: bytes | None, record_ms: int = RECORD_MS) -> RawBatch:
    """Return a batch of records with these values."""
    size = len(values)
    return RawBatch(3, list(range(size)), [record_ms] * size, values, [None] * size, [None] * size)


def decode(*values: bytes | None, record_ms: int = RECORD_MS) -> DecodedBatch:
    """Decode predictions with default bounds."""
    raw = batch(*values, record_ms=record_ms)
    return decode_predictions(raw, record_bytes_max=262_144, future_max_ms=3_600_000)


def labels(*values: bytes | None, record_ms: int = RECORD_MS) -> DecodedLabels:
    """Decode labels with default bounds."""
    raw = batch(*values, record_ms=record_ms)
    return decode_labels(raw, record_bytes_max=262_144, future_max_ms=3_600_000)


def event(**fields: object) -> bytes:
    """Return the good event with some fields changed."""
    return json.dumps(GOOD | fields).encode()


GOOD_LABEL = {"event_id": "e1", "model_id": "credit", "label": "café", "timestamp": 1_767_225_600_000}


def label(**fields: object) -> bytes:
    """Return the good label with some fields changed."""
    return json.dumps(GOOD_LABEL | fields, ensure_ascii=False).encode()


CODES = [
    (None, RejectCode.EMPTY),
    (b"", RejectCode.EMPTY),
    (b"x" * 300_000, RejectCode.TOO_LARGE),
    (b"{", RejectCode.NOT_JSON),
    (b"\xef\xbb\xbf" + good(1), RejectCode.NOT_JSON),
    (good(1) + b"x", RejectCode.NOT_JSON),
    (good(1).replace(b"12.5", b"01"), RejectCode.NOT_JSON),
    (good(1).replace(b"CH", b"\xff"), RejectCode.NOT_UTF8),
    (good(1)[:-1] + b',"ignored":"\xff"}', RejectCode.NOT_UTF8),
    (good(1).replace(b"CH", rb"\ud800"), RejectCode.NOT_UTF8),
    (good(1)[:-1] + rb',"ignored":"\ud800"}', RejectCode.NOT_UTF8),
    (good(1).replace(b"12.5", b"NaN"), RejectCode.NOT_FINITE),
    (good(1).replace(b"12.5", b"-Infinity"), RejectCode.NOT_FINITE),
    (good(1).replace(b"12.5", b"1e999"), RejectCode.NOT_FINITE),
    (good(1)[:-1] + b',"ignored":' + b"[" * 9999 + b"]" * 9999 + b"}", RejectCode.TOO_DEEP),
    (b"{}", RejectCode.MISSING_FIELD),
    (b"[]", RejectCode.WRONG_TYPE),
    (b"null", RejectCode.WRONG_TYPE),
    (event(features=[1]), RejectCode.WRONG_TYPE),
    (event(features={"a": {"b": 1}}), RejectCode.WRONG_TYPE),
    (event(prediction=None), RejectCode.WRONG_TYPE),
    (event(event_id=7), RejectCode.WRONG_TYPE),
    (event(event_id=""), RejectCode.OUT_OF_BOUNDS),
    (event(model_id="x" * 257), RejectCode.OUT_OF_BOUNDS),
    (event(features={"": 1}), RejectCode.OUT_OF_BOUNDS),
    (event(features={f"f{place}": 1 for place in range(10_001)}), RejectCode.OUT_OF_BOUNDS),
    (event(probabilities={"yes": 1.5}), RejectCode.OUT_OF_BOUNDS),
    (event(timestamp="yesterday"), RejectCode.BAD_TIMESTAMP),
    (event(timestamp="2026-01-01T00:00:00"), RejectCode.BAD_TIMESTAMP),
    (event(timestamp=-1), RejectCode.BAD_TIMESTAMP),
    (event(timestamp=1e300), RejectCode.BAD_TIMESTAMP),
    (event(timestamp=10**25), RejectCode.BAD_TIMESTAMP),
    (event(timestamp=True), RejectCode.BAD_TIMESTAMP),
    (event(timestamp=RECORD_MS + 3_600_001), RejectCode.TIMESTAMP_IN_FUTURE),
]


LABEL_CODES = [
    (None, RejectCode.EMPTY),
    (label(label="x" * 300_000), RejectCode.TOO_LARGE),
    (label().replace("é".encode(), b"\xe9"), RejectCode.NOT_UTF8),
    (label()[:-1], RejectCode.NOT_JSON),
    (label(label=float("nan")), RejectCode.NOT_FINITE),
    (label()[:-1] + b',"ignored":' + b"[" * 9999 + b"]" * 9999 + b"}", RejectCode.TOO_DEEP),
    (b'{"event_id":"e1","model_id":"credit"}', RejectCode.MISSING_FIELD),
    (label(label=None), RejectCode.WRONG_TYPE),
    (label(event_id=""), RejectCode.OUT_OF_BOUNDS),
    (label(timestamp="2026-01-01T00:00:00"), RejectCode.BAD_TIMESTAMP),
    (label(timestamp=RECORD_MS + 3_600_001), RejectCode.TIMESTAMP_IN_FUTURE),
]


@pytest.mark.parametrize(("value", "code"), CODES, ids=[f"{place}-{code}" for place, (_, code) in enumerate(CODES)])
def test_each_kind_of_damage_has_its_code(value: bytes | None, code: RejectCode) -> None:
    """A bad record is rejected with the code that is promised for it, and with a detail for people."""
    decoded = decode(value)
    assert [reject.code for reject in decoded.rejects] == [code]
    assert decoded.rejects[0].detail
    assert not decoded.events


@pytest.mark.parametrize(("value", "code"), LABEL_CODES, ids=[code for _, code in LABEL_CODES])
def test_a_bad_label_has_the_code_of_its_damage(value: bytes | None, code: RejectCode) -> None:
    """Labels have the codes of predictions; good neighbours are decoded."""
    decoded = labels(label(), value, label(timestamp=RECORD_MS + 3_600_000))
    assert [(reject.row, reject.code) for reject in decoded.rejects] == [(1, code)]
    assert decoded.rejects[0].detail
    assert decoded.rows.tolist() == [0, 2]
    assert decoded.timestamps_ms.tolist() == [1_767_225_600_000, RECORD_MS + 3_600_000]


def test_there_is_an_example_of_every_code() -> None:
    """A new code comes with an example for both topics; `models_max` is the shard's, not the decoder's.

    Unknown fields are refused in feedback alone.
    """
    for examples in (CODES, LABEL_CODES):
        assert {code for _, code in examples} == set(RejectCode) - {RejectCode.MODELS_MAX, RejectCode.UNKNOWN_FIELD}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"scope": {"modell": "m"}}, RejectCode.UNKNOWN_FIELD),
        ({"kind": "mute"}, RejectCode.WRONG_TYPE),
        ({"author": None}, RejectCode.WRONG_TYPE),
        ({"author": ""}, RejectCode.OUT_OF_BOUNDS),
        ({"to": "2026-01-01T00:00:00"}, RejectCode.WRONG_TYPE),
        ({"to": 1e300}, RejectCode.BAD_TIMESTAMP),
    ],
)
def test_feedback_that_cannot_be_used_is_refused(change: dict[str, object], code: RejectCode) -> None:
    """A slip in a scope would silence everything: so here fields that are not known are refused, too."""
    silence = {"kind": "silence", "feedback_id": "f", "author": "a", "reason": "r", "scope": {}, "to": 1}
    values = [json.dumps(each).encode() for each in (silence, silence | change)]
    raw = RawBatch(0, range(2), [1, 1], values, [None, None], [None, None], InputTopic.FEEDBACK)
    found = decode_feedback(raw, record_bytes_max=10_000)
    assert [event.feedback_id for event in found.events] == ["f"]
    assert [(reject.row, reject.code) for reject in found.rejects] == [(1, code)]


@pytest.mark.parametrize("truth", [True, False, 1.5, "yes", ""])
def test_a_label_is_a_number_a_boolean_or_a_text(truth: object) -> None:
    """What a model may predict may be the truth, and arrives as the type that it was sent as."""
    event = labels(label(label=truth, extra={"ignored": [1]})).events[0]
    assert (event.event_id, event.model_id) == ("e1", "credit")
    assert type(event.label) is type(truth)
    assert event.label == truth


def test_every_malformed_record_is_rejected_and_its_neighbours_are_not() -> None:
    """Two thousand malformed records between good ones: only they are rejected."""
    bad = list(itertools.islice(malformed(7), 2000))
    values = [value for number, broken in enumerate(bad) for value in (good(number), broken)]
    decoded = decode(*values)
    assert [reject.row for reject in decoded.rejects] == list(range(1, 4000, 2))
    assert decoded.rows.tolist() == list(range(0, 4000, 2))


@given(st.binary(max_size=300))
def test_arbitrary_bytes_never_raise(value: bytes) -> None:
    """Whatever the bytes are, they are an event or a reject, on either topic."""
    for decoded in (decode(value), labels(value)):
        assert len(decoded.events) + len(decoded.rejects) == 1


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3)))
def test_arbitrary_json_in_any_field_never_raises(value: object) -> None:
    """Whatever a field holds, the record is an event or a reject."""
    decoded = decode(*(event(**{field: value}) for field in (*GOOD, "segment", "label", "other")))
    assert len(decoded.events) + len(decoded.rejects) == len(GOOD) + 3
    told = labels(*(label(**{field: value}) for field in (*GOOD_LABEL, "other")))
    assert len(told.events) + len(told.rejects) == len(GOOD_LABEL) + 1


STAMPS = (
    st.none() | st.integers(-(2**60), 2**60) | st.floats() | st.datetimes().map(lambda time: f"{time.isoformat()}Z")
)


@given(STAMPS | st.integers(RECORD_MS - 10**7, RECORD_MS + 10**7), st.sampled_from([-1, 0, RECORD_MS]))
def test_both_topics_have_the_same_rules_of_time(stamp: object, record_ms: int) -> None:
    """The same timestamp beside the same Kafka record is read, or refused, in the same way."""
    value = event(timestamp=stamp, label=1)
    found, labelled = decode(value, record_ms=record_ms), labels(value, record_ms=record_ms)
    assert found.timestamps_ms.tolist() == labelled.timestamps_ms.tolist()
    assert found.rejects == labelled.rejects


@pytest.mark.parametrize(
    ("stamp", "expected"),
    [
        (1_767_225_600_000, 1_767_225_600_000),
        (1_767_225_600_000.9, 1_767_225_600_000),
        ("2026-01-01T00:00:00Z", 1_767_225_600_000),
        ("2026-01-01T01:00:00.250+01:00", 1_767_225_600_250),
        (None, RECORD_MS),
    ],
)
def test_timestamps_become_epoch_milliseconds(stamp: object, expected: int) -> None:
    """RFC 3339 and epoch milliseconds are read; a missing timestamp is the Kafka record's."""
    assert decode(event(timestamp=stamp)).timestamps_ms == [expected]


def test_a_record_without_any_timestamp_is_rejected() -> None:
    """When neither the event nor the record has a time, there is no pane it could belong to."""
    decoded = decode(event(timestamp=None), record_ms=-1)
    assert decoded.rejects[0].code is RejectCode.BAD_TIMESTAMP


def test_of_duplicate_keys_the_last_one_wins() -> None:
    """As in every common JSON reader."""
    value = b'{"event_id":"a","event_id":"b",' + good(1).split(b",", 1)[1]
    assert decode(value).events[0].event_id == "b"


def test_unknown_fields_are_ignored() -> None:
    """A newer producer may send more than this worker knows."""
    assert decode(event(extra={"deep": [1, {"x": None}]})).rejects == []


def test_a_dead_letter_keeps_the_record_byte_for_byte() -> None:
    """Value, key and headers are the original's; our headers come after them."""
    raw = RawBatch(3, [41], [RECORD_MS], [b"\xff\x00"], [b"k\xff"], [[("trace", b"1"), ("trace", None)]])
    reject = decode_predictions(raw, record_bytes_max=100, future_max_ms=0).rejects[0]
    letter = dead_letter(raw, reject, "predictions")
    assert (letter.topic, letter.shard, letter.offset) == (OutputTopic.DEAD_LETTERS, 3, 41)
    assert (letter.key, letter.value) == (b"k\xff", b"\xff\x00")
    assert letter.headers[:2] == (("trace", b"1"), ("trace", None))
    told = dict(letter.headers[2:])
    assert told["modelvigil.topic"] == b"predictions"
    assert (told["modelvigil.partition"], told["modelvigil.offset"]) == (b"3", b"41")
    assert told["modelvigil.reason"] == b"not_utf8"


def test_a_labels_dead_letter_names_its_topic() -> None:
    """Partition and offset alone would not tell which record it was."""
    raw = batch(b"{")._replace(topic=InputTopic.LABELS)
    reject = decode_labels(raw, record_bytes_max=100, future_max_ms=0).rejects[0]
    letter = dead_letter(raw, reject, "labels")
    assert ("modelvigil.topic", b"labels") in letter.headers
    assert letter.value == b"{"


def test_encoding_writes_null_for_what_is_not_a_number() -> None:
    """JSON has no NaN: "not enough data yet" is null."""

    class Record(msgspec.Struct):
        value: float

    assert encode(Record(float("nan"))) == b'{"value":null}'
