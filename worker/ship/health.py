"""Whether shipping works: what is logged of failures, and what `/readyz` says."""

import threading
from dataclasses import dataclass
from typing import Any, Final

from worker.ports import Clock

_TELL_AGAIN_MS: Final = 300_000
_PATIENCE_MS: Final = 10_000
"""Failures that pass sooner are no reason to call it not ready."""


@dataclass(slots=True)
class _Failing:
    """What somebody cannot do now."""

    since_ms: int
    reason: str
    blocked: bool


class Health:
    """All threads may use it, each under a name of its own: that others get through makes none of them well.

    Args:
        log: where failures are told: the first one, and then every five minutes.
        clock: the clock.
    """

    def __init__(self, log: Any, clock: Clock) -> None:  # noqa: ANN401 - structlog's
        self._log = log
        self._clock = clock
        self._lock = threading.Lock()
        self._joined = False
        self._failing: dict[str, _Failing] = {}
        self._failing_since_ms = 0
        self._told_ms = 0
        self._told_blocked = False
        self._heartbeat_ms = clock.monotonic_ms()

    def beat(self) -> None:
        """Note that the loop is alive."""
        self._heartbeat_ms = self._clock.monotonic_ms()

    def joined(self, *, joined: bool) -> None:
        """Note whether Kafka has assigned partitions, be it none."""
        self._joined = joined

    def failed(self, who: str, reason: str, *, blocked: bool) -> None:
        """Note a failure; `blocked`: only a person can mend it."""
        now_ms = self._clock.monotonic_ms()
        with self._lock:
            first = not self._failing
            if first:
                self._failing_since_ms, self._told_blocked = now_ms, False
            since_ms = self._failing[who].since_ms if who in self._failing else now_ms
            self._failing[who] = _Failing(since_ms, reason, blocked)
            worse = blocked and not self._told_blocked
            tell = first or worse or now_ms - self._told_ms >= _TELL_AGAIN_MS
            if tell:
                self._told_ms, self._told_blocked = now_ms, blocked
        if tell and blocked:
            self._log.error("the cluster takes nothing until somebody changes something", why=reason)
        elif tell:
            self._log.warning("a request failed, it will be repeated", why=reason)

    def worked(self, who: str) -> None:
        """Note that somebody gets through, or need not any more."""
        with self._lock:
            if self._failing.pop(who, None) is None or self._failing:
                return
            failed_ms = self._clock.monotonic_ms() - self._failing_since_ms
        self._log.info("the cluster answers well again", after_seconds=failed_ms / 1000)

    @property
    def heartbeat_age_s(self) -> float:
        """How long the loop has not been heard of."""
        return (self._clock.monotonic_ms() - self._heartbeat_ms) / 1000

    def trouble(self) -> str:
        """Return why this is not ready; empty if it is."""
        now_ms = self._clock.monotonic_ms()
        with self._lock:
            lasting = [
                each.reason for each in self._failing.values() if each.blocked or now_ms - each.since_ms >= _PATIENCE_MS
            ]
        if lasting:
            return lasting[0]
        return "" if self._joined else "waiting for the group"
