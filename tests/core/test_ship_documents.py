"""Documents: what stands in them, for each kind of record, and for what a stranger may put into a topic."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.test_notify_messages import NOW_MS, event
from worker import schemas
from worker.core.codec import encode
from worker.core.events import MaintenanceEvent
from worker.edges.kafka.arrived import Arrived
from worker.elasticsearch_settings import STREAMS, Stream
from worker.ship.batches import Collected, Item, halves
from worker.ship.documents import HEADERS_MAX, VALUE_BYTES_MAX, UnfitError, document_of, id_of

Headers = tuple[tuple[str, bytes | None], ...]
WRITTEN_MS = NOW_MS + 500


def arrived(value: bytes | None, headers: Headers = (), topic: str = "modelvigil.alerts", offset: int = 7) -> Arrived:
    """Return a record of partition 3."""
    return Arrived(topic, 3, offset, WRITTEN_MS, b"key", value, headers)


def made(stream: Stream, value: bytes | None, headers: Headers = ()) -> dict[str, Any]:
    """Return the document of a record."""
    source = document_of(stream, arrived(value, headers)).source
    assert b"\n" not in source
    document: dict[str, Any] = json.loads(source)
    return document


def test_an_alert_is_found_by_the_names_of_ecs_and_stands_there_as_published() -> None:
    """With the time of its step, not that of its arrival."""
    told = event(alert_id="a1", severity="critical", timestamp_ms=NOW_MS)
    document = made("alerts", encode(told))
    assert document["@timestamp"] == NOW_MS
    assert document["message"] == told.summary
    assert document["event"] == {
        "module": "modelvigil",
        "dataset": "modelvigil.alerts",
        "created": WRITTEN_MS,
        "kind": "alert",
        "id": "a1",
        "action": "opened",
        "severity": 3,
    }
    assert document["kafka"] == {"topic": "modelvigil.alerts", "partition": 3, "offset": 7, "timestamp": WRITTEN_MS}
    assert document["modelvigil"] == json.loads(encode(told))


def test_ids_are_those_of_the_records_not_of_what_they_tell() -> None:
    """A metric is published again under its id; a topic that is created again has other timestamps."""
    first = arrived(b"")
    assert id_of(first) == f"modelvigil.alerts-3-7-{WRITTEN_MS}"
    others = [first._replace(offset=8), first._replace(partition=4), first._replace(timestamp_ms=1)]
    assert len({id_of(each) for each in [first, *others]}) == 4


@pytest.mark.parametrize("stream", ["alerts", "metrics", "maintenance"])
def test_every_published_kind_of_record_becomes_a_document(stream: Stream) -> None:
    """All examples of the contract; nothing of them is lost."""
    for record in schemas.examples()[stream]:
        document = made(stream, json.dumps(record).encode())
        told = document["modelvigil"]
        prediction = told.pop("prediction", None) if record.get("kind") == "pane" else None
        assert told == record
        assert document["message"]
        assert document["event"]["id"] in record.values()
        columns = [each for each in record.get("columns", ()) if each["role"] == "prediction"]
        assert (prediction or {}).get("mean") == (columns[0]["mean"] if columns else None)


def test_what_has_no_time_of_its_own_has_that_of_its_record() -> None:
    """And a time beyond the calendar is brought back into it."""
    without = MaintenanceEvent(
        maintenance_id="m", kind="schema_frozen", model_id="fraud", model_version=None, shard=0, offset=1, events=1
    )
    assert made("maintenance", encode(without))["@timestamp"] == WRITTEN_MS
    assert made("maintenance", encode(without))["message"] == "fraud: schema frozen"
    assert made("alerts", encode(event(timestamp_ms=10**18)))["@timestamp"] == 253_402_300_799_999


@pytest.mark.parametrize(
    "value",
    [None, b"", b"nonsense", b"[1]", b'"text"', b'{"alert_id": 7}', b"{}", b'{"alert_id": "a", "summary": "\xff"}'],
)
def test_what_is_no_record_is_said_to_be_unfit(value: bytes | None) -> None:
    """It becomes a dead letter, and no request breaks on it."""
    with pytest.raises(UnfitError):
        made("alerts", value)
    assert Item("alerts", arrived(value), "modelvigil-alerts-default", doubtful=False).unfit


@pytest.mark.parametrize("stream", STREAMS)
def test_lists_in_lists_in_lists_stop_nobody(stream: Stream) -> None:
    """A stranger may have sent them: such a dead letter is kept like any other, and is no other record."""
    deep = b'{"a":' + b"[" * 100_000
    if stream == "dead_letters":
        assert made(stream, deep)["modelvigil"]["value"].startswith('{"a":[[')
        return
    with pytest.raises(UnfitError, match="it is no record of"):
        document_of(stream, arrived(deep))


def test_line_breaks_between_tokens_do_not_end_a_document() -> None:
    """A request has one document on each line."""
    pretty = json.dumps(json.loads(encode(event(summary="one\ntwo"))), indent=2).replace("\n", "\r\n").encode()
    assert made("alerts", pretty + b"\n")["message"] == "one\ntwo"


def letter(**fields: str) -> Headers:
    """Return the headers of a dead letter."""
    return tuple((f"modelvigil.{name}", text.encode()) for name, text in fields.items())


def test_a_dead_letter_tells_where_it_came_from_and_shows_what_it_is() -> None:
    """Headers of the record itself come first, ours last."""
    ours = letter(topic="predictions", partition="1", offset="22", timestamp="5", reason="not_json", detail="at 3")
    headers = (("trace", b"\xff1"), ("modelvigil.reason", b"foreign"), *ours)
    document = made("dead_letters", b'{"model_id": "fraud", ...', headers)
    assert document["event"]["reason"] == "not_json"
    assert document["event"]["id"] == f"modelvigil.alerts-3-7-{WRITTEN_MS}"
    assert document["message"] == "not_json: at 3"
    assert document["modelvigil"] == {
        "topic": "predictions",
        "reason": "not_json",
        "detail": "at 3",
        "partition": 1,
        "offset": 22,
        "timestamp_ms": 5,
        "key": "key",
        "headers": [{"name": "trace", "value": "\\xff1"}],
        "value_bytes": 25,
        "truncated": False,
        "value": '{"model_id": "fraud", ...',
    }
    assert made("dead_letters", b'{"model_id": "fraud"}', ours)["modelvigil"]["model_id"] == "fraud"


def test_what_was_given_up_twice_is_one_document() -> None:
    """A kill between a dead letter and the commit has it written again: same id, and looked up before it is sent."""
    ours = {"topic": "modelvigil.alerts", "partition": "1", "offset": "22", "timestamp": "5", "target": "elasticsearch"}
    first, second = (arrived(b"x", letter(**ours), offset=offset) for offset in (7, 9))
    assert document_of("dead_letters", first).id == document_of("dead_letters", second).id
    assert Item("dead_letters", first, "s", doubtful=False).doubtful
    others = [ours | {name: each} for name, each in (("offset", "23"), ("partition", "0"), ("target", "pager"))]
    assert len({document_of("dead_letters", arrived(b"x", letter(**each))).id for each in [ours, *others]}) == 4


@pytest.mark.parametrize(
    "strange",
    [{}, {"target": ""}, {"target": 'a"b'}, {"target": "t" * 240}, {"offset": "-1"}, {"topic": "a/b"}],
)
def test_other_dead_letters_are_known_by_their_place(strange: dict[str, str]) -> None:
    """A worker writes each of its own once; of a stranger's headers nothing gets into an id."""
    sound = {"topic": "t" * 249, "partition": "1", "offset": "2", "timestamp": "5", "target": "pager"}
    record = arrived(b"x", letter(**(sound | strange if strange else {"topic": "predictions", "reason": "not_json"})))
    document = document_of("dead_letters", record)
    assert (document.id, document.may_repeat) == (id_of(record), False)
    assert not Item("dead_letters", record, "s", doubtful=False).doubtful


