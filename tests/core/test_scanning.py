"""Scanning records into columns: what is clean is exactly what msgspec reads, and usual records are clean."""

import ctypes
import json
import mmap
import random
import struct
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.malformed import GOOD
from worker.core.codec import TIMESTAMP_MS_MAX, milliseconds
from worker.core.events import LabelEvent, PredictionEvent, PredictionValue, Timestamp
from worker.core.kernels.arrays import I32
from worker.core.kernels.json_numbers import scan_number
from worker.core.kernels.json_scan import nothing_before, scan_records
from worker.core.kernels.json_text import PADDING
from worker.core.kernels.json_values import Pairs
from worker.core.kernels.text_groups import EMPTY, fill_cells, fill_table, text_hash
from worker.core.scanning import (
    BOOLEAN,
    NO_TIME,
    NULL,
    NUMBER,
    TEXT,
    FeatureNames,
    ScannedPredictions,
    feature_cells,
    group_texts,
    scan_labels,
    scan_predictions,
)

BYTES_MAX = 200_000
_prediction = msgspec.json.Decoder(PredictionEvent).decode
_label = msgspec.json.Decoder(LabelEvent).decode


def known(value: PredictionValue | None) -> object:
    """Return a value so that kinds, and the bits of floats, count when it is compared."""
    return struct.pack("d", value) if isinstance(value, float) else value


def text_of(raw: bytes, span: I32) -> str | None:
    """Return a text of a scan; None for none."""
    return raw[span[0] : span[0] + span[1]].decode() if span[1] >= 0 else None


def value_of(raw: bytes, kind: int, number: float, span: I32) -> object:
    """Return a scanned value as `known` does."""
    if kind == NULL:
        return None
    if kind == TEXT:
        return text_of(raw, span)
    return bool(number) if kind == BOOLEAN else struct.pack("d", number)


def time_of(stamp: Timestamp | None) -> int:
    """Return what a timestamp is when it is scanned."""
    return NO_TIME if stamp is None else milliseconds(stamp)


def scanned_event(s: ScannedPredictions, row: int) -> dict[str, object]:
    """Return a clean row as it is compared with an event."""
    raw = s.text.tobytes()
    features, probabilities, segments = (
        range(first[row], first[row + 1]) for first in (s.first_feature, s.first_probability, s.first_segment)
    )
    return {
        "event_id": text_of(raw, s.event_ids[row]),
        "model_id": text_of(raw, s.model_ids[row]),
        "model_version": text_of(raw, s.versions[row]),
        "time": int(s.times_ms[row]),
        "prediction": value_of(raw, s.prediction_kinds[row], s.predictions[row], s.prediction_texts[row]),
        "label": value_of(raw, s.label_kinds[row], s.labels[row], s.label_texts[row]),
        "features": {text_of(raw, s.names[n]): value_of(raw, s.kinds[n], s.values[n], s.texts[n]) for n in features},
        "probabilities": [
            (text_of(raw, s.probability_names[n]), known(float(s.probabilities[n]))) for n in probabilities
        ],
        "segment": [(text_of(raw, s.segment_names[n]), text_of(raw, s.segment_texts[n])) for n in segments],
    }


def decoded_event(value: bytes) -> dict[str, object]:
    """Return what msgspec reads, as above."""
    event = _prediction(value)
    return {
        "event_id": event.event_id,
        "model_id": event.model_id,
        "model_version": event.model_version,
        "time": time_of(event.timestamp),
        "prediction": known(event.prediction),
        "label": known(event.label),
        "features": {name: known(each) for name, each in event.features.items()},
        "probabilities": [(name, known(each)) for name, each in (event.probabilities or {}).items()],
        "segment": list((event.segment or {}).items()),
    }


