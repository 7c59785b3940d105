"""The HTTP client of `notify`, against a receiver on this machine that behaves badly."""

import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from worker.edges.http_client import Answer, HttpClient, HttpClientError, NoAnswer, Request

HIDDEN = "sEcReT"
_PORTS = range(21_000, 32_000)
Behaviour = Callable[[socket.socket], None]


@contextmanager
def _receiver(*behaviours: Behaviour, wrap: ssl.SSLContext | None = None) -> Iterator[tuple[str, list[bytes]]]:
    """Serve one connection for each behaviour, in order; give the address and what came, by connection.

    A connection whose handshake fails, or that asks for nothing, counts for nothing: a client of another test may still
    be trying the port that was its server's.
    """
    listener = _listener()
    came: list[bytes] = []

    def serve() -> None:
        left = deque(behaviours)
        while left and (connection := _accepted(listener, wrap)) is not None:
            with connection:
                connection.settimeout(5)
                if request := _read_request(connection):
                    came.append(request)
                    left.popleft()(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/T0/{HIDDEN}", came
    finally:
        listener.close()
        thread.join(5)


def _accepted(listener: socket.socket, wrap: ssl.SSLContext | None) -> socket.socket | None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return None
        if wrap is None:
            return connection
        try:
            return wrap.wrap_socket(connection, server_side=True)
        except OSError:
            connection.close()


def _listener() -> socket.socket:
    for port in _PORTS:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            listener.close()
            continue
        listener.listen()
        return listener
    pytest.fail("no free port")


def _read_request(connection: socket.socket) -> bytes:
    got = b""
    while b"\r\n\r\n" not in got or not got.endswith(b"}"):
        try:
            piece = connection.recv(65_536)
        except TimeoutError:
            return b""
        if not piece:
            break
        got += piece
    return got


def _says(text: str) -> Behaviour:
    return lambda connection: connection.sendall(text.replace("\n", "\r\n").encode())


def _breaks_off(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_RDWR)


def _is_silent(connection: socket.socket) -> None:
    connection.recv(1)


def _post(url: str, timeout_ms: int = 2_000) -> Answer | NoAnswer:
    client = HttpClient(timeout_ms=timeout_ms)
    try:
        return client.post(Request(url, {"X-Key": "k1", "Content-Type": "application/json"}, b'{"a":1}'))
    finally:
        client.close()


def test_the_body_and_the_headers_arrive_as_they_are() -> None:
    """A signature is over these bytes."""
    with _receiver(_says("HTTP/1.1 204 No Content\n\n")) as (url, came):
        assert _post(url) == Answer(204)
    head, _, body = came[0].partition(b"\r\n\r\n")
    assert body == b'{"a":1}'
    assert head.startswith(f"POST /T0/{HIDDEN} HTTP/1.1\r\n".encode())
    assert b"X-Key: k1" in head


def test_an_error_is_told_with_its_beginning_and_the_wish_for_a_pause() -> None:
    """On one line, and not more than a log line needs."""
    with _receiver(_says(f"HTTP/1.1 429 Slow\nRetry-After: 7\nContent-Length: 500\n\nslow\tdown\n{'x' * 488}")) as (
        url,
        _,
    ):
        answer = _post(url)
    assert isinstance(answer, Answer)
    assert (answer.status, answer.retry_after, answer.excerpt[:11]) == (429, "7", "slow down x")
    assert len(answer.excerpt) == 200


def test_a_redirect_is_not_followed() -> None:
    """What is signed for one receiver is not for another."""
    with _receiver(_says("HTTP/1.1 307 Over There\nLocation: http://127.0.0.1:1/\nContent-Length: 0\n\n")) as (
        url,
        came,
    ):
        assert _post(url) == Answer(307)
        assert len(came) == 1


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (_breaks_off, "the connection broke"),
        (_is_silent, "no answer in time"),
        (_says("nonsense\n\n"), "the connection broke"),
    ],
)
def test_a_broken_exchange_is_no_answer(behaviour: Behaviour, reason: str) -> None:
    """It is tried once only: trying again is not the client's to decide."""
    with _receiver(behaviour) as (url, came):
        answer = _post(url, 500)
        assert isinstance(answer, NoAnswer)
        assert answer.reason.startswith(reason)
        assert len(came) == 1


def test_nobody_there_is_no_answer_and_says_no_address() -> None:
    """The path of a webhook is its password: no reason holds it."""
    for url in (f"http://127.0.0.1:1/{HIDDEN}", f"http://no-such-host.invalid/{HIDDEN}", f"http://[::bad/{HIDDEN}"):
        answer = _post(url)
        assert isinstance(answer, NoAnswer)
        assert HIDDEN not in answer.reason
    assert isinstance(answer := _post("http://127.0.0.1:1/"), NoAnswer)
    assert answer.reason == "no connection: Connection refused"


def test_tls_to_somebody_who_speaks_none_is_told() -> None:
    """Not a traceback."""
    with _receiver(_says("HTTP/1.1 200 OK\n\n")) as (url, _):
        answer = _post(url.replace("http:", "https:"), 300)
    assert isinstance(answer, NoAnswer)
    assert HIDDEN not in answer.reason


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_certificates_are_verified(tmp_path: Path) -> None:
    """Nobody can read alerts by standing in between; a certificate of one's own is named by `ca_file`."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    make += ["-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost"]
    subprocess.run([*make, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    with _receiver(_says("HTTP/1.1 204 No Content\n\n"), wrap=context) as (plain, _):
        url = plain.replace("http:", "https:")
        refused = _post(url)
        assert isinstance(refused, NoAnswer)
        assert refused.reason == "TLS: self-signed certificate"
        client = HttpClient(timeout_ms=2_000, ca_file=str(certificate))
        assert client.post(Request(url, {}, b"{}")) == Answer(204)
        client.close()


def test_an_endless_answer_is_not_read() -> None:
    """A receiver cannot fill the memory, or hold the client for ever."""

    def endless(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                connection.sendall(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
        except OSError:
            return

    with _receiver(endless) as (url, _):
        began = time.monotonic()
        answer = _post(url)
        assert time.monotonic() - began < 1.5
    assert answer == Answer(500, None, "x" * 200)


def test_certificates_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """At the start, not at the first alert."""
    with pytest.raises(HttpClientError, match=r"nowhere\.pem: No such file"):
        HttpClient(timeout_ms=1_000, ca_file=str(tmp_path / "nowhere.pem"))
    (tmp_path / "empty.pem").write_text("nothing")
    with pytest.raises(HttpClientError, match=r"cannot be read from .*empty\.pem"):
        HttpClient(timeout_ms=1_000, ca_file=str(tmp_path / "empty.pem"))


def test_a_request_hides_what_it_holds() -> None:
    """In a traceback, for example."""
    assert repr(Request(f"http://h/{HIDDEN}", {"a": HIDDEN}, HIDDEN.encode())) == "Request()"
