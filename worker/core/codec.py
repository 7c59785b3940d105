"""Bytes to typed events and typed outputs to bytes. A record that cannot be used is rejected with a stable code.

Rule 1: decoding a record depends on that record alone (its bytes and its Kafka timestamp), never on its neighbours.
Rule 2: whatever the bytes are, the answer is an event or a `Reject`; no exception leaves this module.

Duplicate keys are accepted and the last one wins, as in every common JSON reader; RFC 8259 leaves it open.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, NoReturn, TypeVar

import msgspec
import numpy as np
import orjson

from worker.core.arrivals import LabelEvents, PredictionEvents
from worker.core.arrivals.records import LabelRecords, PredictionRecords
from worker.core.events import (
    FeedbackEvent,
    LabelEvent,
    MetricEvent,
    Output,
    OutputTopic,
    PerformanceEvent,
    PredictionEvent,
    RawBatch,
    RejectCode,
    SilenceFeedback,
    Timestamp,
)
from worker.core.kernels.arrays import I64
from worker.core.scanning import NO_TIME, ScannedLabels, ScannedPredictions, scan_labels, scan_predictions

TIMESTAMP_MS_MAX = 253_402_300_799_999
"""The last millisecond of the year 9999."""

REJECT_DETAIL_CHARS_MAX = 300
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

_Event = TypeVar("_Event", PredictionEvent, LabelEvent)

_decode_feedback: Callable[[bytes], FeedbackEvent] = msgspec.json.Decoder(FeedbackEvent).decode


class Reject(NamedTuple):
    """Why one record of a batch is a dead letter. `row` is its place in the batch."""

    row: int
    code: RejectCode
    detail: str


class DecodedBatch(NamedTuple):
    """The usable predictions of a batch, oldest first: their rows in it, events, times; and the other records."""

    rows: I64
    events: PredictionEvents
    timestamps_ms: I64
    rejects: list[Reject]


class DecodedLabels(NamedTuple):
    """The usable labels of a batch, in the same way."""

    rows: I64
    events: LabelEvents
    timestamps_ms: I64
    rejects: list[Reject]


class DecodedFeedback(NamedTuple):
    """The usable records of a batch of `feedback`, oldest first, as columns of equal length; and the others."""

    rows: list[int]
    events: list[FeedbackEvent]
    rejects: list[Reject]


class _Bounds(NamedTuple):
    """What a record may be at most."""

    record_bytes_max: int
    future_max_ms: int


class _UnusableError(ValueError):
    """A record that decodes but cannot be used; carries its code."""

    def __init__(self, code: RejectCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code


def decode_predictions(batch: RawBatch, *, record_bytes_max: int, future_max_ms: int) -> DecodedBatch:
    """Decode and validate every record of a batch of `predictions`."""
    scanned = scan_predictions(batch.values, record_bytes_max)
    bounds = _Bounds(record_bytes_max, future_max_ms)
    objects: dict[int, PredictionEvent] = {}
    rows, times, rejects = _usable(PredictionRecords.decode, batch, bounds, scanned, objects)
    return DecodedBatch(rows, PredictionEvents.of_records(batch.values, objects, rows, scanned), times, rejects)


def decode_labels(batch: RawBatch, *, record_bytes_max: int, future_max_ms: int) -> DecodedLabels:
    """Decode and validate every record of a batch of `labels`, by the rules and with the codes of predictions."""
    scanned = scan_labels(batch.values, record_bytes_max)
    bounds = _Bounds(record_bytes_max, future_max_ms)
    objects: dict[int, LabelEvent] = {}
    rows, times, rejects = _usable(LabelRecords.decode, batch, bounds, scanned, objects)
    return DecodedLabels(rows, LabelEvents.of_records(batch.values, objects, rows, scanned), times, rejects)


def decode_feedback(batch: RawBatch, *, record_bytes_max: int) -> DecodedFeedback:
    """Decode and validate every record of a batch of `feedback`. Here, no field may be unknown.

    Their times are asked for later (`milliseconds`); here it is checked that they can be told.
    """
    found = DecodedFeedback([], [], [])
    for row, value in enumerate(batch.values):
        try:
            if not value or len(value) > record_bytes_max:
                _refuse_size(value, record_bytes_max)
            value.decode()
            event = _decode_feedback(value)
            if isinstance(event, SilenceFeedback):
                for stamp in (event.begin, event.end):
                    _refuse_time(0 if stamp is None else milliseconds(stamp), -1, 0)
        except (ValueError, RecursionError) as error:
            found.rejects.append(_reject(row, error, value))
        else:
            found.rows.append(row)
            found.events.append(event)
    return found


def milliseconds(stamp: Timestamp) -> int:
    """Return epoch milliseconds of a timestamp as events have it; ValueError or OverflowError for what is none."""
    if isinstance(stamp, datetime):
        return (stamp - _EPOCH) // _MILLISECOND
    return int(stamp)


def _usable(
    decode: Callable[[bytes], _Event],
    batch: RawBatch,
    bounds: _Bounds,
    scanned: ScannedPredictions | ScannedLabels,
    objects: dict[int, _Event],
) -> tuple[I64, I64, list[Reject]]:
    """Return the rows that can be used, their times and why the others cannot: the same rules for both topics.

    What the scanner has not read, or has read with a time that may be refused, is decoded into `objects`: there is one
    place that refuses.
    """
    record_ms = np.array(batch.timestamps_ms, dtype=np.int64)
    times = np.where(scanned.times_ms == NO_TIME, record_ms, scanned.times_ms)
    latest = np.where(record_ms < 0, TIMESTAMP_MS_MAX, np.minimum(record_ms + bounds.future_max_ms, TIMESTAMP_MS_MAX))
    usable = scanned.clean
    usable &= (times >= 0) & (times <= latest)
    rejects: list[Reject] = []
    rows = np.flatnonzero(~usable)
    kept = usable.copy() if len(rows) else usable
    for row in rows.tolist():
        value = batch.values[row]
        try:
            event, times[row] = _decode(decode, value, batch.timestamps_ms[row], bounds)
        except (ValueError, RecursionError) as error:
            rejects.append(_reject(row, error, value))
        else:
            objects[row], kept[row] = event, True
    chosen = np.flatnonzero(kept)
    return chosen, times[chosen], rejects


def _decode(
    decode: Callable[[bytes], _Event], value: bytes | None, record_ms: int, bounds: _Bounds
) -> tuple[_Event, int]:
    """Return the event of a record and its time; ValueError or RecursionError if it cannot be used."""
    if not value or len(value) > bounds.record_bytes_max:
        _refuse_size(value, bounds.record_bytes_max)
    if not value.isascii():
        value.decode()  # msgspec does not look into the fields that it skips
    event = decode(value)
    stamp = event.timestamp
    event_ms = stamp if type(stamp) is int else _milliseconds(stamp, record_ms)
    if not 0 <= event_ms <= TIMESTAMP_MS_MAX or event_ms > record_ms + bounds.future_max_ms:
        _refuse_time(event_ms, record_ms, bounds.future_max_ms)
    return event, event_ms


def _milliseconds(stamp: float | datetime | None, record_ms: int) -> int:
    """Epoch milliseconds of an event; a missing timestamp is the record's."""
    if stamp is None:
        if record_ms < 0:
            raise _UnusableError(RejectCode.BAD_TIMESTAMP, "neither the value nor its Kafka record has a timestamp")
        return record_ms
    return milliseconds(stamp)


