"""The join: a naive twin of plain lists, any cut into calls, growth, and state that comes back or is refused.

The kernels run through `LabelJoin`, which makes room for them as in production.
"""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.kernels import join as k
from worker.core.kernels.arrays import U64
from worker.core.options import PerformanceOptions
from worker.core.performance.label_join import BYTES_PER_ROW, LABEL_BYTES_PER_ROW, NO_BLOCK, Joined, LabelJoin
from worker.core.state import AnyArray

BEHIND_MS, DUE_MS = 30, 40
SMALL = PerformanceOptions(label_wait_max_ms=100, join_events_max=5, early_labels_max=3)
LARGE = PerformanceOptions(label_wait_max_ms=10_000_000, join_events_max=700, early_labels_max=400)


class Step(NamedTuple):
    """A prediction (maybe with its label) or a label."""

    is_label: bool
    key: int
    time_ms: int
    watermark_ms: int
    label: float
    kind: int


class Found(NamedTuple):
    """What became of a step that labelled an event."""

    step: int
    key: int
    time_ms: int
    label_ms: int
    label: tuple[float, int]
    replaced: tuple[float, int] | None


class Row:
    """A prediction or a label that waits, since which step; `told`: it was asked whether it has its label in time."""

    def __init__(self, number: int, key: int, time_ms: int, label: tuple[float, int] | None, label_ms: int) -> None:
        self.number, self.key, self.time_ms, self.label, self.label_ms = number, key, time_ms, label, label_ms
        self.told = False


class NaiveJoin:
    """The naive twin: two lists, searched from the front. A label that found its prediction leaves a gap (None)."""

    def __init__(self, options: PerformanceOptions) -> None:
        self.options = options
        self.waiting: list[Row] = []
        self.early: list[Row | None] = []
        self.clock = 0
        self.labels_ms = 0
        self.counters = [0] * k.COUNTERS
        self.found: list[Found] = []
        self.inserted: list[bool] = []
        self.due: list[tuple[int, int]] = []

    def take(self, number: int, step: Step) -> None:
        """Take a step."""
        if step.is_label:
            self._label(number, step)
        else:
            self._prediction(number, step)

    def _prediction(self, number: int, step: Step) -> None:
        before, self.clock = self.clock, step.watermark_ms
        if step.kind != k.NO_LABEL:
            self.labels_ms = max(self.labels_ms, step.time_ms)
        in_doubt = step.watermark_ms - step.time_ms > BEHIND_MS
        self.due.append((0, 0) if in_doubt else self._pass_time(min(before, self.clock)))
        same = next((row for row in self.waiting if row.key == step.key), None)
        self.inserted.append(same is None)
        own = None if step.kind == k.NO_LABEL else (step.label, step.kind)
        if same is not None:
            self.counters[k.DUPLICATE_PREDICTIONS] += 1
            if own is not None:
                self._relabel(number, same, own, step.time_ms)
            return
        if len(self.waiting) == self.options.join_events_max:
            self.counters[k.UNLABELLED_SIZE] += self.waiting.pop(0).label is None
        row = Row(number, step.key, step.time_ms, own, 0 if own is None else step.time_ms)
        self.waiting.append(row)
        for place, early in enumerate(self.early):
            if early is not None and early.key == step.key:
                if own is not None:
                    newer = k.CORRECTIONS if early.label_ms >= step.time_ms else k.OUTDATED_LABELS
                    self.counters[k.DUPLICATE_LABELS if own == early.label else newer] += 1
                if own is None or early.label_ms >= step.time_ms:
                    row.label, row.label_ms = early.label, early.label_ms
                self.early[place] = None
        if row.label is not None:
            self.found.append(Found(number, row.key, row.time_ms, row.label_ms, row.label, None))

    def _pass_time(self, now_ms: int) -> tuple[int, int]:
        asked = []
        wait_ms = self.options.label_wait_max_ms
        for row in self.waiting:
            if not row.told:
                if row.time_ms + DUE_MS >= min(now_ms, self.labels_ms):
                    break
                row.told = True
                asked.append(row)
        while self.waiting and self.waiting[0].time_ms + wait_ms < now_ms:
            self.counters[k.UNLABELLED_LATE] += self.waiting.pop(0).label is None
        while self.early:
            first = self.early[0]
            if first is not None:
                if first.label_ms + wait_ms >= now_ms:
                    break
                self.counters[k.LABEL_LATE] += 1
            self.early.pop(0)
        return len(asked), sum(row.label is not None for row in asked)

    def _label(self, number: int, step: Step) -> None:
        self.labels_ms = max(self.labels_ms, step.time_ms)
        label = (step.label, step.kind)
        for row in self.waiting:
            if row.key == step.key:
                self._relabel(number, row, label, step.time_ms)
                return
        for early in self.early:
            if early is not None and early.key == step.key:
                self._relabel(None, early, label, step.time_ms)
                return
        while self.early and self.early[0] is None:
            self.early.pop(0)
        if len(self.early) == self.options.early_labels_max:
            self.counters[k.LABEL_SIZE] += 1
            self.early.pop(0)
        self.early.append(Row(number, step.key, 0, label, step.time_ms))

    def _relabel(self, number: int | None, row: Row, label: tuple[float, int], time_ms: int) -> None:
        if row.label is not None and time_ms < row.label_ms:
            self.counters[k.DUPLICATE_LABELS if label == row.label else k.OUTDATED_LABELS] += 1
            return
        replaced, row.label_ms = row.label, time_ms
        if label == replaced:
            self.counters[k.DUPLICATE_LABELS] += 1
            return
        row.label = label
        self.counters[k.CORRECTIONS] += replaced is not None
        if number is not None:
            self.found.append(Found(number, row.key, row.time_ms, time_ms, label, replaced))


