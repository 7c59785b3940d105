"""The cluster over HTTP: nodes that are away, credentials, answers without an end, data streams, set-up."""

import gzip
import json
import logging
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from tests.core.test_notify_webhook import _receiver as receiver
from tests.core.test_ship_settling import Clock, Log
from tests.e2e.stub_cluster import StubCluster, server_at_free_port
from worker.edges.http_client import Answer, HttpClient, NoAnswer, Request
from worker.elasticsearch_settings import ElasticsearchSettings
from worker.ship.cluster import Cluster, Failed, Found
from worker.ship.figures import HEARTBEAT_S_MAX, Figures
from worker.ship.health import Health
from worker.ship.installing import install
from worker.ship.preparing import ClusterError, hurried, prepare

Asked = Callable[[str, str, bytes], Answer | NoAnswer]
REVISION = b'{"_seq_no":4,"_primary_term":2}'

REFRESHED = Answer(200, body=b'{"_shards":{"failed":0}}')


def counted(documents: int, failed: int = 0) -> Answer:
    """Answer as a stream with some documents."""
    return Answer(200, body=json.dumps({"count": documents, "_shards": {"failed": failed}}).encode())


class Scripted:
    """A cluster whose answers a function makes."""

    def __init__(self, answer: Asked) -> None:
        self._answer = answer
        self.asked: list[tuple[str, str]] = []

    def ask(self, method: str, path: str, body: bytes = b"") -> Answer | NoAnswer:
        self.asked.append((method, path))
        return self._answer(method, path, body)


@pytest.fixture
def stub() -> Iterator[StubCluster]:
    """A server."""
    stub = StubCluster()
    yield stub
    stub.close()


def prepared(cluster: Any, **settings: Any) -> tuple[frozenset[str] | None, Log]:  # noqa: ANN401 - a port, any setting
    """Prepare the stream of alerts."""
    log, clock = Log(), Clock()
    health = Health(log, clock)
    tries = iter(range(50))
    found = prepare(
        ElasticsearchSettings(streams=("alerts",), **settings), cluster, health, clock, log, lambda: next(tries) > 40
    )
    return found, log


def test_streams_are_made_once_and_known_to_be_empty_until_something_is_in_them(stub: StubCluster) -> None:
    """What is known to be empty need not be looked up."""
    cluster = Cluster(ElasticsearchSettings(urls=(stub.url,)))
    assert prepared(cluster)[0] == frozenset({"alerts"})
    assert prepared(cluster)[0] == frozenset({"alerts"})
    stub.streams["modelvigil-alerts-default"][-1]["a"] = {}
    assert prepared(cluster)[0] == frozenset()
    found = cluster.look_up(["modelvigil-alerts-default"], ["a", "b"])
    assert found == Found(frozenset({"a"}))
    cluster.close()


def test_another_node_is_asked_when_one_is_away_and_the_key_goes_with_it(stub: StubCluster) -> None:
    """Requests can be compressed."""
    with receiver() as (away, _):
        nobody = away.rpartition("/T0")[0]
    settings = ElasticsearchSettings(urls=(nobody, f"{stub.url}/"), api_key="a2V5", gzip=False)
    cluster = Cluster(settings)
    assert isinstance(cluster.ask("GET", "_data_stream/x"), NoAnswer)
    answer = cluster.ask("GET", "_data_stream/x")
    assert isinstance(answer, Answer)
    assert answer.status == 404
    assert stub.authorizations == {"ApiKey a2V5"}
    cluster.close()


