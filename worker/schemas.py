"""JSON Schemas (draft 2020-12) and examples of every topic, generated from the structs in `worker.core.events`.

A struct's docstring describes the record, and the string under a field describes the field. The output examples come
from the real engine, which is given a short made-up stream; its numbers are rounded to four digits, so that
the last bit of another processor's logarithm changes no file.
"""

import ast
import inspect
import json
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from worker.core import events
from worker.core.events import (
    AlertEvent,
    AuditEvent,
    FalsePositiveFeedback,
    IgnoreFeedback,
    InputTopic,
    LabelEvent,
    MaintenanceEvent,
    MetricEvent,
    Output,
    OutputTopic,
    PerformanceEvent,
    PredictionEvent,
    RawBatch,
    RejectCode,
    ScoreEvent,
    SilenceFeedback,
    TruePositiveFeedback,
    UndoFeedback,
)

DRAFT = "https://json-schema.org/draft/2020-12/schema"
STRUCTS: dict[str, tuple[type[msgspec.Struct], ...]] = {
    "predictions": (PredictionEvent,),
    "labels": (LabelEvent,),
    "feedback": (SilenceFeedback, TruePositiveFeedback, FalsePositiveFeedback, IgnoreFeedback, UndoFeedback),
    "alerts": (AlertEvent,),
    "incidents": (AlertEvent,),
    "metrics": (MetricEvent, PerformanceEvent),
    "maintenance": (MaintenanceEvent, AuditEvent),
    "scores": (ScoreEvent,),
}
"""The topics whose records are JSON, and the structs of each, which differ in `kind`."""

_DEAD_LETTERS = "dead-letters"
_DEAD_LETTER_HEADERS = {
    "modelvigil.topic": "The topic that the record came from.",
    "modelvigil.partition": "Its partition.",
    "modelvigil.offset": "Its offset.",
    "modelvigil.timestamp": "Its Kafka timestamp in milliseconds since the epoch; -1 if it had none.",
    "modelvigil.reason": "Why it could not be used.",
    "modelvigil.detail": "The same for a person, with the place in the record; the wording may change.",
}
_TARGET_HEADER = {"modelvigil.target": "Of a record that `notify` or `ship` could not deliver: to which target."}
DELIVERY_REASONS = {
    "delivery_refused": "A target of `notify` refuses the alert, or has taken nothing for `give_up_ms`.",
    "delivery_unreadable": "A record of the topic of alerts is no alert.",
    "shipping_refused": "Elasticsearch or OpenSearch refuses the document, or the record cannot become one.",
}


def render() -> dict[str, bytes]:
    """Return every file under `schemas/` by its relative path."""
    files = {f"{topic}.schema.json": _text(schema(topic)) for topic in (*STRUCTS, _DEAD_LETTERS)}
    files |= {f"examples/{topic}.json": _text(records) for topic, records in examples().items()}
    return files | {"metrics.md": _definitions()}


def _definitions() -> bytes:
    """Return the definition of each performance metric, as a page for people."""
    from worker.core.performance import classification, regression  # noqa: PLC0415 - heavy, and needed here only
    from worker.core.performance.facts import MEANINGS  # noqa: PLC0415 - as above

    parts = [
        ("Performance metrics", None),
        ("Classification", classification.DEFINITIONS),
        ("Regression", regression.DEFINITIONS),
        ("Labels", LABEL_DEFINITIONS),
        ("`label_facts`: what is in no metric", MEANINGS),
    ]
    lines: list[str] = []
    for title, definitions in parts:
        lines += [f"{'#' if definitions is None else '##'} {title}", ""]
        if definitions is None:
            lines += [_METRICS_INTRODUCTION, ""]
        else:
            lines += ["| name | definition |", "|---|---|"]
            lines += [f"| `{name}` | {text.replace('|', chr(92) + '|')} |" for name, text in definitions.items()]
            lines.append("")
    return "\n".join(lines).rstrip().encode() + b"\n"


_METRICS_INTRODUCTION = (
    "Written by `modelvigil schemas` from the code. Each value comes with a 95 % interval and its support; null means "
    "that there is not enough data, or that the metric is not defined there. TP, FP, FN, TN: true and false positives "
    "and negatives of the positive class; n: labelled events; K: classes."
)
LABEL_DEFINITIONS = {
    "label_coverage": "Labelled share of the predictions of a window. Wilson interval. In alerts: of the predictions "
    "that are older than twice the 95 % quantile of the lag of the reference, so that they should have a label.",
    "label_lag_median": "Median of the time from a prediction to its first label, ms; from a histogram with eight "
    "buckets to an octave, so within 1/16. Interval: order statistics at the ranks n/2 -+ z sqrt(n)/2.",
    "label_lag_p95": "95 % quantile of the same, likewise.",
}


