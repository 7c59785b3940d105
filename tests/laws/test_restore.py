"""State survives: a restored monitor goes on with equal bits, and what cannot be restored is refused with a reason."""

import math
import random
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.laws.forms import Form, form
from tests.streams import FAR_MS, SMALL, START_MS, TOPIC, batch, records
from worker.core.alerts.silences import SilenceBook
from worker.core.codec import decode_predictions
from worker.core.detectors import half_space
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.events import LabelEvent, Output, PredictionEvent
from worker.core.kernels.arrays import I64
from worker.core.monitor import Home, Monitor
from worker.core.state import AnyArray, State

# Its snapshots are taken once for all tests: in one process.
pytestmark = pytest.mark.xdist_group("restore")

EVENTS = 400


class Step(NamedTuple):
    """One thing that happens to a monitor: events with their offsets and times, or labels, or a tick."""

    events: list[PredictionEvent]
    times_ms: list[int]
    first_offset: int
    labels: int = 0
    tick_ms: int | None = None


def steps(seed: int, count: int = EVENTS, *, features: bool = True) -> list[Step]:
    """Return what happens to one model: labels first, then events in small batches, and labels and ticks between."""
    rng = random.Random(seed)
    raw = batch(0, 0, records(seed, count, models=1, bad=0.0))
    decoded = decode_predictions(raw, record_bytes_max=10_000, future_max_ms=SMALL.future_max_ms)
    events = [event if features else msgspec.structs.replace(event, features={}) for event in decoded.events]
    times = decoded.timestamps_ms.tolist()
    out = [Step([], [], 0, labels=2)]
    place = 0
    while place < len(events):
        stop = min(len(events), place + rng.choice([1, 2, 2, 10]))
        out.append(Step(events[place:stop], times[place:stop], place))
        place = stop
        if rng.random() < 0.2:
            out.append(Step([], [], place, labels=rng.randrange(4)))
        if rng.random() < 0.1:
            late = times[place - 1] + rng.choice([0, 500, 5000])
            out += [Step([], [], place, tick_ms=late)] * rng.choice([1, 2])
    return out


def new_monitor() -> Monitor:
    """Return a monitor that has seen nothing."""
    return Monitor("m0", Home(0, TOPIC, "labels"), SMALL, InlineRefits(), SilenceBook(10))


def take(monitor: Monitor, step: Step) -> list[Output]:
    """Let one step happen to a monitor."""
    labels = monitor.label(*labels_of(step))
    if step.tick_ms is not None:
        return labels + monitor.tick(step.tick_ms, step.first_offset)
    offsets = np.arange(step.first_offset, step.first_offset + len(step.events))
    return labels + monitor.process(step.events, offsets, np.array(step.times_ms, dtype=np.int64))


def labels_of(step: Step) -> tuple[list[LabelEvent], I64, I64]:
    """Return labels of the latest events, and when they come."""
    numbers = [max(step.first_offset - 1 - 3 * each, 0) for each in range(step.labels)]
    events = [LabelEvent(f"e{number}", "m0", number % 5 / 4) for number in numbers]
    return events, np.array(numbers, dtype=np.int64), np.full(len(numbers), START_MS + 50 * step.first_offset)


def stored(state: State) -> State:
    """Return state as a snapshot gives it back: arrays are views of bytes, not to be written to."""
    arrays = {
        name: np.frombuffer(array.tobytes(), dtype=array.dtype).reshape(array.shape)
        for name, array in state.arrays.items()
    }
    return State(bytes(state.plain), arrays)


def restored(monitor: Monitor) -> Monitor:
    """Return another monitor with the state of this one."""
    twin = new_monitor()
    fitted = stored(monitor.fitted_state()) if monitor.fitted_version else None
    twin.restore(stored(monitor.live_state()), fitted)
    return twin


