"""The pure parts of `modelvigil replay`: times as people write them, incidents, their differences, and the order."""

import json
import random
from collections.abc import Iterator, Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.streams import batch
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.engine import Engine
from worker.core.events import AlertEvent, InputTopic, RawBatch
from worker.core.options import EngineOptions, IncidentOptions
from worker.core.shard import Topics
from worker.replay.difference import Caught, KindCount, by_kind, caught, compare
from worker.replay.incidents import Incident, IncidentBook
from worker.replay.merging import LOOK_AHEAD, Feed, Feeds, arrival_times
from worker.replay.moments import Span, WarmUp, moment_of, warm_up_of
from worker.replay.shard_replay import TICKS_PER_GAP_MAX, Pace, ShardReplay
from worker.times import TimeError

NOW_MS = 1_767_225_600_000


def incident(
    name: str, opened: int, resolved: int | None, fingerprint: str = "f", severity: str = "warning"
) -> Incident:
    """Return an incident."""
    return Incident(
        incident_id=name,
        fingerprint=fingerprint,
        kind="anomaly.input",
        model_id="m",
        shard=0,
        severity=severity,
        opened_ms=opened,
        resolved_ms=resolved,
        summary=name,
    )


def step(status: str, severity: str, summary: str, resolved: int | None = None) -> AlertEvent:
    """Return a step in the life of one incident."""
    return msgspec.convert(
        {
            "alert_id": summary,
            "incident_id": "i",
            "fingerprint": "f",
            "kind": "anomaly.input",
            "status": status,
            "severity": severity,
            "summary": summary,
            "runbook": "anomaly.input",
            "model_id": "m",
            "model_version": None,
            "shard": 0,
            "timestamp_ms": 5,
            "opened_at_ms": 5,
            "last_flagged_ms": 5,
            "resolved_at_ms": resolved,
        },
        AlertEvent,
    )


@pytest.mark.parametrize(
    ("text", "moment_ms"),
    [
        ("2026-01-01T00:00:00Z", NOW_MS),
        ("2026-01-01T01:00:00.250+01:00", NOW_MS + 250),
        ("1767225600000", NOW_MS),
        ("-24h", NOW_MS - 86_400_000),
        ("-90m", NOW_MS - 5_400_000),
        ("-1d", NOW_MS - 86_400_000),
    ],
)
def test_a_point_in_time_is_read(text: str, moment_ms: int) -> None:
    """RFC 3339 with any zone, epoch milliseconds, and durations before now."""
    assert moment_of(text, NOW_MS) == moment_ms


@pytest.mark.parametrize("text", ["", "yesterday", "2026-01-01", "2026-01-01T00:00:00", "-24", "-24 weeks"])
def test_what_is_no_point_in_time_is_refused(text: str) -> None:
    """A time without a zone, a duration without a unit or direction: the message says how to write it."""
    with pytest.raises(TimeError, match="time"):
        moment_of(text, NOW_MS)


def test_a_warm_up_is_read() -> None:
    """A number is events, a duration is time, `all` is without a bound."""
    assert warm_up_of("50000") == WarmUp(events=50_000)
    assert warm_up_of("6h") == WarmUp(duration_ms=21_600_000)
    assert warm_up_of("all") == WarmUp()
    with pytest.raises(TimeError, match="number of events"):
        warm_up_of("some")


def test_steps_make_an_incident() -> None:
    """It has the highest severity that it ever had, what was said then, and its end."""
    book = IncidentBook()
    for each in (
        step("opened", "info", "a"),
        step("updated", "critical", "b"),
        step("updated", "critical", "c"),
        step("resolved", "warning", "d", resolved=9),
    ):
        book.add(each)
    (found,) = book.incidents()
    assert (found.severity, found.summary, found.opened_ms, found.resolved_ms, found.duration_ms) == (
        "critical",
        "b",
        5,
        9,
        4,
    )


def test_the_same_incidents_are_no_difference() -> None:
    """Equal ids are the same, even if one side has not seen the end."""
    found = compare([incident("a", 1, 5)], [incident("a", 1, None)], lambda _: True)
    assert found.differences == 0
    assert [pair.shifted for pair in found.both] == [False]


def test_overlapping_incidents_of_one_fingerprint_are_shifted() -> None:
    """Another id with the same fingerprint at the same time is the same, told with how much later it opened."""
    found = compare([incident("a", 100, 200)], [incident("b", 150, None)], lambda _: True)
    assert found.differences == 0
    assert [(pair.shifted, pair.shift_ms) for pair in found.both] == [(True, 50)]


