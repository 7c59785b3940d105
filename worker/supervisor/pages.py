"""What all members say on their pages, as one page each.

`/metrics` has every sample of every member that answers, with the label `process`, and the supervisor's own.
`/readyz` is good when each member is ready; `/healthz` is good while the supervisor works: what a member needs is its
business.
"""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from worker.edges.ops_http import Answer, Page, json_answer
from worker.edges.telemetry import CONTENT_TYPE, Metric
from worker.supervisor.asking import Reply, ask
from worker.supervisor.exposition import merged
from worker.supervisor.member import Member, State, Status

PROCESSES = Metric("processes", "gauge", "Worker processes by whether they run or wait to be started", ("state",))
PROCESS_RESTARTS = Metric(
    "process_restarts_total", "counter", "Times that a worker process was started again", ("process",)
)
PROCESS_UP = Metric(
    "process_up", "gauge", "1 when a worker process has answered this scrape; else it has no samples", ("process",)
)
DECLARED = (PROCESSES, PROCESS_RESTARTS, PROCESS_UP)
"""The supervisor's own metrics. Every sample of a worker has the label `process`, too."""
_BEAT_S_MAX = 30.0
"""A turn takes a second at most when a member does not answer, and a stop goes on in turns, too."""
_OK, _UNAVAILABLE = 200, 503


class Pages:
    """Makes the pages.

    Args:
        statuses: how all members are.
        beat_age_s: how long ago the supervisor last did its round.
    """

    def __init__(self, statuses: Callable[[], Sequence[Status]], beat_age_s: Callable[[], float]) -> None:
        self._statuses = statuses
        self._beat_age_s = beat_age_s

    def by_path(self) -> dict[str, Page]:
        """Return all pages."""
        return {"/metrics": self.metrics, "/healthz": self.healthz, "/readyz": self.readyz}

    def metrics(self) -> Answer:
        """Return the samples of all."""
        statuses = self._statuses()
        replies = _asked(statuses, "/metrics")
        texts = {
            status.number: reply.body.decode(errors="replace")
            for status, reply in zip(statuses, replies, strict=True)
            if reply is not None and reply.status == _OK
        }
        own = "".join(line + "\n" for line in _own_metrics(statuses, texts.keys()))
        return Answer(_OK, CONTENT_TYPE, (merged(texts) + own).encode())

    def healthz(self) -> Answer:
        """Say whether the supervisor works."""
        age_s = self._beat_age_s()
        return json_answer(_OK if age_s <= _BEAT_S_MAX else _UNAVAILABLE, heartbeat_age_seconds=round(age_s, 1))

    def readyz(self) -> Answer:
        """Say whether all members are ready; those that are not say why."""
        statuses = self._statuses()
        processes = {
            str(status.number): _readiness(status, reply)
            for status, reply in zip(statuses, _asked(statuses, "/readyz"), strict=True)
        }
        ready = all(each["ready"] for each in processes.values())
        return json_answer(_OK if ready else _UNAVAILABLE, ready=ready, processes=processes)


def is_past_start(member: Member) -> bool:
    """Whether a member has loaded its kernels and reached Kafka."""
    reason = _reason(member)
    return reason is not None and not reason.startswith("starting")


def is_spare(member: Member) -> bool:
    """Whether a member works, and the group has nothing for it to do."""
    reason = _reason(member)
    return reason is not None and reason.startswith("spare")


def _reason(member: Member) -> str | None:
    """Return what a member says of its readiness (`telemetry.Readiness.reason`); None if it says nothing."""
    reply = ask(member.socket, "/readyz")
    return None if reply is None else _fields(reply).get("reason")


def _own_metrics(statuses: Sequence[Status], answered: Collection[int]) -> Iterator[str]:
    """Return the supervisor's own lines."""
    running = sum(status.state is not State.WAITING for status in statuses)
    by_process = [(str(status.number), status) for status in statuses]
    samples = {
        PROCESSES: {"running": running, "waiting": len(statuses) - running},
        PROCESS_RESTARTS: {number: status.restarts for number, status in by_process},
        PROCESS_UP: {number: int(status.number in answered) for number, status in by_process},
    }
    for metric, values in samples.items():
        yield f"# HELP {metric.full_name} {metric.help}."
        yield f"# TYPE {metric.full_name} {metric.kind}"
        for value_of_label, value in values.items():
            yield f'{metric.full_name}{{{metric.labels[0]}="{value_of_label}"}} {value}'


def _asked(statuses: Sequence[Status], page: str) -> list[Reply | None]:
    """Ask all members that run at the same time."""

    def answer(status: Status) -> Reply | None:
        return None if status.state is State.WAITING else ask(status.socket, page)

    with ThreadPoolExecutor(len(statuses), "ask") as threads:
        return list(threads.map(answer, statuses))


def _readiness(status: Status, reply: Reply | None) -> dict[str, Any]:
    """Return what a member says of itself, or what is known of one that says nothing."""
    if status.state is State.WAITING:
        return {"ready": False, "reason": status.reason}
    if reply is None:
        return {"ready": False, "reason": "does not answer"}
    return {**_fields(reply), "ready": reply.status == _OK}


def _fields(reply: Reply) -> dict[str, Any]:
    """Return the object that an answer holds; an empty one if it holds none."""
    try:
        found = json.loads(reply.body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