def _refuse_size(value: bytes | None, record_bytes_max: int) -> NoReturn:
    if not value:
        raise _UnusableError(RejectCode.EMPTY, "the record has no value")
    detail = f"the value has {len(value)} bytes; at most {record_bytes_max} are read (engine.record_bytes_max)"
    raise _UnusableError(RejectCode.TOO_LARGE, detail)


def _refuse_time(event_ms: int, record_ms: int, future_max_ms: int) -> None:
    """Tell a bad timestamp from one in the future; a record without a timestamp of its own cannot judge the latter."""
    if not 0 <= event_ms <= TIMESTAMP_MS_MAX:
        raise _UnusableError(RejectCode.BAD_TIMESTAMP, "the timestamp is not between the years 1970 and 9999")
    if record_ms >= 0:
        detail = (
            f"the value is {event_ms - record_ms} ms later than its Kafka record; at most {future_max_ms} are allowed"
        )
        raise _UnusableError(RejectCode.TIMESTAMP_IN_FUTURE, detail)


def _reject(row: int, error: Exception, value: bytes | None) -> Reject:
    """Give an error its code. This is the slow path: it may parse the record a second time to tell what is wrong."""
    code, detail = _diagnose(error, value or b"")
    return Reject(row, code, detail[:REJECT_DETAIL_CHARS_MAX])


