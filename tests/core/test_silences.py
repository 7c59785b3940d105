"""Silences of a shard: which are in force, which alerts they are about, and what is known of feedback."""

from typing import Any

import msgspec
import pytest

from tests.raised import START_MS, raised
from worker.core.alerts.silences import KNOWN_FACTOR, Silence, SilenceBook, StoredSilences
from worker.core.events import Scope, SilenceFeedback

HOUR_MS = 3_600_000


def asked(feedback_id: str = "s", begin_ms: int | None = 0, end_ms: int = HOUR_MS, **scope: Any) -> SilenceFeedback:  # noqa: ANN401 - patterns of a scope
    """Return a wish for silence; times since the start."""
    begin = None if begin_ms is None else START_MS + begin_ms
    return SilenceFeedback(
        feedback_id=feedback_id,
        author="ann",
        reason="upgrade",
        scope=Scope(**scope),
        begin=begin,
        end=START_MS + end_ms,
    )


def book(*wishes: SilenceFeedback, silences_max: int = 3) -> SilenceBook:
    """Return a book with these silences."""
    found = SilenceBook(silences_max)
    for each in wishes:
        assert found.add(each, START_MS) is not None
    return found


def holding(of: SilenceBook, at_ms: int, **fields: Any) -> str | None:  # noqa: ANN401 - fields of an alert
    """Return which silence an alert falls under."""
    found = of.holding(raised(**fields), START_MS + at_ms)
    return None if found is None else found.feedback_id


def test_a_silence_holds_from_its_beginning_to_before_its_end() -> None:
    """To the millisecond, in event time."""
    of = book(asked(begin_ms=1_000))
    assert [holding(of, at_ms) for at_ms in (999, 1_000, HOUR_MS - 1, HOUR_MS)] == [None, "s", "s", None]


def test_a_silence_without_a_beginning_holds_at_once() -> None:
    """Also for event time that is behind the clock of who sent it."""
    assert holding(book(asked(begin_ms=None)), -HOUR_MS) == "s"


def test_a_silence_is_about_its_scope() -> None:
    """Kind, feature and segment must fit, all of them."""
    of = book(asked(kind="quality.*", feature="age"))
    assert holding(of, 0) == "s"
    assert holding(of, 0, feature="income") is None
    assert holding(of, 0, kind="drift.input") is None
    assert holding(book(asked(segment="region=*")), 0) is None
    assert holding(book(asked(segment="region=*")), 0, kind="bias.error") == "s"
    assert holding(book(asked(model="other-*")), 0) is None


def test_the_silence_that_ends_last_counts() -> None:
    """So an alert is looked at again when it is worth it."""
    of = book(asked("short", end_ms=1_000), asked("long", end_ms=9_000), asked("middle", end_ms=5_000))
    assert holding(of, 0) == "long"
    assert of.remove("long") is not None
    assert holding(of, 0) == "middle"
    assert of.remove("long") is None


def test_too_many_silences_are_refused_unless_one_is_over() -> None:
    """By the time of the record that asks for another one."""
    of = book(asked("a", end_ms=1_000), asked("b"), asked("c"))
    assert of.add(asked("d"), START_MS + 999) is None
    assert of.add(asked("d"), START_MS + 1_000) is not None
    assert {each.feedback_id for each in of.state().silences} == {"b", "c", "d"}


def test_feedback_counts_once() -> None:
    """Kafka may deliver it twice, or somebody may send it twice."""
    of = book()
    assert [of.is_new(asked("a")), of.is_new(asked("a")), of.is_new(asked("b"))] == [True, False, True]
    assert of.is_known("a")
    assert not of.is_known("c")


def test_what_is_known_of_feedback_is_bounded() -> None:
    """The oldest ids are forgotten."""
    of = book(silences_max=2)
    for number in range(50):
        of.is_new(asked(f"f{number}"))
    assert of.state().known == [f"f{number}" for number in range(50 - KNOWN_FACTOR * 2, 50)]


def test_what_has_been_undone_is_known() -> None:
    """A silence, and what was about an incident of a model; of nothing else."""
    of = book(asked("silence"))
    for name in ("silence", "false alarm", "in force"):
        of.is_new(asked(name))
    assert of.undone("silence") is None
    of.remove("silence")
    of.note_undone("false alarm", "fraud")
    of.note_undone("forgotten", "fraud")
    found = [of.undone(name) for name in ("silence", "false alarm", "in force", "forgotten", "never was")]
    assert found == ["", "fraud", None, None, None]


def test_what_has_been_undone_is_forgotten_with_the_rest() -> None:
    """When its id is one of the oldest; sent again then, it is new, and not undone."""
    of = book(silences_max=1)
    of.is_new(asked("old"))
    of.note_undone("old", "fraud")
    for number in range(KNOWN_FACTOR):
        assert of.undone("old") == "fraud"
        of.is_new(asked(f"f{number}"))
    assert (of.undone("old"), of.state().undone) == (None, {})
    assert of.is_new(asked("old"))
    assert of.undone("old") is None


def test_silences_survive_a_restart() -> None:
    """With what is known of feedback, and what has been undone."""
    of, other = book(asked("a", begin_ms=None, kind="drift.*"), asked("b"), asked("c")), book()
    for name in ("a", "c", "f"):
        of.is_new(asked(name))
    of.remove("c")
    of.note_undone("f", "fraud")
    stored = msgspec.msgpack.encode(of.state())
    other.restore(msgspec.msgpack.decode(stored, type=StoredSilences))
    assert other.state() == of.state()
    assert not other.is_new(asked("a"))
    assert [other.undone(name) for name in "acf"] == [None, "", "fraud"]


def test_silences_of_a_worker_that_noted_nothing_undone_are_taken_over() -> None:
    """As if nothing had been."""
    of = book()
    of.restore(msgspec.convert({"silences": [], "known": ["a"]}, StoredSilences))
    assert (of.is_known("a"), of.undone("a")) == (True, None)


def test_silences_that_cannot_be_are_refused() -> None:
    """What is there twice, or was undone and never taken, cannot have been written so."""
    silence = Silence("a", "ann", "upgrade", Scope(), 0, 1)
    with pytest.raises(ValueError, match="there is one twice"):
        book().restore(StoredSilences([silence, silence], []))
    with pytest.raises(ValueError, match="an id is there twice"):
        book().restore(StoredSilences([], ["a", "a"]))
    with pytest.raises(ValueError, match="undone that is not known"):
        book().restore(StoredSilences([], ["a"], {"b": "fraud"}))
