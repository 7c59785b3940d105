"""Our mappings on a real Elasticsearch: they take every record, and fill every panel of Kibana."""

import json
from collections.abc import Iterator

import pytest

from tests.integrations.elasticsearch import Elasticsearch
from tests.integrations.published import hostile, of_thresholds, published, ship
from tests.saved_objects import assert_filled, panels, search_of, view_of
from worker.ship.resources import Lifetimes, installation

_NO_PIPELINE = "&pipeline=_none"
"""The test distribution has no processors."""


@pytest.fixture(scope="module")
def elasticsearch() -> Iterator[Elasticsearch]:
    """A server with our templates; without lifecycle and pipeline, which its test distribution lacks."""
    with Elasticsearch() as server:
        for resource in installation("elasticsearch", Lifetimes()):
            body = json.loads(resource.body)
            if "composed_of" in body:
                body["composed_of"] = [name for name in body["composed_of"] if "lifecycle" not in name]
            elif not resource.path.startswith("_component_template/") or "lifecycle" in resource.name:
                continue
            answer = server.request("PUT", f"/{resource.path}", body)
            assert answer.status == 200, answer.body
        ship(server, "published", published(), parameters=_NO_PIPELINE)
        yield server


def test_every_published_record_is_taken(elasticsearch: Elasticsearch) -> None:
    """Each record that engines publish becomes one document of a data stream, and mappings stay as they were."""
    assert elasticsearch.count("modelvigil-*-published") == len(published())
    for stream in ("alerts", "metrics", "maintenance", "dead-letters"):
        (backing,) = elasticsearch.request("GET", f"/modelvigil-{stream}-published/_mapping").body.items()
        assert backing[0].startswith(f".ds-modelvigil-{stream}-published-")
        path = f"/_index_template/_simulate_index/modelvigil-{stream}-x"
        template = elasticsearch.request("POST", path).body["template"]
        assert backing[1]["mappings"]["properties"] == template["mappings"]["properties"]


def test_strange_names_and_values_stop_no_document(elasticsearch: Elasticsearch) -> None:
    """Names with dots or without letters, texts in place of numbers, and a `threshold` of either kind are taken."""
    ship(elasticsearch, "strange", [hostile(), *of_thresholds()], parameters=_NO_PIPELINE)
    (hit,) = elasticsearch.request("POST", "/modelvigil-alerts-strange/_search").body["hits"]["hits"]
    assert hit["_source"]["modelvigil"] == json.loads(hostile()[1].value or b"")


def test_a_rollover_hides_repeats_from_create(elasticsearch: Elasticsearch) -> None:
    """After a rollover `create` stores a repeat, which `ids` finds: so the shipper looks up what it may have sent."""
    ship(elasticsearch, "rolled", [hostile()], parameters=_NO_PIPELINE)
    assert elasticsearch.request("POST", "/modelvigil-alerts-rolled/_rollover").status == 200
    query = {"ids": {"values": ["alerts-0-0-5"]}}
    assert elasticsearch.count("modelvigil-alerts-rolled", query) == 1
    ship(elasticsearch, "rolled", [hostile()], parameters=_NO_PIPELINE)
    assert elasticsearch.count("modelvigil-alerts-rolled", query) == 2


def test_no_panel_of_kibana_is_empty(elasticsearch: Elasticsearch) -> None:
    """Each visualisation and each search of Kibana finds something, in every column."""
    for panel in panels("kibana"):
        index = view_of(panel).replace("*", "published")
        answer = elasticsearch.request("POST", f"/{index}/_search", search_of(panel))
        assert answer.status == 200, (panel["attributes"]["title"], answer.body)
        assert_filled(panel, answer.body)