def write(folder: Path) -> list[Path]:
    """Write every file and return their paths."""
    paths = []
    for name, content in render().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        paths.append(path)
    return paths


def schema(topic: str) -> dict[str, Any]:
    """Return the schema of one record of a topic."""
    if topic == _DEAD_LETTERS:
        return _dead_letter_schema()
    structs = STRUCTS[topic]
    _, parts = msgspec.json.schema_components(structs, ref_template="#/$defs/{name}")
    for name, part in parts.items():
        _document(part, name)
    top: dict[str, Any] = {"$schema": DRAFT, "title": f"One record of the topic `{topic}`"}
    if len(structs) == 1:
        top |= _without_title(parts.pop(structs[0].__name__))
    else:
        top["oneOf"] = [{"$ref": f"#/$defs/{struct.__name__}"} for struct in structs]
    definitions = {name: _without_title(part) for name, part in parts.items()}
    whole: dict[str, Any] = _joined_types(top | ({"$defs": definitions} if definitions else {}))
    return whole


def _dead_letter_schema() -> dict[str, Any]:
    reasons = [{"const": code.value, "description": _docs()["RejectCode"][code.name]} for code in RejectCode]
    reasons += [{"const": reason, "description": text} for reason, text in DELIVERY_REASONS.items()]
    headers = _DEAD_LETTER_HEADERS | _TARGET_HEADER
    properties: dict[str, Any] = {name: {"type": "string", "description": text} for name, text in headers.items()}
    for name in ("modelvigil.partition", "modelvigil.offset"):
        properties[name]["pattern"] = "^[0-9]+$"
    properties["modelvigil.timestamp"]["pattern"] = "^-?[0-9]+$"
    properties["modelvigil.reason"]["oneOf"] = reasons
    return {
        "$schema": DRAFT,
        "title": f"The headers of one record of the topic `{_DEAD_LETTERS}`",
        "description": "Key and value are those of the refused record, byte for byte. Its own headers come first, "
        "then these, in UTF-8.",
        "type": "object",
        "properties": properties,
        "required": list(_DEAD_LETTER_HEADERS),
    }


# Descriptions.


@cache
def _docs() -> dict[str, dict[str, str]]:
    """Return the strings under the fields (or members) of each class in `events`, which Python itself drops."""
    modules = sorted(name for name in sys.modules if name.startswith(f"{events.__name__}."))
    sources = [inspect.getsource(sys.modules[name]) for name in modules]
    trees = [ast.parse(source) for source in sources]
    nodes = [node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]
    return {node.name: dict(_field_docs(node)) for node in nodes}


def _field_docs(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, text in zip(node.body, node.body[1:], strict=False):
        if not (isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)):
            continue
        target = field.target if isinstance(field, ast.AnnAssign) else field
        name = target.targets[0] if isinstance(target, ast.Assign) else target
        if isinstance(name, ast.Name):
            yield name.id, inspect.cleandoc(str(text.value.value))


def _document(part: dict[str, Any], struct: str) -> None:
    """Put the descriptions into the schema of one struct."""
    part["description"] = inspect.cleandoc(part.get("description", ""))
    texts = _docs().get(struct, {})
    # A field can be written under another name than it has in Python, where `from` is a word of the language.
    written = {each.name: each.encode_name for each in msgspec.structs.fields(getattr(events, struct))} if texts else {}
    for name, text in texts.items():
        part["properties"][written[name]]["description"] = text


def _without_title(part: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key != "title"}


def _joined_types(node: Any) -> Any:  # noqa: ANN401 - any part of a JSON document
    """Write `anyOf` of bare types as the list of types that it is, which people read more easily."""
    if isinstance(node, list):
        return [_joined_types(item) for item in node]
    if not isinstance(node, dict):
        return node
    choices = node.get("anyOf", ())
    if choices and all(set(choice) == {"type"} for choice in choices):
        node = {"type": [choice["type"] for choice in choices]} | {k: v for k, v in node.items() if k != "anyOf"}
    return {key: _joined_types(value) for key, value in node.items()}


# Examples.

