"""The alert desk: what holds incidents back, and what it does beside events: labels, ticks, restarts, bounds."""

from datetime import UTC, datetime, timedelta

import msgspec

from tests.raised import PLAIN, START_MS, Bench, noise, options, over, raised
from worker.core.codec import TIMESTAMP_MS_MAX
from worker.core.options import WindowOptions
from worker.core.options.alerts import DAY_MS

# ---------------------------------------------------------------------------------------------------------- suppression


def test_what_is_silenced_opens_when_the_silence_ends() -> None:
    """If it still stands; it is told once that it was held back, by whom and why."""
    bench = Bench(options())
    bench.silence(0, 60_000, kind="quality.*")
    assert bench.event(100, raised()) == ["suppressed silence"]
    assert bench.event(200, raised(status="updated")) == []
    (audit,) = bench.audits
    assert (audit.author, audit.feedback_id, audit.suppressed, audit.fingerprint) == (
        "ann",
        "s",
        1,
        "quality.missing age",
    )
    assert "upgrade" in audit.summary
    assert bench.event(59_999) == []
    assert bench.event(60_000) == ["opened age"]
    assert bench.last.incident_id == audit.incident_id


def test_what_was_over_under_a_silence_does_not_open_after_it() -> None:
    """The next one is counted anew."""
    bench = Bench(options())
    bench.silence(0, 60_000)
    bench.event(100, raised())
    assert bench.event(200, over()) == []
    assert bench.event(300, raised(number=1)) == ["suppressed silence"]
    assert bench.audits[-1].suppressed == 2
    bench.event(400, over(number=1))
    assert bench.event(60_000) == []


def test_a_silenced_incident_tells_only_that_it_is_over() -> None:
    """It was open before: updates wake nobody, and no one waits for its end in vain."""
    bench = Bench(options())
    bench.event(0, raised())
    bench.silence(0, 60_000)
    assert bench.event(100, raised(status="updated", severity="critical")) == []
    assert bench.event(200, over()) == ["resolved age"]


def test_what_a_silence_has_kept_from_being_told_is_told_when_it_ends() -> None:
    """Of an open incident whose severity rose: once, by events or by the clock of ticks."""
    for ends_by_clock in (False, True):
        bench = Bench(options())
        bench.event(0, raised())
        bench.silence(0, 60_000)
        assert bench.event(100, raised(status="updated", severity="critical")) == []
        assert bench.event(59_999) == []
        assert not bench.desk.wants_tick(START_MS + 59_999)
        assert (bench.tick(60_000) if ends_by_clock else bench.event(60_000)) == ["updated age"]
        assert bench.last.severity == "critical"
        assert bench.event(70_000) == []


def test_what_is_no_news_when_a_silence_ends_is_not_told() -> None:
    """The severity rose and fell again under it."""
    bench = Bench(options())
    bench.event(0, raised())
    bench.silence(0, 60_000)
    bench.event(100, raised(status="updated", severity="critical"))
    bench.event(200, raised(status="updated", severity="warning"))
    assert bench.event(60_000) == []


def test_a_rise_in_severity_is_told_when_the_last_reason_is_gone() -> None:
    """A silence ends within a maintenance window, and the window within the time of a new version."""
    begin = datetime.fromtimestamp(START_MS / 1000 + 1, tz=UTC)
    window = WindowOptions(name="backup", begin=begin, end=begin + timedelta(seconds=1))
    bench = Bench(options(windows=(window,), rebaseline_events=10))
    bench.event(0, raised())
    bench.silence(0, 1_500)
    bench.desk.rebaseline(1)
    assert bench.event(100, raised(status="updated", severity="critical")) == []
    assert bench.batch([1_500, 2_000, *range(3_000, 3_007)]) == []
    assert bench.event(3_007) == ["updated age"]