def check(values: list[bytes]) -> list[bool]:
    """Compare each clean row with msgspec's event, as a prediction and as a label; tell which predictions are clean."""
    s = scan_predictions(values, BYTES_MAX)
    for row in np.flatnonzero(s.clean).tolist():
        values[row].decode()
        assert scanned_event(s, row) == decoded_event(values[row])
    labels = scan_labels(values, BYTES_MAX)
    raw = labels.text.tobytes()
    for row in np.flatnonzero(labels.clean).tolist():
        event = _label(values[row])
        assert text_of(raw, labels.event_ids[row]) == event.event_id
        assert text_of(raw, labels.model_ids[row]) == event.model_id
        assert labels.times_ms[row] == time_of(event.timestamp)
        label = value_of(raw, labels.label_kinds[row], labels.labels[row], labels.label_texts[row])
        assert label == known(event.label)
    clean: list[bool] = s.clean.tolist()
    return clean


def is_clean(value: bytes) -> bool:
    """Tell whether a prediction is clean, and compare it."""
    return check([value])[0]


def with_field(field: str, raw: str) -> bytes:
    """Return a good event in which a field has a value as it is written."""
    fields = {name: json.dumps(each) for name, each in GOOD.items()} | {field: raw}
    return ("{" + ",".join(f'"{name}":{each}' for name, each in fields.items()) + "}").encode()


NAMES = [
    "a",
    "é",
    "日本語",
    "feature_1",
    "feature_10",
    "x" * 256,
    "é" * 256,
    'q"',
    "back\\slash",
    "\n",
    "\0",
    "😀",
    "\x7f",
]
texts = st.sampled_from(NAMES) | st.text(max_size=12)
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.integers(-(2**70), 2**70)
scalars = st.none() | st.booleans() | numbers | texts
anything: st.SearchStrategy[Any] = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner))
wrong: st.SearchStrategy[Any] = st.sampled_from(["", "x" * 257, "é" * 257, None, True, 1, {}, []])
times = st.none() | st.integers(-1, TIMESTAMP_MS_MAX + 1) | st.floats(-2, 1e15) | st.datetimes().map(str) | scalars
fields = st.fixed_dictionaries(
    {
        "event_id": st.sampled_from(NAMES) | wrong,
        "model_id": st.just("credit") | st.sampled_from(NAMES),
        "features": st.dictionaries(texts, scalars, max_size=6) | anything,
        "prediction": scalars | numbers,
    },
    optional={
        "timestamp": times,
        "model_version": st.sampled_from(NAMES) | wrong,
        "probabilities": st.dictionaries(texts, st.floats(0, 1)) | anything,
        "segment": st.dictionaries(texts, texts) | anything,
        "label": scalars,
        "other": anything,
        'other"': scalars,
    },
)


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """Return a record, often damaged."""
    event = draw(fields)
    names = draw(st.permutations(list(event)))
    style: dict[str, Any] = draw(st.sampled_from([{"separators": (",", ":")}, {}, {"indent": 1}]))
    value = bytearray(
        json.dumps({name: event[name] for name in names}, ensure_ascii=draw(st.booleans()), **style).encode()
    )
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        place = draw(st.integers(0, len(value)))
        new = draw(st.sampled_from([b"", *(bytes([each]) for each in b'{}[]",:\\u019eE.-+tfn \n\0\x80\xff\xc3')]))
        value[place : place + draw(st.integers(0, 1))] = new
    if draw(st.integers(0, 9)) == 0:
        value = value[: draw(st.integers(0, len(value)))]
    return bytes(value)


@settings(max_examples=100, deadline=None)
@given(st.lists(records(), max_size=8))
def test_clean_rows_are_what_msgspec_reads(values: list[bytes]) -> None:
    """Whatever the bytes are, a clean row has the values of msgspec's event, to the bits of floats."""
    check(values)


@settings(max_examples=40, deadline=None)
@given(st.lists(records(), min_size=1, max_size=6))
def test_a_row_depends_on_its_own_record_alone(values: list[bytes]) -> None:
    """Records that come before, and are guessed from, change nothing: neither whether a row is clean nor its values."""
    s = scan_predictions(values, BYTES_MAX)
    for row, value in enumerate(values):
        alone = scan_predictions([value], BYTES_MAX)
        assert alone.clean[0] == s.clean[row]
        if alone.clean[0]:
            assert scanned_event(alone, 0) == scanned_event(s, row)


