"""Which alerts silences and maintenance windows are about, and when windows are open."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.test_measures import AMOUNT, alert, change, flagged, limit, line
from worker.core.alerts.scopes import fits, in_window, window_end
from worker.core.events import AlertEvent, Scope, SegmentName
from worker.core.options import WindowOptions
from worker.core.options.alerts import DAY_MS

NIGHT = datetime(2026, 11, 26, 2, tzinfo=UTC)
NIGHT_MS = 1_795_658_400_000
HOUR_MS = 3_600_000

DROP = limit("performance.drop", "accuracy", "drop", 0.8, 0.9, 0.91, segment=SegmentName("region", "north"))
MISSING = change(
    "quality.missing", line("age", "missing_share", 0.9, 0.1, 0.8), line("amount", "missing_share", 0.5, 0.1, 0.4)
)
DUPLICATE = change("quality.duplicate", line("", "duplicate_share", 0.4, 0.0, 0.4))
SCOPES: list[tuple[dict[str, Any], AlertEvent, bool]] = [
    ({}, MISSING, True),
    ({}, DUPLICATE, True),
    ({"model": "fraud-*"}, MISSING, True),
    ({"model": "fraud"}, MISSING, False),
    ({"model": "Fraud-*"}, MISSING, False),
    ({"kind": "quality.*"}, MISSING, True),
    ({"kind": "quality.[!m]*"}, MISSING, False),
    ({"kind": "drift.*"}, MISSING, False),
    ({"model": "fraud-*", "kind": "drift.*"}, MISSING, False),
    ({"segment": "region=north"}, DROP, True),
    ({"segment": "region=*"}, DROP, True),
    ({"segment": "region"}, DROP, False),
    ({"segment": "*"}, MISSING, False),
    ({"feature": "age"}, MISSING, True),
    ({"feature": "amount"}, MISSING, False),
    ({"feature": "am*"}, flagged(AMOUNT), True),
    ({"feature": "accuracy", "segment": "region=*"}, DROP, True),
    ({"feature": "*"}, DUPLICATE, False),
    ({"feature": "*"}, change("quality.missing"), False),
    ({"feature": "*"}, alert("stale.predictions"), False),
]


@pytest.mark.parametrize(("patterns", "record", "expected"), SCOPES)
def test_a_scope_means_what_all_of_its_patterns_fit(
    patterns: dict[str, Any],
    record: AlertEvent,
    expected: bool,  # noqa: FBT001 - the answer
) -> None:
    """A silence and a window mean the same; the feature is the leading one; what an alert is not about fits nothing."""
    assert fits(Scope(**patterns), record) is expected
    assert fits(window(**patterns), record) is expected


Repeat = Literal["never", "daily", "weekly"]


def window(begin: datetime = NIGHT, hours: float = 1.0, repeat: Repeat = "never", **patterns: Any) -> WindowOptions:  # noqa: ANN401 - patterns of the scope
    """Return a window at two o'clock in the night."""
    return WindowOptions(name="backup", begin=begin, end=begin + timedelta(hours=hours), repeat=repeat, **patterns)


def test_a_window_holds_its_beginning_but_not_its_end() -> None:
    """To the millisecond."""
    opened = [in_window(window(), NIGHT_MS + ms) for ms in (-1, 0, HOUR_MS - 1, HOUR_MS, DAY_MS)]
    assert opened == [False, True, True, False, False]


@pytest.mark.parametrize(("repeat", "days"), [("daily", 1), ("weekly", 7)])
def test_a_window_that_repeats_opens_every_so_often(repeat: Repeat, days: int) -> None:
    """On the same hour of UTC for ever, and never before its first time."""
    maintenance, period_ms = window(repeat=repeat), days * DAY_MS
    for times in (0, 1, 2, 5_000):
        begin_ms = NIGHT_MS + times * period_ms
        assert window_end(maintenance, begin_ms) == begin_ms + HOUR_MS
        assert window_end(maintenance, begin_ms + HOUR_MS - 1) == begin_ms + HOUR_MS
        assert window_end(maintenance, begin_ms + HOUR_MS) is None
        assert window_end(maintenance, begin_ms - 1) is None
    assert not in_window(maintenance, NIGHT_MS - period_ms)


def test_a_weekly_window_is_not_open_on_other_days() -> None:
    """It is no daily one."""
    assert [day for day in range(15) if in_window(window(repeat="weekly"), NIGHT_MS + day * DAY_MS)] == [0, 7, 14]


def test_a_window_may_cross_midnight() -> None:
    """A daily one from 23:30 to 00:30 is open on both sides of it."""
    maintenance = window(datetime(2026, 11, 26, 23, 30, tzinfo=UTC), repeat="daily")
    midnight = NIGHT_MS + 22 * HOUR_MS + 9 * DAY_MS
    assert [in_window(maintenance, midnight + ms) for ms in (-HOUR_MS, -1, 0, HOUR_MS // 2)] == [
        False,
        True,
        True,
        False,
    ]


def test_the_time_zone_of_a_window_counts() -> None:
    """Two o'clock in Calcutta is half past eight in the evening in Greenwich."""
    there = NIGHT.replace(tzinfo=timezone(timedelta(hours=5, minutes=30)))
    assert window_end(window(there), NIGHT_MS - 11 * HOUR_MS // 2) == NIGHT_MS - 9 * HOUR_MS // 2


@given(
    st.integers(-20 * DAY_MS, 40 * DAY_MS),
    st.integers(1, DAY_MS - 1),
    st.sampled_from([("never", 0), ("daily", DAY_MS), ("weekly", 7 * DAY_MS)]),
)
def test_windows_are_open_as_if_each_of_their_times_was_listed(
    after_ms: int, length_ms: int, repeat: tuple[Repeat, int]
) -> None:
    """The naive twin lists sixty of them."""
    name, period_ms = repeat
    maintenance = window(hours=length_ms / HOUR_MS, repeat=name)
    length_ms = (maintenance.end - maintenance.begin) // timedelta(milliseconds=1)
    now_ms = NIGHT_MS + after_ms
    begins = [NIGHT_MS + times * period_ms for times in range(60 if period_ms else 1)]
    ends = [begin + length_ms for begin in begins if begin <= now_ms < begin + length_ms]
    assert window_end(maintenance, now_ms) == (ends[0] if ends else None)
    assert in_window(maintenance, now_ms) is bool(ends)
