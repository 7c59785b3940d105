"""Incidents that overlap in time are one situation, with its likely cause."""

import msgspec
import pytest

from worker.core.alerts.situation import Member, Situations, StoredSituation
from worker.core.events import AlertKind

MINUTE_MS = 60_000


class Scene:
    """Situations at work, with a gap of five minutes."""

    def __init__(self, members_max: int = 10) -> None:
        self.of = Situations(5 * MINUTE_MS, members_max)

    def opens(self, name: str, kind: AlertKind, at_ms: int, onset_ms: int | None = None) -> str:
        """An incident opens; return the situation's id."""
        member = Member(name, kind, at_ms if onset_ms is None else onset_ms, f"{name} is wrong")
        return self.of.opened(member, at_ms).situation_id

    @property
    def cause(self) -> str:
        """Return the likely cause."""
        return self.of.now().cause_incident_id


def test_incidents_that_overlap_are_one_situation() -> None:
    """However long they last."""
    scene = Scene()
    first = scene.opens("a", "quality.missing", 0)
    assert scene.opens("b", "drift.input", 90 * MINUTE_MS) == first
    told = scene.of.resolved("a", 91 * MINUTE_MS)
    assert (told.incidents, told.open_incidents, told.opened_at_ms) == (2, 1, 0)


def test_a_short_rest_does_not_end_a_situation() -> None:
    """Five minutes belong to it; a moment more is another one."""
    scene = Scene()
    first = scene.opens("a", "quality.missing", 0)
    scene.of.resolved("a", MINUTE_MS)
    assert scene.opens("b", "quality.missing", 6 * MINUTE_MS) == first
    scene.of.resolved("b", 7 * MINUTE_MS)
    assert scene.opens("c", "quality.missing", 12 * MINUTE_MS + 1) != first
    told = scene.of.now()
    assert (told.incidents, told.open_incidents, told.cause_incident_id) == (1, 1, "c")


def test_what_began_before_the_first_one_opened_may_be_the_cause() -> None:
    """Whenever it was found: of these the data come first. A feature that is missing makes drift and errors."""
    scene = Scene()
    scene.opens("errors", "performance.drop", 20 * MINUTE_MS, onset_ms=0)
    assert scene.cause == "errors"
    scene.opens("drift", "drift.input", 30 * MINUTE_MS, onset_ms=15 * MINUTE_MS)
    assert scene.cause == "drift"
    scene.opens("missing", "quality.missing", 40 * MINUTE_MS, onset_ms=20 * MINUTE_MS)
    assert scene.cause == "missing"
    assert scene.of.now().cause_summary == "missing is wrong"


def test_what_began_after_the_first_one_opened_did_not_cause_it() -> None:
    """Be it ever so early on the way from the data to the labels."""
    scene = Scene()
    scene.opens("errors", "performance.drop", 20 * MINUTE_MS, onset_ms=0)
    scene.opens("missing", "quality.missing", 20 * MINUTE_MS + 1)
    scene.opens("schema", "quality.schema", 30 * MINUTE_MS, onset_ms=20 * MINUTE_MS + 1)
    assert scene.cause == "errors"


def test_a_wide_window_does_not_make_a_cause() -> None:
    """Labels are looked at over an hour, so what they show may have begun long before: it is the effect still."""
    scene = Scene()
    scene.opens("missing", "quality.missing", 60 * MINUTE_MS, onset_ms=59 * MINUTE_MS)
    scene.opens("bias", "bias.calibration", 65 * MINUTE_MS, onset_ms=5 * MINUTE_MS)
    assert scene.cause == "missing"


def test_of_one_kind_the_one_that_began_first_is_the_cause() -> None:
    """As far as is known; of two that began together, the one that was told first."""
    scene = Scene()
    scene.opens("first", "drift.input", 20 * MINUTE_MS, onset_ms=10 * MINUTE_MS)
    scene.opens("same", "drift.input", 21 * MINUTE_MS, onset_ms=10 * MINUTE_MS)
    assert scene.cause == "first"
    scene.opens("early", "drift.input", 22 * MINUTE_MS, onset_ms=9 * MINUTE_MS)
    assert scene.cause == "early"