def test_a_name_that_begins_like_the_one_before_is_another() -> None:
    """What is guessed from the record before must end where it ended."""
    names = ["feature_1", "feature_12", "feature_1", "feature_1:", "feature_1x:", "feature_"]
    values = [json.dumps(GOOD | {"features": {name: 1.5}}, separators=(",", ":")).encode() for name in names]
    assert all(check(values))
    for other in (b'"event_ids":', b'"event_id:":'):
        assert check([USUAL["compact"], USUAL["compact"].replace(b'"event_id":', other)]) == [True, False]


USUAL: dict[str, bytes] = {
    "compact": json.dumps(GOOD, separators=(",", ":")).encode(),
    "spaces": json.dumps(GOOD).encode(),
    "indented": json.dumps(GOOD, indent=2).encode() + b" \r\n\t",
    "other order": json.dumps(dict(reversed(GOOD.items()))).encode(),
    "all fields": json.dumps(
        GOOD
        | {
            "model_version": "1",
            "label": "yes",
            "probabilities": {"no": 0.25, "yes": 1},
            "segment": {"country": "CH", "channel": "web"},
        }
    ).encode(),
    "nulls": json.dumps(
        GOOD | dict.fromkeys(("timestamp", "model_version", "probabilities", "segment", "label"))
    ).encode(),
    "unknown fields": json.dumps(
        GOOD | {"trace": "t", "cost": 1e-3, "meta": {"a": [1, {"b": None}], "c": []}}
    ).encode(),
    "UTF-8": json.dumps(GOOD | {"event_id": "é日😀", "features": {"größe": "groß"}}, ensure_ascii=False).encode(),
    "escapes": json.dumps(GOOD | {"event_id": 'é日😀\n"\\', "features": {"größe": "groß", "b": "\t"}}).encode(),
    "no features": json.dumps(GOOD | {"features": {}}).encode(),
    "name of 256 characters": json.dumps(GOOD | {"event_id": "é" * 256}, ensure_ascii=False).encode(),
    "text prediction": with_field("prediction", '"yes"'),
    "RFC 3339": with_field("timestamp", '"2026-02-28T12:34:56.789Z"'),
    "RFC 3339 with an offset": with_field("timestamp", '"2024-02-29t23:59:59.123456-07:30"'),
    "RFC 3339 with nanoseconds": with_field("timestamp", '"2026-02-28 12:34:56.789123456+00:00"'),
    "float timestamp": with_field("timestamp", "1767225600000.75"),
    "17 digits": with_field("prediction", "0.30000000000000004"),
    "exponent": with_field("prediction", "-1.5E-07"),
    "integer": with_field("prediction", "-12"),
    "large integer": with_field("prediction", "9223372036854775809"),
    "zero": with_field("prediction", "-0"),
    "subnormal": with_field("prediction", "4.9e-324"),
    "an exponent that takes a few zeros back": with_field("prediction", f"0.{'0' * 9_000}1e9001"),
}


@pytest.mark.parametrize("value", USUAL.values(), ids=USUAL)
def test_usual_records_are_clean(value: bytes) -> None:
    """What producers usually write needs no object."""
    assert is_clean(value)