class Fed:
    """A join that was fed, and what it said."""

    def __init__(self, options: PerformanceOptions) -> None:
        self.join = LabelJoin(options, BEHIND_MS, 0)
        self.found: list[Found] = []
        self.inserted: list[bool] = []
        self.due: list[tuple[int, int]] = []

    def feed(self, steps: Sequence[Step], cuts: Sequence[int] = (), begin: int = 0) -> None:
        """Feed steps in calls of one sort each, cut at the given places as well, and where there is no more room."""
        ends = {*cuts, len(steps), *(n for n in range(1, len(steps)) if steps[n].is_label != steps[n - 1].is_label)}
        for end in sorted(end for end in ends if begin < end <= len(steps)):
            while begin < end:
                if steps[begin].is_label:
                    self._labels(steps[begin:end], begin)
                    begin = end
                else:
                    count = self.join.room(end - begin)
                    assert 0 < count <= end - begin
                    self._predictions(steps[begin : begin + count], begin)
                    begin += count

    def _predictions(self, part: Sequence[Step], begin: int) -> None:
        busy = set(LabelJoin._places(self.join._waiting).tolist())
        joined, slots, due = self.join.predictions(
            keys_of([step.key for step in part]),
            np.array([step.time_ms for step in part], dtype=np.int64),
            np.array([step.watermark_ms for step in part], dtype=np.int64),
            np.array([step.label for step in part]),
            np.array([step.kind for step in part], dtype=np.int8),
            DUE_MS,
        )
        used = slots[slots >= 0].tolist()
        assert len(set(used)) == len(used)
        assert busy.isdisjoint(used)
        columns = self.join.columns
        columns.offset[used] = begin + np.flatnonzero(slots >= 0)
        if columns.has_labels:
            columns.number[used], columns.lag_bucket[used], columns.blocks[used] = -1, 0, NO_BLOCK
        self._note(joined, part, begin)
        self.inserted += (slots >= 0).tolist()
        self.due += [(int(asked), int(had)) for asked, had in due]

    def _labels(self, part: Sequence[Step], begin: int) -> None:
        joined = self.join.labels(
            keys_of([step.key for step in part]),
            np.array([step.label for step in part]),
            np.array([step.kind for step in part], dtype=np.int8),
            np.array([step.time_ms for step in part], dtype=np.int64),
        )
        self._note(joined, part, begin)

    def _note(self, joined: Joined | None, part: Sequence[Step], begin: int) -> None:
        if joined is None:
            return
        for n, row in enumerate(joined.rows.tolist()):
            # Whatever left meanwhile: the slot still holds the event that was labelled.
            assert self.join.key(int(joined.slots[n])) == tuple(keys_of([part[row].key])[0].tolist())
            replaced = (float(joined.old_labels[n]), int(joined.old_kinds[n])) if joined.corrected[n] else None
            label = float(joined.labels[n]), int(joined.label_kinds[n])
            times = int(joined.times_ms[n]), int(joined.label_ms[n])
            self.found.append(Found(begin + row, part[row].key, *times, label, replaced))


