"""What `notify --dry-run` does instead: prints each request, sends none, and leaves no trace in Kafka."""

import json
from collections.abc import Callable
from http import HTTPStatus

from worker.edges.http_client import Answer, NoAnswer, Request
from worker.notify_settings import MASK, TargetSettings, origin_of

_SHOWN = ("content-type", "idempotency-key", "modelvigil-signature", "user-agent")


class PrintingSender:
    """Implements `ports.Sender`: every receiver takes everything.

    Args:
        target: whose requests they are.
        say: takes a text of several lines.
    """

    def __init__(self, target: TargetSettings, say: Callable[[str], None]) -> None:
        self._target = target
        self._say = say

    def post(self, request: Request) -> Answer | NoAnswer:
        """Print a request; what opens a door is masked."""
        headers = {name: text if name.lower() in _SHOWN else MASK for name, text in request.headers.items()}
        lines = [
            f"POST {origin_of(request.url)} ({self._target.name})",
            *(f"{name}: {text}" for name, text in headers.items()),
            "",
            json.dumps(json.loads(request.body), ensure_ascii=False, indent=2),
            "",
        ]
        self._say("\n".join(lines))
        return Answer(HTTPStatus.OK)
