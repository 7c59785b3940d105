"""The share of events to be flagged: as configured, or from a wanted mean time between false alarms."""

from typing import Annotated

from msgspec import Meta, Struct

from worker.core.options import EngineOptions
from worker.core.state import COUNT_MAX

PACE_EVENTS = 1_024
"""The pace of events is measured anew after so many of them."""
RATE_MIN, RATE_MAX = 1e-6, 0.05


class StoredAlertRate(Struct, frozen=True, forbid_unknown_fields=True):
    """What is stored."""

    rate: Annotated[float, Meta(gt=0.0, lt=1.0)]
    since_ms: Annotated[int, Meta(ge=-1, le=COUNT_MAX)]


class AlertRate:
    """With a wanted interval between false alarms, it is the mean time between events divided by that interval."""

    def __init__(self, options: EngineOptions) -> None:
        self._interval_ms = options.false_alarm_interval_ms
        self._since_ms = -1
        self.rate = options.alert_rate

    def until_due(self, sequence: int) -> int:
        """Return how many events there are until the pace must be told."""
        return PACE_EVENTS - sequence % PACE_EVENTS

    def tell_pace(self, watermark_ms: int) -> None:
        """Take the watermark after another PACE_EVENTS events."""
        if self._interval_ms == 0:
            return
        if self._since_ms >= 0:
            gap_ms = max(watermark_ms - self._since_ms, 0) / PACE_EVENTS
            self.rate = min(max(gap_ms / self._interval_ms, RATE_MIN), RATE_MAX)
        self._since_ms = watermark_ms

    def state(self) -> StoredAlertRate:
        """Return what is to be stored."""
        return StoredAlertRate(self.rate, self._since_ms)

    def restore(self, stored: StoredAlertRate) -> None:
        """Take over what `state` gave."""
        self.rate, self._since_ms = stored.rate, stored.since_ms
