"""The HTTP server for operators: what it answers, what it refuses, and that nobody can hold it up."""

import errno
import gzip
import http.client
import socket
import socketserver
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from worker.edges import ops_http
from worker.edges.ops_http import Answer, OpsServer, OpsServerError, json_answer
from worker.ops_settings import OpsSettings

PORTS = iter(range(29_464, 29_600))
LONG = b"x" * 5_000


def free_port() -> int:
    """Return a port that nobody listens at."""
    for port in PORTS:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no port is free")


def broken() -> Answer:
    """Fail."""
    raise ValueError("no such thing")


PAGES = {
    "/short": lambda: json_answer(503, reason="ö"),
    "/long": lambda: Answer(200, "text/plain", LONG),
    "/broken": broken,
}


@pytest.fixture
def warned() -> list[str]:
    """What the server warned of."""
    return []


@pytest.fixture
def port(warned: list[str]) -> Iterator[int]:
    """A server at this port."""
    port = free_port()
    with OpsServer(OpsSettings(port=port), PAGES, warned.append) as server:
        assert server.url == f"http://127.0.0.1:{port}"
        yield port


def asked(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    """Return status, body and headers of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    found = answer.status, answer.read(), dict(answer.getheaders())
    connection.close()
    return found


def raw(port: int, request: bytes) -> bytes:
    """Return whatever comes back for some bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(4096), b""))


def test_pages_are_answered_with_their_status_and_type(port: int) -> None:
    """A query string does not matter; HEAD has the length and no body; nothing tells what the server is made of."""
    status, body, headers = asked(port, "/short?x=1")
    assert (status, body, headers["Content-Type"]) == (503, '{"reason":"ö"}\n'.encode(), "application/json")
    status, body, headers = asked(port, "/long", "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, b"", "5000")
    assert "Server" not in headers


def test_long_pages_are_compressed_for_those_who_ask_for_it(port: int) -> None:
    """Prometheus does; a probe does not."""
    _, body, headers = asked(port, "/long", Accept_Encoding="deflate, gzip")
    assert headers["Content-Encoding"] == "gzip"
    assert int(headers["Content-Length"]) == len(body) < len(LONG)
    assert gzip.decompress(body) == LONG
    assert "Content-Encoding" not in asked(port, "/short", Accept_Encoding="gzip")[2]
    assert asked(port, "/long")[1] == LONG


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/", "GET", 404),
        ("/shor", "GET", 404),
        ("/short/", "GET", 404),
        ("/../../etc/passwd", "GET", 404),
        ("/short", "POST", 405),
        ("/short", "DELETE", 405),
    ],
)
def test_nothing_else_is_served(port: int, path: str, method: str, status: int) -> None:
    """No other path, no other method; the answer repeats nothing of the question."""
    answer = asked(port, path, method)
    assert answer[0] == status
    assert answer[1].startswith(str(status).encode())
    assert b"passwd" not in answer[1]
    assert answer[2].get("Allow") == ("GET, HEAD" if status == 405 else None)


@pytest.mark.parametrize("request_line", [b"GET / HTTP/9.9", b"rubbish", b"\x16\x03\x01", b"GET"])
def test_what_is_no_request_gets_an_error_or_nothing(port: int, request_line: bytes) -> None:
    """And the next one is served."""
    answer = raw(port, request_line + b"\r\n\r\n")
    assert b" 200 " not in answer.partition(b"\r\n")[0]
    assert asked(port, "/short")[0] == 503


def test_a_page_that_fails_is_told_here_and_not_there(port: int, warned: list[str]) -> None:
    """Who asks learns that it failed, the log learns why."""
    status, body, _ = asked(port, "/broken")
    assert (status, body) == (500, b"500 Internal Server Error\n")
    assert warned == ["the page /broken could not be made: ValueError: no such thing"]


