"""Records of the output topics as real workers publish them, and stranger ones, for tests of where they go."""

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

import msgspec

from tests import labelled
from tests.integrations.opensearch import OpenSearch
from tests.streams import SMALL, START_MS
from worker import schemas
from worker.core.events import OutputTopic
from worker.edges.kafka.arrived import Arrived
from worker.elasticsearch_settings import Stream
from worker.ship.documents import document_of

_TOPICS: dict[OutputTopic, Stream] = {
    OutputTopic.ALERTS: "alerts",
    OutputTopic.METRICS: "metrics",
    OutputTopic.MAINTENANCE: "maintenance",
    OutputTopic.DEAD_LETTERS: "dead_letters",
}
_EXAMPLES = {stream.replace("_", "-"): stream for stream in _TOPICS.values()}
_BULK_DOCUMENTS = 2_000
_NAMES = (".", "", " ", "a..b", ".a", "a.", "nul\u0000", "*", "_id", "x" * 256)
_TASKS = ("binary", "multiclass", "regression")


@cache
def published() -> tuple[tuple[Stream, Arrived], ...]:
    """Return what an engine tells of three models with labels, and the examples of `schemas/`."""
    options = msgspec.structs.replace(labelled.LABELLED, drift=SMALL.drift, quality=SMALL.quality, rate=SMALL.rate)
    stream = labelled.grouped(labelled.items(seed=7, count=1_500, tasks=_TASKS), 50)
    outputs, _ = labelled.run(labelled.batches(stream), options)
    found = [(_TOPICS[each.topic], each.value, each.headers) for each in outputs if each.topic in _TOPICS]
    found += list(_examples())
    return tuple(
        (stream, Arrived(stream, place % 4, place // 4, START_MS + place, b"key", value, headers))
        for place, (stream, value, headers) in enumerate(found)
    )


def _examples() -> Iterator[tuple[Stream, bytes | None, tuple[tuple[str, bytes | None], ...]]]:
    for topic, records in schemas.examples().items():
        if topic in _EXAMPLES:
            for record in records:
                value = None if topic == "dead-letters" else json.dumps(record).encode()
                headers = record.items() if value is None else ()
                yield _EXAMPLES[topic], value, tuple((name, each.encode()) for name, each in headers)


def hostile() -> tuple[Stream, Arrived]:
    """Return an alert whose names and values are what no sender should send."""
    record = {"alert_id": "1", "timestamp_ms": 5, "status": "opened", "summary": "", "severity": "info"} | {
        "features": [{"name": name, "observed": "y" * 40_000, "contributions": {name: 1}} for name in _NAMES],
        "classes": dict.fromkeys(_NAMES, 1),
        "p_value": "not a number",
        "strength": 1e308,
        "resolved_at_ms": "not a time",
    }
    return "alerts", Arrived("alerts", 0, 0, 5, None, json.dumps(record).encode())


def of_thresholds() -> Sequence[tuple[Stream, Arrived]]:
    """Return maintenance events whose `threshold` is a number, an object, or not known."""
    values = (0.5, {"objective": "f1"}, None)
    records = [{"kind": "threshold_ready", "maintenance_id": "1", "threshold": value} for value in values]
    return [
        ("maintenance", Arrived("maintenance", 0, place, 5, None, json.dumps(each).encode()))
        for place, each in enumerate(records)
    ]


def ship(
    server: OpenSearch, namespace: str, records: Iterable[tuple[Stream, Arrived]], *, parameters: str = ""
) -> None:
    """Put the documents of records into data streams; all must be taken."""
    lines: list[bytes] = []
    for stream, arrived in records:
        document = document_of(stream, arrived)
        where = {"_index": f"modelvigil-{stream.replace('_', '-')}-{namespace}", "_id": document.id}
        lines += [json.dumps({"create": where}).encode(), document.source]
    for begin in range(0, len(lines), 2 * _BULK_DOCUMENTS):
        part = lines[begin : begin + 2 * _BULK_DOCUMENTS]
        answer = server.request("POST", f"/_bulk?refresh=true{parameters}", b"\n".join(part) + b"\n")
        assert answer.status == 200, answer.body
        refused = [item["create"]["error"] for item in answer.body["items"] if item["create"]["status"] != 201]
        assert not refused, refused[:3]
