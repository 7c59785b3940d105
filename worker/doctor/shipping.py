"""Asks Elasticsearch or OpenSearch, where `[elasticsearch]` is set, what `ship elasticsearch` would need. Only GETs."""

from contextlib import closing
from http import HTTPStatus

from msgspec.structs import replace

from worker.doctor.facts import Documents
from worker.edges.http_client import Answer, HttpClientError, NoAnswer
from worker.edges.kafka.diagnosis import Missing
from worker.elasticsearch_settings import ElasticsearchSettings
from worker.settings import Settings, SettingsError, with_elasticsearch_secrets
from worker.ship.cluster import Cluster, reason_of
from worker.ship.resources import Lifetimes, installation

_TIMEOUT_MS = 3_000
_TEMPLATES = "_index_template/"
_REFUSED = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}


def look_at_documents(settings: Settings) -> Documents | Missing | None:
    """Return which templates are missing; None where nothing of a cluster is set, so that nobody is expected there."""
    unset = ElasticsearchSettings()
    pages = {"ops_listen": unset.ops_listen, "ops_port": unset.ops_port, "ops_socket": unset.ops_socket}
    if replace(settings.elasticsearch, **pages) == unset:
        return None
    try:
        complete = replace(with_elasticsearch_secrets(settings).elasticsearch, timeout_ms=_TIMEOUT_MS)
        with closing(Cluster(complete)) as cluster:
            return _asked(cluster, len(complete.urls))
    except (SettingsError, HttpClientError) as error:
        return Missing(str(error))


def _asked(cluster: Cluster, nodes: int) -> Documents | Missing:
    answer: Answer | NoAnswer = cluster.ask("GET", "")
    for _ in range(nodes - 1):
        # A call that got no answer has moved on to the next node.
        answer = cluster.ask("GET", "") if isinstance(answer, NoAnswer) else answer
    if isinstance(answer, NoAnswer) or answer.status != HTTPStatus.OK:
        return Missing(reason_of(answer), forbidden=isinstance(answer, Answer) and answer.status in _REFUSED)
    missing = []
    for template in installation("elasticsearch", Lifetimes()):
        if template.path.startswith(_TEMPLATES):
            found = cluster.ask("GET", template.path)
            if isinstance(found, Answer) and found.status == HTTPStatus.NOT_FOUND:
                missing.append(template.name)
            elif isinstance(found, NoAnswer) or found.status != HTTPStatus.OK:
                return Missing(f"template {template.name}: {reason_of(found)}")
    return Documents(missing)