@pytest.mark.parametrize("other", [incident("b", 201, 300), incident("b", 100, 200, fingerprint="g")])
def test_later_or_other_incidents_are_differences(other: Incident) -> None:
    """One that opened after the end of the other, or of another fingerprint, is another one."""
    found = compare([incident("a", 100, 200)], [other], lambda _: True)
    assert [each.incident_id for each in found.only_published] == ["a"]
    assert [each.incident_id for each in found.only_replayed] == ["b"]
    assert found.differences == 2


def test_the_nearest_opening_wins() -> None:
    """Of two that overlap with one, the one that opened closer to it is its partner; equal ids come first."""
    published = [incident("a", 100, 400), incident("x", 300, 350)]
    replayed = [incident("b", 90, 120), incident("c", 310, 320), incident("x", 99, 500)]
    found = compare(published, replayed, lambda _: True)
    assert [(pair.published.incident_id, pair.replayed.incident_id) for pair in found.both] == [("a", "b"), ("x", "x")]
    assert [each.incident_id for each in found.only_replayed] == ["c"]


def test_the_published_one_decides_whether_a_pair_counts() -> None:
    """An incident that opened beyond the edge of the range on one side only is no difference."""
    counts = Span(100, 200)
    inside, beyond = incident("a", 199, None), incident("b", 201, None)
    assert compare([inside], [beyond], lambda each: counts.covers(each.opened_ms)).differences == 0
    assert len(compare([inside], [beyond], lambda each: counts.covers(each.opened_ms)).both) == 1
    swapped = compare([beyond], [inside], lambda each: counts.covers(each.opened_ms))
    assert (swapped.differences, swapped.both) == (0, [])


incidents = st.builds(
    incident,
    st.sampled_from("abcdefgh"),
    st.integers(0, 20),
    st.one_of(st.none(), st.integers(20, 40)),
    st.sampled_from("fg"),
)


@given(
    st.lists(incidents, unique_by=lambda each: each.incident_id),
    st.lists(incidents, unique_by=lambda each: each.incident_id),
)
def test_every_incident_is_in_one_place(published: list[Incident], replayed: list[Incident]) -> None:
    """Nothing is lost, nothing is paired twice, whatever overlaps with what; equal lists do not differ."""
    found = compare(published, replayed, lambda _: True)
    mine = [each.incident_id for each in found.only_published] + [pair.published.incident_id for pair in found.both]
    others = [each.incident_id for each in found.only_replayed] + [pair.replayed.incident_id for pair in found.both]
    assert sorted(mine) == sorted(each.incident_id for each in published)
    assert sorted(others) == sorted(each.incident_id for each in replayed)
    assert compare(published, published, lambda _: True).differences == 0


def test_what_must_not_get_lost() -> None:
    """Marked incidents count; where none of the published is marked, the critical ones do."""
    published = [
        incident("a", 1, 2, "f1"),
        incident("b", 1, 2, "f2", "critical"),
        incident("c", 1, 2, "f3", "critical"),
    ]
    found = compare(published, [incident("a", 1, 2, "f1"), incident("c", 1, 2, "f3")], lambda _: True)
    assert caught(found, {"a", "gone"}) == Caught("true_positive", 1, 1)
    assert caught(found, {"gone"}) == Caught("critical", 2, 1)
    assert by_kind(found) == [KindCount("anomaly.input", 3, 2, 2)]


# The order of the inputs.


def chunked(topic: InputTopic, stamps: Sequence[int], sizes: Iterator[int]) -> Feed:
    """Return a feed over records with these timestamps, fetched in chunks of these sizes."""
    batches = []
    begin = 0
    while begin < len(stamps):
        part = stamps[begin : begin + next(sizes)]
        batches.append(batch(0, begin, [(b"x", stamp) for stamp in part])._replace(topic=topic))
        begin += len(part)
    left = iter(batches)
    return Feed(lambda: next(left, None))


def taken(feeds: Feeds) -> list[tuple[InputTopic, int]]:
    """Return the topics and offsets in the order in which they are taken, slot by slot of 1 ms."""
    found: list[tuple[InputTopic, int]] = []
    while (now_ms := feeds.next_ms()) is not None:
        for each in feeds.take(now_ms + 1):
            found += [(each.topic, offset) for offset in each.offsets]
    return found


def sizes(seed: int) -> Iterator[int]:
    """Yield sizes of fetches."""
    rng = random.Random(seed)
    while True:
        yield rng.choice([1, 3, 100, 1000])


