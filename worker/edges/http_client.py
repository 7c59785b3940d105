"""Sends one request over HTTP and tells what came back. Knows nothing of alerts, and never tries twice by itself.

Rule 1: nothing that is told holds the URL, a header or the body: the path of a webhook is often its password. Errors
of urllib3 hold them, so they are put into other words.
Rule 2: redirects are not followed: a body that is signed for one receiver is not for another.
Rule 3: certificates are verified, and no answer is read beyond what the caller needs.
"""

import logging
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Final, NamedTuple

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)

_EXCERPT_BYTES: Final = 2_048
_EXCERPT_CHARS: Final = 200
_PIECE_BYTES: Final = 262_144
_REDIRECTS_FROM: Final = 300
_DOUBLINGS_MAX: Final = 40
_FAILURES = (HTTPError, HTTPException, OSError, ValueError)
_NOT_CONNECTED = (NameResolutionError, NewConnectionError, ConnectTimeoutError)


class HttpClientError(Exception):
    """The client cannot be built; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to send, and where. None of it shows in `repr`."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    method: str = field(default="POST", repr=False)


class Answer(NamedTuple):
    """What the receiver said."""

    status: int
    retry_after: str | None = None
    """The header of this name, as it came."""
    excerpt: str = ""
    """The beginning of the body on one line; of an error only."""
    body: bytes = b""
    """Of `exchange` only."""


class NoAnswer(NamedTuple):
    """The receiver said nothing."""

    reason: str
    sent: bool = True
    """Whether it may have got the request: False where there was no connection."""


class HttpClient:
    """A client for one receiver; keeps connections open. All threads may use it.

    Args:
        timeout_ms: of connecting, of each wait for a part of the answer, and of the body as a whole.
        ca_file: certificates to trust instead of the system's; empty: the system's.
        connections: kept open to each address.
        addresses: that the receiver has.

    Raises:
        HttpClientError: the certificates cannot be read.
    """

    def __init__(self, *, timeout_ms: int, ca_file: str = "", connections: int = 1, addresses: int = 1) -> None:
        try:
            context = ssl.create_default_context(cafile=ca_file or None)
        except (OSError, ssl.SSLError) as error:
            raise HttpClientError(f"certificates cannot be read from {ca_file}: {error.strerror or error}") from None
        # At the level of debugging it writes each path (rule 1).
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        self._timeout_s = timeout_ms / 1000
        self._pool = urllib3.PoolManager(
            num_pools=addresses,
            maxsize=connections,
            ssl_context=context,
            timeout=urllib3.Timeout(connect=self._timeout_s, read=self._timeout_s),
        )

    def post(self, request: Request) -> Answer | NoAnswer:
        """Send a request once; of the answer the status counts."""
        try:
            response = self._sent(request)
        except _FAILURES as error:
            return _no_answer(error)
        excerpt = _excerpt(response)
        return Answer(response.status, response.headers.get("Retry-After"), "" if _succeeded(response) else excerpt)

    def exchange(self, request: Request, answer_bytes_max: int) -> Answer | NoAnswer:
        """Send a request once, and read the body of the answer, which may have so many bytes."""
        try:
            response = self._sent(request)
        except _FAILURES as error:
            return _no_answer(error)
        try:
            body = _whole(response, answer_bytes_max, time.monotonic() + self._timeout_s)
        except _FAILURES as error:
            response.close()
            return NoAnswer(_reason(error))
        if body is None:
            response.close()
            return NoAnswer("the answer is too long, or comes too slowly")
        response.release_conn()
        excerpt = "" if _succeeded(response) else _on_one_line(body[:_EXCERPT_BYTES])
        return Answer(response.status, response.headers.get("Retry-After"), excerpt, body)

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def _sent(self, request: Request) -> urllib3.BaseHTTPResponse:
        return self._pool.request(
            request.method,
            request.url,
            body=request.body,
            headers=request.headers,
            retries=False,
            redirect=False,
            preload_content=False,
            decode_content=False,
        )


def retry_after_ms(header: str | None, now_ms: int) -> int:
    """Return the pause that a receiver asks for; 0 if it asks for none, or for nothing that can be read.

    Args:
        header: its `Retry-After` (RFC 9110, section 10.2.3).
        now_ms: time of day, for one that is a date.
    """
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return int(text[:9]) * 1000
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return 0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0, int(moment.timestamp() * 1000) - now_ms)


def pause_ms(failures: int, first_ms: int, longest_ms: int, draw: float) -> int:
    """Return how long to wait before an attempt: exponential back-off with full jitter.

    Drawn from [0, first_ms * 2^failures), at most `longest_ms` (Brooker, "Exponential Backoff And Jitter", 2015).

    Args:
        failures: in a row before the one that has just happened.
        first_ms: bound of the first pause.
        longest_ms: bound of all.
        draw: a random number in [0, 1).
    """
    return int(draw * min(longest_ms, first_ms * 2 ** min(failures, _DOUBLINGS_MAX)))


def _succeeded(response: urllib3.BaseHTTPResponse) -> bool:
    return response.status < _REDIRECTS_FROM


def _whole(response: urllib3.BaseHTTPResponse, bytes_max: int, end_s: float) -> bytes | None:
    """Return the body; None if it is longer, or not there in time."""
    pieces: list[bytes] = []
    left = bytes_max
    while piece := response.read1(min(left + 1, _PIECE_BYTES)):
        pieces.append(piece)
        left -= len(piece)
        if left < 0 or time.monotonic() > end_s:
            return None
    return b"".join(pieces)


def _excerpt(response: urllib3.BaseHTTPResponse) -> str:
    """Return the beginning of the body. The connection is kept only if that was all of it."""
    try:
        begin = response.read1(_EXCERPT_BYTES)
        if not begin or response.length_remaining == 0:
            response.release_conn()
        else:
            response.close()
    except _FAILURES:
        # The status counts: what is broken off behind it is of no interest.
        response.close()
        return ""
    return _on_one_line(begin)


def _on_one_line(begin: bytes) -> str:
    text = " ".join(begin.decode(errors="replace").split())
    return "".join(character if character.isprintable() else "?" for character in text)[:_EXCERPT_CHARS]


def _no_answer(error: Exception) -> NoAnswer:
    return NoAnswer(_reason(error), sent=not isinstance(error, _NOT_CONNECTED))


def _reason(error: Exception) -> str:
    """Say what went wrong without the words of the library (rule 1)."""
    match error:
        case NameResolutionError():
            return "the name of the host is not known"
        # It is a kind of the next one.
        case NewConnectionError():
            return f"no connection{_cause(error)}"
        case ConnectTimeoutError():
            return "no connection in time"
        case ReadTimeoutError():
            return "no answer in time"
        case SSLError():
            return f"TLS: {_certificate(error)}"
        case _:
            return f"the connection broke{_cause(error)} ({type(error).__name__})"


def _causes(error: BaseException) -> list[BaseException]:
    """Return what is behind an error, as urllib3 hides it: in its arguments or as its cause."""
    found: list[BaseException] = []
    left = [error]
    while left and len(found) < 8:  # noqa: PLR2004 - a bound, never met
        each = left.pop()
        found.append(each)
        behind = (each.__cause__, each.__context__, *each.args)
        left += [one for one in behind if isinstance(one, BaseException) and one not in found]
    return found


def _cause(error: Exception) -> str:
    texts = [each.strerror for each in _causes(error) if isinstance(each, OSError) and isinstance(each.strerror, str)]
    return f": {texts[0]}" if texts else ""


def _certificate(error: Exception) -> str:
    causes = _causes(error)
    texts = [each.verify_message for each in causes if isinstance(each, ssl.SSLCertVerificationError)]
    reasons = [each.reason for each in causes if isinstance(each, ssl.SSLError) and each.reason]
    return next(iter([*texts, *reasons]), "handshake failed")
