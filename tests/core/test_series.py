"""A series: panes, blocks and lifetime are recounts of what holds, whatever was corrected, evicted, or cut."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.kernels.arrays import I64
from worker.core.options import PerformanceOptions
from worker.core.performance.label_join import NO_BLOCK
from worker.core.performance.layout import Layout, Tally, exact_values, labelled
from worker.core.performance.series import Addition, Series, StoredPane, StoredSeries
from worker.core.performance.tallies import Rows, Tallies, add
from worker.core.performance.task import Task
from worker.core.state import AnyArray

OPTIONS = PerformanceOptions(pane_ms=10, panes_max=3, block_labels=3, blocks_max=4, half_life_labels=6, support_min=3)
CLASSES, NUMBERS = Task("binary", "text"), Task("regression", "value", center=1.0, unit=2.0)
SCORED = Layout.of(CLASSES, 2, has_scores=True)


Counted = tuple[list[int], list[int]]


class Event(NamedTuple):
    """A labelled event; `label` and `prediction` are codes, or places among `VALUES` of a regression."""

    pane: int
    arrived_ms: int
    label: int
    prediction: int
    lag: int
    score: float


VALUES = np.array([0.0, 1e300, -5.5])


class Step(NamedTuple):
    """A prediction in a pane, a label of a new event, a correction of an earlier one, or the arrival pane is told."""

    prediction: int | None = None
    event: Event | None = None
    corrected: int | None = None
    label: int = 0


def rows_of(task: Task, events: Sequence[Event], signs: Sequence[int]) -> Rows:
    """Contributions of events."""
    labels, predictions = np.array([each.label for each in events]), np.array([each.prediction for each in events])
    cells = np.zeros((len(events), 8))
    cells[:, 1] = [each.score for each in events]
    cells[:, 0] = 1.0 - cells[:, 1]
    lags, all_signs = np.array([each.lag for each in events], dtype=np.int16), np.array(signs, dtype=np.int8)
    if task.is_regression:
        return Rows(all_signs, lags, VALUES[labels.astype(int)], VALUES[predictions.astype(int)], cells[:, :0])
    return Rows(all_signs, lags, labels.astype(np.int16), predictions.astype(np.int16), cells)


def recount(task: Task, layout: Layout, events: Sequence[Event]) -> Counted:
    """The naive twin of every tally: all that holds, added up anew."""
    tallies = Tallies(layout)
    slot = tallies.slot(0)
    nowhere = tallies.target(np.full(len(events), -1))
    into = tallies.target(np.full(len(events), slot))
    add((nowhere, into, nowhere), rows_of(task, events, [1] * len(events)), task, layout)
    return counted(tallies.take(0))


def counted(tally: tuple[I64, I64]) -> Counted:
    """An exact tally as integers of Python, whether its sums are in normal form or not."""
    counts, sums = tally
    return counts.tolist(), [sum(lane << (32 * at) for at, lane in enumerate(lanes)) for lanes in sums.tolist()]


class NaiveSeries:
    """The naive twin: a list of events with the labels that hold, one row after the other."""

    def __init__(self, task: Task, layout: Layout) -> None:
        self.task, self.layout = task, layout
        self.events: list[Event] = []
        self.panes: dict[int, StoredPane] = {}
        self.predictions = 0
        self.arrival, self.arrival_revision, self.arrived = -1, 0, list[Event]()
        self.arrival_changed = False
        self.log: list[tuple[str, int, Counted]] = []

    def take(self, number: int, step: Step) -> None:
        """Take a step."""
        if step.prediction is not None:
            self.predictions += 1
            pane = self._pane(step.prediction) if step.prediction >= 0 else None
            if pane is not None:
                pane.predictions, pane.changed = pane.predictions + 1, True
        elif step.event is not None:
            self._label(number, step.event)
        elif step.corrected is not None:
            event = self.events[step.corrected]
            self._touch(event.pane)
            self.events[step.corrected] = event._replace(label=step.label)
        else:
            self.arrival_changed = False
            self.arrival_revision += 1

    def _label(self, number: int, event: Event) -> None:
        pane = event.arrived_ms // OPTIONS.pane_ms
        if pane > self.arrival:
            if self.arrival_changed:
                self.log.append(("arrival", number, self.count(self.arrived)))
            self.arrival, self.arrival_revision, self.arrived = pane, 0, []
        self.arrival_changed = True
        self.arrived.append(event)
        self.events.append(event)
        self._touch(event.pane)
        if len(self.events) % OPTIONS.block_labels == 0:
            self.log.append(("block", number, self.block(self.full_blocks - 1)))

    def _pane(self, key: int) -> StoredPane | None:
        if key not in self.panes:
            if len(self.panes) == OPTIONS.panes_max:
                if key < min(self.panes):
                    return None
                del self.panes[min(self.panes)]
            self.panes[key] = StoredPane()
        return self.panes[key]

    def _touch(self, key: int) -> None:
        pane = self._pane(key)
        if pane is not None:
            pane.changed = True

    def count(self, events: Sequence[Event]) -> Counted:
        """Recount some events."""
        return recount(self.task, self.layout, events)

    @property
    def full_blocks(self) -> int:
        """The number of blocks that are complete."""
        return len(self.events) // OPTIONS.block_labels

    def block(self, number: int) -> Counted:
        """Recount a block."""
        return self.count(self.events[number * OPTIONS.block_labels : (number + 1) * OPTIONS.block_labels])


class Fed:
    """A series that was fed, in calls that are cut at given places and before a correction of what is in the call."""

    def __init__(self, task: Task, layout: Layout) -> None:
        self.task = task
        self.series = Series(OPTIONS, task, layout)
        self.events: list[Event] = []
        self.blocks: list[int] = []
        self.log: list[tuple[str, int, Counted]] = []
        self.begins: list[dict[int, int]] = []

    def feed(self, steps: Sequence[Step], cuts: Sequence[int] = (), begin: int = 0) -> None:
        """Feed steps from a number on."""
        call: list[int] = []
        predictions: list[int] = []
        in_call: set[int] = set()
        known = len(self.events)
        for number in range(begin, len(steps)):
            step = steps[number]
            is_label = step.event is not None or step.corrected is not None
            if call and (number in cuts or not is_label or step.corrected in in_call):
                self._add(steps, call)
                call, in_call = [], set()
            if predictions and (number in cuts or step.prediction is None):
                self._predict(predictions)
                predictions = []
            if step.prediction is not None:
                predictions.append(step.prediction)
            elif is_label:
                call.append(number)
                in_call.add(known if step.corrected is None else step.corrected)
                known += step.event is not None
            else:
                self.series.arrival_told()
        self._add(steps, call)
        self._predict(predictions)

    def _predict(self, panes: Sequence[int]) -> None:
        keys, counts = np.unique(np.array(panes, dtype=np.int64), return_counts=True)
        self.series.predicted(keys, counts)

    def _add(self, steps: Sequence[Step], call: Sequence[int]) -> None:
        events, signs, blocks, numbers, fresh = list[Event](), list[int](), list[int](), list[int](), list[int]()
        for number in call:
            step = steps[number]
            if step.event is not None:
                new, block = [(step.event, 1)], NO_BLOCK
                fresh.append(len(events))
                self.events.append(step.event)
            elif step.corrected is not None:
                old = self.events[step.corrected]
                event = self.events[step.corrected] = old._replace(label=step.label)
                new, block = [(old, -1), (event, 1)], self.blocks[step.corrected]
            for event, sign in new:
                events.append(event)
                signs.append(sign)
                blocks.append(block)
                numbers.append(number)
        addition = Addition(
            rows_of(self.task, events, signs),
            np.array([each.pane for each in events], dtype=np.int64),
            np.array(blocks, dtype=np.int32),
            np.array([each.arrived_ms for each in events], dtype=np.int64),
        )
        for what, row in self.series.add(addition):
            series = self.series
            if what == "arrival":
                tally = series.by_arrival.exact([series.arrival])
            else:
                tally = series.blocks.exact(series.window(1))
                self.begins.append(series.begins())
            self.log.append((what, numbers[row], counted(tally)))
        self.blocks += addition.blocks[fresh].tolist()


def assert_equals(fed: Fed, twin: NaiveSeries) -> None:
    """Compare all figures of a series with recounts."""
    series, events = fed.series, twin.events
    assert fed.log == twin.log
    assert fed.blocks == [number // OPTIONS.block_labels for number in range(len(events))]
    assert series.known == twin.panes
    for key in twin.panes:
        inside = [event for event in events if event.pane == key]
        assert counted(series.panes.exact([key])) == twin.count(inside)
    total, predictions = series.lifetime
    assert counted(total) == twin.count(events)
    assert ((total[1][:, :-1] >= 0) & (total[1][:, :-1] < 2**32)).all()
    assert predictions == twin.predictions
    oldest = max(twin.full_blocks + 1 - OPTIONS.blocks_max, 0)
    assert (series.block, series.labels) == (twin.full_blocks, len(events))
    assert series.blocks.keys == list(range(oldest, -(-len(events) // OPTIONS.block_labels)))
    for key in series.blocks.keys:
        assert counted(series.blocks.exact([key])) == twin.block(key)
    assert (series.arrival, series.arrival_changed) == (twin.arrival, twin.arrival_changed)
    assert series.arrival_revision == twin.arrival_revision
    assert counted(series.by_arrival.exact([series.arrival])) == twin.count(twin.arrived)
    assert len(series.by_arrival) <= 1


@st.composite
def streams(draw: st.DrawFn) -> list[Step]:
    """Streams whose panes come and go, with corrections of events of any age."""
    labels = st.integers(0, 2)
    scores = st.sampled_from([0.0, 0.3, 0.5, 1.0])
    parts = draw(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(-12, 14), labels), max_size=50))
    steps, now_ms, count = [], 0, 0
    for sort, pane, later, label in parts:
        now_ms = max(now_ms + later, 0)
        if sort < 2:
            steps.append(Step(prediction=pane - 1))
        elif sort == 9:
            steps.append(Step())
        elif sort < 6 or count == 0:
            event = Event(pane, now_ms, label, draw(labels), draw(st.integers(0, 2)), draw(scores))
            steps.append(Step(event=event))
            count += 1
        else:
            steps.append(Step(corrected=draw(st.integers(0, count - 1)), label=label))
    return steps


def fed(task: Task, layout: Layout, steps: Sequence[Step], cuts: Sequence[int] = ()) -> Fed:
    """A series, fed."""
    out = Fed(task, layout)
    out.feed(steps, cuts)
    return out


def naive(task: Task, layout: Layout, steps: Sequence[Step]) -> NaiveSeries:
    """The twin, fed."""
    twin = NaiveSeries(task, layout)
    for number, step in enumerate(steps):
        twin.take(number, step)
    return twin


def encoded(series: Series) -> tuple[bytes, dict[str, bytes]]:
    """All bytes of the state."""
    arrays = {name: array.tobytes() for name, array in series.arrays().items()}
    return msgspec.msgpack.encode(series.plain()), arrays


@pytest.mark.parametrize("task", [CLASSES, NUMBERS], ids=["classes", "numbers"])
@given(steps=streams(), cuts=st.lists(st.integers(0, 50), max_size=6))
@settings(max_examples=150, deadline=None)
def test_equals_its_naive_twin_in_any_cut(task: Task, steps: list[Step], cuts: list[int]) -> None:
    """Panes, their flags, archive, blocks, arrival panes and the lifetime are recounts; cuts change no byte of it."""
    layout = Layout.of(task, 2, has_scores=True)
    twin, whole, parts = naive(task, layout, steps), fed(task, layout, steps), fed(task, layout, steps, cuts)
    assert_equals(whole, twin)
    assert_equals(parts, twin)
    assert parts.begins == whole.begins
    assert encoded(parts.series) == encoded(whole.series)


def labels(count: int, arrived_each_ms: int = 1) -> list[Step]:
    """So many labels of right and wrong answers, in one pane, as they arrive."""
    return [Step(event=Event(0, n * arrived_each_ms, 1 + n % 2, 1, 0, 0.5)) for n in range(count)]


def test_windows_are_of_blocks() -> None:
    """When a block is complete, windows of 1, 2 and 4 blocks end with it, as far as there are so many, and begin so."""
    out = fed(CLASSES, SCORED, labels(18, 7))
    assert out.begins == [
        {1: 0},
        {1: 21, 2: 0},
        {1: 42, 2: 21},
        {1: 63, 2: 42, 4: 0},
        {1: 84, 2: 63, 4: 21},
        {1: 105, 2: 84, 4: 42},
    ]
    assert out.series.window(2) == range(5, 7)


def test_windows_too_short_for_an_alert_are_left_out() -> None:
    """Where an alert rests on six labels, no window is of a single block of three."""
    options = msgspec.structs.replace(OPTIONS, support_min=6)
    out = Fed(CLASSES, SCORED)
    out.series = Series(options, CLASSES, SCORED)
    out.feed(labels(12))
    assert out.begins == [{}, {2: 0}, {2: 3}, {2: 6, 4: 0}]


def test_older_labels_weigh_half_for_each_half_life() -> None:
    """Six labels are a half-life: blocks of three weigh 1, 2^-1/2, 1/2; the design factor is Kish's."""
    series = fed(CLASSES, SCORED, labels(11)).series
    assert series.weights == pytest.approx({0: 2**-1.5, 1: 0.5, 2: 2**-0.5, 3: 1.0})
    tally = series.blocks.weighted(series.weights)
    assert labelled(tally) == pytest.approx(3 * (2**-1.5 + 0.5 + 2**-0.5) + 2)
    squares = 3 * (2**-3 + 2**-2 + 2**-1) + 2
    assert tally.design == pytest.approx(squares / labelled(tally))
    plain = Tally(np.zeros(SCORED.counts), np.zeros(SCORED.sums))
    for key, weight in series.weights.items():
        counts, sums = series.blocks.exact([key])
        plain = Tally(plain.counts + weight * counts, plain.sums + weight * exact_values(sums))
    np.testing.assert_allclose(tally.counts, plain.counts, rtol=1e-12)
    np.testing.assert_allclose(tally.sums, plain.sums, rtol=1e-12)