def test_a_silence_is_not_for_others() -> None:
    """Neither other kinds nor other features."""
    bench = Bench(options())
    bench.silence(0, 60_000, kind="quality.*", feature="age")
    told = bench.event(0, raised(), raised("income"), raised(kind="drift.input", subject="drift"))
    assert told == ["suppressed silence", "opened income", "opened drift"]


def test_nothing_opens_in_a_maintenance_window() -> None:
    """Daily from one to two seconds after the hour: what stands then opens when it ends, on the next day, too."""
    begin = datetime.fromtimestamp(START_MS / 1000 + 1, tz=UTC)
    window = WindowOptions(name="backup", begin=begin, end=begin + timedelta(seconds=1), repeat="daily")
    bench = Bench(options(windows=(window,)))
    for day_ms in (0, DAY_MS):
        number = day_ms // DAY_MS
        assert bench.event(day_ms + 1_500, raised(number=number)) == ["suppressed window"]
        assert "backup" in bench.audits[-1].summary
        assert bench.audits[-1].author is None
        assert bench.event(day_ms + 1_999) == []
        assert bench.event(day_ms + 2_000) == ["opened age"]
        assert bench.event(day_ms + 2_001, over(number=number)) == ["resolved age"]


def test_another_version_of_the_model_is_given_time() -> None:
    """For ten events everything looks different; what still does then opens. Absolute limits are told at once."""
    bench = Bench(options(rebaseline_events=10))
    bench.event(0)
    bench.desk.rebaseline(1)
    limit = raised("f1", kind="performance.limit")
    assert bench.event(1, raised(), limit) == ["suppressed version_change", "opened f1"]
    assert bench.batch(list(range(2, 11))) == []
    assert bench.event(11) == ["opened age"]
    assert bench.desk.state().spans == []


def test_a_version_that_comes_in_between_takes_more_time() -> None:
    """It begins anew with each."""
    bench = Bench(options(rebaseline_events=10))
    bench.desk.rebaseline(0)
    bench.event(0, raised())
    bench.batch([1, 2, 3, 4])
    bench.desk.rebaseline(5)
    assert bench.batch(list(range(5, 15))) == []
    assert bench.event(15) == ["opened age"]


def test_each_reason_is_told_once() -> None:
    """First a silence, then a new version: two notes, then it opens."""
    bench = Bench(options(rebaseline_events=10))
    bench.desk.rebaseline(1)
    bench.silence(0, 5)
    assert bench.batch([0, 1], raised()) == ["suppressed silence"]
    assert bench.batch([3, 5, 6, 7]) == ["suppressed version_change"]
    assert bench.batch(list(range(8, 14))) == ["opened age"]


# --------------------------------------------------------------------------------------------------------------- budget


def test_the_budget_keeps_what_is_left_for_critical_ones() -> None:
    """Of four openings a day two are free for all; that it binds is told once."""
    bench = Bench(options(openings_per_day_max=4))
    assert bench.event(0, raised("a", severity="info", strength=0.0)) == ["opened a"]
    assert bench.event(1, raised("b", strength=2.0)) == ["opened b"]
    assert bench.event(2, raised("c", severity="info", strength=7.0)) == ["opened c"]
    assert bench.event(3, raised("d", strength=3.9)) == ["suppressed budget", "budget budget"]
    assert bench.event(4, raised("e", severity="critical", strength=8.0)) == ["opened e"]
    assert bench.event(5, raised("f", severity="critical", strength=8.0)) == ["suppressed budget"]
    assert [each.suppressed for each in bench.audits if each.kind == "alert_suppressed"] == [1, 2]
    (binds,) = [each for each in bench.audits if each.kind == "alert_budget"]
    assert binds.threshold == 12.0


