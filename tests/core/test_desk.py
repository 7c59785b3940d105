"""The alert desk: when a raised condition becomes an incident, how often it speaks, and when it is over."""

from tests.raised import START_MS, Bench, noise, options, over, raised
from worker.core.events import OutputTopic
from worker.core.options import KindNoiseOptions


def test_a_condition_becomes_an_incident_and_is_over() -> None:
    """Opened, updated and resolved, each as history and in the table; it is over with a tombstone."""
    bench = Bench(options())
    assert bench.event(0) == []
    assert bench.event(5, raised(at_ms=START_MS + 5)) == ["opened age"]
    assert bench.event(9, raised(status="updated", severity="critical")) == ["updated age"]
    assert bench.event(1_005, over()) == ["resolved age"]
    table = [each.record for each in bench.told if each.topic is OutputTopic.INCIDENTS]
    assert table == [*bench.alerts[:2], None]
    assert len({each.alert_id for each in bench.alerts}) == 3
    assert (bench.last.opened_at_ms, bench.last.resolved_at_ms) == (START_MS + 5, START_MS + 1_005)
    assert (bench.last.duration_ms, bench.last.updates, bench.last.severity) == (1_000, 1, "critical")
    assert bench.desk.open_incidents == 0


def test_what_is_over_keeps_saying_what_was_wrong() -> None:
    """A source lists nothing any more when all is well; the headline stays that of the incident."""
    bench = Bench(options())
    bench.event(0, raised(deviation=0.25))
    bench.event(1, over())
    assert bench.last.headline == bench.alerts[0].headline
    assert bench.last.headline is not None
    assert bench.last.headline.observed == 0.75


def test_two_levels_keep_an_incident_from_coming_and_going() -> None:
    """It opens at a strength of two and is over below four fifths of that, not before."""
    bench = Bench(noise(strength_min=2.0, clear_share=0.8))
    assert bench.event(0, raised(strength=1.9)) == []
    assert bench.event(1, raised(strength=2.0, status="updated")) == ["opened age"]
    assert bench.event(2, raised(strength=1.61, status="updated")) == []
    assert bench.event(3, raised(strength=1.59, status="updated")) == ["resolved age"]
    assert bench.event(4, raised(strength=1.9, status="updated")) == []


def test_what_grows_again_is_another_incident() -> None:
    """Its source never took it for over, but subscribers have seen it resolved."""
    bench = Bench(noise(strength_min=2.0))
    for at_ms, strength in enumerate([2.0, 1.0, 2.0, 1.0, 2.0]):
        bench.event(at_ms, raised(strength=strength, status="updated" if at_ms else "opened"))
    assert [each.status for each in bench.alerts] == ["opened", "resolved"] * 2 + ["opened"]
    assert len({each.incident_id for each in bench.alerts}) == 3


def test_a_condition_must_last_to_open() -> None:
    """For a second without a break: one that goes in between begins anew."""
    bench = Bench(noise(duration_ms=1_000))
    assert bench.event(0, raised()) == []
    assert bench.event(900, over()) == []
    assert bench.event(950, raised(number=1)) == []
    assert bench.event(1_949) == []
    assert bench.event(1_950) == ["opened age"]


def test_an_incident_opens_at_the_event_of_its_time() -> None:
    """Also if that is in the middle of a batch; not at the end of it."""
    bench = Bench(noise(duration_ms=1_000))
    bench.event(0, raised())
    bench.batch([500, 999, 1_001, 5_000, 9_000])
    assert bench.last.timestamp_ms == START_MS + 1_001
    assert [each.offset for each in bench.told] == [3, 3]


def test_a_condition_must_hold_in_so_many_of_the_last_panes() -> None:
    """In two of three: one bad pane is chance, and two that are far apart are, too."""
    bench = Bench(noise(panes_min=2, panes=3))
    assert bench.event(0, raised()) == []
    assert bench.event(100, over()) == []
    assert bench.event(3_000, raised(number=1)) == []
    assert bench.event(3_100, over(number=1)) == []
    assert bench.event(5_000, raised(number=2)) == ["opened age"]


