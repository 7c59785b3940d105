"""The rate of anomalies: bursts of mild ones are found, ordinary streams are not, and state survives or is refused."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.arrivals import PredictionEvents
from worker.core.columns import ColumnTable
from worker.core.events import AlertEvent, Changed
from worker.core.kernels.arrays import F64
from worker.core.kernels.betting import BLOCK_EVENTS, BOUND, FILL, HELD, HITS, PLACE, SETTLED, STANDING, TEMPER, WINDOW
from worker.core.options import EngineOptions, RateOptions
from worker.core.rate.watch import RateWatch
from worker.core.seen import Seen
from worker.core.state import AnyArray
from worker.core.telling import Owner, Told

MS = 10
"""Milliseconds between events."""


def watch_of(options: RateOptions | None = None) -> RateWatch:
    """A new watch, begun."""
    columns = ColumnTable(features_max=10, categories_max=10)
    watch = RateWatch(Owner("m", 0, "predictions"), columns, EngineOptions(rate=options or RateOptions()))
    watch.begin()
    return watch


def seen_of(first: int, count: int) -> Seen:
    """Events at places in a steady stream; only where and when is of interest here."""
    offsets = np.arange(first, first + count)
    nothing = np.empty((0, 2), dtype=np.int64)
    return Seen(
        first, PredictionEvents.of(()), offsets, offsets * MS, offsets * MS + 1, np.empty((count, 1)), nothing, None
    )


def run(watch: RateWatch, verdicts: F64, first: int = 0, cuts: Sequence[int] = ()) -> list[Told]:
    """Process verdicts, cut at these places."""
    told: list[Told] = []
    for begin, end in zip([0, *cuts], [*cuts, len(verdicts)], strict=True):
        told += watch.process(seen_of(first + begin, end - begin), verdicts[begin:end])
    return told


def shares(*parts: tuple[float, int], seed: int = 0) -> F64:
    """P-values, uniform but for the share that is at most 2 %, for so many events each."""
    rng = np.random.default_rng(seed)
    share = np.concatenate([np.full(count, value) for value, count in parts])
    unusual = rng.random(len(share)) < share
    return np.where(unusual, 0.02 * rng.random(len(share)), 0.02 + 0.98 * rng.random(len(share)))


def alerts(told: Sequence[Told]) -> list[AlertEvent]:
    """The alerts that were told."""
    return [each.record for each in told if isinstance(each.record, AlertEvent)]


def change_of(alert: AlertEvent) -> Changed:
    """The one thing that an alert says has changed."""
    assert alert.change is not None
    return alert.change.changed[0]


def test_a_burst_of_mild_anomalies_is_found_and_over() -> None:
    """Two percent become ten for 3,000 events: opened within 800, told since when and how many, then resolved."""
    opened, *updated, resolved = alerts(run(watch_of(), shares((0.02, 20_000), (0.1, 3_000), (0.02, 10_000))))
    assert (opened.kind, opened.status, opened.severity) == ("anomaly.rate", "opened", "warning")
    assert 20_000 <= opened.timestamp_ms // MS <= 20_800
    change = change_of(opened)
    assert change.high is not None
    assert change.observed is not None
    assert change.expected is not None
    assert abs(change.since_offset - 20_000) < 300
    assert change.since_ms == change.since_offset * MS
    assert change.expected == pytest.approx(0.02, abs=0.002)
    assert change.observed == pytest.approx(0.1, abs=0.05)
    assert change.high < change.observed == pytest.approx(change.effect * change.expected)
    assert change.p_value is not None
    assert change.p_value <= 0.001
    assert opened.change is not None
    assert change.since_offset + opened.change.events == opened.timestamp_ms // MS + 1
    assert f"events since {change.since_offset} are unusual (p <= 0.02)" in opened.summary
    assert (resolved.status, resolved.incident_id) == ("resolved", opened.incident_id)
    assert 23_000 <= resolved.timestamp_ms // MS <= 26_000
    assert resolved.summary.startswith("m: over: ")
    assert {each.status for each in updated} == {"updated"}
    assert [row.offset for row in opened.evidence] == [change.since_offset, opened.timestamp_ms // MS]
    assert all(row.timestamp_ms == row.offset * MS for each in (opened, *updated, resolved) for row in each.evidence)


def test_ordinary_streams_do_not_alarm() -> None:
    """Not one of 60 streams of 50,000 uniform p-values."""
    assert not any(run(watch_of(), np.random.default_rng(seed).random(50_000)) for seed in range(60))


def test_a_tail_that_is_slightly_off_does_not_alarm() -> None:
    """Calibration that flags a quarter too many for 100,000 events is no burst."""
    assert not any(run(watch_of(), shares((0.025, 100_000), seed=seed)) for seed in range(20))


def test_what_the_stream_has_shown_for_long_becomes_expected() -> None:
    """A share that creeps up to twice the given one is learned; a burst above that is still found."""
    creeping = [(0.02 + 0.0005 * step, 10_000) for step in range(41)]
    told = alerts(run(watch_of(), shares(*creeping, (0.04, 100_000), (0.15, 2_000))))
    assert [each.status for each in told].count("opened") == 1
    assert (change_of(told[0]).expected or 0.0) > 0.03


def test_clusters_are_no_bursts() -> None:
    """When each unusual event brings nine others, one alarm at most on 20 streams of 100,000 events."""
    alarmed = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        starts = rng.random(100_000) < 0.002
        inside = np.convolve(starts, np.ones(10))[: len(starts)] > 0
        told = alerts(run(watch_of(), np.where(inside, 0.01, 0.5)))
        alarmed += sum(each.status == "opened" for each in told)
    assert alarmed <= 1


def test_half_of_all_events_is_critical_and_found_at_once() -> None:
    """Within 100 events."""
    opened = alerts(run(watch_of(), shares((0.02, 5_000), (0.5, 500))))[0]
    assert opened.severity == "critical"
    assert opened.timestamp_ms // MS <= 5_100


def test_a_burst_that_rises_is_told_at_each_block() -> None:
    """From a warning to critical, with the share since its beginning."""
    opened, *updated = alerts(run(watch_of(), shares((0.02, 10_000), (0.1, 2_000), (0.8, 8_000))))
    assert (opened.status, opened.severity, {each.status for each in updated}) == ("opened", "warning", {"updated"})
    assert [each.severity for each in updated] == sorted((each.severity for each in updated), reverse=True)
    assert updated[-1].severity == "critical"
    assert {later.timestamp_ms - each.timestamp_ms for each, later in pairwise(updated)} == {BLOCK_EVENTS * MS}
    assert (change_of(updated[-1]).observed or 0.0) > (change_of(opened).observed or 0.0)


def test_events_without_a_verdict_do_not_count() -> None:
    """Three more of them after each event change nothing but the offsets; a stream of nothing else is silent."""
    verdicts = shares((0.02, 5_000), (0.3, 500))
    sparse = np.full(4 * len(verdicts), np.nan)
    sparse[::4] = verdicts
    dense, thin = alerts(run(watch_of(), verdicts)), alerts(run(watch_of(), sparse))
    assert [change_of(each).observed for each in dense] == [change_of(each).observed for each in thin]
    assert [4 * each.timestamp_ms for each in dense] == [each.timestamp_ms + 3 for each in thin]
    assert not run(watch_of(), np.full(10_000, np.nan))


def test_it_can_be_switched_off() -> None:
    """Nothing is told of anything."""
    assert not run(watch_of(RateOptions(enabled=False)), np.zeros(10_000))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 9_000), max_size=12))
def test_how_the_stream_is_cut_changes_nothing(cuts: list[int]) -> None:
    """Equal records, and equal bits of state."""
    verdicts = shares((0.02, 4_000), (0.3, 500), (0.02, 4_500), seed=3)
    whole, parts = watch_of(), watch_of()
    assert run(whole, verdicts) == run(parts, verdicts, cuts=sorted(cuts))
    assert whole.plain() == parts.plain()
    for name, array in whole.arrays().items():
        assert array.tobytes() == parts.arrays()[name].tobytes(), name


@pytest.mark.parametrize("stop", [100, 4_000, 4_100, 4_400, 8_000])
def test_a_restored_watch_goes_on_as_if_nothing_had_been(stop: int) -> None:
    """Before, in and after a burst: what is told afterwards, and the state in the end, are the same."""
    verdicts = shares((0.02, 4_000), (0.3, 500), (0.02, 4_500), seed=3)
    first, second = watch_of(), watch_of()
    run(first, verdicts[:stop])
    second.restore(first.plain(), {name: array.copy() for name, array in first.arrays().items()})
    assert run(first, verdicts[stop:], stop) == run(second, verdicts[stop:], stop)
    for name, array in first.arrays().items():
        assert array.tobytes() == second.arrays()[name].tobytes(), name


def set_at(name: str, place: int | tuple[int, int], value: float) -> Callable[[dict[str, AnyArray]], None]:
    """Damage one element."""

    def damage(arrays: dict[str, AnyArray]) -> None:
        arrays[name][place] = value

    return damage


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (set_at("counts", FILL, BLOCK_EVENTS), "block is out of range"),
        (set_at("counts", HITS, 65), "block is out of range"),
        (set_at("counts", PLACE, 128), "ring is out of range"),
        (set_at("counts", PLACE, -1), "ring is out of range"),
        (set_at("counts", HELD, 129), "ring is out of range"),
        (set_at("held", 3, 65), "count of a block"),
        (set_at("counts", WINDOW, 16), "window is out of range"),
        (set_at("counts", SETTLED, 65), "a count is out of range"),
        (set_at("counts", STANDING, 2), "a count is out of range"),
        (set_at("counts", STANDING, 1), "incident is out of range"),
        (set_at("runs", (0, 1), 2**40), "a run is out of range"),
        (set_at("starts", (0, 1), -(2**60)), "a beginning"),
        (set_at("wealth", 0, np.nan), "money"),
        (set_at("peaks", 0, -1.0), "money"),
        (set_at("learned", 0, -1.0), "what was learned"),
        (set_at("learned", 0, 1e9), "more unusual events"),
        (set_at("learned", BOUND, 1.0), "its bound"),
        (set_at("learned", TEMPER, 0.0), "its boldness"),
        (lambda arrays: arrays.pop("held"), "there are the arrays"),
    ],
)
def test_what_cannot_be_its_state_is_refused(damage: Callable[[dict[str, AnyArray]], object], reason: str) -> None:
    """With the reason."""
    watch = watch_of()
    run(watch, shares((0.02, 4_000)))
    arrays = {name: array.copy() for name, array in watch.arrays().items()}
    damage(arrays)
    with pytest.raises(ValueError, match=reason):
        watch_of().restore(watch.plain(), arrays)


def test_a_risen_share_without_its_alert_is_refused() -> None:
    """The two parts of the state must fit."""
    watch = watch_of()
    run(watch, shares((0.02, 4_000), (0.5, 400)))
    with pytest.raises(ValueError, match="its alert is not open"):
        watch_of().restore(watch_of().plain(), watch.arrays())


def test_an_open_alert_is_over_when_all_is_forgotten() -> None:
    """The next event resolves it: what is now is taken for normal."""
    watch = watch_of()
    run(watch, shares((0.02, 4_000), (0.5, 400)))
    watch.begin()
    told = alerts(run(watch, shares((0.02, 5_000)), 4_400))
    assert [(each.status, each.timestamp_ms // MS) for each in told] == [("resolved", 4_400)]