REFUSED: dict[str, bytes] = {
    "a field twice": b'{"event_id":"a",' + USUAL["compact"][1:],
    "no prediction": b'{"event_id":"a","model_id":"m","features":{}}',
    "null prediction": with_field("prediction", "null"),
    "a name of 257 characters": with_field("event_id", f'"{"é" * 257}"'),
    "an empty name": with_field("features", '{"":1}'),
    "an infinite number": with_field("prediction", "1e999"),
    "a leading zero": with_field("prediction", "01"),
    "an exponent that takes zeros back": with_field("prediction", f"0.{'0' * 99_998}1e100098"),
    "half a surrogate pair": with_field("event_id", r'"\ud83d"'),
    "an overlong character": with_field("event_id", '"?"').replace(b"?", b"\xc0\x80"),
    "a surrogate in UTF-8": with_field("event_id", '"?"').replace(b"?", b"\xed\xa0\x80"),
    "a probability above 1": with_field("probabilities", '{"a":1.0000000000000002}'),
    "a probability twice": with_field("probabilities", '{"a":0.5,"a":0.5}'),
    "a segment that is empty": with_field("segment", '{"a":""}'),
    "a trailing comma": USUAL["compact"][:-1] + b",}",
    "something behind": USUAL["compact"] + b"{",
    "a NUL behind": USUAL["compact"] + b"\0",
    "a time before 1970": with_field("timestamp", "-1"),
    "a time after 9999": with_field("timestamp", str(TIMESTAMP_MS_MAX + 1)),
    "a day that is not": with_field("timestamp", '"2026-02-29T00:00:00Z"'),
    "a time without zone": with_field("timestamp", '"2026-02-28T00:00:00"'),
    "microseconds that may carry": with_field("timestamp", '"2026-02-28T00:00:00.9999996Z"'),
    "too deep": with_field("meta", "[" * 33 + "]" * 33),
    "nothing": b"",
}


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
def test_doubtful_records_are_not_clean(value: bytes) -> None:
    """What msgspec refuses, or may read otherwise, goes the objects' way; its neighbours are not touched by it."""
    assert check([USUAL["compact"], value, USUAL["compact"]]) == [True, False, True]


def test_what_is_none_or_too_long_is_not_clean() -> None:
    """A tombstone and a record above the bound are left to the slow way, which tells why they are rejects."""
    value = USUAL["compact"]
    assert scan_predictions([None, value, value + b" "], len(value)).clean.tolist() == [False, True, False]
    assert len(scan_predictions([], BYTES_MAX).clean) == 0


def parsed(written: str) -> tuple[int, float]:
    """Return what the kernel reads of a number."""
    end, value = scan_number(np.frombuffer(bytearray(written.encode() + bytes(PADDING)), np.uint8), 0)
    return int(end), float(value)


FORMATS: list[Callable[[float], str]] = [repr, "{:.17g}".format, "{:e}".format, "{:.18e}".format, "{:.3f}".format]


@settings(max_examples=500, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(FORMATS))
def test_floats_are_rounded_as_by_python(number: float, written: Callable[[float], str]) -> None:
    """Every float, however it is written with up to 19 digits, is read to the last bit."""
    raw = written(number)
    end, value = parsed(raw)
    if sum(map(str.isdigit, raw.partition("e")[0].lstrip("-0."))) <= 19:
        assert end == len(raw)
    assert end < 0 or struct.pack("d", value) == struct.pack(
        "d", float(raw) if set(raw) & set(".e") else float(int(raw))
    )


@settings(max_examples=500, deadline=None)
@given(st.integers(1, 10**19 - 1), st.integers(-350, 320))
def test_any_digits_and_exponent_are_rounded_correctly(digits: int, exponent: int) -> None:
    """Numbers near the ends of the range, subnormal ones and those beyond it, too."""
    raw = f"{digits}e{exponent}"
    end, value = parsed(raw)
    if np.isinf(float(raw)):
        assert end == -1
    else:
        assert (end, value) == (len(raw), float(raw))


@settings(max_examples=500, deadline=None)
@given(st.integers(2**52, 2**53 - 1), st.integers(1, 8))
def test_halfway_numbers_are_rounded_to_even(whole: int, places: int) -> None:
    """A number in the middle of two floats, and its neighbours of 19 digits, are read as Python reads them."""
    middle = 2 * whole + 1 << places
    for near in (middle - 1, middle, middle + 1):
        assert parsed(str(near))[1] == float(near)