def bits(monitor: Monitor) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Return all state of a monitor, to be compared."""
    return {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in monitor.state().items()}


# --------------------------------------------------------------------------------------------------------- equal bits


@settings(max_examples=16, deadline=None)
@given(seed=st.integers(0, 2**32), share=st.floats(0.0, 1.0), features=st.booleans())
def test_a_restored_monitor_goes_on_with_equal_bits(seed: int, share: float, features: bool) -> None:  # noqa: FBT001 - drawn by Hypothesis
    """Wherever a stream is cut, the outputs, the state and the trace after it are those of an uninterrupted monitor."""
    stream = steps(seed, features=features)
    place = round(share * len(stream))
    whole = new_monitor()
    for step in stream[:place]:
        take(whole, step)
    twin = restored(whole)
    assert bits(twin) == bits(whole)
    for step in stream[place:]:
        assert take(twin, step) == take(whole, step)
        assert twin.trace == whole.trace
    assert bits(twin) == bits(whole)


def situations(monitor: Monitor) -> Iterator[str]:
    """Name what is special about a monitor at this moment."""
    live = monitor.live_state()
    plain = msgspec.msgpack.decode(live.plain)
    yield ["warming up", "no forest yet", "forest"][min(monitor.fitted_version, 2)]
    yield f"{np.count_nonzero(live.arrays['counts.events'])} open panes"
    if not plain["seen"]:
        yield "labels first"
    if plain["judge"]["incident"] is not None:
        yield "open incident"
    if "judge.ensemble.isolation_forest.request" in live.arrays:
        yield "pending refit"


SITUATIONS = {
    "labels first",
    "warming up",
    "no forest yet",
    "forest",
    "pending refit",
    "open incident",
    "0 open panes",
    "1 open panes",
    "2 open panes",
}


def test_a_monitor_may_be_restored_after_every_step() -> None:
    """Restored all the time, it gives the same bytes; and the stream has every situation that there is."""
    whole, chain = new_monitor(), new_monitor()
    seen: set[str] = set()
    for step in steps(7, 500):
        assert take(chain, step) == take(whole, step)
        seen.update(situations(chain))
        chain = restored(chain)
    assert bits(chain) == bits(whole)
    assert seen == SITUATIONS


def test_the_fitted_part_changes_with_its_version_alone() -> None:
    """Between two changes of `fitted_version` the fitted part is the same bytes, so it need not be stored again."""
    monitor = new_monitor()
    by_version: dict[int, set[tuple[Any, ...]]] = {}
    for step in steps(7):
        take(monitor, step)
        plain, arrays = monitor.fitted_state()
        content = plain, *((name, array.tobytes()) for name, array in arrays.items())
        by_version.setdefault(monitor.fitted_version, set()).add(content)
    # Two models may be refitted at once.
    assert list(by_version) == sorted(by_version)
    assert len(by_version) > 4
    assert {len(contents) for contents in by_version.values()} == {1}


def test_restoring_draws_no_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """River takes long to draw trees: a restored monitor has its own."""
    snapshot = snapshots()["forest"]
    monkeypatch.setattr(half_space, "_grow", None)
    assert refusal(snapshot) is None


def test_a_tick_that_is_not_wanted_does_nothing() -> None:
    """So there is no need to write such a tick down."""
    monitor, unwanted = new_monitor(), 0
    for step in steps(5, 200):
        take(monitor, step)
        while monitor.wants_tick(FAR_MS) and step.tick_ms is not None:
            monitor.tick(FAR_MS, step.first_offset)
        if not monitor.wants_tick(FAR_MS):
            before, unwanted = bits(monitor), unwanted + 1
            assert monitor.tick(FAR_MS, step.first_offset) == []
            assert bits(monitor) == before
    assert unwanted > 5


def test_the_trace_tells_what_was_computed() -> None:
    """Another value, one event less or one label more: another trace. It is one number for any cut into batches."""

    def trace(events: list[PredictionEvent], size: int = 50, labels: int = 0) -> int:
        monitor = new_monitor()
        monitor.label(*labels_of(Step([], [], 10, labels)))
        for begin in range(0, len(events), size):
            part = events[begin : begin + size]
            take(monitor, Step(part, [START_MS] * len(part), begin))
        return monitor.trace

    events = [event for step in steps(6, 120) for event in step.events]
    other = msgspec.structs.replace(events[-1], features={"a": 12.0})
    assert trace(events) == trace(events, size=7) < 2**64
    assert len({trace(events), trace(events[:-1]), trace([*events[:-1], other]), trace(events, labels=1)}) == 4
    assert len({trace(events[:n]) for n in range(10)}) == 10


# ------------------------------------------------------------------------------------------------------ hostile bytes


class Snapshot(NamedTuple):
    """What is stored of a monitor."""

    live: State
    fitted: State | None

    def with_array(self, name: str, array: AnyArray | None) -> "Snapshot":
        """Return it with another array (None: without) in the part that has it, or else in the live one."""
        part = self.fitted if self.fitted is not None and name in self.fitted.arrays else self.live
        rest = {key: mine for key, mine in part.arrays.items() if key != name}
        changed = State(part.plain, rest if array is None else {**rest, name: array})
        return self._replace(fitted=changed) if part is self.fitted else self._replace(live=changed)

    def with_plain(self, path: list[Any], value: object) -> "Snapshot":
        """Return it with another value in the plain part."""
        plain = node = msgspec.msgpack.decode(self.live.plain)
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value
        return self._replace(live=State(msgspec.msgpack.encode(plain), self.live.arrays))

    @property
    def arrays(self) -> dict[str, AnyArray]:
        """All arrays."""
        return {**self.live.arrays, **(self.fitted.arrays if self.fitted is not None else {})}


@cache
def snapshots() -> dict[str, Snapshot]:
    """Return a snapshot of a monitor in each situation, the last there is of it."""
    monitor = new_monitor()
    found: dict[str, Snapshot] = {}
    for step in steps(7, 500):
        take(monitor, step)
        fitted = stored(monitor.fitted_state()) if monitor.fitted_version else None
        found |= dict.fromkeys(situations(monitor), Snapshot(stored(monitor.live_state()), fitted))
    return found


@cache
def future() -> list[Step]:
    """Return what happens after a restore: events at old times and at new ones, labels, ticks."""
    later = [step._replace(times_ms=[each + 600_000 for each in step.times_ms]) for step in steps(8, 50)]
    tick = Step([], [], 1000, tick_ms=FAR_MS)
    return [*steps(9, 30), *later, tick, tick]


def refusal(snapshot: Snapshot) -> str | None:
    """Return why it is refused; if it is not, everything goes on without an error."""
    monitor = new_monitor()
    try:
        monitor.restore(*snapshot)
    except ValueError as error:
        return str(error)
    for step in future():
        take(monitor, step)
    assert monitor.state()
    return None


@cache
def first_with_form() -> dict[Form, tuple[str, str]]:
    """Return the first situation in which there is an array of each form, and its name."""
    found: dict[Form, tuple[str, str]] = {}
    for situation in sorted(SITUATIONS):
        for name, array in snapshots()[situation].arrays.items():
            found.setdefault(form(name, array), (situation, name))
    return found


@pytest.mark.parametrize("situation", sorted(SITUATIONS))
def test_arrays_of_another_type_or_shape_are_refused(situation: str) -> None:
    """Each array must be there with its type and its shape, and no other: each form of it is tried once."""
    snapshot, missed = snapshots()[situation], set[str]()
    assert refusal(snapshot) is None
    assert refusal(snapshot.with_array("more", np.zeros(1))) is not None
    for name, array in snapshot.arrays.items():
        found = form(name, array)
        if found.kind not in missed:
            assert refusal(snapshot.with_array(name, None)) is not None, name
            missed.add(found.kind)
        if first_with_form()[found] != (situation, name):
            continue
        longer = np.zeros((len(array) + 1, *array.shape[1:]), array.dtype)
        others = [array[np.newaxis].repeat(2, axis=0), array.astype(np.complex128)]
        # Of wrong answers, blocks, regimes and ids there can be any number up to a bound: one more is no damage.
        is_bounded = name.endswith((".wrong", ".begins", ".regimes.counts", ".ids.keys"))
        for other in others[1:] if name.endswith(".regimes.counts") else others if is_bounded else [*others, longer]:
            assert refusal(snapshot.with_array(name, other)) is not None, name
        assert refusal(snapshot.with_array(f"{name}.more", array)) is not None


# The first element of an array, and what it cannot be.
IMPOSSIBLE: dict[str, list[float]] = {
    "panes.count": [-1, 2**62],
    "panes.mean": [math.nan, math.inf],
    "panes.minimum": [math.nan],
    "panes.codes": [-1],
    "panes.scale": [6, -11, -(2**31)],
    "panes.bucket_start": [2**62, -(2**63), 2**16],
    "counts.events": [-1],
    "counts.index": [-1, 2**62, 7],
    "counts.first_offset": [-2, 2**62],
    "judge.ensemble.surprisal.totals": [-1, 2**62],
    "judge.ensemble.calibration.counters": [-1, 2**62],
    "judge.ensemble.calibration.pool": [math.nan, math.inf],
    "judge.ensemble.calibration.reference": [math.nan, 2.0],
    "judge.ensemble.calibration.tail": [math.nan],
    "judge.ensemble.calibration.members": [-1, 7],
    "judge.ensemble.calibration.burst": [math.nan, -1.0],
    "judge.ensemble.half_space_trees.learned": [-1, 2**31 - 1],
    "judge.ensemble.half_space_trees.masses": [-1, math.nan],
    "judge.ensemble.half_space_trees.position": [-1, 12],
    "judge.ensemble.half_space_trees.trees": [0],
    "judge.ensemble.isolation_forest.rows": [math.inf],
    "judge.ensemble.isolation_forest.schedule": [-1, 0, 2**62],
    "judge.ensemble.moments.count": [-1, 2**62],
    "judge.ensemble.moments.m2": [math.nan, -1.0],
    "judge.ensemble.nearest_neighbours.store": [math.nan, 7.0],
    "judge.recent.rows": [math.inf],
    "judge.recent.seen": [-1, 2**62],
    "watching.rate.counts": [-1, 2**62],
    "usual.low": [math.inf],
    "half_space_trees.low": [math.nan, math.inf, 1e300],
    "isolation_forest.forest": [0],
    "moments.high": [math.nan, -1e300],
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_values_are_refused(name: str) -> None:
    """What a kernel would read out of bounds with, or never end with, or what no monitor can have."""
    snapshot = snapshots()["2 open panes"]
    for value in IMPOSSIBLE[name]:
        array = snapshot.arrays[name].copy()
        array.flat[0] = value
        assert refusal(snapshot.with_array(name, array)) is not None, value


def test_rows_of_a_refit_must_be_finite() -> None:
    """A fit would refuse them, in another process and much later."""
    name = "judge.ensemble.isolation_forest.request"
    snapshot = snapshots()["pending refit"]
    array = np.full_like(snapshot.arrays[name], np.inf)
    assert refusal(snapshot.with_array(name, array)) is not None


def test_a_part_of_another_monitor_is_refused() -> None:
    """The parts belong together, and to this model."""
    early, late = snapshots()["no forest yet"], snapshots()["forest"]
    assert refusal(late._replace(fitted=early.fitted)) is not None
    assert refusal(late._replace(fitted=None)) is not None
    assert refusal(snapshots()["warming up"]._replace(fitted=late.fitted)) is not None
    assert refusal(late.with_plain(["model_id"], "m1")) is not None
    assert refusal(late.with_plain(["shard"], 1)) is not None
    for plain in (b"", b"\xc1", b"\x80", msgspec.msgpack.encode([1]), late.live.plain[:-1], late.live.plain + b"\x00"):
        assert refusal(late._replace(live=late.live._replace(plain=plain))) is not None


@pytest.mark.parametrize("field", ["observed", "expected_high", "contribution", ("contributions", "tails")])
def test_an_explanation_that_is_no_number_is_refused(field: str | tuple[str, str]) -> None:
    """It would be told at the next step of the incident."""
    path = ["judge", "incident", "features", 0, *([field] if isinstance(field, str) else field)]
    for value in (math.nan, math.inf):
        assert "explanation" in str(refusal(snapshots()["open incident"].with_plain(path, value)))


HOSTILE: list[object] = [None, -1, 0, 1, 2**53, 2**63 - 1, -(2**63), 0.5, math.nan, math.inf, "x", [], {}, True, b"x"]


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_any_value_is_refused_or_does_no_harm(data: st.DataObject) -> None:
    """Whatever one place of the state holds: a ValueError at once, or everything goes on."""
    snapshot = snapshots()[data.draw(st.sampled_from(sorted(SITUATIONS)))]
    name = data.draw(st.sampled_from([name for name, array in snapshot.arrays.items() if array.size]))
    array = snapshot.arrays[name].copy()
    if array.dtype.kind == "b":
        array.flat[0] = not array.flat[0]
        refusal(snapshot.with_array(name, array))
        return
    kind = np.finfo(array.dtype) if array.dtype.kind == "f" else np.iinfo(array.dtype)
    values = st.sampled_from([kind.min, kind.max, -1, 0, 1, 2**40]) | st.integers(-70_000, 70_000)
    special = st.sampled_from([math.nan, math.inf, -math.inf]) if array.dtype.kind == "f" else st.nothing()
    value = np.clip(data.draw(values | special), kind.min, kind.max)
    array.flat[data.draw(st.integers(0, array.size - 1))] = value
    refusal(snapshot.with_array(name, array))


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_any_plain_value_is_refused_or_does_no_harm(data: st.DataObject) -> None:
    """The same for what is not in arrays."""
    snapshot = snapshots()[data.draw(st.sampled_from(sorted(SITUATIONS)))]
    path: list[Any] = []
    node = msgspec.msgpack.decode(snapshot.live.plain)
    while isinstance(node, dict | list) and node and (not path or data.draw(st.booleans())):
        path.append(data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node)))))
        node = node[path[-1]]
    refusal(snapshot.with_plain(path, data.draw(st.sampled_from(HOSTILE))))
