"""Data quality of events: what is told of which fault, how soon, and that nothing is told without one."""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.alerts.silences import SilenceBook
from worker.core.arrivals import PredictionEvents
from worker.core.columns import ColumnTable
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.events import AlertEvent, Changed, OutputTopic, PredictionEvent
from worker.core.monitor import Home, Monitor
from worker.core.options import EngineOptions, PerformanceOptions, QualityOptions, RangeOptions
from worker.core.options.change import quality_contradictions
from worker.core.quality.watch import QualityWatch, StoredQuality
from worker.core.seen import Seen
from worker.core.telling import Owner, Told

_START_MS = 1_767_225_600_000
_STEP_MS = 20
_WARM_UP = 100
_AT = 4_050
"""Where faults begin: inside a block of 200."""

Features = dict[str, Any]
_Edit = Callable[[int, Features], None]


class _Stream:
    """Feeds events to a watch as a monitor would: columns from the first events, then segments."""

    def __init__(self, events: Sequence[PredictionEvent], options: EngineOptions | None = None) -> None:
        self.options = options or EngineOptions()
        self.events = events
        self.columns = self._table()
        self.columns.learn(events[:_WARM_UP])
        self.columns.matrix(PredictionEvents.of(events[:_WARM_UP]))
        self.columns.frozen = True
        self.watch = QualityWatch(Owner("m", 0, "predictions"), self.columns, self.options)
        self.watch.begin()
        times = np.array([event.timestamp for event in events], dtype=np.int64)
        self.times, self.watermarks = times, np.maximum.accumulate(times)

    def _table(self) -> ColumnTable:
        return ColumnTable(features_max=self.options.features_max, categories_max=self.options.categories_max)

    def feed(self, begin: int, end: int) -> list[Told]:
        """Feed events [begin, end) as one segment."""
        part = slice(begin, end)
        matrix = self.columns.matrix(PredictionEvents.of(self.events[part]))
        seen = Seen(
            begin,
            PredictionEvents.of(self.events[part]),
            np.arange(begin, end),
            self.times[part],
            self.watermarks[part],
            matrix.cells,
            matrix.invalid,
            matrix.unknown,
        )
        return self.watch.process(seen)

    def run(self) -> list[AlertEvent]:
        """Feed all events behind the warm-up; return the alerts."""
        told = [
            each
            for begin in range(_WARM_UP, len(self.events), 1_000)
            for each in self.feed(begin, min(begin + 1_000, len(self.events)))
        ]
        return [each.record for each in told if isinstance(each.record, AlertEvent)]

    def restored(self) -> "_Stream":
        """Return the same stream with a new watch that was restored."""
        new = _Stream(self.events, self.options)
        new.columns = self._table()
        new.columns.restore(self.columns.state(), frozen=True)
        new.watch = QualityWatch(Owner("m", 0, "predictions"), new.columns, self.options)
        plain = msgspec.msgpack.decode(msgspec.msgpack.encode(self.watch.plain()), type=StoredQuality)
        new.watch.restore(plain, {name: array.copy() for name, array in self.watch.arrays().items()})
        return new

    def state(self) -> tuple[bytes, dict[str, bytes]]:
        """Return all state of the watch as bytes."""
        arrays = {name: array.tobytes() for name, array in self.watch.arrays().items()}
        return msgspec.msgpack.encode(self.watch.plain()), arrays


def _event(number: int, features: Features, time_ms: int | None = None, event_id: str | None = None) -> PredictionEvent:
    at = _START_MS + number * _STEP_MS if time_ms is None else time_ms
    return PredictionEvent(event_id or f"e{number}", "m", features, features.pop("prediction", 0.5), timestamp=at)


@cache
def _columns() -> dict[str, list[Any]]:
    rng, count = np.random.default_rng(5), 13_000
    return {
        "prediction": rng.random(count).tolist(),
        "amount": rng.lognormal(3, 1, count).tolist(),
        "speed": rng.normal(0, 1, count).tolist(),
        "age": rng.uniform(20, 70, count).tolist(),
        "spend": np.where(rng.random(count) < 0.9, 0.0, rng.exponential(50, count)).tolist(),
        "flag": (rng.random(count) < 0.3).tolist(),
        "colour": rng.choice(["red", "green", "blue"], count).tolist(),
        "sometimes": [None if missing else rng.random() for missing in (rng.random(count) < 0.7).tolist()],
    }


