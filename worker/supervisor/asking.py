"""Asks a member for one of its pages, over its Unix socket."""

import socket
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import NamedTuple

ASK_S = 1.0
"""For a whole answer: what is not there in time is left out."""
_BYTES_MAX = 64_000_000
_PIECE_BYTES = 65_536


class Reply(NamedTuple):
    """What a member said."""

    status: int
    body: bytes


def ask(path: Path, page: str, within_s: float = ASK_S) -> Reply | None:
    """Return a member's page; None if it does not answer, or not in time."""
    until_s = time.monotonic() + within_s
    connection = _Connection(path, within_s)
    try:
        connection.request("GET", page)
        response = connection.getresponse()
        body = bytearray()
        while piece := response.read1(_PIECE_BYTES):
            body += piece
            left_s = until_s - time.monotonic()
            if left_s <= 0 or len(body) > _BYTES_MAX:
                return None
            if connection.sock is not None:
                connection.sock.settimeout(left_s)
        # `read1` does not say that a body ended early.
        return Reply(response.status, bytes(body)) if not response.length else None
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


class _Connection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