def test_nothing_weighs_nothing() -> None:
    """A series without labels has empty tallies and the design factor 1."""
    series = Series(OPTIONS, CLASSES, SCORED)
    tally = series.blocks.weighted(series.weights)
    assert (labelled(tally), tally.design) == (0.0, 1.0)
    assert not series.lifetime[0][0].any()


def test_a_pane_keeps_its_revision() -> None:
    """It is changed by a prediction, a label or a correction, and once told only by more of them."""
    steps = [Step(prediction=4), *labels(2), Step(corrected=0, label=2)]
    out = Fed(CLASSES, SCORED)
    out.feed(steps[:1])
    out.series.known[4].revision, out.series.known[4].changed = 1, False
    out.feed(steps[:3], begin=1)
    assert out.series.known == {0: StoredPane(0, 0, changed=True), 4: StoredPane(1, 1, changed=False)}
    out.series.known[0].revision, out.series.known[0].changed = 5, False
    out.feed(steps, begin=3)
    assert out.series.known[0] == StoredPane(0, 5, changed=True)


@pytest.mark.parametrize("has_scores", [True, False])
@given(steps=streams(), cut=st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_a_change_of_layout_moves_everything(steps: list[Step], cut: int, *, has_scores: bool) -> None:
    """With room for more classes in the middle, all is as if that room had been there from the start."""
    task = Task("multiclass", "text")
    small, large = (Layout.of(task, count, has_scores=has_scores) for count in (4, 5))
    widened, plain = Fed(task, small), fed(task, large, steps)
    widened.feed(steps[:cut])
    widened.series.change_layout(large)
    widened.feed(steps, begin=min(cut, len(steps)))
    assert encoded(widened.series) == encoded(plain.series)


# State that is stored.


def stored(steps: Sequence[Step] = ()) -> tuple[StoredSeries, dict[str, AnyArray]]:
    """A state as it comes from bytes: five panes, of which two are archived, and five blocks."""
    steps = steps or [
        step
        for pane in range(5)
        for step in (Step(prediction=pane), *(label_of(pane, 30 * pane + n) for n in range(3)))
    ] + [label_of(4, 150)]
    series = fed(CLASSES, SCORED, steps).series
    plain = msgspec.msgpack.decode(msgspec.msgpack.encode(series.plain()), type=StoredSeries)
    return plain, {name: array.copy() for name, array in series.arrays().items()}


def label_of(pane: int, arrived_ms: int) -> Step:
    """A label of an event in a pane."""
    return Step(event=Event(pane, arrived_ms, 1, 2, 0, 0.25))


@given(steps=streams(), cut=st.integers(0, 50))
@settings(max_examples=100, deadline=None)
def test_a_restored_series_goes_on_as_if_nothing_had_happened(steps: list[Step], cut: int) -> None:
    """State that is taken back is the same state, and what comes after is the same to the last bit."""
    cut = min(cut, len(steps))
    before, after = fed(CLASSES, SCORED, steps[:cut]), Fed(CLASSES, SCORED)
    plain = msgspec.msgpack.decode(msgspec.msgpack.encode(before.series.plain()), type=StoredSeries)
    after.series.restore(plain, {name: array.copy() for name, array in before.series.arrays().items()})
    assert encoded(after.series) == encoded(before.series)
    after.events, after.blocks = list(before.events), list(before.blocks)
    before.log.clear()
    for each in (before, after):
        each.feed(steps, begin=cut)
    assert after.log == before.log
    assert encoded(after.series) == encoded(before.series)


PLAIN_DAMAGES: dict[str, dict[str, Any]] = {
    "there are too many panes": {"panes": {key: StoredPane() for key in range(5)}},
    "a pane is not known": {"panes": {3: StoredPane(), 4: StoredPane()}},
    "a pane is out of range": {"panes": {-1: StoredPane(), 2: StoredPane(), 3: StoredPane(), 4: StoredPane()}},
    "a block is too full": {"fill": 3},
    "a block is ahead": {"block": 4},
    "a block is too old": {"block": 50},
    "its arrival pane is out of range": {"arrival": -2},
}


@pytest.mark.parametrize("reason", PLAIN_DAMAGES)
def test_plain_state_that_cannot_be_is_refused(reason: str) -> None:
    """Panes, blocks and arrival panes that contradict each other, or the bounds."""
    plain, arrays = stored()
    options = msgspec.structs.replace(OPTIONS, panes_max=4)
    damaged = msgspec.structs.replace(plain, **PLAIN_DAMAGES[reason])
    with pytest.raises(ValueError, match=reason):
        Series(options, CLASSES, SCORED).restore(damaged, arrays)


ARRAY_DAMAGES: dict[str, Callable[[dict[str, AnyArray]], object]] = {
    "a count of the archive": lambda arrays: arrays["archive_counts"].fill(-1),
    "a sum of the archive": lambda arrays: arrays["archive_sums"].fill(2**62),
    "a block begins out of range": lambda arrays: arrays["begins"].fill(-1),
    "a beginning is of no block": lambda arrays: np.add(arrays["begins"], [1, 0], out=arrays["begins"]),
    "or a block has none": lambda arrays: arrays.update(begins=arrays["begins"][:-1]),
    "there are too many blocks": lambda arrays: arrays.update(begins=np.zeros((5, 2), dtype=np.int64)),
    "instead of": lambda arrays: arrays.update(archive_counts=arrays["archive_counts"][1:]),
    "there are the arrays": lambda arrays: arrays.pop("archive_sums"),
    "nothing here has an array": lambda arrays: arrays.update({"other.keys": np.zeros(1)}),
    "keys are out of order": lambda arrays: arrays["panes.keys"].fill(3),
    "a key is out of range": lambda arrays: arrays.update({"panes.keys": arrays["panes.keys"] - 3}),
    "a count is negative": lambda arrays: arrays["blocks.counts"].fill(-1),
    "a sum is out of range": lambda arrays: arrays["arrival.sums"].fill(-(2**62)),
    "there are too many": lambda arrays: arrays.update(
        {f"arrival.{name}": arrays[f"panes.{name}"] for name in ("keys", "counts", "sums")}
    ),
}


@pytest.mark.parametrize("reason", ARRAY_DAMAGES)
def test_arrays_that_cannot_be_are_refused(reason: str) -> None:
    """Negative counts, sums beyond what adds up, keys out of order, other shapes, too much of anything."""
    plain, arrays = stored()
    Series(OPTIONS, CLASSES, SCORED).restore(plain, dict(arrays))
    ARRAY_DAMAGES[reason](arrays)
    with pytest.raises(ValueError, match=reason):
        Series(OPTIONS, CLASSES, SCORED).restore(plain, arrays)
