"""When has another version of a model taken over?"""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from worker.core.arrivals import PredictionEvents
from worker.core.events import PredictionEvent
from worker.core.versions import VersionWatch


def events(*versions: str | None) -> PredictionEvents:
    """Return events of these versions."""
    return PredictionEvents.of([PredictionEvent("e", "m", {}, 1.0, model_version=each) for each in versions])


def test_a_version_that_takes_all_traffic_takes_over() -> None:
    """A deployed version is noticed after some hundred events, once."""
    watch = VersionWatch()
    assert watch.until_takeover(events(*["v1"] * 300)) is None
    found = watch.until_takeover(events(*["v2"] * 300))
    assert found is not None
    assert 50 < found < 200
    assert watch.current == "v2"
    assert watch.until_takeover(events(*["v2"] * 300)) is None


def test_versions_that_share_the_traffic_never_take_over() -> None:
    """A canary, or two versions side by side, is no reason to forget what is usual."""
    watch = VersionWatch()
    assert watch.until_takeover(events(*["v1", "v1", "v2"] * 500)) is None
    assert watch.until_takeover(events(*["v1", "v2"] * 500)) is None
    assert watch.current == "v1"


def test_going_back_is_a_takeover_too() -> None:
    """After a rollback the old version is the new one."""
    watch = VersionWatch()
    for version in ("v1", "v2"):
        watch.until_takeover(events(*[version] * 300))
    assert watch.until_takeover(events(*["v1"] * 300)) is not None
    assert watch.current == "v1"


def test_events_without_a_version_say_nothing() -> None:
    """A model that tells no version, or sometimes none, is never reset for that."""
    watch = VersionWatch()
    assert watch.until_takeover(events(*[None] * 300)) is None
    assert watch.until_takeover(events(*["v1", None] * 300)) is None
    assert watch.current == "v1"


@given(st.lists(st.sampled_from(["a", "a", "b", None]), max_size=30), st.lists(st.integers(0, 2000), max_size=5))
def test_cuts_change_nothing(pattern: list[str | None], cuts: list[int]) -> None:
    """A takeover is found at the same event, however the stream is cut."""
    stream = events(*["a"] * 20, *pattern * 5, *["b"] * 200, *["a"] * 150)
    assert takeovers(stream, []) == takeovers(stream, cuts)


def takeovers(stream: PredictionEvents, cuts: list[int]) -> tuple[list[int], object]:
    """Return after how many events versions took over, and the state in the end; one version goes on restored."""
    watch, found = VersionWatch(), []
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    for begin, end in pairwise(places):
        stored, watch = watch.state(), VersionWatch()
        watch.restore(stored)
        start = begin
        while start < end:
            taken = watch.until_takeover(stream[start:end])
            if taken is None:
                break
            start += taken
            found.append(start)
    return found, watch.state()