def test_the_first_opening_counts_though_it_is_kept_no_longer() -> None:
    """What began after it is no cause, however many came between."""
    scene = Scene(members_max=2)
    scene.opens("errors", "performance.drop", 10 * MINUTE_MS)
    scene.opens("drift", "drift.input", 11 * MINUTE_MS, onset_ms=9 * MINUTE_MS)
    scene.of.resolved("errors", 12 * MINUTE_MS)
    scene.opens("type", "quality.type", 13 * MINUTE_MS)
    assert [each.incident_id for each in scene.of.state().members] == ["drift", "type"]
    scene.opens("schema", "quality.schema", 20 * MINUTE_MS, onset_ms=10 * MINUTE_MS + 1)
    assert scene.cause == "drift"


def test_the_cause_stays_when_it_is_over() -> None:
    """What it has caused may last longer."""
    scene = Scene()
    scene.opens("missing", "quality.missing", 0)
    scene.opens("errors", "performance.drop", 5 * MINUTE_MS)
    assert scene.of.resolved("missing", 6 * MINUTE_MS).cause_incident_id == "missing"


def test_no_more_members_are_kept_than_asked_for() -> None:
    """The cause stays, and all are counted; what is over goes first."""
    scene = Scene(members_max=3)
    scene.opens("cause", "quality.missing", 0)
    for number in range(20):
        scene.opens(f"n{number}", "drift.input", (number + 5) * MINUTE_MS)
        if number != 3:
            scene.of.resolved(f"n{number}", (number + 5) * MINUTE_MS)
    assert [each.incident_id for each in scene.of.state().members] == ["cause", "n3", "n19"]
    told = scene.of.now()
    assert (told.incidents, told.open_incidents, told.cause_incident_id) == (21, 2, "cause")


def test_a_clock_that_was_wrong_does_not_keep_a_situation_for_ever() -> None:
    """What was calm next year is calm now."""
    scene = Scene()
    first = scene.opens("a", "quality.missing", 10**12)
    scene.of.resolved("a", 10**12)
    scene.of.follow_back(1_000)
    assert scene.opens("b", "drift.input", 1_000 + 5 * MINUTE_MS) == first
    scene.of.resolved("b", 1_000 + 5 * MINUTE_MS)
    assert scene.opens("c", "drift.input", 1_001 + 10 * MINUTE_MS) != first


def test_a_situation_survives_a_restart() -> None:
    """With its members, its name and its rest."""
    scene, other = Scene(), Scene()
    first = scene.opens("a", "quality.missing", 0)
    scene.of.resolved("a", MINUTE_MS)
    stored = msgspec.msgpack.encode(scene.of.state())
    other.of.restore(msgspec.msgpack.decode(stored, type=StoredSituation))
    assert other.of.now() == scene.of.now()
    assert other.opens("b", "drift.input", 6 * MINUTE_MS) == first


@pytest.mark.parametrize(
    "stored",
    [
        StoredSituation("s", 0, 0, [], 3),
        StoredSituation("", 0, 0, [Member("a", "drift.input", 0, "")], 1),
        StoredSituation("s", 0, 0, [Member(name, "drift.input", 0, "") for name in "ab"], 1),
        StoredSituation("s", 5, 5, [Member("a", "drift.input", 6, "")], 1),
    ],
)
def test_a_situation_that_cannot_be_is_refused(stored: StoredSituation) -> None:
    """Without members, without a name, with more members than incidents, or without anything that can be the cause."""
    with pytest.raises(ValueError, match="stored situation"):
        Scene().of.restore(stored)


def test_all_that_is_open_is_kept_and_counted() -> None:
    """Beside a cause that is over, and though these are more than are kept otherwise; it lasts until all are over."""
    scene = Scene(members_max=2)
    first = scene.opens("cause", "quality.missing", 0)
    scene.of.resolved("cause", MINUTE_MS)
    for name in ("b", "c", "d"):
        scene.opens(name, "drift.input", 2 * MINUTE_MS)
    assert (scene.of.now().open_incidents, scene.cause) == (3, "cause")
    assert [scene.of.resolved(name, 3 * MINUTE_MS).open_incidents for name in "dc"] == [2, 1]
    assert scene.opens("late", "drift.input", 30 * MINUTE_MS) == first
    assert [each.incident_id for each in scene.of.state().members] == ["cause", "b", "late"]