def test_panes_without_events_say_nothing() -> None:
    """A condition that stands while nothing comes is not looked at for that: the next event counts."""
    bench = Bench(noise(panes_min=2, panes=4))
    bench.event(0, raised())
    assert bench.tick(10_000) == []
    assert not bench.desk.wants_tick(START_MS + 10_000)
    assert bench.event(1_500) == ["opened age"]


def test_panes_are_counted_while_a_condition_lasts() -> None:
    """It stood in all of them: it opens when it has lasted long enough, not panes later."""
    bench = Bench(noise(panes_min=3, panes=3, duration_ms=5_000))
    bench.event(0, raised())
    assert bench.batch([1_000, 2_000, 3_000, 4_000, 4_999]) == []
    assert bench.event(5_000) == ["opened age"]


def test_after_an_incident_the_next_one_waits() -> None:
    """For the cooldown; then it opens if its condition still stands."""
    bench = Bench(noise(cooldown_ms=5_000))
    bench.event(0, raised())
    bench.event(1_000, over())
    assert bench.event(2_000, raised(number=1)) == []
    assert bench.event(5_999) == []
    assert bench.event(6_000) == ["opened age"]
    bench.event(6_500, over(number=1))
    bench.event(7_000, raised(number=2))
    assert bench.event(8_000, over(number=2)) == []
    assert bench.event(99_000) == []


def test_the_cooldown_is_of_one_fingerprint() -> None:
    """Another feature may open at once."""
    bench = Bench(noise(cooldown_ms=5_000))
    bench.event(0, raised())
    bench.event(1, over())
    assert bench.event(2, raised("income")) == ["opened income"]


def test_what_comes_and_goes_stays_open_until_it_is_calm() -> None:
    """The third time within a minute it is flapping: one incident, until it was away for twenty seconds."""
    bench = Bench(noise(flap_openings=3, flap_window_ms=60_000, flap_clear_ms=20_000))
    for number in range(8):
        bench.event(5_000 * number, raised(number=number, flagged_events=2))
        bench.event(5_000 * number + 1_000, over(number=number, flagged_events=2))
    assert [each.status for each in bench.alerts if each.status != "updated"] == [*["opened", "resolved"] * 2, "opened"]
    assert bench.last.flapping
    assert bench.event(55_999) == []
    assert bench.event(56_000) == ["resolved age"]
    assert bench.last.flagged_events == 6 * 2


def test_a_flapping_incident_flaps_until_it_is_over() -> None:
    """Also if it comes more seldom by and by; what opens after that does not flap for it."""
    bench = Bench(noise(flap_openings=2, flap_window_ms=10_000, flap_clear_ms=30_000, cooldown_ms=20_000))
    for number, at_ms in enumerate([0, 20_000, 25_000, 45_000]):
        bench.event(at_ms, raised(number=number))
        bench.event(at_ms + 1_000, over(number=number))
    assert bench.event(75_999) == []
    assert bench.event(76_000) == ["resolved age"]
    assert bench.last.flapping
    assert bench.event(96_000, raised(number=9)) == ["opened age"]
    assert not bench.last.flapping


def test_what_flapped_while_it_rested_does_not_flap_for_ever() -> None:
    """It came twice in the cooldown; an hour later it comes once."""
    bench = Bench(noise(flap_openings=2, flap_window_ms=10_000, flap_clear_ms=30_000, duration_ms=1_000))
    for number, at_ms in enumerate([0, 500]):
        bench.event(at_ms, raised(number=number))
        bench.event(at_ms + 100, over(number=number))
    bench.event(9_000, raised(number=2, severity="info"))
    bench.event(9_500, over(number=2))
    bench.event(60_000, raised(number=3))
    assert bench.event(61_000) == ["opened age"]
    assert not bench.last.flapping


