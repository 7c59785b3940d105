"""Laws of incidents: whatever is raised under whatever options, cut or interrupted anywhere.

The laws look at all that is told of a story (tests/incidents.py), beside a naive twin (tests/incident_twin.py).
"""

import random
from collections.abc import Sequence

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.incident_twin import RestLaw, StepLaw, Subject, Twin
from tests.incidents import RANK, Player, Step, Story, story
from tests.raised import PANE_MS
from worker.core.alerts.measures import cause_rank
from worker.core.events import AlertEvent
from worker.core.telling import Told


def steps_are_opened_updated_resolved(twin: Twin, subject: Subject, record: AlertEvent) -> None:
    """One incident of a fingerprint at a time; each has an id of its own; no step is told twice."""
    shown = subject.shown
    assert (record.status == "opened") is (shown is None)
    assert record.alert_id not in twin.ids
    if shown is None:
        assert record.incident_id not in twin.ids
        twin.ids.add(record.incident_id)
        assert (record.updates, record.opened_at_ms, record.duration_ms) == (0, record.timestamp_ms, None)
    else:
        assert record.incident_id == shown.incident_id
        assert record.updates == shown.updates + (record.status == "updated")
    twin.ids.add(record.alert_id)
    assert record.timestamp_ms == twin.now_ms


def a_resolved_one_tells_how_long_it_was(twin: Twin, subject: Subject, record: AlertEvent) -> None:
    """From its opening on."""
    if record.status == "resolved":
        assert subject.shown is not None
        assert record.resolved_at_ms == record.timestamp_ms
        assert record.duration_ms == record.timestamp_ms - record.opened_at_ms >= 0
        assert twin.was_set_back or record.opened_at_ms == subject.shown.opened_at_ms


def the_condition_holds_when_it_opens(twin: Twin, subject: Subject, record: AlertEvent) -> None:
    """Severity, strength, direction, deviation; for long enough, in enough panes, after the cooldown."""
    if record.status == "opened":
        assert twin.reaches(subject)
        assert twin.may_open(subject) or twin.is_unsure(subject)
        assert record.onset_ms is not None
        assert record.onset_ms <= record.opened_at_ms


def nothing_is_told_that_is_suppressed(twin: Twin, subject: Subject, record: AlertEvent) -> None:
    """Under a silence, in a window, of a new version, ignored: no opening and no update; but that it is over."""
    if record.status != "resolved":
        assert not twin.suppressing(subject.record)


def the_budget_is_kept(twin: Twin, subject: Subject, record: AlertEvent) -> None:
    """Within any 24 hours, and what opens late in it is worth it."""
    if record.status == "opened" and twin.options.alerts.openings_per_day_max:
        assert "budget" not in twin.holding(subject)
        assert len(twin.recent()) < twin.options.alerts.openings_per_day_max


def updates_are_seldom(twin: Twin, subject: Subject, record: AlertEvent) -> None:
    """Once in `update_ms`; rises in severity at once, but not twice within it."""
    if record.status == "updated":
        assert subject.shown is not None
        after_ms = twin.rules(record).update_ms
        rose = RANK[record.severity] > RANK[subject.shown.severity]
        if not (rose and twin.clock_ms - subject.rise_ms >= after_ms):
            assert twin.clock_ms - subject.shown_ms >= after_ms


def severity_never_falls(twin: Twin, subject: Subject, record: AlertEvent) -> None:
    """An open incident keeps the highest."""
    if subject.shown is not None:
        assert RANK[record.severity] >= RANK[subject.shown.severity]
    if record.status != "resolved":
        assert RANK[record.severity] >= RANK[subject.record.severity]


def it_is_over_when_it_is_calm(twin: Twin, subject: Subject, record: AlertEvent) -> None:
    """Under the lower level (hysteresis), for long enough; for longer if it flaps."""
    if record.status == "resolved":
        assert not twin.stays(subject)
        assert subject.calm_ms is not None
        assert twin.clock_ms >= subject.calm_ms + calm_for_ms(twin, record)
        assert record.flapping is subject.flaps


def totals_are_of_all_its_raises(twin: Twin, subject: Subject, record: AlertEvent) -> None:
    """Flagged events of a condition that came and went count together."""
    assert record.flagged_events == subject.flagged_before + subject.record.flagged_events


def the_last_good_pane_was_good(twin: Twin, subject: Subject, record: AlertEvent) -> None:
    """There were events in it, the condition had not begun, and was not raised."""
    good = record.last_good
    if good is not None and not twin.was_set_back:
        pane = good.start_ms // PANE_MS
        assert (good.start_ms, good.end_ms) == (pane * PANE_MS, (pane + 1) * PANE_MS)
        assert pane in twin.row_panes
        assert record.onset_ms is not None
        assert good.end_ms <= record.onset_ms
        assert pane not in subject.bad_panes


def a_situation_is_what_overlaps(twin: Twin, subject: Subject, record: AlertEvent) -> None:
    """All that is open is in one situation; after a gap there is another one."""
    others = sum(each.shown is not None for each in twin.subjects.values() if each is not subject)
    its = record.situation
    assert its is not None
    assert its.open_incidents == others + (record.status != "resolved") <= its.incidents
    assert its.cause_incident_id in twin.ids
    if record.status != "opened":
        assert its.situation_id == twin.situation
    else:
        goes_on = others > 0 or twin.now_ms - twin.calm_ms <= twin.options.alerts.situation_gap_ms
        assert (its.situation_id == twin.situation) is goes_on


