"""A server that answers like Elasticsearch, as far as shipping asks, and can be made to fail in ways a real one cannot.

Its data streams refuse a repeat as real ones do: only within the index that is written to now.
"""

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

Document = tuple[str, str, dict[str, Any]]
"""Stream, id, source."""
Answer = tuple[int, Any]
Fault = Callable[["StubCluster", list[Document]], Answer | None]
"""Gets the documents of a bulk request; None: the connection is broken off."""


class StubCluster:
    """One server; each bulk request is answered as the next of `faults` says, well when there is none left."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.poison: set[str] = set()
        """Summaries of documents that are refused."""
        self.broken_pipeline = False
        self.bulk_s = 0.0
        """What a bulk request takes."""
        self.status = 0
        """What all is answered with, if not 0."""
        self.templates = True
        self.streams: dict[str, list[dict[str, dict[str, Any]]]] = {}
        """By name: documents of each index, by id."""
        self.bulks = 0
        self.hidden: set[str] = set()
        """Ids of documents that came since the last refresh: they are not found."""
        self.looked_up = 0
        self.authorizations: set[str | None] = set()
        self._lock = threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                stub.serve(self)

            do_GET = do_POST = do_PUT = _serve  # noqa: N815 - called by these names

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = server_at_free_port(Handler)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        """Listen no more."""
        self.server.shutdown()
        self.server.server_close()

    def roll_over(self) -> None:
        """Begin a new index in each stream."""
        with self._lock:
            for indices in self.streams.values():
                indices.append({})

    def stored(self, name: str) -> Counter[str]:
        """Return how many times each id is in a stream."""
        with self._lock:
            return Counter(each for index in self.streams.get(name, []) for each in index)

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer a request."""
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        self.authorizations.add(handler.headers.get("Authorization"))
        answer = (self.status, {"error": "as asked"}) if self.status else self._answer(handler, body)
        if answer is None:
            handler.close_connection = True
            return
        text = json.dumps(answer[1]).encode()
        handler.send_response(answer[0])
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)

    def _answer(self, handler: BaseHTTPRequestHandler, body: bytes) -> Answer | None:
        first, _, rest = urlsplit(handler.path).path.lstrip("/").partition("/")
        if first == "_bulk":
            return self._bulk(body)
        if first == "_data_stream":
            return self._data_stream(handler.command, rest)
        indices = [index for name in first.split(",") for index in self.streams[name]]
        if rest == "_count":
            with self._lock:
                count = sum(each not in self.hidden for index in indices for each in index)
            return 200, {"count": count, "_shards": {"failed": 0}}
        if rest == "_refresh":
            with self._lock:
                self.hidden.clear()
            return 200, {"_shards": {"failed": 0}}
        wanted = json.loads(body)["query"]["ids"]["values"]
        self.looked_up += len(wanted)
        with self._lock:
            seen = [each for each in wanted if each not in self.hidden]
            hits = [{"_id": each} for index in indices for each in seen if each in index]
        return 200, {"timed_out": False, "_shards": {"failed": 0}, "hits": {"hits": hits}}

    def _data_stream(self, method: str, name: str) -> Answer:
        if method == "GET":
            return (200, {}) if name in self.streams else (404, {})
        if not self.templates:
            return 400, {"error": {"reason": f"no matching index template found for data stream [{name}]"}}
        self.streams[name] = [{}]
        return 200, {"acknowledged": True}

    def _bulk(self, body: bytes) -> Answer | None:
        lines = [json.loads(line) for line in body.splitlines()]
        actions = [action["create"] for action in lines[::2]]
        documents = [(each["_index"], each["_id"], source) for each, source in zip(actions, lines[1::2], strict=True)]
        self.bulks += 1
        time.sleep(self.bulk_s)
        fault = self.faults.pop(0) if self.faults else StubCluster.take
        return fault(self, documents)

    def take(self, documents: list[Document]) -> Answer:
        """Answer a bulk request well."""
        results = [self._create(*document) for document in documents]
        return 200, {"errors": any("error" in each for each in results), "items": [{"create": r} for r in results]}

    def _create(self, name: str, document_id: str, source: dict[str, Any]) -> dict[str, Any]:
        if self.broken_pipeline:
            return _error(400, "illegal_argument_exception", "some setting of the index")
        if source["message"] in self.poison:
            return _error(400, "mapper_parsing_exception", "failed to parse")
        with self._lock:
            index = self.streams[name][-1]
            if document_id in index:
                return _error(409, "version_conflict_engine_exception", "document already exists")
            index[document_id] = source
            self.hidden.add(document_id)
        return {"status": 201}


def _error(status: int, kind: str, reason: str) -> dict[str, Any]:
    return {"status": status, "error": {"type": kind, "reason": reason}}


def refuse(status: int) -> Fault:
    """Take nothing, and say so."""
    return lambda _, __: (status, {"error": "as asked"})


def take_then(status: int | None, then: Callable[[StubCluster], object] = StubCluster.roll_over) -> Fault:
    """Take all, do something, and then say something else, or nothing."""

    def fault(cluster: StubCluster, documents: list[Document]) -> Answer | None:
        cluster.take(documents)
        then(cluster)
        return None if status is None else (status, {"error": "as asked"})

    return fault


def every_second(status: int, kind: str) -> Fault:
    """Take every second document."""

    def fault(cluster: StubCluster, documents: list[Document]) -> Answer | None:
        _, answer = cluster.take(documents[::2])
        items: list[Any] = [{"create": _error(status, kind, "as asked")} for _ in documents]
        items[::2] = answer["items"]
        return 200, {"errors": True, "items": items}

    return fault


def at_most(documents_max: int) -> Fault:
    """Refuse a request with more documents as too large."""

    def fault(cluster: StubCluster, documents: list[Document]) -> Answer | None:
        return (413, {"error": "too large"}) if len(documents) > documents_max else cluster.take(documents)

    return fault


def server_at_free_port(handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    """Return a server that runs, at a free port."""
    for port in range(23_000 + os.getpid() % 4_000, 32_000):
        try:
            server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        except OSError:
            continue
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server
    message = "no free port"
    raise RuntimeError(message)
