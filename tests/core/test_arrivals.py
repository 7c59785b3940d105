"""Events of a batch as columns: they say what the objects say, whichever rows were scanned and which were decoded."""

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.arrivals import LabelEvents, PredictionEvents, ValueColumn
from worker.core.codec import decode_labels, decode_predictions
from worker.core.columns import TEXT_CHARS_MIN, ColumnTable, Matrix
from worker.core.events import InputTopic, LabelEvent, PredictionEvent, RawBatch

NOW_MS = 1_767_225_600_000
TEXTS = st.sampled_from(["a", "b", "é", "", 'say "hi"', "x" * 200, "y" * TEXT_CHARS_MIN]) | st.text(max_size=4)
NUMBERS = st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.one_of(NUMBERS, st.booleans(), TEXTS)
NAMES = st.sampled_from(["n", "m", "flag", "kind", "note"])
EVENTS = st.fixed_dictionaries(
    {
        "event_id": st.sampled_from(["e1", "e2", "é3", "a longer id than eight bytes"]),
        "model_id": st.sampled_from(["m1", "m2", "mé"]),
        "features": st.fixed_dictionaries(
            {"n": NUMBERS, "flag": st.booleans(), "kind": TEXTS},
            optional={"m": st.none() | NUMBERS, "note": st.none() | SCALARS, "odd": SCALARS},
        ),
        "prediction": SCALARS,
    },
    optional={
        "model_version": st.none() | st.sampled_from(["1", "2", "é"]),
        "label": st.none() | SCALARS,
        "probabilities": st.none() | st.dictionaries(NAMES, st.floats(0.0, 1.0), max_size=3),
        "segment": st.none() | st.dictionaries(NAMES, st.sampled_from(["ch", "de", "é"]), max_size=3),
        # Nothing that is nested so deeply is scanned: such a record is decoded as an object.
        "extra": st.none() | st.just(json.loads("[" * 40 + "]" * 40)),
    },
)
STREAMS = st.lists(EVENTS, min_size=1, max_size=12)


def raw(events: list[dict[str, Any]], topic: InputTopic = InputTopic.PREDICTIONS) -> RawBatch:
    """Return events as records, with all kinds of escapes."""
    values = [json.dumps(each, ensure_ascii=place % 2 == 0).encode() for place, each in enumerate(events)]
    nothing = [None] * len(values)
    return RawBatch(0, range(len(values)), [NOW_MS] * len(values), values, nothing, nothing, topic)


def both(events: list[dict[str, Any]]) -> tuple[PredictionEvents, PredictionEvents]:
    """Return events as they are decoded, and as objects."""
    batch = raw(events)
    decoded = decode_predictions(batch, record_bytes_max=10**6, future_max_ms=0)
    assert decoded.rows.tolist() == list(range(len(events)))
    objects = [msgspec.json.decode(value or b"", type=PredictionEvent) for value in batch.values]
    return decoded.events, PredictionEvents.of(objects)


def told(column: ValueColumn | None) -> object:
    """Return the values of a column."""
    if column is None:
        return None
    codes, names = column.names()
    texts = [names[code] if code >= 0 else None for code in codes.tolist()]
    return column.numbers.tobytes(), column.kinds.tolist(), texts, names


def columns_of(events: PredictionEvents) -> list[object]:
    """Return all that is known of events."""
    rows = range(len(events))
    return [
        events.keys(7).tolist(),
        events.versions(),
        [events.version(row) for row in rows],
        [events.event_id(row) for row in rows],
        [events.versions_are(version) for version in (None, "1", "2")],
        told(events.predictions),
        told(events.labels),
        [row or None for row in events.probabilities or [None] * len(events)],
        events.segments(["kind", "n"]),
        events.models()[1],
        events.models()[0].tolist(),
        list(events),
    ]