def feeds_of(stamps: Sequence[Sequence[int]], seed: int) -> Feeds:
    """Return feeds of all inputs."""
    topics = (InputTopic.PREDICTIONS, InputTopic.LABELS, InputTopic.FEEDBACK)
    predictions, labels, feedback = (
        chunked(topic, each, sizes(seed + place))
        for place, (topic, each) in enumerate(zip(topics, stamps, strict=True))
    )
    return Feeds(predictions, labels, feedback)


def test_a_label_comes_after_the_predictions_of_its_time() -> None:
    """At one time predictions come first, then labels, then feedback."""
    found = taken(feeds_of(([10, 20, 30], [20, 25], [20]), 1))
    assert [topic.value[0] + str(offset) for topic, offset in found] == ["p0", "p1", "l0", "f0", "l1", "p2"]


def test_the_order_does_not_depend_on_fetches() -> None:
    """However the records come in, they are taken in the same order, each once."""
    rng = random.Random(7)
    stamps = [[1000 + place * 5 + rng.randrange(50) for place in range(400)] for _ in range(3)]
    first, second = taken(feeds_of(stamps, 1)), taken(feeds_of(stamps, 100))
    assert first == second
    assert len(set(first)) == len(first) == 1200


def test_one_wrong_clock_holds_nobody_up() -> None:
    """A record from the far future, or without a timestamp, comes when its neighbours come."""
    stamps = [1000 + place for place in range(200)]
    stamps[50], stamps[60] = 99_999_999, -1
    times = arrival_times(stamps, -1).tolist()
    assert times[50] == 1051
    assert times[60] == 1061
    assert times == sorted(times)
    assert times[199] == 1199


def test_records_without_timestamps_come_at_once() -> None:
    """Where no record tells a time, all come right after what came before."""
    assert arrival_times([-1] * (2 * LOOK_AHEAD), 7).tolist() == [7] * (2 * LOOK_AHEAD)


# A shard.

OPTIONS = EngineOptions(
    pane_ms=1_000, pane_grace_ms=100, warmup_events=64, incident=IncidentOptions(quiet_ms=2_000, quiet_events=20)
)


def event(number: int, model: str = "m", value: float | None = None) -> bytes:
    """Return a prediction."""
    amount = 10 + (number * 37 % 101) / 50 if value is None else value
    features = {"amount": amount, "age": 30 + number * 13 % 29}
    time_ms = NOW_MS + number * 10
    known = {"event_id": f"e{number}", "model_id": model, "features": features, "prediction": 1.0}
    return json.dumps(known | {"timestamp": time_ms}).encode()


def fault() -> RawBatch:
    """Return 1,500 predictions, the last of which are far off."""
    return batch(
        0, 0, [(event(number, value=1e6 if number >= 1_470 else None), NOW_MS + number * 10) for number in range(1_500)]
    )


def played(records: RawBatch | None, pace: Pace) -> ShardReplay:
    """Play predictions alone."""
    once = iter([] if records is None else [records])
    nothing = Feed(lambda: None)
    engine = Engine(OPTIONS, Topics(), InlineRefits())
    counts: list[int] = []
    feeds = Feeds(Feed(lambda: next(once, None), 97), nothing, nothing)
    shard = ShardReplay(engine, 0, feeds, pace, counts.append)
    shard.run()
    assert not engine.partitions
    assert sum(counts) == shard.counted.predictions
    return shard


def test_an_incident_at_the_end_is_resolved_by_ticks() -> None:
    """Where the records end, ticks go on for as long as a worker was there, and close what is over."""
    (still_open,) = played(fault(), Pace(500)).book.incidents()[-1:]
    shard = played(fault(), Pace(500, NOW_MS + 60_000))
    (over,) = shard.book.incidents()[-1:]
    assert still_open.incident_id == over.incident_id
    assert (still_open.resolved_ms, over.resolved_ms is None) == (None, False)
    assert over.severity == "critical"
    assert shard.counted.predictions == 1_500


def test_a_long_gap_is_bounded() -> None:
    """A year of silence at an interval of a second does not take a year's ticks."""
    shard = played(fault(), Pace(1_000, NOW_MS + 365 * 86_400_000))
    assert shard.counted.ticks <= TICKS_PER_GAP_MAX + 15


def test_nothing_to_play_is_no_incident() -> None:
    """A shard without input gives nothing, and no ticks."""
    shard = played(None, Pace(1_000, NOW_MS))
    assert shard.book.incidents() == []
    assert shard.counted.ticks == 0
