"""Drift of inputs, predictions and dependence, as a user sees it: alerts, when, of what, and when they are over."""

import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.arrivals import PredictionEvents
from worker.core.columns import ColumnTable, Kind, StoredColumn
from worker.core.drift.storing import StoredDrift
from worker.core.drift.watch import DriftWatch
from worker.core.events import AlertEvent, MaintenanceEvent
from worker.core.kernels.arrays import F64
from worker.core.options import DriftOptions, EngineOptions
from worker.core.options.change import DriftColumnOptions, DriftReferenceOptions, drift_contradictions
from worker.core.seen import Seen
from worker.core.state import Arrays
from worker.core.telling import Owner, Told

EVENT_MS = 1_000
REFERENCE, BLOCK = 2_000, 200
OPTIONS = DriftOptions(reference_events=REFERENCE, block_events=BLOCK, blocks_max=16, adopt_events=3_000)
KINDS = (Kind.NUMERIC, Kind.NUMERIC, Kind.NUMERIC, Kind.BOOLEAN, Kind.CATEGORICAL)
"""Of the prediction and of features a, b, c, d."""


def table_of(kinds: Sequence[Kind] = KINDS) -> ColumnTable:
    """Columns `prediction`, `a`, `b`, ... of these kinds."""
    table = ColumnTable(features_max=256, categories_max=64)
    table.restore(
        [
            StoredColumn(
                "abcdefgh"[place - 1] if place else "prediction", kind, [*"xyz"] if kind == "categorical" else []
            )
            for place, kind in enumerate(kinds)
        ],
        frozen=True,
    )
    return table


def watch_of(options: DriftOptions = OPTIONS, kinds: Sequence[Kind] = KINDS) -> DriftWatch:
    """A new watch that has begun."""
    watch = DriftWatch(Owner("model", 0, "predictions"), table_of(kinds), EngineOptions(drift=options))
    watch.begin()
    return watch


def stream(events: int, seed: int = 1) -> F64:
    """Stationary events (n x 5); b goes with a, closely."""
    rng = np.random.default_rng(seed)
    cells = np.empty((events, 5))
    cells[:, 0] = rng.random(events)
    cells[:, 1] = rng.normal(size=events)
    cells[:, 2] = cells[:, 1] + 0.3 * rng.normal(size=events)
    cells[:, 3] = rng.random(events) < 0.2
    cells[:, 4] = rng.choice([1.0, 2.0, 3.0], size=events, p=[0.7, 0.2, 0.1])
    return cells


def seen_of(cells: F64, first: int) -> Seen:
    """Events as a monitor hands them over."""
    offsets = np.arange(first, first + len(cells))
    times = EVENT_MS * offsets
    return Seen(first, PredictionEvents.of(()), offsets, times, times, cells, np.zeros((0, 2), dtype=np.int64), None)


def fed(watch: DriftWatch, cells: F64, cuts: Sequence[int] = (), first: int = 0) -> list[Told]:
    """What is told about a stream that is cut at some places."""
    ends = [*sorted({min(cut, len(cells)) for cut in cuts}), len(cells)]
    begins = [0, *ends[:-1]]
    return [
        told
        for begin, end in zip(begins, ends, strict=True)
        for told in watch.process(seen_of(cells[begin:end], first + begin))
    ]


def alerts(told: Sequence[Told], status: str = "opened") -> list[AlertEvent]:
    """The alerts of one status."""
    return [each.record for each in told if isinstance(each.record, AlertEvent) and each.record.status == status]


def first_named(alert: AlertEvent) -> str:
    """The feature that ranks first."""
    assert alert.change is not None
    return alert.change.changed[0].name


def test_a_stationary_stream_is_quiet_and_its_reference_is_told() -> None:
    """One maintenance event at the end of the reference, and no alert."""
    told = fed(watch_of(), stream(20_000))
    assert [(each.offset, each.record.kind) for each in told if isinstance(each.record, MaintenanceEvent)] == [
        (REFERENCE - 1, "drift_reference_taken")
    ]
    assert len(told) == 1


