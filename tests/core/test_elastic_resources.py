"""Templates, policies and saved objects for Elasticsearch and OpenSearch: they fit the schemas, and each other."""

import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.saved_objects import DEPLOY, FLAVOURS, STREAMS, aggregations_of, fields_of, mapped, objects, panels, view_of
from worker import schemas
from worker.core.metric_names import ALL_METRICS, COVERAGE, LAG_METRICS
from worker.ship.resources import Distribution, Lifetimes, installation

_DISTRIBUTIONS: tuple[Distribution, ...] = ("elasticsearch", "opensearch")
_KINDS = {
    "string": {"keyword", "text"},
    "integer": {"long", "integer", "date", "double"},
    "number": {"double", "keyword"},
    "boolean": {"boolean", "keyword"},
}
"""What a field of a record may be mapped as. A keyword also takes a value that is a number here and a text there."""
_ADDED = {
    "metrics": {f"prediction.{name}" for name in ("mean", "median", "standard_deviation", "missing_rate")},
    "dead-letters": {"model_id", "key", "headers.name", "value_bytes", "truncated", "kind", "schema_version"}
    | {"model_version", "shard"},
}
"""By stream, what the shipper puts beside the record, or what only other streams have."""


def _fields(node: Mapping[str, Any], top: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Yield each field that a schema allows, with each type that it can have."""
    if "$ref" in node:
        node = top["$defs"][node["$ref"].rpartition("/")[2]]
    for choice in (*node.get("anyOf", ()), *node.get("oneOf", ())):
        yield from _fields(choice, top, above)
    kinds = node.get("type", [])
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        if kind == "array":
            yield from _fields(node["items"], top, above)
        elif kind != "object":
            yield above, kind
    if "enum" in node or "const" in node:
        yield above, "string"
    for name, each in node.get("properties", {}).items():
        yield from _fields(each, top, f"{above}.{name}" if above else name)
    if isinstance(node.get("additionalProperties"), dict) and above == "metrics":
        for name in ALL_METRICS - {COVERAGE, *LAG_METRICS}:
            yield from _fields(node["additionalProperties"], top, f"metrics.{name}")


def _types(stream: str) -> dict[str, set[str]]:
    schema = schemas.schema(stream)
    if stream == "dead-letters":
        names = ("topic", "partition", "offset", "timestamp", "reason", "detail", "target")
        assert {f"modelvigil.{name}" for name in names} == set(schema["properties"])
        numbers = {"partition": "integer", "offset": "integer", "timestamp_ms": "integer"}
        return {name: {kind} for name, kind in ({"topic": "string", "reason": "string"} | numbers).items()} | {
            "detail": {"string"},
            "target": {"string"},
        }
    found: dict[str, set[str]] = {}
    for name, kind in _fields(schema, schema):
        found.setdefault(name, set()).add(kind)
    return found


@pytest.mark.parametrize("stream", STREAMS)
def test_mapped_fields_are_fields_of_the_records(stream: str) -> None:
    """A template maps no field that records do not have, and none as a type that some record's value is not."""
    known = _types(stream)
    for name, kind in mapped(stream).items():
        field = name.removeprefix("modelvigil.")
        if name == field or field in _ADDED.get(stream, ()) or kind == "nested":
            continue
        assert field in known, f"{field} is no field of {stream}"
        wrong = [each for each in known[field] - {"null"} if kind not in _KINDS[each]]
        assert not wrong, f"{field} of {stream} can be {wrong}, but is mapped as {kind}"


@pytest.mark.parametrize("stream", STREAMS)
def test_what_is_looked_for_is_mapped(stream: str) -> None:
    """Each text, time and number at the top of a record is mapped, except where records contradict each other."""
    known = _types(stream)
    fields = {name for name, kinds in known.items() if "." not in name and kinds - {"null"}}
    there = {name.removeprefix("modelvigil.").partition(".")[0] for name in mapped(stream)}
    assert fields - there == ({"threshold"} if stream == "maintenance" else set())


def test_every_performance_metric_is_mapped() -> None:
    """A metric that the worker learns to compute can be searched for, too."""
    there = {name.split(".")[2] for name in mapped("metrics") if name.startswith("modelvigil.metrics.")}
    assert there == ALL_METRICS - {COVERAGE, *LAG_METRICS}


@pytest.mark.parametrize("distribution", _DISTRIBUTIONS)
def test_installing_names_nothing_that_is_not_there(distribution: Distribution) -> None:
    """In the order of installing, templates name components that came before, and policies that exist."""
    seen: set[str] = set()
    policies: set[str] = set()
    for resource in installation(distribution, Lifetimes()):
        body = json.loads(resource.body)
        seen.add(resource.path)
        if not resource.essential:
            policies.add(resource.name)
        assert all(f"_component_template/{name}" in seen for name in body.get("composed_of", ()))
        index = body.get("template", {}).get("settings", {}).get("index", {})
        assert policies >= {index["lifecycle"]["name"]} if "lifecycle" in index else True
        assert f"_ingest/pipeline/{index.get('default_pipeline', 'modelvigil')}" in seen or not resource.essential
    assert {f"_index_template/modelvigil-{stream}" for stream in STREAMS} <= seen
    assert policies == {"modelvigil-events", "modelvigil-metrics"}


def test_policies_follow_the_settings() -> None:
    """When to begin a new index and when to delete an old one is what the settings say, on both kinds of server."""
    lifetimes = Lifetimes(rollover_bytes=5_000_000, rollover_days=3, alerts_days=11, metrics_days=2)
    for distribution in _DISTRIBUTIONS:
        texts = {each.name: each.body.decode() for each in installation(distribution, lifetimes) if not each.essential}
        assert all('"5000000b"' in text and '"3d"' in text for text in texts.values())
        assert '"11d"' in texts["modelvigil-events"]
        assert '"2d"' in texts["modelvigil-metrics"]
        assert not any("$" in text for text in texts.values())


def test_policies_of_both_kinds_of_server_cover_each_data_stream_once() -> None:
    """Each data stream has one lifecycle, and the same one on Elasticsearch and OpenSearch."""
    found = {}
    for stream in STREAMS:
        bodies = {each.path: json.loads(each.body) for each in installation("elasticsearch", Lifetimes())}
        parts = bodies[f"_index_template/modelvigil-{stream}"]["composed_of"]
        settings = [bodies[f"_component_template/{name}"]["template"].get("settings", {}) for name in parts]
        found[f"modelvigil-{stream}-*"] = [
            each["index"]["lifecycle"]["name"] for each in settings if "lifecycle" in each.get("index", {})
        ]
    policies = [each for each in installation("opensearch", Lifetimes()) if not each.essential]
    for pattern, names in found.items():
        where = [
            each.name
            for each in policies
            if pattern in json.loads(each.body)["policy"]["ism_template"][0]["index_patterns"]
        ]
        assert where == names


def test_saved_objects_are_current() -> None:
    """The files are what the script writes."""
    path = DEPLOY / "kibana" / "build.py"
    spec = importlib.util.spec_from_file_location("build_saved_objects", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for flavour in FLAVOURS:
        assert Path(DEPLOY / flavour / "modelvigil.ndjson").read_text(encoding="utf-8") == script.render(flavour)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_saved_objects_hang_together(flavour: str) -> None:
    """Ids are unique, each reference leads to an object of the file, and each panel of a dashboard has one."""
    there = [(each["type"], each["id"]) for each in objects(flavour)]
    assert len(set(there)) == len(there)
    shown = set()
    for each in objects(flavour):
        assert all((reference["type"], reference["id"]) in there for reference in each["references"])
        if each["type"] == "dashboard":
            names = {reference["name"].rpartition(":")[2]: reference["id"] for reference in each["references"]}
            shown |= {names[panel["panelRefName"]] for panel in json.loads(each["attributes"]["panelsJSON"])}
    assert shown == {panel["id"] for panel in panels(flavour)}


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_panels_name_fields_that_are_mapped(flavour: str) -> None:
    """What a panel filters, groups or computes is a field of its data stream, of a type that can be."""
    for panel in panels(flavour):
        there = mapped(view_of(panel).removeprefix("modelvigil-").removesuffix("-*"))
        assert fields_of(panel) <= set(there) | {"@timestamp"}, panel["attributes"]["title"]
        for aggregation in aggregations_of(panel):
            kind = there.get(aggregation["params"].get("field", ""))
            needs_number = aggregation["type"] in {"avg", "sum", "max", "min"}
            assert kind in ({"double", "long", "integer", "date"} if needs_number else {None, "keyword", "date"})


def test_policies_have_the_shape_that_servers_expect() -> None:
    """Each state that a policy names exists, its actions are known, and nothing is deleted before its rollover."""
    for resource in installation("opensearch", Lifetimes()):
        if not resource.essential:
            policy = json.loads(resource.body)["policy"]
            assert set(policy) == {"description", "default_state", "states", "ism_template"}
            states = {each["name"]: each for each in policy["states"]}
            assert policy["default_state"] in states
            for state in states.values():
                assert all(list(action) in (["rollover"], ["delete"]) for action in state["actions"])
                for transition in state["transitions"]:
                    assert transition["state_name"] in states
                    assert set(transition["conditions"]) == {"min_rollover_age"}
    for resource in installation("elasticsearch", Lifetimes()):
        if not resource.essential:
            phases = json.loads(resource.body)["policy"]["phases"]
            assert set(phases) == {"hot", "delete"}
            assert set(phases["hot"]["actions"]["rollover"]) == {"max_primary_shard_size", "max_age"}
            assert phases["delete"]["min_age"].endswith("d")
