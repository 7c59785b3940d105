"""Tells Alertmanager again and again which incidents are open, so that it does not take them for resolved."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from worker.edges.kafka.arrived import Arrived
from worker.notify.alertmanager import Board
from worker.notify.filters import wants_incident
from worker.notify.messages import redacted, request
from worker.notify.ports import Health, Incidents, Sender
from worker.notify.records import Alert, UnreadableError
from worker.notify.retrying import Again, Done, GivenUp, Trouble, decide
from worker.notify_settings import TargetSettings
from worker.ports import Clock

ALERTS_MAX = 100
"""In one request."""
_OPEN = "open incidents"


class Log(Protocol):
    """Where it is told what happens; a structlog logger is one."""

    def info(self, event: str, /, **fields: object) -> object:
        """All is well."""
        ...

    def warning(self, event: str, /, **fields: object) -> object:
        """Nothing is lost."""
        ...

    def error(self, event: str, /, **fields: object) -> object:
        """Something is lost, or a person is needed."""
        ...


class ResendPorts(NamedTuple):
    """What it needs from outside."""

    incidents: Incidents
    sender: Sender
    clock: Clock
    health: Health


class Resending:
    """Keeps the board up to date, and posts what is on it every `resend_ms`.

    Args:
        board: what is open; shared with the courier of the same target, on the same thread.
        target: whom to tell.
        runbooks_url: where runbooks can be read.
        ports: Kafka, HTTP, clock.
        log: bound to the target.
        draw: random numbers in [0, 1), for pauses.
    """

    def __init__(
        self,
        board: Board,
        target: TargetSettings,
        runbooks_url: str,
        ports: ResendPorts,
        log: Log,
        draw: Callable[[], float],
    ) -> None:
        self._board = board
        self._target = target
        self._runbooks_url = runbooks_url
        self._ports = ports
        self._log = log
        self._draw = draw
        self._failures = 0
        self._left_out = 0
        self._due_ms = ports.clock.monotonic_ms()
        self.rounds = 0
        """Times that all open incidents were told."""

    def refresh(self) -> None:
        """Take what the topic `incidents` has brought. Raises SourceError."""
        self.begin(self._ports.incidents.fetch())

    def begin(self, records: Sequence[Arrived]) -> None:
        """Put records of the topic on the board."""
        for arrived in records:
            try:
                self._board.apply(arrived)
            except UnreadableError as error:
                self._log.warning(
                    "a record of the topic incidents is no alert",
                    partition=arrived.partition,
                    offset=arrived.offset,
                    reason=str(error),
                )
        if self._board.left_out > self._left_out:
            self._log.error("more incidents are open than open_max: not all of them are told again")
            self._left_out = self._board.left_out

    def step(self) -> None:
        """Tell all open incidents, if it is time."""
        now_ms = self._ports.clock.monotonic_ms()
        if now_ms < self._due_ms:
            return
        self._due_ms = now_ms + self._target.resend_ms
        wanted = [alert for alert in self._board.open_alerts() if wants_incident(self._target, alert.event)]
        for begin in range(0, len(wanted), ALERTS_MAX):
            if not self._told(wanted[begin : begin + ALERTS_MAX], begin // ALERTS_MAX):
                return
        self._failures = 0
        self._ports.health.worked(_OPEN)
        self.rounds += 1

    def _told(self, alerts: Sequence[Alert], part: int) -> bool:
        """Post a part of them; set the time of the next attempt if it fails."""
        now_ms = self._ports.clock.epoch_ms()
        lists = [self._board.request_of(alert, self._target, self._runbooks_url, now_ms) for alert in alerts]
        body = msgspec.json.encode([each for one in lists for each in one])
        key = f"open-{now_ms}-{part}/{self._target.name}"
        self._ports.health.beat()
        answer = self._ports.sender.post(request(self._target, body, key, now_ms))
        trouble = Trouble(self._failures)
        match decide(answer, trouble, self._target, draw=self._draw(), now_ms=now_ms):
            case Done():
                for alert in alerts:
                    self._board.took(alert)
                return True
            case Again(wait_ms, reason):
                self._due_ms = self._ports.clock.monotonic_ms() + wait_ms
                self._ports.health.failed(_OPEN)
                self._log.warning("open incidents were not told again", reason=redacted(reason, self._target))
            case GivenUp(reason):
                # Alertmanager takes those of a request that it can take. The next round says it again.
                self._log.error("open incidents are refused", reason=redacted(reason, self._target))
                return True
        self._failures += 1
        return False