def keys_of(keys: Sequence[int]) -> U64:
    """Keys whose places in the index are its last and first ones, so that runs of them go on behind its end."""
    halves = (0xFFFF_FFFF, 0xFFFF_FFFE, 0, 1)
    return np.array([[halves[key % 4] << 32 | key * 7919, key] for key in keys], dtype=np.uint64).reshape(-1, 2)


def naive(steps: Sequence[Step], options: PerformanceOptions) -> NaiveJoin:
    """The twin, fed."""
    twin = NaiveJoin(options)
    for number, step in enumerate(steps):
        twin.take(number, step)
    return twin


def assert_equals(fed: Fed, twin: NaiveJoin) -> None:
    """Compare what was said, what was counted, and what is kept."""
    assert fed.found == twin.found
    assert fed.inserted == twin.inserted
    assert fed.due == twin.due
    assert fed.join.counters.tolist() == twin.counters
    state = fed.join.state()
    rows = [(row.key, row.time_ms, row.label, row.label_ms) for row in twin.waiting]
    assert kept(state, "waiting") == rows
    assert state["clock"].tolist() == [sum(row.told for row in twin.waiting), twin.clock, twin.labels_ms]
    assert kept(state, "early") == [(row.key, 0, row.label, row.label_ms) for row in twin.early if row is not None]
    assert state["early.alive"].tolist() == [row is not None for row in twin.early]
    assert fed.join.waiting == len(twin.waiting)
    assert fed.join.early == sum(row is not None for row in twin.early)
    assert state["columns.offset"].tolist() == [row.number for row in twin.waiting]
    for row in twin.waiting:
        first, second = keys_of([row.key])[0].tolist()
        assert fed.join.key(fed.join.find((first, second))) == (first, second)


def kept(state: dict[str, AnyArray], part: str) -> list[tuple[int, int, tuple[float, int] | None, int]]:
    """The rows that are there: key, time, label, time of the label."""
    columns = [state[f"{part}.{name}"].tolist() for name in ("keys", "time_ms", "label", "kind", "label_ms", "alive")]
    return [
        (key[1], time_ms, None if kind == k.NO_LABEL else (label, kind), label_ms)
        for key, time_ms, label, kind, label_ms, alive in zip(*columns, strict=True)
        if alive
    ]


def fed(steps: Sequence[Step], options: PerformanceOptions, cuts: Sequence[int] = ()) -> Fed:
    """A join, fed."""
    out = Fed(options)
    out.feed(steps, cuts)
    return out


def copied(state: dict[str, AnyArray]) -> dict[str, AnyArray]:
    """A state that does not change with the join."""
    return {name: array.copy() for name, array in state.items()}


def assert_same_state(one: dict[str, AnyArray], other: dict[str, AnyArray]) -> None:
    """Compare states bit for bit."""
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert array.tobytes() == other[name].tobytes(), name


