"""Templates, pipeline and dashboards on a real OpenSearch: they install, take every record, and no panel is empty."""

import json
import uuid

import pytest

from tests.integrations.opensearch import OpenSearch
from tests.integrations.published import hostile, of_thresholds, published, ship
from tests.saved_objects import FLAVOURS, STREAMS, assert_filled, panels, search_of, view_of
from worker.ship.resources import Lifetimes, installation


@pytest.fixture(scope="module")
def server(opensearch: OpenSearch) -> OpenSearch:
    """A server on which everything is installed that it can have."""
    for resource in installation("opensearch", Lifetimes()):
        answer = opensearch.request("PUT", f"/{resource.path}", resource.body)
        if resource.essential:
            assert answer.status == 200, answer.body
        else:
            assert "no handler found" in answer.body["error"], "the test distribution has ISM: test the policies, too"
    return opensearch


@pytest.fixture(scope="module")
def shipped(server: OpenSearch) -> str:
    """The namespace of data streams with all that real engines have published."""
    namespace = uuid.uuid4().hex[:8]
    ship(server, namespace, published())
    return namespace


def test_every_published_record_is_taken(server: OpenSearch, shipped: str) -> None:
    """Each record that engines publish becomes one document, and none makes the mappings grow."""
    for stream in STREAMS:
        name = f"modelvigil-{stream}-{shipped}"
        assert server.count(name) == sum(each.replace("_", "-") == stream for each, _ in published())
        (backing,) = server.request("GET", f"/{name}/_mapping").body.values()
        simulated = server.request("POST", f"/_index_template/_simulate_index/modelvigil-{stream}-x").body["template"]
        assert backing["mappings"]["properties"] == simulated["mappings"]["properties"]


def test_names_that_others_chose_become_no_fields(server: OpenSearch) -> None:
    """Names with dots, without letters, or with a NUL character stop no document, and are kept as they came."""
    namespace = uuid.uuid4().hex[:8]
    ship(server, namespace, [hostile()])
    (hit,) = server.request("POST", f"/modelvigil-alerts-{namespace}/_search").body["hits"]["hits"]
    assert hit["_source"]["modelvigil"] == json.loads(hostile()[1].value or b"")


def test_numbers_and_objects_under_one_name_are_both_taken(server: OpenSearch) -> None:
    """`threshold` is a number in some maintenance events and an object in others: neither refuses the other."""
    namespace = uuid.uuid4().hex[:8]
    ship(server, namespace, of_thresholds())
    assert server.count(f"modelvigil-maintenance-{namespace}") == len(of_thresholds())


def test_the_pipeline_tells_when_a_document_arrived(server: OpenSearch, shipped: str) -> None:
    """Each document says when it was ingested: that is after it was written to Kafka."""
    body = {"query": {"range": {"event.ingested": {"gte": "now-1h"}}}}
    answer = server.request("POST", f"/modelvigil-*-{shipped}/_count", body)
    assert answer.body["count"] == len(published())


def test_a_pipeline_that_fails_keeps_the_document(server: OpenSearch) -> None:
    """A document that the pipeline cannot work on is stored as it is, and says what went wrong."""
    broken = {"@timestamp": 5, "modelvigil": {"severity": 7}}
    answer = server.request("POST", "/_ingest/pipeline/modelvigil/_simulate", {"docs": [{"_source": broken}]})
    (found,) = answer.body["docs"]
    assert found["doc"]["_source"]["tags"] == ["modelvigil_pipeline_failed"]
    assert "severity" in found["doc"]["_source"]["error"]["message"]
    assert found["doc"]["_source"]["modelvigil"] == broken["modelvigil"]


def test_a_kind_of_refusal_stays_possible(server: OpenSearch) -> None:
    """What has no readable time cannot be in a data stream: the server refuses it for good, with 400."""
    lines = b'{"create":{"_index":"modelvigil-alerts-refused"}}\n{"@timestamp":"x"}\n'
    (item,) = server.request("POST", "/_bulk", lines).body["items"]
    assert item["create"]["status"] == 400


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_no_panel_is_empty(server: OpenSearch, shipped: str, flavour: str) -> None:
    """Each visualisation and each search finds something in what engines have published, in every column."""
    for panel in panels(flavour):
        answer = server.request("POST", f"/{view_of(panel).removesuffix('*')}{shipped}/_search", search_of(panel))
        assert answer.status == 200, (panel["attributes"]["title"], answer.body)
        assert_filled(panel, answer.body)


def test_a_restart_loses_nothing(server: OpenSearch, shipped: str) -> None:
    """What was acknowledged is there after a kill -9, templates included."""
    before = server.count(f"modelvigil-*-{shipped}")
    server.kill()
    server.start()
    assert server.count(f"modelvigil-*-{shipped}") == before
    assert server.request("GET", "/_index_template/modelvigil-alerts").status == 200
