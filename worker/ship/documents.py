"""Records of the output topics as documents, with field names of the Elastic Common Schema (ECS 8).

Rule 1: a record stands in its document below `modelvigil`, as it was published; what is added is in other places.
Rule 2: an id is that of the record in Kafka, not of what it tells: metrics are published again under their `metric_id`.
The timestamp is part of it, so that a topic that is created again does not repeat ids.
A dead letter of `ship` or `notify` is the exception: after a kill they may write it again, so its id is that of the
record that was given up.
Rule 3: a document is one line, and has no more fields than its record; of dead letters, which can hold anything, a
bounded part is kept, as text.
"""

import base64
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec
import orjson
from msgspec import UNSET, Raw, Struct, UnsetType

from worker.edges.kafka.arrived import Arrived
from worker.elasticsearch_settings import Stream

VALUE_BYTES_MAX: Final = 32_000
"""Of a dead letter's value."""
HEADERS_MAX: Final = 50
TEXT_CHARS_MAX: Final = 1_000
"""Of its key, of a header's name and value."""
_ECS = {"version": "8.11"}
_OURS = "modelvigil."
_NUMBERS = ("partition", "offset")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
"""Of a topic, or a target; a stranger may have written others, which are no part of an id."""
_ID_CHARS_MAX = 400
"""Elasticsearch takes 512 bytes."""
_TIME_MS_MAX = 253_402_300_799_999
"""The end of the year 9999."""
_CHARACTER_BYTES_MAX = 4
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises; the last one for lists in lists in lists, as a stranger may send them."""
_SEVERITIES = {"info": 1, "warning": 2, "critical": 3}


class UnfitError(Exception):
    """A record cannot become a document; the message says why."""


class Document(NamedTuple):
    """A document on its way."""

    id: str
    source: bytes
    may_repeat: bool = False
    """Whether another record may have the same id."""


class _Alert(Struct, frozen=True):
    alert_id: str
    timestamp_ms: int
    status: str
    summary: str
    severity: str = ""


class _Column(Struct, frozen=True):
    role: str = ""
    mean: float | None = None
    median: float | None = None
    standard_deviation: float | None = None
    missing_rate: float | None = None


class _Metric(Struct, frozen=True):
    metric_id: str
    model_id: str
    kind: str = "pane"
    pane_end_ms: int | None = None
    end_ms: int | None = None
    events: int | None = None
    anomaly_rate: float | None = None
    columns: list[_Column] = []
    prediction: Raw | UnsetType = UNSET
    order: str = ""
    window: str = ""
    labelled: float | None = None


class _Maintenance(Struct, frozen=True):
    kind: str
    maintenance_id: str = ""
    audit_id: str = ""
    timestamp_ms: int | None = None
    summary: str | None = None
    reason: str | None = None
    model_id: str | None = None


class _OfModel(Struct, frozen=True):
    model_id: str | None = None


_ALERT = msgspec.json.Decoder(_Alert)
_METRIC = msgspec.json.Decoder(_Metric)
_MAINTENANCE = msgspec.json.Decoder(_Maintenance)
_OF_MODEL = msgspec.json.Decoder(_OfModel)


def document_of(stream: Stream, arrived: Arrived) -> Document:
    """Return the document of a record. Raises UnfitError; not for dead letters, which are taken as they are."""
    try:
        return _MAKERS[stream](arrived)
    except _UNREADABLE as error:
        raise UnfitError(f"it is no record of {stream}: {error}") from None


def id_of(arrived: Arrived) -> str:
    """Return the id of a record's document, after its place in Kafka."""
    return f"{arrived.topic}-{arrived.partition}-{arrived.offset}-{arrived.timestamp_ms}"


def _id_of_given_up(letter: Mapping[str, Any]) -> str | None:
    """Return the id of the dead letter of a record that could not be delivered; None for any other one."""
    names = [letter.get("target", ""), letter.get("topic", "")]
    numbers = [letter.get(name) for name in (*_NUMBERS, "timestamp_ms")]
    if None in numbers or not all(_NAME.fullmatch(name) for name in names):
        return None
    told = "-".join(map(str, [*names, *numbers]))
    return told if len(told) <= _ID_CHARS_MAX else None


def _of_alert(arrived: Arrived) -> Document:
    raw = _one_line(arrived.value)
    told = _ALERT.decode(raw)
    event = {"kind": "alert", "id": told.alert_id, "action": told.status, "severity": _SEVERITIES.get(told.severity, 0)}
    return _spliced(arrived, "alerts", told.timestamp_ms, told.summary, event, raw)


def _of_metric(arrived: Arrived) -> Document:
    raw = _one_line(arrived.value)
    told = _METRIC.decode(raw)
    event = {"kind": "metric", "id": told.metric_id, "action": told.kind}
    if told.kind == "performance":
        message = f"{told.model_id}: {told.labelled or 0:,.0f} labels, {told.window} window by {told.order}"
        return _spliced(arrived, "metrics", told.end_ms, message, event, raw)
    rate = "" if told.anomaly_rate is None else f", {told.anomaly_rate:.2%} of them unusual"
    message = f"{told.model_id}: {told.events or 0:,} events{rate}"
    column = next((each for each in told.columns if each.role == "prediction"), None)
    if column is not None and told.prediction is UNSET:
        figures = {
            "mean": column.mean,
            "median": column.median,
            "standard_deviation": column.standard_deviation,
            "missing_rate": column.missing_rate,
        }
        raw = raw[:-1] + b',"prediction":' + orjson.dumps(figures) + b"}"
    return _spliced(arrived, "metrics", told.pane_end_ms, message, event, raw)


