"""What is in deploy/kibana and deploy/opensearch-dashboards, and which fields the templates map: for tests of both."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from worker.ship.resources import Lifetimes, installation

DEPLOY = Path(__file__).parent.parent / "deploy"
FLAVOURS = ("kibana", "opensearch-dashboards")
STREAMS = ("alerts", "metrics", "maintenance", "dead-letters")
_FIELD = re.compile(r"(?<![\w.])((?:modelvigil|event|kafka)\.[\w.]*\w)")


@cache
def objects(flavour: str) -> tuple[dict[str, Any], ...]:
    """Return the saved objects of one program."""
    lines = (DEPLOY / flavour / "modelvigil.ndjson").read_text(encoding="utf-8").splitlines()
    return tuple(json.loads(line) for line in lines)


def panels(flavour: str) -> list[dict[str, Any]]:
    """Return its visualisations and searches."""
    return [each for each in objects(flavour) if each["type"] in {"visualization", "search"}]


def view_of(panel: Mapping[str, Any]) -> str:
    """Return the index pattern that a panel reads from."""
    (identifier,) = [each["id"] for each in panel["references"] if each["type"] == "index-pattern"]
    views = {each["id"]: each["attributes"]["title"] for each in objects("kibana") if each["type"] == "index-pattern"}
    return str(views[identifier])


def query_of(panel: Mapping[str, Any]) -> str:
    """Return the query of a panel, in the syntax of Lucene."""
    query = json.loads(panel["attributes"]["kibanaSavedObjectMeta"]["searchSourceJSON"])["query"]
    assert query["language"] == "lucene"
    return str(query["query"])


def aggregations_of(panel: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the aggregations of a visualisation, as the program keeps them."""
    return [] if panel["type"] == "search" else list(json.loads(panel["attributes"]["visState"])["aggs"])


def fields_of(panel: Mapping[str, Any]) -> set[str]:
    """Return all fields that a panel names."""
    named = {each["params"]["field"] for each in aggregations_of(panel) if "field" in each["params"]}
    return named | set(_FIELD.findall(query_of(panel))) | set(panel["attributes"].get("columns", ()))


def mapped(stream: str) -> dict[str, str]:
    """Return the type of each field that is mapped for a stream; those below a nested one are left out."""
    bodies = {each.path: json.loads(each.body) for each in installation("opensearch", Lifetimes())}
    found: dict[str, str] = {}
    for name in bodies[f"_index_template/modelvigil-{stream}"]["composed_of"]:
        mappings = bodies[f"_component_template/{name}"]["template"].get("mappings", {})
        found |= dict(_leaves(mappings.get("properties", {})))
    return found


def _leaves(properties: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, field in properties.items():
        if "type" in field:
            yield above + name, field["type"]
        else:
            yield from _leaves(field["properties"], f"{above}{name}.")


def search_of(panel: Mapping[str, Any]) -> dict[str, Any]:
    """Return the search with which a program fills a panel."""
    query = query_of(panel)
    asked = {"query_string": {"query": query}} if query else {"match_all": {}}
    return {"size": 1, "query": asked, **_asked(aggregations_of(panel))}


def assert_filled(panel: Mapping[str, Any], body: Mapping[str, Any]) -> None:
    """See that the answer to `search_of` leaves no part of the panel empty."""
    title = panel["attributes"]["title"]
    assert body["hits"]["total"]["value"] > 0, f"{title} finds nothing"
    _assert_values(body.get("aggregations", {}), title)


def _asked(aggregations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a program asks the server for: values inside of the innermost buckets, and for each order."""
    values = {
        each["id"]: {each["type"]: {"field": each["params"]["field"]}}
        for each in aggregations
        if each["schema"] == "metric" and each["type"] != "count"
    }
    asked = {"aggs": values} if values else {}
    for each in reversed([each for each in aggregations if each["schema"] != "metric"]):
        field = each["params"]["field"]
        if each["type"] == "terms":
            order = "1" if "1" in values else "_count"
            terms = {"field": field, "size": each["params"]["size"], "order": {order: "desc"}}
            bucket = {"terms": terms | ({"missing": "(none)"} if each["params"]["missingBucket"] else {})}
        else:
            assert each["type"] == "date_histogram"
            bucket = {"date_histogram": {"field": field, "fixed_interval": "1m", "min_doc_count": 1}}
        inner = asked.get("aggs", {}) | values
        asked = {"aggs": {each["id"]: bucket | ({"aggs": inner} if inner else {})}}
    return asked


def _assert_values(found: Mapping[str, Any], title: str) -> None:
    """Some bucket of each aggregation has documents, and each value is known in some bucket."""
    for each in found.values():
        if "buckets" in each:
            assert each["buckets"], f"{title} has no buckets"
            known = {
                key
                for bucket in each["buckets"]
                for key, value in bucket.items()
                if isinstance(value, dict) and value.get("value") is not None
            }
            asked = {key for bucket in each["buckets"] for key, value in bucket.items() if isinstance(value, dict)}
            inner = {key for bucket in each["buckets"] for key, value in bucket.items() if "buckets" in str(value)}
            assert asked - inner <= known, f"{title}: no bucket knows {asked - inner - known}"
            deepest = max(each["buckets"], key=lambda bucket: bucket["doc_count"])
            _assert_values({key: value for key, value in deepest.items() if key in inner}, title)
        else:
            assert each["value"] is not None, f"{title} has no value"
