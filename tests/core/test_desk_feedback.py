"""Feedback about incidents: what it asks of alerts, with whose name, and that it can be taken back."""

import json
from typing import Any

import pytest

from tests.raised import MODEL, START_MS, options, raised
from worker.core.alerts.effects import DEMAND_MAX
from worker.core.alerts.silences import KNOWN_FACTOR
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.events import AlertEvent, InputTopic, Output, OutputTopic, RawBatch
from worker.core.maintenance.metering import NoMeter
from worker.core.options import EngineOptions
from worker.core.shard import Shard, Topics
from worker.core.telling import Told

ABOUT = ("true_positive", "false_positive", "ignore_like_this")


class Office:
    """A shard that gets events, raised conditions and feedback; it remembers what was told last."""

    def __init__(self, partition: int = 0, of: EngineOptions | None = None) -> None:
        self.partition = partition
        self.shard = Shard(partition, Topics(), of or options(), InlineRefits(), NoMeter())
        self._events = self._said = 0
        self.incident_id = ""
        self.event()

    def _batch(self, topic: InputTopic, offset: int, value: dict[str, Any] | bytes) -> list[Output]:
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        batch = RawBatch(self.partition, [offset], [START_MS + offset], [raw], [b"k"], [None], topic)
        return self.shard.handle(batch)[0]

    def event(self, *records: AlertEvent) -> list[str]:
        """An event comes, and something is raised at it; return the steps that are told."""
        if records:
            told = [Told(OutputTopic.ALERTS, self._events, each.fingerprint, each) for each in records]
            self.shard._monitors[MODEL]._told += told
        self._events += 1
        event = {"event_id": f"e{self._events}", "model_id": MODEL, "features": {}, "prediction": 1.0}
        return self._steps(self._batch(InputTopic.PREDICTIONS, self._events - 1, event))

    def opens(self, name: str = "age", **fields: Any) -> str:  # noqa: ANN401 - fields of an alert
        """Something opens; return its id."""
        assert self.event(raised(name, **fields)) == [f"opened {name}"]
        return self.incident_id

    def says(self, kind: str, **fields: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - fields of feedback
        """Somebody says something; return the notes on it, and the steps of alerts under `steps`."""
        self._said += 1
        value: dict[str, Any] = {"kind": kind, "feedback_id": f"f{self._said}", "author": "ann", "reason": "a test"}
        if kind in ABOUT:
            value |= {"model_id": MODEL, "shard": self.partition, "incident_id": self.incident_id}
        if kind == "silence":
            value |= {"scope": {"kind": "quality.*"}, "to": START_MS + 1_000_000}
        out = self._batch(InputTopic.FEEDBACK, self._said, value | fields)
        notes = [json.loads(each.value or b"") for each in out if each.topic is OutputTopic.MAINTENANCE]
        self.steps = self._steps(out)
        return notes

    def garbage(self, value: bytes) -> list[Output]:
        """Something comes that is no feedback."""
        self._said += 1
        return self._batch(InputTopic.FEEDBACK, self._said, value)

    def _steps(self, out: list[Output]) -> list[str]:
        alerts = [json.loads(each.value or b"") for each in out if each.topic is OutputTopic.ALERTS]
        self.incident_id = alerts[-1]["incident_id"] if alerts else self.incident_id
        return [f"{each['status']} {each['fingerprint'].split()[-1]}" for each in alerts]


def test_each_false_positive_asks_for_twice_as_much() -> None:
    """One: nothing under a doubling beyond the threshold opens any more, of that kind alone."""
    office = Office()
    office.opens()
    (note,) = office.says("false_positive")
    assert (note["kind"], note["author"], note["reason"]) == ("feedback_applied", "ann", "false_positive")
    assert (note["threshold"], note["alert_kind"], note["incident_id"]) == (1.0, "quality.missing", office.incident_id)
    assert office.event(raised("income", strength=0.9)) == []
    assert office.event(raised("income", strength=1.0)) == ["opened income"]
    assert office.event(raised("amount", kind="drift.input", strength=0.0)) == ["opened amount"]


def test_what_is_asked_is_bounded_on_both_sides() -> None:
    """Sixteen times as much at most; and true positives never ask for less than what is configured."""
    office = Office()
    office.opens(strength=8.0)
    asked = [office.says("false_positive")[0]["threshold"] for _ in range(6)]
    assert asked == [1.0, 2.0, 3.0, 4.0, DEMAND_MAX, DEMAND_MAX]
    asked = [office.says("true_positive")[0]["threshold"] for _ in range(6)]
    assert asked == [3.0, 2.0, 1.0, 0.0, 0.0, 0.0]
    assert office.event(raised("income", strength=0.0)) == ["opened income"]


def test_undone_feedback_leaves_nothing_behind() -> None:
    """Also where it had no effect of its own, because of the bounds: it is as if it had never been."""
    office = Office()
    office.opens(strength=8.0)
    office.says("true_positive")
    office.says("false_positive")
    office.says("false_positive")
    (note,) = office.says("undo", undoes="f2", author="bob")
    assert (note["kind"], note["author"], note["feedback_id"], note["threshold"]) == ("feedback_undone", "bob", "f2", 1)
    assert "ann" in note["summary"]
    (note,) = office.says("undo", undoes="f1")
    assert note["threshold"] == 1.0
    (note,) = office.says("undo", undoes="f3")
    assert note["threshold"] == 0.0
    assert office.shard._monitors[MODEL]._desk.state().effects.effects == []


def test_a_false_positive_ends_the_incident_that_it_is_about() -> None:
    """If that is not strong enough any more; and when it is taken back, the condition opens anew, by another id."""
    office = Office()
    first = office.opens(strength=0.5)
    office.says("false_positive")
    assert office.steps == ["resolved age"]
    office.says("undo", undoes="f1")
    assert office.steps == ["opened age"]
    assert office.incident_id != first
    (note,) = office.says("false_positive")
    assert note["incident_id"] == office.incident_id


def test_what_is_like_an_ignored_incident_does_not_open() -> None:
    """Same kind, feature and direction; a note tells who has asked for that."""
    office = Office()
    incident_id = office.opens(strength=2.0)
    (note,) = office.says("ignore_like_this")
    assert incident_id in note["summary"]
    assert office.event(raised(subject="again", strength=3.0)) == []
    assert office.event(raised(subject="fall", deviation=-0.25, strength=3.0)) == ["opened fall"]
    assert office.event(raised("income")) == ["opened income"]
    assert office.event(raised(kind="drift.input", strength=2.0)) == ["opened age"]


def test_something_much_stronger_is_told_though_it_is_ignored() -> None:
    """More than a doubling."""
    office = Office()
    office.opens(strength=2.0)
    office.says("ignore_like_this")
    assert office.event(raised(subject="same", strength=3.0)) == []
    assert office.event(raised(subject="much", strength=3.1)) == ["opened much"]
    assert office.event(raised(subject="same", strength=4.0, status="updated")) == ["opened same"]


def test_what_was_ignored_opens_when_that_is_taken_back() -> None:
    """If it still stands."""
    office = Office()
    office.opens(strength=2.0)
    office.says("ignore_like_this")
    assert office.event(raised(subject="again")) == []
    office.says("undo", undoes="f1")
    assert office.steps == ["opened again"]


def test_feedback_that_comes_twice_counts_once() -> None:
    """By its id."""
    office = Office()
    office.opens(strength=8.0)
    assert len(office.says("false_positive", feedback_id="same")) == 1
    assert office.says("false_positive", feedback_id="same") == []
    assert office.says("false_positive")[0]["threshold"] == 2.0


@pytest.mark.parametrize("kind", ABOUT)
def test_feedback_about_an_unknown_incident_is_refused(kind: str) -> None:
    """With a reason, and the name of who sent it; of a model that is not watched, too."""
    office = Office()
    for fields in ({"incident_id": "nobody"}, {"incident_id": "nobody", "model_id": "other"}):
        (note,) = office.says(kind, **fields)
        assert (note["kind"], note["reason"], note["author"]) == ("feedback_refused", "unknown_incident", "ann")
    assert office.shard.model_ids == [MODEL]


def test_incidents_are_remembered_up_to_a_bound() -> None:
    """The oldest are forgotten, and feedback about them is refused."""
    office = Office(of=options(remembered_max=2))
    first = office.opens("a")
    office.opens("b")
    office.opens("c")
    assert office.says("false_positive")[0]["kind"] == "feedback_applied"
    assert office.says("false_positive", incident_id=first)[0]["reason"] == "unknown_incident"


def test_there_are_not_more_effects_than_asked_for() -> None:
    """Further ones are refused until some are taken back."""
    office = Office(of=options(feedback_max=2))
    office.opens(strength=8.0)
    notes = [office.says("false_positive")[0] for _ in range(3)]
    assert [each["kind"] for each in notes] == ["feedback_applied", "feedback_applied", "feedback_refused"]
    assert notes[-1]["reason"] == "feedback_max"
    office.says("undo", undoes="f1")
    assert office.says("false_positive")[0]["kind"] == "feedback_applied"


def test_undoing_what_never_was_is_refused() -> None:
    """What was refused itself is no news: another shard may have taken it."""
    office = Office()
    (note,) = office.says("undo", undoes="nothing")
    assert (note["kind"], note["reason"]) == ("feedback_refused", "unknown_feedback")
    office.says("false_positive", feedback_id="f", incident_id="nobody")
    assert office.says("undo", undoes="f") == []


def test_undoing_what_is_undone_already_is_refused() -> None:
    """With a reason of its own, the name of who sent it, and the model, if it was about one; each time."""
    office = Office()
    office.opens(strength=8.0)
    office.says("false_positive", feedback_id="f")
    office.says("silence", feedback_id="s")
    for undoes, model_id in (("f", MODEL), ("s", None)):
        assert office.says("undo", undoes=undoes)[0]["kind"] == "feedback_undone"
        for author in ("bob", "eve"):
            (note,) = office.says("undo", undoes=undoes, author=author)
            assert (note["kind"], note["reason"], note["author"]) == ("feedback_refused", "already_undone", author)
            assert (note["feedback_id"], note["model_id"]) == (f"f{office._said}", model_id)


def test_what_was_undone_long_ago_is_unknown() -> None:
    """Ids of feedback are kept up to a bound."""
    office = Office(of=options(feedback_max=1))
    office.says("silence", feedback_id="s")
    reasons = [office.says("undo", undoes="s")[0]["reason"] for _ in range(KNOWN_FACTOR + 1)]
    assert reasons == ["silence", *["already_undone"] * (KNOWN_FACTOR - 2), "unknown_feedback", "unknown_feedback"]


def test_the_shard_that_undid_it_tells_that_it_is_undone() -> None:
    """Of a silence the first one alone; of an incident, the one that told it."""
    first, second = Office(0), Office(1)
    incident_id = second.opens(strength=8.0)
    for office in (first, second):
        office.says("silence", feedback_id="s")
        office.says("false_positive", feedback_id="f", shard=1, incident_id=incident_id)
        told = [office.says("undo", undoes=undoes) for undoes in ("s", "s", "f", "f")]
        assert [len(notes) for notes in told] == ([1, 1, 0, 0] if office is first else [0, 0, 1, 1])


def test_a_silence_has_an_author_and_can_be_taken_back() -> None:
    """What it has held back opens then."""
    office = Office()
    (note,) = office.says("silence")
    assert (note["kind"], note["reason"], note["author"]) == ("feedback_applied", "silence", "ann")
    assert office.event(raised("age")) == []
    (note,) = office.says("undo", undoes="f1", author="bob")
    assert (note["kind"], note["author"], note["feedback_id"]) == ("feedback_undone", "bob", "f1")
    assert office.steps == ["opened age"]


def test_news_of_an_open_incident_is_told_when_its_silence_is_taken_back() -> None:
    """Though nothing waits to open."""
    office = Office()
    office.opens()
    office.says("silence")
    assert office.event(raised(status="updated", severity="critical")) == []
    office.says("undo", undoes="f1")
    assert office.steps == ["updated age"]


def test_only_the_first_shard_tells_what_concerns_all() -> None:
    """Silences, their end, what cannot be undone, and dead letters: all shards read the same records."""
    first, second = Office(0), Office(1)
    for office in (first, second):
        told = [office.says("silence"), office.says("undo", undoes="f1"), office.says("undo", undoes="nothing")]
        assert [len(notes) for notes in told] == [int(office is first)] * 3
        letters = [each for each in office.garbage(b'{"kind": "silence"}') if each.topic is OutputTopic.DEAD_LETTERS]
        assert len(letters) == int(office is first)


def test_every_shard_is_silent_when_asked_to_be() -> None:
    """Though only the first one says so."""
    second = Office(1)
    second.says("silence")
    assert second.event(raised("age")) == []


def test_feedback_is_for_the_shard_that_told_the_incident() -> None:
    """Another shard takes no notice of it."""
    office = Office(1)
    office.opens()
    assert office.says("false_positive", shard=0) == []
    assert office.says("false_positive", shard=1)[0]["shard"] == 1


def test_a_slip_in_a_scope_silences_nothing() -> None:
    """A field that does not exist makes a dead letter of the whole record."""
    office = Office()
    value = {"kind": "silence", "feedback_id": "f", "author": "ann", "reason": "r", "scope": {"modle": "x"}, "to": 2e12}
    (letter,) = office.garbage(json.dumps(value).encode())
    assert letter.topic is OutputTopic.DEAD_LETTERS
    assert office.event(raised("age")) == ["opened age"]


def test_verdicts_that_part_strong_from_weak_incidents_advise_a_least_strength() -> None:
    """With the verdict that settles it, told beside the note on it."""
    office = Office()
    for number in range(60):
        strength = 4.5 if number % 2 else 4.0
        office.opens(f"f{number}", strength=strength)
        notes = office.says("true_positive" if number % 2 else "false_positive")
        advised = [each for each in notes if each["kind"] == "tuning_advised"]
        if advised:
            break
    (note,) = advised
    assert number + 1 >= 10
    assert note["tuning"]["alert_kind"] == "quality.missing"
    assert 4.0 < note["tuning"]["advised"] <= 4.5
    assert note["tuning"]["precision_after"]["value"] == 1.0
    assert note["summary"].startswith(f"{MODEL}: quality.missing should open from ")
