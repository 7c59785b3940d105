"""What is done before the first record: the cluster is waited for, and data streams are made.

Rule 1: what waiting does not mend ends the command here. Later, when it has worked before, nothing does.
Rule 2: streams are made by name, so a server without our templates never gets an ordinary index in their place.
"""

import random
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Protocol

import msgspec
from msgspec import Struct, structs

from worker.edges.http_client import Answer, NoAnswer, pause_ms
from worker.elasticsearch_settings import ElasticsearchSettings, Stream
from worker.ports import Clock
from worker.ship.batches import stream_name
from worker.ship.cluster import reason_of
from worker.ship.health import Health

_SLICE_MS = 100
_TIMEOUT_MS_MAX = 30_000
_WHO = "preparing"
_NO = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
_RIGHTS = "view_index_metadata, create_index, create_doc, read and maintenance on modelvigil-*"
_REDIRECTS = range(300, 400)
_Ask = Callable[[str, str], Answer | NoAnswer]


class ClusterError(Exception):
    """The cluster cannot be used as it is configured; the message says what to do."""


class Asked(Protocol):
    """What is asked of the cluster."""

    def ask(self, method: str, path: str, body: bytes = b"") -> Answer | NoAnswer:
        """Make a call."""
        ...


class _Shards(Struct, frozen=True):
    failed: int


class _Count(Struct, frozen=True, rename={"shards": "_shards"}):
    shards: _Shards
    count: int | None = None


def hurried(settings: ElasticsearchSettings) -> ElasticsearchSettings:
    """Return how the cluster is asked here: a call, with connecting and all, takes less than `/healthz` allows."""
    return structs.replace(settings, timeout_ms=min(settings.timeout_ms, _TIMEOUT_MS_MAX))


def prepare(
    settings: ElasticsearchSettings,
    cluster: Asked,
    health: Health,
    clock: Clock,
    log: Any,  # noqa: ANN401 - structlog's
    stopping: Callable[[], bool],
) -> frozenset[Stream] | None:
    """See that all data streams are there; return those of them that are empty, None when told to stop.

    Raises:
        ClusterError: the cluster refuses us, or has no templates.
    """

    def ask(method: str, path: str) -> Answer | NoAnswer:
        health.beat()
        return cluster.ask(method, path)

    empty: set[Stream] = set()
    for stream in settings.streams:
        name, failures = stream_name(stream, settings.namespace), 0
        while True:
            is_empty = _prepared(ask, name, log)
            if isinstance(is_empty, bool):
                break
            health.failed(_WHO, is_empty, blocked=False)
            pause = pause_ms(failures, settings.retry_ms, settings.retry_max_ms, random.random())  # noqa: S311 - no secret
            failures += 1
            if not _waited(pause, clock, health, stopping):
                return None
        health.worked(_WHO)
        empty |= {stream} if is_empty else set()
    return frozenset(empty)


def _prepared(ask: _Ask, name: str, log: Any) -> bool | str:  # noqa: ANN401 - structlog's
    """Return whether a data stream is empty, or why that is not known yet. Raises ClusterError."""
    answer = ask("GET", f"_data_stream/{name}")
    if isinstance(answer, Answer) and answer.status == HTTPStatus.OK:
        return _is_empty(ask, name)
    if isinstance(answer, NoAnswer) or answer.status != HTTPStatus.NOT_FOUND:
        return _trouble(name, answer)
    answer = ask("PUT", f"_data_stream/{name}")
    if isinstance(answer, Answer) and answer.status == HTTPStatus.OK:
        log.info("data stream created", name=name)
        return True
    if isinstance(answer, Answer) and answer.status in {HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND}:
        if "resource_already_exists" in answer.excerpt:
            return "another process creates the data stream, too"
        raise ClusterError(
            f"the data stream {name} cannot be created: run `modelvigil ship elasticsearch --setup` "
            f"({reason_of(answer)})"
        )
    return _trouble(name, answer)


def _is_empty(ask: _Ask, name: str) -> bool | str:
    """Return whether surely nothing is in a stream. What came right before is counted only after a refresh."""
    for method, path in (("POST", f"{name}/_refresh"), ("GET", f"{name}/_count?filter_path=count,_shards.failed")):
        answer = ask(method, path)
        if isinstance(answer, NoAnswer) or answer.status != HTTPStatus.OK:
            return _trouble(name, answer)
        try:
            told = msgspec.json.decode(answer.body, type=_Count)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ClusterError("elasticsearch.urls: what answers there is no Elasticsearch") from None
        if told.shards.failed:
            return False
    return told.count == 0


def _trouble(name: str, answer: Answer | NoAnswer) -> str:
    """Return what is worth waiting for. Raises ClusterError for the rest."""
    reason = reason_of(answer)
    if isinstance(answer, Answer) and answer.status in _NO:
        raise ClusterError(
            f"the cluster refuses this user ({reason}): check [elasticsearch] username and password, or api_key, and "
            f"the rights: {_RIGHTS}"
        )
    if isinstance(answer, Answer) and answer.status in _REDIRECTS:
        raise ClusterError(f"elasticsearch.urls: what answers there redirects ({reason}): give the final address")
    passing = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.REQUEST_TIMEOUT}
    if isinstance(answer, NoAnswer) or answer.status in passing or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return reason
    raise ClusterError(f"elasticsearch.urls: asked for the data stream {name}, the answer is {reason}")


def _waited(wait_ms: int, clock: Clock, health: Health, stopping: Callable[[], bool]) -> bool:
    """Wait; False when told to stop."""
    until_ms = clock.monotonic_ms() + wait_ms
    while not stopping():
        health.beat()
        left_ms = until_ms - clock.monotonic_ms()
        if left_ms <= 0:
            return True
        clock.pause(min(left_ms, _SLICE_MS))
    return False