def test_requests_can_be_compressed() -> None:
    """For those who pay for the network."""
    got: list[tuple[str | None, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.headers["Content-Encoding"], body))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = server_at_free_port(Handler)
    cluster = Cluster(ElasticsearchSettings(urls=(f"http://127.0.0.1:{server.server_address[1]}",), gzip=True))
    cluster.create(b"x" * 1_000)
    server.shutdown()
    server.server_close()
    ((encoding, body),) = got
    assert encoding == "gzip"
    assert len(body) < 100
    assert gzip.decompress(body) == b"x" * 1_000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b'{"_shards":{"failed":1},"timed_out":false,"hits":{"hits":[]}}',
        b'{"_shards":{"failed":0},"timed_out":true,"hits":{"hits":[]}}',
        b'{"timed_out":false,"hits":{"hits":[]}}',
    ],
)
def test_an_answer_of_some_shards_only_is_no_answer(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they do not tell would be sent again."""
    cluster = Cluster(ElasticsearchSettings())
    good = b'{"_shards":{"failed":0}}'
    for refresh, search in ((good, body), (body.replace(b'"failed":0', b'"failed":1'), body)):
        answers = [Answer(200, body=refresh), Answer(200, body=search)]
        monkeypatch.setattr(cluster, "ask", lambda *_, answers=answers: answers.pop(0))
        assert isinstance(cluster.look_up(["s"], ["a"]), Failed)


def test_an_answer_may_be_long_but_not_endless_and_need_not_be_waited_for() -> None:
    """Whatever is at the other end."""

    def exchanged(*pieces: bytes, timeout_ms: int = 10_000) -> Answer | NoAnswer:
        def behave(connection: Any) -> None:  # noqa: ANN401 - a socket
            try:
                connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                for piece in pieces:
                    connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
                    time.sleep(0.05)
            except OSError:
                return

        with receiver(behave) as (url, _):
            return HttpClient(timeout_ms=timeout_ms).exchange(Request(url, {}, b"{}"), 1_000)

    whole = exchanged(b"x" * 700, b"y" * 300, b"")
    assert isinstance(whole, Answer)
    assert whole.body == b"x" * 700 + b"y" * 300
    assert exchanged(b"x" * 1_001, b"") == NoAnswer("the answer is too long, or comes too slowly")
    # The first byte has a second to come, however busy the machine is; the last one would take two.
    assert exchanged(*[b"x"] * 40, timeout_ms=1_000) == NoAnswer("the answer is too long, or comes too slowly")


def test_where_nobody_listens_nothing_was_sent() -> None:
    """So nothing need be looked up."""
    # Of port 9 no test lets a server listen; one that was free a moment ago may be that of another test by now.
    answer = HttpClient(timeout_ms=300).exchange(Request("http://127.0.0.1:9/", {}, b"{}"), 1_000)
    assert answer == NoAnswer("no connection: Connection refused", sent=False)


def test_no_log_of_a_library_tells_an_address(caplog: pytest.LogCaptureFixture) -> None:
    """The path of a webhook is its password."""
    caplog.set_level(logging.DEBUG)
    with receiver(lambda connection: connection.sendall(b"HTTP/1.1 204 No\r\n\r\n")) as (url, _):
        assert HttpClient(timeout_ms=1_000).post(Request(url, {}, b"{}")) == Answer(204)
    assert "sEcReT" not in caplog.text


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(401, excerpt="no"), r"refuses this user \(HTTP 401: no\): check .* rights: view_index_metadata"),
        (Answer(403), "refuses this user"),
        (Answer(302), "redirects"),
        (Answer(418), "the answer is HTTP 418"),
        (Answer(200, body=b"<html>"), "no Elasticsearch"),
    ],
)
def test_what_waiting_does_not_mend_is_said_at_once(answer: Answer, message: str) -> None:
    """Before the first document; afterwards it is tried again."""
    with pytest.raises(ClusterError, match=message) as caught:
        prepared(Scripted(lambda *_: answer))
    assert "\n" not in str(caught.value)


def test_a_cluster_that_is_not_there_yet_is_waited_for() -> None:
    """It may start after the shipper, in any order; told to stop, it stops."""
    answers: list[Answer | NoAnswer] = [
        NoAnswer("no connection"),
        Answer(503),
        Answer(429),
        Answer(200),
        REFRESHED,
        counted(3),
    ]
    found, log = prepared(Scripted(lambda *_: answers.pop(0)), retry_ms=10)
    assert found == frozenset()
    assert [level for level, _, _ in log.lines] == ["warning", "info"]
    assert prepared(Scripted(lambda *_: NoAnswer("no connection")), retry_ms=10)[0] is None


def test_a_cluster_that_answers_slowly_is_no_reason_to_be_killed() -> None:
    """The heartbeat goes on from one call to the next, and a call ends in time."""
    clock, answers = Clock(), [Answer(200), REFRESHED, counted(3)] * 4
    health = Health(Log(), clock)
    ages: list[float] = []

    def slow(*_: object) -> Answer:
        clock.now_ms += 3 * hurried(ElasticsearchSettings(timeout_ms=600_000)).timeout_ms
        ages.append(health.heartbeat_age_s)
        return answers.pop(0)

    assert prepare(ElasticsearchSettings(), Scripted(slow), health, clock, Log(), lambda: False) == frozenset()
    assert len(ages) == 12
    assert max(ages) < HEARTBEAT_S_MAX


def test_a_stream_is_empty_only_if_all_of_it_says_so_after_a_refresh() -> None:
    """A wrong belief would store again what is there: documents that came right before are counted after a refresh."""
    cluster = Scripted(lambda _, path, __: counted(0) if "_count" in path else REFRESHED)
    assert prepared(cluster)[0] == frozenset({"alerts"})
    stream = "modelvigil-alerts-default"
    asked = [path.partition("?")[0] for _, path in cluster.asked]
    assert asked == [f"_data_stream/{stream}", f"{stream}/_refresh", f"{stream}/_count"]
    for answers in ([Answer(200), REFRESHED, counted(0, failed=1)], [Answer(200), counted(0, failed=1), counted(0)]):
        left = list(answers)
        assert prepared(Scripted(lambda *_, left=left: left.pop(0)))[0] == frozenset()


def test_two_that_make_the_same_stream_do_not_end_each_other() -> None:
    """The second one finds it at its next attempt."""
    exists = Answer(400, excerpt='{"error":{"type":"resource_already_exists_exception"}}')
    answers = [Answer(404), exists, Answer(200), REFRESHED, counted(0)]
    assert prepared(Scripted(lambda *_: answers.pop(0)))[0] == frozenset({"alerts"})


def server_of(version: dict[str, str], *, policies: int = 200, templates: int = 200) -> Scripted:
    """Return a server that is set up."""

    def answer(method: str, path: str, body: bytes) -> Answer:
        if not path:
            return Answer(200, body=json.dumps({"version": version}).encode())
        json.loads(body or b"{}")
        if "_ism/" in path or "_ilm/" in path:
            if method == "GET":
                return Answer(200, body=REVISION)
            return Answer(200 if "if_seq_no=4&if_primary_term=2" in path else policies)
        return Answer(templates, excerpt="why")

    return Scripted(answer)


def test_set_up_installs_what_the_kind_of_server_needs() -> None:
    """Policies before what names them, and in place of former ones."""
    opensearch = server_of({"number": "2.19.6", "distribution": "opensearch"}, policies=409)
    lines = list(install(ElasticsearchSettings(), opensearch))
    assert lines[0] == "OpenSearch 2.19.6"
    assert all(": installed" in line for line in lines[1:-1])
    paths = [path for method, path in opensearch.asked if method == "PUT"]
    assert "_plugins/_ism/policies/modelvigil-events?if_seq_no=4&if_primary_term=2" in paths
    assert paths.index("_component_template/modelvigil-alerts") < paths.index("_index_template/modelvigil-alerts")
    elasticsearch = server_of({"number": "9.1.0"})
    assert next(iter(install(ElasticsearchSettings(), elasticsearch))) == "Elasticsearch 9.1.0"
    list(install(ElasticsearchSettings(), elasticsearch))
    assert ("PUT", "_ilm/policy/modelvigil-events") in elasticsearch.asked


def test_set_up_goes_on_without_policies_but_not_without_templates() -> None:
    """And says both."""
    version = {"number": "3.5.0", "distribution": "opensearch"}
    lines = list(install(ElasticsearchSettings(), server_of(version, policies=400)))
    assert sum("WARNING: not installed, this server cannot do it" in line for line in lines) == 2
    with pytest.raises(ClusterError, match=r"^_ingest/pipeline/modelvigil was not installed: HTTP 400: why"):
        list(install(ElasticsearchSettings(), server_of(version, templates=400)))
    with pytest.raises(ClusterError, match="neither Elasticsearch nor OpenSearch"):
        list(install(ElasticsearchSettings(), Scripted(lambda *_: Answer(200, body=b"{}"))))


def test_pages_tell_figures_and_whether_it_works() -> None:
    """Not ready before the group has assigned partitions, not alive when the loop hangs."""
    log, clock = Log(), Clock()
    health = Health(log, clock)
    figures = Figures(health)
    pages = figures.pages()
    assert pages["/readyz"]().status == 503
    assert b"modelvigil_ship_ready 0.0" in pages["/metrics"]().body
    health.joined(joined=True)
    figures.lag = {("modelvigil.alerts", 3): 17}
    assert (pages["/readyz"]().status, pages["/healthz"]().status) == (200, 200)
    text = pages["/metrics"]().body.decode()
    assert 'modelvigil_ship_lag_records{partition="3",topic="modelvigil.alerts"} 17.0' in text
    assert 'modelvigil_ship_documents_total{outcome="created",stream="dead_letters"} 0.0' in text
    clock.now_ms += 200_000
    assert pages["/healthz"]().status == 503
