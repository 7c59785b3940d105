"""The cluster: its API as far as it is needed here, over whatever node answers.

Rule 1: nothing that is told holds the credentials.
Rule 2: a call is made once; whoever makes it decides what an answer means.
"""

import base64
import gzip
import threading
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from worker import __version__
from worker.edges.http_client import Answer, HttpClient, NoAnswer, Request
from worker.elasticsearch_settings import ElasticsearchSettings
from worker.ship.answers import FILTER_PATH

_JSON: Final = "application/json"
_NDJSON: Final = "application/x-ndjson"
_ANSWER_BYTES_MAX: Final = 16_000_000
_GZIP_LEVEL: Final = 1
_AWAY: Final = {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
"""Answers after which another node may do better."""


class Found(NamedTuple):
    """Which of the ids that were looked for are there."""

    ids: frozenset[str]


class Failed(NamedTuple):
    """A look-up did not work."""

    answer: Answer | NoAnswer

    @property
    def reason(self) -> str:
        """Why, in one line."""
        return reason_of(self.answer)


class _Shards(Struct, frozen=True):
    failed: int = 0


class _Hit(Struct, frozen=True, rename={"id": "_id"}):
    id: str


class _Hits(Struct, frozen=True):
    hits: list[_Hit] = []


class _Refreshed(Struct, frozen=True, rename={"shards": "_shards"}):
    shards: _Shards


class _Searched(Struct, frozen=True, rename={"shards": "_shards"}):
    shards: _Shards
    timed_out: bool
    hits: _Hits = _Hits()


class Cluster:
    """All threads may use it.

    Args:
        settings: with its secrets.

    Raises:
        HttpClientError: the certificates cannot be read.
    """

    def __init__(self, settings: ElasticsearchSettings) -> None:
        self._urls = [url.rstrip("/") for url in settings.urls]
        self._gzip = settings.gzip
        self._headers = {"Accept": _JSON, "User-Agent": f"modelvigil/{__version__}", **_authorization(settings)}
        self._client = HttpClient(
            timeout_ms=settings.timeout_ms,
            ca_file=settings.ca_file,
            connections=settings.requests_max + 1,
            addresses=len(self._urls),
        )
        self._lock = threading.Lock()
        self._current = 0

    def ask(self, method: str, path: str, body: bytes = b"", content_type: str = _JSON) -> Answer | NoAnswer:
        """Make a call.

        Args:
            method: of HTTP.
            path: with its query, without a slash at its beginning.
            body: empty: none.
            content_type: of the body.
        """
        current = self._current
        headers = self._headers | ({"Content-Type": content_type} if body else {})
        if body and self._gzip:
            headers |= {"Content-Encoding": "gzip"}
            body = gzip.compress(body, _GZIP_LEVEL, mtime=0)
        answer = self._client.exchange(
            Request(f"{self._urls[current]}/{path}", headers, body, method), _ANSWER_BYTES_MAX
        )
        if isinstance(answer, NoAnswer) or answer.status in _AWAY:
            with self._lock:
                if self._current == current:
                    self._current = (current + 1) % len(self._urls)
        return answer

    def create(self, body: bytes) -> Answer | NoAnswer:
        """Send a bulk request."""
        return self.ask("POST", f"_bulk?filter_path={FILTER_PATH}", body, _NDJSON)

    def look_up(self, streams: Sequence[str], ids: Sequence[str]) -> Found | Failed:
        """Tell which documents are there, also those that came right before."""
        names = ",".join(streams)
        answer = self.ask("POST", f"{names}/_refresh")
        refreshed = _read(answer, _Refreshed)
        if refreshed is None or refreshed.shards.failed:
            return Failed(answer)
        query = {
            "query": {"ids": {"values": list(ids)}},
            "size": len(ids),
            "_source": False,
            "track_total_hits": False,
        }
        path = f"{names}/_search?allow_partial_search_results=false&filter_path=timed_out,_shards.failed,hits.hits._id"
        answer = self.ask("POST", path, msgspec.json.encode(query))
        searched = _read(answer, _Searched)
        if searched is None or searched.timed_out or searched.shards.failed:
            return Failed(answer)
        return Found(frozenset(hit.id for hit in searched.hits.hits))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def reason_of(answer: Answer | NoAnswer) -> str:
    """Return what went wrong in one line."""
    if isinstance(answer, NoAnswer):
        return answer.reason
    if answer.status == HTTPStatus.OK:
        return "some shards do not answer"
    return f"HTTP {answer.status}{': ' if answer.excerpt else ''}{answer.excerpt}"


_Kind = TypeVar("_Kind", _Refreshed, _Searched)


def _read(answer: Answer | NoAnswer, kind: type[_Kind]) -> _Kind | None:
    if isinstance(answer, NoAnswer) or answer.status != HTTPStatus.OK:
        return None
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _authorization(settings: ElasticsearchSettings) -> dict[str, str]:
    if settings.api_key:
        return {"Authorization": f"ApiKey {settings.api_key}"}
    if settings.username:
        pair = base64.b64encode(f"{settings.username}:{settings.password}".encode()).decode()
        return {"Authorization": f"Basic {pair}"}
    return {}