def _diagnose(error: Exception, value: bytes) -> tuple[RejectCode, str]:
    text = str(error)
    match error:
        case _UnusableError():
            return error.code, text
        case RecursionError():
            return RejectCode.TOO_DEEP, "objects or arrays are nested too deeply"
        case UnicodeDecodeError():
            return RejectCode.NOT_UTF8, text
        case msgspec.ValidationError():
            return _validation_code(text), text
        case msgspec.DecodeError():
            return _syntax_code(value, text), text
        case _:  # int() of an infinite or absurd float timestamp
            return RejectCode.BAD_TIMESTAMP, text


def _validation_code(text: str) -> RejectCode:
    """Sort msgspec's validation messages; tests/core/test_codec.py holds one example of each."""
    if "$.timestamp" in text:
        return RejectCode.BAD_TIMESTAMP
    if text.startswith("Object missing required field"):
        return RejectCode.MISSING_FIELD
    if text.startswith("Object contains unknown field"):
        return RejectCode.UNKNOWN_FIELD
    if "out of range" in text:
        return RejectCode.NOT_FINITE
    if " of length " in text or ">=" in text or "<=" in text:
        return RejectCode.OUT_OF_BOUNDS
    return RejectCode.WRONG_TYPE


class _NotFiniteError(ValueError):
    """Raised by the lenient reader when it meets NaN or Infinity."""


def _refuse_constant(name: str) -> NoReturn:
    raise _NotFiniteError(name)


def _syntax_code(value: bytes, text: str) -> RejectCode:
    """Tell NaN and Infinity, lone surrogates and plain damage apart with Python's lenient reader."""
    if "surrogate" in text:
        return RejectCode.NOT_UTF8
    try:
        parsed = json.loads(value, parse_constant=_refuse_constant)
    except _NotFiniteError:
        return RejectCode.NOT_FINITE
    except RecursionError:
        return RejectCode.TOO_DEEP
    except ValueError:
        return RejectCode.NOT_JSON
    # Python reads it and msgspec does not: an escaped lone surrogate is the known difference.
    return RejectCode.NOT_UTF8 if _has_surrogate(parsed) else RejectCode.NOT_JSON


def _has_surrogate(parsed: Any) -> bool:  # noqa: ANN401 - any JSON value
    try:
        json.dumps(parsed, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def encode(record: msgspec.Struct) -> bytes:
    """Encode an output record as JSON; NaN becomes null. Field order is the struct's."""
    return orjson.dumps(record, default=msgspec.structs.asdict, option=orjson.OPT_SERIALIZE_NUMPY)


class _Kind(msgspec.Struct):
    kind: str = "pane"


def decode_metric(value: bytes) -> MetricEvent | PerformanceEvent:
    """Decode a record of the topic `metrics`; msgspec's errors for anything else."""
    if msgspec.json.decode(value, type=_Kind).kind == "performance":
        return msgspec.json.decode(value, type=PerformanceEvent)
    return msgspec.json.decode(value, type=MetricEvent)


def dead_letter(batch: RawBatch, reject: Reject, topic: str) -> Output:
    """Keep a rejected record byte for byte, with headers that tell where it came from and why it is here."""
    row = reject.row
    origin = (
        ("modelvigil.topic", topic.encode()),
        ("modelvigil.partition", str(batch.partition).encode()),
        ("modelvigil.offset", str(batch.offsets[row]).encode()),
        ("modelvigil.timestamp", str(batch.timestamps_ms[row]).encode()),
        ("modelvigil.reason", reject.code.value.encode()),
        ("modelvigil.detail", reject.detail.encode(errors="backslashreplace")),
    )
    headers = (*(batch.headers[row] or ()), *origin)
    offset = batch.offsets[row]
    return Output(OutputTopic.DEAD_LETTERS, batch.partition, offset, batch.keys[row], batch.values[row], headers)
