"""The share of flagged events from a wanted time between false alarms."""

import msgspec
import pytest

from worker.core.alert_rate import PACE_EVENTS, RATE_MAX, AlertRate
from worker.core.options import EngineOptions


def rate(gap_ms: int, interval_ms: int) -> AlertRate:
    """Return a rate after a while of events that are `gap_ms` apart."""
    rate = AlertRate(msgspec.structs.replace(EngineOptions(), false_alarm_interval_ms=interval_ms))
    for place in range(5):
        rate.tell_pace(place * PACE_EVENTS * gap_ms)
    return rate


def test_without_a_wanted_interval_it_is_what_was_configured() -> None:
    """`alert_rate` alone decides."""
    assert rate(100, 0).rate == EngineOptions().alert_rate


def test_it_follows_from_the_pace_of_events() -> None:
    """Ten events a second and one false alarm an hour are one of 36,000 events."""
    assert rate(100, 3_600_000).rate == pytest.approx(1 / 36_000)


def test_it_is_bounded_for_slow_streams() -> None:
    """An event a minute with an alarm each minute does not flag everything."""
    assert rate(60_000, 60_000).rate == RATE_MAX


def test_it_goes_on_after_a_restore() -> None:
    """What was measured is state."""
    first, second = rate(100, 3_600_000), rate(7, 3_600_000)
    second.restore(first.state())
    assert second.rate == first.rate
    for each in (first, second):
        each.tell_pace(6 * PACE_EVENTS * 100)
    assert second.state() == first.state()