@settings(deadline=None)
@given(
    value=st.none() | st.binary(max_size=200),
    key=st.none() | st.binary(max_size=50),
    headers=st.lists(st.tuples(st.text(max_size=30), st.none() | st.binary(max_size=50)), max_size=60),
    numbers=st.text(max_size=30),
)
def test_anything_can_be_a_dead_letter(
    value: bytes | None, key: bytes | None, headers: list[tuple[str, bytes | None]], numbers: str
) -> None:
    """Its bytes can be had back, and it has a fixed set of fields."""
    ours = letter(offset=numbers.encode(errors="replace").decode(), reason=numbers.encode(errors="replace").decode())
    usable = [(name.encode(errors="replace").decode(), each) for name, each in headers]
    record = arrived(value, (*usable, *ours))._replace(key=key)
    document = json.loads(document_of("dead_letters", record).source)["modelvigil"]
    assert set(document) <= {
        "topic",
        "reason",
        "detail",
        "target",
        "partition",
        "offset",
        "timestamp_ms",
        "model_id",
        "key",
        "headers",
        "value",
        "value_base64",
        "value_bytes",
        "truncated",
    }
    assert len(document["headers"]) <= HEADERS_MAX
    if value is None:
        assert document["value_bytes"] is None
    elif "value" in document:
        assert document["value"].encode() == value
    else:
        assert base64.b64decode(document["value_base64"]) == value


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (b"\xc3\xa9" * VALUE_BYTES_MAX, "value"),
        (b"x" + b"\xc3\xa9" * VALUE_BYTES_MAX, "value"),
        (b"\xff" * 2 * VALUE_BYTES_MAX, "value_base64"),
        (b"x" * VALUE_BYTES_MAX + b"\xff", "value"),
    ],
)
def test_of_a_large_dead_letter_the_beginning_is_kept(value: bytes, field: str) -> None:
    """Also where the cut is within a character."""
    document = made("dead_letters", value)["modelvigil"]
    assert document["truncated"]
    assert document["value_bytes"] == len(value)
    kept = document[field].encode() if field == "value" else base64.b64decode(document[field])
    assert VALUE_BYTES_MAX - 3 <= len(kept) <= VALUE_BYTES_MAX
    assert value.startswith(kept)


def test_items_are_two_lines_of_a_request_and_are_collected_by_size() -> None:
    """The action, and the document."""
    items = [
        Item("alerts", arrived(encode(event()), offset=at), "modelvigil-alerts-x", doubtful=False) for at in (4, 9)
    ]
    action, source, nothing = items[0].lines.split(b"\n")
    assert json.loads(action) == {"create": {"_index": "modelvigil-alerts-x", "_id": items[0].id}}
    assert json.loads(source)["kafka"]["offset"] == 4
    assert nothing == b""
    collected = Collected()
    for at, item in enumerate(items):
        collected.add(item, 100 + at)
    assert (collected.size, collected.since_ms) == (sum(len(item.lines) for item in items), 100)
    assert collected.ends == {("modelvigil.alerts", 3): 10}


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 400), min_size=2, max_size=30))
def test_halves_are_not_empty_and_lose_nothing(sizes: list[int]) -> None:
    """Neither is larger than all without the smallest one."""
    items = [Item("dead_letters", arrived(b"x" * size), "s", doubtful=False) for size in sizes]
    first, second = halves(items)
    assert first + second == items
    assert first
    assert second