def test_what_comes_again_and_again_is_held_back_first() -> None:
    """Each opening of its own takes two of its rank; another one of the same rank opens, and a day later it does."""
    bench = Bench(options(openings_per_day_max=8))
    for number in range(5):
        assert bench.event(2 * number, raised("a", number=number)) == ["opened a"]
        assert bench.event(2 * number + 1, over("a", number=number)) == ["resolved a"]
    assert bench.event(10, raised("a", number=5)) == ["suppressed budget", "budget budget"]
    assert "rank 0.0 of 24, 6.0 is asked after 5 openings" in bench.audits[0].summary
    assert bench.event(11, raised("b")) == ["opened b"]
    assert bench.event(DAY_MS - 1) == []
    # Without the first of its own, rank 2 meets 6; without the second one, 4 meets nothing.
    assert bench.event(DAY_MS + 1) == []
    assert bench.event(DAY_MS + 2) == ["opened a"]


def test_what_comes_again_opens_if_it_is_worse() -> None:
    """A repeat is held back for its rank; what is critical now is no repeat of warnings."""
    bench = Bench(options(openings_per_day_max=4))
    for number in range(3):
        bench.event(2 * number, raised("a", number=number))
        bench.event(2 * number + 1, over("a", number=number))
    assert bench.event(6, raised("a", number=3, strength=8.0)) == ["suppressed budget", "budget budget"]
    assert bench.event(7, raised("a", number=3, severity="critical", status="updated")) == ["opened a"]


def test_whose_openings_they_were_survives_a_restart() -> None:
    """What has spoken often is held back by the next worker, too."""
    bench = Bench(options(openings_per_day_max=8))
    for number in range(5):
        bench.event(2 * number, raised("a", number=number))
        bench.event(2 * number + 1, over("a", number=number))
    bench.restart()
    assert bench.event(10, raised("a", number=5), raised("b"))[-1] == "opened b"
    assert bench.audits[0].fingerprint == "quality.missing a"


def test_what_the_budget_has_held_back_opens_when_there_is_room() -> None:
    """When the oldest opening is a day old, to the event."""
    bench = Bench(options(openings_per_day_max=1))
    bench.event(0, raised("a"))
    bench.event(1_000, raised("b"))
    assert bench.event(DAY_MS - 1) == []
    assert bench.event(DAY_MS) == ["opened b"]
    assert bench.event(DAY_MS + 1_000, raised("c")) == ["suppressed budget", "budget budget"]


def test_a_tick_makes_no_room_in_the_budget() -> None:
    """Openings are counted in event time; and what was held back opens at the first event of the next day."""
    bench = Bench(options(openings_per_day_max=1))
    bench.event(0, raised("a"))
    bench.event(1_000, raised("b"))
    assert not bench.desk.wants_tick(START_MS + 3 * DAY_MS)
    assert bench.tick(3 * DAY_MS) == []
    assert bench.event(DAY_MS) == ["opened b"]


# -------------------------------------------------------------------------------------- labels, ticks, restarts, bounds


def test_labels_raise_at_the_time_that_events_have_reached() -> None:
    """They have offsets of their own."""
    bench = Bench(options())
    bench.event(5_000)
    assert bench.label(raised("f1", kind="performance.limit")) == ["opened f1"]
    assert (bench.last.timestamp_ms, bench.told[0].offset) == (START_MS + 5_000, 7)


def test_time_that_passes_without_events_moves_what_waits() -> None:
    """Long enough, or calm for long enough, by the clock of ticks."""
    bench = Bench(noise(duration_ms=1_000, clear_ms=1_000))
    bench.event(0, raised())
    assert not bench.desk.wants_tick(START_MS + 999)
    assert bench.tick(999) == []
    assert bench.desk.wants_tick(START_MS + 1_000)
    assert bench.tick(1_000) == ["opened age"]
    bench.event(0, over())
    assert bench.tick(1_500) == ["resolved age"]
    assert not bench.desk.wants_tick(START_MS + DAY_MS)


