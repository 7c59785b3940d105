"""Puts templates, pipeline and policies into the cluster: what `ship elasticsearch --setup` does.

Done again, it does no harm.
"""

from collections.abc import Iterator
from http import HTTPStatus

import msgspec
from msgspec import Struct

from worker.edges.http_client import Answer, NoAnswer
from worker.elasticsearch_settings import ElasticsearchSettings
from worker.ship.cluster import reason_of
from worker.ship.preparing import Asked, ClusterError
from worker.ship.resources import Distribution, Lifetimes, Resource, installation

_UNABLE = {HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}
"""What a server answers that does not know a path."""
_BYTES_IN_GB = 1_000_000_000


class _Version(Struct, frozen=True):
    number: str
    distribution: str = "elasticsearch"


class _Root(Struct, frozen=True):
    version: _Version


class _Revision(Struct, frozen=True, rename={"number": "_seq_no", "term": "_primary_term"}):
    number: int
    term: int


def install(settings: ElasticsearchSettings, cluster: Asked) -> Iterator[str]:
    """Install everything; yield a line for each thing that was done, or could not be.

    Raises:
        ClusterError: the cluster does not answer or refuses something that is needed.
    """
    version = _version(cluster)
    distribution: Distribution = "opensearch" if version.distribution == "opensearch" else "elasticsearch"
    yield f"{'OpenSearch' if distribution == 'opensearch' else 'Elasticsearch'} {version.number}"
    lifetimes = Lifetimes(
        rollover_bytes=settings.rollover_gb * _BYTES_IN_GB,
        rollover_days=settings.rollover_days,
        alerts_days=settings.alerts_days,
        metrics_days=settings.metrics_days,
    )
    for resource in installation(distribution, lifetimes):
        yield _installed(cluster, resource)
    yield "data streams that are there already take new settings over when they roll over"


def _version(cluster: Asked) -> _Version:
    answer = cluster.ask("GET", "")
    if isinstance(answer, NoAnswer) or answer.status != HTTPStatus.OK:
        raise ClusterError(f"the cluster does not tell its version: {reason_of(answer)}")
    try:
        return msgspec.json.decode(answer.body, type=_Root).version
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ClusterError("elasticsearch.urls: what answers there is neither Elasticsearch nor OpenSearch") from None


def _installed(cluster: Asked, resource: Resource) -> str:
    """Install one thing; return what to say."""
    answer = cluster.ask("PUT", resource.path, resource.body)
    if isinstance(answer, Answer) and answer.status == HTTPStatus.CONFLICT:
        answer = _replaced(cluster, resource)
    if isinstance(answer, Answer) and answer.status in {HTTPStatus.OK, HTTPStatus.CREATED}:
        return f"{resource.path}: installed"
    if isinstance(answer, Answer) and answer.status in _UNABLE and not resource.essential:
        return f"{resource.path}: WARNING: not installed, this server cannot do it ({reason_of(answer)})"
    raise ClusterError(f"{resource.path} was not installed: {reason_of(answer)}")


def _replaced(cluster: Asked, resource: Resource) -> Answer | NoAnswer:
    """Put a policy of OpenSearch in place of its former revision."""
    former = cluster.ask("GET", resource.path)
    if isinstance(former, NoAnswer) or former.status != HTTPStatus.OK:
        return former
    try:
        revision = msgspec.json.decode(former.body, type=_Revision)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ClusterError(f"{resource.path}: the cluster does not tell its revision") from None
    path = f"{resource.path}?if_seq_no={revision.number}&if_primary_term={revision.term}"
    return cluster.ask("PUT", path, resource.body)