def _features(number: int) -> Features:
    return {name: values[number] for name, values in _columns().items()}


def _events(count: int, edit: _Edit = lambda _number, _features: None, *, begin: int = _AT) -> list[PredictionEvent]:
    events = []
    for number in range(count):
        features = _features(number)
        if number >= begin:
            edit(number, features)
        events.append(_event(number, features))
    return events


def _opened(alerts: Sequence[AlertEvent]) -> list[AlertEvent]:
    return [alert for alert in alerts if alert.status == "opened"]


def _first(alerts: Sequence[AlertEvent], name: str) -> Changed:
    """What the first alert says of its first subject, which must be this one, found within a block or so."""
    opened = _opened(alerts)
    assert opened, "nothing was found"
    changed = opened[0].change.changed[0] if opened[0].change else None
    assert changed is not None
    assert changed.name == name
    delay = (opened[0].timestamp_ms - _START_MS) // _STEP_MS - _AT
    assert 0 <= delay <= 400
    assert changed.since_offset <= _AT + 200
    return changed


def _set(name: str, value: object) -> _Edit:
    return lambda _number, features: features.update({name: value})


def _times(name: str, factor: float) -> _Edit:
    return lambda _number, features: features.update({name: features[name] * factor})


def _swap(_number: int, features: Features) -> None:
    features["age"], features["speed"] = features["speed"], features["age"]


def _rename(_number: int, features: Features) -> None:
    features["tint"] = features.pop("colour")


_FAULTS: list[tuple[str, _Edit, str, str, str]] = [
    ("stuck number", _set("speed", 0.25), "quality.constant", "speed", "always 0.25"),
    ("stuck boolean", _set("flag", True), "quality.constant", "flag", "always true"),  # noqa: FBT003 - a value
    ("stuck category", _set("colour", "red"), "quality.constant", "colour", "always red"),
    ("unit x1000", _times("age", 1000.0), "quality.range", "age", "about 1000 times the usual"),
    ("unit x1000, both signs", _times("speed", 1000.0), "quality.range", "speed", "above"),
    ("unit /1000", _times("age", 0.001), "quality.range", "age", "about 0.001 times the usual"),
    ("sign flip", _times("amount", -1.0), "quality.range", "amount", "below"),
    ("swapped", _swap, "quality.range", "speed", "above"),
    ("text", _set("age", "forty"), "quality.type", "age", "string instead of number"),
    ("number", _set("colour", 3.0), "quality.type", "colour", "number instead of string"),
    ("new category", _set("colour", "mauve"), "quality.category", "colour", "mauve"),
    ("renamed", _rename, "quality.schema", "tint", "added"),
]