@st.composite
def streams(draw: st.DrawFn) -> list[Step]:
    """Streams of few keys on a clock that goes on, with late and early labels, leaps and set-backs of the watermark."""
    parts = draw(
        st.lists(
            st.tuples(
                st.booleans(),
                st.integers(0, 11),
                st.sampled_from([0, 1, 5, 20, 45]),
                st.sampled_from([0, 0, 0, -3, -29, -60, 15, -200]),
                st.sampled_from([0, 0, 0, 10, 31, 500, -50, -1000]),
                st.sampled_from([0.0, 1.0]),
                st.sampled_from([k.NO_LABEL, k.NO_LABEL, 0, 1]),
            ),
            max_size=60,
        )
    )
    now, steps = 2_000, []
    for is_label, key, later, shift, leap, label, kind in parts:
        now += later
        kind_of_it = max(kind, 0) if is_label else kind
        value = 0.0 if kind_of_it == k.NO_LABEL else label
        steps.append(Step(is_label, key, now + shift, now + leap, value, kind_of_it))
    return steps


@given(steps=streams(), cuts=st.lists(st.integers(0, 60), max_size=6))
@settings(max_examples=500, deadline=None)
def test_equals_its_naive_twin_in_any_cut(steps: list[Step], cuts: list[int]) -> None:
    """What is joined, corrected, counted, let go and kept is what the twin says, and cuts change no bit of it."""
    twin, whole, parts = naive(steps, SMALL), fed(steps, SMALL), fed(steps, SMALL, cuts)
    assert_equals(whole, twin)
    assert_equals(parts, twin)
    assert_same_state(whole.join.state(), parts.join.state())


@pytest.mark.parametrize(
    ("early_ms", "own", "expected"),
    [
        (1_999, 1.0, 1.0),
        (2_000, 1.0, 0.0),
        (2_001, 1.0, 0.0),
        (1_999, None, 0.0),
    ],
)
def test_a_label_inside_a_prediction_is_as_old_as_it(early_ms: int, own: float | None, expected: float) -> None:
    """An early label of the same time or later holds against it, one from before does not: the latest label wins."""
    inside = prediction(1) if own is None else prediction(1)._replace(label=own, kind=0)
    early = prediction(1)._replace(is_label=True, time_ms=early_ms, kind=0)
    found = fed([early, inside], SMALL).found
    assert [each.label for each in found] == [(expected, 0)]
    assert found == naive([early, inside], SMALL).found


def test_an_early_label_waits_as_long_as_a_prediction() -> None:
    """100 ms after its own time it is still there, a millisecond later it is gone and counted."""
    early = prediction(1)._replace(is_label=True, time_ms=2_000, kind=0)
    for now_ms, left in ((2_100, 0), (2_101, 1)):
        # The clock is the watermark as it was before a prediction.
        later = [prediction(key)._replace(time_ms=now_ms, watermark_ms=now_ms) for key in (2, 3)]
        join = fed([early, *later], SMALL).join
        assert (join.early, join.counters[k.LABEL_LATE]) == (1 - left, left)


def test_nothing_is_let_go_while_the_watermark_is_in_doubt() -> None:
    """Events 30 ms behind it confirm it; those 31 ms behind let nothing go, however long it waited."""
    for behind_ms, waiting in ((30, 2), (31, 3)):
        later = [prediction(key)._replace(time_ms=9_000, watermark_ms=9_000 + behind_ms) for key in (2, 3)]
        assert fed([prediction(1), *later], SMALL).join.waiting == waiting


def busy_stream(seed: int, count: int, keys: int) -> list[Step]:
    """A long stream in runs of one sort, so that calls are long, too."""
    rng = random.Random(seed)
    steps, now, is_label = [], 10_000, False
    for _ in range(count):
        now += rng.randrange(3)
        is_label = is_label if rng.random() < 0.99 else not is_label
        kind = 0 if is_label or rng.random() < 0.05 else k.NO_LABEL
        label = float(rng.randrange(3)) if kind == 0 else 0.0
        steps.append(Step(is_label, rng.randrange(keys), now - rng.randrange(5), now, label, kind))
    return steps