_START_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
_EVENTS = 2_500
_FAULT = range(2_100, 2_160)
_EVENT_MS = 60
_PSI_PER_BAR = 14.504
_WORSE_FROM = 1_500
"""From this event on the model's answers are further off."""
_NOT_AN_EVENT = b'{"event_id":"p-02500","model_id":"pump-service","features":{"inlet_c":NaN}}'
_SERVICE_MS = 20 * 3_600_000
_SAID = {
    "true_positive": "a gateway sent other units",
    "false_positive": "it was only a test",
    "ignore_like_this": "it happens whenever the gateway is replaced",
}
_DIGITS = 4
_FLAT_LIST = re.compile(r"\[\n[^\[\]{}]*\]")
_LINE_CHARS_MAX = 100


def examples() -> dict[str, list[Any]]:
    """Return a few records of each topic, oldest first. Dead letters are told by their headers."""
    inputs = [_prediction(place, Random(place)) for place in range(_EVENTS)]  # noqa: S311 - repeatable on purpose
    found: dict[str, list[Any]] = {"predictions": [inputs[0]], "labels": [_label(inputs[0])]}
    outputs = _outputs_of(inputs)
    alerts = [msgspec.json.decode(value) for value, _ in outputs[OutputTopic.ALERTS]]
    critical = next(alert for alert in alerts if alert["severity"] == "critical")
    incident = critical["incident_id"]
    metrics = [msgspec.json.decode(value) for value, _ in outputs[OutputTopic.METRICS]]
    drop = next(alert for alert in alerts if alert["kind"] == "performance.drop")
    range_left = next(alert for alert in alerts if alert["kind"] == "quality.range")
    found["alerts"] = [*(alert for alert in alerts if alert["incident_id"] == incident), range_left, drop]
    found["feedback"] = _feedback(critical)
    found["incidents"] = [critical]
    performance = next(metric for metric in metrics if metric["kind"] == "performance")
    found["metrics"] = [*metrics[1:2], performance]
    maintenance = [msgspec.json.decode(value) for value, _ in outputs[OutputTopic.MAINTENANCE]]
    found["maintenance"] = list({each["kind"]: each for each in reversed(maintenance)}.values())[::-1]
    found["scores"] = [msgspec.json.decode(value) for value, _ in outputs[OutputTopic.SCORES][-1:]]
    found[_DEAD_LETTERS] = [headers for _, headers in outputs[OutputTopic.DEAD_LETTERS]]
    return {topic: _rounded(records) for topic, records in found.items()}


def _outputs_of(inputs: list[dict[str, Any]]) -> dict[OutputTopic, list[tuple[bytes, dict[str, str]]]]:
    """Give the engine the inputs and one bad record; return the values and headers that come out, by topic."""
    # The engine brings compilers and scikit-learn along; only this command needs them.
    from worker.core.detectors.forest_fit import InlineRefits  # noqa: PLC0415 - heavy, and needed here only
    from worker.core.engine import Engine  # noqa: PLC0415 - heavy, and needed here only
    from worker.core.options import (  # noqa: PLC0415 - as above
        DriftOptions,
        EngineOptions,
        IncidentOptions,
        LimitOptions,
        PerformanceOptions,
        QualityOptions,
    )
    from worker.core.shard import Topics  # noqa: PLC0415 - heavy, and needed here only

    limits = (LimitOptions("mae", rise=0.05),)
    performance = PerformanceOptions(pane_ms=60_000, panes_max=2_000, reference_labels=500, limits=limits)
    options = EngineOptions(
        incident=IncidentOptions(quiet_ms=5_000),
        performance=performance,
        # References of fewer events than by default: the stream is short.
        drift=DriftOptions(reference_events=1_000, block_events=200),
        quality=QualityOptions(block_events=100),
        scores="flagged",
    )
    engine = Engine(options, Topics(), InlineRefits())
    engine.add_shard(0)
    values = [*map(msgspec.json.encode, inputs), _NOT_AN_EVENT]
    count = len(values)
    times = [_START_MS + place * _EVENT_MS for place in range(count)]
    keys, none = [b"pump-service"] * count, [None] * count
    found = engine.handle(RawBatch(0, range(count), times, values, keys, none)).outputs
    labels = [msgspec.json.encode(_label(event)) for event in inputs]
    arrived = [_START_MS + _SERVICE_MS + place * _EVENT_MS for place in range(len(labels))]
    raw = RawBatch(0, range(len(labels)), arrived, labels, keys[1:], none[1:], InputTopic.LABELS)
    found += engine.handle(raw).outputs
    for _ in range(3):
        found += engine.tick(0, arrived[-1])
    critical = next(each for each in map(_alert, found) if each is not None and each["severity"] == "critical")
    said = [msgspec.json.encode(each) for each in _feedback(critical)]
    count = len(said)
    raw = RawBatch(0, range(count), [arrived[-1]] * count, said, none[:count], none[:count], InputTopic.FEEDBACK)
    found += engine.handle(raw).outputs
    outputs: dict[OutputTopic, list[tuple[bytes, dict[str, str]]]] = {topic: [] for topic in OutputTopic}
    for output in found:
        headers = {name: (value or b"").decode() for name, value in output.headers}
        if output.value is not None or output.topic is not OutputTopic.INCIDENTS:
            outputs[output.topic].append((output.value or b"", headers))
    return outputs