def test_what_has_been_calm_does_not_flap() -> None:
    """Three times within an hour are something else."""
    bench = Bench(noise(flap_openings=3, flap_window_ms=60_000, flap_clear_ms=20_000))
    for number in range(5):
        bench.event(40_000 * number, raised(number=number))
        assert bench.event(40_000 * number + 1_000, over(number=number)) == ["resolved age"]
    assert not bench.last.flapping


def test_an_incident_is_over_when_it_was_calm_for_long_enough() -> None:
    """What comes back in between is the same one."""
    bench = Bench(noise(clear_ms=1_000))
    bench.event(0, raised())
    assert bench.event(100, over()) == []
    assert bench.event(900, raised(number=1)) == []
    assert bench.event(1_000, over(number=1)) == []
    assert bench.event(1_999) == []
    assert bench.event(2_000) == ["resolved age"]
    assert len({each.incident_id for each in bench.alerts}) == 1


def test_only_one_direction_may_matter() -> None:
    """Fewer missing values than usual wake nobody."""
    bench = Bench(noise(direction="up"))
    assert bench.event(0, raised(deviation=-0.25)) == []
    assert bench.event(1, raised(deviation=0.25, status="updated")) == ["opened age"]
    assert Bench(noise(direction="down")).event(0, raised(deviation=-0.25)) == ["opened age"]


def test_a_deviation_must_be_large_enough() -> None:
    """In the unit of what was observed, or as a share of what is expected; here that is a half."""
    for rules in ({"deviation_min": 0.2}, {"deviation_share_min": 0.4}):
        bench = Bench(noise(**rules))
        assert bench.event(0, raised(deviation=0.19)) == []
        assert bench.event(1, raised(deviation=-0.21, status="updated")) == ["opened age"]
        assert bench.event(2, raised(deviation=0.17, status="updated")) == []
        assert bench.event(3, raised(deviation=0.15, status="updated")) == ["resolved age"]


def test_what_is_not_severe_enough_does_not_open() -> None:
    """By default single unusual events, which are of severity info, are no incident."""
    bench = Bench(noise(severity_min="warning"))
    assert bench.event(0, raised(severity="info")) == []
    assert bench.event(1, raised(severity="warning", status="updated")) == ["opened age"]


def test_rules_may_differ_by_kind() -> None:
    """Later ones count more."""
    kinds = (KindNoiseOptions(kind="drift.*", duration_ms=500), KindNoiseOptions(kind="*.input", duration_ms=100))
    bench = Bench(options(kinds=kinds))
    assert bench.event(0, raised("a", kind="drift.input"), raised("b")) == ["opened b"]
    assert bench.event(99) == []
    assert bench.event(100) == ["opened a"]


# -------------------------------------------------------------------------------------------------------------- updates


def test_updates_are_told_seldom() -> None:
    """Twice as many flagged events, another feature, a doubling of strength: once in ten seconds, the latest."""
    bench = Bench(noise(update_ms=10_000))
    bench.event(0, raised(flagged_events=1))
    assert bench.event(1_000, raised(status="updated", flagged_events=2)) == []
    assert bench.event(2_000, raised(status="updated", flagged_events=9)) == []
    assert bench.event(10_000) == ["updated age"]
    assert bench.last.flagged_events == 9
    assert bench.event(15_000, raised("income", subject="age", status="updated", flagged_events=9)) == []
    assert bench.event(20_000) == ["updated age"]
    assert bench.event(50_000, raised("income", subject="age", status="updated", flagged_events=10)) == []
    assert bench.event(51_000, raised("income", subject="age", status="updated", strength=3.0)) == ["updated age"]