def guarded(data: bytes) -> tuple[mmap.mmap, np.ndarray[Any, np.dtype[np.uint8]]]:
    """Return bytes behind which the next byte can not be read: who tries crashes."""
    size = -(-len(data) // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, size + mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + size), mmap.PAGESIZE, 0) == 0
    array = np.frombuffer(memory, np.uint8)[size - len(data) : size]
    array[:] = np.frombuffer(data, np.uint8)
    return memory, array


def some_pairs() -> Pairs:
    """Return room for more pairs than a test has."""
    return Pairs(np.empty((99, 2), np.int32), np.empty(99, np.int8), np.empty(99), np.empty((99, 2), np.int32))


def scan_guarded(value: bytes) -> bool:
    """Scan one record, behind whose padding nothing can be read."""
    memory, text = guarded(USUAL["all fields"] + b"\0" + value + b"\0" + bytes(PADDING))
    clean = np.empty(2, np.bool_)
    scan_records(
        text,
        np.array([len(USUAL["all fields"]), len(value)]),
        511,
        15,
        clean,
        np.empty((5, 2, 2), np.int32),
        np.empty(2, np.int64),
        np.empty((2, 2)),
        np.empty((2, 2), np.int8),
        np.empty((3, 3), np.int64),
        (some_pairs(), some_pairs(), some_pairs()),
        nothing_before(),
    )
    assert clean[0]
    del memory
    return bool(clean[1])


def test_nothing_behind_the_padding_is_read() -> None:
    """Records that end anywhere are refused without a look behind the bytes that are there: the process lives."""
    rng = random.Random(7)
    for value in USUAL.values():
        for end in {0, len(value) - 1, *rng.sample(range(len(value)), 12)}:
            cut = value[:end].rstrip(b" \r\n\t")
            assert not scan_guarded(cut) or cut.endswith(b"}")


def scanned_features(*features: dict[str, Any]) -> ScannedPredictions:
    """Scan events with these features."""
    return scan_predictions([json.dumps(GOOD | {"features": each}).encode() for each in features], BYTES_MAX)


COLUMNS = FeatureNames(["a", "b", "größe"])
KINDS = np.array([NUMBER, BOOLEAN, TEXT], np.int8)


def test_features_become_cells() -> None:
    """Each feature is in its column, in any order of names and rows; what is absent or null is NaN."""
    s = scanned_features({"a": 1, "b": True, "größe": "L"}, {"größe": None, "a": 2.5}, {}, {"b": False, "x": None})
    rows = np.array([3, 0, 1, 2])
    cells, texts, fits = feature_cells(s, rows, COLUMNS, KINDS)
    nan = np.nan
    expected = [[nan, 0, nan], [1, 1, nan], [2.5, nan, nan], [nan, nan, nan]]
    assert fits
    np.testing.assert_array_equal(cells, expected)
    assert texts is not None
    raw = s.text.tobytes()
    assert [[text_of(raw, span) for span in row] for row in texts] == [
        [None] * 3,
        [None, None, "L"],
        [None] * 3,
        [None] * 3,
    ]


@pytest.mark.parametrize("features", [{"x": 1}, {"a": "text"}, {"a": True}, {"b": 1}, {"größe": 1.5}])
def test_what_does_not_fit_is_told(features: dict[str, Any]) -> None:
    """An unknown name with a value, and a value of another kind, are left to the objects' way."""
    s = scanned_features({"a": 1}, features)
    assert not feature_cells(s, np.array([0, 1]), COLUMNS, KINDS)[2]
    assert feature_cells(s, np.array([0]), COLUMNS, KINDS)[2]


def test_a_name_that_is_there_twice_does_not_fit() -> None:
    """The last one counts, which only the objects' way knows."""
    s = scan_predictions([with_field("features", '{"a":1,"a":2}')], BYTES_MAX)
    assert s.clean[0]
    assert not feature_cells(s, np.array([0]), COLUMNS, KINDS)[2]


def test_columns_of_numbers_alone_have_no_texts() -> None:
    """A model without categories takes no room for texts; one without features has no cells."""
    s = scanned_features({"a": 1})
    assert feature_cells(s, np.array([0]), FeatureNames(["a"]), KINDS[:1])[1] is None
    cells, _, fits = feature_cells(scanned_features({}), np.array([0]), FeatureNames([]), KINDS[:0])
    assert (cells.shape, fits) == ((1, 0), True)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "model-1", "model-2", "x" * 17, "x" * 16, "é"]), max_size=40))