def test_an_open_incident_survives_a_restart_with_other_options() -> None:
    """It is resolved as if nothing had happened, by the rules of now."""
    bench = Bench(options(openings_per_day_max=100))
    bench.event(0, raised())
    bench.restart(options(msgspec.structs.replace(PLAIN, clear_ms=500), openings_per_day_max=1))
    assert bench.event(1, raised("income")) == ["suppressed budget", "budget budget"]
    assert bench.event(100, over()) == []
    assert bench.event(600) == ["resolved age"]
    assert bench.last.incident_id == bench.alerts[0].incident_id


def test_a_desk_is_restored_at_the_end_of_all_time() -> None:
    """What is due after the year 9999 is no damage."""
    bench = Bench(options(msgspec.structs.replace(PLAIN, cooldown_ms=60_000), openings_per_day_max=1))
    bench.event(TIMESTAMP_MS_MAX - START_MS, raised(), raised("income"))
    bench.restart()
    assert bench.desk.open_incidents == 1


def test_only_so_many_fingerprints_are_followed() -> None:
    """The next one is told as suppressed, until there is room: idle ones make room."""
    bench = Bench(options(incidents_max=10))
    bench.event(0, *(raised(f"f{number}") for number in range(10)))
    assert bench.event(1, raised("more")) == ["suppressed incidents_max"]
    assert bench.event(2, raised("more", status="updated")) == []
    bench.event(3, over("f3"))
    assert bench.event(4, raised("more", status="updated")) == ["opened more"]
    assert len(bench.desk.state().lives) == 10


def test_a_situation_counts_all_that_is_open() -> None:
    """As many as may be followed, and their cause is over already."""
    bench = Bench(options(incidents_max=10, situation_gap_ms=60_000))
    bench.event(0, raised("cause"))
    bench.event(1, over("cause"))
    bench.event(2, *(raised(f"f{number}", kind="drift.input") for number in range(10)))
    told = bench.last.situation
    assert told is not None
    assert (told.incidents, told.open_incidents) == (11, bench.desk.open_incidents) == (11, 10)


def test_nothing_is_kept_of_what_is_long_over() -> None:
    """When nothing needs it any more."""
    bench = Bench(noise(cooldown_ms=5_000, flap_window_ms=0))
    bench.event(0, raised())
    bench.event(1_000, over())
    bench.batch([1_000 * number for number in range(2, 200)])
    assert bench.desk.state().lives == []


def test_a_clock_that_was_wrong_does_not_stop_alerts() -> None:
    """An event of next year, and then those of now: what waits for a time waits from now on."""
    bench = Bench(noise(cooldown_ms=5_000, duration_ms=1_000))
    bench.batch([0, 365 * DAY_MS], raised())
    assert bench.event(365 * DAY_MS + 1_000) == ["opened age"]
    assert bench.event(10, over()) == ["resolved age"]
    assert bench.last.duration_ms == 0
    assert bench.event(20, raised(number=1)) == []
    assert bench.event(5_010) == ["opened age"]


def test_after_a_wrong_clock_there_are_good_panes_again() -> None:
    """What was wrong next year was so until now."""
    bench = Bench(noise(cooldown_ms=60_000))
    bench.batch([500, DAY_MS], raised())
    bench.event(DAY_MS + 1, over())
    bench.batch([10_500, 11_500, 12_500])
    bench.event(13_500, raised(number=1, at_ms=START_MS + 13_500))
    bench.event(99_000)
    assert bench.last.status == "opened"
    good = bench.last.last_good
    assert good is not None
    assert good.start_ms == START_MS + 12_000


def test_after_a_wrong_clock_a_situation_ends_as_ever() -> None:
    """What was calm next year has been calm since now."""
    bench = Bench(options(situation_gap_ms=1_000))
    bench.event(DAY_MS, raised("a"))
    bench.event(DAY_MS, over("a"))
    bench.event(0)
    bench.event(1_001, raised("b"))
    first, last = bench.alerts[0].situation, bench.last.situation
    assert first is not None
    assert last is not None
    assert first.situation_id != last.situation_id