def test_what_is_news_is_measured_against_what_was_told() -> None:
    """Twice the flagged events, not fewer; a doubling beyond the strongest that was told, not beyond the latest."""
    bench = Bench(options())
    bench.event(0, raised(strength=2.0, flagged_events=3))
    assert bench.event(1, raised(status="updated", strength=2.9, flagged_events=5)) == []
    assert bench.event(2, raised(status="updated", strength=2.9, flagged_events=6)) == ["updated age"]
    assert bench.event(3, raised(status="updated", strength=3.8, flagged_events=11)) == []
    assert bench.event(4, raised(status="updated", strength=3.9, flagged_events=11)) == ["updated age"]
    assert bench.event(5, raised(status="updated", strength=1.0, flagged_events=22)) == ["updated age"]
    assert bench.event(6, raised(status="updated", strength=4.8, flagged_events=23)) == []
    assert bench.last.updates == 3


def test_a_rise_in_severity_is_told_at_once() -> None:
    """But not two within ten seconds; and a fall is no news: an incident keeps its highest severity."""
    bench = Bench(noise(update_ms=10_000))
    bench.event(0, raised(severity="info"))
    assert bench.event(1, raised(status="updated", severity="warning")) == ["updated age"]
    assert bench.event(2, raised(status="updated", severity="critical")) == []
    assert bench.event(10_001) == ["updated age"]
    assert bench.event(60_000, raised(status="updated", severity="info")) == []
    bench.event(60_001, over(severity="info"))
    assert [each.severity for each in bench.alerts] == ["info", "warning", "critical", "critical"]


# ----------------------------------------------------------------------------------------------------- what it tells


def test_the_last_good_pane_is_the_last_one_before_it_began() -> None:
    """In which there were events."""
    bench = Bench(options())
    bench.batch([0, 1_500, 2_500])
    bench.event(7_500, raised(at_ms=START_MS + 7_500, onset_ms=START_MS + 5_200))
    good = bench.last.last_good
    assert good is not None
    assert (good.start_ms, good.end_ms) == (START_MS + 2_000, START_MS + 3_000)
    assert bench.last.onset_ms == START_MS + 5_200


def test_panes_in_which_it_was_raised_were_not_good() -> None:
    """Of a condition that comes again: all from when it began until it was over are bad."""
    bench = Bench(noise(cooldown_ms=60_000))
    bench.batch([500, 1_500, 2_500], raised(at_ms=START_MS + 2_500))
    bench.batch([3_500, 4_500, 5_500, 6_100], over())
    bench.event(6_500, raised(number=1, at_ms=START_MS + 6_500))
    bench.event(70_000)
    assert bench.last.status == "opened"
    good = bench.last.last_good
    assert good is not None
    assert good.start_ms == START_MS + 1_000


def test_totals_are_of_all_times_that_it_came() -> None:
    """While the incident stays open."""
    bench = Bench(noise(clear_ms=10_000))
    bench.event(0, raised(flagged_events=3, events=10))
    bench.event(1_000, over(flagged_events=4, events=20))
    bench.event(2_000, raised(number=1, flagged_events=2, events=5))
    bench.event(3_000, over(number=1, flagged_events=6, events=7))
    assert bench.event(13_000) == ["resolved age"]
    assert (bench.last.flagged_events, bench.last.events, bench.last.duration_ms) == (10, 27, 13_000)


def test_incidents_of_a_situation_point_to_their_likely_cause() -> None:
    """A feature that is missing makes drift; both are told as one situation."""
    bench = Bench(options(situation_gap_ms=1_000))
    bench.event(0, raised("income", kind="drift.input"))
    bench.event(100, raised())
    drift, missing = (each.situation for each in bench.alerts)
    assert drift is not None
    assert missing is not None
    assert drift.situation_id == missing.situation_id
    assert (missing.incidents, missing.open_incidents, missing.cause_kind) == (2, 2, "quality.missing")
    assert missing.cause_incident_id == bench.last.incident_id
    assert missing.cause_summary == "age 0"
