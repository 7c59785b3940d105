"""A small HTTP server for operators: a few fixed pages, read-only, beside the work of the process.

Rule 1: it is no way in: GET and HEAD of the pages it was given, nothing else; a request's body is never read.
Rule 2: whoever floods it or is slow costs at most `_CONNECTIONS_MAX` threads for `_SECONDS_MAX` each way.
Rule 3: the work of the process never waits for it: pages are made in threads of their own, which end with the process.

    pages = {"/metrics": metrics_page, "/healthz": health_page}
    with OpsServer(settings.ops, pages, log.warning) as server:
        log.info("metrics", url=server.url)
"""

import errno
import gzip
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from pathlib import Path
from socketserver import BaseServer, TCPServer, ThreadingMixIn, UnixStreamServer
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import orjson

from worker.ops_settings import PORT, OpsSettings

_CONNECTIONS_MAX = 8
_SECONDS_MAX = 5.0
"""For a whole request to come, and for a whole answer to be taken."""
_HEAD_BYTES_MAX = 8_192
_GZIP_BYTES_MIN = 1_024
_GZIP_LEVEL = 3
"""Three quarters of what level 9 saves, for a fifth of its time."""
_STOP_POLL_S = 0.1
_TEXT = "text/plain; charset=utf-8"
_SOCKET_PATH_BYTES_MAX = 107
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class OpsServerError(Exception):
    """The server cannot be opened; the message says why and what to do."""


class Answer(NamedTuple):
    """What a page says."""

    status: int
    content_type: str
    body: bytes


Page = Callable[[], Answer]
"""Makes an answer when it is asked for; called in a thread of its own, several at once."""


def json_answer(status: int, /, **fields: object) -> Answer:
    """Return an answer that is one JSON object."""
    return Answer(status, "application/json", orjson.dumps(fields, default=str) + b"\n")


class OpsServer:
    """Serves pages from the beginning of a `with` until its end.

    Args:
        settings: where to listen. With port -1 (the default) a default port that is taken is no error: `url` is None.
        pages: what there is, by path.
        warn: takes one line about something that is wrong.
        default_port: what -1 stands for.
        prefix: of the settings' names, for messages.
    """

    def __init__(
        self,
        settings: OpsSettings,
        pages: Mapping[str, Page],
        warn: Callable[[str], None],
        *,
        default_port: int = PORT,
        prefix: str = "ops.",
    ) -> None:
        self._settings = settings
        self._default_port = default_port
        self._prefix = prefix
        self._handler = partial(_Handler, pages=dict(pages), warn=warn)
        self._warn = warn
        self._server: _HttpServer | _UnixHttpServer | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Begin. Raises OpsServerError."""
        self._server = self._opened()
        if self._server is not None:
            self._thread = threading.Thread(
                target=self._server.serve_forever, args=(_STOP_POLL_S,), name="ops-http", daemon=True
            )
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        if self._settings.socket:
            Path(self._settings.socket).unlink(missing_ok=True)
        self._server = self._thread = None

    @property
    def url(self) -> str | None:
        """Where it can be reached; None: nowhere."""
        if self._server is None:
            return None
        if self._settings.socket:
            return f"unix:{self._settings.socket}"
        host, port = self._server.socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def _opened(self) -> "_HttpServer | _UnixHttpServer | None":
        settings = self._settings
        if settings.socket:
            return _unix_server(Path(settings.socket), self._handler, self._prefix)
        if settings.port == 0:
            return None
        if settings.port > 0:
            return _tcp_server(settings.listen, settings.port, self._handler, self._prefix)
        try:
            return _tcp_server(settings.listen, self._default_port, self._handler, self._prefix)
        except _PortTakenError:
            self._warn(
                f"port {self._default_port} is taken: no metrics are served; "
                f"set {self._prefix}port, or 0 if that is wanted"
            )
            return None


class _PortTakenError(OpsServerError):
    """Somebody listens there already."""


def _tcp_server(listen: str, port: int, handler: Callable[..., "_Handler"], prefix: str) -> "_HttpServer":
    try:
        family, _, _, _, address = socket.getaddrinfo(
            listen or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return _HttpServer(family, address[:2], handler)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise _PortTakenError(f"{prefix}port: port {port} of {listen} is taken: choose another one, or 0") from None
        reason = error.strerror or str(error)
        raise OpsServerError(f"{prefix}listen: cannot listen at {listen}, port {port}: {reason}") from None


def _unix_server(path: Path, handler: Callable[..., "_Handler"], prefix: str) -> "_UnixHttpServer":
    """Listen at a socket that only this user reaches. One that a killed process has left is replaced."""
    if len(os.fsencode(path)) > _SOCKET_PATH_BYTES_MAX:
        raise OpsServerError(f"{prefix}socket: the path may have {_SOCKET_PATH_BYTES_MAX} bytes: choose a shorter one")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_abandoned(path)
        server = _UnixHttpServer(str(path), handler)
        path.chmod(0o600)
    except OSError as error:
        raise OpsServerError(f"{prefix}socket: cannot listen at {path}: {error.strerror or error}") from None
    return server


def _remove_abandoned(path: Path) -> None:
    """Remove a socket that nobody listens at; anything else is left alone and is an error of the caller's `bind`."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)