def test_equal_texts_have_equal_codes(names: list[str]) -> None:
    """Codes count up as texts first appear, and each has the row of its first text."""
    s = scan_predictions([json.dumps(GOOD | {"model_id": name}).encode() for name in names], BYTES_MAX)
    codes, first_rows = group_texts(s.text, s.model_ids)
    order = list(dict.fromkeys(names))
    assert codes.tolist() == [order.index(name) for name in names]
    assert first_rows.tolist() == [names.index(name) for name in order]


def colliding(count: int) -> list[bytes]:
    """Return different texts of 16 bytes without a NUL that have one hash."""
    first = np.random.default_rng(1).integers(1, 256, (2 * count, 8), np.uint8)
    start = (0x243F6A8885A308D3 ^ 16) * 0x9E3779B97F4A7C15 & (1 << 64) - 1
    texts = []
    for word in first:
        mixed = (start ^ start >> 32 ^ int.from_bytes(word, "little")) * 0x9E3779B97F4A7C15 & (1 << 64) - 1
        texts.append(word.tobytes() + (0x1234567812345678 ^ mixed ^ mixed >> 32).to_bytes(8, "little"))
    return list(dict.fromkeys(text for text in texts if 0 not in text))[:count]


def test_texts_that_are_made_to_collide_do_not_hold_a_shard_up() -> None:
    """Twenty thousand of them would take minutes by our hashes; they are grouped as all others, in a moment."""
    texts = colliding(20_000)
    hashes = {int(text_hash(np.frombuffer(text + b"\0" * PADDING, np.uint8), 0, 16)) for text in texts[:100]}
    assert len(hashes) == 1
    raw = np.frombuffer(b"".join([*texts, texts[3], b"\0" * PADDING]), np.uint8)
    spans = np.stack([np.arange(len(texts) + 1) * 16, np.full(len(texts) + 1, 16)], axis=1).astype(np.int32)
    codes, first_rows = group_texts(raw, spans)
    assert codes.tolist() == [*range(len(texts)), 3]
    assert first_rows.tolist() == list(range(len(texts)))


def test_names_that_are_made_to_collide_do_not_fit() -> None:
    """Features that are looked for among too many of one hash are left to the objects' way."""
    texts = colliding(200)
    raw = np.frombuffer(b"".join([*texts, b"\0" * PADDING]), np.uint8)
    spans = np.stack([np.arange(200) * 16, np.full(200, 16)], axis=1).astype(np.int32)
    table = np.full(512, EMPTY, np.int32)
    fill_table(raw, spans[:100], table)

    def fits(name: int) -> bool:
        return fill_cells(
            raw,
            np.array([0, 1]),
            spans[[name]],
            np.array([NUMBER], np.int8),
            np.ones(1),
            spans[[name]],
            np.zeros(1, np.int64),
            raw,
            spans[:100],
            table,
            np.full(100, NUMBER, np.int8),
            np.empty((1, 100)),
            np.empty((0, 0, 2), np.int32),
        )

    assert fits(5)
    assert not fits(99)
    assert not fits(150)


def test_no_text_is_a_group_of_its_own() -> None:
    """Events without a version are one group."""
    values = [json.dumps(GOOD | {"model_version": version}).encode() for version in (None, "1", None, "2", "1")]
    s = scan_predictions(values, BYTES_MAX)
    assert group_texts(s.text, s.versions)[0].tolist() == [0, 1, 0, 2, 1]