@pytest.mark.parametrize(("seed", "keys"), [(0, 300), (1, 3_000), (2, 3_000)])
def test_rings_grow_as_they_must(seed: int, keys: int) -> None:
    """From 64 rows to their bounds nothing is lost, in calls of any length, and twice as much is never allocated."""
    steps = busy_stream(seed, 6_000, keys)
    twin, whole = naive(steps, LARGE), fed(steps, LARGE)
    singly = fed(steps, LARGE, range(len(steps)))
    assert_equals(whole, twin)
    assert_equals(singly, twin)
    assert_same_state(whole.join.state(), singly.join.state())
    assert len(whole.join._waiting.keys) <= 1024
    assert len(whole.join._early.keys) <= 512
    if keys > 1_000:
        assert len(twin.waiting) == LARGE.join_events_max
        assert twin.counters[k.LABEL_SIZE] > 0


def test_what_labels_need_has_room_from_the_first_one_on() -> None:
    """Rows that were there before have no label, no lag and no block; where nobody is labelled there is no room."""
    join = LabelJoin(LARGE, BEHIND_MS, 1)
    times = np.full(100, 1_000)
    nothing, none = np.zeros(100), np.full(100, k.NO_LABEL, dtype=np.int8)
    assert join.room(100) == 100
    join.predictions(keys_of(list(range(100))), times, times, nothing, none, DUE_MS)
    before, without = join.bytes, copied(join.state())
    join.begin_labels()
    assert_same_state(join.state(), without)
    assert join.bytes >= before + 100 * LABEL_BYTES_PER_ROW
    restored = LabelJoin(LARGE, BEHIND_MS, 1)
    restored.restore(without, 0)
    assert not restored.columns.has_labels
    joined = restored.labels(keys_of([7]), np.ones(1), np.zeros(1, dtype=np.int8), times[:1])
    assert joined is not None
    assert restored.columns.blocks[joined.slots].tolist() == [[NO_BLOCK, NO_BLOCK]]
    assert restored.columns.number[joined.slots].tolist() == [-1]


@given(steps=streams(), cut=st.integers(0, 60))
@settings(max_examples=150, deadline=None)
def test_a_restored_join_goes_on_as_if_nothing_had_happened(steps: list[Step], cut: int) -> None:
    """State that is taken back is the same state, and what comes after is the same to the last bit."""
    cut = min(cut, len(steps))
    before = fed(steps[:cut], SMALL)
    after = Fed(SMALL)
    after.join.restore(copied(before.join.state()), 0)
    assert_same_state(after.join.state(), before.join.state())
    for each in (before, after):
        each.found.clear()
        each.feed(steps, begin=cut)
    assert after.found == before.found
    assert_same_state(after.join.state(), before.join.state())


def prediction(key: int) -> Step:
    """A prediction without a label."""
    return Step(is_label=False, key=key, time_ms=2_000, watermark_ms=2_000, label=0.0, kind=k.NO_LABEL)


def stored() -> dict[str, AnyArray]:
    """A state of three predictions, of which one has a label, and of two early labels."""
    steps = [prediction(key) for key in (1, 2, 3)]
    steps += [prediction(key)._replace(is_label=True, time_ms=2_001, label=1.0, kind=1) for key in (2, 8, 9)]
    source = fed(steps, SMALL)
    source.join.columns.widen(2)
    source.join.columns.probabilities[:2] = 0.25, 0.75
    return copied(source.join.state())


def test_the_state_to_be_damaged_is_sound() -> None:
    """Without damage it is taken back, with its probabilities."""
    join = LabelJoin(SMALL, BEHIND_MS, 0)
    join.restore(stored(), 2)
    assert (join.waiting, join.early) == (3, 2)
    np.testing.assert_array_equal(join.columns.probabilities[:3, 0], [0.25, 0.25, np.nan])