class _Bounded(ThreadingMixIn):
    """A thread for each connection, up to a number; those beyond it are told to come again."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 16

    def __init__(self) -> None:
        self._free = threading.BoundedSemaphore(_CONNECTIONS_MAX)

    def get_request(self) -> Any:  # noqa: ANN401 - as in socketserver
        """Take a connection. Where that fails it stays in the queue, and would be asked for again at once."""
        try:
            return super().get_request()  # type: ignore[misc]  # of the server it is mixed into
        except OSError:  # this process has no file descriptor left, say
            time.sleep(_STOP_POLL_S)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as in socketserver
        if self._free.acquire(blocking=False):
            try:
                super().process_request(request, client_address)
            except RuntimeError:  # no thread can be started
                self._free.release()
                self.shutdown_request(request)  # type: ignore[attr-defined]  # of the server it is mixed into
            return
        with suppress(OSError):
            request.settimeout(0)
            request.send(_BUSY)
        self.shutdown_request(request)  # type: ignore[attr-defined]  # as above

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as in socketserver
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: what can fail here is the connection, and its other end knows."""


class _HttpServer(_Bounded, TCPServer):
    allow_reuse_address = True

    def __init__(self, family: int, address: tuple[Any, ...], handler: Callable[..., "_Handler"]) -> None:
        _Bounded.__init__(self)
        self.address_family = family
        TCPServer.__init__(self, address, handler)


class _UnixHttpServer(_Bounded, UnixStreamServer):
    def __init__(self, path: str, handler: Callable[..., "_Handler"]) -> None:
        _Bounded.__init__(self)
        UnixStreamServer.__init__(self, path, handler)


class _Handler(BaseHTTPRequestHandler):
    """Answers one request of one connection, then closes it."""

    protocol_version = "HTTP/1.1"
    timeout = _SECONDS_MAX

    def __init__(
        self,
        request: socket.socket,
        client_address: object,
        server: BaseServer,
        *,
        pages: Mapping[str, Page],
        warn: Callable[[str], None],
    ) -> None:
        self._pages = pages
        self._warn = warn
        super().__init__(request, client_address, server)

    def setup(self) -> None:
        super().setup()
        self.rfile = BytesIO(_head(self.connection))
        self.connection.settimeout(_SECONDS_MAX)

    def handle(self) -> None:
        self.close_connection = True
        self.handle_one_request()

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        path = urlsplit(self.path).path
        page = self._pages.get(path)
        if page is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        try:
            answer = page()
        except Exception as error:  # noqa: BLE001 - a page that fails must not take others with it
            self._warn(f"the page {path} could not be made: {type(error).__name__}: {error}")
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)
            return
        self._send(answer, with_body=with_body)

    def _send(self, answer: Answer, *, with_body: bool, **headers: str) -> None:
        body = answer.body
        if len(body) >= _GZIP_BYTES_MIN and "gzip" in self.headers.get("Accept-Encoding", ""):
            body = gzip.compress(body, _GZIP_LEVEL)
            headers["Content-Encoding"] = "gzip"
        self.send_response_only(answer.status)
        headers |= {"Content-Type": answer.content_type, "Content-Length": str(len(body)), "Connection": "close"}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002 - as in http.server
        """Answer in one line that repeats nothing of the request."""
        headers = {}
        if code == HTTPStatus.NOT_IMPLEMENTED:
            code, headers = HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET, HEAD"}
        text = f"{int(code)} {HTTPStatus(code).phrase}\n".encode()
        self._send(Answer(code, _TEXT, text), with_body=self.command != "HEAD", **headers)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in http.server
        """Say nothing: probes and scrapes come all the time."""


def _head(connection: socket.socket) -> bytes:
    """Read until the end of the headers; nothing where that does not come in time, or too late in the request."""
    until_s = time.monotonic() + _SECONDS_MAX
    head = b""
    with suppress(OSError):
        while len(head) < _HEAD_BYTES_MAX:
            connection.settimeout(max(until_s - time.monotonic(), 0.001))
            piece = connection.recv(_HEAD_BYTES_MAX - len(head))
            head += piece
            if b"\r\n\r\n" in head:
                return head
            if not piece:
                break
    return b""