def _of_maintenance(arrived: Arrived) -> Document:
    raw = _one_line(arrived.value)
    told = _MAINTENANCE.decode(raw)
    event = {"kind": "event", "id": told.maintenance_id or told.audit_id, "action": told.kind}
    event |= {} if told.reason is None else {"reason": told.reason}
    whose = f"{told.model_id}: " if told.model_id else ""
    message = told.summary or f"{whose}{told.kind.replace('_', ' ')}"
    return _spliced(arrived, "maintenance", told.timestamp_ms, message, event, raw)


def _of_dead_letter(arrived: Arrived) -> Document:
    headers = {name: value for name, value in arrived.headers if name.startswith(_OURS)}
    told = {name.removeprefix(_OURS): _text(value) for name, value in headers.items()}
    reason = told.get("reason", "")
    letter: dict[str, Any] = {name: told[name] for name in ("topic", "reason", "detail", "target") if name in told}
    letter |= {name: number for name in _NUMBERS if (number := _number(told.get(name))) is not None}
    letter |= {"timestamp_ms": ms} if (ms := _number(told.get("timestamp"))) is not None else {}
    letter |= {"model_id": model_id} if (model_id := _model_of(arrived.value)) is not None else {}
    letter |= {"key": _text(arrived.key)} if arrived.key is not None else {}
    others = [(name, value) for name, value in arrived.headers if not name.startswith(_OURS)]
    letter["headers"] = [{"name": name[:TEXT_CHARS_MAX], "value": _text(value)} for name, value in others[:HEADERS_MAX]]
    letter |= _value_of(arrived.value)
    letter["truncated"] |= len(others) > HEADERS_MAX
    given_up = _id_of_given_up(letter)
    event = {"kind": "event", "id": given_up or id_of(arrived), "action": "rejected", "reason": reason}
    detail = told.get("detail", "")
    message = f"{reason}{': ' if detail else ''}{detail}" or "a dead letter"
    document = _spliced(arrived, "dead-letters", None, message, event, orjson.dumps(letter))
    return document if given_up is None else document._replace(id=given_up, may_repeat=True)


_MAKERS: Mapping[Stream, Callable[[Arrived], Document]] = {
    "alerts": _of_alert,
    "metrics": _of_metric,
    "maintenance": _of_maintenance,
    "dead_letters": _of_dead_letter,
}


def _spliced(
    arrived: Arrived, name: str, time_ms: int | None, message: str, event: Mapping[str, Any], raw: bytes
) -> Document:
    """Put the parts of a document together; the record's own are not encoded anew."""
    written_ms = _bounded_ms(arrived.timestamp_ms)
    head = {
        "@timestamp": written_ms if time_ms is None else _bounded_ms(time_ms),
        "message": message,
        "ecs": _ECS,
        "event": {"module": "modelvigil", "dataset": f"modelvigil.{name}", "created": written_ms, **event},
        "kafka": {
            "topic": arrived.topic,
            "partition": arrived.partition,
            "offset": arrived.offset,
            "timestamp": written_ms,
        },
    }
    return Document(id_of(arrived), orjson.dumps(head)[:-1] + b',"modelvigil":' + raw + b"}")


def _one_line(value: bytes | None) -> bytes:
    """Return a record's JSON as it stands, if that is one line of UTF-8. Raises as a decoder does."""
    if value is None:
        raise UnfitError("it has no value")
    value = value.strip()
    value.decode()
    # Inside of a string a line break is escaped, so these are between tokens.
    return value.replace(b"\r", b" ").replace(b"\n", b" ") if b"\n" in value or b"\r" in value else value


def _bounded_ms(time_ms: int) -> int:
    return min(max(time_ms, 0), _TIME_MS_MAX)


def _text(value: bytes | None) -> str:
    return (value or b"")[: _CHARACTER_BYTES_MAX * TEXT_CHARS_MAX].decode(errors="backslashreplace")[:TEXT_CHARS_MAX]


def _number(text: str | None) -> int | None:
    """Return a number as our headers have it; None for anything else, as a stranger may have written it."""
    digits = 18
    return int(text) if text and text.isascii() and text.isdigit() and len(text) <= digits else None


def _model_of(value: bytes | None) -> str | None:
    try:
        model_id = _OF_MODEL.decode(value or b"").model_id
    except _UNREADABLE:
        return None
    return None if model_id is None else model_id[:TEXT_CHARS_MAX]


def _value_of(value: bytes | None) -> dict[str, Any]:
    """Return a bounded part of a value: as text, where it is that, else as base64."""
    if value is None:
        return {"value_bytes": None, "truncated": False}
    facts: dict[str, Any] = {"value_bytes": len(value), "truncated": len(value) > VALUE_BYTES_MAX}
    begin = value[:VALUE_BYTES_MAX]
    # The cut may be in the midst of a character.
    for length in range(len(begin), max(-1, len(begin) - _CHARACTER_BYTES_MAX), -1):
        try:
            return facts | {"value": begin[:length].decode()}
        except UnicodeDecodeError:
            if not facts["truncated"]:
                break
    return facts | {"value_base64": base64.b64encode(begin).decode()}
