"""What `ship elasticsearch --dry-run` does instead: prints each document, sends none, and leaves no trace in Kafka."""

import json
from collections.abc import Callable, Sequence
from http import HTTPStatus

from worker.edges.http_client import Answer, NoAnswer
from worker.ship.cluster import Failed, Found


class PrintingCluster:
    """Implements `settling.ClusterPort`: takes everything, and has nothing.

    Args:
        say: takes a text of several lines.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def create(self, body: bytes) -> Answer | NoAnswer:
        """Print the documents of a bulk request."""
        lines = body.splitlines()
        for action, source in zip(lines[::2], lines[1::2], strict=True):
            place = json.loads(action)["create"]
            document = json.dumps(json.loads(source), ensure_ascii=False, indent=2)
            self._say(f"{place['_index']} {place['_id']}\n{document}\n")
        results = ",".join(['{"create":{"status":201}}'] * (len(lines) // 2))
        return Answer(HTTPStatus.OK, body=f'{{"errors":false,"items":[{results}]}}'.encode())

    def look_up(self, streams: Sequence[str], ids: Sequence[str]) -> Found | Failed:  # noqa: ARG002 - as the others
        """Find nothing."""
        return Found(frozenset())