def the_likely_cause_may_have_begun_before_all(twin: Twin, subject: Subject, record: AlertEvent) -> None:
    """Of what began before the first opening of the situation, kept or not, the first on the way from the data."""
    its = record.situation
    assert its is not None
    openings = twin.situation_openings if its.situation_id == twin.situation else []
    openings = [*openings, record] if record.status == "opened" else openings
    if not twin.was_set_back:
        began = [each for each in openings if (each.onset_ms or 0) <= openings[0].opened_at_ms]
        cause = min(began, key=lambda each: (cause_rank(each.kind), each.onset_ms))
        assert (its.cause_incident_id, its.cause_kind) == (cause.incident_id, cause.kind)


ON_STEP: tuple[StepLaw, ...] = (
    steps_are_opened_updated_resolved,
    a_resolved_one_tells_how_long_it_was,
    the_condition_holds_when_it_opens,
    nothing_is_told_that_is_suppressed,
    the_budget_is_kept,
    updates_are_seldom,
    severity_never_falls,
    it_is_over_when_it_is_calm,
    totals_are_of_all_its_raises,
    the_last_good_pane_was_good,
    a_situation_is_what_overlaps,
    the_likely_cause_may_have_begun_before_all,
)


def calm_for_ms(twin: Twin, record: AlertEvent) -> int:
    """Return how long an incident must be calm to be over."""
    rules = twin.rules(record)
    return max(rules.clear_ms, rules.flap_clear_ms) if record.flapping else rules.clear_ms


def the_table_has_what_is_open(twin: Twin, subject: Subject, step: Step) -> None:
    """A reader of the compacted topic sees exactly the open incidents, as they were told last."""
    shown = {each.shown.fingerprint: each.shown for each in twin.subjects.values() if each.shown is not None}
    assert twin.table == shown


def what_may_open_is_open_or_told_why_not(twin: Twin, subject: Subject, step: Step) -> None:
    """Nothing that was raised is lost, nor later than it must be."""
    if twin.may_open(subject) and not twin.is_unsure(subject) and twin.clock_ms >= twin.latest_tick_ms:
        assert subject.reasons, "somebody was told that it is held back"
        assert twin.holding(subject), "and there is a reason still"


def what_is_calm_is_over(twin: Twin, subject: Subject, step: Step) -> None:
    """No incident stays open without need."""
    if subject.calm_ms is not None and twin.clock_ms >= twin.latest_tick_ms:
        shown = msgspec.structs.replace(subject.record, flapping=subject.flaps)
        assert twin.clock_ms < subject.calm_ms + calm_for_ms(twin, shown)


def a_rise_in_severity_is_told_at_once(twin: Twin, subject: Subject, step: Step) -> None:
    """Unless another one was just told, or it is suppressed: then when that is over."""
    record, shown = subject.record, subject.shown
    if shown is None or not twin.stays(subject) or twin.suppressing(record):
        return
    if twin.clock_ms - subject.rise_ms >= twin.rules(record).update_ms and twin.clock_ms >= twin.latest_tick_ms:
        assert RANK[shown.severity] >= RANK[record.severity]


AT_REST: tuple[RestLaw, ...] = (
    the_table_has_what_is_open,
    what_may_open_is_open_or_told_why_not,
    what_is_calm_is_over,
    a_rise_in_severity_is_told_at_once,
)


def play(tale: Story, crashes: Sequence[int] = ()) -> tuple[list[Told], bytes]:
    """Play a story step by step, with crashes before some steps; return what is told, and the state in the end."""
    player = Player(tale.options)
    out: list[Told] = []
    for place, step in enumerate(tale.steps):
        if place in crashes:
            player.crash()
        out += player.play(step).told
    return out, player.stored()


STORIES = {"seed": st.integers(0, 2**32), "count": st.integers(30, 250)}


@settings(max_examples=150, deadline=None)
@given(**STORIES)
def test_laws_hold_at_every_step(seed: int, count: int) -> None:
    """Of whatever is raised."""
    tale = story(seed, count)
    player, twin = Player(tale.options), Twin(tale.options, ON_STEP, AT_REST)
    for step in tale.steps:
        before = player.stored() if step.what == "tick" else b""
        happened = player.play(step)
        twin.take(happened, player.silences)
        if step.what == "tick":
            assert happened.was_wanted or player.stored() == before, "a tick that nobody wants changes nothing"
            assert not player.desk.wants_tick(step.now_ms), "and one is enough"
    assert player.desk.open_incidents == len(twin.table)


@settings(max_examples=60, deadline=None)
@given(**STORIES, crashes=st.sets(st.integers(0, 250), max_size=6))
def test_a_crash_changes_nothing(seed: int, count: int, crashes: set[int]) -> None:
    """Whatever is open, held back, silenced or remembered when the worker dies: another one goes on with it."""
    tale = story(seed, count)
    assert play(tale, sorted(crashes)) == play(tale)


@settings(max_examples=60, deadline=None)
@given(**STORIES, size=st.integers(2, 60))
def test_batches_change_nothing(seed: int, count: int, size: int) -> None:
    """Rows that come in larger batches give the same, timers included."""
    tale = story(seed, count)
    rng, player = random.Random(size), Player(tale.options)
    out: list[Told] = []
    rows: list[Step] = []
    for step in tale.steps:
        if rows and (step.what != "row" or len(rows) >= rng.randint(1, size)):
            out += player.rows(rows)
            rows = []
        if step.what == "row":
            rows.append(step)
        else:
            out += player.play(step).told
    out += player.rows(rows) if rows else []
    assert (out, player.stored()) == play(tale)