DAMAGES: dict[str, tuple[str, Any, Any]] = {
    "twice": ("waiting.keys", (0,), keys_of([2])[0]),
    "early twice": ("early.keys", (0,), keys_of([9])[0]),
    "kind of a label": ("waiting.kind", 0, 3),
    "kind of an early label": ("early.kind", 0, 3),
    "no early label": ("early.kind", 0, k.NO_LABEL),
    "label that is not finite": ("waiting.label", 1, np.inf),
    "boolean label of 7": ("early.label", 0, 7.0),
    "time": ("waiting.time_ms", 0, -1),
    "time of a label": ("early.label_ms", 0, 2**60),
    "gap": ("waiting.alive", 1, False),
    "kind of a prediction": ("columns.prediction_kind", 0, -1),
    "prediction that is not finite": ("columns.prediction", 0, np.nan),
    "lag": ("columns.lag_bucket", 2, 297),
    "negative lag": ("columns.lag_bucket", 2, -1),
    "probability": ("columns.probabilities", (0, 1), 1.5),
    "negative probability": ("columns.probabilities", (0, 0), -0.1),
    "half a row of probabilities": ("columns.probabilities", (0, 1), np.nan),
    "counter": ("counters", 0, -1),
    "due": ("clock", 0, 4),
    "watermark": ("clock", 1, -1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_values_are_refused(damage: str) -> None:
    """What kernels rely on is checked: nothing is there twice, kinds, times, lags and probabilities are in range."""
    state = stored()
    name, place, value = DAMAGES[damage]
    state[name][place] = value
    with pytest.raises(ValueError, match="stored join: "):
        LabelJoin(SMALL, BEHIND_MS, 0).restore(state, 2)


@pytest.mark.parametrize("name", sorted(stored()))
def test_damaged_shapes_are_refused(name: str) -> None:
    """An array that is missing, too short, of another type or no list at all is refused, and so is one too many."""
    for wrong in (None, stored()[name][:-1], stored()[name].astype(np.float32), stored()[name].sum()):
        state = stored()
        del state[name]
        if wrong is not None:
            state[name] = np.asarray(wrong)
        with pytest.raises(ValueError, match="stored join: "):
            LabelJoin(SMALL, BEHIND_MS, 0).restore(state, 2)
    with pytest.raises(ValueError, match="nothing here has an array"):
        LabelJoin(SMALL, BEHIND_MS, 0).restore(stored() | {"other": np.zeros(1)}, 2)


def test_more_than_there_may_be_is_refused() -> None:
    """A state of larger bounds does not pass for one of smaller ones, nor one with other columns."""
    with pytest.raises(ValueError, match="too many rows"):
        LabelJoin(PerformanceOptions(join_events_max=2), BEHIND_MS, 0).restore(stored(), 2)
    with pytest.raises(ValueError, match="too many rows"):
        LabelJoin(PerformanceOptions(early_labels_max=1), BEHIND_MS, 0).restore(stored(), 2)
    for probabilities, segments in ((3, 0), (2, 1)):
        with pytest.raises(ValueError, match="stored join: "):
            LabelJoin(SMALL, BEHIND_MS, segments).restore(stored(), probabilities)


def test_probabilities_of_new_classes() -> None:
    """Rows that had some give a new class 0; rows that had none still have none."""
    columns = LabelJoin(SMALL, BEHIND_MS, 0).columns
    columns.widen(1)
    assert np.isnan(columns.probabilities).all()
    columns.probabilities[1] = 0.4
    columns.widen(3)
    columns.widen(2)
    np.testing.assert_array_equal(columns.probabilities[1], [0.4, 0.0, 0.0])
    assert np.isnan(columns.probabilities[0]).all()


def test_bytes_are_those_of_the_rows() -> None:
    """Room for so many more predictions takes so many times the bytes of a row, as documented."""
    few, many = (fed([prediction(key) for key in range(count)], PerformanceOptions()).join for count in (64, 400))
    rows = len(many._waiting.keys) - len(few._waiting.keys)
    assert rows > 300
    assert (many.bytes - few.bytes) / rows == pytest.approx(BYTES_PER_ROW, abs=0.1)
