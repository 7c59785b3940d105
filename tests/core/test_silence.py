"""Streams that used to speak and do not any more."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from worker.core.events import AlertEvent, EvidenceRow, StaleEvidence
from worker.core.options import StaleOptions
from worker.core.silence import WEEK_MS, Pulse, PulseOptions, SilenceWatch, StoredSilence
from worker.core.telling import Owner, Told

SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
LOOK = 5 * SECOND
"""The loop asks so often whether a tick is wanted."""
BEGIN = 2_900 * WEEK_MS
OPTIONS = StaleOptions(records_min=10)


def new_watch(options: StaleOptions = OPTIONS) -> SilenceWatch:
    """Return a watch of the model `fraud-model` in shard 3."""
    return SilenceWatch(Owner("fraud-model", 3, "predictions"), options, "outcomes")


def alerts(told: Sequence[Told]) -> list[AlertEvent]:
    """Return the alerts among what is told."""
    return [each.record for each in told if isinstance(each.record, AlertEvent)]


@dataclass
class World:
    """A monitor's streams in real time: event time is the time of the clock."""

    watch: SilenceWatch = field(default_factory=new_watch)
    now_ms: int = BEGIN
    offset: int = 100
    label_offset: int = 1_000
    event_ms: int = BEGIN
    ticks: int = 0

    def predict(self) -> list[AlertEvent]:
        """Let a prediction come."""
        self.offset, self.event_ms = self.offset + 1, self.now_ms
        return alerts(self.watch.predicted(np.array([self.now_ms]), np.array([self.offset])))

    def label(self) -> list[AlertEvent]:
        """Let a label come."""
        self.label_offset += 1
        return alerts(self.watch.labelled(np.array([self.now_ms]), np.array([self.label_offset])))

    def wait(self, length_ms: int) -> list[AlertEvent]:
        """Let time pass without a record, looking as the loop does."""
        told = []
        for _ in range(length_ms // LOOK):
            self.now_ms += LOOK
            if self.watch.wants_tick(self.now_ms):
                self.ticks += 1
                told += alerts(self.watch.tick(self.now_ms, self.offset, self.event_ms))
        return told

    def speak(self, length_ms: int, every_ms: int = MINUTE, *, labels: bool = False) -> list[AlertEvent]:
        """Let a prediction (and a label) come at once, and every so often for so long."""
        told = []
        for _ in range(length_ms // every_ms):
            told += self.predict() + (self.label() if labels else []) + self.wait(every_ms)
        return told


def test_silent_predictions_are_told_once_and_end_with_the_next() -> None:
    """The alert says for how long, what is usual, and where the last record is."""
    world = World()
    assert world.speak(HOUR, every_ms=3 * MINUTE) == []
    last_ms, last_offset = world.event_ms, world.offset
    [opened] = world.wait(DAY)
    assert world.watch.is_open
    assert (opened.kind, opened.status, opened.severity) == ("stale.predictions", "opened", "critical")
    assert opened.summary == "no prediction of fraud-model for 6 min; usual are pauses up to 3 min"
    assert opened.stale == StaleEvidence(
        silent_ms=6 * MINUTE,
        usual_ms=3 * MINUTE,
        limit_ms=6 * MINUTE,
        last_ms=last_ms,
        last_offset=last_offset,
        records=20,
    )
    assert opened.evidence == [EvidenceRow("predictions", 3, last_offset, None, last_ms, None)]
    assert opened.timestamp_ms == opened.opened_at_ms == world.event_ms
    [resolved] = world.predict()
    assert (resolved.status, resolved.incident_id, resolved.fingerprint) == (
        "resolved",
        opened.incident_id,
        opened.fingerprint,
    )
    assert resolved.alert_id != opened.alert_id
    assert resolved.resolved_at_ms == resolved.timestamp_ms == world.now_ms
    assert resolved.stale is not None
    assert resolved.stale.silent_ms == world.now_ms - last_ms
    assert world.predict() == []


def test_watch_is_open_while_a_stream_is_silent() -> None:
    """And not before or after."""
    world = World()
    world.speak(HOUR)
    seen = [world.watch.is_open]
    world.wait(HOUR)
    seen.append(world.watch.is_open)
    world.predict()
    assert [*seen, world.watch.is_open] == [False, True, False]


def test_the_end_is_told_at_the_first_record_of_a_batch() -> None:
    """Whatever comes with it in the same batch."""
    world = World()
    world.speak(HOUR)
    world.wait(HOUR)
    times = np.array([world.now_ms, world.now_ms + 5])
    [told] = world.watch.predicted(times, np.array([500, 510]))
    assert told.offset == 500
    assert alerts([told])[0].resolved_at_ms == times[0]


def test_a_stream_with_few_records_has_no_usual_pace() -> None:
    """It is not called silent, and costs no tick."""
    world = World()
    world.speak(9 * MINUTE)
    assert world.wait(DAY) == []
    assert world.ticks == 0


def test_silent_labels_are_told_while_predictions_come() -> None:
    """A warning, at the monitor's watermark, with the place of the last label; the next label ends it."""
    world = World()
    world.speak(HOUR, labels=True)
    last_offset = world.label_offset
    [opened] = world.speak(HOUR)
    assert (opened.kind, opened.status, opened.severity) == ("stale.labels", "opened", "warning")
    assert opened.summary == ("no label of fraud-model for 15 min while predictions come; usual are pauses up to 1 min")
    assert [(row.topic, row.partition, row.offset) for row in opened.evidence] == [("outcomes", 3, last_offset)]
    assert opened.stale is not None
    assert opened.opened_at_ms - opened.stale.last_ms == pytest.approx(15 * MINUTE, abs=2 * MINUTE)
    [resolved] = world.label()
    assert (resolved.status, resolved.incident_id) == ("resolved", opened.incident_id)
    assert resolved.summary == "labels of fraud-model come again, after 61 min"


def test_labels_are_not_called_silent_while_predictions_are() -> None:
    """Where nothing is predicted, nothing can be labelled."""
    world = World()
    world.speak(HOUR, labels=True)
    assert [each.kind for each in world.wait(2 * DAY)] == ["stale.predictions"]
    for _ in range(500):
        # Ticks that something else of the monitor wants.
        world.now_ms += MINUTE
        assert world.watch.tick(world.now_ms, world.offset, world.event_ms) == []


def test_open_silence_of_labels_waits_for_a_label() -> None:
    """Predictions that fall silent too, and come again, do not end it."""
    world = World()
    world.speak(HOUR, labels=True)
    told = world.speak(HOUR) + world.wait(DAY) + world.speak(MINUTE)
    assert [(each.kind, each.status) for each in told] == [
        ("stale.labels", "opened"),
        ("stale.predictions", "opened"),
        ("stale.predictions", "resolved"),
    ]
    assert world.watch.is_open
    assert [each.status for each in world.label()] == ["resolved"]


@pytest.mark.parametrize("cut", [1, 7, 300])
def test_labels_out_of_order_make_no_pauses(cut: int) -> None:
    """Times of labels that go back and forth by an hour do not widen what is usual, however they are cut."""
    times = BEGIN + SECOND * np.arange(300) + HOUR * (np.arange(300) % 2)
    watch = new_watch()
    for begin in range(0, 300, cut):
        watch.labelled(times[begin : begin + cut], np.arange(begin, min(300, begin + cut)))
    pulse = watch.state().labels.pulse
    assert (pulse.last_ms, pulse.pauses[0]) == (int(times.max()), (HOUR + SECOND, 2 * SECOND))


def test_label_with_an_old_time_ends_the_incident_when_it_opened() -> None:
    """Labels have times of their own; an incident does not end before it begins."""
    world = World()
    world.speak(HOUR, labels=True)
    [opened] = world.speak(HOUR)
    [resolved] = alerts(world.watch.labelled(np.array([BEGIN]), np.array([9_000])))
    assert resolved.resolved_at_ms == resolved.timestamp_ms == opened.opened_at_ms


def test_rare_predictions_do_not_keep_labels_from_being_missed() -> None:
    """Predictions every four minutes are predictions that come."""
    world = World()
    world.speak(2 * HOUR, every_ms=4 * MINUTE, labels=True)
    assert [each.kind for each in world.speak(3 * HOUR, every_ms=4 * MINUTE)] == ["stale.labels"]


def test_hours_in_which_the_worker_was_away_are_no_silence() -> None:
    """They count as one step; a stream that stays silent is told after that."""
    world = World()
    world.speak(HOUR)
    world.wait(MINUTE)
    world.now_ms += 10 * HOUR
    assert world.wait(3 * MINUTE) == []
    assert [each.kind for each in world.wait(3 * MINUTE)] == ["stale.predictions"]


def test_many_restarts_do_not_make_a_silence() -> None:
    """A stream that speaks after each of them is never called silent."""
    world = World()
    world.speak(HOUR)
    for _ in range(50):
        world.now_ms += 2 * HOUR
        assert world.wait(MINUTE) + world.speak(2 * MINUTE) == []


def test_clock_that_is_set_back_adds_nothing_and_stops_nothing() -> None:
    """Silence is measured on from the new time."""
    world = World()
    world.speak(HOUR)
    world.wait(2 * MINUTE)
    world.now_ms -= DAY
    assert world.wait(2 * MINUTE) == []
    assert len(world.wait(2 * MINUTE)) == 1


def test_nightly_pauses_alarm_twice_and_are_usual_then() -> None:
    """One long pause may have been an outage; from the second on it is known."""
    world = World()
    nights = []
    for _ in range(8):
        world.speak(16 * HOUR, every_ms=5 * MINUTE)
        nights.append(len(world.wait(8 * HOUR)))
    assert nights == [1, 1] + [0] * 6


def test_pauses_are_forgotten_after_three_weeks() -> None:
    """Nights that are not silent any more make no limit."""
    world = World()
    for _ in range(3):
        world.speak(16 * HOUR, every_ms=5 * MINUTE)
        world.wait(8 * HOUR)
    assert world.watch.state().predictions.pulse.pauses[0] == (8 * HOUR + 5 * MINUTE, 8 * HOUR + 5 * MINUTE)
    world.speak(17 * DAY, every_ms=10 * MINUTE)
    assert len(world.wait(HOUR)) == 0
    world.speak(5 * DAY, every_ms=10 * MINUTE)
    [opened] = world.wait(HOUR)
    assert opened.stale is not None
    assert opened.stale.usual_ms == 10 * MINUTE


@given(
    usual_ms=st.integers(0, 3 * DAY),
    least_ms=st.integers(0, DAY),
    factor=st.floats(1.0, 100.0),
    look_ms=st.integers(100, MINUTE),
)
def test_silence_costs_few_ticks(usual_ms: int, least_ms: int, factor: float, look_ms: int) -> None:
    """However long it is and however often the loop looks."""
    pulse = Pulse(PulseOptions(least_ms, factor, 3))
    pulse.came(BEGIN + usual_ms * np.arange(3), 2)
    asked = 0
    wanted: list[int] = []
    while not pulse.stale and len(wanted) < 100:
        # Looks between two steps would be in vain; they are skipped, so that the test is quick.
        step_ms = max(10 * SECOND, -(-pulse.limit_ms // 16))
        assert not (wanted and pulse.wants_tick(BEGIN + wanted[-1] + step_ms - 1))
        asked = wanted[-1] + -(-step_ms // look_ms) * look_ms if wanted else asked
        assert pulse.wants_tick(BEGIN + asked)
        wanted.append(asked)
        pulse.tick(BEGIN + asked)
    assert pulse.stale
    assert len(wanted) <= 17
    assert not pulse.wants_tick(BEGIN + asked + DAY)


def test_silent_day_in_the_loop_costs_few_ticks() -> None:
    """So little goes into the journal of an idle shard."""
    world = World()
    world.speak(HOUR, labels=True)
    before = world.ticks
    world.wait(DAY)
    assert world.ticks - before <= 20


def test_watermark_that_is_set_back_makes_no_pause() -> None:
    """One record from the future costs one pause, which is not the second longest."""
    pulse = Pulse(PulseOptions(MINUTE, 2.0, 3))
    pulse.came(BEGIN + np.array([0, 10, 20, 400 * DAY, 30, 40]), 5)
    assert (pulse.last_ms, pulse.usual_ms) == (BEGIN + 40, 10)
    pulse.came(np.array([BEGIN + 41]), 6)
    assert pulse.usual_ms == 10


def test_switched_off_it_says_nothing_and_wants_nothing() -> None:
    """But what was open before still ends."""
    world = World(new_watch(replace(OPTIONS, enabled=False)))
    world.speak(HOUR, labels=True)
    assert world.speak(HOUR) + world.wait(DAY) == []
    assert world.ticks == 0
    silent = World()
    silent.speak(HOUR)
    silent.wait(HOUR)
    world.watch.restore(silent.watch.state())
    assert [each.status for each in world.predict()] == ["resolved"]


def test_options_can_change_between_two_runs() -> None:
    """What is stored does not depend on them; the new ones hold at the next tick."""
    world = World()
    world.speak(HOUR)
    assert world.wait(4 * MINUTE) == []
    stored = world.watch.state()
    world.watch = new_watch(replace(OPTIONS, predictions_ms=MINUTE))
    world.watch.restore(stored)
    assert len(world.wait(30 * SECOND)) == 1


def test_ids_do_not_depend_on_times() -> None:
    """A replay in which ticks come at other times tells the same incident."""
    told = []
    for late_ms, shard_offset in ((0, 60), (7_777, 90)):
        watch = new_watch()
        watch.predicted(BEGIN + np.arange(60) * SECOND, np.arange(60))
        times = range(BEGIN + late_ms, BEGIN + HOUR, 20 * SECOND)
        event_ms = BEGIN + MINUTE + late_ms
        told.append([each for now_ms in times for each in watch.tick(now_ms, shard_offset, event_ms)])
        told[-1] += watch.predicted(np.array([BEGIN + HOUR + late_ms]), np.array([99]))
    assert [each.offset for each in told[0]] == [60, 99]
    assert [each.offset for each in told[1]] == [90, 99]
    ids = [[(each.incident_id, each.alert_id) for each in alerts(one)] for one in told]
    assert ids[0] == ids[1]
    assert len({alert_id for _, alert_id in ids[0]}) == 2


# Laws.

Step = tuple[str, Any]
_PAUSES = st.one_of(
    st.integers(0, 3 * MINUTE), st.sampled_from([HOUR, 9 * HOUR, WEEK_MS, 3 * WEEK_MS, -HOUR, -2 * WEEK_MS])
)
_STORY = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["predictions", "labels"]), st.lists(_PAUSES, min_size=1, max_size=12)),
        st.tuples(st.just("tick"), st.sampled_from([LOOK, 20 * SECOND, MINUTE, MINUTE, 5 * MINUTE, DAY, -MINUTE])),
        st.tuples(st.just("ticks"), st.integers(1, 30)),
    ),
    max_size=20,
)
LAWS = StaleOptions(predictions_ms=2 * MINUTE, labels_ms=3 * MINUTE, records_min=3)


@dataclass
class Story:
    """Steps as they happen, with all batches cut by `cut`."""

    cut: int = 10_000
    stores: bool = False
    watch: SilenceWatch = field(default_factory=lambda: new_watch(LAWS))
    told: list[Told] = field(default_factory=list)
    now_ms: int = BEGIN
    ends: dict[str, tuple[int, int]] = field(
        default_factory=lambda: dict.fromkeys(("predictions", "labels"), (BEGIN, 0))
    )

    def run(self, steps: Sequence[Step]) -> "Story":
        """Go through all steps; if it `stores`, the watch is stored and restored after each of them."""
        for what, how in steps:
            if what == "tick":
                self._tick(how)
            elif what == "ticks":
                for _ in range(how):
                    self._tick(30 * SECOND)
            else:
                self._take(what, how)
            if self.stores:
                self._store()
        return self

    def _tick(self, length_ms: int) -> None:
        self.now_ms += length_ms
        event_ms, offset = self.ends["predictions"]
        self.told += self.watch.tick(self.now_ms, offset, event_ms)

    def _take(self, stream: str, pauses: list[int]) -> None:
        last_ms, end = self.ends[stream]
        times = last_ms + np.cumsum(np.array(pauses))
        offsets = end + np.arange(len(times))
        self.ends[stream] = (int(times[-1]), end + len(times))
        take = self.watch.predicted if stream == "predictions" else self.watch.labelled
        for begin in range(0, len(times), self.cut):
            self.told += take(times[begin : begin + self.cut], offsets[begin : begin + self.cut])

    def _store(self) -> None:
        plain = msgspec.msgpack.encode(self.watch.state())
        self.watch = new_watch(LAWS)
        self.watch.restore(msgspec.msgpack.decode(plain, type=StoredSilence))


@settings(max_examples=80)
@given(steps=_STORY, cut=st.integers(1, 5))
def test_batches_can_be_cut_anywhere(steps: list[Step], cut: int) -> None:
    """What is told and what is stored are the same."""
    whole, pieces = Story().run(steps), Story(cut).run(steps)
    assert pieces.told == whole.told
    assert pieces.watch.state() == whole.watch.state()


@settings(max_examples=80)
@given(steps=_STORY)
def test_restored_watch_goes_on_as_the_old_one(steps: list[Step]) -> None:
    """Stored after every step, as bytes."""
    one, two = Story().run(steps), Story(stores=True).run(steps)
    assert two.told == one.told
    assert two.watch.state() == one.watch.state()


@settings(max_examples=80)
@given(steps=_STORY)
def test_silences_open_and_end_in_turn(steps: list[Step]) -> None:
    """Of each kind: opened, resolved, opened, ...; each opening is another incident."""
    told = alerts(Story().run(steps).told)
    for kind in ("stale.predictions", "stale.labels"):
        mine = [each for each in told if each.kind == kind]
        assert [each.status for each in mine] == ["opened", "resolved"] * (len(mine) // 2) + ["opened"] * (
            len(mine) % 2
        )
        for one, two in pairwise(mine):
            assert (one.incident_id == two.incident_id) == (two.status == "resolved")
        assert len({each.alert_id for each in mine}) == len(mine)
        assert all(each.resolved_at_ms is None or each.resolved_at_ms >= each.opened_at_ms for each in mine)


@settings(max_examples=80)
@given(pauses=st.lists(_PAUSES, min_size=1, max_size=40))
def test_usual_is_the_second_longest_pause_of_three_weeks(pauses: list[int]) -> None:
    """As counted record by record."""
    times = (BEGIN + np.cumsum(np.array(pauses))).tolist()
    kept: list[list[int]] = [[], [], []]
    for before, time in pairwise(times):
        if time // WEEK_MS > before // WEEK_MS:
            kept = [[], *kept[:2]]
        kept[0].append(max(0, time - before))
    pulse = Pulse(PulseOptions(0, 1.0, 1))
    pulse.came(np.array(times), len(times) - 1)
    assert pulse.usual_ms == sorted([0, 0, *kept[0], *kept[1], *kept[2]])[-2]


# What is refused.


def stored_story() -> StoredSilence:
    """Return the state of a watch whose predictions are silent."""
    world = World()
    world.speak(HOUR, labels=True)
    world.wait(HOUR)
    return world.watch.state()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pauses": [(0, 0)]}, "pauses of other weeks"),
        ({"pauses": [(0, 0), (1, 2), (0, 0)]}, "not the longest first"),
        ({"records_at_tick": 61}, "last tick is ahead"),
        ({"records_at_tick": 3}, "silent since before"),
        ({"last_offset": -1}, "last record without any"),
        ({"stale": False}, "without an incident"),
    ],
)
def test_state_that_cannot_be_is_refused(changes: dict[str, Any], reason: str) -> None:
    """With the reason."""
    stored = stored_story()
    new_watch().restore(stored)
    pulse = replace(stored.predictions.pulse, **changes)
    with pytest.raises(ValueError, match=reason):
        new_watch().restore(replace(stored, predictions=replace(stored.predictions, pulse=pulse)))


def test_state_with_ticks_ahead_of_predictions_is_refused() -> None:
    """Labels cannot have counted predictions that never came."""
    with pytest.raises(ValueError, match="ahead of its predictions"):
        new_watch().restore(replace(stored_story(), predictions_at_tick=61))
