"""How it is with a target: whether it takes what it is sent, whether Kafka is there, how much waits for it.

A target's own thread tells it; pages and metrics ask for it.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from worker.ports import Clock

PATIENCE_S: Final = 60.0
"""Failures that pass sooner are no reason to call it not ready."""
_STALLED_S: Final = 120.0
"""Above what a question to Kafka, or a dead letter, may take."""
_WAITS: Final = 4
"""Of one request: to two addresses of the host, for the handshake, for the answer."""
_LOOK_MS: Final = 15_000


class TargetHealth:
    """One target.

    Args:
        name: of the target.
        clock: the clock.
    """

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self.joined = False
        """Whether Kafka has assigned partitions, be it none."""
        self.reachable = True
        """Whether Kafka answered when it was asked last."""
        self.ended = False
        """Whether nobody works for it any more."""
        self.lag: Mapping[int, int] = {}
        """Records that are neither delivered nor passed over, by partition; replaced as a whole."""
        self._clock = clock
        self._failing_since_ms: dict[str, int] = {}
        """When it began to fail, by what was to be told."""
        self._beat_ms = clock.monotonic_ms()

    def beat(self) -> None:
        """Note that the thread is alive."""
        self._beat_ms = self._clock.monotonic_ms()

    def failed(self, what: str) -> None:
        """Note that the target did not take something."""
        self._failing_since_ms = {what: self._clock.monotonic_ms()} | self._failing_since_ms

    def worked(self, what: str) -> None:
        """Note that it took it, or that there is nothing to be told any more."""
        if what in self._failing_since_ms:
            self._failing_since_ms = {each: since for each, since in self._failing_since_ms.items() if each != what}

    @property
    def failing_s(self) -> float:
        """How long the target has been failing; 0: it works."""
        since_ms = min(self._failing_since_ms.values(), default=None)
        return 0.0 if since_ms is None else (self._clock.monotonic_ms() - since_ms) / 1000

    @property
    def silent_s(self) -> float:
        """How long the thread has not been heard of."""
        return 0.0 if self.ended else (self._clock.monotonic_ms() - self._beat_ms) / 1000


class Alerts(Protocol):
    """The topic `alerts`, as far as it is looked at here."""

    joined: bool

    def lag(self) -> Mapping[int, int] | None:
        """Return the records that wait, by partition; None if Kafka does not answer promptly."""
        ...


class Lookout:
    """Looks after Kafka for a target, every 15 s: that is what an idle thread learns of an outage by.

    Args:
        alerts: the topic.
        health: is told.
        clock: the clock.
    """

    def __init__(self, alerts: Alerts, health: TargetHealth, clock: Clock) -> None:
        self._alerts = alerts
        self._health = health
        self._clock = clock
        self._due_ms = 0

    def step(self) -> None:
        """Look, if it is time."""
        now_ms = self._clock.monotonic_ms()
        # What was just joined, or lost, is looked at at once.
        if now_ms < self._due_ms and self._health.joined == self._alerts.joined:
            return
        self._due_ms = now_ms + _LOOK_MS
        self._health.joined = self._alerts.joined
        lag = self._alerts.lag()
        self._health.reachable = lag is not None
        if lag is not None or not self._health.joined:
            self._health.lag = lag or {}


def trouble(targets: Sequence[TargetHealth]) -> str:
    """Return why alerts do not get to all targets; empty if they do. Names of targets are all that it tells."""
    reasons = {
        "Kafka does not answer": [each.name for each in targets if not each.reachable],
        "waiting for the group": [each.name for each in targets if not each.joined],
        "the target takes nothing": [each.name for each in targets if each.failing_s > PATIENCE_S],
    }
    return "; ".join(f"{reason}: {', '.join(names)}" for reason, names in reasons.items() if names)


def silent_s_max(timeouts_ms: Sequence[int]) -> float:
    """Return after how long a thread hangs, and is not just slow: no request takes so long.

    Args:
        timeouts_ms: of the targets.
    """
    return _STALLED_S + _WAITS * max(timeouts_ms, default=0) / 1000
