"""Posts one request over HTTP and tells what came back. Knows nothing of alerts, and never tries twice by itself.

Rule 1: nothing that is told holds the URL, a header or the body: the path of a webhook is often its password. Errors
of urllib3 hold them, so they are put into other words.
Rule 2: redirects are not followed: a body that is signed for one receiver is not for another.
Rule 3: certificates are verified, and no answer is read beyond what a log line needs.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
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


class WebhookError(Exception):
    """The client cannot be built; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to post, and where. Only its length shows in `repr`."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class Answer(NamedTuple):
    """What the receiver said."""

    status: int
    retry_after: str | None = None
    """The header of this name, as it came."""
    excerpt: str = ""
    """The beginning of the body on one line; of an error only."""


class NoAnswer(NamedTuple):
    """The receiver said nothing: whether it has got the request is not known."""

    reason: str


class Webhook:
    """A client for one receiver; keeps one connection open.

    Args:
        timeout_ms: of connecting, and of each wait for a part of the answer.
        ca_file: certificates to trust instead of the system's; empty: the system's.

    Raises:
        WebhookError: the certificates cannot be read.
    """

    def __init__(self, *, timeout_ms: int, ca_file: str = "") -> None:
        try:
            context = ssl.create_default_context(cafile=ca_file or None)
        except (OSError, ssl.SSLError) as error:
            raise WebhookError(f"certificates cannot be read from {ca_file}: {error.strerror or error}") from None
        self._pool = urllib3.PoolManager(
            num_pools=1,
            maxsize=1,
            ssl_context=context,
            timeout=urllib3.Timeout(connect=timeout_ms / 1000, read=timeout_ms / 1000),
        )

    def post(self, request: Request) -> Answer | NoAnswer:
        """Send a request once."""
        try:
            response = self._pool.request(
                "POST",
                request.url,
                body=request.body,
                headers=request.headers,
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        except (HTTPError, HTTPException, OSError, ValueError) as error:
            return NoAnswer(_reason(error))
        excerpt = _excerpt(response)
        return Answer(response.status, response.headers.get("Retry-After"), excerpt if response.status >= 300 else "")  # noqa: PLR2004 - 2xx is success

    def close(self) -> None:
        """Close the connection."""
        self._pool.clear()


def _excerpt(response: urllib3.BaseHTTPResponse) -> str:
    """Return the beginning of the body. The connection is kept only if that was all of it."""
    try:
        begin = response.read1(_EXCERPT_BYTES)
        if not begin or response.length_remaining == 0:
            response.release_conn()
        else:
            response.close()
    except (HTTPError, HTTPException, OSError, ValueError):
        # The status counts: what is broken off behind it is of no interest.
        response.close()
        return ""
    text = " ".join(begin.decode(errors="replace").split())
    return "".join(character if character.isprintable() else "?" for character in text)[:_EXCERPT_CHARS]


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