def test_a_request_that_is_too_long_or_too_slow_is_dropped(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory and time are bounded for each: a byte now and then does not keep a connection."""
    monkeypatch.setattr(ops_http, "_SECONDS_MAX", 0.3)
    with suppress(ConnectionResetError):  # it is closed with bytes unread
        assert raw(port, b"GET /short HTTP/1.1\r\nX: " + b"x" * 20_000) == b""
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=0.05) as slow, suppress(ConnectionError):
        while _is_open(slow):
            assert time.monotonic() - begun < 5.0
            slow.sendall(b"G")


def _is_open(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) != b""
    except TimeoutError:
        return True


def test_more_connections_than_threads_are_sent_away(port: int) -> None:
    """Those beyond the bound get 503 at once, and when the others have gone the server is as before."""
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(ops_http._CONNECTIONS_MAX)]
    end = time.monotonic() + 5
    while not (answer := raw(port, b"")).startswith(b"HTTP/1.1 503"):
        assert time.monotonic() < end, answer
    for each in idle:
        each.close()
    while asked(port, "/long")[0] != 200:
        assert time.monotonic() < end
    assert threading.active_count() < 50


def test_a_process_without_file_descriptors_does_not_spin(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that cannot be taken is asked for now and then, and served as soon as that works again."""
    tries: list[object] = []

    def fail(server: object) -> None:
        tries.append(server)
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(socketserver.TCPServer, "get_request", fail)
        with socket.create_connection(("127.0.0.1", port), timeout=10) as waiting:
            waiting.sendall(b"GET /long HTTP/1.1\r\n\r\n")
            time.sleep(0.5)
            patched.undo()
            assert waiting.recv(12) == b"HTTP/1.1 200"
    assert 0 < len(tries) < 10


def test_ipv6(warned: list[str]) -> None:
    """An address with colons is one of IPv6; the URL has brackets."""
    with OpsServer(OpsSettings(listen="::1", port=(port := free_port())), PAGES, warned.append) as server:
        assert server.url == f"http://[::1]:{port}"
        with socket.create_connection(("::1", port), timeout=10) as connection:
            connection.sendall(b"GET /short HTTP/1.1\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 503"


def test_a_port_that_is_taken(warned: list[str]) -> None:
    """One that was asked for must be free; of the default one it is only said. 0 is none."""
    port = free_port()
    with OpsServer(OpsSettings(), PAGES, warned.append, default_port=port) as server:
        assert server.url == f"http://127.0.0.1:{port}"
        with OpsServer(OpsSettings(), PAGES, warned.append, default_port=port, prefix="x.ops_") as second:
            assert second.url is None
        assert "set x.ops_port" in warned[0]
        assert [line.split(":")[0] for line in warned] == [f"port {port} is taken"]
        with pytest.raises(OpsServerError, match=f"port {port} of 127.0.0.1 is taken"):
            OpsServer(OpsSettings(port=port), PAGES, warned.append).__enter__()
    with OpsServer(OpsSettings(port=0), PAGES, warned.append) as server:
        assert server.url is None
    with OpsServer(OpsSettings(port=port), PAGES, warned.append) as server:
        assert server.url is not None  # it was closed
    with pytest.raises(OpsServerError, match=r"cannot listen at 192\.0\.2\.1"):
        OpsServer(OpsSettings(listen="192.0.2.1", port=port), PAGES, warned.append).__enter__()


def test_a_unix_socket_is_for_its_user_alone(tmp_path: Path, warned: list[str]) -> None:
    """A file that is abandoned is replaced, one in use or of another kind is not; it goes with its server."""
    path = tmp_path / "new" / "ops"
    settings = OpsSettings(socket=str(path))
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(str(path))
    with OpsServer(settings, PAGES, warned.append) as server:
        assert server.url == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(path))
            client.sendall(b"GET /short HTTP/1.1\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.1 503"
        with pytest.raises(OpsServerError, match="cannot listen at"):
            OpsServer(settings, PAGES, warned.append).__enter__()
    assert not path.exists()
    path.write_text("mine")
    with pytest.raises(OpsServerError, match="cannot listen at"):
        OpsServer(settings, PAGES, warned.append).__enter__()
    assert path.read_text() == "mine"
    with pytest.raises(OpsServerError, match="shorter"):
        OpsServer(OpsSettings(socket=str(tmp_path / ("x" * 200))), PAGES, warned.append).__enter__()