@given(events=STREAMS, data=st.data())
@settings(max_examples=200, deadline=None)
def test_columns_say_what_objects_say(events: list[dict[str, Any]], data: st.DataObject) -> None:
    """Of a whole batch, of a part of it, and of one in another order."""
    scanned, objects = both(events)
    assert columns_of(scanned) == columns_of(objects)
    order = np.array(data.draw(st.permutations(range(len(events)))), dtype=np.int64)
    begin, end = sorted(data.draw(st.tuples(*[st.integers(0, len(events))] * 2)))
    assert columns_of(scanned[begin:end]) == columns_of(objects[begin:end])
    assert columns_of(scanned.ordered(order)[begin:end]) == columns_of(objects.ordered(order)[begin:end])


@given(learned=STREAMS, parts=st.lists(STREAMS, min_size=1, max_size=3), categories_max=st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_cells_are_those_of_objects(
    learned: list[dict[str, Any]], parts: list[list[dict[str, Any]]], categories_max: int
) -> None:
    """Numbers, booleans, codes of categories, lengths of texts; what does not fit is counted all the same."""
    tables = [ColumnTable(features_max=8, categories_max=categories_max) for _ in range(2)]
    for table in tables:
        table.learn(both(learned)[1])
        table.frozen = True
    for part in parts:
        one, other = (table.matrix(events) for table, events in zip(tables, both(part), strict=True))
        assert_equal(one, other)
        assert tables[0].state() == tables[1].state()


def assert_equal(one: Matrix, other: Matrix) -> None:
    """Compare two matrices."""
    np.testing.assert_array_equal(one.cells, other.cells)
    np.testing.assert_array_equal(one.invalid, other.invalid)
    counts = [[] if each.unknown is None else np.flatnonzero(each.unknown).tolist() for each in (one, other)]
    assert counts[0] == counts[1]


LABELS = st.lists(
    st.fixed_dictionaries(
        {"event_id": st.sampled_from(["e1", "é2"]), "model_id": st.sampled_from(["m1", "m2"]), "label": SCALARS},
        optional={"extra": st.just(json.loads("[" * 40 + "]" * 40))},
    ),
    min_size=1,
    max_size=12,
)


@given(labels=LABELS)
@settings(max_examples=200, deadline=None)
def test_labels_are_columns_too(labels: list[dict[str, Any]]) -> None:
    """With the same keys and values as the objects."""
    batch = raw(labels, InputTopic.LABELS)
    found = decode_labels(batch, record_bytes_max=10**6, future_max_ms=0).events
    objects = LabelEvents.of([msgspec.json.decode(value or b"", type=LabelEvent) for value in batch.values])
    assert (found.keys(3).tolist(), told(found.labels)) == (objects.keys(3).tolist(), told(objects.labels))
    assert list(found) == list(objects)


def test_usual_events_become_no_objects() -> None:
    """Numbers, missing values and categories of a model with a version: not one record is decoded as an object."""
    events = [
        {
            "event_id": f"e{number}",
            "model_id": "m",
            "model_version": "1",
            "timestamp": NOW_MS,
            "features": {"n": number / 7, "m": None if number % 5 == 0 else number, "kind": "abc"[number % 3]},
            "prediction": number % 2 == 0,
        }
        for number in range(50)
    ]
    table = ColumnTable(features_max=8, categories_max=8)
    table.learn(both(events)[1])
    table.frozen = True
    scanned, _ = both(events)
    table.matrix(scanned)
    columns = scanned.keys(0), scanned.predictions, scanned.labels, scanned.versions_are("1"), scanned.probabilities
    assert all(column is not None for column in columns[:2])
    assert not scanned._records.objects


def test_a_sequence_of_events_is_a_list_of_them() -> None:
    """It has a length, places from both ends, and slices that follow each other."""
    events = PredictionEvents.of([PredictionEvent(f"e{number}", "m", {}, 1.0) for number in range(5)])
    assert [len(events), len(events[1:3]), len(events[3:1])] == [5, 2, 0]
    assert [events[-1].event_id, events[1:][0].event_id, events[1:4][-1].event_id] == ["e4", "e1", "e3"]
    with pytest.raises(IndexError):
        events[1:3][2]
    with pytest.raises(ValueError, match="follow"):
        events[::2]
