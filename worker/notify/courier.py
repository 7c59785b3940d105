"""Brings alerts to one target, in the order of each partition.

Rule 1: the position behind a record is committed only when the target has it, or Kafka has it as a dead letter, or the
target does not want it. So every alert is delivered at least once; a repeat has the same idempotency key.
Rule 2: nothing is given up without an ERROR and a dead letter.
Rule 3: while a record waits for its next attempt, the group is served and open incidents are told.

    next -> wanted? -> attempt -> done ----------------> commit
              |           |--- again -> wait -> attempt
              |           +--- give up -> dead letter -> commit
              +-- no -> passed over
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from worker.edges.http_client import Request
from worker.edges.kafka.arrived import Arrived
from worker.notify.alertmanager import Board
from worker.notify.filters import wants
from worker.notify.messages import idempotency_key, redacted, request, slack_body, webhook_body
from worker.notify.ports import CourierPorts
from worker.notify.records import Alert, UnreadableError, read
from worker.notify.resending import Log, Resending
from worker.notify.retrying import Again, Done, GivenUp, Trouble, decide
from worker.notify_settings import TargetSettings

REFUSED = "delivery_refused"
"""A dead letter's reason: the target refuses this alert, or has taken nothing for `give_up_ms`."""
UNREADABLE = "delivery_unreadable"
"""A dead letter's reason: a record of the topic `alerts` is no alert."""
_TELL_AGAIN_MS = 300_000
_STEPS = "alerts"


@dataclass(slots=True)
class Counts:
    """What became of records so far."""

    delivered: int = 0
    given_up: int = 0
    passed_over: int = 0
    attempts: int = 0


class Composer:
    """Makes the request for a step, of a target of any kind; `board` is for Alertmanager alone."""

    def __init__(self, target: TargetSettings, runbooks_url: str, board: Board | None) -> None:
        self._target = target
        self._runbooks_url = runbooks_url
        self._board = board

    def request_of(self, alert: Alert, now_ms: int) -> Request:
        """Return the request of this moment: each attempt is signed anew, under the key of the step."""
        return request(self._target, self._body(alert, now_ms), idempotency_key(self._target, alert), now_ms)

    def took(self, alert: Alert) -> None:
        """Note that the target has it."""
        if self._board is not None:
            self._board.took(self._board.current(alert))

    def _body(self, alert: Alert, now_ms: int) -> bytes:
        if self._board is not None:
            current = self._board.current(alert)
            return msgspec.json.encode(self._board.request_of(current, self._target, self._runbooks_url, now_ms))
        if self._target.kind == "slack":
            return slack_body(self._target, alert, self._runbooks_url)
        return webhook_body(self._target, alert, self._runbooks_url)


class Courier:
    """One target's deliveries; `step` is called over and over.

    Args:
        target: whom to bring alerts.
        composer: makes requests.
        ports: Kafka, HTTP, clock, health.
        resending: what tells Alertmanager of open incidents; None for others.
        counts: what becomes of records is counted there.
        log: bound to the target.
        draw: random numbers in [0, 1), for pauses.
    """

    def __init__(
        self,
        target: TargetSettings,
        composer: Composer,
        ports: CourierPorts,
        resending: Resending | None,
        counts: Counts,
        log: Log,
        draw: Callable[[], float],
    ) -> None:
        self._target = target
        self._composer = composer
        self._ports = ports
        self._resending = resending
        self._log = log
        self._draw = draw
        self._current: tuple[Arrived, Alert] | None = None
        self._due_ms = 0
        self._failures = 0
        self._failing_since_ms = 0
        self._told_ms = 0
        self.counts = counts

    @property
    def finished(self) -> bool:
        """Whether all is delivered that was there at the beginning."""
        return self._current is None and self._ports.alerts.at_end()

    def step(self, wait_ms: int) -> None:
        """Do the next thing; wait at most so long when there is none, an attempt not counted.

        Raises:
            SourceError: Kafka cannot be read, or positions cannot be committed.
            SinkError: a dead letter cannot be written.
        """
        self._ports.health.beat()
        if self._resending is not None:
            self._resending.refresh()
            self._resending.step()
        if self._current is not None and not self._ports.alerts.owns(self._current[0]):
            # Another process has the partition now, and delivers it from the committed position on: what the target
            # does with it is not known here.
            self._current = None
            self._recovered()
        if self._current is None:
            self._take(self._ports.alerts.next(wait_ms))
        left_ms = self._due_ms - self._ports.clock.monotonic_ms()
        if self._current is not None and left_ms > 0:
            self._ports.alerts.wait(min(wait_ms, left_ms))
        elif self._current is not None:
            self._attempt(*self._current)

    def _take(self, arrived: Arrived | None) -> None:
        if arrived is None:
            return
        try:
            alert = read(arrived)
        except UnreadableError as error:
            self._give_up(arrived, UNREADABLE, str(error))
            return
        if wants(self._target, alert.event):
            self._current = (arrived, alert)
        else:
            self.counts.passed_over += 1
            self._ports.alerts.pass_over(arrived)

    def _attempt(self, arrived: Arrived, alert: Alert) -> None:
        self.counts.attempts += 1
        self._ports.health.beat()
        now_ms = self._ports.clock.epoch_ms()
        answer = self._ports.sender.post(self._composer.request_of(alert, now_ms))
        match decide(answer, self._trouble(), self._target, draw=self._draw(), now_ms=now_ms):
            case Done():
                self._took(arrived, alert)
            case Again(wait_ms, reason):
                self._failed(wait_ms, redacted(reason, self._target))
            case GivenUp(reason, answered):
                if answered:
                    self._recovered()
                self._current = None
                self._give_up(arrived, REFUSED, redacted(reason, self._target), alert)

    def _trouble(self) -> Trouble:
        failing_ms = self._ports.clock.monotonic_ms() - self._failing_since_ms if self._failures else 0
        return Trouble(self._failures, failing_ms)

    def _took(self, arrived: Arrived, alert: Alert) -> None:
        if self._failures:
            self._log.info("the target takes alerts again", failures=self._failures)
        self._recovered()
        self._composer.took(alert)
        self.counts.delivered += 1
        self._current = None
        self._ports.alerts.done(arrived)
        event = alert.event
        self._log.info("delivered", alert=event.alert_id, kind=event.kind, model=event.model_id, status=event.status)

    def _failed(self, wait_ms: int, reason: str) -> None:
        now_ms = self._ports.clock.monotonic_ms()
        if not self._failures:
            self._failing_since_ms = now_ms
        if not self._failures or now_ms - self._told_ms >= _TELL_AGAIN_MS:
            self._told_ms = now_ms
            self._log.warning("an attempt failed, it will be repeated", reason=reason, failures=self._failures + 1)
        self._failures += 1
        self._due_ms = now_ms + wait_ms
        self._ports.health.failed(_STEPS)

    def _recovered(self) -> None:
        self._failures = 0
        self._ports.health.worked(_STEPS)

    def _give_up(self, arrived: Arrived, reason: str, detail: str, alert: Alert | None = None) -> None:
        """Keep the record as a dead letter, and only then go on."""
        self._ports.dead_letters.bury(arrived, reason=reason, detail=detail, target=self._target.name)
        self.counts.given_up += 1
        self._log.error(
            "an alert was not delivered, it is a dead letter now",
            reason=reason,
            detail=detail,
            alert=alert.event.alert_id if alert else None,
            partition=arrived.partition,
            offset=arrived.offset,
        )
        self._ports.alerts.done(arrived)