def _alert(output: Output) -> dict[str, Any] | None:
    return msgspec.json.decode(output.value or b"") if output.topic is OutputTopic.ALERTS else None


def _feedback(alert: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what a person can say: that a site is rebuilt, and all there is to say about an incident."""
    about = {"model_id": alert["model_id"], "shard": alert["shard"], "incident_id": alert["incident_id"]}
    silence = {
        "kind": "silence",
        "feedback_id": "f-1",
        "author": "ada@example.org",
        "reason": "the gateway is replaced",
        "scope": {"model": "pump-*", "kind": "quality.*", "segment": None, "feature": "inlet_*"},
        "from": "2026-01-02T06:00:00Z",
        "to": "2026-01-02T10:00:00Z",
    }
    said = [
        {"kind": kind, "feedback_id": f"f-{place}", "author": "ada@example.org", "reason": reason, **about}
        for place, (kind, reason) in enumerate(_SAID.items(), start=2)
    ]
    undo = {"kind": "undo", "feedback_id": "f-5", "author": "bob@example.org", "reason": "it was real", "undoes": "f-3"}
    return [silence, *said, undo]


def _prediction(place: int, random: Random) -> dict[str, Any]:
    """Return a pump and its predicted days to the next service; during the fault a new gateway sends °F and psi."""
    inlet, outlet, bar = (_bell(random, low, high) for low, high in ((14, 22), (48, 60), (2.6, 3.4)))
    features = {"inlet_c": inlet, "outlet_c": outlet, "pressure_bar": bar}
    if place in _FAULT:
        features = {"inlet_c": inlet * 1.8 + 32, "outlet_c": outlet * 1.8 + 32, "pressure_bar": bar * _PSI_PER_BAR}
    return {
        "event_id": f"p-{place:05}",
        "model_id": "pump-service",
        "model_version": "2026-01",
        "timestamp": _START_MS + place * _EVENT_MS,
        "features": {name: round(value, 2) for name, value in features.items()}
        | {"boosted": random.choice([True, False]), "site": random.choice(["north", "south"])},
        "prediction": round(90 - outlet + 4 * random.random(), 1),
    }


def _bell(random: Random, low: float, high: float) -> float:
    return low + (high - low) * (random.random() + random.random() + random.random()) / 3


def _label(event: dict[str, Any]) -> dict[str, Any]:
    """Return what was measured later: about what was predicted, at first."""
    place = int(event["event_id"].removeprefix("p-"))
    error = Random(f"label {place}").gauss(0.0, 2.0 if place < _WORSE_FROM else 3.0)  # noqa: S311 - repeatable
    label = round(event["prediction"] + error, 1)
    later_ms = event["timestamp"] + _SERVICE_MS
    return {"event_id": event["event_id"], "model_id": event["model_id"], "timestamp": later_ms, "label": label}


def _rounded(node: Any) -> Any:  # noqa: ANN401 - any part of a JSON document
    if isinstance(node, float):
        return float(f"{node:.{_DIGITS}g}")
    if isinstance(node, list):
        return [_rounded(item) for item in node]
    return {key: _rounded(value) for key, value in node.items()} if isinstance(node, dict) else node


def _text(document: Any) -> bytes:  # noqa: ANN401 - any JSON document
    """Lay a document out for people: indented, but a short list (the counts of a histogram) on one line."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return _FLAT_LIST.sub(_on_one_line, text).encode() + b"\n"


def _on_one_line(found: re.Match[str]) -> str:
    line = " ".join(found.group().split()).replace("[ ", "[").replace(" ]", "]")
    return line if len(line) <= _LINE_CHARS_MAX else found.group()
