"""Another version of the model: when it appears, and for which events everything looks different because of it."""

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from worker.core.alerts.suppression import Rebaseline
from worker.core.arrivals import PredictionEvents
from worker.core.events import PredictionEvent
from worker.core.versions import VersionWatch


def appearances(versions: Sequence[str | None], cuts: Sequence[int] = ()) -> list[int]:
    """Return the places at which versions appear or take over, as a monitor asks for them, batch by batch."""
    events = PredictionEvents.of([PredictionEvent("e", "m", {}, 1.0, model_version=each) for each in versions])
    watch, found = VersionWatch(), []
    places = sorted({0, len(events), *(cut for cut in cuts if cut < len(events))})
    for begin, end in pairwise(places):
        stored, watch = watch.state(), VersionWatch()
        watch.restore(stored)
        start = begin
        while start < end:
            taken = watch.until_takeover(events[start:end])
            found += [start + place for place in watch.appeared_at]
            start = end if taken is None else start + taken
    return found


def test_a_version_appears_before_it_takes_over() -> None:
    """With a fifth of the latest events; a deployment is seen after a dozen events, and again when it is complete."""
    appeared, taken_over = appearances(["v1"] * 100 + ["v2"] * 300)
    assert 110 <= appeared <= 115
    assert 200 <= taken_over <= 230


def test_a_version_for_a_few_events_does_not_appear() -> None:
    """A test call is no deployment; nor is a version that was always the only one."""
    assert appearances(["v1"] * 100 + ["v2"] * 5 + ["v1"] * 300) == []
    assert appearances(["v1"] * 300) == []
    assert appearances([None] * 300) == []


def test_a_canary_appears_once() -> None:
    """It shares the traffic for long, and is no reason to be silent for long."""
    assert len(appearances(["v1"] * 100 + ["v1", "v2"] * 500)) == 1


def test_a_canary_that_went_and_comes_again_appears_again() -> None:
    """After it was away for some hundred events."""
    canary = ["v1", "v2"] * 100
    assert len(appearances(["v1"] * 100 + canary + ["v1"] * 500 + canary)) == 2


@given(st.lists(st.sampled_from(["a", "b", "c", None]), max_size=30), st.lists(st.integers(0, 700), max_size=5))
def test_cuts_and_restarts_change_nothing(pattern: list[str | None], cuts: list[int]) -> None:
    """Versions appear at the same events, however the stream is cut."""
    stream = ["a", *["a"] * 20, *pattern * 5] + ["b"] * 200 + ["c", "a"] * 100
    assert appearances(stream, cuts) == appearances(stream)


def test_re_baselining_lasts_for_so_many_events() -> None:
    """The one with which the version appeared is the first of them."""
    rebaseline = Rebaseline(10)
    rebaseline.begin(5)
    assert [place for place in range(30) if rebaseline.holds(place)] == list(range(5, 15))
    assert (rebaseline.end_from(4), rebaseline.end_from(14), rebaseline.end_from(15)) == (15, 15, None)


def test_without_re_baselining_nothing_is_held() -> None:
    """Zero events mean none."""
    rebaseline = Rebaseline(0)
    rebaseline.begin(5)
    assert rebaseline.spans == []


@given(st.lists(st.integers(0, 15), max_size=6), st.integers(1, 12))
def test_events_that_are_held_are_those_after_any_beginning(gaps: list[int], events: int) -> None:
    """Whether spans overlap, touch, or are apart: the naive twin lists all of them."""
    rebaseline, begins = Rebaseline(events), [sum(gaps[: count + 1]) for count in range(len(gaps))]
    for begin in begins:
        rebaseline.begin(begin)
    held = {place for begin in begins for place in range(begin, begin + events)}
    assert [rebaseline.holds(place) for place in range(110)] == [place in held for place in range(110)]
    for place in range(110):
        ends = [end for end in range(place + 1, 111) if end - 1 in held and end not in held]
        assert rebaseline.end_from(place) == min(ends, default=None)