def test_a_shift_is_found_at_once_by_name_and_is_over_when_it_is() -> None:
    """One deviation is found within two blocks, and the alert ends after the shift."""
    cells, watch = stream(9_000), watch_of()
    cells[5_000:6_000, 1] += 1.0
    told = fed(watch, cells)
    opened = alerts(told)
    assert [each.kind for each in opened if each.kind != "drift.multivariate"] == ["drift.input"]
    alert = next(each for each in opened if each.kind == "drift.input")
    assert first_named(alert) == "a"
    assert 5_000 <= alert.timestamp_ms // EVENT_MS < 5_000 + 2 * BLOCK
    assert alert.change is not None
    changed = alert.change.changed[0]
    assert changed.measure == "psi"
    assert changed.effect > 0.1
    assert changed.p_value is not None
    assert changed.p_value < 1e-6
    assert changed.since_offset >= 5_000 - BLOCK
    assert [row.offset for row in alert.evidence] == [changed.since_offset, alert.timestamp_ms // EVENT_MS]
    assert alert.change.pattern == "sudden"
    resolved = next(each for each in alerts(told, "resolved") if each.kind == "drift.input")
    assert resolved.resolved_at_ms is not None
    assert 6_000 <= resolved.resolved_at_ms // EVENT_MS <= 6_000 + 5 * BLOCK


def change_prediction(cells: F64) -> None:
    """Predictions become larger."""
    cells[:, 0] = np.sqrt(cells[:, 0])


def change_spread(cells: F64) -> None:
    """A feature keeps its mean, and spreads twice as far."""
    cells[:, 1] *= 2.0


def change_missing(cells: F64) -> None:
    """A fifth of the values is missing."""
    cells[::5, 2] = np.nan


def change_unit(cells: F64) -> None:
    """A feature comes a thousand times as large."""
    cells[:, 1] *= 1_000.0


def change_boolean(cells: F64) -> None:
    """A boolean is true most of the time."""
    cells[:, 3] = 1.0 - cells[:, 3]


def change_category(cells: F64) -> None:
    """A category that was never seen comes up."""
    cells[::4, 4] = 9.0


@pytest.mark.parametrize(
    ("change", "kind", "name"),
    [
        (change_prediction, "drift.prediction", "prediction"),
        (change_spread, "drift.input", "a"),
        (change_missing, "drift.input", "b"),
        (change_unit, "drift.input", "a"),
        (change_boolean, "drift.input", "c"),
        (change_category, "drift.input", "d"),
    ],
)
def test_changes_of_all_sorts_are_found(change: Callable[[F64], None], kind: str, name: str) -> None:
    """Within two blocks, with the right column first."""
    cells = stream(5_000)
    change(cells[4_000:])
    alert = next(each for each in alerts(fed(watch_of(), cells)) if each.kind == kind)
    assert first_named(alert) == name
    assert alert.timestamp_ms // EVENT_MS < 4_000 + 2 * BLOCK


def test_a_dependence_that_breaks_is_found_though_no_column_changes() -> None:
    """Shuffling one of two columns that go together alarms as multivariate drift only, and names the two."""
    cells = stream(9_000)
    cells[7_000:, 2] = cells[7_000:, 2][::-1]
    opened = alerts(fed(watch_of(), cells))
    assert [each.kind for each in opened] == ["drift.multivariate"]
    assert first_named(opened[0]) in {"a", "b"}
    assert opened[0].change is not None
    assert "how it goes with" in str(opened[0].change.changed[0].detail)
    assert not alerts(fed(watch_of(msgspec.structs.replace(OPTIONS, multivariate=False)), cells))


def test_slow_and_sudden_drifts_are_told_apart() -> None:
    """A feature that moves a little in every block drifts gradually."""
    cells, watch = stream(8_000), watch_of(msgspec.structs.replace(OPTIONS, blocks_max=32))
    cells[3_000:, 1] += np.linspace(0.0, 1.5, 5_000)
    told = fed(watch, cells)
    patterns = [each.change.pattern for each in alerts(told) + alerts(told, "updated") if each.change]
    assert "gradual" in patterns
    assert "sudden" not in patterns


def test_a_drift_that_stays_becomes_the_reference_and_its_return_is_recurring() -> None:
    """The alert is over when the new regime is accepted; back to the first one, the next alert says so."""
    cells, watch = stream(16_000), watch_of()
    cells[4_000:10_000, 1] += 1.5
    told = fed(watch, cells)
    taken = [each.offset for each in told if isinstance(each.record, MaintenanceEvent)]
    assert taken[0] == REFERENCE - 1
    assert 4_000 + 3_000 <= taken[1] <= 4_000 + 4_000
    inputs = [each for each in alerts(told) if each.kind == "drift.input"]
    assert [each.change.pattern for each in inputs if each.change] == ["sudden", "recurring"]
    ends = [each.timestamp_ms // EVENT_MS for each in alerts(told, "resolved") if each.kind == "drift.input"]
    assert ends[0] == taken[1]


def test_a_drift_beyond_all_bins_makes_new_ones() -> None:
    """After a change of unit that stays, a shift of the feature is seen again."""
    cells, watch = stream(16_000), watch_of()
    cells[3_000:, 1] *= 1_000.0
    cells[13_000:, 1] += 1_000.0
    told = fed(watch, cells)
    assert len([each for each in told if isinstance(each.record, MaintenanceEvent)]) == 2
    inputs = [each for each in alerts(told) if each.kind == "drift.input"]
    assert [each.timestamp_ms // EVENT_MS // 1_000 for each in inputs] == [3, 13]


def test_a_reference_is_not_taken_from_events_that_change() -> None:
    """When the first events are not alike the newer half begins anew, and what comes after is no drift."""
    cells = stream(9_000)
    cells[:1_000, 1] += 2.0
    told = fed(watch_of(), cells)
    assert [each.offset for each in told] == [REFERENCE + REFERENCE // 2 - 1]


def test_a_given_reference_counts_though_the_stream_is_stable() -> None:
    """A model is compared with what it was given, columns that were not with what was seen first."""
    given = (
        DriftColumnOptions("c", zero_count=500, positive_start=-1, positive_counts=(500,)),
        DriftColumnOptions("d", categories={"x": 700, "y": 200, "z": 100}),
    )
    references = (DriftReferenceOptions("other-*", ()), DriftReferenceOptions("mod*", given))
    options = msgspec.structs.replace(OPTIONS, references=references)
    opened = alerts(fed(watch_of(options), stream(4_000)))
    assert [(each.kind, first_named(each)) for each in opened] == [("drift.input", "c")]
    assert opened[0].change is not None
    assert opened[0].change.changed_count == 1


def test_a_column_without_values_and_a_model_without_features_work() -> None:
    """They are no drift, and when values come they are one."""
    cells = stream(6_000)
    cells[:4_000, 1] = np.nan
    opened = alerts(fed(watch_of(), cells))
    assert ("drift.input", "a") in [(each.kind, first_named(each)) for each in opened]
    only = stream(5_000)[:, :1]
    change_prediction(only[4_000:])
    opened = alerts(fed(watch_of(kinds=KINDS[:1]), only))
    assert [each.kind for each in opened] == ["drift.prediction"]


def test_slow_values_are_no_drift() -> None:
    """An autoregressive feature wanders farther than independent events would, and that is not an alarm."""
    cells, rng = stream(20_000), np.random.default_rng(5)
    slow = 0.0
    for row in range(len(cells)):
        slow = 0.9 * slow + rng.normal()
        cells[row, 1:3] = slow
    assert not alerts(fed(watch_of(), cells))


def states(watch: DriftWatch) -> tuple[bytes, dict[str, bytes]]:
    """All of the state, as bytes."""
    return msgspec.msgpack.encode(watch.plain()), {name: each.tobytes() for name, each in watch.arrays().items()}


SMALL = DriftOptions(reference_events=200, block_events=20, blocks_max=16, adopt_events=200, bins=6)


def eventful(seed: int) -> F64:
    """A short stream with everything in it: missing values, shifts that come, stay and go."""
    cells = stream(900, seed)
    cells[::7, 2] = np.nan
    cells[350:700, 1] += 1.2
    cells[500:550, 0] **= 2.0
    return cells


@given(st.lists(st.integers(0, 900), max_size=8), st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_cuts_change_nothing(cuts: list[int], seed: int) -> None:
    """However a stream is cut into segments, what is told and the whole state are the same bytes."""
    cells = eventful(seed)
    one, other = watch_of(SMALL), watch_of(SMALL)
    assert msgspec.json.encode(fed(one, cells)) == msgspec.json.encode(fed(other, cells, cuts))
    assert states(one) == states(other)


def stored(watch: DriftWatch) -> tuple[StoredDrift, dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]]:
    """Copies of the state, as they come back from a topic."""
    plain = msgspec.msgpack.decode(msgspec.msgpack.encode(watch.plain()), type=StoredDrift)
    return plain, {name: each.copy() for name, each in watch.arrays().items()}


def restored(plain: StoredDrift, arrays: Arrays) -> DriftWatch:
    """A new watch that takes it over."""
    watch = DriftWatch(Owner("model", 0, "predictions"), table_of(), EngineOptions(drift=SMALL))
    watch.restore(plain, arrays)
    return watch


@pytest.mark.parametrize("at", [0, 30, 150, 199, 200, 215, 333, 450, 640, 899])
def test_a_restored_watch_goes_on_as_if_nothing_had_been(at: int) -> None:
    """In every stage: while it learns, watches, is alarmed, or has accepted another regime."""
    cells = eventful(1)
    whole = watch_of(SMALL)
    fed(whole, cells[:at])
    again = restored(*stored(whole))
    assert states(again) == states(whole)
    assert fed(whole, cells[at:], first=at) == fed(again, cells[at:], first=at)
    assert states(again) == states(whole)


def test_blocks_take_room_when_they_come_and_can_be_stored_at_any_time() -> None:
    """While the reference is learned, again also after an accepted drift, and at the end of each block."""
    cells, watch = eventful(1), watch_of(SMALL)
    room: set[int] = set()
    for at in range(0, 900, 20):
        fed(watch, cells[at : at + 20], first=at)
        assert states(restored(*stored(watch))) == states(watch)
        kept = min(watch.windows.blocks, SMALL.blocks_max)
        assert kept <= len(watch.windows.ring) <= max(2 * kept, 1)
        room.add(len(watch.windows.ring))
    assert room == {1, 2, 4, 8, 16}


def test_a_watch_that_has_not_begun_can_be_stored() -> None:
    """Before the columns are known there is nothing but open places."""
    watch = DriftWatch(Owner("model", 0, "predictions"), table_of(), EngineOptions(drift=SMALL))
    assert states(restored(*stored(watch))) == states(watch)


DAMAGE = {
    "bins.table": 6,
    "bins.edges": math.nan,
    "bins.score": 600,
    "windows.affected": 5,
    "windows.design": 0.5,
    "windows.reference": -1,
    "windows.p_value": 2.0,
    "windows.unspent": math.nan,
    "windows.latest_psi": math.nan,
    "regimes.counts": -1,
    "dependence.own.first": 5,
    "dependence.own.second": -7,
    "dependence.own.divisors": 0,
    "dependence.own.table": 6,
    "dependence.windows.affected": -2,
    "learning.own.center": math.inf,
    "learning.own.recent": 513,
    "learning.own.recent_bins": 7,
    "learning.histograms.scale": 9,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_state_is_refused(name: str) -> None:
    """Whatever a kernel would read beyond its arrays with, or an alert tell as nonsense, is an error with a reason."""
    watch = watch_of(SMALL)
    fed(watch, eventful(1)[: 150 if name.startswith("learning") else 800])
    plain, arrays = stored(watch)
    restored(plain, arrays)
    assert arrays[name].size
    arrays[name].flat[-1] = DAMAGE[name]
    with pytest.raises(ValueError, match=r"stored"):
        restored(plain, arrays)


def test_state_of_another_shape_is_refused() -> None:
    """Arrays that are missing, or too many, or of other columns."""
    watch = watch_of(SMALL)
    fed(watch, eventful(1)[:300])
    plain, arrays = stored(watch)
    for wrong in (
        {name: each for name, each in arrays.items() if name != "watch.starts"},
        arrays | {"windows.more": np.zeros(1)},
        arrays | {"windows.ring": arrays["windows.ring"][:, 1:]},
        arrays | {"nothing.here": np.zeros(1)},
    ):
        with pytest.raises(ValueError, match=r"stored"):
            restored(plain, wrong)
    with pytest.raises(ValueError, match=r"other columns"):
        restored(msgspec.structs.replace(plain, columns=3), arrays)
    with pytest.raises(ValueError, match=r"too full"):
        restored(msgspec.structs.replace(plain, fill=20), arrays)


def test_options_that_cannot_be_meant_are_told() -> None:
    """An effect twice, a column twice, and less to adopt than a block."""
    twice = DriftReferenceOptions("m", (DriftColumnOptions("a"), DriftColumnOptions("a")))
    options = DriftOptions(adopt_events=10, tests=("psi", "psi"), references=(twice,))
    assert len(drift_contradictions(options)) == 3
    assert drift_contradictions(DriftOptions()) == []