@pytest.mark.parametrize(("what", "edit", "kind", "name", "detail"), _FAULTS, ids=[fault[0] for fault in _FAULTS])
def test_a_gross_fault_is_found_within_a_block(what: str, edit: _Edit, kind: str, name: str, detail: str) -> None:
    """Each fault is told within 400 events of its beginning, with the right kind, feature and words."""
    alerts = _Stream(_events(_AT + 600, edit)).run()
    of_kind = [alert for alert in alerts if alert.kind == kind]
    changed = _first(of_kind, name)
    assert detail in (changed.detail or "")
    assert name in of_kind[0].summary
    assert changed.effect > 0.0
    assert all((alert.timestamp_ms - _START_MS) // _STEP_MS >= _AT for alert in alerts)


def test_a_part_of_the_events_is_enough() -> None:
    """A burst of missing values, and a rare new category, in a fifth of the events are found."""
    lose: _Edit = lambda number, features: features.update({"age": None} if number % 5 == 0 else {})  # noqa: E731 - typed
    changed = _first(_Stream(_events(_AT + 600, lose)).run(), "age")
    assert changed.measure == "missing_share"
    assert changed.observed is not None
    assert 0.03 < changed.observed < 0.27
    assert changed.expected == 0.0
    assert changed.p_value is not None
    assert changed.p_value < 1e-6
    mauve: _Edit = lambda number, features: features.update({"colour": "mauve"} if number % 5 == 0 else {})  # noqa: E731 - typed
    alert = _opened(_Stream(_events(_AT + 600, mauve)).run())[0]
    assert (alert.kind, alert.severity) == ("quality.category", "warning")


def test_a_new_category_is_not_hidden_by_its_first_few_events() -> None:
    """A few events of it late in a block, too few to be told, do not make it known before the next block is full."""

    def mauve(number: int, features: Features) -> None:
        if number % 10 == 0:
            features["colour"] = "mauve"

    late = _AT + 150
    found = [
        _opened(_Stream(_events(late + shift + 800, mauve, begin=late + shift)).run()) for shift in (0, 50, 100, 150)
    ]
    assert [alert.kind for alerts in found for alert in alerts] == ["quality.category"] * 4


def _gone(name: str, begin: int, end: int) -> _Edit:
    return lambda number, features: features.update({name: None} if begin <= number < end else {})


@pytest.mark.parametrize("begin", [_AT, _AT + 49, _AT + 50, _AT + 51, _AT + 215])
@pytest.mark.parametrize(
    ("name", "length"), [*(("age", length) for length in (200, 500, 1_000, 3_000)), ("sometimes", 1_000)]
)
def test_a_feature_that_vanishes_and_comes_back_is_one_incident(name: str, length: int, begin: int) -> None:
    """Whatever part of a block it begins and ends in, one `quality.missing` opens, spans it, and is resolved once."""
    end = begin + length
    steps = _Stream(_events(end + 2_500, _gone(name, begin, end), begin=begin)).run()
    assert {(alert.kind, alert.incident_id) for alert in steps} == {("quality.missing", steps[0].incident_id)}
    assert [alert.status for alert in steps] == ["opened", *["updated"] * (len(steps) - 2), "resolved"]
    opened, resolved = ((alert.timestamp_ms - _START_MS) // _STEP_MS for alert in (steps[0], steps[-1]))
    assert opened <= begin + 400
    assert end <= resolved <= end + 600


def test_a_subscriber_sees_one_incident_of_a_feature_that_was_gone() -> None:
    """Through the whole engine: of data quality one incident is told, which is opened, updated, and resolved once."""
    options = EngineOptions(detectors=("moments",), performance=PerformanceOptions(enabled=False))
    monitor = Monitor("m", Home(0, "predictions", "labels"), options, InlineRefits(), SilenceBook(10))
    # One event a second: so slow that no step is held back for coming too soon after another.
    begin, end, count = 4_050, 5_250, 6_500
    stream = [_event(n, _features(n), _START_MS + 1_000 * n) for n in range(count)]
    for event in stream[begin:end]:
        event.features["age"] = None
    times = np.array([event.timestamp for event in stream], dtype=np.int64)
    out = monitor.process(stream, np.arange(count), times)
    told = [msgspec.json.decode(each.value or b"", type=AlertEvent) for each in out if each.topic == OutputTopic.ALERTS]
    steps = [alert for alert in told if alert.kind.startswith("quality.")]
    assert {(alert.kind, alert.incident_id) for alert in steps} == {("quality.missing", steps[0].incident_id)}
    assert [alert.status for alert in steps if alert.status != "updated"] == ["opened", "resolved"]


def test_a_feature_that_vanishes_is_told_in_words() -> None:
    """Every block without a value says so, and is critical."""
    steps = _Stream(_events(_AT + 1_000, _set("age", None))).run()
    assert [alert.summary for alert in steps[:2]] == [
        "m: `age` is missing: 25 %, usually 0 %",
        "m: `age` is missing: 100 %, usually 0 % (vanished)",
    ]
    assert [alert.severity for alert in steps[:2]] == ["warning", "critical"]


def test_a_feature_that_is_nearly_always_missing_can_vanish() -> None:
    """No share can rise by much there, but so long without a value is no chance; it is one incident, too."""
    begin, end = _AT, _AT + 2_000

    def rare(number: int, features: Features) -> None:
        features["age"] = features["age"] if number % 33 == 0 and not begin <= number < end else None

    steps = _Stream(_events(end + 2_000, rare, begin=0)).run()
    assert {(alert.kind, alert.incident_id) for alert in steps} == {("quality.missing", steps[0].incident_id)}
    assert [steps[0].status, steps[-1].status] == ["opened", "resolved"]


def test_what_has_vanished_is_not_over_before_it_is_normal() -> None:
    """The incident stays open while nothing comes, up to `adopt_blocks` blocks, and no block of it is learned."""
    options = EngineOptions(quality=QualityOptions(adopt_blocks=30))
    for begin in (_AT, _AT + 50):
        steps = _Stream(_events(_AT + 8_000, _set("age", None), begin=begin), options).run()
        told = [(alert.status, (alert.timestamp_ms - _START_MS) // _STEP_MS) for alert in steps]
        assert [status for status, _ in told if status != "updated"] == ["opened", "resolved"]
        assert begin + 30 * 200 <= told[-1][1] <= begin + 34 * 200


def test_what_has_vanished_for_long_can_be_missing_again() -> None:
    """A tenth of the events without a value is told after a long absence as it was before."""

    def edit(number: int, features: Features) -> None:
        if number < _AT + 3_000 or (number >= 10_000 and number % 10 == 0):
            features["age"] = None

    opened = _opened(_Stream(_events(11_000, edit)).run())
    assert [alert.kind for alert in opened] == ["quality.missing"] * 2
    assert 10_000 <= (opened[1].timestamp_ms - _START_MS) // _STEP_MS <= 10_400


def test_a_feature_absent_by_design_is_no_anomaly() -> None:
    """A column without any value, from the first block on, is never told, nor one that is constant."""
    events = _events(6_000, lambda _number, features: features.update({"age": None, "speed": 1.0}), begin=_WARM_UP)
    assert _Stream(events).run() == []


def test_zeros_may_last_longer_than_a_block() -> None:
    """A feature that is mostly zero is stuck only after as many zeros as its own runs make unlikely."""
    opened = _opened(_Stream(_events(_AT + 3_000, _set("spend", 0.0))).run())
    assert [alert.kind for alert in opened] == ["quality.constant"]
    delay = (opened[0].timestamp_ms - _START_MS) // _STEP_MS - _AT
    assert 200 < delay < 2_000


def test_events_that_come_again_are_counted() -> None:
    """Records that were sent twice are told as duplicates, unless that is switched off."""
    events = _events(_AT + 100)
    events += events[_AT - 150 : _AT + 50]
    alerts = _opened(_Stream(events).run())
    assert [alert.kind for alert in alerts] == ["quality.duplicate"]
    assert alerts[0].change is not None
    assert alerts[0].change.changed[0].name == ""
    off = EngineOptions(quality=QualityOptions(duplicates=False))
    assert _Stream(events, off).run() == []


def test_clocks_that_stop_or_fall_behind() -> None:
    """A timestamp that stands still, and events that are hours late, are told as faults of the timestamps."""
    for fault, measure in ((lambda _n, _t: _START_MS + _AT * _STEP_MS, "equal_timestamps"), (_late, "late_share")):
        events = [
            _event(n, _features(n), fault(n, _START_MS + n * _STEP_MS) if n >= _AT else None) for n in range(_AT + 800)
        ]
        opened = _opened(_Stream(events).run())
        assert [alert.kind for alert in opened] == ["quality.timestamp"]
        assert opened[0].change is not None
        assert opened[0].change.changed[0].measure == measure


def _late(number: int, time_ms: int) -> int:
    return time_ms - 7_200_000 if number % 2 else time_ms


def test_producers_that_write_in_bulk_are_no_fault() -> None:
    """Hundreds of events with one timestamp are normal where that has been so."""
    rng = np.random.default_rng(1)
    times = np.repeat(np.arange(200) * 5_000, rng.integers(1, 300, 200))[:12_000]
    events = [_event(n, _features(n), _START_MS + int(time)) for n, time in enumerate(times)]
    assert _Stream(events).run() == []


def test_what_only_goes_up_may_leave_its_range() -> None:
    """Counters and running times leave every learned range, and are not told."""

    def count(number: int, features: Features) -> None:
        features["age"], features["amount"] = number, 1e12 + number * 1000.0

    assert _Stream(_events(12_000, count, begin=0)).run() == []


def test_a_declared_range_holds_from_the_first_event_and_for_ever() -> None:
    """One value outside of a declared range is told even in the reference, and does not become normal."""
    ranges = {"age": RangeOptions(minimum=18.0), "amount": RangeOptions(maximum=1e9)}
    options = EngineOptions(quality=QualityOptions(ranges=ranges, adopt_blocks=5))
    edit: _Edit = lambda number, features: features.update({"age": 3.0} if number % 100 == 0 else {})  # noqa: E731 - typed
    alerts = _Stream(_events(6_000, edit, begin=0), options).run()
    assert [alert.kind for alert in alerts] == ["quality.range"] * len(alerts)
    assert [alert.status for alert in alerts] == ["opened"] + ["updated"] * (len(alerts) - 1)
    assert all(alert.evidence[-1].timestamp_ms == alert.timestamp_ms for alert in alerts)
    assert (alerts[0].timestamp_ms - _START_MS) // _STEP_MS < 400
    assert quality_contradictions(options.quality) == []
    assert len(quality_contradictions(QualityOptions(ranges={"age": RangeOptions(2.0, 1.0)}))) == 1


def test_a_fault_that_ends_is_resolved() -> None:
    """The incident ends soon after the fault does, and what the fault did is not learned."""
    burst: _Edit = lambda number, features: features.update({"age": None} if number < _AT + 1_000 else {})  # noqa: E731 - typed
    alerts = _Stream(_events(_AT + 3_000, burst)).run()
    assert {alert.kind: alert.status for alert in alerts} == {"quality.missing": "resolved"}
    last = max(alert.timestamp_ms for alert in alerts)
    assert (last - _START_MS) // _STEP_MS <= _AT + 1_000 + 800


@pytest.mark.parametrize(
    "edit", [_set("speed", 0.25), _times("age", 1000.0), _set("colour", "mauve"), _set("age", None)]
)
def test_a_state_that_stands_becomes_normal(edit: _Edit) -> None:
    """After `adopt_blocks` blocks every incident ends, and none comes again."""
    options = EngineOptions(quality=QualityOptions(adopt_blocks=10))
    alerts = _Stream(_events(_AT + 8_000, edit), options).run()
    assert {alert.status for alert in alerts} >= {"opened", "resolved"}
    assert all((alert.timestamp_ms - _START_MS) // _STEP_MS < _AT + 4_000 for alert in alerts)
    assert sum(alert.status == "opened" for alert in alerts) == sum(alert.status == "resolved" for alert in alerts)


_QUICK = EngineOptions(
    categories_max=4,
    quality=QualityOptions(block_events=20, reference_blocks=3, ids_max=30, names_max=3, adopt_blocks=6),
)


def _rough(seed: int, count: int) -> list[PredictionEvent]:
    """Events with every fault, for a few dozen events each."""
    rng = np.random.default_rng(seed)
    events, edits = [], [fault[1] for fault in _FAULTS] + [_set("age", None), lambda _number, _features: None]
    for number in range(count):
        features = _features(number)
        if number > 200:
            edits[number // 70 % len(edits)](number, features)
        if rng.random() < 0.1:
            features[f"extra{rng.integers(0, 9)}"] = 1.0
        late = int(rng.integers(0, 2)) * 90_000 if number % 900 > 800 else 0
        events.append(
            _event(number, features, _START_MS + number * _STEP_MS - late, f"e{number - number % 7 // 6 * 20}")
        )
    return events


_ROUGH = _rough(3, 1_500)


@settings(deadline=None, max_examples=12)
@given(st.lists(st.integers(_WARM_UP, len(_ROUGH)), max_size=12), st.integers(0, 12))
def test_any_cut_and_any_restore_gives_the_same_bytes(cuts: list[int], restored_at: int) -> None:
    """Alerts and state are bit-identical however the stream is cut, and over a restore."""
    whole = _Stream(_ROUGH, _QUICK)
    told = whole.feed(_WARM_UP, len(_ROUGH))
    assert len({each.record.kind for each in told if isinstance(each.record, AlertEvent)}) >= 6
    stream, parts = _Stream(_ROUGH, _QUICK), []
    bounds = sorted({_WARM_UP, *cuts, len(_ROUGH)})
    for number, (begin, end) in enumerate(pairwise(bounds)):
        if number == restored_at:
            stream = stream.restored()
        parts += stream.feed(begin, end)
    assert parts == told
    assert stream.state() == whole.state()


def _damages() -> list[tuple[str, Callable[[dict[str, Any]], None]]]:
    def put(name: str, value: float) -> Callable[[dict[str, Any]], None]:
        return lambda arrays: arrays[name].reshape(-1).__setitem__(slice(None), value)

    return [
        ("sample is larger", put("tables.block.sampled", 20)),
        ("not a count", put("tables.block.runs", -1)),
        ("counts more", put("tables.block.counts", 20)),
        ("category", put("tables.block.code", 99)),
        ("category", put("tables.bounds.known", 99)),
        ("more cases", put("tables.learned.n", 0)),
        ("recent block", put("tables.recent.n", 0)),
        ("share", put("tables.learned.most", 2.0)),
        ("range", put("tables.learned.low", np.nan)),
        ("range", put("tables.bounds.high", np.nan)),
        ("spread", put("tables.learned.square", -1.0)),
        ("instead of", lambda arrays: arrays.pop("tables.watch.stood")),
        ("instead of", lambda arrays: arrays.update({"tables.watch.starts": np.zeros((1, 2), dtype=np.int64)})),
        ("no event ids", lambda arrays: arrays.pop("ids.keys")),
        ("too many", lambda arrays: arrays.update({"ids.keys": np.zeros((31, 1), dtype=np.uint64)})),
        ("no keys", lambda arrays: arrays.update({"ids.keys": np.zeros((3, 3), dtype=np.uint64)})),
    ]


@pytest.mark.parametrize(("reason", "damage"), _damages())
def test_damaged_arrays_are_refused(reason: str, damage: Callable[[dict[str, Any]], None]) -> None:
    """Arrays that kernels would go wrong with are refused with a reason."""
    stream = _Stream(_ROUGH[:410], _QUICK)
    stream.feed(_WARM_UP, 410)
    arrays = {name: array.copy() for name, array in stream.watch.arrays().items()}
    fresh = QualityWatch(Owner("m", 0, "predictions"), stream.columns, _QUICK)
    fresh.restore(stream.watch.plain(), arrays)
    damage(arrays)
    with pytest.raises(ValueError, match=reason):
        QualityWatch(Owner("m", 0, "predictions"), stream.columns, _QUICK).restore(stream.watch.plain(), arrays)


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("longer than a block", {"place": 20}),
        ("not begun", {"begun": False}),
        ("other kinds", {"standings": {}}),
        ("no column", {"examples": {77: "string instead of number"}}),
    ],
)
def test_damaged_plain_state_is_refused(reason: str, change: dict[str, Any]) -> None:
    """A plain part that contradicts itself is refused with a reason."""
    stream = _Stream(_ROUGH[:410], _QUICK)
    stream.feed(_WARM_UP, 410)
    plain = msgspec.structs.replace(stream.watch.plain(), **change)
    with pytest.raises(ValueError, match=reason):
        QualityWatch(Owner("m", 0, "predictions"), stream.columns, _QUICK).restore(plain, stream.watch.arrays())


def test_a_watch_that_has_not_begun_can_be_stored() -> None:
    """Before the columns are frozen there is nothing but that to store."""
    columns = ColumnTable(features_max=4, categories_max=4)
    watch = QualityWatch(Owner("m", 0, "predictions"), columns, EngineOptions())
    again = QualityWatch(Owner("m", 0, "predictions"), columns, EngineOptions())
    again.restore(watch.plain(), watch.arrays())
    assert again.arrays() == {}


def test_a_model_without_features_works() -> None:
    """The prediction alone, then stuck, is watched."""
    rng = np.random.default_rng(2)
    events = [_event(n, {"prediction": rng.random() if n < _AT else 0.5}) for n in range(_AT + 600)]
    assert _first(_Stream(events).run(), "prediction").measure == "equal_values"
